"""The stride that the result needs: the largest at which pasted defects stand out as they do at the paper's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linescan.config import InspectionSettings
from linescan.models.runner import Runner
from linescan.training.trial import Floats, Trial

PAPER_PATCH = 128
STRIDES = (30, 45, 64, 90, 100, 112)  # for the paper's patches; the first is the paper's own
SHARES = (0.01, 0.001, 0.0001)  # of good web that a threshold reports; defects are counted at each of them
TOLERANCE = 0.05  # share of their height that the defects may lose, on the geometric mean
ENOUGH_FOUND = 0.1  # of the defects, at the first of SHARES: with fewer a comparison says nothing


@dataclass(frozen=True)
class MeasuredStride:
    """One stride beside the first: pasted defects found at each of SHARES, and the height of all of them.

    The height is how far they rise above the thresholds, 1 at the first stride.
    """

    stride: int
    found: tuple[int, ...]
    height: float


@dataclass(frozen=True)
class StrideChoice:
    """The stride to inspect with, and the measurement on `blots` pasted defects that says so.

    `measured` holds the first stride alone where too few were found to compare by: that stride is kept then.
    """

    stride: int
    measured: tuple[MeasuredStride, ...]
    blots: int

    @property
    def metrics(self) -> dict[str, float]:
        """For the bundle."""
        numbers: dict[str, float] = {"stride_pasted_defects": self.blots}
        for one in self.measured:
            counts = zip(SHARES, one.found, strict=True)
            numbers |= {f"stride_{one.stride}_found_at_{share:g}": count for share, count in counts}
            numbers[f"stride_{one.stride}_height"] = one.height
        return numbers

    def table(self) -> str:
        """For a person: a line a stride."""
        shares = " / ".join(f"{share:.2%}" for share in SHARES)
        first = self.measured[0]
        lines = [f"stride, by {self.blots} defects pasted into good web; found where {shares} of it would be reported:"]
        for one in self.measured:
            found = " / ".join(str(count) for count in one.found)
            work = (first.stride / one.stride) ** 2
            chosen = ", taken" if one.stride == self.stride else ""
            lines.append(f"  {one.stride:4d}: {found} found, height {one.height:.3f}, work {work:.2f}{chosen}")
        if len(self.measured) == 1:
            lines.append("  too few are found for a comparison: the smallest stride is kept")
        return "\n".join(lines)


def strides_for(patch_size: int) -> tuple[int, ...]:
    """Candidates in the paper's proportion to the patch, smallest first; each is below the patch size."""
    return tuple(sorted({max(1, round(stride * patch_size / PAPER_PATCH)) for stride in STRIDES}))


def choose_stride(trial: Trial, settings: InspectionSettings, runner: Runner, calibrate_columns: bool) -> StrideChoice:
    """The largest stride at which no fewer pasted defects are found than at the first, nor stand lower.

    Args:
        settings: with the σ and blend to be used.
        calibrate_columns: whether a column calibration is made where the web needs one.
    """
    strides = strides_for(settings.patch_size)

    def ratios(stride: int) -> Floats:
        way = settings.model_copy(update={"stride": stride})
        return trial.scores([way], runner, calibrate_columns)[0].over(SHARES)

    reference = ratios(strides[0])
    measured = [_compared(strides[0], reference, reference)]
    if measured[0].found[0] >= ENOUGH_FOUND * reference.shape[1]:
        measured += [_compared(stride, ratios(stride), reference) for stride in strides[1:]]
    chosen = max(one.stride for one in measured if _suffices(one, measured[0]))
    return StrideChoice(chosen, tuple(measured), reference.shape[1])


def _suffices(one: MeasuredStride, first: MeasuredStride) -> bool:
    return sum(one.found) >= sum(first.found) and one.height >= 1 - TOLERANCE


def _compared(stride: int, ratios: Floats, reference: Floats) -> MeasuredStride:
    height = float(np.exp((np.log(ratios) - np.log(reference)).mean()))
    return MeasuredStride(stride, tuple(int(count) for count in (ratios > 1).sum(1)), height)
