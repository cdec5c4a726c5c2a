"""From what a PLC's registers say to what its link says: counters that never fall, and whether the PLC is alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from linescan.plc.link import PlcView
from linescan.plc.registers import OUTPUTS, PlcBlock

HALF = 1 << 15


class Edges:
    """A 16-bit counter of edges, counted on from 0 at the first look, over wraps and restarts of the PLC."""

    def __init__(self) -> None:
        self.total = 0
        self._last: int | None = None

    def restart(self) -> None:
        """The PLC counts anew: what its counter says next is where it begins."""
        self._last = None

    @property
    def unseen(self) -> bool:
        return self._last is None

    def look(self, raw: int) -> int:
        step = 0 if self._last is None else (raw - self._last) % (2 * HALF)
        if step < HALF:  # else it went back: the PLC restarted, and nobody pressed anything 32,768 times
            self.total += step
        self._last = raw
        return self.total


class Liveness:
    """Whether the PLC's heartbeat moves. What stood still for `limit_s` while it answered is frozen."""

    def __init__(self, limit_s: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._clock = clock
        self._beat: int | None = None
        self._since_ns = 0
        self._moved = False

    def lost(self) -> None:
        """It does not answer: what its heartbeat did is not known."""
        self._beat, self._moved = None, False

    def look(self, beat: int) -> None:
        if beat != self._beat:
            self._moved, self._since_ns = self._beat is not None, self._clock()
            self._beat = beat

    @property
    def frozen(self) -> bool:
        return self._beat is not None and self._clock() - self._since_ns > self._limit_ns

    @property
    def alive(self) -> bool:
        return self._moved and not self.frozen


class Sight:
    """Makes PlcViews; one look after the other."""

    def __init__(self) -> None:
        self._edges = {name: Edges() for name in ("acknowledge", "roll_start", "roll_end", "splice")}
        self._openings = [Edges() for _ in range(OUTPUTS)]
        self._opened_at = [0] * OUTPUTS
        self._position: int | None = None
        self._position_ns = 0
        self._beat = 0  # the PLC's heartbeat when it wrote that position
        self._sync = (0, 0)

    def restart(self) -> None:
        """The PLC was restarted."""
        for edges in (*self._edges.values(), *self._openings):
            edges.restart()
        self._position = None
        self._sync = (0, 0)

    def look(self, block: PlcBlock, asked_ns: int, heard_ns: int) -> PlcView:
        """`asked_ns` and `heard_ns` are when the question left and when the answer had come."""
        stands = self._position is not None and block.heartbeat == self._beat  # its program: the web may go on
        if block.position is not None and not stands:  # a torn one: the last one stays, with its time
            self._position, self._position_ns = block.position, asked_ns
            self._beat = block.heartbeat
        if block.sync_number == 0:
            self._sync = (0, 0)
        elif block.sync_count is not None:
            self._sync = (block.sync_number, block.sync_count)
        totals = []
        for output, edges in enumerate(self._openings):
            opened_at = block.opened_at[output]
            if opened_at is not None:
                self._opened_at[output] = opened_at
            if opened_at is not None or edges.unseen:  # else the count is torn, and the opening is told next time
                edges.look(block.openings[output])
            totals.append(edges.total)
        return PlcView(
            heard_ns=heard_ns,
            enabled=block.enabled,
            position=self._position,
            position_ns=self._position_ns,
            sync=self._sync,
            roll_id=block.roll_id,
            gates=tuple(totals) if block.gates_confirm else None,
            opened_at=tuple(self._opened_at) if block.gates_confirm else None,
            acknowledge=self._edges["acknowledge"].look(block.acknowledge),
            roll_start=self._edges["roll_start"].look(block.roll_start),
            roll_end=self._edges["roll_end"].look(block.roll_end),
            splice=self._edges["splice"].look(block.splice),
        )
