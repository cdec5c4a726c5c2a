"""Repeating defects: found among others and with some missing, the fundamental and once; at random hardly ever."""

from __future__ import annotations

import random

import pytest

from linescan.repeats import KEPT, Repeat, Repeats

Mark = tuple[float, float]  # mm along, mm across


def train(
    chance: random.Random, period: float, turns: int, *, missing: float = 0.0, across: float = 300.0
) -> list[Mark]:
    """Marks from 5 m on, scattered by 1 mm each way."""
    marks = [(5000 + turn * period + chance.gauss(0, 1), across + chance.gauss(0, 1)) for turn in range(turns)]
    return [mark for mark in marks if chance.random() >= missing]


def at_random(chance: random.Random, per_metre: float, end: float, width: float = 100.0) -> list[Mark]:
    """Over `width` mm around 300 mm, so many per metre of each strip of 10 mm."""
    marks, along = list[Mark](), 0.0
    while (along := along + chance.expovariate(per_metre * width / 10 / 1000)) < end:
        marks.append((along, 300 + chance.uniform(-width / 2, width / 2)))
    return marks


def told(marks: list[Mark], repeats: Repeats | None = None) -> list[Repeat]:
    repeats = repeats or Repeats(200, 2000)
    found = [repeats.add(*mark) for mark in sorted(marks)]
    return [one for one in found if one is not None]


def test_a_clean_train_is_told_at_its_fourth_mark_and_again_when_it_has_doubled() -> None:
    found = told([(5000 + 628.0 * turn, 300.0) for turn in range(20)] + [(0.0, 0.0)])
    assert [(one.count, one.again) for one in found] == [(4, False), (8, True), (16, True)]
    for one in found:
        assert one.period_mm == pytest.approx(628)
        assert (one.first_mm, one.across_mm) == (5000, 300)
        assert one.last_mm == 5000 + 628 * (one.count - 1)


@pytest.mark.parametrize("period", [220.0, 628.0, 1900.0])
@pytest.mark.parametrize(("per_metre", "missing"), [(0.0, 0.0), (0.0, 0.2), (1.0, 0.0), (1.0, 0.2), (2.0, 0.0)])
def test_the_fundamental_is_found_among_others_and_with_some_missing(
    period: float, per_metre: float, missing: float
) -> None:
    right, wrong = 0, 0
    for seed in range(20):
        chance = random.Random(seed)
        marks = train(chance, period, 40, missing=missing)
        if per_metre:
            marks += at_random(chance, per_metre, 5000 + 40 * period)
        new = [one for one in told(marks) if not one.again]
        fits = [abs(one.period_mm - period) < 5 and abs(one.across_mm - 300) < 8 for one in new]
        right += any(fits) and new[fits.index(True)].last_mm < 5000 + 16 * period
        wrong += len(new) - any(fits)
    assert right >= 18
    assert wrong <= 3


@pytest.mark.parametrize("per_metre", [0.1, 0.3, 1.0, 5.0])
def test_defects_at_random_bring_less_than_one_false_train_in_ten_thousand(per_metre: float) -> None:
    chance, repeats = random.Random(3), Repeats(200, 2000)
    marks = at_random(chance, per_metre, 20_000 / per_metre / 10 * 1000)
    assert 19_000 < len(marks) < 21_000
    assert len([one for one in told(marks, repeats) if not one.again]) <= 1


def test_a_train_that_ended_and_begins_again_is_told_again_as_new() -> None:
    marks = [(5000 + 500.0 * turn, 300.0) for turn in [*range(6), *range(30, 36)]]
    assert [one.again for one in told([(0.0, 0.0), *marks])] == [False, False]


def test_trains_beside_each_other_and_two_marks_of_one_roller_are_told_apart() -> None:
    chance = random.Random(1)
    marks = train(chance, 500, 12) + train(chance, 700, 12, across=340)
    marks += [(along + 180, across) for along, across in train(chance, 500, 12)]
    new = [one for one in told(marks) if not one.again]
    assert sorted((round(one.period_mm, -1), round(one.across_mm, -1)) for one in new) == [
        (500, 300), (500, 300), (700, 340),
    ]  # fmt: skip


@pytest.mark.parametrize("period", [150.0, 2500.0])
def test_periods_out_of_the_range_are_not_told_as_such(period: float) -> None:
    found = told(train(random.Random(0), period, 30))
    assert all(abs(one.period_mm - 2 * period) < 5 for one in found)
    assert bool(found) == (period < 200)


def test_a_mark_in_two_pieces_is_one() -> None:
    marks = [(5000 + 628.0 * turn + piece, 300.0) for turn in range(7) for piece in (0.0, 4.0)]
    assert [(one.count, one.again) for one in told([(0.0, 0.0), *marks])] == [(4, False)]
    assert len([one for one in told(marks) if not one.again]) == 1


def test_memory_is_bounded_by_the_webs_width() -> None:
    chance, repeats, kept = random.Random(0), Repeats(200, 2000), []
    for mark in at_random(chance, 10.0, 100_000):
        repeats.add(*mark)
        kept.append(repeats.kept)
    assert max(kept) <= (100 / 5 + 1) * KEPT
