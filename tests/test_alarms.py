"""Alarm on too many rejects: once an episode, and not for one defect that is long."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.alarms import Alarm, RejectAlarm

few = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def test_so_many_within_the_stretch_are_an_alarm_and_one_less_is_none() -> None:
    alarm = RejectAlarm(3, 1000)
    told = [alarm.rejects("A", first, first + 10) for first in (0, 1000, 1500, 1999, 2000)]
    assert told == [None, None, None, Alarm("A", 3, 1000, 1999), None]


def test_lanes_are_counted_apart() -> None:
    alarm = RejectAlarm(2, 1000)
    assert alarm.rejects("A", 0, 10) is None
    assert alarm.rejects("B", 100, 110) is None
    assert alarm.rejects("B", 200, 210) == Alarm("B", 2, 100, 200)


def test_a_defect_that_grows_over_many_windows_is_one() -> None:
    alarm = RejectAlarm(2, 1000)
    for first in range(0, 5000, 100):
        assert alarm.rejects("A", first, first + 100) is None
    assert alarm.rejects("A", 5200, 5210) is None  # the other began long ago
    assert alarm.rejects("A", 5400, 5410) is not None


def test_told_once_an_episode_and_again_after_it_is_over() -> None:
    alarm = RejectAlarm(4, 1000)
    dense = [alarm.rejects("A", first, first + 10) for first in range(0, 10_000, 100)]
    assert [bool(one) for one in dense].count(True) == 1
    # two within the stretch are not less than half of four: the episode goes on
    thin = [alarm.rejects("A", first, first + 10) for first in range(10_000, 15_000, 400)]
    again = [alarm.rejects("A", first, first + 10) for first in range(15_000, 16_000, 100)]
    assert thin + again == [None] * len(thin + again)
    lone = [alarm.rejects("A", first, first + 10) for first in range(16_000, 20_000, 900)]
    assert lone == [None] * len(lone)
    assert [bool(alarm.rejects("A", first, first + 10)) for first in range(20_500, 21_000, 100)].count(True) == 1


def test_one_reject_may_be_an_alarm() -> None:
    alarm = RejectAlarm(1, 1000)
    assert [bool(alarm.rejects("A", first, first + 10)) for first in (0, 500, 1400, 2500)] == [True, False, False, True]


def test_what_comes_late_counts_where_it_lies() -> None:
    alarm = RejectAlarm(3, 1000)
    assert alarm.rejects("A", 5000, 5010) is None
    assert alarm.rejects("A", 3000, 3010) is None  # whole stretches behind
    assert alarm.rejects("A", 4500, 4510) is None
    assert alarm.rejects("A", 4700, 4710) == Alarm("A", 3, 4500, 5000)


@few
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(50, 1000),
)
def test_an_alarm_is_never_missed_nor_told_without_reason(
    steps: list[tuple[int, int]], least: int, within: int
) -> None:
    alarm, windows, first, alarmed = RejectAlarm(least, within), list[list[int]](), 0, False
    for step, length in steps:
        first += step
        before = sum(first - within < one[0] for one in windows)
        if windows and windows[-1][1] >= first:
            windows[-1][1] = max(windows[-1][1], first + length)
        else:
            windows.append([first, first + length])
        now = sum(first - within < one[0] for one in windows)
        alarmed = alarmed and 2 * before >= least
        told = alarm.rejects("A", first, first + length)
        assert (told is not None) == (now >= least and not alarmed)
        if told is not None:
            assert told.rejects == now
        alarmed = alarmed or now >= least
