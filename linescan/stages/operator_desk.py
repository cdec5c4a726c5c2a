"""What operators ask of a line's rejects: by `linescan operate`, or at buttons of the PLC."""

from __future__ import annotations

from collections.abc import Callable

from linescan.codec import decode, type_name
from linescan.journal import Journal
from linescan.messages import Done, Message, Notice, Order, Refused, RollCommand
from linescan.plc.link import PlcView
from linescan.stages.rejector import Rejector

DIGITS = 18  # of an event's number at most: SQLite's integers have no more than 63 bits
NO_REJECTS = "the line has no [rejects] in its line.toml"


class OperatorDesk:
    """Answers orders, and follows the PLC's buttons.

    Args:
        rejector: None where the line rejects nothing.
        start: takes a command about rolls, and whom to answer.
        tell: takes a Notice on its way to the journal and the world.
    """

    def __init__(
        self,
        journal: Journal,
        rejector: Rejector | None,
        start: Callable[[RollCommand, Callable[[Message], object]], object],
        tell: Callable[[Notice], object],
    ) -> None:
        self._journal, self._rejector, self._start, self._tell = journal, rejector, start, tell
        self._pressed = PlcView()  # the buttons as they were followed

    def answer(self, order: Order) -> Done | Refused:
        """Raises JournalFullError where the journal cannot be read."""
        if order.action == "verdict":
            return self._judge(order)
        rejector = self._rejector
        if rejector is None:
            return Refused("", NO_REJECTS, None)
        if order.lane and order.lane not in rejector.lanes:
            return Refused("", f"no lane is called {order.lane!r}; there are: {', '.join(rejector.lanes)}", None)
        return self._do(order, rejector)

    def _do(self, order: Order, rejector: Rejector) -> Done | Refused:
        if order.action == "status":
            return Done(rejector.summary)
        if order.action == "test-reject":
            return self._test(order, rejector)
        if order.action == "splice":
            rejector.splice(order.text)
            return Done("splice marked")
        if order.action == "acknowledge":
            rejector.acknowledge()
            return Done(f"acknowledged; faults now: {', '.join(rejector.faults) or 'none'}")
        return self._suspend(rejector, order.action == "bypass-on")

    def _test(self, order: Order, rejector: Rejector) -> Done | Refused:
        if not rejector.trusted:
            return Refused("", "the counters do not agree: the gates reject everything, a test shows nothing", None)
        lanes = (order.lane,) if order.lane else rejector.lanes
        if not rejector.test(lanes):
            return Refused("", "the web's position is not known: the PLC does not tell it", None)
        return Done(f"gates of {', '.join(lanes)} reject once")

    def _suspend(self, rejector: Rejector, bypass: bool) -> Done:
        rejector.suspend(bypass)
        if not bypass:
            return Done("rejects are on")
        against = [fault for fault in rejector.faults if fault == "untrusted" or fault.startswith("plc-")]
        but = f"; but the PLC passes nothing while there is: {', '.join(against)}" if against else ""
        return Done(f"BYPASS: defects are not rejected{but}")

    def _judge(self, order: Order) -> Done | Refused:
        """Keeps what an event was in truth, beside it in the journal."""
        number = int(order.about) if order.about.isdecimal() and len(order.about) <= DIGITS else 0
        found = self._journal.since(number - 1, 1) if number else []
        if not found or found[0].sequence != number:
            return Refused("", f"there is no event {order.about!r} in the journal", None)
        event = decode(found[0].event)
        self._tell(Notice(getattr(event, "roll", ""), "verdict", "", None, order.about, order.text))
        return Done(f"event {number} ({type_name(event)}): {order.text}")

    def turn(self) -> None:
        """Does what was asked at the PLC since the last turn."""
        if self._rejector is None:
            return
        view, before, self._pressed = self._rejector.view, self._pressed, self._rejector.view
        if view.acknowledge > before.acknowledge:
            self._rejector.acknowledge()
        if view.splice > before.splice:
            self._rejector.splice("at the PLC")
        if view.roll_end > before.roll_end:
            self._start(RollCommand("end", "", ""), self._answered)
        if view.roll_start > before.roll_start:
            roll, _, recipe = view.roll_id.partition("/")
            self._start(RollCommand("start", roll, recipe), self._answered)

    def _answered(self, answer: Message) -> None:
        if isinstance(answer, Refused):
            self._tell(Notice("", "refused", "", None, "", f"asked at the PLC: {answer.reason}"))
