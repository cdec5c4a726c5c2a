"""The rejects of a recorded roll as a live line would have ordered them: the same Rejector by a clock of its own.

ToldRoll, RecordedMotion ──▶ Rejector ──orders, limits──▶ a PLC that answers at once, and its gates
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from linescan.errors import ConfigError
from linescan.journal.orders import OrderBook
from linescan.line import CameraSettings, Line
from linescan.messages import Gap, Notice, Origin, Progress, Region, Reject, RejectCause
from linescan.plc.link import COUNTS
from linescan.replay.motion import RecordedMotion
from linescan.replay.told import Told, ToldRoll
from linescan.schedule import UNANNOUNCED
from linescan.spans import Spans
from linescan.stages.rejector import Rejector
from linescan.stages.simulated_plc import SimulatedPlc, length_within
from linescan.web import CameraOnWeb, Counter

TURN_NS = 20_000_000  # between two looks of the publisher
SEEN_NS = 1_200_000_000  # in which the speed is known: before that there is nothing to look at


@dataclass(frozen=True)
class SimulatedReject:
    """An order to one lane's gate, and when it would have been given.

    `first_line` … `last_line` and `along_mm` are of what it was ordered for, as known then (None: no part of the roll),
    mm from the roll's line 0. The window is in counts of the PLC and, as `window_mm`, in mm of the web that is at the
    gate then. `ordered_after_mm` is how far the first of it that this order rejects was past the camera by then;
    `margin_mm` how far the web was from the deadline (None: the PLC rejects it without being told).
    """

    roll: str
    lane: str
    cause: RejectCause
    source: str
    first_line: int | None
    last_line: int | None
    along_mm: tuple[float, float] | None
    first_count: int
    end_count: int
    window_mm: tuple[float, float]
    ordered_count: int
    ordered_after_mm: float | None
    deadline_count: int
    margin_mm: float | None
    in_time: bool
    category: str
    severity: int


@dataclass(frozen=True)
class SimulatedLane:
    """What became of the roll at one gate, as far as the recording decides it.

    That is but for the `lead_mm` before its end, and `merge_mm` behind a window there: a defect may follow. Of it
    `rejected_mm` did not pass: `start_mm` of that lies within `lag_mm` of the web before the recording, which nobody
    inspected; `unseen_mm` did not for the reason alone that its inspection came too late.
    `limit_mm` is how near the web at the gate came to what may pass; `margin_mm` is the shortest of the orders' (None:
    there were none).
    """

    roll: str
    lane: str
    web_mm: float
    rejected_mm: float
    start_mm: float
    unseen_mm: float
    limit_mm: float | None
    orders: int
    late: int
    margin_mm: float | None


@dataclass(frozen=True)
class SimulatedRoll:
    rejects: tuple[SimulatedReject, ...]
    notices: tuple[Notice, ...]
    lanes: tuple[SimulatedLane, ...]


def simulate(line: Line, camera: CameraSettings, roll: ToldRoll, motion: RecordedMotion) -> SimulatedRoll:
    """The rejects of one roll under one camera of a line that has [rejects]; other cameras are left out of account.

    What is told of a frame reaches the publisher `rejects.inspection_s` after its last line. The counters are tied as
    line.toml says; sync pulses are not simulated, the two agree.
    """
    with tempfile.TemporaryDirectory() as folder, OrderBook(Path(folder) / "orders.sqlite") as book:
        return _Simulation(line, camera, roll, motion, book).run()


def simulated_line(line: Line, camera: CameraSettings) -> Line:
    """The line with that camera alone, and with counters that only the offset ties."""
    settings = line.settings
    assert settings.web is not None
    web = settings.web
    if web.tie == "pulse":
        web = web.model_copy(update={"tie": "shared", "offset_counts": 0})
    alone = copy.copy(line)
    alone.settings = settings.model_copy(update={"cameras": (camera,), "web": web})
    return alone


def motion_of(
    line: Line, camera: CameraSettings, roll: ToldRoll, name: str, speed_mm_s: float | None
) -> RecordedMotion:
    """As the recording tells, or steady: at that speed, or where it tells nothing at the top speed.

    Raises ConfigError for a speed beyond the top speed, and as RecordedMotion.of for what cannot be believed.
    """
    web, mm_per_line = line.settings.web, line.geometry(camera.name).mm_per_line
    assert web is not None
    assert mm_per_line is not None
    top = web.top_speed_mm_s
    if speed_mm_s is not None and not 0 < speed_mm_s <= top:
        raise ConfigError(f"--speed {speed_mm_s:g}: above 0 and up to web.top_speed_mm_s = {top:g} expected")
    if speed_mm_s is None and len(roll.frames) > 1:
        frames = [(frame.first_line, frame.monotonic_ns) for frame in roll.frames]
        return RecordedMotion.of(frames, 1.2 * top / mm_per_line, name)  # a quarter more than the top is a jump
    return RecordedMotion.steady(roll.first_line, (top if speed_mm_s is None else speed_mm_s) / mm_per_line)


class _Simulation:
    """One roll; counts are the PLC's and do not wrap."""

    def __init__(
        self, line: Line, camera: CameraSettings, roll: ToldRoll, motion: RecordedMotion, book: OrderBook
    ) -> None:
        self._line = simulated_line(line, camera)
        settings = self._line.settings
        assert settings.web is not None
        assert settings.rejects is not None
        assert camera.encoder is not None
        self._web, self._rejects, self._roll, self._motion = settings.web, settings.rejects, roll, motion
        self._inspection_ns = round(self._rejects.inspection_s * 1e9)
        self._origin = _origin(roll, camera)
        scanned = self._origin + roll.first_line * camera.encoder.counts_per_line + self._web.offset_counts
        origin = scanned % COUNTS - roll.first_line * camera.encoder.counts_per_line
        self._on_web = CameraOnWeb.of(origin, camera, self._web)  # with the PLC's counts
        self._distances = {one.lane: round(one.distance_mm * self._web.counts_per_mm) for one in self._rejects.gates}
        self._now = motion.ns(roll.first_line)
        ends = {lane: self._passes(lane) for lane in self._distances}
        outputs = {one.lane: one.output for one in self._rejects.gates}
        self._plc = SimulatedPlc(outputs, ends, self._position(self._now), self._now)
        self._rejector = Rejector(self._line, book, self._plc, self._hear, clock_ns=lambda: self._now)
        self._event: Region | Gap | None = None
        self._rejects_told: list[SimulatedReject] = []
        self._notices: list[Notice] = []
        self._windows = {lane: Spans() for lane in self._distances}
        self._before = {lane: Spans() for lane in self._distances}  # the windows of what was not inspected

    def run(self) -> SimulatedRoll:
        roll = self._roll
        self._begin()
        for told in roll.told:
            self._go_to(self._motion.ns(told.line) + self._inspection_ns)
            self._take(told)
        last = max(end for _, end in self._plc.passes.values())
        self._turn(max(self._motion.ns((last - self._on_web.origin) / self._on_web.counts_per_line), self._now + 1))
        seen = self._lanes_seen()
        return SimulatedRoll(
            tuple(self._rejects_told), tuple(self._notices), tuple(self._lane(lane) for lane in self._distances
            if lane in seen),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ time goes on

    def _begin(self) -> None:
        """The roll's first frame has come, and where its line 0 is is known."""
        roll = self._roll
        self._go_to(self._motion.ns(roll.told[0].line))
        origin = Origin(roll.start.camera, roll.start.roll, self._origin, self._motion.ns(0), 0, "")
        self._rejector.running = roll.start.roll
        self._rejector.take_origin(origin)
        self._rejector.take(roll.start)
        self._rejector.turn()

    def _take(self, told: Told) -> None:
        for message in told.messages:
            if isinstance(message, Progress):
                self._rejector.take_progress(message, self._motion.ns(told.line))
            else:
                self._event = message if isinstance(message, Region | Gap) else None
                self._rejector.take(message)
                self._event = None
        self._rejector.turn()

    def _go_to(self, ns: int) -> None:
        """Turns until then; where nothing happens for long, only the last of them."""
        for between in range(max(self._now + TURN_NS, ns - SEEN_NS), ns, TURN_NS):
            self._turn(between)
        self._turn(ns)

    def _turn(self, ns: int) -> None:
        self._now = ns
        self._plc.moves_to(self._position(ns), ns)
        self._rejector.turn()

    def _position(self, ns: int) -> int:
        return self._on_web.origin + round(self._motion.line(ns) * self._on_web.counts_per_line)

    # ------------------------------------------------------------------------------------------ what was ordered

    def _hear(self, told: Reject | Notice) -> None:
        if isinstance(told, Notice):
            self._notices.append(told)
            return
        lane, event, on_web = told.lane, self._event, self._on_web
        self._windows[lane].add(told.first_count, told.end_count)
        if told.cause in UNANNOUNCED:
            self._before[lane].add(told.first_count, told.end_count)
        along = past = margin = None
        if event is not None:
            first, end = on_web.span(event.first_line, event.last_line)
            along = on_web.along_mm(event.first_line), on_web.along_mm(event.last_line + 1)
            lead = round(self._rejects.lead_mm * self._web.counts_per_mm)
            new = min(max(first, told.first_count - self._distances[lane] + lead), end)
            past = self._mm(self._plc.position - new) - on_web.y_offset_mm
        if told.cause not in UNANNOUNCED:
            margin = self._mm(told.deadline_count - self._plc.position)
        start = on_web.count(0) + self._distances[lane]
        window = self._mm(told.first_count - start), self._mm(told.end_count - start)
        self._rejects_told.append(
            SimulatedReject(
                told.roll, lane, told.cause, told.source.partition("/")[2] or told.source,
                None if event is None else event.first_line, None if event is None else event.last_line, along,
                told.first_count, told.end_count, window, self._plc.position, past,
                told.deadline_count, margin, told.in_time, told.category, told.severity,
            )
        )  # fmt: skip

    def _lane(self, lane: str) -> SimulatedLane:
        first, end = self._plc.passes[lane]
        limit = self._plc.limits[lane]
        end = end if limit is None else max(min(end, limit), first)
        orders = [one for one in self._rejects_told if one.lane == lane and one.margin_mm is not None]
        windows, unseen = self._windows[lane], self._plc.unseen[lane]
        both = Spans()
        for spans in (windows, unseen):
            for span in zip(spans.firsts, spans.ends, strict=True):
                both.add(*span)
        rejected = length_within(both, first, end)
        nearest = self._plc.nearest[lane]
        return SimulatedLane(
            self._roll.start.roll, lane, self._mm(end - first), self._mm(rejected),
            self._mm(length_within(self._before[lane], first, end)),
            self._mm(rejected - length_within(windows, first, end)), None if nearest is None else self._mm(nearest),
            len(orders), sum(not one.in_time for one in orders),
            min((one.margin_mm for one in orders if one.margin_mm is not None), default=None),
        )  # fmt: skip

    def _passes(self, lane: str) -> tuple[int, int]:
        """Counts at which the recorded part of the roll passes the gate; it may end `lead_mm` before a defect."""
        roll, distance = self._roll, self._distances[lane]
        first, end = self._on_web.span(roll.first_line, roll.lines - 1)
        lead = round(self._rejects.lead_mm * self._web.counts_per_mm)
        return first + distance, max(end + distance - lead, first + distance)

    def _lanes_seen(self) -> Iterable[str]:
        lanes = [lane["name"] for lane in self._roll.start.settings["inspection"]["lanes"]]
        return lanes or self._distances

    def _mm(self, counts: int) -> float:
        return counts / self._web.counts_per_mm


def _origin(roll: ToldRoll, camera: CameraSettings) -> int:
    """What the camera's counter showed at line 0; 0 where the recording has no counts."""
    encoder = camera.encoder
    assert encoder is not None
    for frame in roll.frames:
        if frame.encoder_count is not None:
            return Counter(encoder.bits).wrap(frame.encoder_count - frame.first_line * encoder.counts_per_line)
    return 0
