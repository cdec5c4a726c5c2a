"""A plant in memory: a web that moves past gates, and a PLC that opens them by the rule of docs/plc.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from linescan.plc.link import COUNTS, Flags, GateOrder, PlcView
from linescan.web import Counter
from tests.line_kit import FakeClock

PLC_COUNTER = Counter(32)
FRESH_NS = 2 * 10**9


@dataclass
class Plant:
    """The PLC and the web under it: `moves_to` judges every count that passes. It outlives publishers and their links.

    `passed` and `rejected` hold, for each output, the counts at its gate that went through or were taken out.
    """

    clock: FakeClock
    outputs: int = 2
    position: int = 0  # of the web, does not wrap
    offset: int = 0  # of the PLC's counter from it
    away: bool = False
    room: int = 10**6  # entries that the FIFO takes
    session: int = 0
    flags: Flags = field(default_factory=Flags)
    limits: list[int | None] = field(default_factory=lambda: [None] * 16)
    table: list[GateOrder] = field(default_factory=list)
    taken: set[tuple[int, int]] = field(default_factory=set)
    beaten_ns: int = -(1 << 62)
    passed: list[set[int]] = field(default_factory=lambda: [set(), set()])
    rejected: list[set[int]] = field(default_factory=lambda: [set(), set()])
    acknowledge: int = 0
    splice: int = 0
    roll_start: int = 0
    roll_end: int = 0
    roll_id: str = ""
    sync: tuple[int, int] = (0, 0)

    def pulse(self) -> None:
        """A sync pulse latches the PLC's counter."""
        self.sync = self.sync[0] % 0xFFFF + 1, PLC_COUNTER.wrap(self.position + self.offset)

    def moves_to(self, count: int) -> None:
        for position in range(self.position, count):
            for output in range(self.outputs):
                (self.passed if self.passes(output, position) else self.rejected)[output].add(position)
        self.position = max(self.position, count)

    def passes(self, output: int, position: int) -> bool:
        flags, limit = self.flags, self.limits[output]
        if not flags.ready or limit is None or self.clock.now - self.beaten_ns > FRESH_NS:
            return False
        if flags.bypass:
            return True
        shown = PLC_COUNTER.wrap(position + self.offset)
        if signed(limit - shown) <= 0:
            return False
        return not any(
            order.outputs & 1 << output and signed(shown - order.first) >= 0 and signed(order.end - shown) > 0
            for order in self.table
        )

    def restarts(self) -> None:
        """Power was off: its memory is empty, its counter too."""
        self.session = 0
        self.flags, self.limits, self.table = Flags(), [None] * 16, []


def signed(count: int) -> int:
    return (count + COUNTS // 2) % COUNTS - COUNTS // 2


class PlantLink:
    """The PlcLink of one publisher's life; what it is told arrives at once, or when the PLC is back."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._waiting: list[GateOrder | Sequence[int | None]] = []
        self._kept: dict[int, GateOrder] = {}
        self._session = 0
        self._arrived: set[int] = set()
        self._begin()

    def _begin(self) -> None:
        plant = self._plant
        if plant.away or (self._session and plant.session == self._session):
            return
        plant.flags = Flags()
        self._session = plant.session = max(plant.session, self._session) + 1
        waiting = {one.sequence for one in self._waiting if isinstance(one, GateOrder)}
        self._waiting[:0] = [order for sequence, order in self._kept.items() if sequence not in waiting]

    def _pump(self) -> None:
        plant = self._plant
        self._begin()
        while self._waiting and not plant.away:
            head = self._waiting[0]
            if isinstance(head, GateOrder):
                if len(plant.table) >= plant.room:
                    return
                if (self._session, head.sequence) not in plant.taken:
                    plant.taken.add((self._session, head.sequence))
                    plant.table.append(head)
                self._arrived.add(head.sequence)  # given again to a PLC that lost it, it counts once
            else:
                plant.limits = list(head)
            self._waiting.pop(0)

    def order(self, order: GateOrder) -> None:
        self._kept[order.sequence] = order
        self._waiting.append(order)
        self._pump()

    def reach(self, counts: Sequence[int | None]) -> None:
        self._waiting.append(tuple(counts))
        self._pump()

    def forget(self, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            self._kept.pop(sequence, None)

    def show(self, flags: Flags) -> None:
        self._pump()
        if not self._plant.away and flags.session == self._session:
            self._plant.flags = flags

    def beat(self) -> None:
        if not self._plant.away:
            self._plant.beaten_ns = self._plant.clock.now

    def view(self) -> PlcView:
        self._pump()
        plant = self._plant
        if plant.away:
            return PlcView(faults=("plc-unreachable",))
        position = PLC_COUNTER.wrap(plant.position + plant.offset)
        return PlcView(
            connected=True, session=self._session, heard_ns=plant.clock.now, enabled=True,
            position=position, position_ns=plant.clock.now, acknowledge=plant.acknowledge,
            splice=plant.splice, roll_start=plant.roll_start, roll_end=plant.roll_end, roll_id=plant.roll_id,
            sync=plant.sync,
        )  # fmt: skip

    @property
    def delivered(self) -> int:
        return len(self._arrived)

    @property
    def pending(self) -> int:
        return sum(isinstance(one, GateOrder) for one in self._waiting)

    def close(self) -> None: ...
