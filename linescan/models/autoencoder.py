"""The convolutional autoencoder of Bergmann et al. 2018, Table 1, and its variational sibling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from linescan.config import TrainingSettings

NEGATIVE_SLOPE = 0.2  # of the leaky ReLU, §3.1 of the paper
WIDEST_LOG_VARIANCE = 20.0  # of a latent dimension; beyond it exp leaves what bfloat16 and float32 can add
FIRST_LOG_VARIANCE = -6.0  # with which a VAE starts: less noise than signal, so that it starts to move

# (output channels, kernel, stride, padding) of Conv1…Conv8; Conv9 takes what is left, P/16 × P/16, to d.
ENCODER_LAYERS = (
    (32, 4, 2, 1),
    (32, 4, 2, 1),
    (32, 3, 1, 1),
    (64, 4, 2, 1),
    (64, 3, 1, 1),
    (128, 4, 2, 1),
    (64, 3, 1, 1),
    (32, 3, 1, 1),
)


class Autoencoder(nn.Module):
    """Maps N×C×P×P patches in [0, 1] through a d-dimensional bottleneck to reconstructions of the same shape.

    The decoder mirrors the encoder; both end linearly (Table 1).

    Args:
        latent_dim: d of the paper, 100 for textures and 500 for nanofibres.
        channels: C, 1 for grey, 3 for RGB.
        patch_size: P, a multiple of 16; Conv9's kernel is P/16.
    """

    def __init__(self, latent_dim: int, channels: int = 1, patch_size: int = 128) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = _encoder(latent_dim, channels, _bottleneck(patch_size))
        self.decoder = _decoder(latent_dim, channels, _bottleneck(patch_size))

    def forward(self, patches: Tensor) -> Tensor:
        return self.decoder(self.encoder(patches))  # type: ignore[no-any-return]

    def codes(self, patches: Tensor) -> Tensor:
        """Latent vectors of the patches, N×d."""
        return self.encoder(patches).flatten(1)  # type: ignore[no-any-return]


class VariationalAutoencoder(nn.Module):
    """Table 1 with an encoder that gives mean and log variance of each latent dimension (Kingma & Welling 2014).

    `noise`, samples×d, is all the chance there is at inspection: drawn once from the training's seed and stored, so
    that a patch's samples depend on neither its place nor the device.

    Args:
        latent_dim, channels, patch_size: as of `Autoencoder`.
        samples: N, latent samples decoded for each patch.
    """

    if TYPE_CHECKING:
        noise: Tensor  # TorchScript takes a postponed annotation for a type of its own

    def __init__(self, latent_dim: int, channels: int = 1, patch_size: int = 128, samples: int = 6) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = _encoder(2 * latent_dim, channels, _bottleneck(patch_size))
        self.decoder = _decoder(latent_dim, channels, _bottleneck(patch_size))
        self.register_buffer("noise", torch.zeros(samples, latent_dim))
        self.widest = WIDEST_LOG_VARIANCE  # TorchScript does not see what lies outside the module

    @torch.jit.export
    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent vectors, float32 N×d×1×1 each."""
        mean, log_variance = self.encoder(patches).float().chunk(2, 1)
        return mean, log_variance.clamp(-self.widest, self.widest)

    @torch.jit.export
    def decode(self, latent: Tensor) -> Tensor:
        """N×d×1×1 latent vectors → N×C×P×P."""
        return self.decoder(latent)  # type: ignore[no-any-return]

    @torch.jit.export
    def moments(self, patches: Tensor) -> Tensor:
        """Mean and variance of each pixel over the decoded samples, float32 N×2C×P×P."""
        mean, log_variance = self.encode(patches)
        deviation = torch.exp(0.5 * log_variance)
        centre = torch.zeros_like(patches, dtype=torch.float32)
        squares = torch.zeros_like(centre)
        for number in range(len(self.noise)):
            latent = mean + deviation * self.noise[number].float().view(1, -1, 1, 1)
            sample = self.decode(latent.to(patches.dtype)).float()
            step = sample - centre
            centre = centre + step / (number + 1.0)
            squares = squares + step * (sample - centre)  # by Welford: a difference of squares would lose the variance
        return torch.cat([centre, squares / float(len(self.noise))], 1)

    def forward(self, patches: Tensor) -> Tensor:
        """The mean of the decoded samples, N×C×P×P."""
        return self.moments(patches)[:, : self.channels].to(patches.dtype)

    def codes(self, patches: Tensor) -> Tensor:
        """Means of the patches' latent vectors, N×d."""
        return self.encode(patches)[0].flatten(1)


Model = Autoencoder | VariationalAutoencoder


def model_for(settings: TrainingSettings, channels: int) -> Model:
    """The network of the settings' method, not initialised yet."""
    if settings.method == "vae":
        return VariationalAutoencoder(settings.latent_dim, channels, settings.patch_size, settings.samples)
    return Autoencoder(settings.latent_dim, channels, settings.patch_size)


def _bottleneck(patch_size: int) -> int:
    """Conv9's kernel, P/16."""
    if patch_size < 16 or patch_size % 16:
        raise ValueError(f"patch_size must be a positive multiple of 16, got {patch_size}")
    return patch_size // 16


def _encoder(latent_dim: int, channels: int, bottleneck: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out_channels, kernel, stride, padding in ENCODER_LAYERS:
        layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding), nn.LeakyReLU(NEGATIVE_SLOPE)]
        channels = out_channels
    layers.append(nn.Conv2d(channels, latent_dim, bottleneck))
    return nn.Sequential(*layers)


def _decoder(latent_dim: int, channels: int, bottleneck: int) -> nn.Sequential:
    inputs = [channels, *(layer[0] for layer in ENCODER_LAYERS)]
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, inputs[-1], bottleneck)]
    for out_channels, (in_channels, kernel, stride, padding) in zip(
        reversed(inputs[:-1]), reversed(ENCODER_LAYERS), strict=True
    ):
        layers += [
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding),
        ]
    return nn.Sequential(*layers)


def initialise(model: Model, mean_grey: float, generator: torch.Generator) -> None:
    """Gives every layer He's variance for slope 0.2 and starts the output at the mean grey of the material.

    PyTorch's default initialisation leaves SSIM training on a plateau, and an output far from the mean grey can
    fall into the optimum of the negated image, since SSIM(x, −x) ≈ 1 (docs/decisions/002). A VAE draws its noise here.
    """
    gain = nn.init.calculate_gain("leaky_relu", NEGATIVE_SLOPE)
    output = [m for m in model.decoder if isinstance(m, nn.ConvTranspose2d)][-1]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight
            scale = 0.1 if module is output else 1.0
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator))
                weight.mul_(scale * gain / _fan_in(module) ** 0.5)
                if module.bias is not None:
                    module.bias.fill_(mean_grey if module is output else 0.0)
    if isinstance(model, VariationalAutoencoder):
        _initialise_noise(model, generator)


def _initialise_noise(model: VariationalAutoencoder, generator: torch.Generator) -> None:
    """Draws the samples' noise, and starts each latent dimension at little variance, the same for all patches."""
    latent_dim = model.noise.shape[1]
    conv9 = model.encoder[-1]
    assert isinstance(conv9, nn.Conv2d)
    assert conv9.bias is not None
    with torch.no_grad():
        model.noise.copy_(torch.randn(model.noise.shape, generator=generator))
        conv9.weight[latent_dim:] *= 0.1
        conv9.bias[latent_dim:] = FIRST_LOG_VARIANCE


def _fan_in(module: nn.Conv2d | nn.ConvTranspose2d) -> float:
    kernel, stride = float(module.kernel_size[0]), float(module.stride[0])
    if isinstance(module, nn.ConvTranspose2d) and kernel > stride:
        # an output pixel of a strided transposed convolution sees (kernel/stride)² of the kernel's taps; where the
        # input is a single pixel (Conv9 reversed) it sees one.
        return module.in_channels * (1.0 if module.padding[0] == 0 else (kernel / stride) ** 2)
    return module.in_channels * kernel**2
