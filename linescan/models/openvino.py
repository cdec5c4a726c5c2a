"""A bundle's autoencoder through OpenVINO on the CPU: float32, bfloat16, or int8 with measured ranges.

An extra. `openvino.convert_model` and NNCF tell Google Analytics of each conversion unless the user has opted out; so
the front end is asked directly, and what NNCF would do is done in `openvino_int8` (decision 016).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linescan.errors import BundleError, ConfigError
from linescan.models.bundle import Bundle


def openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """The package; raises ConfigError that names the extra where it is missing."""
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            f"device openvino: openvino cannot be loaded ({error}); pip install 'linescan[openvino]' brings it"
        ) from error
    return openvino


def check_openvino(bundle: Bundle) -> None:
    """Raises ConfigError where the package is missing or cannot run that bundle."""
    if not openvino_installed():
        raise ConfigError(
            "device openvino: the package openvino is not installed; pip install 'linescan[openvino]' brings it"
        )
    if bundle.metadata.vae is not None:
        raise ConfigError(
            f"{bundle.path}: device openvino does not run a VAE's samples; methods ssim, l2 and fm were expected, "
            "or --device cpu"
        )


def converted(bundle: Bundle, batch: int) -> Any:
    """The bundle's graph as an openvino.Model, float32, for exactly `batch` patches.

    Raises ConfigError for a VAE or without the package, BundleError where OpenVINO cannot take the graph.
    """
    check_openvino(bundle)
    import_openvino()
    from openvino.frontend import FrontEndManager, OpConversionFailure
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    meta = bundle.metadata
    try:
        decoder = TorchScriptPythonDecoder(bundle.module())  # the front end does not keep it alive
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
        model.reshape([batch, meta.channels, meta.patch_size, meta.patch_size])
    except (RuntimeError, OpConversionFailure) as error:
        raise BundleError(f"{bundle.path}: OpenVINO cannot take its model: {str(error).strip()[:200]}") from error
    return model


class OpenVinoForward:
    """One request of a compiled model: its input is overwritten for each run, and so is what a run gives.

    Args:
        compiled: for exactly B×C×P×P patches, `shape`.
    """

    def __init__(self, compiled: Any, shape: list[int]) -> None:
        openvino = import_openvino()
        given, made = (np.full(shape, 0.5, np.float32) for _ in range(2))
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(given, shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(made, shared_memory=True))
        self.input, self._output = torch.from_numpy(given), torch.from_numpy(made)

    def __call__(self) -> Tensor:
        self._request.start_async()
        self._request.wait()  # other threads have Python meanwhile
        return self._output


class OpenVinoModule:
    """A model compiled for batches of one size: B×C×P×P float32 → the reconstructions, same shape.

    Each of `forwards` has a stream of one thread, so they may all run at once, each on a batch of its own. All streams
    run one compiled shape: neither the forward nor its place shows in a patch's bits.

    Args:
        model: takes any batch; reshaped here.
        bfloat16: whether to multiply in it what is not in int8; else float32.
        threads: how many forwards there are.
    """

    def __init__(self, model: Any, bfloat16: bool, batch: int, threads: int) -> None:
        openvino = import_openvino()
        shape = [batch, *model.input(0).get_partial_shape().to_shape()[1:]]
        model.reshape(shape)
        compiled = openvino.Core().compile_model(model, "CPU", _properties(openvino, bfloat16, threads))
        self.forwards = [OpenVinoForward(compiled, shape) for _ in range(threads)]


def _properties(openvino: Any, bfloat16: bool, threads: int) -> dict[Any, Any]:
    hint, properties = openvino.properties.hint, openvino.properties
    return {
        hint.inference_precision: openvino.Type.bf16 if bfloat16 else openvino.Type.f32,
        # two cameras' workers would pin themselves to the same cores
        hint.enable_cpu_pinning: False,
        properties.inference_num_threads: threads,
        openvino.properties.streams.num: threads,
    }
