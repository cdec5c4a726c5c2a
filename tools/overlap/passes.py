"""A whole web on the patch grid, and what any subset of its anchors makes of it; bit for bit what the engine makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import Blend, InspectionSettings
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.opening import REACH, opening
from linescan.inspection.patches import PatchRow, anchors, mirror_sides, mirrored, reflected, take
from linescan.inspection.residual import residual, residual_reach, smoothing_reach
from linescan.inspection.residual import smoothed as smoothed_inside

CPU = torch.device("cpu")
ROWS_TOGETHER = 20  # of the grid in one call of the model
Map = NDArray[np.float32]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Patches:
    """All patches of one web: anchors, codes (lines×columns of the grid×d) and reconstructions (…×C×P×P)."""

    height: int
    width: int
    size: int
    stride: int
    lines: list[int]
    columns: list[int]
    codes: Tensor
    reconstructions: Tensor

    def kept(self, factor: int) -> tuple[list[int], list[int]]:
        """Places in the grid of the anchors of `factor` times the stride: every such one, and the clamped last ones."""
        lines, columns = (
            [places.index(one) for one in anchors(length, self.size, factor * self.stride)]
            for places, length in ((self.lines, self.height), (self.columns, self.width))
        )
        return lines, columns


def all_patches(web: Tensor, size: int, stride: int, forward: Forward) -> Patches:
    """Every patch of 1×H×W web, no side of it under a patch."""
    height, width = web.shape[-2:]
    assert min(height, width) >= size
    grid = PatchRow(width, size, stride, "mean", CPU)
    lines = anchors(height, size, stride)
    codes, reconstructions = [], []
    for first in range(0, len(lines), ROWS_TOGETHER):
        some = lines[first : first + ROWS_TOGETHER]
        place = torch.empty(len(some) * len(grid), 1, size, size)
        for number, line in enumerate(some):
            grid.cut(web[:, line : line + size], place[number * len(grid) : (number + 1) * len(grid)])
        code, reconstruction = forward(place)
        codes.append(code)
        reconstructions.append(reconstruction)
    shape = (len(lines), len(grid))
    return Patches(
        height, width, size, stride, lines, grid.anchors,
        torch.cat(codes).unflatten(0, shape), torch.cat(reconstructions).unflatten(0, shape),
    )  # fmt: skip


def blended(patches: Patches, factor: int, blend: Blend, squared: bool = False) -> Tensor:
    """Weighted mean of the reconstructions, or of their squares, that cover each pixel: 1×H×W."""
    lines, columns = patches.kept(factor)
    rows = (patches.reconstructions[line, columns].float() for line in lines)
    return weighted_mean(patches, factor, blend, (row * row if squared else row.clone() for row in rows))


def spread(patches: Patches, factor: int, blend: Blend, values: Tensor) -> Tensor:
    """Weighted mean at each pixel of one value for each kept patch (lines×columns of the coarse grid): H×W."""
    rows = (row.float().view(-1, 1, 1, 1).repeat(1, 1, patches.size, patches.size) for row in values)
    return weighted_mean(patches, factor, blend, rows)[0]


def weighted_mean(patches: Patches, factor: int, blend: Blend, rows: Iterable[Tensor]) -> Tensor:
    """Of maps of the kept patches, N×1×P×P for each kept line, which are overwritten: 1×H×W."""
    grid = PatchRow(patches.width, patches.size, factor * patches.stride, blend, CPU)
    total = torch.zeros(1, patches.height, patches.width)
    weight = torch.zeros(patches.height, patches.width)
    for line, row in zip(patches.kept(factor)[0], rows, strict=True):
        covered = slice(patches.lines[line], patches.lines[line] + patches.size)
        grid.add(grid.weigh(row), total[:, covered])
        weight[covered] += grid.weight_sum
    return total / weight


def residual_of(web: Tensor, mean: Tensor, settings: InspectionSettings) -> Tensor:
    """Residual of a whole web, reflected at its borders: H×W."""
    reach = residual_reach(settings)
    return residual(_bordered(web, reach), _bordered(mean, reach), settings, reflecting=True)


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    reach = smoothing_reach(sigma)
    return smoothed_inside(_bordered(maps, reach), sigma, reflecting=True) if reach else maps


def scored(residuals: Tensor, settings: InspectionSettings, calibration: ColumnCalibration | None) -> Tensor:
    """Residual H×W → score H×W."""
    score = smoothed(residuals, settings.smoothing_sigma)
    return score if calibration is None else calibration.apply(score)


def opened(score: Tensor, threshold: float) -> NDArray[np.bool_]:
    """What exceeds the threshold after opening, H×W."""
    beyond = ~(score <= threshold)
    beyond = take(beyond, -2, mirrored(-REACH, len(beyond) + REACH, len(beyond)))
    return np.asarray(opening(mirror_sides(beyond, REACH)).numpy(), np.bool_)


def halo(settings: InspectionSettings) -> int:
    """Pixels around an opened pixel whose reconstruction decides about it."""
    return residual_reach(settings) + smoothing_reach(settings.smoothing_sigma) + REACH


def highest_around(values: Map, patches: Patches, reach: int) -> Map:
    """For each patch of the full grid the highest value on it and `reach` pixels around it: lines×columns."""
    size = patches.size
    rows = np.stack([values[max(a - reach, 0) : a + size + reach].max(0) for a in patches.lines])
    return np.stack([rows[:, max(a - reach, 0) : a + size + reach].max(1) for a in patches.columns], 1)


def _bordered(maps: Tensor, reach: int) -> Tensor:
    """With reflected rows above and below."""
    height = maps.shape[-2]
    return take(maps, -2, reflected(-reach, height + reach, height))
