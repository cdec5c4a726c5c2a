"""How far a bundle's reconstructions in half precision are from those in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from linescan.inspection.lines import area_average, channels_first, to_unit
from linescan.models.bundle import Bundle

TOLERANCE = 0.01
"""root mean square of full scale, 2.5 grey values of 255; the bundles trained so far have 0.001–0.003 in bfloat16"""


class PrecisionWarning(UserWarning):
    """A bundle runs in another precision than was asked for."""


def parity_patches(bundle: Bundle) -> Tensor:
    """The bundle's reference patch with its defect, as it is, mirrored, and turned: 4×C×P×P in [0, 1]."""
    reference = area_average(to_unit(channels_first(bundle.reference), 8), bundle.metadata.scale)
    return torch.stack([reference, reference.flip(-1), reference.flip(-2), reference.flip(-1, -2)])


def difference(bundle: Bundle, half: Callable[[Tensor], Tensor], full: Callable[[Tensor], Tensor]) -> float:
    """Root mean square of the difference between two ways of running it, of full scale; NaN where either is no number.

    Of a VAE the means are compared: what half precision does to the variance is below the variance model's own noise.
    """
    patches, channels = parity_patches(bundle), bundle.metadata.channels
    apart = half(patches)[:, :channels].cpu() - full(patches)[:, :channels].cpu()
    return float(apart.square().mean().sqrt())
