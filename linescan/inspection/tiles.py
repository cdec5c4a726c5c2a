"""Long rows in pieces that stay in a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE_COLUMNS = 512


def by_columns(compute: Callable[..., Tensor], maps: tuple[Tensor, ...], reach: int) -> Tensor:
    """`compute(*maps)` of ...×H×W maps, done in pieces of TILE_COLUMNS output columns on a CPU.

    `compute` loses `reach` columns on each side and treats every pixel alike, so the pieces do not show in the result.
    """
    width = maps[0].shape[-1] - 2 * reach
    if maps[0].device.type != "cpu" or width <= TILE_COLUMNS:
        return compute(*maps)
    pieces = []
    for first in range(0, width, TILE_COLUMNS):
        count = min(TILE_COLUMNS, width - first) + 2 * reach
        pieces.append(compute(*(part.narrow(-1, first, count) for part in maps)))
    return torch.cat(pieces, -1)
