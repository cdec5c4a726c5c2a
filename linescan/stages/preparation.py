"""The start of a roll with another recipe: every worker has it ready before the present roll ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from linescan.messages import Message, Prepare, Prepared, Preparing, Refused, RollCommand
from linescan.stages.ledger import Ledger
from linescan.stages.rolls import Rolls
from linescan.transport import Sent

PATIENCE_S = 60.0
REPEAT_S = 0.5

Answer = Callable[[Message], object]  # to who asked; Sent.GONE where he did not wait


@dataclass
class _Pending:
    command: RollCommand
    recipe: str
    number: int
    answer: Answer
    until_ns: int
    ready: set[str]


class Preparation:
    """Asks the workers to prepare a recipe; starts the roll when all have, or refuses it and leaves all as it is.

    Nothing of this is stored: a publisher that starts anew knows nothing of it, and who asked notices the silence.

    Args:
        send: a message to a worker, by its peer.
        start: starts the roll; its answer is for who asked.
    """

    def __init__(
        self,
        rolls: Rolls,
        ledgers: Mapping[str, Ledger],
        send: Callable[[bytes, Message], object],
        start: Callable[[RollCommand], Message],
        clock_ns: Callable[[], int],
    ) -> None:
        self._rolls, self._ledgers, self._send, self._start, self._clock = rolls, ledgers, send, start, clock_ns
        self._workers: dict[str, bytes] = {}  # camera → where its worker was last heard
        self._pending: _Pending | None = None
        self._asked_ns = 0

    def heard(self, camera: str, peer: bytes) -> None:
        """That camera's worker speaks from there."""
        self._workers[camera] = peer

    def command(self, command: RollCommand, answer: Answer) -> None:
        """What an operator asks for: answered at once, or when the workers have what it needs."""
        pending = self._pending
        if command.action != "start" or (pending is None and not self._needed(command)):
            answer(self._start(command))
        elif pending is None:
            now = self._clock()
            recipe = self._rolls.recipe_of(command)
            self._pending = _Pending(command, recipe, now, answer, now + int(PATIENCE_S * 1e9), set())
            self._ask()
        elif pending.command == command:  # asked again
            pending.answer = answer
        else:
            answer(Refused("", f"recipe {pending.recipe} is being prepared for the roll that was asked for", None))

    def take(self, prepared: Prepared) -> None:
        pending = self._pending
        if pending is None or prepared.number != pending.number:
            return
        if prepared.reason:
            self._end(Refused(prepared.camera, f"camera {prepared.camera}: {prepared.reason}", None))
            return
        pending.ready.add(prepared.camera)
        if pending.ready >= set(self._ledgers):
            self._pending = None
            pending.answer(self._start(pending.command))

    def turn(self) -> None:
        """Asks again, and gives up when it takes too long or nobody waits for it."""
        pending = self._pending
        if pending is None:
            return
        if self._clock() >= pending.until_ns:
            self._end(
                Refused("", f"recipe {pending.recipe} is not ready after {PATIENCE_S:g} s: {self._missing()}", None)
            )
        elif self._clock() - self._asked_ns >= REPEAT_S * 1e9:
            self._ask()

    def _needed(self, command: RollCommand) -> bool:
        """One that is named is read anew; without, the workers may have what it takes, and then need not even run."""
        if command.recipe:
            return True
        wanted = self._rolls.recipe_of(command)
        running = self._rolls.running
        last = (
            [running.recipe] if running else [one.roll_start.recipe for one in self._ledgers.values() if one.roll_start]
        )
        return any(recipe != wanted for recipe in last)

    def _ask(self) -> None:
        pending = self._pending
        assert pending is not None
        self._asked_ns = self._clock()
        waiting = tuple(camera for camera in self._ledgers if camera not in pending.ready)
        if pending.answer(Preparing(pending.recipe, waiting)) is Sent.GONE:
            self._end(None)
            return
        for camera in waiting:
            # a worker holds one engine beside its own, and may need that for the roll that it has not come to yet
            if camera in self._workers and self._at_the_running_roll(camera):
                self._send(self._workers[camera], Prepare(camera, pending.recipe, pending.number))

    def _at_the_running_roll(self, camera: str) -> bool:
        running = self._rolls.running
        return running is None or self._ledgers[camera].roll == running.name

    def _missing(self) -> str:
        assert self._pending is not None
        waiting = [camera for camera in self._ledgers if camera not in self._pending.ready]
        late = [camera for camera in waiting if not self._at_the_running_roll(camera)]
        if late:
            return f"camera {late[0]} has not come to the roll that runs"
        return f"the worker of camera {waiting[0]} has not said so"

    def _end(self, refused: Refused | None) -> None:
        """Nothing comes of it; what was prepared for it is forgotten."""
        pending = self._pending
        assert pending is not None
        self._pending = None
        for camera, peer in self._workers.items():
            self._send(peer, Prepare(camera, "", self._clock()))
        if refused is not None:
            pending.answer(refused)
