"""A frozen autoencoder on a CPU with each leaky ReLU done in the convolution before it.

TorchScript writes a convolution's result to memory and reads it again for its leaky ReLU; oneDNN can do both while the
result is in a register. These are the operations that torch's own compiler puts in; without a compiler they are called
in TorchScript one after the other. Whatever is not a plain chain of convolutions and leaky ReLUs stays TorchScript's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

Module = Callable[[Tensor], Tensor]
Scalars = list[int | float | complex | None]  # as oneDNN's operations have them
CONVOLUTIONS = ("aten::conv2d", "aten::conv_transpose2d")
OPERATIONS = ("_convolution_pointwise", "_convolution_transpose_pointwise")
FEW_CHANNELS = 4
PAIRS = {torch.bfloat16: torch.int32, torch.float32: torch.int64}  # as wide as two numbers
REORDERS = ("_reorder_convolution_weight", "_reorder_convolution_transpose_weight")


def fused(frozen: torch.jit.ScriptModule, example: Tensor) -> Module | None:
    """What gives `frozen`'s reconstructions of N×C×P×P tensors like `example`, up to rounding, in fewer passes.

    None where the module is anything but such a chain, or torch has not these operations.
    """
    available = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name) for name in (*OPERATIONS, *REORDERS)
    )
    chain = _chain(frozen.graph) if available else None
    if chain is None:
        return None
    layers: list[nn.Module] = []
    maps = example
    with torch.inference_mode():
        for number, (convolution, slope) in enumerate(chain, 1):
            layer = _layer(convolution, slope, maps, number == len(chain))
            if layer is None:
                return None
            layers.append(layer)
            maps = layer(maps)
        # one call of Python for all layers: within it other threads have Python to themselves
        return _scripted(layers)


def _scripted(layers: list[nn.Module]) -> Module:
    """The layers as one TorchScript, but for the last step of `Phases`, which cannot be said in it."""
    *before, last = layers
    spread = last.spread if isinstance(last, Phases) else None
    if isinstance(last, Phases):
        last = last.four
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as the bundle it is for
        convolutions: Module = torch.jit.script(nn.Sequential(*before, last))
    return convolutions if spread is None else lambda patches: spread(convolutions(patches))


def _chain(graph: Any) -> list[tuple[Any, float | None]] | None:
    """Convolutions in order, each with the slope of the leaky ReLU behind it; None where it is no such chain."""
    chain: list[tuple[Any, float | None]] = []
    maps = list(graph.inputs())[-1]
    for node in graph.nodes():
        if node.kind() == "prim::Constant":
            continue
        inputs = list(node.inputs())
        if node.outputsSize() != 1 or inputs[0].debugName() != maps.debugName():
            return None
        constants = [value.toIValue() for value in inputs[1:]]
        if node.kind() in CONVOLUTIONS:
            chain.append(((node.kind(), *constants), None))
        elif node.kind() == "aten::leaky_relu" and chain and chain[-1][1] is None:
            chain[-1] = chain[-1][0], float(constants[0])
        else:
            return None
        maps = node.output()
    outputs = [value.debugName() for value in graph.outputs()]
    return chain if chain and outputs == [maps.debugName()] else None


def _layer(convolution: Any, slope: float | None, example: Tensor, last: bool) -> nn.Module | None:
    kind, weight, bias, stride, padding = convolution[:5]
    if not isinstance(weight, Tensor) or not isinstance(padding, list):
        return None
    size = list(example.shape)
    if kind == "aten::conv2d":
        dilation, groups = convolution[5:]
        return Convolution(weight, bias, Steps(stride, padding, dilation, groups), slope, size)
    more, groups, dilation = convolution[5:]
    if size[2:] == dilation == [1, 1] and groups == 1 and not any((*padding, *more)):
        return Unfolding(weight, bias, slope)
    doubling = list(weight.shape[2:]) == [4, 4] and stride == [2, 2] and padding == [1, 1]
    few = weight.shape[1] <= FEW_CHANNELS and last
    if doubling and few and dilation == [1, 1] and groups == 1 and not any(more):
        return Phases(weight, bias, slope, size)
    return Transposed(weight, bias, Steps(stride, padding, dilation, groups), more, slope, size)


@dataclass(frozen=True)
class Steps:
    """How a kernel goes over the maps, down and right."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class _Convolving(nn.Module):
    """What a convolution is but for its weights, with the leaky ReLU of that slope behind it."""

    def __init__(self, bias: Tensor | None, steps: Steps, slope: float | None) -> None:
        super().__init__()
        self.bias = bias
        self.stride, self.padding = steps.stride, steps.padding
        self.dilation, self.groups = steps.dilation, steps.groups
        self.after = "none" if slope is None else "leaky_relu"
        self.slope = 1.0 if slope is None else slope


class Convolution(_Convolving):
    """A convolution."""

    def __init__(self, weight: Tensor, bias: Tensor | None, steps: Steps, slope: float | None, size: list[int]) -> None:
        super().__init__(bias, steps, slope)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, steps.padding, steps.stride, steps.dilation, steps.groups, size
        )

    def forward(self, maps: Tensor) -> Tensor:
        slope = torch.jit.annotate(Scalars, [self.slope])  # type: ignore[no-untyped-call]
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            maps, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, self.after, slope, ""
        )


class Transposed(_Convolving):
    """A transposed convolution; its result has `more` rows and columns than it needs."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, steps: Steps, more: list[int], slope: float | None, size: list[int]
    ) -> None:
        super().__init__(bias, steps, slope)
        self.more = more
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, steps.padding, more, steps.stride, steps.dilation, steps.groups, size
        )

    def forward(self, maps: Tensor) -> Tensor:
        slope = torch.jit.annotate(Scalars, [self.slope])  # type: ignore[no-untyped-call]
        return torch.ops.mkldnn._convolution_transpose_pointwise(  # type: ignore[no-any-return]
            maps, self.weight, self.bias, self.padding, self.more, self.stride, self.dilation, self.groups, self.after,
            slope, "",
        )  # fmt: skip


class Phases(nn.Module):
    """A transposed convolution to twice the size as a convolution with an output channel for each of four pixels.

    oneDNN gives a transposed convolution one vector for each output channel, most of it empty where they are few.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, slope: float | None, size: list[int]) -> None:
        super().__init__()
        self.channels = channels = weight.shape[1]
        taps = weight.new_zeros(2, 2, channels, weight.shape[0], 3, 3)  # below and right, their sources in 3×3 pixels
        for below, right, up, left in product(range(2), range(2), range(3), range(3)):
            row, column = below + 3 - 2 * up, right + 3 - 2 * left  # of the transposed kernel
            if 0 <= row < 4 and 0 <= column < 4:
                taps[below, right, :, :, up, left] = weight[:, :, row, column].T
        phases = taps.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        around = Steps([1, 1], [1, 1], [1, 1], 1)
        self.four: nn.Module = Convolution(phases, None if bias is None else bias.repeat(4), around, slope, size)
        self.spread: nn.Module = _Spread(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.spread(self.four(maps))  # type: ignore[no-any-return]


class _Spread(nn.Module):
    """Puts four channels for each of C into their four places, N×4C×h×w → N×C×2h×2w."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, four: Tensor) -> Tensor:
        count, _, height, width = four.shape
        # two neighbours of a row are moved as one number: half as many moves
        pairs = four.permute(0, 2, 3, 1).contiguous().view(PAIRS[four.dtype]).view(count, height, width, 2, -1)
        wide = pairs.transpose(2, 3).contiguous().view(four.dtype)
        return wide.view(count, 2 * height, 2 * width, self.channels).permute(0, 3, 1, 2)


class Unfolding(nn.Module):
    """The transposed convolution of a single pixel is a product with a matrix, which oneDNN does not notice."""

    def __init__(self, weight: Tensor, bias: Tensor | None, slope: float | None) -> None:
        super().__init__()
        _, self.channels, self.height, self.width = weight.shape
        self.matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (height·width·channels)×d
        numbers = len(self.matrix)
        self.offset = weight.new_zeros(numbers) if bias is None else bias.repeat(self.height * self.width)
        self.slope = 1.0 if slope is None else slope

    def forward(self, codes: Tensor) -> Tensor:
        product = torch.nn.functional.linear(codes.flatten(1), self.matrix, self.offset)
        maps = torch.nn.functional.leaky_relu(product, self.slope, inplace=True)
        return maps.view(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2)
