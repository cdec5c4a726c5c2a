"""Raw camera lines as the engine sees them: [0, 1], C×H×W, scaled by 1/n."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def channels_first(pixels: Pixels) -> Tensor:
    """lines×columns or lines×columns×C pixels as a C×lines×columns tensor of the same integers."""
    # torch computes little with uint16
    wide = pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels
    # torch refuses to share memory that is read-only, as a camera's buffers are
    raw = torch.from_numpy(np.require(wide, requirements=["C", "W"]))
    return raw.unsqueeze(0) if raw.ndim == 2 else raw.permute(2, 0, 1)


def to_unit(raw: Tensor, bit_depth: int) -> Tensor:
    """Integers of `bit_depth` bits as float32 in [0, 1]."""
    return raw.to(torch.float32) / float(2**bit_depth - 1)


def area_average(unit: Tensor, n: int) -> Tensor:
    """C×H×W reduced by 1/n: each n×n block's mean; a last partial row or column averages what it has.

    The block is summed in one fixed order, so that a row's value does not depend on how many rows come with it.
    """
    if n == 1:
        return unit
    return _average_along(_average_along(unit, n, -2), n, -1)


def _average_along(unit: Tensor, n: int, dim: int) -> Tensor:
    size = unit.shape[dim]
    whole, rest = divmod(size, n)
    parts: list[Tensor] = [] if size else [unit]
    if whole:
        parts.append(_block_mean(unit.narrow(dim, 0, whole * n), n, dim))
    if rest:
        parts.append(_block_mean(unit.narrow(dim, whole * n, rest), rest, dim))
    return torch.cat(parts, dim)


def _block_mean(maps: Tensor, n: int, dim: int) -> Tensor:
    every_nth: list[slice] = [slice(None)] * maps.ndim
    total: Tensor | None = None
    for i in range(n):
        every_nth[dim] = slice(i, None, n)
        part = maps[tuple(every_nth)]
        total = part if total is None else total + part
    assert total is not None
    return total / n
