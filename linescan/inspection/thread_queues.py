"""Queues of a CPU: the model on the next lines, scoring of those before, and the host, side by side on its cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Generic

import torch

from linescan.inspection.queues import Done, Inline, Queue, T

AHEAD = 1  # portions under way while the host takes in the one before


class _Put(Generic[T]):
    """Work of a thread."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    @property
    def value(self) -> T:
        return self._future.result()

    def ready(self) -> bool:
        return self._future.done()

    def wait(self) -> T:
        return self._future.result()


class ThreadQueues(Inline):
    """A thread for each of the queues that compute and score; the host does the rest itself, as it comes.

    What the queues' work shares out among more threads is theirs; these wait for it, most of the time.
    """

    ahead = AHEAD

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self._threads = {name: ThreadPoolExecutor(1, f"linescan-{name}") for name in ("compute", "score")}

    def submit(self, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]] = ()) -> Done[T]:
        thread = self._threads.get(queue)
        if thread is None:
            for done in after:
                done.wait()
            return super().submit(queue, work)

        threads = torch.get_num_threads()  # of each thread its own

        def in_turn() -> T:
            for done in after:
                done.wait()
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return work()

        return _Put(thread.submit(in_turn))


@lru_cache(maxsize=1)
def thread_queues() -> ThreadQueues:
    """Those of this process."""
    return ThreadQueues()


os.register_at_fork(after_in_child=thread_queues.cache_clear)  # a child has no such threads
