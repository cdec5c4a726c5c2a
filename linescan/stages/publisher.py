"""Publisher: what the workers find, into the journal, then to the world; owner of the rolls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from linescan.errors import JournalFullError
from linescan.journal import Entry, Journal, Mark
from linescan.line import Line
from linescan.messages import (
    Ack,
    Caught,
    Gap,
    Kept,
    Leaving,
    Message,
    Origin,
    Progress,
    Refused,
    Region,
    Register,
    Registered,
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
from linescan.stages.event_store import EventStore
from linescan.stages.ledger import Ledger, Verdict
from linescan.stages.registration import boot_id
from linescan.stages.rolls import Rolls
from linescan.transport import Network, Received

MESSAGES_A_TURN = 500
BACKFILL = 500  # events in one answer
IDLE_S = 0.1


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
    ) -> None:
        self._settings, self._journal, self._network = line.settings, journal, network
        self._clock, self._utc, self._metrics = clock_ns, utc_ns, metrics
        recipe = line.file(line.settings.recipe).stem
        self._rolls = Rolls(journal, recipe, begins=line.settings.rolls == "at-start")
        self._stages = network.server(line.stages_endpoint)
        self._events = network.publication(line.events_endpoint)
        self._backfill = network.server(line.backfill_endpoint)
        self._control = network.server(line.control_endpoint)
        self._links = (self._stages, self._backfill, self._control)
        self._ledgers = {one.name: Ledger(one.name, journal.camera(one.name)) for one in line.settings.cameras}
        self._store = EventStore(
            journal, line.settings.journal, self._ledgers, self._events,
            clock_ns=clock_ns, utc_ns=utc_ns, metrics=metrics,
        )  # fmt: skip
        self._to_ack: dict[str, bytes] = {}  # camera → the worker that waits for it
        self._acquires: dict[str, bytes] = {}
        self._reported_ns = -(1 << 62)
        self._counters: Counter[str] = Counter()

    @property
    def counters(self) -> Counter[str]:
        return self._counters + self._store.counters

    @property
    def faults(self) -> tuple[str, ...]:
        return ("disk-full",) if self._store.full else ()

    def turn(self) -> None:
        """One pass of the loop."""
        came = self._hear_stages() + self._hear_public()
        if self._store.due:
            self._flush()
        now = self._clock()
        if now - self._reported_ns > self._settings.status_s * 1e9:
            self._reported_ns = now
            self._report()
        self._store.expire()
        if not came:
            self._network.wait(self._links, self._settings.journal.commit_ms / 2000 if self._store.waiting else IDLE_S)

    def close(self) -> None:
        """Commits what came; what nobody has acknowledged the workers keep."""
        self._store.close()
        self._acknowledge()

    # ------------------------------------------------------------------------------------------ from the stages

    def _hear_stages(self) -> int:
        for number in range(MESSAGES_A_TURN):
            received = self._stages.receive()
            if received is None:
                return number
            try:
                self._take(received)
            except JournalFullError:  # not answered: it will be asked again
                self._counters["not_stored"] += 1
                self._store.full = True
        return MESSAGES_A_TURN

    def _take(self, received: Received) -> None:
        message, peer = received.message, received.peer
        if isinstance(message, RollCommand):
            self._stages.send(peer, self._command(message))
            return
        ledger = self._ledgers.get(getattr(message, "camera", ""))
        if ledger is None:
            self._counters["unexpected"] += 1
        elif received.stamp is not None:
            self._take_stamped(peer, received.stamp, message, ledger)
        elif isinstance(message, Status):
            if message.stage == "acquire" and message.state == "acquiring":
                self._hear_acquire(peer, ledger)
            self._events.send("status", message)
        elif isinstance(message, Resume):
            self._take_resume(peer, message, ledger)
        elif isinstance(message, Register):
            self._take_register(peer, message, ledger)
        elif isinstance(message, Origin):
            ledger.origin = message
            self._store.keep_origin(message)
            self._stages.send(peer, Kept(message.camera, message.roll))
        elif isinstance(message, Leaving):
            self._journal.set_left(message.camera, message.cause)
            ledger.left = message.cause
            self._acquires.pop(message.camera, None)
            self._stages.send(peer, Kept(message.camera, ""))
        else:
            self._counters["unexpected"] += 1

    def _take_stamped(self, peer: bytes, stamp: Stamp, message: Message, ledger: Ledger) -> None:
        if stamp.camera != ledger.camera or not isinstance(message, RollStart | Region | Gap | RollEnd | Progress):
            self._counters["unexpected"] += 1
            return
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
        else:
            entry = Entry(
                ledger.camera, stamp.epoch, stamp.sequence, self._utc(), message, stamp.needed_ns, ledger.replayed
            )  # fmt: skip
            self._store.add(entry)

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
        answer = self._rolls.register(register, ledger)
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
        self._tell_acquires()
        return answer

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
        while came < MESSAGES_A_TURN and (received := self._backfill.receive()) is not None:
            came += 1
            if isinstance(received.message, Since):
                self._answer(received.peer, received.message)
            else:
                self._counters["unexpected"] += 1
        while came < MESSAGES_A_TURN and (received := self._control.receive()) is not None:
            came += 1
            if isinstance(received.message, RollCommand):
                self._control.send(received.peer, self._answer_command(received.message))
            else:
                self._counters["unexpected"] += 1
        return came

    def _answer_command(self, command: RollCommand) -> Message:
        try:
            return self._command(command)
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
