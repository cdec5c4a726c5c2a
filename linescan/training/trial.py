"""A trial of how to inspect: held-out good web, and the same web with defects pasted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from linescan.config import InspectionSettings
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.lines import Pixels
from linescan.models.runner import Runner
from linescan.training.calibrate import (
    FalseAlarms,
    Map,
    choose_threshold,
    column_calibration,
    column_profile_is_real,
    good_scores,
    opened_map,
    rate_is_reached,
)
from linescan.training.dataset import GoodImages
from linescan.training.remembered import Remembered
from linescan.training.synthetic import RADII, PastedWeb, pasted_web

LEAST_RATIO = 0.1  # a score may be 0 or, with a column calibration, less, and has no logarithm then
LEAST_THRESHOLD = 1e-6  # of a model that reconstructs everything, and sees nothing
ROUNDS = (1, 8)  # at least and at most: each pastes other blots into the same web
ENOUGH_BLOTS = 256
MOST_CELLS = 512  # patch-sized cells of good web that a trial looks at, evenly taken from all that is held out

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What one way of inspecting made of the webs: maps of the good one, and the peak of each blot of the others."""

    good: tuple[Map, ...]
    peaks: Floats
    scale: int

    def at(self, asked: FalseAlarms) -> Floats:
        """The peaks over the threshold for the asked rate of false alarms on the good web."""
        threshold, _ = choose_threshold(self.good, self.scale, asked)
        return self._over(threshold)

    def reach(self, asked: FalseAlarms) -> bool:
        """Whether the good web has so many regions at any threshold that is worth setting."""
        return rate_is_reached(self.good, self.scale, asked)

    def over(self, shares: Sequence[float]) -> Floats:
        """The peaks over the thresholds at which such shares of the good web are reported: shares × blots.

        Unlike a rate of regions it can be told of any score and any amount of web, and hardly depends on chance.
        """
        opened = np.concatenate([opened_map(score).ravel() for score in self.good])
        return np.stack([self._over(float(threshold)) for threshold in np.quantile(opened, 1 - np.array(shares))])

    def _over(self, threshold: float) -> Floats:
        return np.maximum(self.peaks / max(threshold, LEAST_THRESHOLD), LEAST_RATIO)


class Trial:
    """The webs, made once, so that all ways of inspecting are tried on the same blots.

    Args:
        images: their held-out lines are the good web.
        settings: patch size and scale; the rest comes with each way that is tried.
    """

    def __init__(self, images: GoodImages, settings: InspectionSettings) -> None:
        side = settings.patch_size * settings.scale
        self._good = _portion(images.held_out_lines, side)
        self._depth = images.bit_depth
        self._calibrated: bool | None = None
        cells = sum(_cells(lines, side) for lines in self._good)
        rounds = min(max(-(-ENOUGH_BLOTS // max(cells, 1)), ROUNDS[0]), ROUNDS[1])
        rng = np.random.default_rng(0)
        self._pasted: list[PastedWeb] = []
        for turn in range(rounds):
            for number, lines in enumerate(self._good):
                first = number * len(RADII) + turn * len(RADII) * 2 + number
                self._pasted.append(pasted_web(lines, self._depth, side, first, rng))

    def scores(
        self, ways: Sequence[InspectionSettings], runner: Runner, calibrate_columns: bool = False
    ) -> list[Scores]:
        """One for each way; they differ in smoothing and blend at most, and share the forwards of the model.

        With `calibrate_columns` as a recipe scores, with a column calibration where the good web asks for one.
        """
        good: list[list[Map]] = [[] for _ in ways]
        for lines in self._good:
            for maps, score in zip(good, self._maps(lines, self._depth, ways, runner), strict=True):
                maps.append(score)
        calibrations = self._calibrations(good) if calibrate_columns else [None] * len(ways)
        peaks: list[list[float]] = [[] for _ in ways]
        for web in self._pasted:
            for i, score in enumerate(self._maps(web.pixels, 8, ways, runner)):
                peaks[i] += _peaks(_scored(score, calibrations[i]), web, ways[i].scale)
        return [
            Scores(tuple(_scored(score, calibration) for score in maps), np.array(at), way.scale)
            for maps, calibration, at, way in zip(good, calibrations, peaks, ways, strict=True)
        ]

    def _maps(self, lines: Pixels, depth: int, ways: Sequence[InspectionSettings], runner: Runner) -> list[Map]:
        shared = Remembered(runner)
        maps: list[Map] = []
        for way in ways:
            shared.again()
            maps += good_scores([[lines]], way, shared, depth, shared.device)
        return maps

    def _calibrations(self, good: Sequence[Sequence[Map]]) -> list[ColumnCalibration | None]:
        """For each way its own, or none: all ways that are compared have scores of one kind, as the first ones had."""
        if self._calibrated is None:
            self._calibrated = all(column_profile_is_real(maps) for maps in good)
        return [column_calibration(maps) if self._calibrated else None for maps in good]


def _scored(score: Map, calibration: ColumnCalibration | None) -> Map:
    return score if calibration is None else calibration.apply(torch.from_numpy(score)).numpy()


def _peaks(score: Map, web: PastedWeb, n: int) -> list[float]:
    opened = opened_map(score)
    return [
        float(opened[top // n : -(-bottom // n), left // n : -(-right // n)].max())
        for top, bottom, left, right in web.blots
    ]


def _cells(lines: Pixels, side: int) -> int:
    return int(lines.shape[0]) // side * (int(lines.shape[1]) // side)


def _portion(held_out: Sequence[Pixels], side: int) -> list[Pixels]:
    """The held-out lines; where they are many, MOST_CELLS cells of them, from stretches spread evenly over all."""
    cells = sum(_cells(lines, side) for lines in held_out)
    if cells <= MOST_CELLS:
        return list(held_out)
    chosen = held_out[:: -(-cells // MOST_CELLS)]
    each = MOST_CELLS // len(chosen)
    return [lines[: max(each // (lines.shape[1] // side), 1) * side] for lines in chosen]
