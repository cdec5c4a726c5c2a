"""Threshold and column statistics from good web: what may be asked of them, and what they cannot show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from linescan.config import InspectionSettings
from linescan.errors import ConfigError, InputError
from linescan.inspection import FinalBand, Finding, Footprint, Inspector
from linescan.inspection.calibration import ColumnCalibration, ColumnStatistics
from linescan.inspection.lines import Pixels
from linescan.inspection.opening import REACH, opening
from linescan.inspection.reconstruction import Reconstruct
from linescan.messages import Gap
from linescan.models.bundle import Threshold

UNREACHABLE = 1e30  # a threshold that nothing exceeds
MOST_REPORTED = 0.05  # of good web: where more is reported, regions have run together and their number says nothing
TAIL_REGIONS = 40  # the extrapolation follows the thresholds that leave at most so many regions
COLUMN_SMOOTHING = 31  # scaled columns that share their statistics
REPRODUCIBLE = 0.5  # correlation of two halves' column profiles from which on the profile is the camera's

Map = NDArray[np.float32]


@dataclass(frozen=True)
class FalseAlarms:
    """The rate that is asked for: regions per megapixel of the camera, or per m² where the pixel size is known."""

    rate: float
    pixel_size_mm: float | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where there is no such rate."""
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"a rate of {self.rate:g} false alarms: one above 0 expected")
        if self.pixel_size_mm is not None and not 0 < self.pixel_size_mm < math.inf:
            raise ConfigError(f"pixels of {self.pixel_size_mm:g} mm: a size above 0 expected")

    @property
    def unit(self) -> str:
        return "megapixel" if self.pixel_size_mm is None else "m2"

    def allowed(self, megapixels: float) -> float:
        """Regions that the rate allows on so many megapixels of good web."""
        if self.pixel_size_mm is None:
            return self.rate * megapixels
        return self.rate * megapixels * self.pixel_size_mm**2


def good_scores(
    rolls: Iterable[Iterable[Pixels]],
    settings: InspectionSettings,
    reconstruct: Reconstruct,
    bit_depth: int,
    device: torch.device,
    calibration: ColumnCalibration | None = None,
    on_gap: Callable[[Gap], object] = lambda _: None,
) -> list[Map]:
    """Score maps of good rolls, rows×W each, by the same engine that inspects; gaps are left out, and told."""
    settings = settings.model_copy(update={"threshold": UNREACHABLE})
    maps: list[Map] = []
    for roll in rolls:
        bands: list[Map] = []

        def keep(final: FinalBand, bands: list[Map] = bands) -> None:
            # beyond the selvage there is no web to learn from
            score = torch.where(final.band.inspected, final.band.score, torch.nan)
            bands.append(score[~final.band.faulty].cpu().numpy())

        findings: list[Finding] = []
        inspector: Inspector | None = None
        for pixels in roll:
            inspector = inspector or Inspector(
                settings,
                Footprint(pixels.shape[1], bit_depth),
                reconstruct,
                device=device,
                calibration=calibration,
                on_band=keep,
            )
            findings += inspector.push(pixels)
        if inspector is not None:
            findings += inspector.finish()
        for finding in findings:
            if isinstance(finding, Gap):
                on_gap(finding)
        if bands:
            maps.append(np.concatenate(bands))
    if not maps:
        raise InputError("no line of the good footage could be inspected: all of it is outside the bundle's band")
    return maps


def choose_threshold(maps: Sequence[Map], scale: int, asked: FalseAlarms) -> tuple[float, Threshold]:
    """The lowest threshold that keeps to the asked rate on good web, and what it rests on.
    Where the rate allows less than one region on this much web, the threshold lies beyond everything seen: it
    follows the exponential tail of the region counts and is marked as extrapolated.
    """
    opened = [opened_map(score) for score in maps]
    megapixels = sum(score.size for score in maps) * scale**2 / 1e6
    allowed = asked.allowed(megapixels)
    top = max(float(score.max()) for score in opened)
    low = min(float(np.quantile(score, 0.5)) for score in opened)
    thresholds = np.linspace(low, top, 257)
    counts = np.array([_regions(opened, float(t)) for t in thresholds])
    beyond = np.flatnonzero(counts > allowed)
    threshold = float(thresholds[min(beyond[-1] + 1, len(thresholds) - 1)]) if len(beyond) else low
    extrapolated = allowed < 1
    if extrapolated:
        threshold = max(threshold, top, _extrapolate(thresholds, counts, allowed))
    basis = Threshold(
        false_alarms=asked.rate,
        per=asked.unit,
        calibration_megapixels=round(megapixels, 3),
        extrapolated=extrapolated,
        pixel_size_mm=asked.pixel_size_mm,
    )
    return threshold, basis


def rate_is_reached(maps: Sequence[Map], scale: int, asked: FalseAlarms) -> bool:
    """Whether any threshold has more regions than the rate allows before MOST_REPORTED of the good web is reported.

    Where none has, the rate asks for nothing, and thresholds for it cannot be compared.
    """
    opened = [opened_map(score) for score in maps]
    scores = np.concatenate([score.ravel() for score in opened])
    allowed = asked.allowed(sum(score.size for score in maps) * scale**2 / 1e6)
    shares = np.geomspace(MOST_REPORTED, MOST_REPORTED / 1000, 16)
    return any(_regions(opened, float(threshold)) > allowed for threshold in np.quantile(scores, 1 - shares))


def rate_at(maps: Sequence[Map], scale: int, threshold: float, asked: FalseAlarms) -> float:
    """False alarms per unit of `asked` that a threshold costs on this good web."""
    megapixels = sum(score.size for score in maps) * scale**2 / 1e6
    regions = _regions([opened_map(score) for score in maps], threshold)
    return regions / (asked.allowed(megapixels) / asked.rate)


def column_calibration(maps: Sequence[Map]) -> ColumnCalibration:
    """Mean and deviation of the residual per column over maps of one width."""
    return _statistics(maps).calibration(COLUMN_SMOOTHING)


def column_profile_is_real(maps: Sequence[Map]) -> bool:
    """Whether two halves of the good web agree on how the residual differs across it."""
    lines = np.concatenate([score for score in maps if score.shape[1] == maps[0].shape[1]])
    half = len(lines) // 2
    if half == 0 or lines.shape[1] < 2 * COLUMN_SMOOTHING:
        return False
    first, second = (_statistics([part]).mean(COLUMN_SMOOTHING) for part in (lines[:half], lines[half:]))
    if first.std() == 0 or second.std() == 0:
        return False
    return float(np.corrcoef(first, second)[0, 1]) > REPRODUCIBLE


def _statistics(maps: Sequence[Map]) -> ColumnStatistics:
    statistics = ColumnStatistics(maps[0].shape[1])
    for score in maps:
        statistics.add(score)
    return statistics


def opened_map(score: Map) -> Map:
    """Grey opening of a rows×W score map: thresholding it is opening the thresholded score."""
    score = np.nan_to_num(score, nan=float(np.nanmin(score)))
    padded = torch.from_numpy(np.pad(score, REACH, mode="symmetric"))
    return np.asarray(opening(padded).numpy(), np.float32)


def _regions(opened: Sequence[Map], threshold: float) -> int:
    return sum(cv2.connectedComponents((score > threshold).astype(np.uint8))[0] - 1 for score in opened)


def _extrapolate(thresholds: NDArray[np.float64], counts: NDArray[np.int64], allowed: float) -> float:
    """Where the fitted tail log(count) = a − b·threshold reaches `allowed`; −∞ where there is no tail to fit."""
    highest = int(counts.argmax())  # below it, regions merge and their number falls again
    tail = [i for i in range(highest, len(counts)) if 0 < counts[i] <= TAIL_REGIONS]
    if len({int(counts[i]) for i in tail}) < 3 or allowed <= 0:
        return float(thresholds[-1] + 0.25 * (thresholds[-1] - thresholds[0]))
    slope, offset = np.polyfit(thresholds[tail], np.log(counts[tail]), 1)
    if slope >= 0:
        return float(thresholds[-1])
    return float((math.log(allowed) - offset) / slope)
