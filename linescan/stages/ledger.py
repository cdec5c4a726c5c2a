"""What the publisher knows of one camera's stream: what is new in it, and where a next worker takes it up."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from linescan.codec import decode, encode
from linescan.journal import CameraState, Mark
from linescan.messages import Gap, Message, Progress, Region, Resumed, RollEnd, RollStart, Stamp


class Verdict(Enum):
    NEW = "new"
    SEEN = "sent again, or found again by a worker that took over"
    EARLY = "something before it is missing"
    SHUT_OUT = "of a lease that is over"


class Ledger:
    """Judges each message of the stream once; begun from the journal, then kept in step with what is accepted.

    Within an epoch a message is known by its number. A worker that takes over finds anew what its predecessor told
    after its last progress: that is known by what it says.
    """

    def __init__(self, camera: str, state: CameraState) -> None:
        self.camera = camera
        self.generation, self.epoch, self.next = state.generation, state.epoch, state.origin_sequence + 1
        self.roll_start, self.ended = state.roll_start, state.ended
        self.mark = state.mark
        self.origin = state.origin
        self.left = state.left
        self._told = {key_of(decode(event.event)) for event in state.recent}  # since the mark, in any epoch
        earlier = [event for event in state.recent if event.epoch < state.epoch]
        self._told_before = {key_of(decode(event.event)) for event in earlier}

    @property
    def roll(self) -> str:
        """The last that was announced; empty: none."""
        return self.roll_start.roll if self.roll_start else ""

    @property
    def replayed(self) -> bool:
        return self.roll_start is not None and self.roll_start.settings.get("replayed") is True

    @property
    def inspected_up_to(self) -> int:
        """Of the roll that runs."""
        return self.mark.progress.inspected_up_to if self.mark else 0

    def take_over(self, epoch: int) -> bool:
        """A worker with a new lease; False where a newer one was there before."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch, self.next = epoch, 0
            self._told_before = set(self._told)
        return True

    def judge(self, stamp: Stamp, message: Message) -> Verdict:
        """What to do with a message; a NEW one is taken into account."""
        if stamp.epoch != self.epoch:
            return Verdict.SHUT_OUT
        if stamp.sequence != self.next:
            return Verdict.SEEN if stamp.sequence < self.next else Verdict.EARLY
        self.next += 1
        if isinstance(message, Progress):
            return Verdict.NEW if self._advances(message) else Verdict.SEEN
        key = key_of(message)
        if key in self._told_before:
            return Verdict.SEEN
        self._told.add(key)
        if isinstance(message, RollStart):
            if message.roll != self.roll:
                self.ended, self.mark = False, None
                self._told, self._told_before = {key}, set()
            self.roll_start = message
        elif isinstance(message, RollEnd) and message.roll == self.roll:
            self.ended = True
        return Verdict.NEW

    def reach(self, mark: Mark) -> None:
        """A progress that was judged NEW: what was told before it will not be found again."""
        self.mark = mark
        self._told.clear()
        self._told_before.clear()

    def resumed(self, epoch: int | None) -> Resumed:
        progress = self.mark.progress if self.mark else None
        return Resumed(self.camera, epoch, self.roll_start, progress, self.ended)

    def _advances(self, progress: Progress) -> bool:
        """A worker that took over repeats its predecessor's last progress while it reads up to there."""
        if progress.roll != self.roll or self.ended:
            return False
        last = self.mark.progress if self.mark else None
        return last is None or (
            progress.inspected_up_to >= last.inspected_up_to
            and (progress.inspected_up_to, progress.resume_from) != (last.inspected_up_to, last.resume_from)
        )


def key_of(message: Message) -> Hashable:
    """What an event says, whoever found it."""
    if isinstance(message, Region):
        return ("region", message.roll, message.id, message.phase, message.part, message.last_line)
    if isinstance(message, Gap):
        return ("gap", message.roll, message.first_line, message.last_line, message.cause)
    return encode(message)
