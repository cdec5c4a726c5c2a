"""What the worker has told the publisher and what of it is not yet in the journal."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from linescan.messages import Ack, Credit, Message, Progress, RollEnd, Stamp
from linescan.transport import Client, Sent

WINDOW = 500  # messages on their way at once: fewer than the transport's queues hold
PARCEL = 200  # messages that are sent as one, at most
RESEND_S = 0.5


@dataclass(frozen=True)
class _Letter:
    stamp: Stamp
    message: Message


class Outbox:
    """One ordered stream to the publisher: each message is kept until it is acknowledged, and sent again if it is not.

    Args:
        limit: messages that are kept; `full` from there on.
    """

    def __init__(self, link: Client, camera: str, limit: int, clock_ns: Callable[[], int]) -> None:
        self._link, self._camera, self._limit, self._clock = link, camera, limit, clock_ns
        self._letters: deque[_Letter] = deque()
        self._sent = 0  # of them, from the left
        self._next = 0
        self._acked = -1
        self._heard_ns = 0
        self.epoch = 0
        self.journaled: Credit | None = None  # how far the journal is, as acquire is told
        self.counters: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        return len(self._letters) >= self._limit

    @property
    def empty(self) -> bool:
        return not self._letters

    def begin(self, epoch: int, journaled: Credit | None) -> None:
        """A new lease: what was not acknowledged under the old one will be found anew."""
        self._letters.clear()
        self._sent = self._next = 0
        self._acked = -1
        self.epoch, self.journaled = epoch, journaled

    def put(self, message: Message, needed_ns: int = 0) -> None:
        if not self._letters:
            self._heard_ns = self._clock()
        self._letters.append(_Letter(Stamp(self._camera, self.epoch, self._next, needed_ns), message))
        self._next += 1

    def acknowledge(self, ack: Ack) -> bool:
        """False where the publisher has forgotten what it had acknowledged: then this stream cannot go on."""
        if ack.epoch != self.epoch:
            return True
        if ack.sequence < self._acked:
            return False
        if ack.sequence > self._acked:  # one that says the same again tells that something is missing
            self._heard_ns = self._clock()
        self._acked = ack.sequence
        while self._letters and self._letters[0].stamp.sequence <= ack.sequence:
            letter = self._letters.popleft()
            self._sent = max(self._sent - 1, 0)
            self.journaled = _reached(letter.message, self.epoch) or self.journaled
        return True

    def turn(self) -> None:
        """Sends what may be sent; after a silence, all of it again."""
        if self._sent and self._clock() - self._heard_ns > RESEND_S * 1e9:
            self._link.reconnect()  # what waits in its queue would come twice
            self._heard_ns = self._clock()
            self._sent = 0
            self.counters["resends"] += 1
        while parcel := self._parcel():
            if self._link.send_all([(letter.message, letter.stamp) for letter in parcel]) is not Sent.YES:
                return
            self._sent += len(parcel)

    def _parcel(self) -> list[_Letter]:
        """The next letters, up to how far the inspection is with them.

        As one: a worker that dies has told both or neither, so that its events are never beyond where the next one
        begins, whose lines may be lost.
        """
        parcel: list[_Letter] = []
        for letter in islice(self._letters, self._sent, min(WINDOW, self._sent + PARCEL)):
            parcel.append(letter)
            if isinstance(letter.message, Progress | RollEnd):
                break
        return parcel


def credit_of(progress: Progress, epoch: int) -> Credit:
    """A journaled progress in acquire's terms."""
    return Credit(
        progress.camera, epoch, 0, progress.roll, progress.inspected_up_to, progress.resume_from, False
    )  # fmt: skip


def _reached(message: Message, epoch: int) -> Credit | None:
    if isinstance(message, Progress):
        return credit_of(message, epoch)
    if isinstance(message, RollEnd):
        return Credit(message.camera, epoch, 0, message.roll, message.lines, message.lines, True)
    return None
