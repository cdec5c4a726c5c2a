"""What held-out patches, their reconstructions and their codes say about a training run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from linescan.models.autoencoder import Model, VariationalAutoencoder

ACTIVE_VARIANCE = 0.01  # of a latent mean over patches, from which on its dimension counts (Burda et al. 2016)
ROUNDING = 1e-12  # share of the codes' squares that rounding may leave of codes that are the same
PATCHES_DIFFER = 1e-3  # of the grey range: web that differs less from patch to patch cannot show a collapse


@dataclass(frozen=True)
class Agreement:
    """`correlation` is the patches' mean one, `contrast` and `brightness` are shares of the web's.

    `variation` is what the reconstructions differ by from patch to patch, as a share of what the web does; None where
    the web does not. `latent_used` is the number of latent dimensions that tell patches apart.
    """

    correlation: float
    contrast: float
    brightness: float
    variation: float | None
    latent_used: float


def agreement(model: Model, patches: Tensor, reconstruction: Tensor, codes: Tensor) -> Agreement:
    """Compares N×C×P×P patches with their reconstructions, and looks at their N×d codes."""
    x = patches.flatten(1) - patches.flatten(1).mean(1, keepdim=True)
    y = reconstruction.flatten(1) - reconstruction.flatten(1).mean(1, keepdim=True)
    norm_x, norm_y = x.norm(dim=1), y.norm(dim=1)
    correlation = (x * y).sum(1) / (norm_x * norm_y).clamp_min(1e-12)
    contrast = norm_y / norm_x.clamp_min(1e-12)
    brightness = reconstruction.mean() / patches.mean().clamp_min(1e-12)
    web, ours = (float((maps - maps.mean(0)).square().mean().sqrt()) for maps in (patches, reconstruction))
    variational = isinstance(model, VariationalAutoencoder)
    return Agreement(
        float(correlation.mean()),
        float(contrast.mean()),
        float(brightness),
        ours / web if web > PATCHES_DIFFER else None,
        active_dimensions(codes) if variational else effective_dimensions(codes),
    )


def active_dimensions(means: Tensor) -> float:
    """Dimensions of a VAE whose mean differs from patch to patch, against the prior's variance of 1; of N×d means."""
    return float((means.var(0) > ACTIVE_VARIANCE).sum())


def effective_dimensions(codes: Tensor) -> float:
    """Participation ratio of N×d codes: (Σλ)² / Σλ² of their covariance's eigenvalues, 0 where all are the same."""
    deviations = codes.double() - codes.double().mean(0)
    gram = deviations @ deviations.T if len(codes) < codes.shape[1] else deviations.T @ deviations
    total = float(gram.trace())
    if total <= ROUNDING * float(codes.double().square().sum()):
        return 0.0
    return total**2 / float(gram.square().sum())
