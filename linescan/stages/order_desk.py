"""Orders on their way to the PLC: written into the book, given to the link, watched until they have passed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from linescan.errors import JournalFullError
from linescan.journal.orders import OrderBook
from linescan.messages import Reject
from linescan.plc.link import COUNTS, GateOrder, PlcLink
from linescan.schedule import UNANNOUNCED, Window

MOST_PENDING = 10_000  # orders; and far fewer than the PLC's sequences, of which no two may be alike


@dataclass(frozen=True)
class Grade:
    """What the recipe says of a defect by its size."""

    category: str = ""
    number: int = 0  # of the category in the recipe, from 1
    severity: int = 0


NO_GRADE = Grade()


class OrderDesk:
    """Makes orders of windows.

    Args:
        outputs: lane → bit of its gate.
        tell: takes each Reject on its way to the journal and the world.
    """

    def __init__(
        self, book: OrderBook, link: PlcLink | None, outputs: dict[str, int], tell: Callable[[Reject], None]
    ) -> None:
        self._book, self._link, self._outputs, self._tell = book, link, outputs, tell
        self._last = book.last
        self._given = 0  # to the link, ever
        self._on_the_way: deque[int] = deque()  # sequences given to the link, not yet seen in the PLC's FIFO
        self._missing: set[int] = set()  # the same
        self._deadlines: list[tuple[int, int]] = []  # a heap: deadline and sequence of what was ordered in time
        self._pending: dict[int, Reject] = {}  # by sequence
        self._passed: list[int] = []
        self._unkept: dict[int, Reject] = {}  # of them, what the book could not be given
        self._counters: Counter[str] = Counter()

    def restore(self) -> list[Reject]:
        """Gives the PLC again what it may not have passed yet; returns it."""
        kept = [(sequence, reject) for sequence, reject in self._book.pending() if reject.lane in self._outputs]
        for sequence, reject in kept:
            self._pending[sequence] = reject
            self._give(sequence, reject, Grade(reject.category, 0, reject.severity))
        self._counters["orders_again"] += len(self._pending)
        return list(self._pending.values())

    def order(self, roll: str, window: Window, grade: Grade) -> None:
        reject = Reject(
            roll, f"{window.source}:{window.lane}:{window.first}", window.lane, window.cause, window.source,
            window.first, window.end, window.deadline, window.in_time, grade.category, grade.severity,
        )  # fmt: skip
        self._last += 1
        self._unkept[self._last] = reject
        if not self.keep():  # a restart would forget it; the PLC does not
            self._counters["orders_unkept"] += 1
        self._pending[self._last] = reject
        self._counters["rejects"] += 1
        self._counters["rejects_late"] += not reject.in_time
        self._give(self._last, reject, grade)
        self._tell(reject)

    def keep(self) -> bool:
        """Whether the book has every order; tries again with those that it lacks."""
        try:
            for sequence, reject in list(self._unkept.items()):
                self._book.add(sequence, reject)
                del self._unkept[sequence]
        except JournalFullError:
            return False
        return True

    @property
    def unkept(self) -> bool:
        """Whether the book could not be written."""
        return bool(self._unkept)

    def late(self, position: int | None) -> bool:
        """Whether the web, at `position` by now, has passed the deadline of an order that the PLC does not have."""
        arrived = self._given if self._link is None else self._link.delivered
        while self._given - len(self._on_the_way) < arrived:
            self._missing.discard(self._on_the_way.popleft())
        found = False
        while self._deadlines and position is not None and self._deadlines[0][0] < position:
            _, sequence = heappop(self._deadlines)
            if sequence in self._missing:
                found = True
                self._counters["delivered_late"] += 1
                self._tell(replace(self._pending[sequence], in_time=False))
        return found

    def forget(self, known_from: dict[str, int]) -> None:
        """What lies before these counts at the lanes' gates has passed for good."""
        gone = [
            sequence
            for sequence, reject in self._pending.items()
            if reject.end_count <= known_from.get(reject.lane, reject.first_count)
        ]
        if known_from:
            self._forget(gone, min(known_from.values()))

    def forget_all(self) -> None:
        """The PLC's counter was reset: none of it means anything any more."""
        self._deadlines = []
        self._forget(list(self._pending), None)

    def _forget(self, gone: list[int], known_from: int | None) -> None:
        for sequence in gone:
            del self._pending[sequence]
            self._unkept.pop(sequence, None)
            self._missing.discard(sequence)
        if gone and self._link is not None:
            self._link.forget(gone)
        self._passed += gone
        try:
            self._book.forget(self._passed, known_from)
            self._passed = []
        except JournalFullError:  # they stay in the book: given once more after a restart, which does no harm
            self._counters["orders_unforgotten"] = len(self._passed)

    def overflows(self, inspected: int | None) -> bool:
        """Whether more wait than can lie between a camera and a gate, or one so far behind what is inspected by now.

        Half a turn of its counter later the PLC would take an order for one that is still to come.
        """
        oldest = next(iter(self._pending.values()), None)
        far = oldest is not None and inspected is not None and inspected - oldest.end_count > COUNTS // 4
        return far or len(self._pending) > MOST_PENDING

    @property
    def counters(self) -> Counter[str]:
        waiting = Counter(orders_pending=len(self._pending), orders_undelivered=len(self._missing))
        return self._counters + waiting

    def _give(self, sequence: int, reject: Reject, grade: Grade) -> None:
        if self._link is None:
            return
        first, end = reject.first_count % COUNTS, reject.end_count % COUNTS
        output = 1 << self._outputs[reject.lane]
        late = not reject.in_time
        self._link.order(GateOrder(sequence, output, first, end, grade.number, reject.severity, late))
        self._given += 1
        self._on_the_way.append(sequence)
        self._missing.add(sequence)
        if reject.in_time and reject.cause not in UNANNOUNCED:
            heappush(self._deadlines, (reject.deadline_count, sequence))
