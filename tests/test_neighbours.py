"""Several cameras, one web: each defect is told once, whatever comes when, and no stream is held up for ever."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan import border_gate, neighbours
from linescan.border_gate import BorderGate, Told
from linescan.inspection.regions import Labeller, LabellerSettings, RegionPhase
from linescan.journal import CameraState, Mark
from linescan.messages import Gap, Message, Progress, Region, RollEnd, RollStart, Stamp
from linescan.neighbours import View
from linescan.stages.ledger import Ledger, Verdict

few = settings(max_examples=150, derandomize=True, deadline=None, database=None)
ROWS, COLUMNS, COUNTS_PER_LINE = 90, 20, 3
Bar = tuple[int, int, int, int]  # first and end row, first and end column, of the whole web
HOUR_NS = 3600 * 10**9


@dataclass(frozen=True)
class Camera:
    """Columns first…first + COLUMNS − 1 of the web, a millimetre each; its line 0 is row `row` of the web."""

    name: str
    first: int
    row: int
    band: int

    @property
    def view(self) -> View:
        return View(self.first, self.first + COLUMNS)

    def count(self, line: int) -> int:
        return 1000 + (line + self.row) * COUNTS_PER_LINE

    def region(self, roll: str, item: RegionPhase) -> Region:
        found = item.region
        return Region(
            self.name, roll, _id(found.key), item.phase, found.part,
            None if item.merged_into is None else _id(item.merged_into), found.first_row, found.last_row,
            found.first_column, found.last_column, found.area, 1.0, 1.0, (), found.coalesced,
            across_mm=(self.first + found.first_column, self.first + found.last_column + 1),
        )  # fmt: skip

    def stream(self, web: np.ndarray, roll: str = "A", max_rows: int = 1000) -> list[Message]:
        """What its worker tells of that web, as the engine labels it."""
        mask = web[self.row :, self.first : self.first + COLUMNS]
        lanes = ((0, COLUMNS),)
        limits = LabellerSettings(min_area=1, min_length=1, max_rows=max_rows, max_regions=1000, lanes=lanes)
        labeller = Labeller(COLUMNS, limits)
        told: list[Message] = [RollStart(self.name, roll, "r", 0, {})]
        for row in range(0, len(mask), self.band):
            piece = mask[row : row + self.band]
            told += [self.region(roll, item) for item in labeller.push(piece, np.ones(piece.shape, np.float32))]
            told.append(self.progress(labeller.decided_up_to, roll))
        told += [self.region(roll, item) for item in labeller.finish()]
        return [*told, RollEnd(self.name, roll, len(mask), len(mask), len(mask), 0)]

    def progress(self, up_to: int, roll: str = "A") -> Progress:
        return Progress(self.name, roll, up_to, 0, b"", up_to)


def _id(key: tuple[int, int]) -> str:
    return f"s0-l{key[0]}-c{key[1]}"


class Line:
    """Streams into a BorderGate, and what comes out into a ledger a camera, as in the publisher."""

    def __init__(self, cameras: Sequence[Camera], hold_s: float = 1e6, margin_mm: float = 1.0) -> None:
        views = {camera.name: camera.view for camera in cameras}
        self.gate = BorderGate(views, counts_per_mm=COUNTS_PER_LINE, margin_mm=margin_mm, hold_s=hold_s)
        self.ledgers = {camera.name: Ledger(camera.name, CameraState(epoch=1)) for camera in cameras}
        self.next = dict.fromkeys(views, 0)
        self.out: dict[str, list[Message]] = {name: [] for name in views}
        self.now_ns = 0
        for camera in cameras:
            self.gate.begin(camera.name, 1, 0)
            for roll in "AB":
                self.gate.place(camera.name, roll, camera.count)

    def tell(self, camera: str, message: Message) -> None:
        self.send(camera, message, self.next[camera])
        self.next[camera] += 1

    def send(self, camera: str, message: Message, sequence: int) -> None:
        self.take(
            self.gate.came(
                Told(b"worker", Stamp(camera, self.ledgers[camera].epoch, sequence, 0), message), self.now_ns
            )
        )

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.take(self.gate.turn(self.now_ns))

    def take(self, released: list[Told]) -> None:
        for told in released:
            ledger = self.ledgers[told.stamp.camera]
            verdict = ledger.judge(told.stamp, told.message)
            assert verdict in (Verdict.NEW, Verdict.SEEN)
            if verdict is Verdict.NEW:
                self.out[told.stamp.camera].append(told.message)
                if isinstance(told.message, Progress):
                    ledger.reach(Mark(told.stamp.epoch, told.stamp.sequence, told.message, 1, 2, "boot"))

    def survivors(self) -> list[Region]:
        """The last close of each region that was not merged."""
        last = {
            (message.camera, message.roll, message.id): message
            for told in self.out.values()
            for message in told
            if isinstance(message, Region) and message.phase == "close"
        }
        return [close for close in last.values() if close.merged_into is None]

    def closes(self) -> dict[str, str | None]:
        """camera/id of each close → what it was merged into."""
        return {
            f"{message.camera}/{message.id}": message.merged_into
            for told in self.out.values()
            for message in told
            if isinstance(message, Region) and message.phase == "close"
        }


def plain(messages: Sequence[Message]) -> list[Message]:
    """Without what the gate may change."""
    return [replace(one, merged_into=None) if isinstance(one, Region) else one for one in messages]


def interleaved(line: Line, streams: dict[str, list[Message]], draw: Callable[[Sequence[str]], str]) -> None:
    left = {name: list(stream) for name, stream in streams.items()}
    while left := {name: stream for name, stream in left.items() if stream}:
        name = draw(sorted(left))
        line.tell(name, left[name].pop(0))


# ------------------------------------------------------------------------------------------ random webs


@st.composite
def webs(draw: st.DrawFn, cameras: int) -> tuple[list[Camera], np.ndarray, int]:
    """Cameras in a row that share some columns, and slanted defects, no two within the margin of each other's box."""
    shared = draw(st.integers(1, 6))
    firsts = [i * (COLUMNS - shared) for i in range(cameras)]
    placed = [
        Camera(f"cam{i}", first, draw(st.integers(0, 5)), draw(st.integers(2, 9))) for i, first in enumerate(firsts)
    ]
    width = firsts[-1] + COLUMNS
    seed = draw(st.integers(0, 2**32))
    chance, web, boxes = random.Random(seed), np.zeros((ROWS, width), bool), []
    for _ in range(draw(st.integers(1, 30))):
        bars = _slanted(chance, width)
        box = (min(b[0] for b in bars), max(b[1] for b in bars), bars[0][2], bars[-1][3])
        if any(_near(box, other) for other in boxes):
            continue
        boxes.append(box)
        for top, bottom, left, right in bars:
            web[top:bottom, left:right] = True
    return placed, web, len(boxes)


def _slanted(chance: random.Random, width: int) -> list[Bar]:
    """Up to three bars from left to right, each touching the one before."""
    top, left = chance.randrange(9, ROWS - 45), chance.randrange(width - 2)
    bottom, bars = top, list[Bar]()
    for _ in range(chance.randint(1, 3)):
        above = top
        bottom, right = max(bottom, above) + chance.randint(1, 12), min(left + chance.randint(1, 14), width)
        bars.append((top, bottom, left, right))
        if right >= width - 1:
            break
        left, top, bottom = right, max(6, chance.randint(top - 3, bottom - 1)), above
    return bars


def _near(one: Bar, other: Bar, margin: int = 3) -> bool:
    return (
        one[0] < other[1] + margin and other[0] < one[1] + margin and one[2] < other[3] + margin
        and other[2] < one[3] + margin
    )  # fmt: skip


@few
@given(webs(2), st.randoms(use_true_random=False), st.sampled_from([1000, 7]))
def test_two_cameras_tell_each_defect_once_and_the_older_id_survives(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random, max_rows: int
) -> None:
    cameras, web, defects = made
    line = Line(cameras)
    streams = {camera.name: camera.stream(web, max_rows=max_rows) for camera in cameras}
    interleaved(line, streams, chance.choice)
    assert {name: plain(out) for name, out in line.out.items()} == {name: plain(s) for name, s in streams.items()}
    assert len(line.survivors()) == defects
    assert line.gate.held == 0
    assert line.gate.counters["border_told_apart"] == 0
    if max_rows > ROWS:  # a part may close before the rest of its region is known to be another's
        _older_survive(line, cameras)


def _older_survive(line: Line, cameras: Sequence[Camera]) -> None:
    by_name = {camera.name: camera for camera in cameras}
    first = {}
    for told in line.out.values():
        for region in told:
            if isinstance(region, Region):
                age = by_name[region.camera].count(region.first_line)
                key = f"{region.camera}/{region.id}"
                first[key] = min(first.get(key, (age, region.camera)), (age, region.camera))
    for name, into in line.closes().items():
        if into is not None and "/" in into:
            assert first[into] < first[name]


@few
@given(webs(3), st.randoms(use_true_random=False))
def test_chains_over_three_cameras_are_one_defect(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random
) -> None:
    cameras, web, defects = made
    line = Line(cameras)
    streams = {camera.name: camera.stream(web) for camera in cameras}
    interleaved(line, streams, chance.choice)
    assert {name: plain(out) for name, out in line.out.items()} == {name: plain(s) for name, s in streams.items()}
    assert len(line.survivors()) == defects
    into = line.closes()
    for merged in into:  # whatever is merged leads to a survivor
        name, seen = merged, {merged}
        while (target := into[name]) is not None:
            name = target if "/" in target else f"{name.split('/')[0]}/{target}"
            assert name not in seen
            seen.add(name)


@few
@given(webs(2), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.3]))
def test_two_cameras_tell_each_defect_once_even_where_none_waits_long(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random, hold_s: float
) -> None:
    cameras, web, defects = made
    line = Line(cameras, hold_s)

    def late(names: Sequence[str]) -> str:
        line.wait(chance.choice([0.0, 0.2, 1.0]))
        return chance.choice([names[0], names[0], names[-1]])

    interleaved(line, {camera.name: camera.stream(web) for camera in cameras}, late)
    line.wait(1)
    assert len(line.survivors()) == defects
    assert line.gate.held == 0


@few
@given(webs(3), st.randoms(use_true_random=False))
def test_without_waiting_three_cameras_count_what_they_told_apart(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random
) -> None:
    cameras, web, defects = made
    line = Line(cameras, hold_s=0)
    interleaved(line, {camera.name: camera.stream(web) for camera in cameras}, chance.choice)
    assert len(line.survivors()) == defects + line.gate.counters["border_told_apart"]


@few
@given(webs(2), st.randoms(use_true_random=False))
def test_what_is_sent_again_is_neither_lost_nor_doubled(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random
) -> None:
    cameras, web, _ = made
    line = Line(cameras)
    streams = {camera.name: camera.stream(web) for camera in cameras}
    while left := [name for name, stream in streams.items() if line.next[name] < len(stream)]:
        name = chance.choice(left)
        line.tell(name, streams[name][line.next[name]])
        again = chance.choice(sorted(streams))
        for sequence in range(max(line.next[again] - chance.randint(0, 5), 0), line.next[again]):
            line.send(again, streams[again][sequence], sequence)
    assert {name: plain(out) for name, out in line.out.items()} == {name: plain(s) for name, s in streams.items()}


@few
@given(webs(2), st.randoms(use_true_random=False))
def test_a_worker_that_takes_over_tells_anew_what_waited(
    made: tuple[list[Camera], np.ndarray, int], chance: random.Random
) -> None:
    cameras, web, defects = made
    line = Line(cameras)
    streams = {camera.name: camera.stream(web) for camera in cameras}
    at = dict.fromkeys(streams, 0)
    takeovers = 0
    while left := [name for name, stream in streams.items() if at[name] < len(stream)]:
        name = chance.choice(left)
        line.tell(name, streams[name][at[name]])
        at[name] += 1
        if takeovers < 3 and chance.random() < 0.1:
            takeovers += 1
            ledger = line.ledgers[name]
            assert ledger.take_over(ledger.epoch + 1)
            line.gate.begin(name, ledger.epoch, 0)
            line.next[name] = 0
            at[name] = 0 if ledger.mark is None else streams[name].index(ledger.mark.progress) + 1
    for name, stream in streams.items():
        assert plain(line.out[name]) == plain(stream)
    assert line.gate.held == 0
    assert defects == len(line.survivors())


# ------------------------------------------------------------------------------------------ by hand

LEFT, RIGHT = Camera("left", 0, 0, 10), Camera("right", 16, 0, 10)  # columns 16…19 of the web are seen by both


def region(
    camera: Camera, rows: tuple[int, int], columns: tuple[int, int], phase: str = "close", **more: object
) -> Region:
    """Rows and columns of the web, inclusive; its id is its place."""
    first, last = rows[0] - camera.row, rows[1] - camera.row
    low, high = columns[0] - camera.first, columns[1] - camera.first
    made = Region(
        camera.name, "A", f"s0-l{first}-c{low}", "open", 0, None, first, last, low, high, 9, 1.0, 1.0, (),
        across_mm=(columns[0], columns[1] + 1),
    )  # fmt: skip
    return replace(made, phase=phase, **more)  # type: ignore[arg-type]


def started(line: Line, *cameras: Camera) -> Line:
    for camera in cameras:
        line.tell(camera.name, RollStart(camera.name, "A", "r", 0, {}))
    return line


def test_one_camera_costs_nothing() -> None:
    gate = BorderGate({"left": LEFT.view}, counts_per_mm=1, margin_mm=1, hold_s=1)
    for number, message in enumerate([region(LEFT, (1, 5), (15, 19)), LEFT.progress(9)]):
        told = Told(b"w", Stamp("left", 7, number, 0), message)
        assert gate.came(told, 0)[0] is told
    assert gate.kept == gate.held == 0


def test_cameras_that_do_not_see_the_same_are_not_held() -> None:
    far = Camera("far", 40, 0, 10)
    line = started(Line([LEFT, far]), LEFT, far)
    line.tell("left", region(LEFT, (1, 5), (15, 19)))
    assert line.gate.held == line.gate.kept == 0


def test_a_close_at_the_border_waits_with_all_behind_it_for_the_neighbours_progress() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    inner, border = region(LEFT, (3, 5), (2, 9)), region(LEFT, (3, 5), (12, 17))
    line.tell("left", inner)
    line.tell("left", border)
    line.tell("left", LEFT.progress(10))
    assert line.out["left"][1:] == [inner]
    line.tell("right", RIGHT.progress(6))  # a region that begins in row 6 is within the margin
    assert line.gate.held == 2
    line.tell("right", RIGHT.progress(8))
    assert line.out["left"][1:] == [inner, border, LEFT.progress(10)]


@pytest.mark.parametrize("first", ["left", "right"])
def test_the_younger_closes_into_the_older_whichever_closes_first(first: str) -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    older, younger = region(LEFT, (3, 9), (12, 17)), region(RIGHT, (5, 6), (18, 30))
    told = {"left": [older, LEFT.progress(20)], "right": [younger, RIGHT.progress(20)]}
    second = "right" if first == "left" else "left"
    for camera in (first, second):
        for message in told[camera]:
            line.tell(camera, message)
    assert line.closes() == {f"left/{older.id}": None, f"right/{younger.id}": f"left/{older.id}"}
    assert line.gate.counters == {"border_merged": 1}


def test_of_two_that_begin_together_the_first_cameras_is_the_older() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    for camera in (RIGHT, LEFT):
        line.tell(camera.name, region(camera, (3, 9), (16, 19)))
        line.tell(camera.name, camera.progress(20))
    assert line.closes() == {"left/s0-l3-c16": None, "right/s0-l3-c0": "left/s0-l3-c16"}


def test_cameras_held_for_each_other_go_on_with_what_each_told_behind_it() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    for camera in (LEFT, RIGHT):
        line.tell(camera.name, region(camera, (3, 9), (16, 19)))
    assert line.gate.held == 2
    line.tell("left", LEFT.progress(20))
    assert line.gate.held == 2
    line.tell("right", RIGHT.progress(20))
    assert line.gate.held == 0
    assert len(line.survivors()) == 1


def test_where_lines_lie_is_by_counts_and_not_by_their_numbers() -> None:
    ahead = Camera("right", 16, 40, 10)
    line = started(Line([LEFT, ahead]), LEFT, ahead)
    line.tell("left", region(LEFT, (50, 55), (16, 19)))
    line.tell("right", region(ahead, (50, 55), (16, 19)))
    line.tell("right", ahead.progress(12))
    assert line.gate.held == 3
    line.tell("right", ahead.progress(20))  # row 60 of the web
    assert "left/s0-l50-c16" in line.closes()
    line.tell("left", LEFT.progress(60))
    assert line.closes()["right/s0-l10-c0"] == "left/s0-l50-c16"


@pytest.mark.parametrize("apart", [1, 2])
def test_boxes_within_the_margin_are_one(apart: int) -> None:
    beside = Camera("right", 20, 0, 10)  # columns 0…19 and 20…39: nothing is seen twice
    line = started(Line([LEFT, beside]), LEFT, beside)
    line.tell("left", region(LEFT, (3, 9), (12, 19)))
    line.tell("right", region(beside, (9 + apart + 1, 20), (20, 22)))
    for camera in (LEFT, beside):
        line.tell(camera.name, camera.progress(40))
    assert len(line.survivors()) == apart


def test_a_gap_or_the_end_of_the_roll_is_as_good_as_progress() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    line.tell("right", RIGHT.progress(4))
    line.tell("left", region(LEFT, (3, 9), (12, 19)))
    assert line.gate.held == 1
    line.tell("right", Gap("right", "A", 4, 30, "camera-lost"))
    assert line.gate.held == 0
    line.tell("left", region(LEFT, (33, 39), (12, 19)))
    assert line.gate.held == 1
    line.tell("right", RollEnd("right", "A", 31, 31, 4, 27))
    assert line.gate.held == 0
    assert not line.gate.counters


def test_a_neighbour_in_the_next_roll_is_not_waited_for() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    line.tell("left", region(LEFT, (3, 9), (12, 19)))
    assert line.gate.held == 1
    line.tell("right", RollStart("right", "B", "r", 0, {}))
    assert line.gate.held == 0
    assert not line.gate.counters


def test_rolls_are_not_mixed() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    line.tell("left", region(LEFT, (3, 9), (16, 19)))
    line.tell("left", RollEnd("left", "A", 20, 20, 20, 0))
    line.tell("right", RollEnd("right", "A", 2, 2, 2, 0))
    line.tell("right", RollStart("right", "B", "r", 0, {}))
    line.tell("right", replace(region(RIGHT, (3, 9), (16, 19)), roll="B"))
    line.tell("left", RollStart("left", "B", "r", 0, {}))
    line.tell("left", LEFT.progress(30, "B"))
    assert len(line.survivors()) == 2


def test_a_dead_neighbour_holds_up_once_and_no_longer_than_stated() -> None:
    line = started(Line([LEFT, RIGHT], hold_s=0.5), LEFT, RIGHT)
    line.tell("left", region(LEFT, (3, 9), (12, 19)))
    line.wait(0.25)
    line.tell("left", LEFT.progress(12))
    line.wait(0.2)
    assert line.gate.held == 2
    line.wait(0.06)
    assert line.gate.held == 0
    line.tell("left", region(LEFT, (23, 29), (12, 19)))
    assert line.gate.held == 0
    assert line.gate.counters == {"border_unmatched": 2}
    line.tell("right", RIGHT.progress(1))  # it lives
    line.tell("left", region(LEFT, (33, 39), (12, 19)))
    assert line.gate.held == 1


def test_what_a_late_neighbour_tells_is_merged_into_what_was_told() -> None:
    line = started(Line([LEFT, RIGHT], hold_s=0.5), LEFT, RIGHT)
    line.tell("left", region(LEFT, (5, 9), (12, 19)))
    line.wait(0.6)
    line.tell("left", LEFT.progress(30))
    line.tell("right", region(RIGHT, (3, 9), (16, 22)))  # the older
    line.tell("right", RIGHT.progress(30))
    assert line.closes() == {"left/s0-l5-c12": None, "right/s0-l3-c0": "left/s0-l5-c12"}


def test_the_parts_of_a_region_all_go_into_the_older() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    line.tell("left", region(LEFT, (3, 60), (12, 19), "open"))
    part = region(RIGHT, (5, 20), (16, 22))
    line.tell("right", part)
    for phase, last in (("open", 30), ("close", 40)):
        line.tell("right", replace(part, phase=phase, part=1, first_line=21, last_line=last))
    line.tell("right", RIGHT.progress(70))
    line.tell("left", LEFT.progress(70))
    closes = [one for one in line.out["right"] if isinstance(one, Region) and one.phase == "close"]
    assert [one.merged_into for one in closes] == ["left/s0-l3-c12"] * 2


def test_what_a_camera_merged_itself_stays_so_and_carries_its_neighbours_along() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    inner, border = region(LEFT, (2, 12), (2, 5), "open"), region(LEFT, (4, 12), (14, 19), "open")
    seen = region(RIGHT, (5, 8), (16, 22))
    for message in (inner, border, LEFT.progress(13)):
        line.tell("left", message)
    line.tell("right", seen)
    line.tell("left", replace(border, phase="close", merged_into=inner.id))
    joined = replace(inner, phase="close", last_line=15, last_column=19, across_mm=(2, 20))
    line.tell("left", joined)
    for camera in (LEFT, RIGHT):
        line.tell(camera.name, camera.progress(30))
    assert line.closes() == {
        f"left/{border.id}": inner.id,
        f"left/{inner.id}": None,
        f"right/{seen.id}": f"left/{border.id}",  # which goes on as the older
    }


def test_two_regions_of_a_camera_that_its_neighbour_sees_as_one_are_one() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    bar, upper, lower = (
        region(RIGHT, (5, 60), (18, 30), "open"), region(LEFT, (4, 8), (10, 19)), region(LEFT, (40, 44), (10, 19)),
    )  # fmt: skip
    line.tell("right", bar)
    for arm, up_to in ((upper, 12), (lower, 70)):
        line.tell("left", arm)
        line.tell("left", LEFT.progress(up_to))
        line.tell("right", RIGHT.progress(up_to))
    line.tell("right", replace(bar, phase="close"))
    assert line.closes() == {
        f"left/{upper.id}": None, f"left/{lower.id}": upper.id, f"right/{bar.id}": f"left/{upper.id}",
    }  # fmt: skip


def test_arms_that_closed_before_they_join_elsewhere_are_counted() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    arms = [region(RIGHT, (5, 30), columns, "open") for columns in ((16, 19), (32, 35))]
    third = Camera("third", 32, 0, 10)
    line = started(Line([LEFT, RIGHT, third]), LEFT, RIGHT, third)
    for arm in arms:
        line.tell("right", arm)
    line.tell("right", RIGHT.progress(31))
    line.tell("left", region(LEFT, (4, 9), (12, 19)))
    line.tell("third", region(third, (4, 9), (32, 45)))
    assert len(line.survivors()) == 2
    line.tell("right", replace(arms[1], phase="close", merged_into=arms[0].id))
    assert line.gate.counters["border_told_apart"] == 1


def test_where_a_region_grew_to_the_border_later_its_earlier_lines_touch_nothing_there() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    line.tell("right", region(RIGHT, (5, 6), (16, 22)))
    scratch = region(LEFT, (1, 9), (2, 5), "open")
    for message in (scratch, region(LEFT, (0, 1), (14, 19)), LEFT.progress(10)):
        line.tell("left", message)
    assert line.gate.held == 2  # the progress too, so that nothing is forgotten yet
    wider = replace(scratch, last_line=29, last_column=19, across_mm=(2, 20))
    for message in (replace(wider, phase="update"), LEFT.progress(30), replace(wider, phase="close")):
        line.tell("left", message)
    for camera in (LEFT, RIGHT):
        line.tell(camera.name, camera.progress(60))
    assert len(line.survivors()) == 3


def test_what_a_worker_told_that_is_gone_is_waited_for_again() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    behind = region(RIGHT, (3, 9), (16, 19)), RIGHT.progress(40)
    for message in behind:
        line.tell("right", message)
    line.gate.begin("right", 2, 0)
    assert line.ledgers["right"].take_over(2)
    line.next["right"] = 0
    line.tell("left", region(LEFT, (3, 9), (12, 19)))
    assert line.gate.held == 1
    for message in behind:
        line.tell("right", message)
    assert line.out["left"][1:] == [region(LEFT, (3, 9), (12, 19))]


def test_a_flood_does_not_shut_out_the_progress_behind_it() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    for row in range(0, 5 * (border_gate.HELD + 50), 5):
        line.tell("left", region(LEFT, (row, row + 1), (12, 19)))
    assert line.gate.held == border_gate.HELD
    assert line.gate.counters["border_unmatched"] == 50


def test_memory_does_not_grow_with_the_roll() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    kept = []
    edge = region(LEFT, (1, 5), (18, 19), "open")  # damage that runs along the whole roll
    for row in range(0, 20_000, 20):
        line.tell("left", replace(edge, phase="open" if row == 0 else "update", last_line=row + 19))
        for camera in (RIGHT, LEFT):
            found = region(camera, (row + 2, row + 5), (16, 19))
            line.tell(camera.name, found)
            line.tell(camera.name, camera.progress(row + 20))
        kept.append(line.gate.kept)
    assert max(kept[10:]) <= max(kept[:10])
    assert line.gate.held == 0


def test_a_neighbour_that_stands_still_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SLICES", 50)
    line = started(Line([LEFT, RIGHT], hold_s=0.5), LEFT, RIGHT)
    line.tell("right", RIGHT.progress(1))
    for row in range(0, 4000, 20):
        line.tell("left", region(LEFT, (row + 2, row + 5), (16, 19)))
        line.tell("left", LEFT.progress(row + 20))
        line.wait(1)
    assert line.gate.held == 0
    assert line.gate.kept <= 50 + 2


def test_old_rolls_are_forgotten() -> None:
    line = started(Line([LEFT, RIGHT]), LEFT, RIGHT)
    kept = []
    for number in range(20):
        for camera in (LEFT, RIGHT):
            line.gate.place(camera.name, f"roll{number}", camera.count)
            for told in camera.stream(np.ones((40, 40), bool), f"roll{number}"):
                line.tell(camera.name, told)
        kept.append(line.gate.kept)
    assert kept[-1] == kept[5]
    assert line.gate.held == 0


def test_a_camera_whose_counts_are_not_known_is_neither_merged_nor_waited_for() -> None:
    gate = BorderGate({one.name: one.view for one in (LEFT, RIGHT)}, counts_per_mm=1, margin_mm=1, hold_s=math.inf)
    gate.place("left", "A", LEFT.count)
    told = [
        (LEFT, RollStart("left", "A", "r", 0, {})), (RIGHT, RollStart("right", "A", "r", 0, {})),
        (RIGHT, region(RIGHT, (3, 9), (16, 19))), (LEFT, region(LEFT, (3, 9), (16, 19))),
    ]  # fmt: skip
    for number, (camera, message) in enumerate(told):
        gate.begin(camera.name, 1, number)
        one = Told(b"w", Stamp(camera.name, 1, number, 0), message)
        assert gate.came(one, 0) == [one]
