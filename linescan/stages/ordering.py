"""Ordering: windows at the gates become orders, are kept, and are forgotten when the web has passed.

    windows ──▶ OrderDesk ──▶ book, PLC, journal

Orders go to the PLC before the events behind them are in the journal: a write to the PLC waits for no disk.
Counts are the PLC's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from linescan.errors import JournalFullError
from linescan.journal.orders import OrderBook, Place
from linescan.line import Line
from linescan.messages import Notice, NoticeKind, Reject
from linescan.plc.link import PlcLink
from linescan.schedule import Schedule, Window
from linescan.stages.gatekeeper import Gatekeeper
from linescan.stages.order_desk import NO_GRADE, Grade, OrderDesk
from linescan.stages.watch import Watch
from linescan.web import Motion

FORGET_S = 1.0  # between looks at what has passed


class Ordering:
    """The schedule of a line's gates, and what was ordered of it.

    Args:
        link: to the PLC; None: what would be rejected is only told.
        gates: hear of every window that was ordered.
        tell: takes Reject and Notice events on their way to the journal and the world.
    """

    def __init__(
        self,
        line: Line,
        book: OrderBook,
        link: PlcLink | None,
        motion: Motion,
        gates: Gatekeeper,
        tell: Callable[[Reject | Notice], None],
    ) -> None:
        settings = line.settings
        assert settings.web is not None
        assert settings.rejects is not None
        self._web, self._rejects, self._motion = settings.web, settings.rejects, motion
        book.belongs_to(_fingerprint(line))
        self._book, self._gates, self._tell = book, gates, tell
        self._cameras = tuple(one.name for one in settings.cameras)
        self.lanes = tuple(gate.lane for gate in self._rejects.gates)
        self.schedule = self._new_schedule()
        outputs = {gate.lane: gate.output for gate in self._rejects.gates}
        self._desk = OrderDesk(book, link, outputs, tell)
        self.watch = Watch(self._rejects, self._web.counts_per_mm)
        self._forgot_ns = -(1 << 62)
        self._book_fails = False
        self.running = ""  # the roll
        self.late = False
        self._counters: Counter[str] = Counter()

    def _new_schedule(self) -> Schedule:
        return Schedule.of(self._web, self._rejects, dict.fromkeys(self._cameras, self.lanes), self._motion)

    def restore(self, placed: Mapping[str, int]) -> None:
        """Takes up what an earlier publisher left; `placed`: by camera, up to which count its inspection was known."""
        if placed:
            known_from = self._book.known_from
            if known_from is None:
                known_from = min(placed.values()) - self.schedule.rules.behind
            windows = [(order.lane, order.first_count, order.end_count) for order in self._desk.restore()]
            self.schedule.restore(windows, known_from, placed)

    def give(self, roll: str, windows: Iterable[Window], grade: Grade = NO_GRADE) -> None:
        """Orders these windows."""
        for window in windows:
            self._desk.order(roll, window, grade)
            if window.cause == "region":
                self.say(self.watch.window(roll, window))
            self._gates.ordered(window)
            self.late |= not window.in_time

    def moved(self, now: int) -> None:
        """The web has: what that makes due is ordered, what has passed is forgotten."""
        self.give(self.running, self.schedule.moved(now))
        self.late |= self._desk.late(self._motion.at_most(now))
        if now - self._forgot_ns > FORGET_S * 1e9:
            self._forgot_ns = now
            known = {lane: self.schedule.known_from(lane) for lane in self.lanes}
            self._desk.forget({lane: count for lane, count in known.items() if count is not None})

    def keep(self, camera: str, place: Place | None) -> None:
        """Writes where a camera is into the book."""
        # a place says that all before it was ordered: beyond an order that the book lacks it would be a lie
        if place is None or not self._desk.keep():
            return
        try:
            self._book.put_place(camera, place)
            self._book_fails = False
        except JournalFullError:  # what it lacks is rejected unseen after a restart
            self._book_fails = True

    @property
    def unkept(self) -> bool:
        """Whether the book could not be written."""
        return self._desk.unkept or self._book_fails

    # ------------------------------------------------------------------------------------------ a counter that jumped

    def leapt_back(self) -> bool:
        """Whether the PLC's counter is behind all that is remembered; a web that runs back is seen on its way there.

        As a counter that began anew while nobody looked: windows and limits of before mean nothing at its counts.
        """
        position = self._motion.position
        known = [self.schedule.known_from(lane) for lane in self.lanes]
        return position is not None and any(count is not None and position < count for count in known)

    @property
    def overflows(self) -> bool:
        """Whether so much waits, or for so long, that the PLC cannot have told where the web is for long."""
        limits = [self.schedule.limit(lane) for lane in self.lanes]
        return self._desk.overflows(max((limit for limit in limits if limit is not None), default=None))

    def begin_anew(self) -> None:
        """What was ordered at the PLC's counts means nothing any more."""
        self.schedule = self._new_schedule()
        self._desk.forget_all()
        self.watch.counts_anew()

    # ------------------------------------------------------------------------------------------ what is told

    def say(self, notice: Notice | None) -> None:
        """Tells a notice and counts it."""
        if notice is not None:
            self._counters[notice.kind] += 1
            self._tell(notice)

    def notice(self, kind: NoticeKind, text: str, lane: str = "", count: int | None = None) -> None:
        """Tells a notice of the roll that runs."""
        self._tell(Notice(self.running, kind, lane, count, "", text))

    @property
    def counters(self) -> Counter[str]:
        return self._counters + self._desk.counters


def _fingerprint(line: Line) -> str:
    """Stands for all that places windows at gates: with another distance those of before are at the wrong counts."""
    settings = line.settings
    parts: list[object] = [settings.web, settings.rejects and settings.rejects.gates]
    parts += [(one.name, one.encoder, one.mm_per_column, one.x_offset_mm, one.y_offset_mm) for one in settings.cameras]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
