"""What a PLC is to be told, in the order in which it was told to us, until it has it and beyond."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from linescan.plc.link import GateOrder

Limits = tuple[int | None, ...]


class Waiting(NamedTuple):
    order: GateOrder
    again: bool  # a PLC had it before, and lost it


class Batch(NamedTuple):
    """The next orders, and the last pass limits that may follow them; None: none may. `full`: more wait for room.

    `past` were between them and have been forgotten since they were told: no PLC needs them any more.
    """

    waiting: tuple[Waiting, ...] = ()
    limits: Limits | None = None
    full: bool = False
    past: tuple[Waiting, ...] = ()

    @property
    def orders(self) -> list[GateOrder]:
        return [waiting.order for waiting in self.waiting]


class Orders:
    """One queue of orders and pass limits, so that no limit overtakes an order. Threads may share it.

    An order stays known until `forget`: a PLC that lost its memory is given it again. Each operation costs the same
    however much waits, `again` excepted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Waiting | Limits] = deque()
        self._taken: Batch | None = None
        self._kept: dict[int, GateOrder] = {}  # by sequence, in the order told
        self._reached: Limits | None = None  # the last limits that the PLC was given
        self.told = 0  # orders and limits; limits that replaced others count with them
        self.pending = 0
        self.delivered = 0

    def order(self, order: GateOrder) -> None:
        with self._lock:
            self._queue.append(Waiting(order, again=False))
            self._kept.pop(order.sequence, None)
            self._kept[order.sequence] = order
            self.pending += 1
            self.told += 1

    def reach(self, limits: Sequence[int | None]) -> None:
        with self._lock:
            if self._queue and not isinstance(self._queue[-1], Waiting):
                self._queue.pop()
            else:
                self.told += 1
            self._queue.append(tuple(limits))

    def out(self, told: int) -> bool:
        """Whether the PLC has the first `told` of what was told."""
        with self._lock:
            taken = self._taken
            waiting = len(self._queue) + (0 if taken is None else len(taken.waiting) + len(taken.past) + 1)
            return self.told - waiting >= told

    def forget(self, sequences: Iterable[int]) -> None:
        """These are past: they need not be given again, nor at all where they still wait.

        A PLC that was away while the web went on by more than half its counter would take them for the future.
        """
        with self._lock:
            for sequence in sequences:
                self._kept.pop(sequence, None)

    def take(self, room: int) -> Batch:
        """What comes next, `room` orders at most. The same batch again until it is `done`: it may have arrived."""
        with self._lock:
            if self._taken is None:
                waiting: list[Waiting] = []
                past: list[Waiting] = []
                limits: Limits | None = None
                full = False
                while self._queue and not full:
                    item = self._queue[0]
                    if not isinstance(item, Waiting):
                        limits = item
                    elif item.order.sequence not in self._kept:
                        past.append(item)
                    elif len(waiting) < room:
                        waiting.append(item)
                    else:
                        full = True
                        continue
                    self._queue.popleft()
                self._taken = Batch(tuple(waiting), limits, full, tuple(past))
            return self._taken

    @property
    def tried(self) -> int:
        """How many orders were taken and are not done: the PLC may have them or not."""
        taken = self._taken
        return 0 if taken is None else len(taken.waiting)

    def done(self) -> None:
        """The PLC has what was taken."""
        with self._lock:
            if self._taken is None:
                return
            done = (*self._taken.waiting, *self._taken.past)
            self.pending -= len(done)
            self.delivered += sum(not waiting.again for waiting in done)
            if self._taken.limits is not None:
                self._reached = self._taken.limits
            self._taken = None

    def again(self) -> None:
        """The PLC lost what it had: what is kept comes first once more."""
        with self._lock:
            taken = self._taken or Batch()
            waiting = {id(item.order) for item in (*taken.waiting, *self._queue) if isinstance(item, Waiting)}
            lost = [Waiting(order, again=True) for order in self._kept.values() if id(order) not in waiting]
            had = [] if self._reached is None else [self._reached]
            on_the_way = [] if taken.limits is None else [taken.limits]
            front: list[Waiting | Limits] = [*lost, *had, *taken.waiting, *taken.past, *on_the_way]
            self._queue.extendleft(reversed(front))
            self._taken = self._reached = None
            self.pending += len(lost)
