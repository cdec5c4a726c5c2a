"""How the C library keeps the memory of a network's activations."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep what a forward frees for the next one.

    Left to itself it hands the activations' memory back to the kernel, depending on what else was freed before, and
    takes it again page by page: up to half of a forward's time.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
            mallopt(_M_TRIM_THRESHOLD, 256 << 20)
