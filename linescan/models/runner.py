"""Runs a bundle's autoencoder in forwards of one fixed shape, on the CPU or a GPU."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from linescan.errors import ConfigError
from linescan.models.bundle import Bundle
from linescan.models.memory import keep_freed_memory

Precision = Literal["float32", "bfloat16", "float16"]
BATCHES = (16, 32, 64)  # candidates on a CPU; larger ones are no faster and fill up worse
ROWS_TOGETHER = 8  # rows of the grid that a camera's frame brings, at most, as a rule
GPU_BATCH = 256
TRIAL_ROUNDS = 3
FILLED_GAIN = 1.2  # end to end a batch that whole rows fill does better than its forwards say (docs/performance.md)
TRIAL_SECONDS = 0.15  # for each candidate in each round


@dataclass(frozen=True)
class Execution:
    """How the model runs; chosen once, since a patch's result depends on it in the last bits."""

    device: str
    precision: Precision
    batch: int
    threads: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Runner:
    """Maps N×C×P×P float32 patches to reconstructions by forwards of exactly `execution.batch` patches.

    Of a VAE these are the mean and the variance of its samples, N×2C×P×P.

    A patch's result is the same at every place of a batch of one size, so how patches are grouped does not show; the
    last forward is filled up with patches that do not count.
    """

    def __init__(self, bundle: Bundle, execution: Execution) -> None:
        self.execution = execution
        self.batch = execution.batch
        self.patches = 0  # reconstructed so far
        self.device = torch.device(execution.device)
        self._dtype: torch.dtype = getattr(torch, execution.precision)
        torch.set_num_threads(execution.threads)
        keep_freed_memory()
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        meta = bundle.metadata
        module = bundle.module(self.device, self._dtype)
        self._module = module if meta.vae is None else module.moments
        self._maps = meta.channels if meta.vae is None else 2 * meta.channels
        shape = (execution.batch, meta.channels, meta.patch_size, meta.patch_size)
        self._input = torch.full(shape, 0.5, dtype=self._dtype, device=self.device).to(
            memory_format=torch.channels_last
        )
        with torch.inference_mode():
            for _ in range(3):  # the first calls of a TorchScript module specialise it
                self._module(self._input)

    def __call__(self, patches: Tensor) -> Tensor:
        batch = self.execution.batch
        self.patches += len(patches)
        result = patches.new_empty(len(patches), self._maps, *patches.shape[2:])
        with torch.inference_mode():
            for first in range(0, len(patches), batch):
                part = patches[first : first + batch]
                self._input[: len(part)].copy_(part)
                result[first : first + batch].copy_(self._module(self._input)[: len(part)])
        return result

    def forward_once(self) -> None:
        """One bare forward of the fixed shape: what the model alone costs."""
        with torch.inference_mode():
            self._module(self._input)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


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
    as much where its last places stay empty.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda asked for, but torch finds no GPU here; --device cpu runs without one")
    for name, value in (("batch", batch), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value}: at least 1 expected")
    threads = threads or available_threads()
    precisions = _precisions(device, precision)
    usual = {GPU_BATCH} if device == "cuda" else set(BATCHES)
    if patches_a_row and device == "cpu":
        usual.add(filled_batch(patches_a_row))
    candidates = [Execution(device, p, b, threads) for p in precisions for b in ([batch] if batch else sorted(usual))]
    if len(candidates) == 1:
        return candidates[0]
    # in turn, and the best of each: what else runs on the machine may hit one trial, but hardly all of a candidate's
    rounds = [[patches_per_second(bundle, one) for one in candidates] for _ in range(TRIAL_ROUNDS)]
    filled = filled_batch(patches_a_row) if patches_a_row else None
    rate = {
        one: max(speeds) * filling(one.batch, patches_a_row) * (FILLED_GAIN if one.batch == filled else 1.0)
        for one, speeds in zip(candidates, zip(*rounds, strict=True), strict=True)
    }
    return max(candidates, key=rate.__getitem__)


def filled_batch(patches_a_row: int) -> int:
    """A batch near the usual ones that whole rows of the grid fill to all but a few places."""
    largest = max(BATCHES) + min(BATCHES) // 4
    if patches_a_row <= largest:
        return patches_a_row * max(1, min(BATCHES) // patches_a_row)
    return -(-patches_a_row // -(-patches_a_row // largest))


def filling(batch: int, patches_a_row: int | None) -> float:
    """Share of a forward's places that hold a patch, where 1 to ROWS_TOGETHER rows of the grid come at a time."""
    if not patches_a_row:
        return 1.0
    together = [rows * patches_a_row for rows in range(1, ROWS_TOGETHER + 1)]
    return sum(count / (-(-count // batch) * batch) for count in together) / ROWS_TOGETHER


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def patches_per_second(bundle: Bundle, execution: Execution, seconds: float = TRIAL_SECONDS) -> float:
    """Throughput of the bare forward in one way of running it."""
    count, spent = timed_forwards(Runner(bundle, execution), seconds)
    return count * execution.batch / spent


def timed_forwards(runner: Runner, seconds: float) -> tuple[int, float]:
    """How many bare forwards there were, and in how many seconds: at least those asked for, after one to warm up."""
    runner.forward_once()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        runner.forward_once()
        count += 1
    return count, elapsed


def _precisions(device: str, asked: str) -> tuple[Precision, ...]:
    if asked == "auto":
        if device == "cuda":
            return ("bfloat16",)
        return ("bfloat16",) if has_fast_bfloat16() else ("float32",)
    if asked not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"precision {asked!r}: auto, float32, bfloat16 or float16 expected")
    if asked == "float16" and device == "cpu":
        raise ConfigError("precision float16 is for a GPU; a CPU runs float32 or bfloat16")
    return (asked,)  # type: ignore[return-value]


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-bf16 or AMX)."""
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
