"""Worker: a lease on one camera's frames, their stream to the inspection, and what it finds to the publisher."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from linescan.errors import DeviceLostError, PeerError
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
from linescan.stages.next_engine import Aside, MakeEngine, in_thread
from linescan.stages.outbox import Outbox, credit_of
from linescan.stages.roll_inspection import RollInspection
from linescan.transport import Network, Received, Sent, waiting

MESSAGES_A_TURN = 500
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
        make_engine, aside: as of `RollInspection`.
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
        self._camera, self._name, self._network, self._clock = camera, name, network, clock_ns
        self._metrics = metrics
        self._transport, self._status_s = line.settings.transport, line.settings.status_s
        self._acquire = network.client(line.frames_endpoint(camera))
        self._publisher = network.client(line.stages_endpoint)
        self._links = (self._acquire, self._publisher)
        self._outbox = Outbox(self._publisher, camera, line.settings.worker.outbox, clock_ns)
        self._inspection = RollInspection(
            camera,
            make_engine,
            self._outbox,
            brightness_drift=line.camera(camera).brightness_drift,
            between=self._between_portions,
            alive=alive,
            aside=aside,
            clock_ns=clock_ns,
            metrics=metrics,
        )
        self._state = State.ASKING
        self._asked_ns = self._renewed_ns = self._reported_ns = -(1 << 62)
        self._refused_since_ns: int | None = None
        self._epoch = 0
        self._expected = 0  # stamp of the next item
        self._owed_credits = 0
        self.counters: Counter[str] = Counter()
        self._faults: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded, warm and sees its reference defect."""
        return self._inspection.ready

    @property
    def frame_since_ns(self) -> int | None:
        """Since when a frame, or a portion of one, is being inspected."""
        return self._inspection.frame_since_ns

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
            self._inspection.shrink()
            self._start_over("out_of_memory")

    def _turn(self) -> None:
        self._hear_publisher()
        came = self._hear_acquire()
        if not came and self._state is State.RUNNING:
            self._inspection.settle()
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
        self._inspection.drop()
        self._acquire.reconnect()
        self._enter(State.WAITING)

    def _hear_publisher(self) -> None:
        for received in waiting(self._publisher, MESSAGES_A_TURN):
            message = received.message
            if isinstance(message, Ack):
                if not self._outbox.acknowledge(message):
                    self._start_over("journal_behind")
            elif isinstance(message, Resumed):
                self._take_resumed(message)
            elif isinstance(message, Prepare):
                prepared = self._inspection.prepare(message)
                if prepared is not None:
                    self._publisher.send(prepared)
            elif isinstance(message, Refused) and self._state in (State.RUNNING, State.RESUMING):
                self._start_over("shut_out")

    def _take_resumed(self, resumed: Resumed) -> None:
        if self._state is State.ASKING and resumed.epoch is None:
            self._inspection.load(None if resumed.ended else resumed.roll)
            self._enter(State.WAITING)
        elif self._state is State.RESUMING and resumed.epoch == self._epoch:
            self._outbox.begin(self._epoch, _journaled(resumed, self._epoch))
            self._expected = 0
            self._owed_credits = self._transport.credits
            self._enter(State.RUNNING)
            self._inspection.restore(resumed)

    # ------------------------------------------------------------------------------------------ the frames' stream

    def _hear_acquire(self) -> bool:
        """Takes messages up to the first frame."""
        came = False
        if self._outbox.full:
            return came
        for received in waiting(self._acquire, MESSAGES_A_TURN):
            came = True
            if received.stamp is not None:
                self._take_stamped(received, received.stamp)
            else:
                self._take_plain(received.message)
            if isinstance(received.message, Frame) or self._outbox.full:
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
            self._inspection.inspect(message, received.pixels, stamp.needed_ns)
        elif isinstance(message, RollStart):
            self._inspection.start(message)
        elif isinstance(message, Gap | RollEnd | StreamEnd):
            self._inspection.take(message, stamp.needed_ns)

    def _between_portions(self) -> None:
        self._hear_publisher()
        self._serve()

    # ------------------------------------------------------------------------------------------ keeping it up

    def _serve(self) -> None:
        if self._state is State.RUNNING:
            self._outbox.turn()
        self._renew()
        now = self._clock()
        self._inspection.check()
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

    def status(self) -> Status:
        brightness, drift = self._inspection.brightness()
        counters = {
            "lines": self._inspection.lines,
            **self.counters,
            **self._inspection.counters,
            **self._outbox.counters,
            **{f"dropped_{name}": count for name, count in self._acquire.counters.items()},
            **brightness,
        }
        faults = (*self._faults, *drift)
        return Status("worker", self._camera, self._state.value, faults, counters, self._clock())


def _journaled(resumed: Resumed, epoch: int) -> Credit | None:
    if resumed.progress is not None:
        return replace(credit_of(resumed.progress, epoch), ended=resumed.ended)
    if resumed.roll is not None:  # nothing of it yet, but all of the rolls before
        return Credit(resumed.camera, epoch, 0, resumed.roll.roll, 0, 0, resumed.ended)
    return None
