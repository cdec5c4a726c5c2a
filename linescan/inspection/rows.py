"""A sliding window of rows: what came lately, by row number."""

from __future__ import annotations

import torch
from torch import Tensor

from linescan.inspection.patches import reflected, take


class Rows:
    """Consecutive rows of maps, numbered in the segment; old ones are dropped from the front."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._chunks: list[Tensor] = []
        self.end = first

    def __len__(self) -> int:
        """Rows that it holds."""
        return self.end - self.first

    def append(self, rows: Tensor) -> None:
        if rows.shape[-2]:
            self._chunks.append(rows)
            self.end += rows.shape[-2]

    def all(self) -> Tensor:
        if len(self._chunks) > 1:
            self._chunks = [torch.cat(self._chunks, -2)]
        return self._chunks[0]

    def get(self, first: int, end: int) -> Tensor:
        """Rows first…end−1, reflected at row 0 and, for a finished segment, at its last row."""
        if first >= 0 and end <= self.end:
            return self.all().narrow(-2, first - self.first, end - first)
        return take(self.all(), -2, [i - self.first for i in reflected(first, end, self.end)])

    def drop_before(self, row: int) -> None:
        if row > self.first and self._chunks:
            row = min(row, self.end)
            # a copy, since a view would keep the whole past in memory
            self._chunks = [self.all()[..., row - self.first :, :].clone()]
            self.first = row
