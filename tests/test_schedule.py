"""The reject schedule: on a simulated web nothing defective or uninspected passes, and little else is rejected."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.line import Gate, Rejects, Web
from linescan.schedule import FAR, Rules, Schedule, Window, shortest_distance_mm
from linescan.spans import Spans
from linescan.web import Counter, Motion

S = 1_000_000_000
PLAIN = Rules(lead=0, lag=0, minimum=0, merge=0, reaction_s=0.0, behind=1000)


def motion(position: int | None = 0, top_speed: float = 1e9) -> Motion:
    web = Motion(top_speed, 0.0)
    if position is not None:
        web.moved(position, 0)
    return web


def schedule(web: Motion | None = None, **rules: float) -> Schedule:
    """One lane, its gate 500 counts away, one camera whose roll begins at count 0."""
    made = Schedule({"a": 500}, {"cam0": ["a"]}, Rules(**{**vars(PLAIN), **rules}), web or motion())  # type: ignore[arg-type]
    made.begin("cam0", 0, now_ns=0)
    return made


def spans(windows: Iterable[Window]) -> list[tuple[int, int]]:
    return [(window.first, window.end) for window in windows]


def region(
    made: Schedule, first: int, end: int, *, opens: bool = True, lanes: tuple[str, ...] = ("a",)
) -> list[Window]:
    return made.region("cam0", lanes, first, end, opens=opens, now_ns=0, source="r")


# ------------------------------------------------------------------------------------------------ spans


def runs(counts: set[int]) -> list[tuple[int, int]]:
    """Spans of consecutive counts."""
    firsts = sorted(count for count in counts if count - 1 not in counts)
    return [(first, next(end for end in range(first, first + 100) if end not in counts)) for first in firsts]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12), st.integers(-5, 40))))
def test_spans_are_a_set_of_counts(steps: list[tuple[int, int, int]]) -> None:
    known, truth = Spans(), set[int]()
    for first, length, drop in steps:
        pieces = known.add(first, first + length)
        new = [count for a, b in pieces for count in range(a, b)]
        assert new == sorted(set(range(first, first + length)) - truth)
        truth |= set(new)
        assert [*zip(known.firsts, known.ends, strict=True)] == runs(truth)
        for count in range(-1, 75):
            edges = zip(known.firsts, known.ends, strict=True)
            assert known.begins(count) == next((a for a, b in edges if a <= count <= b), count)
            assert known.last_end(count) == max((b for b in known.ends if b <= count), default=None)
            assert known.next_first(count) == min((a for a in known.firsts if a >= count), default=None)
        known.drop_before(drop)
        truth = {count for count in truth if count >= drop}
        assert [*zip(known.firsts, known.ends, strict=True)] == runs(truth)


# ------------------------------------------------------------------------------------------------ one thing at a time


def test_a_region_becomes_a_window_at_the_gate_and_is_ordered_as_it_grows() -> None:
    made = schedule(lead=10, lag=20)
    made.reached("cam0", 200)
    assert region(made, 200, 210) == [Window("a", "region", "r", 690, 730, 690, True)]
    made.reached("cam0", 210)
    assert region(made, 200, 210, opens=False) == []
    assert spans(region(made, 200, 260, opens=False)) == [(730, 780)]
    assert spans(region(made, 200, 255, opens=False)) == []
    made.reached("cam0", 2000)
    assert made.windows("a")[-1] == (690, 780)


def test_a_lane_newly_reached_is_rejected_from_where_nothing_was_final() -> None:
    rules = Rules(**{**vars(PLAIN), "lead": 10})
    made = Schedule({"a": 500, "b": 700}, {"cam0": ["a", "b"]}, rules, motion())
    made.begin("cam0", 0, now_ns=0)
    region(made, 100, 130)
    made.reached("cam0", 130)
    grown = region(made, 100, 160, opens=False, lanes=("a", "b"))
    assert [(window.lane, window.first, window.end) for window in grown] == [("a", 630, 660), ("b", 820, 860)]


def test_a_region_without_a_gate_of_its_own_is_rejected_wherever_its_camera_looks() -> None:
    cameras = {"cam0": ["a", "b"], "cam1": ["c"], "cam2": []}
    for lanes, expected in ((("b",), "b"), ((), "ab"), (("b", "unknown"), "ab")):
        made = Schedule(dict.fromkeys("abc", 500), cameras, PLAIN, motion())
        for camera in cameras:
            made.begin(camera, 0, now_ns=0)
        assert sorted(window.lane for window in region(made, 10, 20, lanes=lanes)) == list(expected)
    overview = made.region("cam2", (), 50, 60, opens=True, now_ns=0)
    assert sorted(window.lane for window in overview) == ["a", "b", "c"]


def test_a_short_window_is_made_longer_and_near_ones_become_one() -> None:
    made = schedule(minimum=50, merge=30)
    assert spans(region(made, 100, 105)) == [(600, 650)]
    assert spans(region(made, 100, 160, opens=False)) == [(650, 660)]
    assert spans(region(made, 189, 190)) == [(660, 690)]  # the hole is less than 30; the whole is long enough
    assert spans(region(made, 220, 221)) == [(720, 770)]  # this one is not
    assert spans(region(made, 290, 400)) == [(770, 900)]
    assert made.windows("a")[1:] == [(600, 690), (720, 900)]


def test_a_hole_before_a_later_window_is_closed_too() -> None:
    made = schedule(merge=30)
    region(made, 300, 310)
    assert spans(region(made, 250, 281)) == [(750, 800)]
    assert spans(region(made, 200, 220)) == [(700, 720)]
    assert spans(region(made, 400, 410)) == [(900, 910)]


def test_the_limit_stays_behind_by_the_lead_and_at_a_window_that_a_new_one_would_join() -> None:
    made = schedule(lead=10, merge=30)
    made.reached("cam0", 100)
    assert made.limit("a") == 590
    region(made, 100, 110)  # ordered as 590…610
    made.reached("cam0", 110)
    assert made.limit("a") == 600  # in the window
    made.reached("cam0", 130)
    assert made.limit("a") == 610
    made.reached("cam0", 149)
    assert made.limit("a") == 610
    assert spans(region(made, 149, 150)) == [(610, 650)]
    made.reached("cam0", 150)
    assert made.limit("a") == 640
    made.reached("cam0", 190)
    assert made.limit("a") == 680  # 30 from the last window
    made.reached("cam0", 100)
    assert made.limit("a") == 680


def test_the_limit_is_the_least_of_the_cameras_that_see_the_lane() -> None:
    made = Schedule({"a": 500, "b": 500, "c": 500}, {"cam0": ["a", "b"], "cam1": ["b"]}, PLAIN, motion())
    assert made.limit("a") is None
    made.begin("cam0", 0, now_ns=0)
    made.reached("cam0", 300)
    assert (made.limit("a"), made.limit("b"), made.limit("c")) == (800, -1000, None)  # cam1 has not begun
    made.begin("cam1", 0, now_ns=0)
    assert made.limit("b") == 500
    made.reached("cam1", 200)
    assert made.limit("b") == 700
    made.moved(0)
    assert made.limit("c") == -1000  # no camera sees it: nothing passes there


def test_a_gap_is_rejected_in_every_lane_that_the_camera_sees() -> None:
    made = Schedule({"a": 500, "b": 600, "c": 500}, {"cam0": ["a", "b"], "cam1": ["c"]}, PLAIN, motion())
    made.begin("cam0", 0, now_ns=0)
    windows = made.uninspected("cam0", 50, 70, now_ns=0, source="camera-lost")
    assert windows == [
        Window("a", "gap", "camera-lost", 550, 570, 550, True),
        Window("b", "gap", "camera-lost", 650, 670, 650, True),
    ]
    assert made.uninspected("cam1", 50, 70, now_ns=0) == []  # it has not begun: all of that will be ordered then


def test_where_gaps_are_only_told_defects_are_still_rejected() -> None:
    made = Schedule({"a": 500}, {"cam0": ["a"]}, Rules(**{**vars(PLAIN), "reject_uninspected": False}), motion())
    assert made.begin("cam0", 0, now_ns=0) == []
    assert made.uninspected("cam0", 0, 100, now_ns=0) == []
    assert spans(region(made, 100, 110)) == [(600, 610)]
    made.lose("cam0")
    assert spans(made.begin("cam0", 300, now_ns=0, cause="untrusted")) == [(-1000, 600), (610, 800)]


def test_the_web_before_and_between_rolls_is_rejected() -> None:
    made = Schedule({"a": 500}, {"cam0": ["a"]}, Rules(**{**vars(PLAIN), "lead": 10, "lag": 20}), motion(7))
    assert spans(made.moved(0)) == []
    assert made.limit("a") == 7 - 1000
    first = made.begin("cam0", 40, now_ns=0, source="R1")
    assert first == [Window("a", "outside-roll", "R1", -993, 560, -993, True)]
    made.reached("cam0", 200)
    assert made.limit("a") == 690
    assert spans(made.begin("cam0", 300, now_ns=0)) == [(690, 820)]
    assert made.limit("a") == 790
    assert made.begin("cam0", 250, now_ns=0) == []  # the web had run back before the roll began
    made.reached("cam0", 280)
    assert made.limit("a") == 790


def test_a_recipe_that_gives_a_camera_a_lane_brings_no_uninspected_web_to_it() -> None:
    made = Schedule({"a": 500, "b": 500}, {"cam0": ["a"], "cam1": ["b"]}, PLAIN, motion())
    for camera in ("cam0", "cam1"):
        made.begin(camera, 0, now_ns=0)
    made.reached("cam0", 400)
    made.reached("cam1", 100)
    assert spans(made.begin("cam0", 400, ["a", "b"], now_ns=0)) == [(600, 900)]  # in b, where only cam1 had looked
    assert made.limit("b") == 600
    made.reached("cam1", 500)
    assert made.limit("b") == 900
    assert made.begin("cam0", 400, ["a"], now_ns=0) == []
    assert made.limit("b") == 1000


def test_counters_tied_anew_make_everything_before_the_gate_doubtful() -> None:
    made = schedule(motion(2500), lag=20)
    made.reached("cam0", 3000)
    made.moved(0)
    region(made, 3000, 3010)
    made.lose("cam0")
    made.reached("cam0", 4000)
    assert region(made, 3500, 3600) == []
    assert made.limit("a") == 3500
    again = made.begin("cam0", 2900, now_ns=0, cause="untrusted")  # 200 counts lower than they were thought to be
    assert spans(again) == [(1500, 3500)]  # up to the limit that was told, and what of it was not ordered
    made.reached("cam0", 3100)
    assert made.limit("a") == 3600


# ------------------------------------------------------------------------------------------------ in time


def test_the_deadline_is_by_the_present_speed() -> None:
    web = Motion(10_000.0, 0.0)
    made = schedule(web, reaction_s=0.05)
    for tenth in range(11):
        web.moved(40 * tenth, tenth * S // 10)
    assert web.speed == pytest.approx(400)
    (window,) = region(made, 100, 110)
    assert (window.deadline, window.in_time) == (600 - 20, True)
    web.moved(580, int(1.45 * S))
    (window,) = made.region("cam0", ["a"], 110, 120, opens=True, now_ns=int(1.45 * S))
    assert (window.first, window.in_time) == (610, True)
    (window,) = made.region("cam0", ["a"], 120, 121, opens=True, now_ns=int(1.45 * S) + 10**8)
    assert not window.in_time  # a tenth of a second later it is 620 − 20 at least


def test_late_is_said_and_an_unknown_position_is_late() -> None:
    assert not region(schedule(motion(None)), 100, 110)[0].in_time
    assert not region(schedule(motion(601)), 100, 110)[0].in_time
    assert region(schedule(motion(600)), 100, 110)[0].in_time
    stale = schedule(motion(0, top_speed=100.0))
    assert stale.region("cam0", ["a"], 100, 110, opens=True, now_ns=6 * S)[0].in_time
    assert not stale.region("cam0", ["a"], 200, 210, opens=True, now_ns=60 * S)[0].in_time


def test_a_hole_that_is_closed_late_does_not_make_the_defect_late() -> None:
    web = motion(0)
    made = schedule(web, merge=50)
    region(made, 100, 110)
    made.reached("cam0", 140)
    web.moved(620, S)
    (window,) = region(made, 150, 160)
    assert (window.first, window.end) == (610, 660)
    assert (window.deadline, window.in_time) == (650, True)


# ------------------------------------------------------------------------------------------------ what is kept


def test_what_is_past_is_forgotten_and_what_comes_back_is_ordered_again() -> None:
    web = motion(0)
    made = schedule(web)
    region(made, 500, 600)  # 1000…1100 at the gate
    made.reached("cam0", 5000)
    web.moved(2050, S)
    assert made.moved(S) == []
    assert made.windows("a") == [(1050, 1100)]
    web.moved(2100, 2 * S)
    made.moved(2 * S)
    assert made.windows("a") == []
    assert made.known_from("a") == 1100
    web.moved(1600, 3 * S)
    assert made.moved(3 * S) == []
    web.moved(1590, 4 * S)
    assert made.moved(4 * S) == [Window("a", "untrusted", "web-back", 590, 1100, 590, True)]
    assert made.moved(4 * S) == []


def test_a_restart_goes_on_with_what_was_ordered() -> None:
    made = schedule(lead=10)
    region(made, 100, 120)
    made.reached("cam0", 300)
    again = Schedule({"a": 500}, {"cam0": ["a"]}, made.rules, motion(200))
    again.restore([("a", first, end) for first, end in made.windows("a")], -1000, {"cam0": 300})
    assert again.limit("a") == made.limit("a") == 790
    assert again.windows("a") == made.windows("a")
    assert again.region("cam0", ["a"], 100, 120, opens=False, now_ns=0) == []
    assert spans(again.begin("cam0", 350, now_ns=0)) == [(790, 850)]


def test_a_limit_is_never_so_far_behind_that_32_bits_take_it_for_ahead() -> None:
    web = motion(0)
    made = schedule(web)
    made.reached("cam0", 1000)
    counter, ordered = Counter(), list[Window]()
    for step in range(1, 40):  # the camera is gone, the web runs on
        web.moved(step * (FAR // 4), step * S)
        ordered += made.moved(step * S)
        limit = made.limit("a")
        assert limit is not None
        ahead = (counter.wrap(limit) - counter.wrap(step * (FAR // 4)) + (1 << 31)) % (1 << 32) - (1 << 31)
        assert ahead <= 0
    assert len(ordered) > 5
    assert all(window.end - window.first <= FAR for window in ordered)
    position = 39 * (FAR // 4)
    (hole,) = made.begin("cam0", position, now_ns=40 * S)
    assert (hole.end, hole.end - hole.first <= 2 * FAR) == (position + 500, True)


def test_ten_thousand_pending_windows_do_not_slow_it() -> None:
    """Counted, not timed: what one order looks at grows with the logarithm."""
    made = schedule(lead=2, lag=3)
    for number in range(10_000):
        assert len(region(made, 1000 + 100 * number, 1001 + 100 * number)) == 1
    assert len(made.windows("a")) == 10_001
    looked = 0

    class Counting(list[int]):
        def __getitem__(self, index: object) -> object:  # type: ignore[override]
            nonlocal looked
            found = super().__getitem__(index)  # type: ignore[index]
            looked += len(found) if isinstance(found, list) else 1
            return found

    known = made._gates["a"].windows
    known.firsts, known.ends = Counting(known.firsts), Counting(known.ends)
    assert spans(region(made, 500_050, 500_051)) == [(500_548, 500_554)]
    assert 0 < looked < 200


def test_line_toml_says_it_in_millimetres() -> None:
    web = Web(counts_per_mm=8.0, top_speed_mm_s=1000.0)
    rejects = Rejects(
        gates=(Gate(lane="a", output=0, distance_mm=100.3), Gate(lane="b", output=1, distance_mm=50.0)),
        lead_mm=1.01, lag_mm=2.0, minimum_mm=3.0, merge_mm=4.0, uninspected="warn",
    )  # fmt: skip
    made = Schedule.of(web, rejects, {"cam0": ["a"]}, motion())
    assert made.rules == Rules(9, 16, 24, 32, pytest.approx(0.03), 802, reject_uninspected=False)
    assert made.lanes == ("a", "b")
    made.begin("cam0", 0, now_ns=0)
    assert spans(region(made, 0, 1)) == [(802 - 9, 802 + 17)]


def test_the_shortest_distance_that_can_work() -> None:
    distance_mm = shortest_distance_mm(
        frame_lines=100, context_lines=400, mm_per_line=0.1, top_speed_mm_s=1000.0, inspection_s=0.2, reaction_s=0.03,
        lead_mm=5.0, merge_mm=2.0,
    )  # fmt: skip
    assert distance_mm == pytest.approx(50 + 230 + 7)


# ------------------------------------------------------------------------------------------------ a simulated web

CPL = 5  # counts per line
BAND = 4  # lines of a band of the inspection
CONTEXT = 6  # lines behind a line until its result is final
SMALL = 3  # lines until a region is large enough to be told: until then it holds `inspected_up_to`
BASE = (1 << 32) - 2000  # where the PLC's counter stands at the start: it wraps on the way


@dataclass
class Defect:
    """Lines first…last of a camera; the lane `late` is reached by it only from line `spreads` on."""

    first: int
    last: int
    lane: str
    late: str
    spreads: int

    def lanes(self, up_to: int) -> set[str]:
        return {self.lane, self.late} if up_to >= self.spreads else {self.lane}


@dataclass
class SimulatedCamera:
    """What a camera's stages tell: regions in phases by bands, gaps, progress; line numbers count from `origin`."""

    name: str
    origin: int
    defects: list[Defect]
    gap_bands: set[int]
    scanned: int = 0
    up_to: int = 0  # inspected
    told: int = 0  # rows that the labeller has seen

    def inspect(self, ended: bool) -> list[tuple[str, int, int, bool, tuple[str, ...]]]:
        """(what, first, end, opens, lanes) of what became certain, in the engine's order; moves `up_to`."""
        events = []
        while self.told + BAND + (0 if ended else CONTEXT) <= self.scanned or (ended and self.told < self.scanned):
            first, end = self.told, min(self.told + BAND, self.scanned)
            self.told = end
            if first // BAND in self.gap_bands:
                events.append(("gap", first, end, True, ()))
            for defect in self.defects:
                seen = min(defect.last + 1, end)
                if defect.first < seen and defect.last + 1 > first and self._large(defect, seen, ended):
                    opens = not self._large(defect, min(defect.last + 1, first), False)
                    events.append(("region", defect.first, seen, opens, tuple(sorted(defect.lanes(seen - 1)))))
        waiting = [
            d.first for d in self.defects if d.first < self.told <= d.last and not self._large(d, self.told, ended)
        ]
        self.up_to = max(self.up_to, min([self.told, *waiting]))
        return events

    def _large(self, defect: Defect, seen: int, ended: bool) -> bool:
        return seen - defect.first >= min(SMALL, defect.last + 1 - defect.first) or (ended and seen > defect.first)


@dataclass
class ReferencePlc:
    """Passes iff int32(limit − position) > 0 and no window holds the position; its counter has 32 bits."""

    counter: Counter = field(default_factory=Counter)
    windows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)

    def order(self, window: Window) -> None:
        shown = self.counter.wrap(window.first), self.counter.wrap(window.end)
        self.windows.setdefault(window.lane, []).append(shown)

    def passes(self, lane: str, position: int) -> bool:
        return self.inspected(lane, position) and not self.covered(lane, position)

    def within(self, lane: str, position: int) -> bool:
        """Whether it is rejected by a window alone."""
        return self.inspected(lane, position) and self.covered(lane, position)

    def inspected(self, lane: str, position: int) -> bool:
        return lane in self.limits and self._ahead(self.limits[lane], position) > 0

    def covered(self, lane: str, position: int) -> bool:
        return any(
            self._ahead(position, first) >= 0 and self._ahead(end, position) > 0
            for first, end in self.windows.get(lane, ())
        )

    def forget(self, count: int) -> None:
        """Its memory is as short as the schedule's."""
        for lane, windows in self.windows.items():
            self.windows[lane] = [(first, end) for first, end in windows if self._ahead(end, count) > 0]

    @staticmethod
    def _ahead(count: int, of: int) -> int:
        return (count - of + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass(repr=False)
class World:
    """A web under two cameras, three lanes with gates behind them, and a PLC that gets what was told a little late."""

    rules: Rules
    cameras: list[SimulatedCamera]
    delay: int
    gates: dict[str, int] = field(default_factory=lambda: {"a": 300, "b": 420, "c": 510})
    sees: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"left": ("a", "b"), "right": ("b", "c")})

    def __post_init__(self) -> None:
        self.counter = Counter()
        self.position = self.highest = BASE
        self.motion = Motion(1e6, 0.0)
        self.schedule = Schedule(self.gates, self.sees, self.rules, self.motion)
        self.plc = ReferencePlc()
        self.pending: deque[list[Window | tuple[str, int]]] = deque()
        self.ordered: list[Window] = []
        self.told: dict[str, list[tuple[int, int]]] = {lane: [] for lane in self.gates}  # at the reference line
        self.rolls: dict[str, list[SimulatedCamera]] = {camera.name: [] for camera in self.cameras}
        self.running = False
        self.now = self.fastest = 0
        self.passed: dict[str, list[int]] = {lane: [] for lane in self.gates}  # forward, counts at the gate
        self.rejected: dict[str, list[int]] = {lane: [] for lane in self.gates}  # that would have passed otherwise
        self.unwrapped = BASE

    def __repr__(self) -> str:
        return f"World({self.rules}, {self.cameras}, delay={self.delay})"

    # ---- what the publisher does

    def tell(self, windows: Iterable[Window]) -> None:
        self.ordered += windows
        self.turn += windows

    def begin_roll(self) -> None:
        for camera in self.cameras:
            roll = SimulatedCamera(camera.name, self.highest + camera.origin, camera.defects, camera.gap_bands)
            before = self.rolls[camera.name][-1:]
            self.rolls[camera.name].append(roll)
            self.tell(self.schedule.begin(camera.name, roll.origin, now_ns=self.now))
            start = before[0].origin + before[0].up_to * CPL if before else self.first_known()
            for lane in self.sees[camera.name]:
                if start < roll.origin:
                    self.told[lane].append((start, roll.origin))
        self.running = True

    def first_known(self) -> int:
        return BASE - 10_000

    def inspect(self, ended: bool = False) -> None:
        for name, rolls in self.rolls.items():
            roll = rolls[-1]
            roll.scanned = max(roll.scanned, (self.highest - roll.origin) // CPL)  # new positions only
            before = roll.up_to
            for what, first, end, opens, lanes in roll.inspect(ended):
                span = roll.origin + first * CPL, roll.origin + end * CPL
                if what == "gap":
                    self.tell(self.schedule.uninspected(name, *span, now_ns=self.now))
                else:
                    self.tell(self.schedule.region(name, lanes, *span, opens=opens, now_ns=self.now))
                new = first if opens else max(first, before)
                for lane in lanes or self.sees[name]:
                    self.told[lane].append((roll.origin + new * CPL, roll.origin + end * CPL))
            self.schedule.reached(name, roll.origin + roll.up_to * CPL)

    def end_roll(self) -> None:
        self.inspect(ended=True)
        self.running = False

    # ---- time passes

    def step(self, move: int, event: str) -> None:
        """The web moves by `move` counts while the gates stay as the PLC set them where it was."""
        before, self.position = self.position, self.position + move
        self.fastest = max(self.fastest, move)
        self.plc.forget(before - self.rules.behind)
        for lane, distance in self.gates.items():
            passing = range(before, self.position)
            if self.plc.passes(lane, before):
                self.passed[lane] += passing
                assert all(count - distance < self.reached(lane) for count in passing), "passed before it was inspected"
            elif self.plc.within(lane, before):
                self.rejected[lane] += passing
        self.highest = max(self.highest, self.position)
        self.now += S // 50
        self.unwrapped = self.counter.unwrap(self.counter.wrap(self.position), self.unwrapped)
        assert self.unwrapped == self.position
        self.motion.moved(self.unwrapped, self.now)
        self.turn: list[Window | tuple[str, int]] = []
        self.tell(self.schedule.moved(self.now))
        if event == "end" and self.running:
            self.end_roll()
        elif event == "start" and not self.running:
            self.begin_roll()
        elif self.running:
            self.inspect()
        self.deliver()

    def reached(self, lane: str) -> int:
        """What every camera of the lane has inspected, at the reference line."""
        rolls = [self.rolls[name][-1] for name, lanes in self.sees.items() if lane in lanes]
        return min(roll.origin + roll.up_to * CPL for roll in rolls)

    def deliver(self) -> None:
        for lane in self.gates:
            limit = self.schedule.limit(lane)
            if limit is not None:
                self.turn.append((lane, limit))
        self.pending.append(self.turn)
        while len(self.pending) > self.delay:
            for item in self.pending.popleft():
                if isinstance(item, Window):
                    self.plc.order(item)
                else:
                    self.plc.limits[item[0]] = item[1] % (1 << 32)

    # ---- the truth

    def must_go(self, lane: str) -> NDArray[np.bool_]:
        """For each count from BASE on at the reference line: whether it is defective, uninspected or outside a roll."""
        size = self.highest - BASE + 1000
        bad = np.zeros(size, bool)
        for name, rolls in self.rolls.items():
            if lane not in self.sees[name]:
                continue
            inspected = np.zeros(size, bool)
            for roll in rolls:
                origin = roll.origin - BASE
                inspected[origin : origin + roll.up_to * CPL] = True
                for band in roll.gap_bands:
                    inspected[origin + band * BAND * CPL : origin + (band + 1) * BAND * CPL] = False
                for defect in roll.defects:
                    for line in range(defect.first, min(defect.last + 1, roll.scanned)):
                        if lane in defect.lanes(line):
                            bad[origin + line * CPL : origin + (line + 1) * CPL] = True
            bad |= ~inspected
        return bad


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, list[tuple[int, int, str]]]:
    step = draw(st.sampled_from([8, 30]))  # the farthest that the web moves within a scan
    rules = Rules(
        lead=step + draw(st.integers(0, 20)),
        lag=draw(st.integers(0, 20)),
        minimum=draw(st.sampled_from([0, 30, 120])),
        merge=draw(st.sampled_from([0, 25, 90])),
        reaction_s=0.01,
        behind=draw(st.sampled_from([150, 600])),
    )
    cameras = []
    for name, (one, other) in {"left": ("a", "b"), "right": ("c", "b")}.items():
        defects, line = [], 0
        for skip, length in draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 25)), max_size=6)):
            first = line + skip
            line = first + length
            lanes = (one, other) if draw(st.booleans()) else (other, one)
            defects.append(Defect(first, line - 1, *lanes, spreads=first + draw(st.integers(0, 30))))
        skew = draw(st.integers(0, 12))  # the cameras hear of the roll at different lines
        cameras.append(SimulatedCamera(name, skew, defects, draw(st.sets(st.integers(0, 60), max_size=5))))
    speeds = st.one_of(st.just(0), st.integers(1, step // 5), st.integers(step // 2, step), st.integers(-step, -1))
    stretches = draw(st.lists(st.tuples(speeds, st.integers(1, 25)), min_size=10, max_size=60))
    events = st.sampled_from(["", "", "", "", "start", "start", "end"])
    moves = [(speed, count, draw(events)) for speed, count in stretches]
    return World(rules, cameras, draw(st.integers(0, 3))), [(step // 3, 1, "start"), *moves, (step, 60, "")]


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_nothing_defective_and_nothing_uninspected_passes_and_little_else_goes(
    case: tuple[World, list[tuple[int, int, str]]],
) -> None:
    world, moves = case
    limits: dict[str, int] = {}
    for move, event in steps(moves):
        mark = len(world.ordered)
        held = dict(limits)
        world.step(move, event)
        for window in world.ordered[mark:]:  # what was passable never becomes a window
            assert window.source == "web-back" or window.first >= held.get(window.lane, window.first)
        for lane in world.gates:
            limits[lane] = world.schedule.limit(lane) or 0
            assert limits[lane] >= held.get(lane, limits[lane])
    world.end_roll()
    for lane, distance in world.gates.items():
        bad = world.must_go(lane)
        passed = np.array(world.passed[lane], int) - distance - BASE
        assert not (passed < 0).any(), "web from before the first roll passed"
        assert not bad[passed].any(), "a defective or uninspected count passed"
        check_over_rejection(world, lane)


def steps(moves: list[tuple[int, int, str]]) -> Iterable[tuple[int, str]]:
    """Counts that the web moves in each scan, and what happens to the roll then."""
    for speed, scans, event in moves:
        yield speed, event
        yield from [(speed, "")] * (scans - 1)


def check_over_rejection(world: World, lane: str) -> None:
    """The formula of Schedule's docstring: no ordered count is farther from what was told than it says."""
    rules, distance = world.rules, world.gates[lane]
    allowed = Spans()
    for first, end in world.told[lane]:
        begins = first + distance - rules.lead
        allowed.add(begins, max(end + distance + rules.lag, begins + rules.minimum))
    edges = list(zip(allowed.firsts, allowed.ends, strict=True))
    for (_, end), (first, _) in pairwise(edges):
        if first - end < rules.merge:
            allowed.add(end, first)
    for window in world.ordered:
        if window.lane == lane and window.source != "web-back":
            assert allowed.begins(window.first) <= window.first
            assert not allowed.add(window.first, window.end), "ordered what the formula does not allow"
    for first, end in zip(allowed.firsts[:], allowed.ends[:], strict=True):  # the gate moves at the PLC's scans
        allowed.add(first, end + world.fastest)
    back = [(window.first, window.end + world.fastest) for window in world.ordered if window.source == "web-back"]
    for count in world.rejected[lane]:
        assert allowed.begins(count) < count or count in allowed.firsts or any(a <= count < b for a, b in back)
