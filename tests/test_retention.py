"""Retention: what acquire keeps, what it lets go of, and what becomes a gap when there is no more room."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.messages import Credit, Frame, Gap, RollEnd, RollStart, StreamEnd
from linescan.stages.retention import MOST_GAPS, Item, Retention

WIDTH = 10


def frame(first: int, lines: int = 10, roll: str = "A", needed_ns: int = 0) -> Item:
    message = Frame("c", 0, roll, first, lines, WIDTH, "Mono8", None, 0, 0)
    return Item(message, bytes(lines * WIDTH), needed_ns or first + lines)


def gap(first: int, last: int, roll: str = "A") -> Item:
    return Item(Gap("c", roll, first, last, "incomplete"))


def start(roll: str = "A") -> Item:
    return Item(RollStart("c", roll, "", 0, {}))


def end(lines: int, roll: str = "A") -> Item:
    return Item(RollEnd("c", roll, lines, 0, 0, 0))


def journaled(up_to: int, resume_from: int | None = None, roll: str = "A", ended: bool = False) -> Credit:
    return Credit("c", 1, 0, roll, up_to, up_to if resume_from is None else resume_from, ended)


def kept(*items: Item, budget: int = 10**6) -> Retention:
    retention = Retention(budget)
    for item in items:
        retention.append(item)
    return retention


def told(retention: Retention) -> list[tuple[str, int, int]]:
    """(kind or roll's end, first line, last line) of what is kept."""
    found = []
    for item in retention:
        message = item.message
        if isinstance(message, Frame):
            found.append(("frame", message.first_line, message.first_line + message.lines - 1))
        elif isinstance(message, Gap):
            found.append((message.cause, message.first_line, message.last_line))
        else:
            found.append((type(message).__name__, 0, 0))
    return found


def test_places_count_on() -> None:
    retention = kept(start(), frame(0), frame(10))
    assert (retention.first, retention.end, retention.size) == (0, 3, 200)
    retention.free(journaled(10))
    assert (retention.first, retention.end, retention.size) == (2, 3, 100)
    assert retention[2].message == frame(10).message
    assert not retention.full


def test_a_frame_goes_when_nobody_can_need_it() -> None:
    retention = kept(start(), frame(0), frame(10), frame(20))
    retention.free(journaled(30, 19))
    assert told(retention) == [("frame", 10, 19), ("frame", 20, 29)]
    retention.free(journaled(30, 20))
    assert told(retention) == [("frame", 20, 29)]


def test_a_gap_goes_when_it_was_announced() -> None:
    retention = kept(gap(0, 9), frame(10))
    retention.free(journaled(9))
    assert retention.end - retention.first == 2
    retention.free(journaled(10))
    assert told(retention) == [("frame", 10, 19)]


def test_progress_of_a_roll_lets_go_of_those_before_it_and_of_none_after() -> None:
    retention = kept(start(), frame(0), end(10), start("B"), frame(0, roll="B"), end(10, "B"), start("C"))
    retention.free(journaled(0, roll="C-not-here"))
    retention.free(journaled(0, roll=""))
    assert retention.first == 0
    retention.free(journaled(0, roll="B"))
    assert told(retention) == [("frame", 0, 9), ("RollEnd", 0, 0), ("RollStart", 0, 0)]
    retention.free(journaled(10, roll="B"))
    assert told(retention) == [("RollEnd", 0, 0), ("RollStart", 0, 0)]
    retention.free(journaled(10, roll="B", ended=True))
    assert told(retention) == [("RollStart", 0, 0)]
    retention.free(journaled(10, roll="B", ended=True))
    assert told(retention) == [("RollStart", 0, 0)]
    retention.free(journaled(0, roll="C"))
    assert retention.end == retention.first == 7
    retention.free(journaled(0, roll="C"))


def test_the_streams_end_stays_until_the_next_roll() -> None:
    retention = kept(frame(0), Item(StreamEnd("c", "A")))
    retention.free(journaled(10))
    assert told(retention) == [("StreamEnd", 0, 0)]


def test_a_full_store_gives_up_the_oldest_frames_down_to_three_quarters() -> None:
    retention = kept(start(), *(frame(10 * n) for n in range(9)), budget=800)
    assert retention.full
    retention.spill(None)
    assert retention.size == 600
    assert told(retention)[:3] == [("RollStart", 0, 0), ("worker-lost", 0, 29), ("frame", 30, 39)]
    assert retention.lines_dropped == 30
    assert retention.first == 10  # its places name nothing that was there before
    gap_item = retention[11]
    assert gap_item.needed_ns == 30  # when the last of its lines had come


def test_lines_that_are_inspected_are_in_no_gap() -> None:
    retention = kept(*(frame(10 * n) for n in range(9)), budget=800)
    retention.spill(journaled(17, 3))
    assert told(retention)[:2] == [("worker-lost", 17, 29), ("frame", 30, 39)]
    assert retention.lines_dropped == 13


def test_gaps_merge_where_they_touch_and_only_there() -> None:
    retention = kept(*(frame(10 * n) for n in range(9)), budget=800)
    retention.spill(None)
    for n in range(9, 12):
        retention.append(frame(10 * n))
    retention.spill(None)
    assert told(retention)[0] == ("worker-lost", 0, 59)
    # where what is between was inspected, although the gap before is still kept
    apart = kept(Item(Gap("c", "A", 0, 9, "worker-lost")), *(frame(10 * n) for n in range(1, 10)), budget=800)
    apart.spill(journaled(25))
    assert told(apart)[:2] == [("worker-lost", 0, 9), ("worker-lost", 25, 39)]


def test_gaps_of_other_causes_and_other_rolls_stay_apart() -> None:
    items = [frame(0), gap(10, 14), frame(15), end(25), start("B"), frame(0, roll="B"), *(frame(10 * n, roll="B")
             for n in range(1, 7))]  # fmt: skip
    retention = kept(*items, budget=700)
    retention.spill(journaled(5))
    assert told(retention)[:6] == [
        ("worker-lost", 5, 9),
        ("incomplete", 10, 14),
        ("worker-lost", 15, 24),
        ("RollEnd", 0, 0),
        ("RollStart", 0, 0),
        ("worker-lost", 0, 19),
    ]
    assert [item.message.roll for item in retention][-1] == "B"


def test_a_camera_with_faults_and_no_worker_for_days_leaves_few_items() -> None:
    retention = kept(start(), budget=1000)
    for line in range(0, 100_000, 20):
        retention.append(frame(line, 10))
        retention.append(gap(line + 10, line + 19))
        if retention.full:
            retention.spill(None)
    found = told(retention)
    assert len(found) < MOST_GAPS + 30
    assert [first for _, first, _ in found[2:]] == [last + 1 for _, _, last in found[1:-1]]  # every line, and once
    assert (found[1][1], found[-1][2]) == (0, 99_999)
    assert retention.lines_dropped == 50_000 - sum(last + 1 - first for kind, first, last in found if kind == "frame")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=40),
)
def test_every_line_is_journaled_kept_or_in_one_gap(steps: list[tuple[int, bool, int, int]]) -> None:
    retention = Retention(1000)
    line, reached = 0, journaled(0)
    for lines, is_gap, forward, back in steps:
        retention.append(gap(line, line + lines - 1) if is_gap else frame(line, lines))
        line += lines
        if retention.full:
            retention.spill(reached)
        assert retention.size <= 1000
        assert retention.size == sum(item.size for item in retention)
        if forward > 20:
            up_to = min(max(reached.inspected_up_to, reached.inspected_up_to + forward), line)
            reached = replace(
                reached, inspected_up_to=up_to, resume_from=max(min(up_to, up_to - back), reached.resume_from)
            )
            retention.free(reached)
        at = reached.inspected_up_to
        for _, first, last in told(retention):
            if last < at:
                continue
            assert first <= at, "a line is neither kept nor in a gap"
            at = last + 1
        assert at == line
