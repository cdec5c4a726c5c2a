"""Runs a bundle's autoencoder in forwards of one fixed shape, on the CPU or a GPU."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from linescan.errors import ConfigError
from linescan.inspection.cuda import queues_of
from linescan.inspection.queues import Queues
from linescan.inspection.reconstruction import Fill, Take
from linescan.inspection.thread_queues import thread_queues
from linescan.inspection.threads import shared_out
from linescan.models.bundle import Bundle
from linescan.models.device import OutOfMemory, device_lost
from linescan.models.fused import fused
from linescan.models.memory import keep_freed_memory
from linescan.models.openvino import check_openvino
from linescan.models.openvino_int8 import load_ranges, openvino_module
from linescan.models.parity import TOLERANCE, PrecisionWarning, difference, parity_patches
from linescan.models.processor import has_fast_bfloat16

Result = TypeVar("Result")
Precision = Literal["float32", "bfloat16", "float16", "int8"]
BATCHES = (16, 32, 64)  # candidates on a CPU; larger ones are no faster and fill up worse
ROWS_TOGETHER = 8  # rows of the grid that a camera's frame brings, at most, as a rule
GPU_BATCH = 256
PARITY_BATCH = 4  # of the check against float32
TRIAL_ROUNDS = 3
FILLED_GAIN = 1.2  # end to end a batch that whole rows fill does better than its forwards say (docs/performance.md)
TRIAL_SECONDS = 0.15  # for each candidate in each round


@dataclass(frozen=True)
class Execution:
    """How the model runs; chosen once, since a patch's result depends on it in the last bits.

    On a CPU each of the threads does a batch of its own. `device` openvino is the CPU through OpenVINO; `quantisation`
    the sha256 of the ranges that its int8 uses.
    """

    device: str
    precision: Precision
    batch: int
    threads: int
    quantisation: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "quantisation" or value}


@dataclass(frozen=True)
class Forward:
    """The model over one input of the fixed shape, which is overwritten for each run."""

    input: Tensor
    run: Callable[[], Tensor]

    def __call__(self) -> Tensor:
        return self.run()


class Runner:
    """Maps N×C×P×P float32 patches to reconstructions by forwards of exactly `execution.batch` patches.

    Of a VAE these are the mean and the variance of its samples, N×2C×P×P.

    A patch's result is the same at every place of a batch of one size, so how patches are grouped does not show; the
    last forward is filled up with patches that do not count. On a CPU each thread does forwards of its own (best are
    whole multiples of `at_once` patches); on a device the forward is replayed as one launch, and
    belongs into the compute queue, as all that uses its buffers does.

    Args:
        fuse: whether a CPU may run the bundle's graph in fewer passes than TorchScript does (docs/decisions/017).
    """

    def __init__(self, bundle: Bundle, execution: Execution, queues: Queues | None = None, fuse: bool = True) -> None:
        self.execution = execution
        self.batch = execution.batch
        self.patches = 0  # reconstructed so far
        self.device = torch.device("cpu" if execution.device == "openvino" else execution.device)
        torch.set_num_threads(execution.threads)
        keep_freed_memory()
        if self.device.type == "cuda":
            _be_exact()
        self._queues = queues or queues_of(self.device)
        meta = bundle.metadata
        self._maps = meta.channels if meta.vae is None else 2 * meta.channels
        self._threads = side_by_side(execution.device, execution.threads)
        self.at_once = self._threads * self.batch
        forwards = shared_out(lambda _: self._forwards(bundle, fuse), range(1), self._threads)[0]
        self.dtype: torch.dtype = forwards[0].input.dtype
        self._idle: SimpleQueue[Forward] = SimpleQueue()
        for forward in forwards:
            self._idle.put(forward)

    @property
    def queues(self) -> Queues:
        """Where an inspection of a stream of lines computes with it, so that it has work all the time."""
        return thread_queues() if self._threads > 1 else self._queues

    def _forwards(self, bundle: Bundle, fuse: bool) -> list[Forward]:
        """The forward with an input for each thread, warm."""
        execution, meta = self.execution, bundle.metadata
        if execution.device == "openvino":
            forwards = [Forward(one.input, one) for one in openvino_module(bundle, execution).forwards]
        else:
            dtype: torch.dtype = getattr(torch, execution.precision)
            loaded = bundle.module(self.device, dtype)
            module: Callable[[Tensor], Tensor] = loaded if meta.vae is None else loaded.moments
            shape = (execution.batch, meta.channels, meta.patch_size, meta.patch_size)
            example = torch.full(shape, 0.5, dtype=dtype, device=self.device)
            inputs = [example.to(memory_format=torch.channels_last, copy=True) for _ in range(self._threads)]
            if fuse and self.device.type == "cpu" and meta.vae is None:
                module = _fused_or(loaded, bundle, inputs[0])
            forwards = [Forward(one, partial(module, one)) for one in inputs]
        with torch.inference_mode():
            for forward in forwards:
                for _ in range(3):  # the first calls of a TorchScript module specialise it
                    forward()
            if self._queues.apart:
                forwards = [Forward(one.input, self._recorded(one.run)) for one in forwards]
        return forwards

    def _shared_out(self, work: Callable[[int], Result], pieces: Sequence[int]) -> list[Result]:
        """On the threads, each in inference mode: the same number of threads at every call, so to the same bits."""

        def one(piece: int) -> Result:
            with torch.inference_mode():
                return work(piece)

        return shared_out(one, pieces, self._threads)

    def _recorded(self, forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The forward as one launch; where the device cannot record it, its many launches as before."""
        try:
            return self._queues.capture(forward)
        except OutOfMemory:
            raise
        except RuntimeError as error:
            if device_lost(error):
                raise
            warnings.warn(f"the forward cannot be recorded, and is launched piece by piece: {error}", stacklevel=3)
            return forward

    def __call__(self, patches: Tensor) -> Tensor:
        result = patches.new_empty(len(patches), self._maps, *patches.shape[2:])

        def fill(first: int, place: Tensor) -> None:
            place.copy_(patches[first : first + len(place)])

        def take(first: int, _patches: Tensor, reconstructions: Tensor) -> None:
            result[first : first + len(reconstructions)].copy_(reconstructions)

        self.reconstruct(len(patches), fill, take)
        return result

    def reconstruct(self, count: int, fill: Fill, take: Take) -> None:
        """Reconstructs so many patches, batch by batch; on a CPU both functions work on the thread of the forward.

        Args:
            fill: writes patches first, first + 1, … into n×C×P×P `place`, in the model's precision.
            take: has their reconstructions, in that precision, beside the patches; both are overwritten after it.
        """
        self.patches += count

        def one(first: int) -> None:
            forward = self._idle.get()
            try:
                patches = forward.input[: count - first]
                fill(first, patches)
                take(first, patches, forward()[: len(patches)])
            finally:
                self._idle.put(forward)

        self._shared_out(one, range(0, count, self.batch))

    def bare(self, seconds: float) -> tuple[int, float]:
        """Bare forwards of the fixed shape for so long: how many there were, and in how many seconds."""

        def run(_: int) -> int:
            forward = self._idle.get()
            try:
                count = 0
                while not count or time.perf_counter() - start < seconds:
                    forward()
                    if self.device.type == "cuda":
                        torch.cuda.synchronize()
                    count += 1
                return count
            finally:
                self._idle.put(forward)

        start = time.perf_counter()
        counts = self._shared_out(run, range(self._threads))
        return sum(counts), time.perf_counter() - start


def _fused_or(plain: torch.jit.ScriptModule, bundle: Bundle, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The module in fewer passes, where it can be had and does the same; else as it is."""
    module = fused(plain, example)
    if module is None:
        return plain
    patches = parity_patches(bundle)
    patches = patches[torch.arange(len(example)) % len(patches)].to(example)
    patches = patches.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        apart = float((module(patches).float() - plain(patches).float()).square().mean().sqrt())
    if apart <= TOLERANCE:
        return module
    warnings.warn(
        f"{bundle.path}: with convolutions and leaky ReLUs in one pass its reconstructions are {apart:.3g} of full "
        f"scale away from TorchScript's (root mean square), at most {TOLERANCE:g} are tolerated: it runs as it is, "
        "slower",
        PrecisionWarning,
        stacklevel=4,
    )
    return plain


def choose_execution(
    bundle: Bundle,
    device: str | None = None,
    precision: str = "auto",
    batch: int | None = None,
    threads: int | None = None,
    patches_a_row: int | None = None,
) -> Execution:
    """What is asked for, and the rest by measurement: the fastest precision and batch of the machine at hand.

    Where it is known how many patches a row of the grid has, a batch that they fill is a candidate too: a forward costs
    as much where its last places stay empty. A bundle whose output in half precision is too far from float32 runs in
    float32, with a PrecisionWarning.
    """
    chosen = _fastest(bundle, device, precision, batch, threads, patches_a_row)
    if in_precision(bundle, chosen) == chosen:
        return chosen
    return _fastest(bundle, device, "float32", batch, threads, patches_a_row)


def in_precision(bundle: Bundle, execution: Execution) -> Execution:
    """The execution, in float32 and with a PrecisionWarning where its half precision is too rough for this bundle."""
    if execution.precision not in ("bfloat16", "float16"):
        return execution
    half = replace(execution, batch=min(execution.batch, PARITY_BATCH))
    exact = replace(half, precision="float32")
    apart = difference(bundle, *(_on_device(Runner(bundle, one)) for one in (half, exact)))
    if apart <= TOLERANCE:
        return execution
    warnings.warn(
        f"{bundle.path}: in {execution.precision} its reconstructions are {apart:.3g} of full scale away from float32 "
        f"(root mean square), at most {TOLERANCE:g} are tolerated: it runs in float32",
        PrecisionWarning,
        stacklevel=3,
    )
    return replace(execution, precision="float32")


def _on_device(runner: Runner) -> Callable[[Tensor], Tensor]:
    return lambda patches: runner(patches.to(runner.device))


def _be_exact() -> None:
    """The same bits from run to run, and float32 that is float32: the parity check rests on it."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _fastest(
    bundle: Bundle,
    device: str | None,
    precision: str,
    batch: int | None,
    threads: int | None,
    patches_a_row: int | None,
) -> Execution:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda asked for, but torch finds no GPU here; --device cpu runs without one")
    if device == "openvino":
        check_openvino(bundle)
    for name, value in (("batch", batch), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value}: at least 1 expected")
    threads = threads or available_threads()
    precisions = _precisions(device, precision)
    forwards = side_by_side(device, threads)
    filled = [filled_batch(patches_a_row, count) for count in (forwards, 1)] if patches_a_row else []
    batches = [batch] if batch else _usual_batches(device, filled)
    quantisation = load_ranges(bundle).sha256 if precision == "int8" else ""
    candidates = [Execution(device, p, b, threads, quantisation) for p in precisions for b in batches]
    if len(candidates) == 1:
        return candidates[0]
    # in turn, and the best of each: what else runs on the machine may hit one trial, but hardly all of a candidate's
    rounds = [[patches_per_second(bundle, one) for one in candidates] for _ in range(TRIAL_ROUNDS)]
    rate = {
        one: max(speeds) * filling(one.batch, patches_a_row, forwards) * (FILLED_GAIN if one.batch in filled else 1.0)
        for one, speeds in zip(candidates, zip(*rounds, strict=True), strict=True)
    }
    return max(candidates, key=rate.__getitem__)


def _usual_batches(device: str, filled: list[int]) -> list[int]:
    """Which batches are worth a trial; of OpenVINO one, since compiling takes longer than the trials can win."""
    if device == "cuda":
        return [GPU_BATCH]
    if device == "openvino":
        return filled[:1] or [max(BATCHES)]
    return sorted({*filled, *BATCHES})


def side_by_side(device: str, threads: int) -> int:
    """How many forwards run at once: one on each thread of a CPU, a single one on a GPU."""
    return 1 if device == "cuda" else threads


def filled_batch(patches_a_row: int, threads: int = 1) -> int:
    """A batch near the usual ones that whole rows of the grid fill to all but a few places, on all threads."""
    largest = max(BATCHES) + min(BATCHES) // 4
    if patches_a_row < min(BATCHES):
        return patches_a_row * (min(BATCHES) // patches_a_row)
    parts = -(-patches_a_row // (largest * threads)) * threads
    return -(-patches_a_row // parts)


def filling(batch: int, patches_a_row: int | None, threads: int = 1) -> float:
    """Share of the threads' places that hold a patch, where 1 to ROWS_TOGETHER rows of the grid come at a time."""
    if not patches_a_row:
        return 1.0
    at_once = batch * threads
    together = [rows * patches_a_row for rows in range(1, ROWS_TOGETHER + 1)]
    return sum(count / (-(-count // at_once) * at_once) for count in together) / ROWS_TOGETHER


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def patches_per_second(bundle: Bundle, execution: Execution, seconds: float = TRIAL_SECONDS) -> float:
    """Throughput of the bare forward in one way of running it."""
    count, spent = timed_forwards(Runner(bundle, execution), seconds)
    return count * execution.batch / spent


def timed_forwards(runner: Runner, seconds: float) -> tuple[int, float]:
    """How many bare forwards there were, and in how many seconds: at least those asked for, after one to warm up."""
    runner.bare(0)
    return runner.bare(seconds)


def _precisions(device: str, asked: str) -> tuple[Precision, ...]:
    if asked == "auto":
        if device == "cuda":
            return ("bfloat16",)
        return ("bfloat16",) if has_fast_bfloat16() else ("float32",)
    if asked == "int8" and device != "openvino":
        raise ConfigError("precision int8 runs through OpenVINO alone: device openvino was expected with it")
    if asked not in ("float32", "bfloat16", "float16", "int8"):
        raise ConfigError(f"precision {asked!r}: auto, float32, bfloat16 or float16 expected")
    if asked == "float16" and device != "cuda":
        raise ConfigError("precision float16 is for a GPU; a CPU runs float32 or bfloat16")
    return (asked,)  # type: ignore[return-value]
