"""Scaling of a stream of lines by 1/n, its phase anchored to the segment's first line."""

from __future__ import annotations

import torch
from torch import Tensor

from linescan.inspection.lines import area_average


class LineScaler:
    """C×N×W lines in any portions → the C×⌊N/n⌋×⌈W/n⌉ rows that they complete; the rest waits for more."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._rest: Tensor | None = None

    def push(self, unit: Tensor) -> Tensor:
        if self._n == 1:
            return unit
        lines = unit if self._rest is None else torch.cat([self._rest, unit], -2)
        whole = lines.shape[-2] // self._n * self._n
        self._rest = lines[..., whole:, :].clone()
        return area_average(lines[..., :whole, :], self._n)

    def finish(self) -> Tensor | None:
        """The last partial row, averaged over the lines it has."""
        if self._rest is None or not self._rest.shape[-2]:
            return None
        return area_average(self._rest, self._n)
