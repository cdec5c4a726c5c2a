"""The encoder run once over a web instead of once a patch, and what its zero padding has to do with it.

Conv1…Conv8 halve the image four times, so patches whose anchors are multiples of 16 see the same features but near
their borders, where a patch by itself sees zeros and the web goes on. Conv9 then reads P/16×P/16 of them for a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from linescan.inspection.patches import reflect_sides, reflected, take
from linescan.models.autoencoder import ENCODER_LAYERS, Autoencoder

REDUCTION = 16  # of the features against the web
CONTEXT = 64  # pixels around a patch; its features depend on 59 (Conv8 back to Conv1: 16 + 16 + 8 + 8 + 4 + 4 + 2 + 1)
Padding = Literal["zeros", "reflect", "context"]


@dataclass(frozen=True)
class Layer:
    """One convolution for one patch: multiplications and additions, the side of its output, and how much is sharable.

    `sharable` is the share of its outputs that no padding at the patch's border reaches.
    """

    name: str
    flop: float
    side: int
    sharable: float


def encoder_layers(patch_size: int, latent_dim: int, channels: int = 1) -> list[Layer]:
    """Conv1…Conv9 of Table 1; the decoder mirrors them."""
    layers, side, reached = [], patch_size, 0
    for number, (out, kernel, stride, padding) in enumerate(ENCODER_LAYERS, 1):
        # `reached` outer rings of the input depend on padding; an output that reads one of them, or padding, does too
        reached = -(-(reached + padding) // stride)
        side //= stride
        inner = max(side - 2 * reached, 0)
        layers.append(Layer(f"Conv{number}", 2.0 * kernel**2 * channels * out * side**2, side, (inner / side) ** 2))
        channels = out
    layers.append(Layer("Conv9", 2.0 * side**2 * channels * latent_dim, 1, 0.0))
    return layers


def savings(layers: list[Layer], stride: int, patch_size: int) -> tuple[float, float]:
    """Most that sharing can save of all operations at a stride: exactly, and with features that see the whole web."""
    total = 2 * sum(layer.flop for layer in layers)
    exact = 0.0
    for layer in layers:
        inner = patch_size * layer.sharable**0.5  # pixels across that padding does not reach
        if inner > stride:
            exact += layer.flop * layer.sharable * (1 - (stride / inner) ** 2)
    features = sum(layer.flop for layer in layers[:-1]) * (1 - (stride / patch_size) ** 2)
    return exact / total, features / total


def with_padding(model: Autoencoder, padding: Padding) -> Autoencoder:
    """The model with another padding in the encoder; `context` pads with zeros, but far outside the patch."""
    for module in model.encoder:
        if isinstance(module, nn.Conv2d) and padding == "reflect":
            module.padding_mode = "reflect"
            module._reversed_padding_repeated_twice = [module.padding[0]] * 4  # type: ignore[list-item]
    return model


def patch_codes(model: Autoencoder, patches: Tensor, padding: Padding) -> Tensor:
    """N×C×P×P patches, or with `context` N×C×(P+128)×(P+128) crops around them → codes N×d×1×1."""
    features = model.encoder[:-1](patches)
    if padding == "context":
        beyond = CONTEXT // REDUCTION
        features = features[..., beyond:-beyond, beyond:-beyond]
    return model.encoder[-1](features)  # type: ignore[no-any-return]


def shared_codes(model: Autoencoder, web: Tensor, stride: int, padding: Padding) -> Tensor:
    """Codes of all patches of a 1×H×W web, sides and stride multiples of 16, encoder run once: lines×columns×d."""
    if padding == "context":
        web = surrounded(web)
    dtype = next(model.parameters()).dtype
    features = model.encoder[:-1](web[None].to(dtype).contiguous(memory_format=torch.channels_last))
    if padding == "context":
        beyond = CONTEXT // REDUCTION
        features = features[..., beyond:-beyond, beyond:-beyond]
    conv9 = model.encoder[-1]
    assert isinstance(conv9, nn.Conv2d)
    codes = nn.functional.conv2d(features, conv9.weight, conv9.bias, stride=stride // REDUCTION)
    return codes[0].permute(1, 2, 0)


def surrounded(web: Tensor) -> Tensor:
    """C×H×W web with CONTEXT reflected pixels on every side."""
    height = web.shape[-2]
    return reflect_sides(take(web, -2, reflected(-CONTEXT, height + CONTEXT, height)), CONTEXT)
