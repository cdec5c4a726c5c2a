"""Worker: the frames of one camera through the engine, what it finds to the publisher."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from numpy.typing import NDArray

from linescan.errors import DeviceLostError, FootageError, MessageError, PeerError
from linescan.inspection import Finding, Inspector
from linescan.line import Line
from linescan.messages import (
    Ack,
    Credit,
    Frame,
    Gap,
    Grant,
    Hello,
    Message,
    Prepare,
    Prepared,
    Refused,
    Resume,
    Resumed,
    Revoked,
    RollEnd,
    RollStart,
    Stamp,
    Status,
    StreamEnd,
)
from linescan.metrics import NO_METRICS, Meter
from linescan.models.device import OutOfMemory, device_lost
from linescan.pixels import FORMATS, pixels_of
from linescan.stages.engine import Engine, end_of, progress_of
from linescan.stages.next_engine import Aside, MakeEngine, NextEngine, in_thread
from linescan.stages.outbox import Outbox, credit_of
from linescan.transport import Network, Received, Sent

PIXELS_A_PUSH = 1 << 20  # between two looks at the sockets: a second or so on a slow CPU
PIXELS_AHEAD = 1 << 24  # … where a device works while the host goes on
REPEAT_S = 0.5  # a question that is not answered
IDLE_S = 0.1
PATIENCE_S = 5.0  # beyond a lease, for one that ends


class State(Enum):
    ASKING = "asking the publisher"
    WAITING = "waiting for frames"
    RESUMING = "resuming"
    RUNNING = "inspecting"


class Worker:
    """One camera's inspection: `turn()` again and again, from one thread.

    Args:
        make_engine: of a recipe (empty: the one that line.toml names) from the settings of the roll that goes on or
            was before (None: none); also called aside.
        aside: runs a function beside this loop: the next recipe is loaded while this one inspects.
        alive: called whenever something was done, also within a long frame.
    """

    def __init__(
        self,
        line: Line,
        camera: str,
        network: Network,
        make_engine: MakeEngine,
        *,
        name: str = "worker",
        clock_ns: Callable[[], int] = time.monotonic_ns,
        metrics: Meter = NO_METRICS,
        alive: Callable[[], object] = lambda: None,
        aside: Aside = in_thread,
    ) -> None:
        self._alive = alive
        self._camera, self._name, self._network, self._clock = camera, name, network, clock_ns
        self._make_engine, self._metrics = make_engine, metrics
        self._transport, self._status_s = line.settings.transport, line.settings.status_s
        self._brightness_drift = line.camera(camera).brightness_drift
        self._acquire = network.client(line.frames_endpoint(camera))
        self._publisher = network.client(line.stages_endpoint)
        self._links = (self._acquire, self._publisher)
        self._outbox = Outbox(self._publisher, camera, line.settings.worker.outbox, clock_ns)
        self._engine: Engine | None = None
        self._next = NextEngine(make_engine, aside)
        self._seen: dict[str, Any] = {}  # settings of the last roll's start: what the camera sends
        self._state = State.ASKING
        self._asked_ns = self._renewed_ns = self._reported_ns = -(1 << 62)
        self._refused_since_ns: int | None = None
        self._epoch = 0
        self._expected = 0  # stamp of the next item
        self._owed_credits = 0
        self._inspector: Inspector | None = None
        self._lines = 0
        self.counters: Counter[str] = Counter()
        self._needed_ns = 0  # of the last frame
        self._faults: tuple[str, ...] = ()
        self.frame_since_ns: int | None = None  # since when a frame is being inspected

    @property
    def ready(self) -> bool:
        """Whether the model is loaded, warm and sees its reference defect."""
        return self._engine is not None

    @property
    def state(self) -> State:
        return self._state

    @property
    def settled(self) -> bool:
        """Whether the journal has everything that was found; without a lease there is nobody to tell it."""
        return self._state is not State.RUNNING or self._outbox.empty

    def turn(self) -> None:
        """One pass of the loop: at most one frame is inspected.

        Raises DeviceLostError where the device that computes is gone; what the journal lacks, a replacement finds.
        """
        short_of_memory = False
        try:
            self._turn()
        except OutOfMemory:
            short_of_memory = True
        except RuntimeError as error:
            if device_lost(error):
                self._lose_device(error)
            raise
        if short_of_memory:  # behind the error, which holds on to what took the memory
            self._inspector = None
            self._made_engine().shrink()
            self._start_over("out_of_memory")

    def _turn(self) -> None:
        self._hear_publisher()
        came = self._hear_acquire()
        if not came:
            self._settle()
        self._ask()
        self._serve()
        if not came:
            self._network.wait(self._links, IDLE_S)

    def _lose_device(self, error: RuntimeError) -> None:
        """Says so before the process ends: its lease ends with it, and acquire keeps the frames for the next one."""
        self._faults = ("device-lost",)
        self._publisher.send(self.status())
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise DeviceLostError(f"camera {self._camera}: the device that computes is gone: {said}") from error

    def flush(self) -> None:
        """A turn without frames: hands over what was found."""
        self._hear_publisher()
        if self._state is State.RUNNING:
            self._outbox.turn()
        self._network.wait((self._publisher,), IDLE_S)

    # ------------------------------------------------------------------------------------------ getting there

    def _ask(self) -> None:
        if self._state is State.RUNNING or self._clock() - self._asked_ns < REPEAT_S * 1e9:
            return
        self._asked_ns = self._clock()
        if self._state is State.ASKING:
            self._publisher.send(Resume(self._camera, None))
        elif self._state is State.WAITING:
            self._acquire.send(Hello(self._camera, self._name, "worker"))
        else:
            self._publisher.send(Resume(self._camera, self._epoch))

    def _enter(self, state: State) -> None:
        self._state, self._asked_ns = state, -(1 << 62)

    def _start_over(self, counter: str) -> None:
        """The lease is gone, or the stream cannot go on: everything is taken up again from the journal."""
        self.counters[counter] += 1
        self._inspector = None
        self._acquire.reconnect()
        self._enter(State.WAITING)

    def _hear_publisher(self) -> None:
        while (received := self._publisher.receive()) is not None:
            message = received.message
            if isinstance(message, Ack):
                if not self._outbox.acknowledge(message):
                    self._start_over("journal_behind")
            elif isinstance(message, Resumed):
                self._take_resumed(message)
            elif isinstance(message, Prepare):
                self._prepare(message)
            elif isinstance(message, Refused) and self._state in (State.RUNNING, State.RESUMING):
                self._start_over("shut_out")

    def _take_resumed(self, resumed: Resumed) -> None:
        if self._state is State.ASKING and resumed.epoch is None:
            start = None if resumed.ended else resumed.roll
            self._engine = self._make_engine(start.recipe if start else "", start.settings if start else None)
            self._enter(State.WAITING)
        elif self._state is State.RESUMING and resumed.epoch == self._epoch:
            self._outbox.begin(self._epoch, _journaled(resumed, self._epoch))
            self._expected = 0
            self._owed_credits = self._transport.credits
            self._enter(State.RUNNING)
            self._restore(resumed)

    # ------------------------------------------------------------------------------------------ recipes

    def _engine_of(self, start: RollStart) -> Engine:
        """The engine for that roll; where it is another recipe's and was not prepared, made here and now."""
        engine = self._made_engine()
        if start.recipe in ("", engine.recipe):
            return engine
        prepared = self._next.take(start.recipe)
        return prepared or self._make_engine(start.recipe, self._like(engine, start.settings))

    def _prepare(self, prepare: Prepare) -> None:
        """Has the next recipe made, and says so when it is."""
        present = self._engine
        if present is None:
            return
        self._next.ask(prepare, self._like(present, self._seen))
        made = self._next.made(prepare.number)
        if made is None or not prepare.recipe:
            return
        engine, reason = made
        going_on = self._inspector is not None or not self._outbox.empty
        if engine is not None and engine.recipe == present.recipe and going_on and engine.identity != present.identity:
            # a worker that takes over in the last lines of the roll could not read their recipe any more
            reason = (
                f"recipe {engine.recipe} was changed since it was loaded, and a roll runs with it; end that roll "
                "first, or give the changed recipe another name"
            )
        self._publisher.send(Prepared(self._camera, prepare.recipe, prepare.number, reason))

    @staticmethod
    def _like(engine: Engine, settings: dict[str, Any]) -> dict[str, Any]:
        """A roll's settings with the way in which this engine runs: measuring beside an inspection would mislead."""
        return {**settings, "execution": engine.execution.as_dict()}

    # ------------------------------------------------------------------------------------------ the frames' stream

    def _hear_acquire(self) -> bool:
        """Takes messages up to the first frame."""
        came = False
        while not self._outbox.full and (received := self._acquire.receive()) is not None:
            came = True
            if received.stamp is not None:
                self._take_stamped(received, received.stamp)
            else:
                self._take_plain(received.message)
            if isinstance(received.message, Frame):
                break
        return came

    def _take_plain(self, message: Message) -> None:
        if isinstance(message, Grant) and self._state is State.WAITING:
            self._epoch = message.epoch
            self._refused_since_ns = None
            self._enter(State.RESUMING)
        elif isinstance(message, Refused) and self._state is State.WAITING:
            self._bear_refusal(message)
        elif isinstance(message, Revoked) and message.epoch == self._epoch:
            self._start_over("revoked")

    def _bear_refusal(self, refused: Refused) -> None:
        """A lease of a worker that is dead ends by itself; one that lives keeps it, and then this one is too many."""
        now = self._clock()
        self._refused_since_ns = self._refused_since_ns or now
        if now - self._refused_since_ns > (self._transport.lease_s + PATIENCE_S) * 1e9:
            raise PeerError(f"camera {self._camera}: {refused.reason}")

    def _take_stamped(self, received: Received, stamp: Stamp) -> None:
        if self._state is not State.RUNNING or stamp.epoch != self._epoch:
            self.counters["old_epochs"] += 1
            return
        if stamp.sequence != self._expected:
            self._start_over("stream_broken")
            return
        self._expected += 1
        message = received.message
        if isinstance(message, Frame):
            self._owed_credits += 1
            self.counters["frames"] += 1
            self._inspect(message, received.pixels, stamp.needed_ns)
        elif isinstance(message, RollStart):
            self._start_roll(message)
        elif isinstance(message, Gap | RollEnd | StreamEnd):
            self._take_control(message, stamp.needed_ns)

    def _take_control(self, message: Gap | RollEnd | StreamEnd, needed_ns: int) -> None:
        inspector = self._inspector
        if inspector is None or inspector.footprint.roll != message.roll:
            self.counters["of_no_roll"] += 1
            return
        if isinstance(message, Gap):
            self._tell(inspector.push_gap(message.last_line, message.cause, message.estimated), needed_ns)
        elif isinstance(message, StreamEnd):  # a gap of no lines: what was scanned is finished
            self._tell(inspector.push_gap(inspector.inspected_up_to - 1, "shutdown"), needed_ns)
        else:
            findings = []
            if message.lines > inspector.lines_scanned:
                findings = inspector.push_gap(message.lines - 1, "incomplete")
            self._tell(findings + inspector.finish(), needed_ns)
            self._outbox.put(end_of(inspector), needed_ns)
            self._inspector = None

    def _start_roll(self, start: RollStart) -> None:
        assert self._engine is not None
        if self._inspector is not None and self._inspector.footprint.roll == start.roll:
            return
        engine = self._next.take(start.recipe) or self._engine_of(start)
        self._engine, self._seen = engine, start.settings
        self._inspector = engine.inspector(start, None)
        self._outbox.put(engine.announced(start))

    def _restore(self, resumed: Resumed) -> None:
        """Takes the roll up where the journal has it."""
        start = resumed.roll
        if start is None or resumed.ended:
            return
        self._engine = engine = self._engine_of(start)
        self._seen = start.settings
        self._inspector = engine.inspector(start, resumed.progress)
        announced = engine.announced(start)
        if announced.settings["execution"] != start.settings.get("execution"):
            # another batch or device moves the last bits of a score: the segment ends, and it is said
            self._outbox.put(announced)
            self._tell(self._inspector.push_gap(self._inspector.inspected_up_to - 1, "worker-lost"), 0)

    def _inspect(self, frame: Frame, data: memoryview | None, needed_ns: int) -> None:
        inspector = self._inspector
        if inspector is None or inspector.footprint.roll != frame.roll:
            self.counters["of_no_roll"] += 1
            return
        try:
            pixels = pixels_of(frame, data or b"")
        except MessageError:
            self.counters["garbage"] += 1  # its lines will be missing before the next, and a gap
            return
        if (
            frame.columns != inspector.footprint.columns
            or FORMATS[frame.pixel_format].bits != inspector.footprint.bit_depth
        ):
            raise FootageError(
                f"camera {frame.camera} sends {frame.columns} columns of {frame.pixel_format}, roll {frame.roll} was "
                f"begun with {inspector.footprint.columns} columns of {inspector.footprint.bit_depth} bits"
            )
        self._push(inspector, frame, pixels, needed_ns)

    def _push(self, inspector: Inspector, frame: Frame, pixels: NDArray[Any], needed_ns: int) -> None:
        """In portions, so that the sockets are served meanwhile; the portions do not show in the result."""
        self.frame_since_ns = began_ns = self._clock()
        self._metrics.step("wait", began_ns - needed_ns)
        self._needed_ns = needed_ns
        rows = max(1, (PIXELS_AHEAD if inspector.ahead else PIXELS_A_PUSH) // frame.columns)
        try:
            for first in range(0, frame.lines, rows):
                findings = inspector.push(pixels[first : first + rows], frame.first_line + first)
                self._tell(findings, needed_ns, first + rows >= frame.lines)
                self._hear_publisher()
                self._serve()
                self.frame_since_ns = self._clock()  # a portion is done: slow is not hung
                self._alive()
                if self._inspector is not inspector:
                    break  # shut out meanwhile
        finally:
            self.frame_since_ns = None
        self._lines += frame.lines
        self._metrics.step("inspect", self._clock() - began_ns)

    def _settle(self) -> None:
        """No frame is there: what the device still works on is waited for, rather than told with the next one."""
        inspector = self._inspector
        if inspector is None or inspector.settled or self._state is not State.RUNNING:
            return
        self.frame_since_ns = self._clock()
        try:
            self._tell(inspector.settle(), self._needed_ns)
        finally:
            self.frame_since_ns = None

    def _tell(self, findings: list[Finding], needed_ns: int, progress: bool = True) -> None:
        for finding in findings:
            self._outbox.put(finding, needed_ns)
            if needed_ns:
                self._metrics.step("event", self._clock() - needed_ns)
            if isinstance(finding, Gap):
                self.counters["gaps"] += 1
                self.counters["lines_in_gaps"] += finding.last_line - finding.first_line + 1
        if progress and self._inspector is not None:
            self._outbox.put(progress_of(self._inspector), needed_ns)

    # ------------------------------------------------------------------------------------------ keeping it up

    def _serve(self) -> None:
        if self._state is State.RUNNING:
            self._outbox.turn()
        self._renew()
        now = self._clock()
        if self._engine is not None and self.frame_since_ns is None:
            self._engine.check()
        if now - self._reported_ns > self._status_s * 1e9:
            self._reported_ns = now
            status = self.status()
            self._publisher.send(status)
            self._metrics.status(status)

    def _renew(self) -> None:
        """A credit for each frame that was inspected, none while the outbox is full; renews the lease either way."""
        if self._state not in (State.RUNNING, State.RESUMING):
            return
        now = self._clock()
        frames = 0 if self._outbox.full or self._state is State.RESUMING else self._owed_credits
        if not frames and now - self._renewed_ns < self._transport.lease_s * 1e9 / 4:
            return
        journaled = self._outbox.journaled if self._state is State.RUNNING else None
        blank = Credit(self._camera, self._epoch, frames, "", 0, 0, False)
        credit = blank if journaled is None else replace(journaled, epoch=self._epoch, frames=frames)
        if self._acquire.send(credit) is Sent.YES:
            self._owed_credits -= frames
            self._renewed_ns = now

    def _made_engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def status(self) -> Status:
        counters = {
            "lines": self._lines,
            **self.counters,
            **self._outbox.counters,
            **{f"dropped_{name}": count for name, count in self._acquire.counters.items()},
        }
        faults = self._faults
        inspector = self._inspector
        if inspector is not None and inspector.brightness is not None:
            counters["brightness_permille"] = round(1000 * inspector.brightness)
            field = inspector.flatfield
            if field is not None:
                counters["brightness_wanted_permille"] = round(1000 * field.level)
                if field.drifted(inspector.brightness, self._brightness_drift):
                    faults += ("brightness-drift",)
        return Status("worker", self._camera, self._state.value, faults, counters, self._clock())


def _journaled(resumed: Resumed, epoch: int) -> Credit | None:
    if resumed.progress is not None:
        return replace(credit_of(resumed.progress, epoch), ended=resumed.ended)
    if resumed.roll is not None:  # nothing of it yet, but all of the rolls before
        return Credit(resumed.camera, epoch, 0, resumed.roll.roll, 0, 0, resumed.ended)
    return None
