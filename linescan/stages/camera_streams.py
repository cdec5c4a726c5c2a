"""CameraStreams: what the workers tell of the web becomes windows at the gates.

    events, progress ──▶ TrackedCamera ──counts──▶ Schedule ──windows──▶ Ordering

A count is the camera's unless it says PLC, as in TrackedCamera.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from linescan.journal import Mark
from linescan.journal.orders import OrderBook
from linescan.line import Line
from linescan.messages import Gap, Latched, Origin, Progress, Region, RollEnd, RollStart, Status
from linescan.schedule import Uninspected
from linescan.stages.ordering import Ordering
from linescan.stages.registration import boot_id
from linescan.stages.tracked_camera import TrackedCamera
from linescan.tie import PAIR_NS
from linescan.web import Motion

LIVE_STATUSES = 3  # an acquire that is silent for so many statuses is not live


class CameraStreams:
    """Where the lines of a line's cameras are at the gates, and what of them is to be rejected.

    Args:
        has_plc: False: the web is where its newest line is.
        motion: of the web, by the PLC's counter where there is a PLC; whoever reads that moves it.
    """

    def __init__(
        self,
        line: Line,
        book: OrderBook,
        motion: Motion,
        orders: Ordering,
        clock_ns: Callable[[], int],
        has_plc: bool,
    ) -> None:
        settings = line.settings
        assert settings.web is not None
        assert settings.rejects is not None
        self._web, self._rejects = settings.web, settings.rejects
        self._motion, self._orders, self._clock, self._has_plc = motion, orders, clock_ns, has_plc
        self._live_ns = int((LIVE_STATUSES * settings.status_s + 1) * 1e9)
        scan_s = self._rejects.plc_scan_s
        self._cameras = {
            one.name: TrackedCamera(one, self._web, book.place(one.name), scan_s) for one in settings.cameras
        }
        self.stopped = False  # a gap may stop the line, until it is acknowledged
        self.counters: Counter[str] = Counter()
        orders.restore(self._known())

    def _known(self) -> dict[str, int]:
        """By camera, the PLC's count up to which its inspection is known."""
        return {
            name: one.reached + one.ahead
            for name, one in self._cameras.items()
            if one.reached is not None and one.ahead is not None
        }

    def placed(self) -> int | None:
        """A count that the PLC's counter has been near, by what the book says."""
        return max(self._known().values(), default=None)

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
            self.counters["origins_without_count"] += 1
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
            self.counters["events_without_place"] += 1
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
            self.counters["pulses_late"] += 1
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
        camera.lanes = tuple(lane["name"] for lane in inspection.get("lanes", ())) or self._orders.lanes
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
            windows = self._orders.schedule.begin(
                camera.name, first, camera.lanes, now_ns=self._clock(), source=f"{camera.name}/before-{camera.roll}"
            )
            self._orders.give(camera.roll, windows)
            self._reach(camera, 0)

    def _take_region(self, camera: TrackedCamera, region: Region) -> None:
        camera.end_line(region.last_line + 1)
        self._orders.say(self._orders.watch.region(region))
        if camera.ahead is None or camera.on_web is None:
            return  # nobody knows where at the gates it is: all of it is rejected when that is known
        first, end = (camera.plc(count) for count in camera.on_web.span(region.first_line, region.last_line))
        windows = self._orders.schedule.region(
            camera.name, region.lanes, first, end, opens=region.phase == "open",
            now_ns=self._clock(), source=f"{camera.name}/{region.id}",
        )  # fmt: skip
        self._orders.give(camera.roll, windows, camera.grade(region))

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
        windows = self._orders.schedule.uninspected(
            camera.name, camera.plc(first), camera.plc(end), now_ns=self._clock(), cause=cause, source=source
        )
        self._orders.give(camera.roll, windows)

    def _reach(self, camera: TrackedCamera, line: int) -> None:
        assert camera.on_web is not None
        camera.reached = camera.on_web.count(line)
        if camera.ahead is not None:
            self._orders.schedule.reached(camera.name, camera.plc(camera.reached))
        self._keep(camera)

    def _keep(self, camera: TrackedCamera) -> None:
        self._orders.keep(camera.name, camera.place())

    def _near(self, camera: TrackedCamera) -> int | None:
        """A count that the camera's counter has passed lately, by the PLC's."""
        ahead = camera.offset if camera.offset is not None else camera.ahead
        return None if self._motion.position is None or ahead is None else self._motion.position - ahead

    # ------------------------------------------------------------------------------------------ with the PLC's counter

    def plc_anew(self) -> None:
        """The PLC was restarted."""
        for camera in self._cameras.values():
            camera.plc_anew()

    def begin_anew(self, reason: str) -> None:
        """Nobody knows where at the gates the lines are."""
        for camera in self._cameras.values():
            camera.ahead = None
            camera.distrust(reason)
            self._keep(camera)  # the orders behind its place are gone

    def compare(self, now: int, pulse: int | None) -> None:
        """Looks whether the cameras' counters go with the PLC's, where a sync pulse latched that count lately."""
        for camera in self._cameras.values():
            if pulse is not None:
                camera.plc_latched(pulse, now)
            self._compare(camera)
            self._follow_trust(camera)

    def _compare(self, camera: TrackedCamera) -> None:
        if self._motion.position is not None:
            camera.compare(self._motion.position, self._motion.position_ns, self._clock())

    def _follow_trust(self, camera: TrackedCamera) -> None:
        """A tie was lost, or found: by another offset the web begins anew behind all that was scanned."""
        if camera.trusted != camera.believed:
            camera.believed = camera.trusted
            text = camera.reason or f"the PLC's counter is {camera.offset} counts ahead"
            self._orders.notice("trusted" if camera.trusted else "untrusted", f"{camera.name}: {text}")
            if not camera.trusted and camera.ahead is not None:
                camera.ahead = None
                self._orders.schedule.lose(camera.name)
                self._keep(camera)
        end = camera.end
        if not camera.trusted or camera.ahead == camera.offset or end is None:
            return
        if camera.ahead is not None:
            self._orders.schedule.lose(camera.name)
        camera.ahead = camera.offset
        windows = self._orders.schedule.begin(
            camera.name, end, camera.lanes or None, now_ns=self._clock(), cause="untrusted", source=f"{camera.name}/tie"
        )
        self._orders.give(camera.roll, windows)
        self._keep(camera)

    # ------------------------------------------------------------------------------------------ how they stand

    def live(self, now: int) -> bool:
        """Whether every acquire spoke lately and a worker has its lease."""
        return all(camera.is_live(now, self._live_ns) for camera in self._cameras.values())

    @property
    def trusted(self) -> bool:
        """Whether the counters of all cameras are tied to the PLC's."""
        return all(camera.trusted for camera in self._cameras.values())

    @property
    def reasons(self) -> dict[str, str]:
        """By camera, why its counter is not tied to the PLC's; empty: it is."""
        return {name: one.reason for name, one in self._cameras.items()}

    def acknowledge(self) -> None:
        """What went wrong was seen, and mended."""
        self.stopped = False
        for camera in self._cameras.values():
            camera.acknowledge()
