"""What each method minimises: a mean over the batch, from N×C×P×P patches and their reconstructions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from linescan.config import Method, SsimSettings, TrainingSettings
from linescan.errors import ConfigError
from linescan.inspection.ssim import dissimilarity, window_mean_reflected
from linescan.models.autoencoder import Model, VariationalAutoencoder
from linescan.training.gradients import QuickGradients, can_differentiate, channels_last, mean_dissimilarity


def reconstruction_loss(method: Method, patches: Tensor, reconstruction: Tensor, ssim: SsimSettings) -> Tensor:
    """1 − SSIM at every pixel (§3.2), or for the other methods eq. 2 divided by the number of pixels; float32 scalar.

    The windows reach over the patch's border by reflection, as at the border of the web: without them the border
    pixels count less, and the web's edges reconstruct twice as badly as its middle (docs/decisions/003).
    """
    if method == "ssim":
        if can_differentiate(reconstruction, ssim):
            return mean_dissimilarity(patches, reconstruction, ssim)
        return dissimilarity(patches, reconstruction, ssim, window_mean_reflected).mean()
    return ((patches - reconstruction) ** 2).mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of normal distributions from the unit normal (Kingma & Welling 2014), in nats, summed over d: N."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


class Objective:
    """The loss of one method as a function of the model, and the same steps on every device.

    Sums over pixels, latent dimensions and features are divided by the pixels of a patch, which keeps the proportions
    of the paper's sums and makes losses of several patch sizes comparable.

    Args:
        settings: method, λ, SSIM and precision.
        features: F of eq. 3, N×C×P×P → N×f; needed by method fm alone.
    """

    def __init__(self, settings: TrainingSettings, device: torch.device, features: nn.Module | None = None) -> None:
        if (settings.method == "fm") != (features is not None):
            raise ConfigError(f"method {settings.method}: a feature extractor is needed by method fm, and by it alone")
        self._settings = settings
        self._device = device
        self.kl_weight = settings.kl_weight  # of this step, while it rises
        self._features = None if features is None else features.to(device).eval().requires_grad_(False)

    def __call__(
        self, model: Model, patches: Tensor, generator: torch.Generator, wanted: Tensor | None = None
    ) -> Tensor:
        """Float32 scalar of N×C×P×P patches; a VAE draws one latent sample a patch from the generator.

        `wanted` is what the model is to make of them, where that is not the patches themselves.
        """
        wanted = patches if wanted is None else wanted
        settings, pixels = self._settings, patches[0].numel()
        if isinstance(model, VariationalAutoencoder):
            with self._half():
                mean, log_variance = model.encode(channels_last(patches))
            latent = mean + torch.exp(0.5 * log_variance) * _normal(mean, generator)
            with self._half():
                reconstruction = model.decode(latent)
            squared = reconstruction_loss("vae", wanted, reconstruction.float(), settings.ssim)
            return squared + self.kl_weight * divergence(mean, log_variance).mean() / pixels
        reconstruction = self.reconstruct(model, patches)
        loss = reconstruction_loss(settings.method, wanted, reconstruction, settings.ssim)
        if self._features is None:
            return loss
        with self._half():
            aim, found = self._features(wanted), self._features(reconstruction)
        distance = ((aim.float() - found.float()) ** 2).sum(1).mean()
        matched: Tensor = loss + settings.feature_weight * distance / pixels
        return matched

    def reconstruct(self, model: Model, patches: Tensor) -> Tensor:
        """The model's reconstructions as in inspection, float32 N×C×P×P; of a VAE the mean of its samples."""
        with self._half():
            reconstruction: Tensor = model(channels_last(patches))
        return reconstruction.float().contiguous()

    @contextmanager
    def _half(self) -> Iterator[None]:
        half = torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bfloat16")
        with half, QuickGradients() if self._device.type == "cpu" else nullcontext():
            yield


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
