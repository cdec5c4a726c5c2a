"""Rejector: what the workers find, in time to the PLC; and nothing past its gates that was not inspected.

    events, progress ──▶ TrackedCamera ──counts──▶ Schedule ──windows──▶ OrderDesk ──▶ book, PLC, journal
                                          limits ──────────────────────▶ Gatekeeper ──▶ PLC

Orders and limits go to the PLC before the events behind them are in the journal: a write to the PLC waits for no disk.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

from linescan.errors import JournalFullError
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
from linescan.schedule import Schedule, Uninspected, Window
from linescan.stages.gatekeeper import Gatekeeper
from linescan.stages.order_desk import NO_GRADE, Grade, OrderDesk
from linescan.stages.registration import boot_id
from linescan.stages.tracked_camera import TrackedCamera
from linescan.stages.watch import Watch
from linescan.tie import PAIR_NS
from linescan.web import Motion

FORGET_S = 1.0  # between looks at what has passed
LIVE_STATUSES = 3  # an acquire that is silent for so many statuses is not live
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
        self._live_ns = int((LIVE_STATUSES * settings.status_s + 1) * 1e9)
        book.belongs_to(_fingerprint(line))
        self._book, self._has_plc, self._tell, self._clock = book, link is not None, tell, clock_ns
        self._motion = Motion.of(self._web, self._rejects.plc_scan_s)
        scan_s = self._rejects.plc_scan_s
        self._cameras = {
            one.name: TrackedCamera(one, self._web, book.place(one.name), scan_s) for one in settings.cameras
        }
        self.lanes = tuple(gate.lane for gate in self._rejects.gates)
        self._schedule = self._new_schedule()
        outputs = {gate.lane: gate.output for gate in self._rejects.gates}
        self._desk = OrderDesk(book, link, outputs, tell)
        self._gates = Gatekeeper(link, self._web, self._rejects, self._motion, self._placed)
        self._watch = Watch(self._rejects, self._web.counts_per_mm)
        self._forgot_ns = -(1 << 62)
        self._book_fails = False
        self._held_ns = 0  # since when a gate was where it may not pass any more, 0: none is
        self.held = False  # for longer than the start of a roll takes
        self._passable_ns = 0  # since when the gates follow their orders, 0: they do not
        self._session = 0  # of the PLC
        self.running = ""  # the roll
        self.bypass = self.late = self.stopped = self.unconfirmed = False
        self._counters: Counter[str] = Counter()
        self._restore()
        self._gates.look()

    def _new_schedule(self) -> Schedule:
        return Schedule.of(self._web, self._rejects, dict.fromkeys(self._cameras, self.lanes), self._motion)

    def _restore(self) -> None:
        """Takes up what an earlier publisher left."""
        placed = {
            name: one.reached + one.ahead
            for name, one in self._cameras.items()
            if one.reached is not None and one.ahead is not None
        }
        if placed:
            known_from = self._book.known_from
            if known_from is None:
                known_from = min(placed.values()) - self._schedule.rules.behind
            windows = [(order.lane, order.first_count, order.end_count) for order in self._desk.restore()]
            self._schedule.restore(windows, known_from, placed)

    def _placed(self) -> int | None:
        """A count that the PLC's counter has been near, by what the book says."""
        known = [(one.reached, one.ahead) for one in self._cameras.values()]
        ends = [reached + ahead for reached, ahead in known if reached is not None and ahead is not None]
        return max(ends, default=None)

    # ------------------------------------------------------------------------------------------ from the cameras

    def journaled(self, camera: str, start: RollStart, origin: Origin | None, mark: Mark | None) -> None:
        """What the journal knows of a camera's last roll, at the start; what the book lacks is rejected unseen."""
        one = self._cameras[camera]
        if origin is not None:
            self.take_origin(origin)
        self._begin_roll(one, start, placed=one.roll == start.roll)
        if mark is None or one.on_web is None or one.roll != mark.progress.roll:
            return
        progress = mark.progress
        came_ns = mark.monotonic_ns if mark.boot == boot_id() else None
        one.end_line(max(progress.lines_scanned, progress.inspected_up_to), came_ns)
        known = one.on_web.count(progress.inspected_up_to)
        if one.ahead is not None and one.reached is not None and known > one.reached:
            self._uninspected(one, one.reached, known, "untrusted", "unknown to the book of orders")
        self._reach(one, progress.inspected_up_to)

    def take_origin(self, origin: Origin) -> None:
        """Line 0 of a roll, known before any of its frames are inspected; its start may come before or after it."""
        camera = self._cameras[origin.camera]
        if origin.encoder_count is None:
            self._counters["origins_without_count"] += 1
            return
        if camera.is_another(origin):
            camera.forget_roll()
        camera.origins[origin.roll] = origin
        self._place(camera)

    def lines_of(self, origin: Origin) -> Callable[[int], int] | None:
        """Where the lines of that roll begin, in counts that all cameras share; None: not known."""
        camera = self._cameras[origin.camera]
        if origin.encoder_count is None:
            return None
        place, offset = camera.lying(origin, self._near(camera)), camera.offset or 0
        return lambda line: place.count(line) + offset

    def take(self, event: RollStart | Region | Gap | RollEnd) -> None:
        """An event as it was accepted, in the order of its camera's stream."""
        camera = self._cameras[event.camera]
        if isinstance(event, RollStart):
            self._begin_roll(camera, event, placed=camera.roll == event.roll)
        elif camera.on_web is None or event.roll != camera.roll:
            self._counters["events_without_place"] += 1
        elif isinstance(event, Region):
            self._take_region(camera, event)
        elif isinstance(event, Gap):
            self._take_gap(camera, event)
        else:
            camera.end_line(event.lines)
            self._reach(camera, event.inspected_up_to)

    def take_progress(self, progress: Progress, last_line_ns: int | None) -> None:
        """A camera's inspection has got further; the last line that it had scanned came at `last_line_ns`."""
        camera = self._cameras[progress.camera]
        if camera.on_web is None or progress.roll != camera.roll:
            return
        camera.end_line(max(progress.lines_scanned, progress.inspected_up_to), last_line_ns)
        if not self._has_plc and camera.newest is not None:
            count, came_ns = camera.newest
            if came_ns > self._motion.position_ns:
                self._motion.moved(count + self._web.offset_counts, came_ns)
        self._compare(camera)
        self._reach(camera, progress.inspected_up_to)

    def take_latched(self, latched: Latched) -> None:
        """A sync pulse latched the camera's counter."""
        camera = self._cameras[latched.camera]
        now = self._clock()
        seen_ns = latched.monotonic_ns if latched.boot == boot_id() else now
        if now - seen_ns > PAIR_NS:  # it waited while nobody listened: the PLC's latch is another pulse's by now
            self._counters["pulses_late"] += 1
        else:
            camera.latched(latched.encoder_count, seen_ns, self._near(camera))

    def take_status(self, status: Status) -> None:
        """Acquire's heartbeat."""
        if status.camera in self._cameras:
            self._cameras[status.camera].hear(status, self._clock())

    def _begin_roll(self, camera: TrackedCamera, start: RollStart, placed: bool) -> None:
        """The roll that runs is told; `placed`: once more, or by a publisher before this one."""
        inspection = start.settings.get("inspection") or {}
        camera.categories = [one["name"] for one in inspection.get("classes", ())]
        camera.lanes = tuple(lane["name"] for lane in inspection.get("lanes", ())) or self.lanes
        camera.announced = start.roll
        if not placed:
            camera.on_web = None
            self._place(camera)

    def _place(self, camera: TrackedCamera) -> None:
        """The announced roll lies on the web from its line 0 on, as soon as both are known."""
        origin = camera.origins.get(camera.announced)
        if origin is None or camera.roll == origin.roll:
            return
        camera.begin(origin, self._near(camera))
        self._compare(camera)
        if camera.ahead is not None and camera.on_web is not None:
            first = camera.plc(camera.on_web.count(0))
            windows = self._schedule.begin(
                camera.name, first, camera.lanes, now_ns=self._clock(), source=f"{camera.name}/before-{camera.roll}"
            )
            self._give(camera.roll, windows)
            self._reach(camera, 0)

    def _take_region(self, camera: TrackedCamera, region: Region) -> None:
        camera.end_line(region.last_line + 1)
        self._say(self._watch.region(region))
        if camera.ahead is None or camera.on_web is None:
            return  # nobody knows where at the gates it is: all of it is rejected when that is known
        first, end = (camera.plc(count) for count in camera.on_web.span(region.first_line, region.last_line))
        windows = self._schedule.region(
            camera.name, region.lanes, first, end, opens=region.phase == "open",
            now_ns=self._clock(), source=f"{camera.name}/{region.id}",
        )  # fmt: skip
        self._give(camera.roll, windows, camera.grade(region))

    def _take_gap(self, camera: TrackedCamera, gap: Gap) -> None:
        camera.end_line(gap.last_line + 1)
        if self._rejects.uninspected == "stop":
            self.stopped = True
        if gap.estimated:  # how far the counter went is not known: neither is where later lines of this roll are
            camera.distrust(f"roll {gap.roll} has a gap whose length is estimated")
            camera.on_web = None
            self._keep(camera)
            return
        if camera.ahead is not None and camera.on_web is not None:
            source = f"{camera.name}/gap-{gap.first_line}-{gap.last_line}"
            self._uninspected(camera, *camera.on_web.span(gap.first_line, gap.last_line), "gap", source)

    def _uninspected(self, camera: TrackedCamera, first: int, end: int, cause: Uninspected, source: str) -> None:
        windows = self._schedule.uninspected(
            camera.name, camera.plc(first), camera.plc(end), now_ns=self._clock(), cause=cause, source=source
        )
        self._give(camera.roll, windows)

    def _reach(self, camera: TrackedCamera, line: int) -> None:
        assert camera.on_web is not None
        camera.reached = camera.on_web.count(line)
        if camera.ahead is not None:
            self._schedule.reached(camera.name, camera.plc(camera.reached))
        self._keep(camera)

    def _keep(self, camera: TrackedCamera) -> None:
        place = camera.place()
        # a place says that all before it was ordered: beyond an order that the book lacks it would be a lie
        if place is None or not self._desk.keep():
            return
        try:
            self._book.put_place(camera.name, place)
            self._book_fails = False
        except JournalFullError:  # what it lacks is rejected unseen after a restart
            self._book_fails = True

    def _near(self, camera: TrackedCamera) -> int | None:
        """A count that the camera's counter has passed lately, by the PLC's."""
        ahead = camera.offset if camera.offset is not None else camera.ahead
        return None if self._motion.position is None or ahead is None else self._motion.position - ahead

    # ------------------------------------------------------------------------------------------ with the PLC

    def turn(self) -> None:
        """Looks at what the PLC says, and tells it how far it may pass."""
        now = self._clock()
        seen = self._gates.look()
        if self.view.session != self._session:
            self._session = self.view.session
            for camera in self._cameras.values():
                camera.plc_anew()
        if seen.jumped or self._leapt_back():
            self._begin_anew()
        for camera in self._cameras.values():
            if seen.pulse is not None:
                camera.plc_latched(seen.pulse, now)
            self._compare(camera)
            self._follow_trust(camera)
        self._give(self.running, self._schedule.moved(now))
        self.late |= self._desk.late(self._motion.at_most(now))
        if now - self._forgot_ns > FORGET_S * 1e9:
            self._forgot_ns = now
            known = {lane: self._schedule.known_from(lane) for lane in self.lanes}
            self._desk.forget({lane: count for lane, count in known.items() if count is not None})
        self._speak(now)

    def _leapt_back(self) -> bool:
        """Whether the PLC's counter is behind all that is remembered; a web that runs back is seen on its way there.

        As a counter that began anew while nobody looked: windows and limits of before mean nothing at its counts.
        """
        position = self._motion.position
        known = [self._schedule.known_from(lane) for lane in self.lanes]
        return position is not None and any(count is not None and position < count for count in known)

    def _begin_anew(self) -> None:
        """The PLC's counter jumped: what was ordered at its counts means nothing any more."""
        self._schedule = self._new_schedule()
        self._desk.forget_all()
        self._watch.counts_anew()
        for camera in self._cameras.values():
            camera.ahead = None
            camera.distrust("the PLC's counter jumped")
            self._keep(camera)  # the orders behind its place are gone

    def _compare(self, camera: TrackedCamera) -> None:
        if self._motion.position is not None:
            camera.compare(self._motion.position, self._motion.position_ns, self._clock())

    def _follow_trust(self, camera: TrackedCamera) -> None:
        """A tie was lost, or found: by another offset the web begins anew behind all that was scanned."""
        if camera.trusted != camera.believed:
            camera.believed = camera.trusted
            text = camera.reason or f"the PLC's counter is {camera.offset} counts ahead"
            self._notice("trusted" if camera.trusted else "untrusted", f"{camera.name}: {text}")
            if not camera.trusted and camera.ahead is not None:
                camera.ahead = None
                self._schedule.lose(camera.name)
                self._keep(camera)
        end = camera.end
        if not camera.trusted or camera.ahead == camera.offset or end is None:
            return
        if camera.ahead is not None:
            self._schedule.lose(camera.name)
        camera.ahead = camera.offset
        windows = self._schedule.begin(
            camera.name, end, camera.lanes or None, now_ns=self._clock(), cause="untrusted", source=f"{camera.name}/tie"
        )
        self._give(camera.roll, windows)
        self._keep(camera)

    def _give(self, roll: str, windows: Iterable[Window], grade: Grade = NO_GRADE) -> None:
        for window in windows:
            self._desk.order(roll, window, grade)
            if window.cause == "region":
                self._say(self._watch.window(roll, window))
            self._gates.ordered(window)
            self.late |= not window.in_time

    def _speak(self, now: int) -> None:
        live = all(camera.is_live(now, self._live_ns) for camera in self._cameras.values())
        limits = {lane: self._schedule.limit(lane) if self.trusted else None for lane in self.lanes}
        self._look_for_held(limits, now)
        passable = live and self.trusted and not self.bypass
        self._passable_ns = (self._passable_ns or now) if passable else 0
        settled = passable and now - self._passable_ns > SETTLE_S * 1e9
        for answer in self._gates.confirm(limits, passes=settled):
            kind: NoticeKind = "gate-unconfirmed" if answer.unconfirmed else "gate-unasked"
            self.unconfirmed |= answer.unconfirmed
            self._counters[kind.replace("-", "_")] += 1
            self._notice(kind, "", answer.lane, answer.at)
        stop_line = self.stopped or (self.held and self._rejects.uninspected == "stop")
        flags = Flags(
            ready=self.trusted, session=self.view.session, running=bool(self.running), bypass=self.bypass,
            fault=bool(self.faults), late=self.late, untrusted=not self.trusted, stop_line=stop_line,
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
        return all(camera.trusted for camera in self._cameras.values())

    @property
    def view(self) -> PlcView:
        """What the PLC said last: its buttons are the publisher's to follow."""
        return self._gates.view

    # ------------------------------------------------------------------------------------------ with the operator

    def acknowledge(self) -> None:
        """Faults were seen, and what caused them was mended."""
        self.late = self.stopped = self.unconfirmed = False
        for camera in self._cameras.values():
            camera.acknowledge()
        self._notice("acknowledged", "")

    def suspend(self, bypass: bool) -> None:
        """Threading: the PLC passes everything until it ends."""
        if bypass != self.bypass:
            self.bypass = bypass
            self._notice("bypass-on" if bypass else "bypass-off", "")

    def splice(self, text: str) -> None:
        self._notice("splice", text, count=self._motion.position)

    def test(self, lanes: Iterable[str]) -> bool:
        """Opens the gates of these lanes once, as soon as can be; False: nobody knows where the web is."""
        position = self._motion.at_most(self._clock())
        if position is None:
            return False
        per_mm, rules = self._web.counts_per_mm, self._schedule.rules
        soon = round(self._motion.speed * (self._rejects.plc_scan_s + self._rejects.actuator_s + SOON_S))
        distances = {gate.lane: round(gate.distance_mm * per_mm) for gate in self._rejects.gates}
        for lane in lanes:
            first = position + soon + rules.lead - distances[lane]
            windows = self._schedule.reject(
                (lane,), first, first + max(1, rules.lag), cause="test", now_ns=self._clock(), source="test"
            )
            self._give(self.running, windows)
            self._notice("test-reject", "", lane, position)
        return True

    def _say(self, notice: Notice | None) -> None:
        if notice is not None:
            self._counters[notice.kind] += 1
            self._tell(notice)

    def _notice(self, kind: NoticeKind, text: str, lane: str = "", count: int | None = None) -> None:
        self._tell(Notice(self.running, kind, lane, count, "", text))

    # ------------------------------------------------------------------------------------------ how it stands

    @property
    def faults(self) -> tuple[str, ...]:
        found = {
            "bypass": self.bypass,
            "reject-late": self.late,
            "uninspected": self.stopped,
            "gate-unconfirmed": self.unconfirmed,
            "untrusted": not self.trusted,
            "gate-held": self.held,
            "orders-unkept": self._desk.unkept or self._book_fails,
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
        lines += [f"{one.name}: {one.reason or 'tied to the PLC'}" for one in self._cameras.values()]
        for lane in self.lanes:
            limit = self._schedule.limit(lane)
            ahead = None if limit is None or position is None else (limit - position) / self._web.counts_per_mm
            passes = "nothing yet" if ahead is None or not self.trusted else f"{ahead:.0f} mm further"
            lines.append(f"gate {lane}: may pass {passes}, but for {len(self._schedule.windows(lane))} windows")
        return "\n".join(lines)

    @property
    def counters(self) -> Counter[str]:
        return self._counters + self._desk.counters


def _fingerprint(line: Line) -> str:
    """Stands for all that places windows at gates: with another distance those of before are at the wrong counts."""
    settings = line.settings
    parts: list[object] = [settings.web, settings.rejects and settings.rejects.gates]
    parts += [(one.name, one.encoder, one.mm_per_column, one.x_offset_mm, one.y_offset_mm) for one in settings.cameras]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


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
