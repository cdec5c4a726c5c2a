"""A frozen autoencoder on a CPU with each leaky ReLU done in the convolution before it.

TorchScript writes a convolution's result to memory and reads it again for its leaky ReLU; oneDNN can do both while the
result is in a register. These are the operations that torch's own compiler puts in; without a compiler they are called
here one after the other. Whatever is not a plain chain of convolutions and leaky ReLUs stays TorchScript's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

Module = Callable[[Tensor], Tensor]
After = tuple[str, list[float], str]  # of a convolution: name, scalars, algorithm
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
    layers: list[Module] = []
    maps = example
    with torch.inference_mode():
        for convolution, slope in chain:
            layer = _layer(convolution, slope, maps)
            if layer is None:
                return None
            layers.append(layer)
            maps = layer(maps)
    return lambda patches: _through(layers, patches)


def _through(layers: list[Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps


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


def _layer(convolution: Any, slope: float | None, example: Tensor) -> Module | None:
    kind, weight, bias, stride, padding = convolution[:5]
    if not isinstance(weight, Tensor) or not isinstance(padding, list):
        return None
    after: After = ("none", [], "") if slope is None else ("leaky_relu", [slope], "")
    size, operations = list(example.shape), torch.ops.mkldnn
    if kind == "aten::conv2d":
        dilation, groups = convolution[5:]
        laid = operations._reorder_convolution_weight(weight, padding, stride, dilation, groups, size)
        return lambda maps: operations._convolution_pointwise(
            maps, laid, bias, padding, stride, dilation, groups, *after
        )
    more, groups, dilation = convolution[5:]
    if size[2:] == dilation == [1, 1] and groups == 1 and not any((*padding, *more)):
        return _unfolding(weight, bias, slope)
    doubling = list(weight.shape[2:]) == [4, 4] and stride == [2, 2] and padding == [1, 1]
    if doubling and weight.shape[1] <= FEW_CHANNELS and dilation == [1, 1] and groups == 1 and not any(more):
        return _by_phases(weight, bias, after, size)
    laid = operations._reorder_convolution_transpose_weight(weight, padding, more, stride, dilation, groups, size)
    return lambda maps: operations._convolution_transpose_pointwise(
        maps, laid, bias, padding, more, stride, dilation, groups, *after
    )


def _by_phases(weight: Tensor, bias: Tensor | None, after: After, size: list[int]) -> Module:
    """A transposed convolution to twice the size as a convolution with an output channel for each of four pixels.

    oneDNN gives a transposed convolution one vector for each output channel, most of it empty where they are few.
    """
    channels, operations = weight.shape[1], torch.ops.mkldnn
    taps = weight.new_zeros(2, 2, channels, weight.shape[0], 3, 3)  # below and right, their sources in 3×3 pixels
    for below, right, up, left in product(range(2), range(2), range(3), range(3)):
        row, column = below + 3 - 2 * up, right + 3 - 2 * left  # of the transposed kernel
        if 0 <= row < 4 and 0 <= column < 4:
            taps[below, right, :, :, up, left] = weight[:, :, row, column].T
    phases = taps.flatten(0, 2).contiguous(memory_format=torch.channels_last)
    offset = None if bias is None else bias.repeat(4)
    laid = operations._reorder_convolution_weight(phases, [1, 1], [1, 1], [1, 1], 1, size)

    def layer(maps: Tensor) -> Tensor:
        four = operations._convolution_pointwise(maps, laid, offset, [1, 1], [1, 1], [1, 1], 1, *after)
        count, _, height, width = four.shape
        # two neighbours of a row are moved as one number: half as many moves
        pairs = four.permute(0, 2, 3, 1).contiguous().view(PAIRS[four.dtype]).view(count, height, width, 2, channels)
        wide: Tensor = pairs.transpose(2, 3).contiguous().view(four.dtype)
        return wide.view(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)

    return layer


def _unfolding(weight: Tensor, bias: Tensor | None, slope: float | None) -> Module:
    """The transposed convolution of a single pixel is a product with a matrix, which oneDNN does not notice."""
    _, channels, height, width = weight.shape
    matrix = weight.permute(0, 2, 3, 1).flatten(1).contiguous()  # d×(height·width·channels)
    offset = matrix.new_zeros(matrix.shape[1]) if bias is None else bias.repeat(height * width)

    def layer(codes: Tensor) -> Tensor:
        product = torch.addmm(offset, codes.flatten(1), matrix)
        if slope is not None:
            torch.nn.functional.leaky_relu_(product, slope)
        return product.view(-1, height, width, channels).permute(0, 3, 1, 2)

    return layer
