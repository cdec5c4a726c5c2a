"""What was found in a roll, told in order as it comes from the device; how far the inspection is by that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linescan.config import InspectionSettings
from linescan.inspection.bands import Band
from linescan.inspection.found import BandFound, Found
from linescan.inspection.gate import Stretch
from linescan.inspection.placement import Footprint
from linescan.inspection.running import Running
from linescan.inspection.segment import first_row_needed
from linescan.messages import Gap, GapCause, Region

Finding = Region | Gap


@dataclass(frozen=True)
class FinalBand:
    """A band with its place on the web: scaled row i covers raw lines first_line + i·n … (its last row maybe fewer)."""

    first_line: int
    end_line: int
    band: Band


@dataclass(frozen=True)
class _UnderWay:
    """Something that is told in its turn: at once, or when the device has it."""

    ready: Callable[[], bool]
    tell: Callable[[], list[Finding]]


class Telling:
    """Keeps what is under way in order, and the account of what was told.

    Args:
        on_band: told of every final band.
    """

    def __init__(
        self, settings: InspectionSettings, footprint: Footprint, on_band: Callable[[FinalBand], None] | None
    ) -> None:
        self._settings, self._footprint, self._on_band = settings, footprint, on_band
        self._under_way: deque[_UnderWay] = deque()
        self.running: Running | None = None
        self.finished_up_to = 0  # everything before it is final or in an announced gap, outside the running segment
        self.valid = True  # the gate's verdict
        self.lines_in_gaps = 0

    @property
    def inspected_up_to(self) -> int:
        """First line that is neither final nor in an announced gap."""
        if self.running is None:
            return self.finished_up_to
        return self.running.place.raw_line(self.running.labeller.decided_up_to)

    @property
    def resume_from(self) -> int:
        """First raw line that is needed to go on from here."""
        if self.running is None:
            return self.finished_up_to
        row = first_row_needed(self._settings, self.running.labeller.row)
        return self.running.place.first_line + row * self._settings.scale

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def tell(self, waiting: int = 0) -> list[Finding]:
        """Tells what is ready, in order; waits for all but so many."""
        findings: list[Finding] = []
        while self._under_way and (len(self._under_way) > waiting or self._under_way[0].ready()):
            findings += self._under_way.popleft().tell()
        return findings

    # ------------------------------------------------------------------------------------------ in its turn

    def begin(self, running: Running) -> None:
        """A segment begins."""
        self._later(lambda: self._tell_begin(running))

    def bands(self, running: Running, found: Found) -> None:
        """Bands of the segment."""
        self._later(lambda: self._tell_bands(running, found.take()), found.ready)

    def end(self, running: Running, found: Found) -> None:
        """The last bands of the segment, and its end."""
        self._later(lambda: self._tell_end(running, found), found.ready)

    def invalid(self, stretch: Stretch) -> None:
        """Lines that cannot be inspected."""
        self._later(lambda: self._tell_invalid(stretch))

    def _later(self, tell: Callable[[], list[Finding]], ready: Callable[[], bool] = lambda: True) -> None:
        self._under_way.append(_UnderWay(ready, tell))

    # ------------------------------------------------------------------------------------------ told

    def gap(self, first: int, last: int, cause: GapCause, estimated: bool = False) -> Gap:
        """The event for lines that are not inspected."""
        self.lines_in_gaps += last - first + 1
        if self.running is None:
            self.finished_up_to = last + 1
        return Gap(self._footprint.camera, self._footprint.roll, first, last, cause, estimated)

    def _tell_begin(self, running: Running) -> list[Finding]:
        self.running, self.valid = running, True
        return []

    def _tell_invalid(self, stretch: Stretch) -> list[Finding]:
        self.valid = False
        return [self.gap(stretch.first_line, stretch.first_line + stretch.count - 1, "invalid-image")]

    def _tell_bands(self, running: Running, bands: list[BandFound]) -> list[Finding]:
        findings: list[Finding] = []
        for band, opened, faulty, score in bands:
            findings += self._faulty_lines(running, band.row, faulty)
            findings += [running.place.region(item) for item in running.labeller.push(opened, score)]
            if self._on_band is not None:
                first, end = band.row, band.row + len(opened)
                self._on_band(FinalBand(running.place.raw_line(first), running.place.raw_line(end), band))
        return findings

    def _faulty_lines(self, running: Running, row: int, faulty: NDArray[np.bool_]) -> list[Finding]:
        edges = np.flatnonzero(np.diff(faulty, prepend=False, append=False)).tolist()
        return [
            self.gap(running.place.raw_line(row + first), running.place.raw_line(row + end) - 1, "model-fault")
            for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]

    def _tell_end(self, running: Running, found: Found) -> list[Finding]:
        # a resumed segment may end before it was fed up to where the first run was
        running.place.height = max(running.lines, running.labeller.row * self._settings.scale)
        findings = self._tell_bands(running, found.take())
        findings += [running.place.region(item) for item in running.labeller.finish()]
        self.finished_up_to = running.place.raw_line(running.labeller.row)
        self.running = None
        fed = running.place.first_line + running.lines
        if fed > self.finished_up_to:
            findings.append(self.gap(self.finished_up_to, fed - 1, "worker-lost"))
        return findings
