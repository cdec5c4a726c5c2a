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

SHARE = 8  # patches that a stream of its own is worth


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


class OpenVinoModule:
    """A model compiled for one batch: B×C×P×P float32 → the reconstructions, same shape, in memory that is used again.

    The batch is dealt out in equal shares, each to a stream with threads of its own, all in flight together; the last
    is filled up with patches that do not count. All streams run one compiled shape, so that neither a patch's share nor
    its place shows in its bits.

    Args:
        model: takes any batch; reshaped to a share's size here.
        bfloat16: whether to multiply in it what is not in int8; else float32.
        threads: of all streams together.
    """

    def __init__(self, model: Any, bfloat16: bool, batch: int, threads: int) -> None:
        openvino = import_openvino()
        streams = max(1, min(threads, batch // SHARE))
        share = -(-batch // streams)
        shape = [share, *model.input(0).get_partial_shape().to_shape()[1:]]
        model.reshape(shape)
        compiled = openvino.Core().compile_model(model, "CPU", _properties(openvino, bfloat16, streams, threads))
        given, made = (np.full((streams, *shape), 0.5, np.float32) for _ in range(2))
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        for request, one, other in zip(self._requests, given, made, strict=True):
            request.set_input_tensor(openvino.Tensor(one, shared_memory=True))
            request.set_output_tensor(openvino.Tensor(other, shared_memory=True))
        self.input = torch.from_numpy(given).flatten(0, 1)[:batch]
        self._output = torch.from_numpy(made).flatten(0, 1)[:batch]

    def __call__(self, batch: Tensor) -> Tensor:
        if batch.data_ptr() != self.input.data_ptr():
            self.input.copy_(batch)
        for request in self._requests:
            request.start_async()
        for request in self._requests:
            request.wait()
        return self._output


def _properties(openvino: Any, bfloat16: bool, streams: int, threads: int) -> dict[Any, Any]:
    hint, properties = openvino.properties.hint, openvino.properties
    return {
        hint.inference_precision: openvino.Type.bf16 if bfloat16 else openvino.Type.f32,
        # two cameras' workers would pin themselves to the same cores
        hint.enable_cpu_pinning: False,
        properties.inference_num_threads: max(threads, streams),
        openvino.properties.streams.num: streams,
    }
