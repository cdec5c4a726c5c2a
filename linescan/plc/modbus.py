"""A PLC that is a Modbus TCP server with the registers of docs/plc.md."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from linescan.errors import PeerError
from linescan.line import Plc
from linescan.plc import registers as at
from linescan.plc.connection import Registers
from linescan.plc.link import Flags, GateOrder, PlcView
from linescan.plc.orders import Orders
from linescan.plc.registers import Packing, PlcBlock, RegistersError
from linescan.plc.view import Liveness, Sight

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
FROZEN_TIMEOUTS = 2  # a heartbeat that stands still for so many timeouts is a PLC that does not run


class ModbusLink:
    """The PlcLink to a Modbus TCP PLC.

    What is told waits in `Orders` until the thread has written it. The thread reads the PLC's block once a cycle and
    before it writes anything over a new connection. A session begins whenever the PLC does not echo ours: then it has
    lost its memory, and gets all again.
    """

    def __init__(self, settings: Plc) -> None:
        self._settings = settings
        self._registers = Registers(settings)
        self._packing = Packing(settings.word_order, settings.byte_order)
        self._orders = Orders()
        self._flags = Flags()
        self._beaten = False
        self._wake, self._stop = threading.Event(), threading.Event()
        self._sight = Sight()
        self._liveness = Liveness(FROZEN_TIMEOUTS * settings.timeout_s)
        self._block: PlcBlock | None = None  # as looked at last, over the connection that still stands
        self._looked_ns = 0
        self._view = PlcView(faults=("plc-unreachable",), reason="not asked yet")
        self._session = self._proposed = 0
        self._proposed_ns = -(1 << 62)  # long ago
        self._head = self._heartbeat = 0
        self._ready_behind = 0  # how much of what was told the PLC must have before it is told ready
        self._full_since_ns: int | None = None
        self._said: tuple[int, int] | None = None  # status and heartbeat as they stand in the PLC
        self._thread = threading.Thread(target=self._run, name="plc-modbus", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------- told by the publisher

    def order(self, order: GateOrder) -> None:
        at.check_order(order)
        self._orders.order(order)
        self._wake.set()

    def reach(self, counts: Sequence[int | None]) -> None:
        if len(counts) > at.OUTPUTS:
            raise ValueError(f"{len(counts)} pass limits, the PLC has {at.OUTPUTS} outputs")
        self._orders.reach(counts)
        self._wake.set()

    def forget(self, sequences: Iterable[int]) -> None:
        self._orders.forget(sequences)

    def show(self, flags: Flags) -> None:
        if flags == self._flags:
            return
        if flags.ready and (not self._flags.ready or flags.session != self._flags.session):
            self._ready_behind = self._orders.told
        self._flags = flags
        self._wake.set()

    def beat(self) -> None:
        self._beaten = True

    def view(self) -> PlcView:
        view = self._view
        if not self._thread.is_alive():  # closed, or a defect of this driver: nobody speaks with the PLC
            return replace(view, connected=False, faults=("plc-unreachable",), reason="the link is closed")
        if self._liveness.frozen and "plc-frozen" not in view.faults:
            return replace(view, connected=False, faults=(*view.faults, "plc-frozen"))
        return view

    @property
    def pending(self) -> int:
        return self._orders.pending

    @property
    def delivered(self) -> int:
        return self._orders.delivered

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(2 * self._settings.timeout_s + LAST_RETRY_S)

    # ------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                self._turn()
            except PeerError as error:
                self._failed(error)
                self._stop.wait(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            else:
                retry_s = FIRST_RETRY_S
                self._wake.wait(self._settings.cycle_s)
                self._wake.clear()
        self._leave()

    def _failed(self, error: PeerError) -> None:
        fault = "plc-registers" if isinstance(error, RegistersError) else "plc-unreachable"
        self._liveness.lost()
        self._block = None
        self._said = None  # it is not known what arrived
        self._view = replace(self._view, connected=False, free=0, faults=(fault,), reason=str(error))

    def _leave(self) -> None:
        """As the last word: not ready. Without it the PLC would wait for its own watchdog."""
        if self._said is not None:
            with contextlib.suppress(PeerError):  # it is gone; its watchdog sees to it
                self._registers.write(at.STATUS, [0])
        self._registers.close()

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        if self._block is None or now_ns - self._looked_ns >= self._settings.cycle_s * 1e9:
            self._block = self._look(now_ns)
            self._looked_ns = now_ns
        if self._session:
            self._deliver(self._block)
            self._say()

    def _look(self, asked_ns: int) -> PlcBlock:
        block = at.read_plc_block(self._registers.read(at.PLC_BLOCK, at.PLC_BLOCK_WORDS), self._packing)
        heard_ns = time.monotonic_ns()
        self._liveness.look(block.heartbeat)
        self._keep_session(block, heard_ns)
        faults, reason = self._faults(block, heard_ns)
        self._view = replace(
            self._sight.look(block, asked_ns, heard_ns),
            connected=self._session != 0 and self._liveness.alive,
            session=self._session,
            free=self._room(block) if self._session else 0,
            faults=faults,
            reason=reason,
        )
        return block

    # ------------------------------------------------------------------------------------------------- the session

    def _keep_session(self, block: PlcBlock, now_ns: int) -> None:
        """Where the PLC has not ours, it is offered a new one, and what it had is told again in that."""
        if self._session:
            if block.accepted == self._session and not block.entry_refused and self._room(block) >= 0:
                return
            self._session = 0
            self._said = None
            self._sight.restart()
        if self._proposed and block.accepted == self._proposed and block.tail == 0:
            self._begin()
        elif now_ns - self._proposed_ns > self._settings.timeout_s * 1e9:
            self._propose(block)
            self._proposed_ns = now_ns

    def _room(self, block: PlcBlock) -> int:
        """Entries that the FIFO has room for; negative where its tail makes no sense."""
        return block.depth - ((self._head + self._orders.tried - block.tail) & 0xFFFF)

    def _propose(self, block: PlcBlock) -> None:
        """Everything as after a start, the session last; the PLC rejects until it has accepted it and more."""
        while self._proposed in (0, block.accepted):
            self._proposed = secrets.randbelow(0xFFFF) + 1
        self._said = None
        header = at.header_words(self._heartbeat, block.depth, self._packing)
        self._registers.write(0, header + at.limit_words([None] * at.OUTPUTS, self._packing))
        self._registers.write(at.SESSION, [self._proposed])

    def _begin(self) -> None:
        self._session, self._proposed = self._proposed, 0
        self._head = 0
        self._full_since_ns = None
        self._orders.again()
        self._ready_behind = self._orders.told

    # ------------------------------------------------------------------------------------------------- what is told

    def _deliver(self, block: PlcBlock) -> None:
        """Entries, then the head, then the limits; what fails on the way is written once more, the same words."""
        batch = self._orders.take(self._room(block))
        entries = [at.entry_words(order, self._session, self._packing) for order in batch.orders]
        head = (self._head + len(entries)) & 0xFFFF
        for address, words in fifo_writes(self._head, entries, block.depth):
            self._registers.write(address, words)
        if entries:
            self._registers.write(at.HEAD, [head])
        if batch.limits:
            self._registers.write(at.LIMITS, at.limit_words(batch.limits, self._packing))
        self._orders.done()
        self._head = head
        if not batch.full:
            self._full_since_ns = None
        elif self._full_since_ns is None:
            self._full_since_ns = time.monotonic_ns()

    def _say(self) -> None:
        """Status and heartbeat; ready only in a session that was checked, and behind all that was told before."""
        flags, overrun = self._flags, self._full_since_ns is not None
        if self._beaten:
            self._beaten = False
            self._heartbeat = (self._heartbeat + 1) & 0xFFFF
        ready = flags.ready and flags.session == self._session and self._orders.out(self._ready_behind)
        said = (at.status_word(flags, ready, overrun), self._heartbeat)
        if said != self._said:
            self._registers.write(at.STATUS, said)
            self._said = said

    def _faults(self, block: PlcBlock, now_ns: int) -> tuple[tuple[str, ...], str]:
        """What is wrong though the PLC answers, and the words for it."""
        timeout_ns = self._settings.timeout_s * 1e9
        found: dict[str, str] = {}
        if self._liveness.frozen:
            found["plc-frozen"] = "its heartbeat stands still"
        if self._full_since_ns is not None and now_ns - self._full_since_ns > timeout_ns:
            found["plc-fifo-full"] = f"{self._orders.pending} orders wait for room in the FIFO"
        if block.entry_refused:
            found["plc-registers"] = "the PLC could not read an entry: are word and byte order the same on both sides?"
        return tuple(found), "; ".join(found.values())


def fifo_writes(head: int, entries: Sequence[Sequence[int]], depth: int) -> list[tuple[int, list[int]]]:
    """(address, words) of the writes that put entries into a FIFO of so many slots, the next one `head` modulo it."""
    writes: list[tuple[int, list[int]]] = []
    for number, entry in enumerate(entries, head):
        address = at.FIFO + at.ENTRY_WORDS * (number % depth)
        if writes and writes[-1][0] + len(writes[-1][1]) == address and len(writes[-1][1]) < at.WRITE_WORDS:
            writes[-1][1].extend(entry)
        else:
            writes.append((address, list(entry)))
    return writes
