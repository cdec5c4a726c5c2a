"""What each method minimises: a mean over the batch, from N×C×P×P patches and their reconstructions."""

from __future__ import annotations

from torch import Tensor

from linescan.config import Method, SsimSettings
from linescan.inspection.ssim import similarity, window_mean_reflected


def reconstruction_loss(method: Method, patches: Tensor, reconstruction: Tensor, ssim: SsimSettings) -> Tensor:
    """1 − SSIM at every pixel (§3.2), or eq. 2 divided by the number of pixels; float32 scalar.

    The windows reach over the patch's border by reflection, as at the border of the web: without them the border
    pixels count less, and the web's edges reconstruct twice as badly as its middle (docs/decisions/003).
    """
    if method == "ssim":
        return 1 - similarity(patches, reconstruction, ssim, window_mean_reflected).mean()
    return ((patches - reconstruction) ** 2).mean()
