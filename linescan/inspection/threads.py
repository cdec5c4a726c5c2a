"""Threads that share work on a CPU piece by piece: a core that is slower, or has other work, does fewer pieces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier, Lock
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def shared_out(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], threads: int, pool: str = "model"
) -> list[Result]:
    """`work` of each piece, in their order, on so many threads; within one, torch has no threads of its own.

    Returns when nothing runs any more; then raises the first piece's error, if there is one. A single thread is the
    caller's. Pieces of one pool wait for each other.
    """
    if threads == 1:
        return [work(piece) for piece in pieces]
    running: list[Future[Result]] = [_pool(threads, pool).submit(work, piece) for piece in pieces]
    wait(running)
    return [one.result() for one in running]


class InTurn:
    """Does what several threads bring in the order of its numbers, without having any of them wait for its turn.

    Whoever brings what is next does it, and all that came too early and follows it.
    """

    def __init__(self) -> None:
        self._early: dict[int, tuple[int, Callable[[], None]]] = {}
        self._next = 0
        self._busy = False
        self._lock = Lock()

    def bring(self, first: int, count: int, work: Callable[[], None]) -> None:
        """Number `first`, which is as many numbers long as `count`."""
        with self._lock:
            self._early[first] = count, work
            if self._busy:
                return
            self._busy = True  # and stays so after an error: nothing may follow what was left out
        while (following := self._following()) is not None:
            following()

    def _following(self) -> Callable[[], None] | None:
        with self._lock:
            if self._next not in self._early:
                self._busy = False
                return None
            count, work = self._early.pop(self._next)
            self._next += count
            return work


@lru_cache(maxsize=8)
def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    pool, before = ThreadPoolExecutor(threads, thread_name_prefix=f"linescan-{name}"), torch.get_num_threads()
    together = Barrier(threads)  # each thread does one of the following calls

    def be_one() -> None:
        together.wait()
        torch.get_num_threads()  # asked first, since a thread's first question gives it the number that is set last
        torch.set_num_threads(1)

    try:
        begun = [pool.submit(be_one) for _ in range(threads)]
    except RuntimeError:  # the system has no thread left: those that wait for it would wait for ever
        together.abort()
        raise
    wait(begun)
    torch.set_num_threads(before)  # of this thread and of those to come
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has no such threads
