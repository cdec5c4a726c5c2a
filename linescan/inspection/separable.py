"""Windows over whole rows on a CPU, by OpenCV: pieces of rows, on as many threads as torch has.

A row comes out with the same bits wherever the rows were cut. Columns are not cut: OpenCV's vector loop rounds
otherwise than its scalar tail, and where that begins depends on the columns. Its box filter is no use here, since the
rounding of running sums depends on the row that they began with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.inspection.threads import shared_out

Floats = NDArray[np.float32]
PIECE_PIXELS = 1 << 17  # of a piece whose halo is small: its maps stay in a core's cache
LEAST_ROWS = 32  # of a piece
LEAST_REACHES = 4  # of its rows, since each piece computes those of its halo once more


def on_cpu(maps: Tensor) -> bool:
    """Whether these maps are where OpenCV reaches them."""
    return maps.device.type == "cpu"


def filtered(image: Floats, weights: tuple[float, ...], reflecting: bool = False) -> Floats:
    """H×W under a symmetric separable filter where it fits: (H−2r)×(W−2r) for 2r+1 weights, a view.

    Where it is `reflecting`, (H−2r)×W: beyond the first and the last column the image is reflected.
    """
    kernel, reach = _kernel(weights), len(weights) // 2
    border = cv2.BORDER_REFLECT_101 if reflecting else cv2.BORDER_REPLICATE
    wide = cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel, borderType=border)
    columns = slice(None) if reflecting else slice(reach, image.shape[1] - reach)
    inside: Floats = wide[reach : image.shape[0] - reach, columns]  # type: ignore[assignment]
    return inside


def by_rows(compute: Callable[..., Floats], maps: tuple[Tensor, ...], reach: int, reflecting: bool = False) -> Tensor:
    """`compute(*maps)` of ...×H×W maps on a CPU, done in pieces of rows at once: (H−2·reach)×(W−2·reach).

    `compute` takes arrays, gives H'×W' and loses `reach` rows and, unless it is `reflecting`, columns on each side.
    """
    arrays = [part.numpy() for part in maps]
    height, width = (size - 2 * reach for size in arrays[0].shape[-2:])
    width += 2 * reach if reflecting else 0
    threads = torch.get_num_threads()
    small = max(PIECE_PIXELS // width, LEAST_ROWS, LEAST_REACHES * reach)
    rows = -(-height // -(-height // small))
    out = np.empty((height, width), np.float32)

    def one(first: int) -> None:
        end = min(first + rows, height)
        out[first:end] = compute(*(part[..., first : end + 2 * reach, :] for part in arrays))

    starts = range(0, height, rows)
    shared_out(one, starts, min(threads, len(starts)), "rows")
    return torch.from_numpy(out)


@lru_cache(maxsize=64)
def _kernel(weights: tuple[float, ...]) -> Floats:
    return np.array(weights, np.float32)
