"""How bright the web is, slowly averaged: a lamp that ages or a lens that gets dirty is seen before it matters."""

from __future__ import annotations

from torch import Tensor

MEMORY_LINES = 4096  # a line counts e times less after so many others
ENOUGH_LINES = 1024  # before, a mean says little


class Brightness:
    """Mean over lines, exponentially forgetting; only for a status, so that the portions may show in its last bits."""

    def __init__(self) -> None:
        self._lines = 0
        self._mean = 0.0

    def add(self, means: Tensor) -> None:
        """Takes the mean brightness of each of some lines, N in [0, 1]."""
        count = len(means)
        if not count:
            return
        self._lines += count
        self._mean += (float(means.mean()) - self._mean) * min(1.0, count / min(self._lines, MEMORY_LINES))

    @property
    def mean(self) -> float | None:
        """In [0, 1]; None until enough lines came."""
        return self._mean if self._lines >= ENOUGH_LINES else None
