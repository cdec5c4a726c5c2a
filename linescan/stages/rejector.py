"""Rejector: what the workers find, in time to the PLC; and nothing past its gates that was not inspected.

    events, progress ──▶ CameraStreams ──windows──▶ Ordering ──orders──▶ book, PLC, journal
                                        limits ────────────────────────▶ Gatekeeper ──▶ PLC

Counts are the PLC's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from linescan.journal import Mark
from linescan.journal.orders import OrderBook
from linescan.line import Line
from linescan.messages import (
    Gap,
    Latched,
    Notice,
    NoticeKind,
    Origin,
    Progress,
    Region,
    Reject,
    RollEnd,
    RollStart,
    Status,
)
from linescan.plc.link import Flags, PlcLink, PlcView
from linescan.stages.camera_streams import CameraStreams
from linescan.stages.gatekeeper import Gatekeeper
from linescan.stages.ordering import Ordering
from linescan.web import Motion

HELD_S = 5.0  # a gate that the web reaches before the inspection, for so long in a roll, is a fault
SETTLE_S = 0.5  # after which a gate that was held open follows its orders again
SOON_S = 0.1  # after which an order that is made now is in the PLC


class Rejector:
    """The rejects of one line; `turn()` again and again, from the publisher's thread.

    Args:
        link: to the PLC; None: what would be rejected is only told.
        tell: takes Reject and Notice events on their way to the journal and the world.
    """

    def __init__(
        self,
        line: Line,
        book: OrderBook,
        link: PlcLink | None,
        tell: Callable[[Reject | Notice], None],
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        settings = line.settings
        assert settings.web is not None
        assert settings.rejects is not None
        self._web, self._rejects = settings.web, settings.rejects
        self._has_plc, self._clock = link is not None, clock_ns
        self._motion = Motion.of(self._web, self._rejects.plc_scan_s)
        self._gates = Gatekeeper(link, self._web, self._rejects, self._motion, self._placed)
        self._orders = Ordering(line, book, link, self._motion, self._gates, tell)
        self._streams = CameraStreams(line, book, self._motion, self._orders, clock_ns, self._has_plc)
        self.lanes = self._orders.lanes
        self._held_ns = 0  # since when a gate was where it may not pass any more, 0: none is
        self.held = False  # for longer than the start of a roll takes
        self._passable_ns = 0  # since when the gates follow their orders, 0: they do not
        self._session = 0  # of the PLC
        self.bypass = self.unconfirmed = False
        self._counters: Counter[str] = Counter()
        self._gates.look()

    def _placed(self) -> int | None:
        return self._streams.placed()

    # ------------------------------------------------------------------------------------------ from the cameras

    @property
    def running(self) -> str:
        """The roll."""
        return self._orders.running

    @running.setter
    def running(self, roll: str) -> None:
        self._orders.running = roll

    def journaled(self, camera: str, start: RollStart, origin: Origin | None, mark: Mark | None) -> None:
        """What the journal knows of a camera's last roll, at the start."""
        self._streams.journaled(camera, start, origin, mark)

    def take_origin(self, origin: Origin) -> None:
        """Line 0 of a roll; its start may come before or after it."""
        self._streams.take_origin(origin)

    def lines_of(self, origin: Origin) -> Callable[[int], int] | None:
        """Where the lines of that roll begin, in counts that all cameras share; None: not known."""
        return self._streams.lines_of(origin)

    def take(self, event: RollStart | Region | Gap | RollEnd) -> None:
        """An event as it was accepted, in the order of its camera's stream."""
        self._streams.take(event)

    def take_progress(self, progress: Progress, last_line_ns: int | None) -> None:
        """A camera's inspection has got further; the last line that it had scanned came at `last_line_ns`."""
        self._streams.take_progress(progress, last_line_ns)

    def take_latched(self, latched: Latched) -> None:
        """A sync pulse latched the camera's counter."""
        self._streams.take_latched(latched)

    def take_status(self, status: Status) -> None:
        """Acquire's heartbeat."""
        self._streams.take_status(status)

    # ------------------------------------------------------------------------------------------ with the PLC

    def turn(self) -> None:
        """Looks at what the PLC says, and tells it how far it may pass."""
        now = self._clock()
        seen = self._gates.look()
        if self.view.session != self._session:
            self._session = self.view.session
            self._streams.plc_anew()
        if seen.jumped or self._orders.leapt_back():
            self._begin_anew("the PLC's counter jumped")
        elif self._orders.overflows:
            self._begin_anew("too many orders waited, or for too long, for the PLC to say where the web is")
        self._streams.compare(now, seen.pulse)
        self._orders.moved(now)
        self._speak(now)

    def _begin_anew(self, reason: str) -> None:
        """Everything is rejected until an operator has acknowledged it and the counters agree again."""
        self._orders.begin_anew()
        self._streams.begin_anew(reason)

    def _speak(self, now: int) -> None:
        live = self._streams.live(now)
        limits = {lane: self._orders.schedule.limit(lane) if self.trusted else None for lane in self.lanes}
        self._look_for_held(limits, now)
        passable = live and self.trusted and not self.bypass
        self._passable_ns = (self._passable_ns or now) if passable else 0
        settled = passable and now - self._passable_ns > SETTLE_S * 1e9
        for answer in self._gates.confirm(limits, passes=settled):
            kind: NoticeKind = "gate-unconfirmed" if answer.unconfirmed else "gate-unasked"
            self.unconfirmed |= answer.unconfirmed
            self._counters[kind.replace("-", "_")] += 1
            self._orders.notice(kind, "", answer.lane, answer.at)
        stop_line = self._streams.stopped or (self.held and self._rejects.uninspected == "stop")
        flags = Flags(
            ready=self.trusted, session=self.view.session, running=bool(self.running), bypass=self.bypass,
            fault=bool(self.faults), late=self._orders.late, untrusted=not self.trusted, stop_line=stop_line,
        )  # fmt: skip
        self._gates.speak(limits, flags, live)

    def _look_for_held(self, limits: dict[str, int | None], now: int) -> None:
        """Nothing passes where the inspection is slower than the way to the gate: safe, and to be said."""
        position = self._motion.position
        held = position is not None and any(limit is None or limit <= position for limit in limits.values())
        self._held_ns = (self._held_ns or now) if held and self.running and self._motion.speed > 0 else 0
        self.held = bool(self._held_ns) and now - self._held_ns > HELD_S * 1e9

    @property
    def trusted(self) -> bool:
        """Whether the counters of all cameras are tied to the PLC's."""
        return self._streams.trusted

    @property
    def view(self) -> PlcView:
        """What the PLC said last: its buttons are the publisher's to follow."""
        return self._gates.view

    # ------------------------------------------------------------------------------------------ with the operator

    def acknowledge(self) -> None:
        """Faults were seen, and what caused them was mended."""
        self._orders.late = self.unconfirmed = False
        self._streams.acknowledge()
        self._orders.notice("acknowledged", "")

    def suspend(self, bypass: bool) -> None:
        """Threading: the PLC passes everything until it ends."""
        if bypass != self.bypass:
            self.bypass = bypass
            self._orders.notice("bypass-on" if bypass else "bypass-off", "")

    def splice(self, text: str) -> None:
        self._orders.notice("splice", text, count=self._motion.position)

    def test(self, lanes: Iterable[str]) -> bool:
        """Opens the gates of these lanes once, as soon as can be; False: nobody knows where the web is."""
        position = self._motion.at_most(self._clock())
        if position is None:
            return False
        per_mm, rules = self._web.counts_per_mm, self._orders.schedule.rules
        soon = round(self._motion.speed * (self._rejects.plc_scan_s + self._rejects.actuator_s + SOON_S))
        distances = {gate.lane: round(gate.distance_mm * per_mm) for gate in self._rejects.gates}
        for lane in lanes:
            first = position + soon + rules.lead - distances[lane]
            windows = self._orders.schedule.reject(
                (lane,), first, first + max(1, rules.lag), cause="test", now_ns=self._clock(), source="test"
            )
            self._orders.give(self.running, windows)
            self._orders.notice("test-reject", "", lane, position)
        return True

    # ------------------------------------------------------------------------------------------ how it stands

    @property
    def faults(self) -> tuple[str, ...]:
        found = {
            "bypass": self.bypass,
            "reject-late": self._orders.late,
            "uninspected": self._streams.stopped,
            "gate-unconfirmed": self.unconfirmed,
            "untrusted": not self.trusted,
            "gate-held": self.held,
            "orders-unkept": self._orders.unkept,
        }
        return (*self.view.faults, *(word for word, is_so in found.items() if is_so))

    @property
    def summary(self) -> str:
        """Some lines for an operator."""
        view, position = self.view, self._motion.position
        lines = [f"faults: {', '.join(self.faults) or 'none'}"]
        if self._has_plc:
            says = "answers" if view.connected else f"does not answer: {view.reason or 'no reason known'}"
            speed_mm_s = self._motion.speed / self._web.counts_per_mm
            lines.append(f"PLC {says}; web at count {position}, {speed_mm_s:.0f} mm/s")
        lines += [f"{name}: {reason or 'tied to the PLC'}" for name, reason in self._streams.reasons.items()]
        for lane in self.lanes:
            limit = self._orders.schedule.limit(lane)
            ahead = None if limit is None or position is None else (limit - position) / self._web.counts_per_mm
            passes = "nothing yet" if ahead is None or not self.trusted else f"{ahead:.0f} mm further"
            lines.append(f"gate {lane}: may pass {passes}, but for {len(self._orders.schedule.windows(lane))} windows")
        return "\n".join(lines)

    @property
    def counters(self) -> Counter[str]:
        return self._counters + self._streams.counters + self._orders.counters


class NoRejector:
    """Of a line that rejects nothing."""

    def __init__(self) -> None:
        self.running = ""
        self.faults: tuple[str, ...] = ()
        self.counters: Counter[str] = Counter()

    def journaled(self, *_: object) -> None: ...

    def take_origin(self, _: Origin) -> None: ...

    def lines_of(self, _: Origin) -> Callable[[int], int] | None:
        return None

    def take(self, _: RollStart | Region | Gap | RollEnd) -> None: ...

    def take_progress(self, _: Progress, _last_line_ns: int | None) -> None: ...

    def take_latched(self, _: Latched) -> None: ...

    def take_status(self, _: Status) -> None: ...

    def turn(self) -> None: ...
