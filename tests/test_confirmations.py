"""Gates that open, gates that do not, and gates that open unasked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from linescan.stages.confirmations import Confirmations, Disagreement

TOLERANCE = 10


class Plant:
    """A gate with a sensor, watched now and then."""

    def __init__(self) -> None:
        self.judge = Confirmations(1, TOLERANCE)
        self.openings, self.opened_at = 7, 0
        self.found: list[Disagreement] = []

    def look(self, position: int, opened_at: int | None = None, times: int = 1) -> None:
        if opened_at is not None:
            self.openings, self.opened_at = self.openings + times, opened_at
        self.found += self.judge.heard(position, (self.openings,), (self.opened_at,))


def test_a_gate_that_opens_for_its_window_is_fine() -> None:
    plant = Plant()
    plant.look(0)
    plant.judge.ordered(0, 100, 200)
    plant.look(150, opened_at=95)
    plant.look(500)
    assert plant.found == []


def test_a_gate_that_stays_shut_is_told_once() -> None:
    plant = Plant()
    plant.look(0)
    plant.judge.ordered(0, 100, 200)
    for position in range(0, 500, 50):
        plant.look(position)
    assert plant.found == [Disagreement("gate-unconfirmed", 0, 100)]


def test_a_gate_that_opens_unasked() -> None:
    plant = Plant()
    plant.look(0)
    plant.judge.ordered(0, 100, 200)
    plant.look(50, opened_at=40)
    plant.look(150, opened_at=100)
    plant.look(300, opened_at=290)
    assert plant.found == [Disagreement("gate-unasked", 0, 40), Disagreement("gate-unasked", 0, 290)]


def test_where_the_gate_was_held_open_nothing_is_judged() -> None:
    plant = Plant()
    plant.look(0)
    plant.judge.ordered(0, 100, 200)
    for position in (80, 85, 95):
        plant.judge.held(0, position)
    plant.look(150, opened_at=78)  # before the window, for want of a limit; it does not open again
    plant.look(500)
    assert plant.found == []


def test_a_slow_look_counts_the_openings_between() -> None:
    plant = Plant()
    plant.look(0)
    for first in (100, 200, 300):
        plant.judge.ordered(0, first, first + 20)
    plant.look(400, opened_at=300, times=2)  # which of the first two it was cannot be known
    assert [one.kind for one in plant.found] == ["gate-unconfirmed"]


def test_a_gate_may_open_for_a_window_without_being_expected_to() -> None:
    plant = Plant()
    plant.look(0)
    for first in (100, 300):
        plant.judge.ordered(0, first, first + 50, expected=False)
    plant.look(120, opened_at=100)
    plant.look(500)
    assert plant.found == []


def test_the_first_look_judges_nothing() -> None:
    plant = Plant()
    plant.judge.ordered(0, 100, 200)
    plant.look(500)
    assert plant.found == []


@given(
    st.lists(st.tuples(st.integers(2 * TOLERANCE + 1, 300), st.integers(1, 200)), max_size=20),
    st.sets(st.integers(0, 19)),
    st.integers(1, 2 * TOLERANCE),
)
def test_exactly_the_windows_without_an_opening_are_told(
    gaps_and_lengths: list[tuple[int, int]], shut: set[int], step: int
) -> None:
    plant = Plant()
    plant.look(0)
    windows: list[tuple[int, int]] = []
    end = 0
    for gap, length in gaps_and_lengths:
        windows.append((end + gap, end + gap + length))
        end = windows[-1][1]
    for first, last in windows:
        half = (first + last) // 2
        plant.judge.ordered(0, half, last)  # in two pieces, the later one first
        plant.judge.ordered(0, first, half)
    opened = [first for number, (first, _) in enumerate(windows) if number not in shut]
    for position in range(0, end + step + 2 * TOLERANCE, step):
        due = [first for first in opened if first <= position]
        opened = opened[len(due) :]
        for first in due:
            plant.look(first, opened_at=first)
        plant.look(position)
    never = [windows[number][0] for number in sorted(shut) if number < len(windows)]
    assert plant.found == [Disagreement("gate-unconfirmed", 0, first) for first in never]
