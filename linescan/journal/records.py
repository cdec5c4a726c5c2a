"""What a journal holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from linescan.codec import encode
from linescan.messages import Message, Origin, Progress, Published, RollEnd, RollStart

Left = Literal["", "shutdown", "camera-lost"]  # why acquire stopped; empty: it did not say


@dataclass(frozen=True)
class Entry:
    """An event to be stored, with epoch, sequence (`origin`) and `needed_ns` of the worker's stamp."""

    camera: str
    epoch: int
    origin: int
    utc_ns: int
    event: Message
    needed_ns: int = 0
    replayed: bool = False


@dataclass(frozen=True)
class Mark:
    """A Progress to be stored, one a camera, with its stamp and the time at which it came."""

    epoch: int
    origin: int
    progress: Progress
    monotonic_ns: int
    utc_ns: int
    boot: str


class RunningRoll(NamedTuple):
    name: str
    recipe: str
    replayed: bool


@dataclass(frozen=True)
class CameraState:
    """All that is known of one camera.

    `generation` counts registrations; `epoch` is the newest that took over (−1: none) and `origin_sequence` the
    highest stamp taken under it (−1: none). `roll_start` is the last roll as it was last announced, and `ended` whether
    it is over; `mark` is its last progress, `recent` its events with stamps after the mark's. `origin` is of the roll
    that runs here or at the publisher.
    """

    generation: int = 0
    epoch: int = -1
    origin_sequence: int = -1
    roll_start: RollStart | None = None
    mark: Mark | None = None
    ended: bool = False
    origin: Origin | None = None
    left: Left = ""
    recent: tuple[Published, ...] = ()


@dataclass
class CameraRow:
    """A camera's row in the file; `after_…` is the stamp after which its events are recent."""

    generation: int = 0
    epoch: int = -1
    origin: int = -1
    roll: str = ""
    roll_start: bytes | None = None
    ended: int = 0
    left_by: Left = ""
    after_epoch: int = -1
    after_origin: int = -1

    def stamp(self, epoch: int, origin: int) -> None:
        self.epoch, self.origin = max((self.epoch, self.origin), (epoch, origin))

    def add(self, entry: Entry) -> None:
        self.stamp(entry.epoch, entry.origin)
        event = entry.event
        if isinstance(event, RollStart):
            # the running roll announced once more (a new worker with other settings): its progress must not be lost
            if event.roll != self.roll:
                self.roll, self.ended = event.roll, 0
                self.after_epoch, self.after_origin = entry.epoch, entry.origin - 1
            self.roll_start = encode(event)
        elif isinstance(event, RollEnd) and event.roll == self.roll:
            self.ended = 1

    def add_mark(self, mark: Mark) -> bool:
        """False for one that says nothing new: of a roll that is over, or older than the last."""
        self.stamp(mark.epoch, mark.origin)
        stamp = (mark.epoch, mark.origin)
        if mark.progress.roll != self.roll or stamp <= (self.after_epoch, self.after_origin):
            return False
        self.after_epoch, self.after_origin = stamp
        return True
