"""Residual of web and reconstruction, for each method of the paper, and the rows it needs around a row."""

from __future__ import annotations

from torch import Tensor

from linescan.config import InspectionSettings
from linescan.inspection.ssim import similarity


def residual_reach(settings: InspectionSettings) -> int:
    """Rows and columns on each side of a pixel that its residual depends on."""
    return settings.ssim.window // 2 if settings.method == "ssim" else 0


def smoothing_reach(sigma: float) -> int:
    """Radius ⌈3σ⌉ of the Gaussian over the residual; 0 where there is none."""
    return -int(-3 * sigma // 1) if sigma > 0 else 0


def residual(web: Tensor, reconstruction: Tensor, settings: InspectionSettings) -> Tensor:
    """C×H×W images along with `residual_reach` on each side → the residual inside, rows×columns float32.

    1 − SSIM (eq. 8), or the squared error per pixel (§3.1.1); the mean over the channels.
    """
    if settings.method == "ssim":
        return 1 - similarity(web, reconstruction, settings.ssim).mean(0)
    return ((web - reconstruction) ** 2).mean(0)
