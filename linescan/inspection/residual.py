"""Residual of web and reconstruction, for each method of the paper, and the rows it needs around a row."""

from __future__ import annotations

import torch
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.inspection.ssim import similarity


def reconstructed_maps(settings: InspectionSettings) -> int:
    """Maps that the model gives of a patch and that overlapping patches average: C, or for a VAE mean and variance."""
    return 2 * settings.channels if settings.method == "vae" else settings.channels


def residual_reach(settings: InspectionSettings) -> int:
    """Rows and columns on each side of a pixel that its residual depends on."""
    return settings.ssim.window // 2 if settings.method == "ssim" else 0


def smoothing_reach(sigma: float) -> int:
    """Radius ⌈3σ⌉ of the Gaussian over the residual; 0 where there is none."""
    return -int(-3 * sigma // 1) if sigma > 0 else 0


def residual(web: Tensor, reconstruction: Tensor, settings: InspectionSettings) -> Tensor:
    """Images along with `residual_reach` on each side → the residual inside, rows×columns float32.

    `web` is C×H×W, `reconstruction` `reconstructed_maps`×H×W. 1 − SSIM (eq. 8); the squared error per pixel for
    methods l2 and fm (§3.1.1, §3.1.3); the negative log probability of the web for a VAE (§3.1.2). The mean over the
    channels.
    """
    if settings.method == "ssim":
        return 1 - similarity(web, reconstruction, settings.ssim).mean(0)
    if settings.method == "vae":
        mean, variance = reconstruction[: len(web)], reconstruction[len(web) :]
        return _surprise(web, mean, variance, settings.noise_variance).mean(0)
    return ((web - reconstruction) ** 2).mean(0)


def _surprise(web: Tensor, mean: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
    """−log of the web's density given the samples, less its least possible value, so that it is 0 or more.

    A pixel given one sample is normal about it with variance σ₀²; given N samples it is a mixture, of which this takes
    the mean and the variance σ₀² + the samples' own (An & Cho 2015; docs/decisions/010).
    """
    spread = 1 + variance.clamp_min(0) / noise_variance
    return 0.5 * ((web - mean) ** 2 / (noise_variance * spread) + torch.log(spread))
