"""One segment from both ends: its lines go to the device in front, what was found in them is told behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from linescan.inspection.bands import Band
from linescan.inspection.found import Found
from linescan.inspection.lines import to_unit
from linescan.inspection.placement import Placement
from linescan.inspection.queues import Queues
from linescan.inspection.reconstruction import Reconstructed
from linescan.inspection.regions import Labeller
from linescan.inspection.scaling import LineScaler
from linescan.inspection.segment import Segment


@dataclass(frozen=True)
class Raw:
    """What raw lines are: the columns of them that are inspected, their depth, and their 1/n."""

    columns: slice
    bit_depth: int
    scale: int


class Running:
    """A segment that runs.

    Args:
        place, labeller: for what is told; the labeller's row is how far that is.
        segment: makes what computes; in the compute queue, as all that it does.
    """

    def __init__(
        self, queues: Queues, raw: Raw, place: Placement, labeller: Labeller, segment: Callable[[], Segment]
    ) -> None:
        self.place = place
        self.labeller = labeller
        self.lines = 0  # raw lines that went in
        self.scaler = LineScaler(raw.scale)
        self._queues = queues
        self._raw = raw
        self._segment = queues.submit("compute", segment)

    @property
    def segment(self) -> Segment:
        """For work in the compute queue."""
        return self._segment.value

    def push(self, lines: Tensor) -> Found:
        """Takes C×N×W raw integers; gives the bands that they complete."""
        self.lines += lines.shape[1]
        if self._queues.apart:
            return self._found(lambda: self.segment.push(self._scaled(lines)))
        scaled = self._scaled(lines)  # now, since the lines are the caller's memory
        return self._found(lambda: self.segment.push(scaled))

    def end(self) -> Found:
        """No more lines come; gives the last bands."""
        return self._found(self._end)

    def _found(self, reconstruct: Callable[[], list[Reconstructed]]) -> Found:
        return Found(self._queues, reconstruct, self._score)

    def _score(self, parts: list[Reconstructed]) -> list[Band]:
        return self.segment.score(parts)

    def _scaled(self, lines: Tensor) -> Tensor:
        return self.scaler.push(to_unit(lines[..., self._raw.columns].to(self._queues.device), self._raw.bit_depth))

    def _end(self) -> list[Reconstructed]:
        rest = self.scaler.finish()
        parts = [] if rest is None else self.segment.push(rest)
        return parts + self.segment.finish()
