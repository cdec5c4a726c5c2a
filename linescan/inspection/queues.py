"""Where the engine's work is done: at once on a CPU, or ahead of the host in the queues of a device.

    upload    raw lines, from pinned memory
    compute   everything from the raw lines to their reconstruction
    score     from there to the opened mask; a device does it in the order of `compute`, a CPU beside it
    download  verdicts on lines, packed masks, scores of opened pixels

Work of one queue is done in the order in which it was put there. Between queues, and between a queue and the host,
there is no order but the one that is asked for: `after` for a queue, `wait` for the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Queue = Literal["upload", "compute", "score", "download"]


class Done(Protocol[T_co]):
    """A mark in a queue behind one piece of work."""

    @property
    def value(self) -> T_co:
        """What the work returned; only for work that runs after it, and for the host once it has waited."""

    def ready(self) -> bool:
        """Whether it is behind, without waiting."""

    def wait(self) -> T_co:
        """Has the host wait for it; raises what the work raised."""


class Finished(Generic[T]):
    """Work that was done at once."""

    def __init__(self, value: T) -> None:
        self.value = value

    def ready(self) -> bool:
        return True

    def wait(self) -> T:
        return self.value


class Queues(ABC):
    """The queues of one device; one set of them serves all Inspectors and models of a process."""

    device: torch.device
    ahead: int
    """Portions of lines that may be under way; with 0 everything is done when `submit` returns."""
    apart: bool
    """Whether the device has memory of its own: lines are uploaded, results fetched, nothing is looked at between."""

    @abstractmethod
    def submit(self, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]] = ()) -> Done[T]:
        """Puts work into a queue, to be done when all of `after` is; tensors that it makes belong to that queue."""

    @abstractmethod
    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Host memory that the device copies from and to while the host goes on; its content is undefined."""

    @abstractmethod
    def shared(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Device memory that several queues may use; its content is undefined."""

    @abstractmethod
    def hold(self, tensor: Tensor) -> None:
        """Within work: the tensor is another queue's, and its memory must last until this work is done."""

    @abstractmethod
    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The work as one launch: replayed, it reads and writes the same memory as at the capture.

        Raises RuntimeError where the device cannot record it.
        """

    def fetch(self, tensor: Callable[[], Tensor], after: Sequence[Done[Any]]) -> Done[Tensor]:
        """The tensor's copy on the host."""

        def copied() -> Tensor:
            source = tensor()
            if source.numel():
                self.hold(source)
            return self.pinned(source.shape, source.dtype).copy_(source, non_blocking=True)

        return self.submit("download", copied, after)


class Inline(Queues):
    """No queues: the host does the work itself, as it comes."""

    ahead = 0
    apart = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def submit(self, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]] = ()) -> Done[T]:
        return Finished(work())

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype)

    def shared(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def hold(self, tensor: Tensor) -> None:
        pass

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return work

    def fetch(self, tensor: Callable[[], Tensor], after: Sequence[Done[Any]]) -> Done[Tensor]:
        return Finished(tensor().cpu())
