"""Publisher: what the workers find, into the journal, then to the world; owner of the rolls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from linescan.border_gate import Told
from linescan.errors import JournalFullError
from linescan.journal import Entry, Journal, Mark
from linescan.journal.orders import OrderBook
from linescan.line import Line
from linescan.messages import (
    Ack,
    Caught,
    Gap,
    Kept,
    Latched,
    Leaving,
    Message,
    Notice,
    Order,
    Origin,
    Prepared,
    Progress,
    Refused,
    Region,
    Register,
    Registered,
    Reject,
    Resume,
    RollCommand,
    RollEnd,
    RollStart,
    RollState,
    Since,
    Stamp,
    Status,
)
from linescan.metrics import NO_METRICS, Meter
from linescan.plc.link import PlcLink
from linescan.stages.borders import border_of
from linescan.stages.event_store import EventStore
from linescan.stages.ledger import Ledger, Verdict
from linescan.stages.operator_desk import OperatorDesk
from linescan.stages.preparation import Preparation
from linescan.stages.registration import boot_id
from linescan.stages.rejector import NoRejector, Rejector
from linescan.stages.rolls import Rolls
from linescan.transport import Network, Received, waiting

MESSAGES_A_TURN = 500
ASKED_A_TURN = 4  # by subscribers, and by operators: an answer may have as many events as BACKFILL
BACKFILL = 500  # events in one answer
IDLE_S = 0.1
PLC_IDLE_S = 0.01  # with a PLC, whose position and buttons are looked at
OPERATORS = "linescan-operate"  # the group that may begin and end rolls


class Publisher:
    """One line's publisher: `turn()` again and again, from one thread; `close()` commits what is left."""

    def __init__(
        self,
        line: Line,
        journal: Journal,
        network: Network,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
        metrics: Meter = NO_METRICS,
        book: OrderBook | None = None,
        link: PlcLink | None = None,
    ) -> None:
        self._settings, self._journal, self._network = line.settings, journal, network
        self._clock, self._utc, self._metrics = clock_ns, utc_ns, metrics
        self._rolls = Rolls(journal, line.recipe, begins=line.settings.rolls == "at-start")
        self._stages = network.server(line.stages_endpoint)
        self._events = network.publication(line.events_endpoint)
        self._backfill = network.server(line.backfill_endpoint)
        self._control = network.server(line.control_endpoint, group=OPERATORS)
        self._links = (self._stages, self._backfill, self._control)
        self._ledgers = {one.name: Ledger(one.name, journal.camera(one.name)) for one in line.settings.cameras}
        self._store = EventStore(
            journal, line.settings.journal, self._ledgers, self._events,
            clock_ns=clock_ns, utc_ns=utc_ns, metrics=metrics,
        )  # fmt: skip
        self._preparation = Preparation(
            self._rolls, self._ledgers, self._stages.send, self._answer_command, clock_ns
        )  # fmt: skip
        rejector = None
        if line.settings.rejects is not None:
            assert book is not None
            rejector = Rejector(line, book, link, self._tell, clock_ns=clock_ns)
        self._rejector: Rejector | NoRejector = rejector or NoRejector()
        self._operators = OperatorDesk(journal, rejector, self._preparation.command, self._tell)
        self._idle_s = IDLE_S if link is None else PLC_IDLE_S
        self._border = border_of(line)
        self._takers: dict[type[Message], Callable[[bytes, Any, Ledger], None]] = {
            Status: self._take_status,
            Resume: self._take_resume,
            Prepared: self._take_prepared,
            Register: self._take_register,
            Origin: self._take_origin,
            Latched: self._take_latched,
            Leaving: self._take_leaving,
        }
        self._to_ack: dict[str, bytes] = {}  # camera → the worker that waits for it
        self._acquires: dict[str, bytes] = {}
        self._reported_ns = -(1 << 62)
        self._counters: Counter[str] = Counter()
        self._replays = False  # whether the roll that runs is a recording
        self._take_up()

    @property
    def counters(self) -> Counter[str]:
        return self._counters + self._store.counters + self._rejector.counters + self._border.counters

    @property
    def faults(self) -> tuple[str, ...]:
        return (*(("disk-full",) if self._store.full else ()), *self._rejector.faults)

    def turn(self) -> None:
        """One pass of the loop."""
        came = self._hear_stages() + self._hear_public()
        for told in self._border.turn(self._clock()):
            self._accept(told)
        if self._store.due:
            self._flush()
        self._preparation.turn()
        self._rejector.turn()
        self._operators.turn()
        now = self._clock()
        if now - self._reported_ns > self._settings.status_s * 1e9:
            self._reported_ns = now
            self._report()
        self._store.expire()
        if not came:
            commit_s = self._settings.journal.commit_ms / 2000
            self._network.wait(self._links, commit_s if self._store.waiting else self._idle_s)

    def _take_up(self) -> None:
        """What the journal knows of rolls, for the rejects."""
        self._follow_roll()
        for ledger in self._ledgers.values():
            self._border.begin(ledger.camera, ledger.epoch, ledger.next)
            if ledger.origin is not None and (lines := self._rejector.lines_of(ledger.origin)) is not None:
                self._border.place(ledger.camera, ledger.origin.roll, lines)
            if ledger.roll_start is not None:
                self._rejector.journaled(ledger.camera, ledger.roll_start, ledger.origin, ledger.mark)

    def _tell(self, event: Reject | Notice) -> None:
        self._store.add_own(event, self._replays)

    def close(self) -> None:
        """Commits what came; what nobody has acknowledged the workers keep."""
        self._store.close()
        self._acknowledge()

    # ------------------------------------------------------------------------------------------ from the stages

    def _hear_stages(self) -> int:
        came = 0
        for received in waiting(self._stages, MESSAGES_A_TURN):
            came += 1
            try:
                self._take(received)
            except JournalFullError:  # not answered: it will be asked again
                self._counters["not_stored"] += 1
                self._store.full = True
        return came

    def _take(self, received: Received) -> None:
        message, peer = received.message, received.peer
        if isinstance(message, RollCommand):
            self._stages.send(peer, self._command(message))
            return
        ledger = self._ledgers.get(getattr(message, "camera", ""))
        take = self._takers.get(type(message))
        if ledger is not None and _from_worker(received):
            self._preparation.heard(ledger.camera, peer)
        if ledger is not None and received.stamp is not None:
            self._take_stamped(peer, received.stamp, message, ledger)
        elif ledger is not None and take is not None:
            take(peer, message, ledger)
        else:
            self._counters["unexpected"] += 1

    def _take_status(self, peer: bytes, status: Status, ledger: Ledger) -> None:
        if status.stage == "acquire":
            self._rejector.take_status(status)
            if status.state == "acquiring":
                self._hear_acquire(peer, ledger)
        self._events.send("status", status)

    def _take_prepared(self, _peer: bytes, prepared: Prepared, _ledger: Ledger) -> None:
        self._preparation.take(prepared)

    def _take_origin(self, peer: bytes, origin: Origin, ledger: Ledger) -> None:
        ledger.origin = origin
        self._store.keep_origin(origin)
        self._rejector.take_origin(origin)
        lines = self._rejector.lines_of(origin)
        if lines is not None:
            self._border.place(origin.camera, origin.roll, lines)
        self._stages.send(peer, Kept(origin.camera, origin.roll))

    def _take_latched(self, _peer: bytes, latched: Latched, _ledger: Ledger) -> None:
        self._rejector.take_latched(latched)

    def _take_leaving(self, peer: bytes, leaving: Leaving, ledger: Ledger) -> None:
        self._journal.set_left(leaving.camera, leaving.cause)
        ledger.left = leaving.cause
        self._acquires.pop(leaving.camera, None)
        self._stages.send(peer, Kept(leaving.camera, ""))

    def _take_stamped(self, peer: bytes, stamp: Stamp, message: Message, ledger: Ledger) -> None:
        """Through the border gate: what neighbouring cameras see together is one defect."""
        if stamp.camera != ledger.camera or not isinstance(message, RollStart | Region | Gap | RollEnd | Progress):
            self._counters["unexpected"] += 1
            return
        for told in self._border.came(Told(peer, stamp, message), self._clock()):
            self._accept(told)

    def _accept(self, told: Told) -> None:
        peer, stamp, message = told.peer, told.stamp, told.message
        ledger = self._ledgers[stamp.camera]
        assert isinstance(message, RollStart | Region | Gap | RollEnd | Progress)
        verdict = ledger.judge(stamp, message)
        if verdict is Verdict.SHUT_OUT:
            self._counters["shut_out"] += 1
            self._stages.send(peer, Refused(ledger.camera, f"epoch {stamp.epoch} is over", None))
            return
        self._to_ack[ledger.camera] = peer
        self._store.owes_ack()
        if verdict is not Verdict.NEW:
            self._counters["duplicates" if verdict is Verdict.SEEN else "early"] += 1
        elif isinstance(message, Progress):
            mark = self._mark(stamp, message, ledger)
            ledger.reach(mark)
            self._store.mark(mark)
            self._rejector.take_progress(message, mark.monotonic_ns if mark.boot == boot_id() else None)
        else:
            entry = Entry(
                ledger.camera, stamp.epoch, stamp.sequence, self._utc(), message, stamp.needed_ns, ledger.replayed
            )  # fmt: skip
            self._store.add(entry)
            self._rejector.take(message)

    def _mark(self, stamp: Stamp, progress: Progress, ledger: Ledger) -> Mark:
        """A progress with the time at which its last line had come: a worker may be far behind the camera."""
        before, origin = ledger.mark, ledger.origin
        if not stamp.needed_ns and before is not None:  # no line came with it
            times = before.monotonic_ns, before.utc_ns, before.boot
            return Mark(stamp.epoch, stamp.sequence, progress, *times)
        now = self._clock()
        here = origin is not None and origin.boot == boot_id()  # else the stamp is by another machine's clock
        late_ns = max(now - stamp.needed_ns, 0) if here and stamp.needed_ns else 0
        return Mark(stamp.epoch, stamp.sequence, progress, now - late_ns, self._utc() - late_ns, boot_id())

    def _take_resume(self, peer: bytes, resume: Resume, ledger: Ledger) -> None:
        self._flush()  # what is answered must be what is stored
        if resume.epoch is not None:
            if not ledger.take_over(resume.epoch):
                self._stages.send(peer, Refused(ledger.camera, f"epoch {resume.epoch} is over", None))
                return
            self._border.begin(ledger.camera, ledger.epoch, ledger.next)
            self._to_ack.pop(ledger.camera, None)
            try:
                if not self._store.not_durable:
                    self._journal.take_over(ledger.camera, resume.epoch)
            except JournalFullError:  # it may begin: a publisher that does not know of it makes it begin again
                self._store.full = True
        self._stages.send(peer, ledger.resumed(resume.epoch))

    # ------------------------------------------------------------------------------------------ rolls

    def _take_register(self, peer: bytes, register: Register, ledger: Ledger) -> None:
        self._flush()  # what is answered must be what is stored
        if register.replay and self._settings.plc is not None:
            self._stages.send(peer, Refused(ledger.camera, "this line has a PLC: a replay would open its gates", None))
            return
        answer = self._rolls.register(register, ledger)
        self._follow_roll()
        if isinstance(answer, Registered):
            self._acquires[ledger.camera] = peer
        self._stages.send(peer, answer)

    def _hear_acquire(self, peer: bytes, ledger: Ledger) -> None:
        """One that acquires has had its answer, and a publisher that was started anew learns of it so."""
        self._acquires[ledger.camera] = peer
        if ledger.left:
            self._journal.set_left(ledger.camera, "")
            ledger.left = ""

    def _command(self, command: RollCommand) -> RollState | Refused:
        """What an operator asks for; the acquires are told again and again which roll is to run."""
        answer = self._rolls.command(command, self._ledgers)
        self._follow_roll()
        self._tell_acquires()
        return answer

    def _follow_roll(self) -> None:
        running = self._rolls.running
        self._rejector.running, self._replays = (running.name, running.replayed) if running else ("", False)

    def _tell_acquires(self) -> None:
        wanted = self._rolls.wanted
        for peer in self._acquires.values():
            self._stages.send(peer, wanted)

    # ------------------------------------------------------------------------------------------ to the journal

    def _flush(self) -> None:
        """Stores the batch, tells the world, then the workers that it is stored."""
        self._store.flush()
        self._acknowledge()

    def _acknowledge(self) -> None:
        for camera, peer in self._to_ack.items():
            ledger = self._ledgers[camera]
            self._stages.send(peer, Ack(camera, ledger.epoch, ledger.next - 1))
        self._to_ack = {}

    # ------------------------------------------------------------------------------------------ to the world

    def _hear_public(self) -> int:
        came = 0
        for received in waiting(self._backfill, ASKED_A_TURN):
            came += 1
            if isinstance(received.message, Since):
                self._answer(received.peer, received.message)
            else:
                self._counters["unexpected"] += 1
        for received in waiting(self._control, ASKED_A_TURN):
            came += 1
            if isinstance(received.message, RollCommand):
                self._preparation.command(received.message, partial(self._control.send, received.peer))
            elif isinstance(received.message, Order):
                self._control.send(received.peer, self._answer_order(received.message))
            else:
                self._counters["unexpected"] += 1
        return came

    def _answer_command(self, command: RollCommand) -> Message:
        try:
            return self._command(command)
        except JournalFullError as error:
            return Refused("", str(error), None)

    def _answer_order(self, order: Order) -> Message:
        try:
            return self._operators.answer(order)
        except JournalFullError as error:
            return Refused("", str(error), None)

    def _answer(self, peer: bytes, since: Since) -> None:
        journal = self._journal
        known = since.run in ("", journal.run)
        events = journal.since(since.sequence, min(since.limit, BACKFILL)) if known else []
        up_to = since.sequence if known else 0
        for event in events:
            self._backfill.send(peer, event)
            up_to = event.sequence or up_to
        self._backfill.send(peer, Caught(journal.run, journal.last, journal.oldest, up_to))

    def _report(self) -> None:
        self._tell_acquires()
        dropped = sum((link.counters for link in self._links), Counter[str]())
        counters = {
            "last_sequence": self._journal.last,
            "not_durable": self._store.not_durable,
            **self.counters,
            **{f"dropped_{name}": count for name, count in dropped.items()},
        }
        status = Status("publisher", "", "publishing", self.faults, counters, self._clock())
        self._events.send("status", status)
        self._metrics.status(status)


def _from_worker(received: Received) -> bool:
    message = received.message
    by_stage = isinstance(message, Status) and message.stage == "worker"
    return received.stamp is not None or by_stage or isinstance(message, Resume | Prepared)
