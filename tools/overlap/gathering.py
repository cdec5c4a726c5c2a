"""What refinement is judged by, gathered over a set: what each region and each patch shows of every coarse score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from linescan.config import InspectionSettings
from linescan.inspection.calibration import ColumnCalibration
from linescan.training.calibrate import opened_map
from linescan.training.metrics import PixelScores
from overlap.coarse_scores import GoodCodes, by_cells, cell_features, coarse_maps, good_codes
from overlap.passes import Map, Patches, all_patches, blended, halo, highest_around, opened, residual_of, scored
from overlap.sets import Web, WebSet
from overlap.weights import Forward, autoencoder_of

FPRS = (0.001, 0.01, 0.05)
FACTORS = (2, 3, 4)
SAMPLED = 7  # one in so many good pixels each way tells how a coarse score is distributed
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fine:
    """How the fine pass is made and scored: the settings, their stride that of the fine grid."""

    name: str
    settings: InspectionSettings
    calibration: ColumnCalibration | None


@dataclass
class Gathered:
    """Of one set, fine pass and factor; columns of the matrices are coarse scores.

    `patches`: highest value on each patch that only the fine pass has, halo included. `sample`: at some good pixels.
    `regions`: for each FPR the highest value in each fine region; `on_defect`: whether it lies on one. `needed`: for
    each FPR how many of `patches` the fine regions need. `cells`, `targets`: for a learned score.
    """

    names: list[str] = field(default_factory=list)
    coarse: int = 0
    patches: list[Map] = field(default_factory=list)
    sample: list[Map] = field(default_factory=list)
    regions: list[list[Map]] = field(default_factory=lambda: [[] for _ in FPRS])
    on_defect: list[list[bool]] = field(default_factory=lambda: [[] for _ in FPRS])
    needed: list[int] = field(default_factory=lambda: [0 for _ in FPRS])
    cells: list[Map] = field(default_factory=list)
    targets: list[Map] = field(default_factory=list)
    region_cells: list[list[tuple[int, int]]] = field(default_factory=lambda: [[] for _ in FPRS])
    patch_cells: list[tuple[int, int, int, int]] = field(default_factory=list)

    def save(self, path: Path, thresholds: Sequence[float], stride: int) -> None:
        arrays: dict[str, Any] = {
            "names": self.names, "coarse": self.coarse, "patches": np.concatenate(self.patches),
            "sample": np.concatenate(self.sample), "needed": self.needed, "thresholds": thresholds,
            "cells": np.concatenate(self.cells), "targets": np.concatenate(self.targets), "stride": stride,
            "patch_cells": np.array(self.patch_cells),
        }  # fmt: skip
        for number in range(len(FPRS)):
            empty = np.zeros((0, len(self.names)), np.float32)
            arrays[f"regions{number}"] = np.concatenate([empty, *self.regions[number]])
            arrays[f"on_defect{number}"] = np.array(self.on_defect[number], bool)
            arrays[f"region_cells{number}"] = np.array(self.region_cells[number]).reshape(-1, 2)
        np.savez_compressed(path, **arrays)


def fine_passes(webs: WebSet, stride: int) -> list[Fine]:
    """The setup's own blend, smoothing and calibration, and the paper's: `mean`, no smoothing, no calibration."""
    settings = webs.setup.settings.model_copy(update={"stride": stride})
    paper = settings.model_copy(update={"blend": "mean", "smoothing_sigma": 0.0})
    return [Fine("bundle", settings, webs.setup.calibration), Fine("paper", paper, None)]


def gather(webs: WebSet, stride: int, output: Path, factors: Sequence[int] = FACTORS) -> None:
    """Writes OUTPUT/SET.FINE.FACTOR.npz and OUTPUT/SET.FINE.json."""
    model = autoencoder_of(webs.setup.bundle)
    size = webs.setup.settings.patch_size
    good = good_codes(webs, model.encoder, size)
    forward = Forward(model)
    kept = [(web, all_patches(web.pixels, size, stride, forward)) for web in webs.scored()]
    print(f"{webs.name}: {len(kept)} webs, {sum(p.codes[..., 0].numel() for _, p in kept)} patches", flush=True)
    for fine in fine_passes(webs, stride):
        scores = [_score(web, patches, 1, fine) for web, patches in kept]
        defects = [web.defect for web, _ in kept]
        thresholds = thresholds_at(scores, defects)
        masks = [[opened(torch.from_numpy(score), threshold) for threshold in thresholds] for score in scores]
        rivals = {"fine": _judged(scores, defects, masks)}
        for factor in (1, *factors):
            hann = Fine("rival", fine.settings.model_copy(update={"blend": "hann"}), fine.calibration)
            rivals[f"hann {factor * stride}"] = _judged(
                [_score(web, patches, factor, hann) for web, patches in kept], defects, masks
            )
        about = {"thresholds": thresholds, "fprs": FPRS, "rivals": rivals, "model": webs.setup.bundle.sha256}
        (output / f"{webs.name}.{fine.name}.json").write_text(json.dumps(about, indent=1))
        for factor in factors:
            found = Gathered()
            for (web, patches), score, regions in zip(kept, scores, masks, strict=True):
                _add(found, web, patches, factor, fine, good, score, regions)
            found.save(output / f"{webs.name}.{fine.name}.{factor}.npz", thresholds, stride)
            print(f"{webs.name}, {fine.name}, factor {factor}", flush=True)


def thresholds_at(scores: Sequence[Map], defects: Sequence[Mask]) -> list[float]:
    """Scores that the share FPRS of all good pixels exceeds."""
    good = np.concatenate([score[~defect] for score, defect in zip(scores, defects, strict=True)])
    return [float(np.float32(one)) for one in np.quantile(good, [1 - fpr for fpr in FPRS])]


def _score(web: Web, patches: Patches, factor: int, fine: Fine) -> Map:
    mean = blended(patches, factor, fine.settings.blend)
    return np.asarray(
        scored(residual_of(web.pixels, mean, fine.settings), fine.settings, fine.calibration).numpy(), np.float32
    )


def _judged(scores: Sequence[Map], defects: Sequence[Mask], fine_masks: Sequence[Sequence[Mask]]) -> dict[str, Any]:
    """AUROC, PRO, and at each FPR by its own threshold: defects found, and fine regions without a pixel of this one."""
    with PixelScores() as pixels:
        for score, defect in zip(scores, defects, strict=True):
            pixels.add(np.round(score, 4), defect)  # ties make it fast; 1e-4 of a residual decides nothing
        result: dict[str, Any] = {"auroc": pixels.auroc(), "pro": pixels.pro()}
    rows = []
    for number, threshold in enumerate(thresholds_at(scores, defects)):
        found = planted = missed = regions = 0
        for score, defect, fine in zip(scores, defects, fine_masks, strict=True):
            mask = opened(torch.from_numpy(score), threshold)
            hit, count = _hits(defect, mask)
            found, planted = found + hit, planted + count
            hit, count = _hits(fine[number], mask)
            missed, regions = missed + count - hit, regions + count
        rows.append({"found": found, "defects": planted, "fine_regions": regions, "fine_regions_missed": missed})
    return {**result, "at_fpr": rows}


def _hits(regions: Mask, mask: Mask) -> tuple[int, int]:
    """How many 8-connected regions have a pixel of the mask, and how many there are."""
    count, labels = cv2.connectedComponents(regions.astype(np.uint8), connectivity=8)
    return len(np.setdiff1d(labels[mask], [0])), count - 1


def _add(
    found: Gathered,
    web: Web,
    patches: Patches,
    factor: int,
    fine: Fine,
    good: GoodCodes,
    score: Map,
    masks: Sequence[Mask],
) -> None:
    maps = coarse_maps(web.pixels, patches, factor, fine.settings, fine.calibration, good)
    found.names = list(maps)
    reach, side = halo(fine.settings), patches.stride
    lines, columns = patches.kept(factor)
    only_fine = np.ones((len(patches.lines), len(patches.columns)), bool)
    only_fine[np.ix_(lines, columns)] = False
    found.coarse += len(lines) * len(columns)
    found.patches.append(np.stack([highest_around(one, patches, reach)[only_fine] for one in maps.values()], 1))
    chosen = np.zeros(web.defect.shape, bool)
    chosen[::SAMPLED, ::SAMPLED] = True
    found.sample.append(np.stack([one[chosen & ~web.defect] for one in maps.values()], 1))
    first_cell = sum(map(len, found.cells))
    found.cells.append(cell_features(maps, side))
    found.targets.append(by_cells(opened_map(score), side).ravel())
    across = -(-score.shape[1] // side)
    for line, column in np.argwhere(only_fine):
        top, tall = _cells(patches.lines[line], patches.size, reach, patches.height, side)
        left, wide = _cells(patches.columns[column], patches.size, reach, patches.width, side)
        found.patch_cells.append((first_cell + top * across + left, tall, wide, across))
    cell_of = first_cell + np.add.outer(
        np.arange(score.shape[0]) // side * across, np.arange(score.shape[1]) // side
    )  # fmt: skip
    for number, mask in enumerate(masks):
        within = highest_around(mask.astype(np.float32), patches, reach)
        found.needed[number] += int(np.count_nonzero(within[only_fine]))
        if mask.any():
            _add_regions(found, number, mask, list(maps.values()), web.defect, cell_of)


def _cells(first: int, size: int, reach: int, length: int, side: int) -> tuple[int, int]:
    """The first cell along an axis that pixels first…first + size − 1 and `reach` around them touch, and how many."""
    low, high = max(first - reach, 0) // side, (min(first + size + reach, length) - 1) // side
    return low, high - low + 1


def _add_regions(
    found: Gathered, number: int, mask: Mask, maps: Sequence[Map], defect: Mask, cell_of: NDArray[np.int64]
) -> None:
    """Adds the regions of one web at FPR `number`."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    before = len(found.on_defect[number])
    y, x = np.nonzero(labels)
    order = np.argsort(labels[y, x], kind="stable")
    y, x = y[order], x[order]
    label = labels[y, x]
    starts = np.searchsorted(label, np.arange(1, count))
    found.regions[number].append(np.maximum.reduceat(np.stack([one[y, x] for one in maps], 1), starts, 0))
    found.on_defect[number] += np.logical_or.reduceat(defect[y, x], starts).tolist()
    pairs = np.unique(np.stack([before + label - 1, cell_of[y, x]], 1), axis=0)
    found.region_cells[number] += [(int(region), int(cell)) for region, cell in pairs]
