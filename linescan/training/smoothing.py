"""How far to smooth the residual: the σ at which most pasted defects are found at the asked rate of false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from linescan.config import InspectionSettings
from linescan.models.runner import Runner
from linescan.training.calibrate import FalseAlarms
from linescan.training.trial import Floats, Trial

SIGMAS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0)
ENOUGH_FOUND = 0.5  # with fewer of the pasted defects found, σ is chosen at a looser rate
LOOSEST_RATE = 100.0
SHARE = 0.001  # of the good web that is reported, where the asked rate says nothing


def choose_smoothing(
    trial: Trial, settings: InspectionSettings, runner: Runner, asked: FalseAlarms
) -> tuple[float, float]:
    """The σ to smooth with at the settings' stride, and the share of pasted defects found with it.

    Of equally good ones the σ at which the defects stand out most from the threshold.

    No real defect is looked at: a large σ suits large defects and blurs small ones, so blots of several sizes vote. A
    rate so loose that the web smoothed by some σ has never so many regions asks nothing of that σ, and its threshold
    would report half of the web: only σ that reach the rate are compared. Where none does, the thresholds report the
    same share of the good web.
    """
    ways = [settings.model_copy(update={"smoothing_sigma": sigma}) for sigma in SIGMAS]
    scores = trial.scores(ways, runner)
    while True:
        ratios = {i: one.at(asked) for i, one in enumerate(scores) if one.reach(asked)}
        if not ratios:
            ratios = {i: one.over((SHARE,))[0] for i, one in enumerate(scores)}
        found = {i: _found(over) for i, over in ratios.items()}
        best = max(found, key=found.__getitem__)
        # so strict a rate hides most defects at any σ, and says little about which is best
        looser = replace(asked, rate=10 * asked.rate)
        if found[best][0] >= ENOUGH_FOUND or asked.rate > LOOSEST_RATE or not all(one.reach(looser) for one in scores):
            return SIGMAS[best], found[best][0]
        asked = looser


def _found(ratios: Floats) -> tuple[float, float]:
    """Share of the pasted defects above the threshold, and how far above it they are on the geometric mean."""
    return float((ratios > 1).mean()), float(np.log(ratios).mean())
