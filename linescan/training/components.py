"""Luminance, contrast and structure apart (paper, eq. 5–7 and Fig. 3): which of them a defect shows in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import SsimSettings
from linescan.inspection.patches import reflect_sides, reflected, take
from linescan.inspection.ssim import components, similarity

Map = NDArray[np.float32]
COMPONENTS = ("luminance", "contrast", "structure", "ssim")


def component_residuals(web: Tensor, reconstruction: Tensor, ssim: SsimSettings) -> dict[str, Map]:
    """1 − l, 1 − c, 1 − s and 1 − SSIM at every pixel, by the names of COMPONENTS.

    From C×H×W web and reconstruction of a whole segment, reflected at its borders as in inspection; H×W float32 each,
    the mean over the channels. The exponents shape the product alone.
    """
    x, y = (_bordered(maps, ssim.window // 2) for maps in (web, reconstruction))
    parts = [*components(x, y, ssim), similarity(x, y, ssim)]
    return {
        name: np.asarray((1 - part).mean(0).cpu().numpy(), np.float32)
        for name, part in zip(COMPONENTS, parts, strict=True)
    }


def _bordered(maps: Tensor, reach: int) -> Tensor:
    lines = maps.shape[-2]
    return reflect_sides(take(maps, -2, reflected(-reach, lines + reach, lines)), reach)
