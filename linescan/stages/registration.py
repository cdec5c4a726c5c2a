"""Acquire's side of the link to the publisher: which roll runs, and what it must be told until it has kept it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from linescan.messages import (
    Kept,
    Latched,
    Leaving,
    Message,
    Origin,
    Refused,
    Register,
    Registered,
    RollCommand,
    RollState,
    Status,
)
from linescan.transport import Client, waiting

MESSAGES_A_TURN = 500
REPEAT_S = 0.5


class Registration:
    """Asks and tells, again and again until it is answered; never waits.

    Args:
        link: to the publisher.
        replay: name of the roll that a replay wants; empty for a camera.
        clock_ns: monotonic time.
    """

    def __init__(self, link: Client, camera: str, replay: str, clock_ns: Callable[[], int]) -> None:
        self._link, self._camera, self._clock = link, camera, clock_ns
        self.answer: Registered | None = None
        self.refused: Refused | None = None
        self.wanted: RollCommand | None = None  # the roll that is to run, as the publisher last said it
        self._owed: dict[str, Message] = {"register": Register(camera, replay)}
        self._told_ns: int | None = None

    @property
    def owes(self) -> bool:
        """Whether something is not yet in the journal."""
        return bool(self._owed)

    def keep_origin(self, origin: Origin) -> None:
        self._owe("origin", origin)

    @property
    def owes_origin(self) -> bool:
        """Whether nobody but this process knows yet where the roll began."""
        return "origin" in self._owed

    def leave(self, leaving: Leaving) -> None:
        self._owe("leaving", leaving)

    def end_replay(self, roll: str) -> None:
        if roll:
            self._owe("end", RollCommand("end", roll, ""))

    def report(self, message: Status | Latched) -> None:
        """Told once; what is lost comes again, or is too old to be of use."""
        self._link.send(message)

    def turn(self) -> None:
        """Takes what came; repeats what is owed."""
        for received in waiting(self._link, MESSAGES_A_TURN):
            self._take(received.message)
        now = self._clock()
        if self._owed and (self._told_ns is None or now - self._told_ns > REPEAT_S * 1e9):
            self._told_ns = now
            for message in self._owed.values():
                self._link.send(message)

    def _owe(self, what: str, message: Message) -> None:
        self._owed[what] = message
        self._told_ns = None

    def _take(self, message: Message) -> None:
        if isinstance(message, Registered) and self.answer is None:
            self.answer = message
            self._owed.pop("register", None)
        elif isinstance(message, RollState):
            self._owed.pop("end", None)
        elif isinstance(message, Refused):
            if self._owed.pop("end", None) is None:  # else the roll is over already
                self.refused = message
        elif isinstance(message, Kept):
            self._kept(message)
        elif isinstance(message, RollCommand):
            self.wanted = message

    def _kept(self, kept: Kept) -> None:
        origin = self._owed.get("origin")
        if isinstance(origin, Origin) and origin.roll == kept.roll:
            del self._owed["origin"]
        if not kept.roll:
            self._owed.pop("leaving", None)


@cache
def boot_id() -> str:
    """Names this run of the machine: monotonic times of another one mean nothing here."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
