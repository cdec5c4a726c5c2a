"""A device without a GPU: its queues do their work late, in any order that the marks between them allow.

What the engine puts into a queue lies there until the host waits for a mark. Then work is done from the heads of the
queues, by lot, as long as what it has to come after is done; so work that should wait for other work and does not
finds, under some seed, that it is not done, or memory that is written later, or already again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Generic

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linescan.inspection.queues import Done, Finished, Queue, Queues, T

LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
TAKES = (Tensor.tolist, Tensor.numpy, Tensor.cpu)


class TooEarlyError(AssertionError):
    """Something was used before it was there."""


class LookError(AssertionError):
    """Work looks at a value, for which the host would wait on a real device."""


class NoLook(TorchDispatchMode):
    """Raises LookError for operations whose result, or the shape of it, the host has to know."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        chosen = args[1] if name in ("index", "index_put_") else ()
        if name in LOOKS or any(part is not None and part.dtype == torch.bool for part in chosen):
            raise LookError(f"aten.{func.__name__}")
        return func(*args, **(kwargs or {}))


class NoTaking(TorchFunctionMode):
    """Raises LookError where a tensor is handed to the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TAKES:
            raise LookError(func.__name__)
        return func(*args, **(kwargs or {}))


class Mark(Generic[T]):
    """One piece of work in a queue of the twin."""

    def __init__(self, twin: Twin, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]]) -> None:
        self._twin, self.queue, self._work, self._after = twin, queue, work, after
        self.done = False
        self._value: T | None = None
        self.error: BaseException | None = None

    @property
    def value(self) -> T:
        if not self.done:
            raise TooEarlyError(f"work of {self.queue} is used before it is done")
        return self._value  # type: ignore[return-value]

    def ready(self) -> bool:
        self._twin.some()
        return self.done

    def wait(self) -> T:
        self._twin.waits[self.queue] += 1
        while not self.done:
            self._twin.step()
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def free(self) -> bool:
        """Whether it may be done now, if the work before it in its queue is."""
        return all(mark.done for mark in self._after)  # type: ignore[attr-defined]

    def do(self) -> None:
        failed = [mark.error for mark in self._after if mark.error is not None]  # type: ignore[attr-defined]
        try:
            if failed:
                raise failed[0]
            if self._twin.apart:
                with NoTaking(), NoLook():
                    self._value = self._work()
            else:
                self._value = self._work()
        except BaseException as error:  # it is the host's that waits for it
            self.error = error
        self.done = True


class Twin(Queues):
    """Queues of the CPU that behave as a device's.

    Args:
        seed: of the lot.
        ahead: portions that may be under way.
        apart: whether its memory is another than the host's; where it is not, scoring has a queue of its own.
        forget: leaves out, of each submission, the marks for which it is True: for tests of this twin.
    """

    def __init__(
        self,
        seed: int,
        ahead: int = 1,
        forget: Callable[[Queue, Done[Any]], bool] = lambda _queue, _mark: False,
        apart: bool = True,
    ) -> None:
        self.device = torch.device("cpu")
        self.ahead = ahead
        self.apart = apart
        self.waits: Counter[Queue] = Counter()  # of the host
        self._lot = Random(seed)
        self._forget = forget
        compute: deque[Mark[Any]] = deque()
        self._queues: dict[Queue, deque[Mark[Any]]] = {
            "upload": deque(), "compute": compute, "score": compute if apart else deque(), "download": deque(),
        }  # fmt: skip

    def submit(self, queue: Queue, work: Callable[[], T], after: Sequence[Done[Any]] = ()) -> Mark[T]:
        mark = Mark(self, queue, work, [one for one in after if not self._forget(queue, one)])
        self._queues[queue].append(mark)
        return mark

    def fetch(self, tensor: Callable[[], Tensor], after: Sequence[Done[Any]]) -> Done[Tensor]:
        return super().fetch(tensor, after) if self.apart else Finished(tensor())

    def step(self) -> None:
        """Does one piece of work, one that may be done."""
        heads = [line[0] for line in self._queues.values() if line and line[0].free]
        assert heads, "every queue waits for another one"
        mark = self._lot.choice(heads)
        mark.do()
        self._queues[mark.queue].popleft()

    def some(self) -> None:
        """A device works while the host does something else."""
        while self._lot.random() < 0.3 and any(self._queues.values()):
            self.step()

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return self._rubbish(shape, dtype)

    def shared(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return self._rubbish(shape, dtype)

    def hold(self, tensor: Tensor) -> None:
        pass

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """As a graph does, writes every replay into the memory of the first."""
        output = work()

        def replay() -> Tensor:
            return output.copy_(work())

        return replay

    def _rubbish(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        memory = torch.empty(tuple(shape), dtype=dtype)
        memory.view(torch.uint8).fill_(self._lot.randrange(256)) if memory.numel() else None
        return memory
