"""What the machine can do at most: a matrix product and a copy of memory, as torch runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from linescan.models.runner import Execution

SIDE = 2048  # of the matrices
COPY_BYTES = 1 << 28  # far more than a core's own cache
TRIALS, TRIAL_SECONDS = 5, 0.15


@dataclass(frozen=True)
class Ceilings:
    """The best of some trials: operations/s of a product of square matrices, bytes/s read and written by a copy."""

    model_flop_per_second: float
    """in the precision of the model; for int8 into whole numbers of 32 bits"""
    float32_flop_per_second: float
    bytes_per_second: float


def measure_ceilings(execution: Execution, side: int = SIDE, copy_bytes: int = COPY_BYTES) -> Ceilings:
    """With the threads and the precision of the execution."""
    torch.set_num_threads(execution.threads)
    device = torch.device("cuda" if execution.device == "cuda" else "cpu")
    products = {}
    model = number_type(execution)
    for dtype in {torch.float32, model}:
        left, right = ((100 * torch.rand(side, side, device=device)).to(dtype) for _ in range(2))
        multiply = torch.mm if dtype.is_floating_point else torch._int_mm
        products[dtype] = 2 * side**3 * _best_rate(partial(multiply, left, right), device)
    source = torch.ones(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    copies = _best_rate(lambda: target.copy_(source), device)
    return Ceilings(products[model], products[torch.float32], 2 * copy_bytes * copies)


def number_type(execution: Execution) -> torch.dtype:
    """Of the activations that a forward moves."""
    dtype: torch.dtype = getattr(torch, execution.precision)
    return dtype


def _best_rate(run: Callable[[], object], device: torch.device) -> float:
    """Calls a second, in the best of TRIALS."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    finish()
    best = 0.0
    for _ in range(TRIALS):
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < TRIAL_SECONDS or not count:
            run()
            finish()
            count += 1
        best = max(best, count / elapsed)
    return best
