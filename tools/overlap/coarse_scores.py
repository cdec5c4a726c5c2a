"""What a coarse pass can say about the fine one: candidates for the score that decides where to refine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.ssim import similarity, window_mean_reflected
from overlap.passes import Map, Patches, blended, residual_of, scored, smoothed, spread
from overlap.sets import WebSet

NEIGHBOURHOODS = (16, 32)  # pixels, of the highest score around
SIGMA = 4.0
GOOD_PATCHES = 3000
SHRINKAGE = 0.05  # of the codes' covariance towards a multiple of the unit matrix
NEAREST = 3


class GoodCodes:
    """Codes of good web, and how far others are from them."""

    def __init__(self, codes: Tensor) -> None:
        self._codes = codes
        self._centre = codes.mean(0)
        covariance = torch.cov(codes.T).double()
        size = len(covariance)
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.trace() / size * torch.eye(size)
        self._whitening = torch.linalg.cholesky(torch.linalg.inv(covariance)).float()

    def mahalanobis(self, codes: Tensor) -> Tensor:
        return ((codes - self._centre) @ self._whitening).norm(dim=-1)

    def nearest(self, codes: Tensor) -> Tensor:
        """Mean distance to the NEAREST good codes that are closest."""
        flat = codes.flatten(0, -2)
        distance = torch.cdist(flat, self._codes).topk(NEAREST, largest=False).values.mean(-1)
        return distance.view(codes.shape[:-1])


def good_codes(webs: WebSet, encoder: torch.nn.Module, size: int) -> GoodCodes:
    """Of patches cut at random out of the training images."""
    images = [web.pixels for web in webs.training()]
    generator = torch.Generator().manual_seed(0)
    codes = []
    for number in range(0, GOOD_PATCHES, 50):
        image = images[number // 50 % len(images)]
        height, width = image.shape[-2:]
        lines = torch.randint(height - size + 1, (50,), generator=generator).tolist()
        columns = torch.randint(width - size + 1, (50,), generator=generator).tolist()
        batch = torch.stack([image[:, y : y + size, x : x + size] for y, x in zip(lines, columns, strict=True)])
        with torch.inference_mode():
            codes.append(encoder(batch.bfloat16().contiguous(memory_format=torch.channels_last)).flatten(1).float())
    return GoodCodes(torch.cat(codes))


def coarse_maps(
    web: Tensor,
    patches: Patches,
    factor: int,
    settings: InspectionSettings,
    calibration: ColumnCalibration | None,
    good: GoodCodes,
) -> dict[str, Map]:
    """Maps of the coarse pass by name, H×W each; the higher, the nearer to the threshold the fine score should be.

    The coarse pass blends with `hann` whatever the fine one does: that costs nothing.
    """
    mean = blended(patches, factor, "hann")
    residuals = residual_of(web, mean, settings)
    score = scored(residuals, settings, calibration)
    variance = (blended(patches, factor, "hann", squared=True) - mean * mean).clamp_min(0)[0]
    lines, columns = patches.kept(factor)
    codes = patches.codes[lines][:, columns]
    errors = patch_errors(web, patches, factor, settings)
    maps = {
        "score": score,
        "residual, not smoothed": residuals,
        f"residual, σ = {SIGMA:g}": smoothed(residuals, SIGMA),
        "disagreement of patches": smoothed(variance, SIGMA).sqrt(),
        "error of the patch, mean": spread(patches, factor, "hann", errors.mean(-1)),
        "error of the patch, 99 %": spread(patches, factor, "hann", errors.quantile(0.99, -1)),
        "code, Mahalanobis": spread(patches, factor, "hann", good.mahalanobis(codes)),
        "code, nearest good ones": spread(patches, factor, "hann", good.nearest(codes)),
    }
    named = {name: np.asarray(values.numpy(), np.float32) for name, values in maps.items()}
    for reach in NEIGHBOURHOODS:
        named[f"highest score within {reach} px"] = maximum_filter(named["score"], 2 * reach + 1)
    return named


def patch_errors(web: Tensor, patches: Patches, factor: int, settings: InspectionSettings) -> Tensor:
    """1 − SSIM of each kept patch with its own reconstruction, in every 4th pixel: lines×columns×pixels."""
    size = patches.size
    lines, columns = patches.kept(factor)
    rows = []
    for line in lines:
        top = patches.lines[line]
        lefts = [patches.columns[column] for column in columns]
        own = torch.stack([web[:, top : top + size, left : left + size] for left in lefts])
        found = patches.reconstructions[line, columns].float()
        errors = 1 - similarity(own, found, settings.ssim, window_mean_reflected)
        rows.append(errors[..., ::2, ::2].flatten(1))
    return torch.stack(rows)


def by_cells(values: Map, side: int, highest: bool = True) -> Map:
    """The highest value, or the mean, in each side×side cell of an H×W map; the last ones may be smaller."""
    height, width = values.shape
    starts = np.arange(0, height, side), np.arange(0, width, side)
    if highest:
        return np.maximum.reduceat(np.maximum.reduceat(values, starts[0], 0), starts[1], 1)
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], 0), starts[1], 1)
    heights, widths = (np.diff([*s, length]) for s, length in zip(starts, (height, width), strict=True))
    return np.asarray(sums / np.outer(heights, widths), np.float32)


def cell_features(maps: dict[str, Map], side: int) -> NDArray[np.float32]:
    """What is known of each cell by the coarse pass: cells×features, in the order of `maps`."""
    features = [by_cells(values, side).ravel() for values in maps.values()]
    features += [by_cells(maps[name], side, highest=False).ravel() for name in ("score", "residual, not smoothed")]
    return np.stack(features, 1)
