"""Which roll runs: the publisher's answers to acquires that register and to operators."""

from __future__ import annotations

from collections.abc import Mapping

from linescan.errors import ConfigError
from linescan.journal import Journal, RunningRoll
from linescan.messages import Refused, Register, Registered, RollCommand, RollState
from linescan.stages.frame_server import GENERATION_BITS
from linescan.stages.ledger import Ledger


class Rolls:
    """Owner of the rolls; every change is in the journal before it is told.

    Args:
        recipe: name of the recipe of rolls that are given none.
        begins: whether a roll begins by itself when an acquire registers, until an operator has ended one.

    Every method may raise JournalFullError, and then has changed nothing.
    """

    def __init__(self, journal: Journal, recipe: str, begins: bool) -> None:
        self._journal, self._recipe, self._begins = journal, recipe, begins

    @property
    def wanted(self) -> RollCommand:
        """What acquires are to do: run that roll, or none."""
        running = self.running
        return RollCommand("start", running.name, running.recipe) if running else RollCommand("end", "", "")

    @property
    def running(self) -> RunningRoll | None:
        return self._journal.running_roll()

    def recipe_of(self, command: RollCommand) -> str:
        """The recipe of a roll that is started so."""
        return command.recipe or self._recipe

    def register(self, register: Register, ledger: Ledger) -> Registered | Refused:
        """An acquire has begun: which roll it is to go on with, and what is known of it."""
        try:
            refusal = self._begin_replay(register) if register.replay else self._begin_live()
        except ConfigError as error:
            refusal = str(error)
        if refusal:
            return Refused(ledger.camera, refusal, None)
        ledger.generation = self._journal.register(ledger.camera)
        while ledger.generation <= ledger.epoch >> GENERATION_BITS:  # the journal is younger than the last acquire
            ledger.generation = self._journal.register(ledger.camera)
        return self._registered(ledger)

    def command(self, command: RollCommand, ledgers: Mapping[str, Ledger]) -> RollState | Refused:
        """What an operator asks for, and how things stand then."""
        running = self.running
        try:
            if command.action == "start":
                self._journal.start_roll(
                    command.roll or None, self.recipe_of(command), instead_of=running.name if running else None
                )
            elif command.action == "end":
                if running is None:
                    return Refused("", "no roll is running", None)
                self._journal.end_roll(command.roll or running.name)
                self._begins = False
        except ConfigError as error:
            return Refused("", str(error), None)
        return self._state(ledgers)

    def _begin_replay(self, register: Register) -> str:
        """Starts the replay's roll; why not, where it may not."""
        running = self.running
        if running is None:
            self._journal.start_roll(register.replay, self._recipe, replayed=True)
        elif running.name != register.replay:
            return f"roll {running.name} runs; a replay needs the line to itself"
        return ""

    def _begin_live(self) -> str:
        running = self.running
        if running is not None and running.replayed:
            return f"a replay runs ({running.name})"
        if running is None and self._begins:
            self._journal.start_roll(None, self._recipe)
        return ""

    def _registered(self, ledger: Ledger) -> Registered:
        running = self.running
        roll = running.name if running else ""
        here = ledger.roll == roll and not ledger.ended
        owed = ledger.roll if ledger.roll_start is not None and not ledger.ended and not here else ""
        mark = ledger.mark if here or owed else None
        progress = mark.progress if mark else None
        origin = ledger.origin
        return Registered(
            camera=ledger.camera,
            generation=ledger.generation,
            roll=roll,
            recipe=running.recipe if running else "",
            replayed=bool(running and running.replayed),
            started=here and ledger.roll_start is not None,
            origin=origin if origin and origin.roll in (roll, owed) else None,
            inspected_up_to=progress.inspected_up_to if progress else 0,
            lines_scanned=progress.lines_scanned if progress else 0,
            progress_monotonic_ns=mark.monotonic_ns if mark else 0,
            progress_utc_ns=mark.utc_ns if mark else 0,
            boot=mark.boot if mark else "",
            left=ledger.left,
            unfinished=owed,
        )

    def _state(self, ledgers: Mapping[str, Ledger]) -> RollState:
        running = self.running
        roll, recipe = (running.name, running.recipe) if running else ("", "")
        reached = tuple(one.inspected_up_to if one.roll == roll else 0 for one in ledgers.values())
        return RollState(roll, recipe, tuple(ledgers), reached)
