"""One camera as the rejects see it: where its lines are on the PLC's counter, and whether that can be trusted."""

from __future__ import annotations

from linescan.journal.orders import Place
from linescan.line import CameraSettings
from linescan.line import Web as WebSettings
from linescan.messages import Origin, Region, Status
from linescan.stages.order_desk import Grade
from linescan.tie import PulseTie, SharedTie
from linescan.web import CameraOnWeb, Counter


class TrackedCamera:
    """A camera's roll, its place on the web, and the tie of its counter to the PLC's.

    Counts do not wrap. A count is the camera's unless it says PLC; the PLC's is `ahead` of it.

    Args:
        place: where an earlier publisher left it, or None.
        scan_s: how old the PLC's position may be when it is read.
    """

    def __init__(self, settings: CameraSettings, web: WebSettings, place: Place | None, scan_s: float = 0.0) -> None:
        assert settings.encoder is not None  # line.toml was checked: rejects need it
        self.name = settings.name
        self._settings, self._web, self._scan_s = settings, web, scan_s
        self._counter = Counter(settings.encoder.bits)
        self._tie: SharedTie | PulseTie
        self._tie = SharedTie.of(web, settings.encoder.bits, scan_s) if web.tie == "shared" else PulseTie.of(web)
        self.roll = place.roll if place else ""
        origin = place.origin if place else None
        self.on_web = CameraOnWeb.of(origin, settings, web) if origin is not None else None
        self.reached = place.reached if place else None  # count up to which its inspection is known
        self.ahead = place.ahead if place else None  # as the schedule has it; None: the schedule has no place of it
        self.believed = False  # whether it was told that its tie is trusted
        self.announced = self.roll  # the roll that its worker told last
        self.origins: dict[str, Origin] = {}  # by roll, of those that were not announced yet
        self.lanes: tuple[str, ...] = ()  # of which its recipe sees something
        self.categories: list[str] = []  # of its recipe, in order
        self.newest: tuple[int, int] | None = None  # count of the newest line known, and when it had come
        self._end = 0  # of all lines that were heard of
        self._heard: tuple[int, bool] | None = None  # when acquire last spoke, and whether a worker has its lease
        # with sync pulses, what can be seen without one: whether the newest line and the PLC's position go together
        self._between: SharedTie | None = None
        if self.ahead is not None and web.tie == "pulse":
            self._between = self._shared_by(self.ahead)
        if place is not None and place.origin is None:
            self.distrust(f"before a restart: where the lines of roll {place.roll} are is not known")

    # ------------------------------------------------------------------------------------------ where its lines are

    def begin(self, origin: Origin, near: int | None) -> None:
        """Line 0 of a roll; `near` is a count that the counter has passed not long ago, None: not known."""
        self.on_web = self.lying(origin, near)
        self.roll, self._end = origin.roll, 0
        while origin.roll in self.origins:  # it and those before it
            del self.origins[next(iter(self.origins))]
        self.newest = self.on_web.count(0), origin.monotonic_ns

    def is_another(self, origin: Origin) -> bool:
        """Whether it is of another roll than the one that is followed, though of its name: the journal is a new one."""
        if self.on_web is None or self.roll != origin.roll or origin.encoder_count is None:
            return False
        return self._counter.wrap(self.on_web.origin) != self._counter.wrap(origin.encoder_count)

    def forget_roll(self) -> None:
        """The roll of the book is none that the journal knows."""
        self.roll, self.on_web = "", None
        if not self.lanes:  # its start is still to be told
            self.announced = ""

    def lying(self, origin: Origin, near: int | None) -> CameraOnWeb:
        """Where a roll with that origin lies; `near` as in `begin`."""
        shown = origin.encoder_count
        assert shown is not None
        before = self.newest[0] if self.newest else self.reached
        near = near if near is not None else before if before is not None else shown
        return CameraOnWeb.of(self._counter.unwrap(shown, near), self._settings, self._web)

    def end_line(self, line: int, monotonic_ns: int | None = None) -> None:
        """Lines before `line` are known to have been scanned; the last of them had come at that time."""
        self._end = max(self._end, line)
        if self.on_web is not None and monotonic_ns is not None:
            count = self.on_web.count(line)
            if self.newest is None or count > self.newest[0]:
                self.newest = count, monotonic_ns

    @property
    def end(self) -> int | None:
        """PLC's count of the line after all that was heard of, at the reference line."""
        if self.on_web is None or self._tie.offset is None:
            return None
        return self.on_web.count(self._end) + self._tie.offset

    def plc(self, count: int) -> int:
        """The PLC's count, as the schedule has it."""
        assert self.ahead is not None
        return count + self.ahead

    def grade(self, region: Region) -> Grade:
        number = self.categories.index(region.category) + 1 if region.category in self.categories else 0
        return Grade(region.category, number, region.severity)

    def place(self) -> Place | None:
        """For the book."""
        if self.on_web is None:  # its roll is lost until the next one begins, over a restart too
            return Place(self.roll, None, self.reached or 0, None) if self.roll else None
        if self.reached is None:
            return None
        return Place(self.roll, self.on_web.origin, self.reached, self.ahead)

    # ------------------------------------------------------------------------------------------ trust

    @property
    def trusted(self) -> bool:
        return self._tie.trusted

    @property
    def offset(self) -> int | None:
        """By how much the PLC's counter is ahead by the tie, trusted or not."""
        return self._tie.offset

    @property
    def reason(self) -> str:
        return self._tie.reason

    def latched(self, shown: int, seen_ns: int, near: int | None) -> None:
        """A pulse latched the camera's counter; `near` as in `begin`."""
        if isinstance(self._tie, PulseTie):
            near = self.newest[0] if near is None and self.newest else near
            self._tie.camera_latched(self._counter.unwrap(shown, shown if near is None else near), seen_ns)

    def plc_anew(self) -> None:
        """The PLC was restarted: how far its counter had come before proves nothing."""
        for tie in (self._tie, self._between):
            if isinstance(tie, SharedTie):
                tie.plc_anew()

    def plc_latched(self, count: int, now_ns: int) -> None:
        if isinstance(self._tie, PulseTie):
            self._tie.plc_latched(count, now_ns)

    def compare(self, position: int, position_ns: int, now_ns: int) -> None:
        """Looks whether the PLC's position goes with the newest line."""
        if isinstance(self._tie, PulseTie):
            self._tie.settle(now_ns)
            self._look_between_pulses(self._tie, position, position_ns)
        elif self.newest is not None:
            self._tie.check(*self.newest, position, position_ns)

    def _look_between_pulses(self, tie: PulseTie, position: int, position_ns: int) -> None:
        """Goes on with the offset of before a restart; sees a counter that jumped before a pulse shows it."""
        between = None if tie.lost else self._between  # what was lost only a pulse mends
        if tie.trusted and tie.offset is not None and (between is None or between.offset_counts != tie.offset):
            between = self._shared_by(tie.offset)
        self._between = between
        if between is None or self.newest is None:
            return
        between.check(*self.newest, position, position_ns)
        if tie.trusted and not between.trusted:
            tie.distrust("the PLC's position does not go with the camera's newest line: one of the counters jumped")
        elif between.trusted and between.offset is not None and not tie.trusted:
            tie.resume(between.offset)

    def _shared_by(self, ahead: int) -> SharedTie:
        assert self._settings.encoder is not None
        web = self._web.model_copy(update={"offset_counts": ahead})
        return SharedTie.of(web, self._settings.encoder.bits, self._scan_s)

    def distrust(self, reason: str) -> None:
        self._tie.distrust(reason)
        self._between = None

    def acknowledge(self) -> None:
        self._tie.acknowledge()

    # ------------------------------------------------------------------------------------------ alive

    def hear(self, status: Status, now_ns: int) -> None:
        leased = status.state == "acquiring" and status.counters.get("leased") == 1
        self._heard = now_ns, leased

    def is_live(self, now_ns: int, within_ns: int) -> bool:
        """Whether acquire spoke lately and a worker has its lease."""
        return self._heard is not None and self._heard[1] and now_ns - self._heard[0] <= within_ns
