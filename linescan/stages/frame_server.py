"""Acquire's side of the frames' stream: one worker under a lease, and observers that take what they can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from linescan.messages import (
    Credit,
    Frame,
    Grant,
    Hello,
    Message,
    Refused,
    Revoked,
    RollEnd,
    RollStart,
    Stamp,
)
from linescan.metrics import NO_METRICS, Meter
from linescan.stages.retention import Item, Retention
from linescan.transport import Received, Sent, Server, waiting

GENERATION_BITS = 20  # epochs of one run of acquire: more leases than it will ever grant
MESSAGES_A_TURN = 100  # before the camera is read again
PING_S = 0.25  # how soon a worker that was killed is noticed


@dataclass
class _Lease:
    """The worker that inspects: it gets everything, in order, as far as its credits go."""

    peer: bytes
    epoch: int
    ends_ns: int
    credits: int = 0
    place: int = -1  # of the next item; −1 until the worker has said how far the journal is
    sequence: int = 0
    pinged_ns: int = 0


@dataclass
class _Observer:
    is_new: bool  # has not given a credit yet
    credits: int = 0


class FrameServer:
    """Hands the stream out, and keeps it until it is journaled.

    Args:
        server: the bound socket.
        generation: of this run of acquire, from the publisher: epochs grow over restarts.
        clock_ns: monotonic time.
    """

    def __init__(
        self,
        server: Server,
        camera: str,
        retention: Retention,
        *,
        generation: int,
        lease_s: float,
        clock_ns: Callable[[], int],
        metrics: Meter = NO_METRICS,
    ) -> None:
        self._server, self._camera, self._retention = server, camera, retention
        self._lease_ns = int(lease_s * 1e9)
        self._clock, self._metrics = clock_ns, metrics
        self._epoch = generation << GENERATION_BITS
        self._lease: _Lease | None = None
        self._observers: dict[bytes, _Observer] = {}
        self.held_roll = ""  # of which nothing but its start is handed out to be inspected
        self._roll: Item | None = None  # the RollStart that an observer who comes late is told
        self.journaled: Credit | None = None
        self.counters: Counter[str] = Counter()

    @property
    def has_worker(self) -> bool:
        return self._lease is not None

    @property
    def epoch(self) -> int:
        return self._epoch

    def add(self, item: Item) -> None:
        """The next item of the stream; where the store overflows, the lease goes first, then the oldest frames."""
        if isinstance(item.message, RollStart | RollEnd):
            self._roll = item if isinstance(item.message, RollStart) else None
        self._retention.append(item)
        self._show(item)
        if self._retention.full:
            self._revoke("the byte budget of frames is spent")
            before = self._retention.lines_dropped
            self._retention.spill(self.journaled)
            self.counters["lines_dropped"] += self._retention.lines_dropped - before

    def turn(self) -> bool:
        """Answers what came, ends a lease that ran out, sends what may be sent; whether anything came."""
        came = False
        for received in waiting(self._server, MESSAGES_A_TURN):
            came = True
            self._answer(received)
        now = self._clock()
        lease = self._lease
        if lease is not None and now > lease.ends_ns:
            self._end_lease("leases_expired")
        elif lease is not None and now - lease.pinged_ns > PING_S * 1e9:
            lease.pinged_ns = now
            self._send(Grant(self._camera, lease.epoch, self._lease_ns / 1e9))
        self._pump()
        return came

    # ------------------------------------------------------------------------------------------ what comes

    def _answer(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Hello) and message.camera == self._camera:
            if message.role == "observer":
                self._welcome(received.peer)
            else:
                self._lend(received.peer)
        elif isinstance(message, Credit) and received.peer in self._observers:
            self._observe(received.peer, max(message.frames, 0))
        elif isinstance(message, Credit):
            self._renew(received.peer, message)
        else:
            self.counters["unexpected"] += 1

    def _lend(self, peer: bytes) -> None:
        lease = self._lease
        if lease is not None and lease.peer != peer:
            self.counters["hellos_refused"] += 1
            left = max((lease.ends_ns - self._clock()) / 1e9, 0.0)
            self._server.send(peer, Refused(self._camera, "another worker holds the lease of this camera", left))
            return
        if lease is not None and lease.place < 0:  # it asked again before it was heard
            self._send(Grant(self._camera, lease.epoch, self._lease_ns / 1e9))
            return
        self._epoch += 1
        self._lease = _Lease(peer, self._epoch, self._clock() + self._lease_ns, pinged_ns=self._clock())
        self.counters["leases"] += 1
        self._send(Grant(self._camera, self._epoch, self._lease_ns / 1e9))

    def _renew(self, peer: bytes, credit: Credit) -> None:
        lease = self._lease
        if lease is None or lease.peer != peer or lease.epoch != credit.epoch:
            self.counters["old_epochs"] += 1
            self._server.send(peer, Revoked(self._camera, credit.epoch, "this lease is over"))
            return
        lease.ends_ns = self._clock() + self._lease_ns
        lease.credits += max(credit.frames, 0)
        if credit.roll:
            self.journaled = credit
            self._retention.free(credit)
        if lease.place < 0 and credit.frames > 0:
            lease.place = self._retention.first

    def _welcome(self, peer: bytes) -> None:
        """An observer that says hello again has no credits but those that it gives from now on."""
        self._observers[peer] = _Observer(is_new=peer not in self._observers)
        if self._roll is not None:
            self._server.send(peer, self._roll.message, Stamp(self._camera, 0, 0, 0))

    def _observe(self, peer: bytes, frames: int) -> None:
        """Credits of an observer; with its first it is shown what is kept of the roll, which began before it came."""
        observer = self._observers[peer]
        observer.credits += frames
        if observer.is_new and frames:
            observer.is_new = False
            roll = self._roll.message.roll if self._roll is not None else None
            for item in self._retention:
                if roll in (None, item.message.roll) and not self._show_to(peer, item):
                    return

    # ------------------------------------------------------------------------------------------ what goes

    def _pump(self) -> None:
        lease = self._lease
        if lease is None or lease.place < 0:
            return
        lease.place = max(lease.place, self._retention.first)
        while lease.place < self._retention.end:
            item = self._retention[lease.place]
            is_frame = item.pixels is not None
            if is_frame and lease.credits <= 0:
                return
            if item.message.roll == self.held_roll and not isinstance(item.message, RollStart):
                return
            stamp = Stamp(self._camera, lease.epoch, lease.sequence, item.needed_ns)
            if not self._send(_under(item.message, lease.epoch), stamp, item):
                return
            if is_frame:
                lease.credits -= 1
                self._metrics.step("hand-over", self._clock() - item.needed_ns)
            lease.place += 1
            lease.sequence += 1

    def _send(self, message: Message, stamp: Stamp | None = None, item: Item | None = None) -> bool:
        lease = self._lease
        assert lease is not None
        sent = self._server.send(lease.peer, message, stamp, item.pixels if item else None)
        if sent is Sent.GONE:
            self._end_lease("workers_gone")
        return sent is Sent.YES

    def _show(self, item: Item) -> None:
        for peer in list(self._observers):
            self._show_to(peer, item)

    def _show_to(self, peer: bytes, item: Item) -> bool:
        """To an observer, who has no claim: a frame beyond its credits is skipped, and counted; whether it is there."""
        observer = self._observers[peer]
        if item.pixels is not None and observer.credits <= 0:
            self.counters["frames_not_observed"] += 1
            return True
        sent = self._server.send(peer, item.message, Stamp(self._camera, 0, 0, item.needed_ns), item.pixels)
        if sent is Sent.GONE:
            del self._observers[peer]
        elif sent is Sent.FULL:
            self.counters["frames_not_observed"] += 1
        elif item.pixels is not None:
            observer.credits -= 1
        return sent is not Sent.GONE

    def _revoke(self, reason: str) -> None:
        if self._lease is not None:
            self._server.send(self._lease.peer, Revoked(self._camera, self._lease.epoch, reason))
            self._end_lease("leases_revoked")

    def _end_lease(self, counter: str) -> None:
        self.counters[counter] += 1
        self._lease = None


def _under(message: Message, epoch: int) -> Message:
    return replace(message, epoch=epoch) if isinstance(message, Frame) else message
