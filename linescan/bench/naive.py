"""The paper's method as its sentence reads (§4.2), with nothing done to make it fast: what the engine beats."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.inspection.lines import area_average, channels_first, to_unit
from linescan.inspection.opening import REACH, opening
from linescan.inspection.patches import anchors, blend_weights
from linescan.inspection.ssim import similarity


def naive_inspection(module: torch.nn.Module, pixels: NDArray[np.uint8], settings: InspectionSettings) -> int:
    """Number of regions in a whole web of 8-bit lines×columns(×C): one patch at a time, float32, then one image.

    Borders are reflected; the residual is not smoothed. For a VAE the mean of its samples is compared, squared.
    """
    web = area_average(to_unit(channels_first(pixels), 8), settings.scale)
    with torch.inference_mode():
        mean = _reconstruction(module, web, settings)
        residual = _residual(web, mean, settings)
        beyond = torch.nn.functional.pad((residual > settings.threshold).float()[None], [REACH] * 4, mode="reflect")
        opened = opening(beyond[0] > 0)
    return cv2.connectedComponents(opened.numpy().astype(np.uint8), connectivity=8)[0] - 1


def _reconstruction(module: torch.nn.Module, web: Tensor, settings: InspectionSettings) -> Tensor:
    p = settings.patch_size
    total, weight = torch.zeros_like(web), torch.zeros_like(web[0])
    weights = blend_weights(settings.blend, p)
    for line in anchors(web.shape[1], p, settings.stride):
        for column in anchors(web.shape[2], p, settings.stride):
            patch = web[:, line : line + p, column : column + p]
            total[:, line : line + p, column : column + p] += module(patch[None].contiguous())[0] * weights
            weight[line : line + p, column : column + p] += weights
    return total / weight


def _residual(web: Tensor, mean: Tensor, settings: InspectionSettings) -> Tensor:
    if settings.method != "ssim":
        return ((web - mean) ** 2).mean(0)
    reach = [settings.ssim.window // 2] * 4
    x, y = (torch.nn.functional.pad(one, reach, mode="reflect") for one in (web, mean))
    return 1 - similarity(x, y, settings.ssim).mean(0)
