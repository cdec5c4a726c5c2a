"""The engine of the recipe that comes next, made aside while the present one inspects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from linescan.errors import LinescanError
from linescan.messages import Prepare
from linescan.models.device import OutOfMemory
from linescan.stages.engine import Engine

MakeEngine = Callable[[str, dict[str, Any] | None], Engine]  # from a recipe's name, and settings of the roll before
Aside = Callable[[Callable[[], None]], object]


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="next-engine").start()


class NextEngine:
    """At most one engine beside the worker's own, for the last Prepare that was asked.

    Args:
        aside: runs a function beside the loop that asks.
    """

    def __init__(self, make: MakeEngine, aside: Aside = in_thread) -> None:
        self._make, self._aside = make, aside
        self._number = -1  # of the Prepare that the rest is of
        self._engine: Engine | None = None
        self._failure = ""
        self._busy = False

    def ask(self, prepare: Prepare, settings: dict[str, Any]) -> None:
        """Begins to make it, unless that was asked before, or one is in the making: then it has to be asked again."""
        if self._busy and not prepare.recipe:
            self._number = prepare.number  # what is being made is not wanted any more
        if self._busy or prepare.number == self._number:
            return
        self.forget()  # its memory is needed
        self._number = prepare.number
        if prepare.recipe:
            self._busy = True
            self._aside(lambda: self._load(prepare.recipe, prepare.number, settings))

    def _load(self, recipe: str, number: int, settings: dict[str, Any]) -> None:
        self._failure = "its worker has failed to load it, and its log says how"
        try:
            engine = self._make(recipe, settings)
            self._engine = engine if number == self._number else None
            self._failure = ""
        except LinescanError as error:
            self._failure = str(error)
        except OutOfMemory:
            self._failure = f"the device has no memory for recipe {recipe} beside the one that runs"
        finally:
            self._busy = False

    def made(self, number: int) -> tuple[Engine | None, str] | None:
        """The engine of that Prepare, or why there is none; None: not known yet."""
        if self._busy or number != self._number:
            return None
        return self._engine, self._failure

    def take(self, recipe: str) -> Engine | None:
        """The engine, if it is of that recipe; it is not kept then."""
        if self._busy or self._engine is None or self._engine.recipe != recipe:
            return None
        engine = self._engine
        self.forget()
        return engine

    def forget(self) -> None:
        self._engine, self._failure, self._number = None, "", -1
