"""How far to smooth the residual: the σ at which most pasted defects are found at the asked rate of false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from linescan.config import InspectionSettings
from linescan.inspection.segment import Reconstruct
from linescan.training.calibrate import FalseAlarms, choose_threshold, good_scores, opened_map
from linescan.training.dataset import GoodImages
from linescan.training.synthetic import RADII, PastedWeb, pasted_web

SIGMAS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0)
ENOUGH_FOUND = 0.5  # with fewer of the pasted defects found, σ is chosen at a looser rate
LOOSEST_RATE = 100.0
MIN_PEAK = 1e-6  # a score may be 0, and has no logarithm then
ROUNDS = 2  # each round pastes other blots into the same web


def choose_smoothing(
    images: GoodImages,
    settings: InspectionSettings,
    reconstruct: Reconstruct,
    asked: FalseAlarms,
    device: torch.device,
) -> tuple[float, float]:
    """The σ to smooth with and the share of pasted defects found with it.

    Of equally good ones the σ at which the defects stand out most from the threshold.

    No real defect is looked at: a large σ suits large defects and blurs small ones, so blots of several sizes vote.
    """
    side = settings.patch_size * settings.scale
    pasted = [
        pasted_web(lines, images.bit_depth, side, number * len(RADII) + turn * len(RADII) * 2 + number)
        for turn in range(ROUNDS)
        for number, lines in enumerate(images.held_out_lines)
    ]
    while True:
        found = [
            _found(images, settings.model_copy(update={"smoothing_sigma": sigma}), reconstruct, asked, device, pasted)
            for sigma in SIGMAS
        ]
        best = max(range(len(SIGMAS)), key=lambda i: found[i])
        if found[best][0] >= ENOUGH_FOUND or asked.rate > LOOSEST_RATE:
            return SIGMAS[best], found[best][0]
        # so strict a rate hides most defects at any σ, and says little about which is best
        asked = replace(asked, rate=10 * asked.rate)


def _found(
    images: GoodImages,
    settings: InspectionSettings,
    reconstruct: Reconstruct,
    asked: FalseAlarms,
    device: torch.device,
    pasted: list[PastedWeb],
) -> tuple[float, float]:
    """Share of the pasted defects above the threshold, and how far above it they are on the geometric mean."""
    good = good_scores([[lines] for lines in images.held_out_lines], settings, reconstruct, images.bit_depth, device)
    threshold, _ = choose_threshold(good, settings.scale, asked)
    peaks: list[float] = []
    n = settings.scale
    for web in pasted:
        opened = opened_map(good_scores([[web.pixels]], settings, reconstruct, 8, device)[0])
        for top, bottom, left, right in web.blots:
            inside = opened[top // n : -(-bottom // n), left // n : -(-right // n)]
            peaks.append(max(float(inside.max()), MIN_PEAK))
    ratios = np.array(peaks) / threshold
    return float((ratios > 1).mean()), float(np.log(ratios).mean())
