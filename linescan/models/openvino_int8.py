"""The ranges with which a bundle runs in int8: measured on good web, kept beside the bundle, M.pt → M.int8.json.

The file holds numbers only: the weights come from the bundle each time, so that the bundle stays the one source of what
a model is. A convolution's input x is taken as round(x / s) with one s for the layer, its weights with one for each
output channel; sums are exact (Jacob et al. 2018).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from linescan.config import Settings, explain
from linescan.errors import BundleError, ConfigError, InputError
from linescan.files import write_atomically
from linescan.models.bundle import Bundle
from linescan.models.openvino import OpenVinoForward, OpenVinoModule, converted, import_openvino
from linescan.models.parity import difference

if TYPE_CHECKING:
    from linescan.models.runner import Execution

CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")
SIGNED, UNSIGNED = 127, 255  # steps from 0 to the largest value
MOST_DIFFERENCE = 1.5  # of what was measured when the ranges were; a CPU whose int8 sums overflow differs by far more
MEASURING_BATCH = 32


class Ranges(Settings):
    """M.int8.json: what each convolution's input reached on good web, in the graph's order."""

    format: Literal[1] = 1
    bundle_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    lowest: tuple[float, ...]  # a pixel's is 0 and 1
    highest: tuple[float, ...]
    patches: Annotated[int, Field(ge=1)]  # that they were measured on
    training_sha256: str  # of the pixels that these were cut from
    reference_difference: Annotated[float, Field(ge=0)]  # RMS of int8 against float32 on the bundle's reference patch


@dataclass(frozen=True)
class StoredRanges:
    """Ranges as a file has them, with its name and hash."""

    ranges: Ranges
    path: Path
    sha256: str


def ranges_path(bundle: Bundle) -> Path:
    return Path(bundle.path).with_suffix(".int8.json")


def load_ranges(bundle: Bundle) -> StoredRanges:
    """The ranges beside a bundle; raises ConfigError where there are none, InputError where they are of another."""
    path = ranges_path(bundle)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"precision int8: {path} cannot be read ({error.strerror}); `linescan quantise --model {bundle.path} "
            "--images GOOD` measures it"
        ) from error
    try:
        ranges = Ranges.model_validate(json.loads(data))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not the ranges of a model: {error}") from error
    if ranges.bundle_sha256 != bundle.sha256:
        raise InputError(f"{path}: was measured with another bundle than {bundle.path}; run `linescan quantise` again")
    return StoredRanges(ranges, path, hashlib.sha256(data).hexdigest())


def save_ranges(bundle: Bundle, ranges: Ranges) -> Path:
    """Writes them where `load_ranges` looks."""
    path = ranges_path(bundle)
    write_atomically(path, (json.dumps(ranges.model_dump(mode="json"), indent=1) + "\n").encode())
    return path


def measure_ranges(bundle: Bundle, patches: Tensor, training_sha256: str = "") -> Ranges:
    """What each convolution's input reaches over N×C×P×P patches of good web in [0, 1].

    Raises ConfigError without OpenVINO or for a VAE, BundleError for a model without convolutions.
    """
    openvino = import_openvino()
    model = converted(bundle, MEASURING_BATCH)
    inputs = [node.input(0).get_source_output() for node in _convolutions(model, bundle.path)]
    probe = openvino.Model([openvino.opset13.result(one) for one in inputs], model.get_parameters(), "inputs")
    exact = {openvino.properties.hint.inference_precision: openvino.Type.f32}
    compiled = openvino.Core().compile_model(probe, "CPU", exact)
    reached = [_reached(compiled, part) for part in torch.split(patches, MEASURING_BATCH)]
    lowest, highest = np.min([low for low, _ in reached], 0), np.max([high for _, high in reached], 0)
    lowest[0], highest[0] = 0.0, 1.0  # what pixels can be, and of 8 bits exactly what they are
    ranges = Ranges(
        bundle_sha256=bundle.sha256, lowest=lowest.tolist(), highest=highest.tolist(), patches=len(patches),
        training_sha256=training_sha256, reference_difference=0.0,
    )  # fmt: skip
    module = OpenVinoModule(int8_model(bundle, ranges), False, 1, 1)
    return ranges.model_copy(update={"reference_difference": reference_difference(bundle, module)})


def int8_model(bundle: Bundle, ranges: Ranges) -> Any:
    """The bundle's graph with its convolutions' inputs and weights rounded to 8 bits, as an openvino.Model.

    Raises BundleError where the ranges are not those of so many convolutions.
    """
    model = converted(bundle, 1)
    nodes = _convolutions(model, bundle.path)
    if not len(nodes) == len(ranges.lowest) == len(ranges.highest):
        raise BundleError(f"{bundle.path}: {len(nodes)} convolutions, its ranges are for {len(ranges.lowest)}")
    for node, low, high in zip(nodes, ranges.lowest, ranges.highest, strict=True):
        _round_input(node, low, high)
        _round_weights(node)
    model.validate_nodes_and_infer_types()
    return model


def openvino_module(bundle: Bundle, execution: Execution) -> OpenVinoModule:
    """The bundle compiled for one way of running it; in int8 with the ranges beside it.

    Raises ConfigError without OpenVINO, for a VAE, without ranges, where their file is not the one that the execution
    names, and where this CPU's int8 is far from float32.
    """
    batch, threads = execution.batch, execution.threads
    if execution.precision != "int8":
        return OpenVinoModule(converted(bundle, 1), execution.precision == "bfloat16", batch, threads)
    stored = load_ranges(bundle)
    if execution.quantisation not in ("", stored.sha256):
        raise ConfigError(
            f"{stored.path}: has sha256 {stored.sha256}, the roll that runs began with {execution.quantisation}; put "
            "it back as it was, or end the roll (`linescan roll end`)"
        )
    module = OpenVinoModule(int8_model(bundle, stored.ranges), False, batch, threads)
    apart, measured = reference_difference(bundle, module), stored.ranges.reference_difference
    if not apart <= MOST_DIFFERENCE * measured:
        raise ConfigError(
            f"{stored.path}: int8 differs from float32 by {apart:.4g} on this CPU, {measured:.4g} where the "
            "ranges were measured; another precision, or `linescan quantise` and `linescan calibrate` on this machine"
        )
    return module


def reference_difference(bundle: Bundle, module: OpenVinoModule) -> float:
    """RMS by which a module's reconstructions of the bundle's reference patch differ from float32's by torch."""
    forward = module.forwards[0]

    def one_by_one(patches: Tensor) -> Tensor:
        return torch.cat([_first_of(forward, patch) for patch in patches])

    with torch.inference_mode():
        return difference(bundle, one_by_one, bundle.module())


def _first_of(forward: OpenVinoForward, patch: Tensor) -> Tensor:
    forward.input.copy_(patch.expand_as(forward.input))
    return forward()[:1].clone()


def _convolutions(model: Any, name: str) -> list[Any]:
    found = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() in CONVOLUTIONS
        and node.input(1).get_source_output().get_node().get_type_name() == "Constant"
    ]
    if not found:
        raise BundleError(f"{name}: its model has no convolution that could run in int8")
    return found


def _reached(compiled: Any, patches: Tensor) -> tuple[list[float], list[float]]:
    """Lowest and highest value at each output, over patches that need not fill the batch."""
    filled = patches[torch.arange(MEASURING_BATCH) % len(patches)].numpy()
    values: Sequence[NDArray[np.float32]] = list(compiled(filled).values())
    return [float(one.min()) for one in values], [float(one.max()) for one in values]


def _round_input(node: Any, low: float, high: float) -> None:
    """One step for the whole layer. With an offset for negative values OpenVINO takes no int8 kernel: so 0 is 0."""
    if low >= 0:
        _round(node, 0, np.zeros(1), np.full(1, max(high, 1e-6)), UNSIGNED + 1)
    else:
        largest = np.full(1, max(high, -low))
        _round(node, 0, -largest * (SIGNED + 1) / SIGNED, largest, UNSIGNED + 1)


def _round_weights(node: Any) -> None:
    """One step for each output channel, the first axis of a convolution's weights, the second of a transposed one's."""
    weights = np.asarray(node.input(1).get_source_output().get_node().get_data())
    own = 0 if node.get_type_name() == "Convolution" else 1
    others = tuple(axis for axis in range(weights.ndim) if axis != own)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    largest[largest == 0] = 1.0  # a channel of zeros
    _round(node, 1, -largest, largest, 2 * SIGNED + 1)


def _round(node: Any, number: int, low: NDArray[Any], high: NDArray[Any], levels: int) -> None:
    """Puts rounding to `levels` values from low to high in front of that input of a node."""
    openvino = import_openvino()
    shape = low.shape if low.ndim > 1 else (1, 1, 1, 1)
    ends = [openvino.opset13.constant(end.astype(np.float32).reshape(shape)) for end in (low, high)]
    source = node.input(number).get_source_output()
    node.input(number).replace_source_output(openvino.opset13.fake_quantize(source, *ends, *ends, levels).output(0))
