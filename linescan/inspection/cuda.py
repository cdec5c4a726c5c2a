"""The queues of a GPU: three CUDA streams, events between them, graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic

import torch
from torch import Tensor

from linescan.inspection.queues import Done, Inline, Queue, Queues, T

AHEAD = 1  # portions under way while the host takes in the one before: the GPU always has the next one queued


def queues_of(device: torch.device) -> Queues:
    """The queues of that device: always the same ones, since a model's fixed buffers must be used in one order."""
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    return _queues_of(device)


@lru_cache(maxsize=8)
def _queues_of(device: torch.device) -> Queues:
    return CudaQueues(device) if device.type == "cuda" else Inline(device)


class _Marked(Generic[T]):
    """Work that was launched, with the event behind it; its value is a handle to what the device will have made."""

    def __init__(self, value: T, event: torch.cuda.Event) -> None:
        self.value = value
        self.event = event

    def ready(self) -> bool:
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> T:
        self.event.synchronize()
        return self.value


class CudaQueues(Queues):
    """Launches work on three streams; the host never waits but in `Done.wait`."""

    ahead = AHEAD
    apart = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        upload, compute, download = (_stream(device) for _ in range(3))
        self._streams: dict[Queue, torch.cuda.Stream] = {
            "upload": upload,
            "compute": compute,
            "score": compute,  # a portion's forwards fill the device: beside them scoring would gain nothing
            "download": download,
        }

    def submit(self, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]] = ()) -> Done[T]:
        stream = self._streams[queue]
        for done in after:
            assert isinstance(done, _Marked)
            stream.wait_event(done.event)
        with torch.cuda.stream(stream):
            value = work()
        # an event that the host waits for blocks its thread: spinning would take a core from the other stages
        event: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return _Marked(value, event)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def shared(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        memory = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        for stream in self._streams.values():
            memory.record_stream(stream)
        return memory

    def hold(self, tensor: Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self.device))

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        # on a stream of its own, since what others launch on that of the capture would become part of the graph; and
        # another thread may be inspecting, whose allocations must not spoil it
        stream = _stream(self.device)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = work()
        torch.cuda.synchronize(self.device)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
