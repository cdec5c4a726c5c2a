"""What the tests of the inspection core share: toy models, rolls, and a run that checks the invariants at each push."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from linescan.config import InspectionSettings
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.inspector import FinalBand, Finding, Inspector
from linescan.inspection.placement import Footprint
from linescan.inspection.reconstruction import Fill, Take
from linescan.inspection.threads import shared_out
from linescan.messages import Gap, Region
from tests import reference

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Model = Callable[[torch.Tensor], torch.Tensor]

# ------------------------------------------------------------------------------------------------ toy models


def ramp(patches: torch.Tensor) -> torch.Tensor:
    """Less contrast, and an error that depends on the place in the patch, so that the blending matters."""
    p = patches.shape[-1]
    place = torch.arange(p * p, dtype=torch.float32).reshape(p, p) / (p * p)
    return patches * (0.4 + 0.5 * place) + 0.3 * (1 - place.T)


def nothing(patches: torch.Tensor) -> torch.Tensor:
    """All black: with method l2 the score is the web's brightness squared, pixel by pixel."""
    return torch.zeros_like(patches)


def convolutions(channels: int) -> Model:
    """A small random net, patch by patch: a batch of another size may give other bits, which is the runner's matter."""
    generator = torch.Generator().manual_seed(7)
    into = torch.randn(4, channels, 3, 3, generator=generator) * 0.5
    out = torch.randn(channels, 4, 3, 3, generator=generator) * 0.5

    def net(patch: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(torch.nn.functional.conv2d(patch, into, padding=1))
        return torch.nn.functional.conv2d(hidden, out, padding=1)

    return lambda patches: torch.cat([net(patch[None].clone()) for patch in patches])


class SideBySide:
    """A model that has its patches filled in and taken on threads of its own, some at a time."""

    AT_ONCE = 2

    def __init__(self, model: Model, shape: tuple[int, int, int]) -> None:
        self._model, self._shape = model, shape

    def reconstruct(self, count: int, fill: Fill, take: Take) -> None:
        def some(first: int) -> None:
            with torch.inference_mode():  # as a Runner
                patches = torch.empty(min(self.AT_ONCE, count - first), *self._shape)
                fill(first, patches)
                take(first, patches, self._model(patches))
                patches.fill_(float("nan"))  # they are overwritten afterwards

        shared_out(some, range(0, count, self.AT_ONCE), 2)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        return self._model(patches)


# ------------------------------------------------------------------------------------------------ rolls


@dataclass(frozen=True)
class Lost:
    """A stretch of a roll that the camera never delivered."""

    lines: int


Roll = list[Pixels | Lost]


def length(part: Pixels | Lost) -> int:
    return part.lines if isinstance(part, Lost) else len(part)


@dataclass(frozen=True)
class Case:
    """A roll and everything that decides what is found in it."""

    settings: InspectionSettings
    footprint: Footprint
    roll: Roll
    model: Model = ramp
    calibration: ColumnCalibration | None = None

    @property
    def lines(self) -> int:
        return sum(length(part) for part in self.roll)

    def segments(self) -> Iterator[tuple[int, Pixels]]:
        """(first line, lines) between the gaps."""
        first = 0
        for part in self.roll:
            if not isinstance(part, Lost):
                yield first, part
            first += length(part)

    def inspector(self, record: Record, snapshot: bytes | None = None) -> Inspector:
        return Inspector(
            self.settings, self.footprint, self.model, calibration=self.calibration, on_band=record.bands.append,
            snapshot=snapshot,
        )  # fmt: skip

    def whole(self, exact: bool = True) -> list[tuple[int, reference.Whole]]:
        """(first line, reference) of each segment."""
        return [
            (
                first,
                reference.inspect(
                    lines, self.settings, self.model, bit_depth=self.footprint.bit_depth, calibration=self.calibration,
                    exact=exact,
                ),
            )
            for first, lines in self.segments()
        ]  # fmt: skip

    def pending_bound(self) -> int:
        """Most lines that may be pending after a push, unless a flood of regions is coalesced.

        Scaled rows: the patch that waits for its last line, the stride, the halo, and a candidate region that is still
        too small to be told (8-connected, so no longer than its area; or too short). Raw lines: the scaler's rest, and
        the gate's lines whose verdict is open, with a piece of a gap before them.
        """
        settings, n = self.settings, self.settings.scale
        least = max(-(-settings.min_area_px // n**2), -(-settings.min_length_px // n))
        rows = settings.patch_size + settings.stride - 1 + reference.halo(settings) + least - 1
        return rows * n + n - 1 + 2 * (settings.band.lines - 1)


# ------------------------------------------------------------------------------------------------ runs


@dataclass
class Record:
    """All that an Inspector said."""

    findings: list[Finding] = field(default_factory=list)
    bands: list[FinalBand] = field(default_factory=list)

    @property
    def regions(self) -> list[Region]:
        return [finding for finding in self.findings if isinstance(finding, Region)]

    @property
    def gaps(self) -> list[Gap]:
        return [finding for finding in self.findings if isinstance(finding, Gap)]

    @property
    def final_regions(self) -> list[Region]:
        """Closed for good: neither cut into parts nor merged into another."""
        return [region for region in self.regions if region.phase == "close" and region.merged_into is None]

    def plain_bands(self) -> list[tuple[object, ...]]:
        """Bands as values that compare bit for bit."""
        return [
            (
                band.first_line, band.end_line, band.band.row,
                *(
                    (tuple(maps.shape), maps.contiguous().numpy().tobytes())
                    for maps in (
                        band.band.web, band.band.reconstruction, band.band.score, band.band.opened,
                        band.band.inspected, band.band.faulty,
                    )
                ),
            )
            for band in self.bands
        ]  # fmt: skip


def feed(inspector: Inspector, roll: Roll, heights: Iterable[int], start: int = 0) -> Iterator[list[Finding]]:
    """Pushes the roll from line `start` in frames of the given heights (the last one repeats); yields what comes."""
    cuts, height, first = iter(heights), 1, 0
    for part in roll:
        end = first + length(part)
        if isinstance(part, Lost):
            if end > start:
                yield inspector.push_gap(end - 1, "camera-lost")
        else:
            line = max(first, start)
            while line < end:
                height = next(cuts, height)
                frame = part[line - first : line - first + height].copy()
                findings = inspector.push(frame, line)
                frame[:] = 0  # a camera uses its buffers again
                yield findings
                line += height
        first = end


def run(case: Case, heights: Iterable[int]) -> Record:
    """The whole roll through one Inspector, the invariants checked after each push."""
    record = Record()
    inspector = case.inspector(record)
    check = Checker(case, inspector)
    for findings in feed(inspector, case.roll, heights):
        record.findings += findings
        check(findings)
    findings = inspector.finish()
    record.findings += findings
    check(findings)
    check.end(record)
    return record


class Checker:
    """Accounting, finality and the order of a region's phases, from outside."""

    def __init__(self, case: Case, inspector: Inspector) -> None:
        self._case = case
        self._inspector = inspector
        self._inspected_up_to = inspector.inspected_up_to
        self._gap_end = 0
        self._part_closed: dict[str, tuple[int, bool]] = {}  # id → last part, whether it is closed
        self._merged: set[str] = set()

    def __call__(self, findings: list[Finding]) -> None:
        self._accounts()
        for finding in findings:
            if isinstance(finding, Gap):
                self._gap(finding)
            else:
                self._region(finding)
        self._inspected_up_to = self._inspector.inspected_up_to

    def _accounts(self) -> None:
        inspector = self._inspector
        counts = inspector.lines_inspected, inspector.lines_in_gaps, inspector.lines_pending
        assert min(counts) >= 0
        assert sum(counts) == inspector.lines_scanned
        assert inspector.inspected_up_to >= self._inspected_up_to
        assert inspector.lines_pending <= self._case.pending_bound()
        assert inspector.resume_from <= inspector.lines_scanned

    def _gap(self, gap: Gap) -> None:
        assert self._gap_end <= gap.first_line <= gap.last_line
        assert gap.first_line >= self._inspected_up_to
        self._gap_end = gap.last_line + 1

    def _region(self, region: Region) -> None:
        part, closed = self._part_closed.get(region.id, (-1, True))
        if region.phase == "open":
            assert (part, closed) == (region.part - 1, True)
            # what was said to be final stays so: a new region never touches it
            assert region.part > 0 or region.first_line >= self._inspected_up_to
        else:
            assert (part, closed) == (region.part, False)
        if region.merged_into is not None:
            assert region.phase == "close"
            self._merged.add(region.merged_into)
        assert region.last_line < self._inspector.lines_scanned
        self._part_closed[region.id] = (region.part, region.phase == "close")

    def end(self, record: Record) -> None:
        inspector, lines = self._inspector, self._case.lines
        assert inspector.lines_pending == 0
        assert inspector.lines_scanned == inspector.inspected_up_to == lines
        assert all(closed for _, closed in self._part_closed.values())
        assert self._merged <= self._part_closed.keys()
        covered = np.zeros(lines, int)
        for gap in record.gaps:
            covered[gap.first_line : gap.last_line + 1] += 1
        assert inspector.lines_in_gaps == covered.sum()
        for band in record.bands:
            faulty = np.repeat(band.band.faulty.numpy(), self._case.settings.scale)[: band.end_line - band.first_line]
            covered[band.first_line : band.end_line] += ~faulty
        assert (covered == 1).all(), "each line is inspected or in a gap, never both, never neither"


def scores(record: Record) -> NDArray[np.float32]:
    """Final scores of all bands, below one another."""
    return np.concatenate([band.band.score.numpy() for band in record.bands])
