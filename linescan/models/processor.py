"""What the processor at hand computes fast."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

SIZE = 512  # of the matrices that are multiplied: a few milliseconds each
ROUNDS = 8
CLEARLY = 1.2  # times as fast: below that the more exact numbers are worth more


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, fast or not."""
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("amx_bf16") or flags.get("avx512_bf16"))


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Whether bfloat16 is clearly faster than float32 here.

    AMX is. AVX512-bf16 alone tells nothing: of two processors that have it one multiplies twice as many numbers as in
    float32, the other half as many (docs/decisions/020), so there it is measured, in a twentieth of a second.
    """
    if torch.cpu.get_capabilities().get("amx_bf16"):
        return True
    return has_bfloat16() and product_seconds(torch.float32) >= CLEARLY * product_seconds(torch.bfloat16)


def product_seconds(dtype: torch.dtype) -> float:
    """Of a product of matrices on the threads that torch has; the best of several."""
    matrix = torch.full((SIZE, SIZE), 0.5, dtype=dtype)
    seconds: list[float] = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
