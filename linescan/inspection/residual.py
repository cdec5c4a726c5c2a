"""Residual of web and reconstruction, for each method of the paper, and the rows it needs around a row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from linescan.config import InspectionSettings, SsimSettings
from linescan.inspection.patches import reflect_sides
from linescan.inspection.separable import Floats, by_rows, filtered, on_cpu
from linescan.inspection.ssim import dissimilarity, gaussian_weights, is_plain, plain_in_place, smooth, window_weights
from linescan.inspection.tiles import by_columns


def reconstructed_maps(settings: InspectionSettings) -> int:
    """Maps that the model gives of a patch and that overlapping patches average: C, or for a VAE mean and variance."""
    return 2 * settings.channels if settings.method == "vae" else settings.channels


def residual_reach(settings: InspectionSettings) -> int:
    """Rows and columns on each side of a pixel that its residual depends on."""
    return settings.ssim.window // 2 if settings.method == "ssim" else 0


def smoothing_reach(sigma: float) -> int:
    """Radius ⌈3σ⌉ of the Gaussian over the residual; 0 where there is none."""
    return -int(-3 * sigma // 1) if sigma > 0 else 0


def residual(web: Tensor, reconstruction: Tensor, settings: InspectionSettings, reflecting: bool = False) -> Tensor:
    """Images along with `residual_reach` on each side → the residual inside, rows×columns float32.

    Where it is `reflecting`, beyond the columns lies the image reflected, and only rows above and below come along.

    `web` is C×H×W, `reconstruction` `reconstructed_maps`×H×W. 1 − SSIM (eq. 8); the squared error per pixel for
    methods l2 and fm (§3.1.1, §3.1.3); the negative log probability of the web for a VAE (§3.1.2). The mean over the
    channels.
    """
    if settings.method == "ssim":
        return _dissimilarity(web, reconstruction, settings.ssim, reflecting)
    if settings.method == "vae":
        mean, variance = reconstruction[: len(web)], reconstruction[len(web) :]
        return _surprise(web, mean, variance, settings.noise_variance).mean(0)
    return ((web - reconstruction) ** 2).mean(0)


def _dissimilarity(web: Tensor, reconstruction: Tensor, ssim: SsimSettings, reflecting: bool) -> Tensor:
    reach = ssim.window // 2
    if not (on_cpu(web) and is_plain(ssim)):
        if reflecting:
            web, reconstruction = reflect_sides(web, reach), reflect_sides(reconstruction, reach)
        return by_columns(lambda x, y: dissimilarity(x, y, ssim).mean(0), (web, reconstruction), reach)
    return by_rows(lambda x, y: _rows_dissimilarity(x, y, ssim, reflecting), (web, reconstruction), reach, reflecting)


def _rows_dissimilarity(web: Floats, reconstruction: Floats, ssim: SsimSettings, reflecting: bool) -> Floats:
    weights = window_weights(ssim)
    total: Floats | None = None
    for x, y in zip(web, reconstruction, strict=True):
        s, d = x + y, x - y
        means = filtered(s, weights, reflecting), filtered(d, weights, reflecting)
        np.square(s, out=s)
        np.square(d, out=d)
        squares = filtered(s, weights, reflecting), filtered(d, weights, reflecting)
        one = plain_in_place(*means, *squares, ssim, lambda variance: np.maximum(variance, 0, out=variance))
        total = one if total is None else total + one
    assert total is not None
    total *= 2 / len(web)
    return total


def smoothed(residuals: Tensor, sigma: float, reflecting: bool = False) -> Tensor:
    """Rows along with `smoothing_reach` on each side under the Gaussian: rows×columns inside.

    Where it is `reflecting`, as of `residual`, only rows above and below come along.
    """
    reach = smoothing_reach(sigma)
    weights = gaussian_weights(sigma, reach)
    if not on_cpu(residuals):
        return smooth(reflect_sides(residuals, reach) if reflecting else residuals, weights)
    return by_rows(lambda rows: filtered(rows, weights, reflecting), (residuals,), reach, reflecting)


def _surprise(web: Tensor, mean: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
    """−log of the web's density given the samples, less its least possible value, so that it is 0 or more.

    A pixel given one sample is normal about it with variance σ₀²; given N samples it is a mixture, of which this takes
    the mean and the variance σ₀² + the samples' own (An & Cho 2015; docs/decisions/010).
    """
    spread = 1 + variance.clamp_min(0) / noise_variance
    return 0.5 * ((web - mean) ** 2 / (noise_variance * spread) + torch.log(spread))
