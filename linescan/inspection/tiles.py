"""Long rows in pieces that stay in a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE_PIXELS = 1 << 18  # of a piece: fewer, and the calls cost more than the cache saves
TILE_COLUMNS = 512  # at least


def by_columns(compute: Callable[..., Tensor], maps: tuple[Tensor, ...], reach: int) -> Tensor:
    """`compute(*maps)` of ...×H×W maps, done on a CPU in pieces of about TILE_PIXELS pixels, all rows of some columns.

    `compute` loses `reach` columns on each side and treats every pixel alike, so the pieces do not show in the result.
    """
    width = maps[0].shape[-1] - 2 * reach
    columns = max(TILE_PIXELS // maps[0].shape[-2], TILE_COLUMNS)
    if maps[0].device.type != "cpu" or width <= columns:
        return compute(*maps)
    pieces = []
    for first in range(0, width, columns):
        count = min(columns, width - first) + 2 * reach
        pieces.append(compute(*(part.narrow(-1, first, count) for part in maps)))
    return torch.cat(pieces, -1)
