"""How much work a roll is, counted from the sizes alone: floating-point operations and bytes of each step.

A multiplication and an addition are an operation each; comparisons, integers and copies are none. A step's bytes are
the least that it could move: each of its inputs read once and each of its outputs written once, what it keeps for
itself in between not counted. So bytes/s over the machine's copying rate, or operations/s over its matrix product's,
is the share of the speed of a perfect version of that step: the roofline of Williams, Waterman and Patterson 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from linescan.config import InspectionSettings, SsimSettings
from linescan.inspection.residual import smoothing_reach
from linescan.models.autoencoder import ENCODER_LAYERS
from linescan.models.bundle import BundleMetadata

FLOAT = 4  # bytes of the engine's numbers
MOMENTS, FORMULA = 3, 24  # operations a pixel for x², y², xy, and from the five means to the residual


@dataclass(frozen=True)
class Work:
    """Operations and bytes."""

    flop: float
    bytes: float

    def __mul__(self, times: float) -> Work:
        return Work(self.flop * times, self.bytes * times)


@dataclass(frozen=True)
class Layer:
    """A convolution of the encoder, or its mirror in the decoder: the same products of the same numbers."""

    inputs: int
    outputs: int
    kernel: int
    input_side: int
    output_side: int

    @property
    def flop(self) -> int:
        return 2 * self.kernel**2 * self.inputs * self.outputs * self.output_side**2

    @property
    def activations(self) -> int:
        """Numbers read and written."""
        return self.inputs * self.input_side**2 + self.outputs * self.output_side**2

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs


def encoder_layers(meta: BundleMetadata) -> list[Layer]:
    """Conv1…Conv9 of Table 1 with the bundle's patch size, channels and latent dimension."""
    layers: list[Layer] = []
    inputs, side = int(meta.channels), meta.patch_size
    for outputs, kernel, stride, padding in ENCODER_LAYERS:
        smaller = (side + 2 * padding - kernel) // stride + 1
        layers.append(Layer(inputs, outputs, kernel, side, smaller))
        inputs, side = outputs, smaller
    latent = meta.latent_dim * (1 if meta.vae is None else 2)
    return [*layers, Layer(inputs, latent, side, side, 1)]


def model_work(meta: BundleMetadata, patches: int, forwards: int, number_bytes: int) -> Work:
    """Of `patches` patches, each layer's input read and output written, in `forwards` calls that read the weights."""
    layers = encoder_layers(meta)
    passes = 2 if meta.vae is None else 1 + meta.vae.samples  # encoder and decoder, or a decoder for each sample
    flop = sum(layer.flop for layer in layers) * passes
    moved = sum(layer.activations for layer in layers) * passes
    weights = sum(layer.weights for layer in layers) * 2
    return Work(flop * patches, number_bytes * (moved * patches + weights * forwards))


def steps_work(settings: InspectionSettings, raw_pixels: int, patches: int, number_bytes: int) -> dict[str, Work]:
    """Of each step beside the model, over a roll of so many raw 8-bit pixels (of one channel), by the step's name.

    A number that the model takes or gives has `number_bytes`.
    """
    channels, patch = settings.channels, settings.channels * settings.patch_size**2
    maps = channels * (1 if settings.method != "vae" else 2)
    pixels = raw_pixels / settings.scale**2
    reach = smoothing_reach(settings.smoothing_sigma)
    return {
        "gate": Work(0, raw_pixels * channels),
        "to [0, 1], scaling": Work(raw_pixels * channels, raw_pixels * channels * (1 + FLOAT)),
        "gathering patches": Work(0, patches * patch * 2 * number_bytes),
        "adding patches": Work(
            patches * patch * (1 if settings.blend == "mean" else 2),
            number_bytes * patches * patch * maps / channels + FLOAT * 2 * pixels * maps,
        ),
        "residual": Work(pixels * channels * _residual_flop(settings), FLOAT * pixels * (channels + maps + 1)),
        "smoothing": Work(pixels * 2 * (3 * reach + 1) if reach else 0, 2 * FLOAT * pixels if reach else 0),
        "opening": Work(0, 2 * pixels),
        "labelling": Work(0, pixels),
    }


def _residual_flop(settings: InspectionSettings) -> int:
    """A pixel of one channel."""
    if settings.method != "ssim":
        return 3 if settings.method != "vae" else 9
    return MOMENTS + 5 * _window_flop(settings.ssim) + FORMULA


def _window_flop(ssim: SsimSettings) -> int:
    """Both axes of one map's window."""
    if ssim.kind == "uniform":  # by doubling, then one division by the window's area
        return 2 * (ssim.window.bit_length() - 1 + ssim.window.bit_count() - 1) + 1
    return 2 * (3 * (ssim.window // 2) + 1)
