"""The convolutional autoencoder of Bergmann et al. 2018, Table 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2  # of the leaky ReLU, §3.1 of the paper

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
        if patch_size < 16 or patch_size % 16:
            raise ValueError(f"patch_size must be a positive multiple of 16, got {patch_size}")
        self.channels = channels
        self.encoder = _encoder(latent_dim, channels, patch_size // 16)
        self.decoder = _decoder(latent_dim, channels, patch_size // 16)

    def forward(self, patches: Tensor) -> Tensor:
        return self.decoder(self.encoder(patches))  # type: ignore[no-any-return]


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


def initialise(model: Autoencoder, mean_grey: float, generator: torch.Generator) -> None:
    """Gives every layer He's variance for slope 0.2 and starts the output at the mean grey of the material.

    PyTorch's default initialisation leaves SSIM training on a plateau, and an output far from the mean grey can
    fall into the optimum of the negated image, since SSIM(x, −x) ≈ 1 (docs/decisions/002).
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


def _fan_in(module: nn.Conv2d | nn.ConvTranspose2d) -> float:
    kernel, stride = float(module.kernel_size[0]), float(module.stride[0])
    if isinstance(module, nn.ConvTranspose2d) and kernel > stride:
        # an output pixel of a strided transposed convolution sees (kernel/stride)² of the kernel's taps; where the
        # input is a single pixel (Conv9 reversed) it sees one.
        return module.in_channels * (1.0 if module.padding[0] == 0 else (kernel / stride) ** 2)
    return module.in_channels * kernel**2
