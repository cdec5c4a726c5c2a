"""One segment: scaled lines in, bands of final score and opened mask out.

Every stage keeps the rows that the next one still needs and no more, so memory depends on the width alone:

    web ──patches──▶ reconstruction ──K×K──▶ residual ──σ──▶ smoothed ──calibration──▶ score ──opening──▶ mask
"""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection import opening
from linescan.inspection.bands import Band
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.reconstruction import Reconstruct, Reconstructed, Reconstruction
from linescan.inspection.residual import residual_reach, smoothing_reach
from linescan.inspection.scoring import Scoring
from linescan.inspection.strips import Strips

NO_STRIPS = Strips()


class Segment:
    """Inspects a stretch of lines without a gap, in two halves: neither waits for the other's next portion.

    Args:
        settings: what decides the result.
        columns: W, scaled columns that are inspected.
        reconstruct: N×C×P×P float32 patches in [0, 1] → their reconstructions (for method vae mean and variance of
            the samples, N×2C×P×P); each patch for itself. Where it has a `reconstruct` as `Runner` has,
            patches are gathered and added on its threads, in its `dtype`.
        resume_row: rows before it were final in an earlier run; `first_row_needed` says from where to feed again.
        strips: thresholds and masks by column.
        look: whether a value may be looked at to save work, which has the host wait for a device.
    """

    def __init__(
        self,
        settings: InspectionSettings,
        columns: int,
        reconstruct: Reconstruct,
        device: torch.device,
        calibration: ColumnCalibration | None = None,
        resume_row: int = 0,
        strips: Strips = NO_STRIPS,
        look: bool = True,
    ) -> None:
        self.scoring = Scoring(settings, columns, device, calibration, resume_row, strips.to(device), look)
        self.reconstruction = Reconstruction(
            settings, columns, reconstruct, device, first_row_needed(settings, resume_row), self.scoring.first,
            resume_row, _halo(settings), look,
        )  # fmt: skip
        self._front, self._back = _Unbroken(), _Unbroken()

    def push(self, rows: Tensor) -> list[Reconstructed]:
        """Takes C×n×W scaled rows; returns those whose reconstruction they complete, for `score`, in order."""
        with self._front:
            return self.reconstruction.push(rows)

    def finish(self) -> list[Reconstructed]:
        """The segment has ended; returns its last rows."""
        with self._front:
            return self.reconstruction.finish()

    def score(self, parts: list[Reconstructed]) -> list[Band]:
        """Takes what `push` and `finish` return; returns one band for each row of the patch grid that is complete."""
        with self._back:
            return [band for part in parts for band in self.scoring.push(part)]


class _Unbroken:
    """Raises InspectionError where what was done within it before ended in an error, in the middle of its sums."""

    def __init__(self) -> None:
        self._broken_off = False

    def __enter__(self) -> None:
        if self._broken_off:
            raise InspectionError("an error broke this segment off in the middle of its sums: it cannot go on")
        self._broken_off = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broken_off = kind is not None


def _halo(settings: InspectionSettings) -> int:
    """Rows and columns on each side of a pixel that its opened mask depends on."""
    return residual_reach(settings) + smoothing_reach(settings.smoothing_sigma) + opening.REACH


def first_row_needed(settings: InspectionSettings, resume_row: int) -> int:
    """First scaled row of the segment that a new run needs so that rows from `resume_row` on come out the same."""
    earliest = max(0, resume_row - _halo(settings))
    # the first grid row whose patches still reach the earliest row
    return -(-max(0, earliest - settings.patch_size + 1) // settings.stride) * settings.stride
