"""Repeating defects: a damaged roller leaves its mark once a turn, at the same place across the web.

A train is looked for backward from each new defect: others at its place across, one period apart from each other. How
many it takes depends on how dense the defects around it are: it is told where defects at random would show one like it
less often than `CHANCE` (an a-contrario test: Desolneux, Moisan and Morel, 2000).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

CHANCE = 3e-5  # of a train by chance, for each new defect; measured in tests/test_repeats.py
SLOTS = 16  # periods that are looked back
GONE = 8  # periods without a mark after which a train is over
DENSE = 0.25  # chance of a defect in a slot beyond which nothing can be told
KEPT = 64  # newest defects of a strip as wide as the tolerance across


@dataclass(frozen=True)
class Repeat:
    """`count` defects from first_mm to last_mm along the web, one every `period_mm` with few missing, at `across_mm`.

    `again` marks one that was told before, and has twice as many since.
    """

    period_mm: float
    across_mm: float
    count: int
    first_mm: float
    last_mm: float
    again: bool


@dataclass
class _Train:
    """A repeater that was told; `turns` are the periods from its first mark to its last."""

    across: float
    first: float
    last: float
    turns: int
    count: int
    told: int

    @property
    def period(self) -> float:
        return (self.last - self.first) / self.turns

    def repeat(self, again: bool) -> Repeat:
        return Repeat(self.period, self.across, self.count, self.first, self.last, again)


class Repeats:
    """Finds repeating defects among those of one roll, told one by one, about in the order in which they lie.

    At most a third of a train may be missing when it is found. The fundamental is told, not a multiple of it; one below
    `low_mm` shows as its first multiple within the range. Two marks on one roller are two trains. Memory is bounded by
    the web's width, and a defect costs the same however long the roll is.

    Defects at random bring less than one false train per 10,000, at up to 5 defects per metre of a strip as wide as
    twice `tolerance_across_mm` (with the defaults, 500 per square metre).

    Args:
        low_mm, high_mm: the rollers' circumferences.
        least: marks of which a train has no fewer.
        tolerance_along_mm: how far a mark may lie from where the others say; about four times its scatter.
        tolerance_across_mm: how far apart across the web two marks of a train may lie.
    """

    def __init__(
        self,
        low_mm: float,
        high_mm: float,
        *,
        least: int = 4,
        tolerance_along_mm: float = 5.0,
        tolerance_across_mm: float = 5.0,
    ) -> None:
        self._low, self._high, self._least = low_mm, high_mm, least
        self._along, self._across = tolerance_along_mm, tolerance_across_mm
        self._reach = SLOTS * high_mm
        self._strips: dict[int, list[tuple[float, float]]] = {}  # (along, across), by along
        self._trains: list[_Train] = []
        self._begin = math.inf
        self._newest = -math.inf

    @property
    def kept(self) -> int:
        """Defects and trains in memory."""
        return len(self._trains) + sum(map(len, self._strips.values()))

    def add(self, along_mm: float, across_mm: float) -> Repeat | None:
        """Takes a defect; returns the train that it completes, or whose count it doubles."""
        self._begin, self._newest = min(self._begin, along_mm), max(self._newest, along_mm)
        self._trains = [one for one in self._trains if self._newest - one.last < (GONE + 1) * one.period]
        for train in self._trains:
            turns = self._turns(train, along_mm, across_mm)
            if turns is not None:
                return _go_on(train, along_mm, across_mm, turns)
        if self._is_piece(along_mm, across_mm):
            return None
        found = self._find(along_mm, across_mm)
        if found is None:
            self._keep(along_mm, across_mm)
        return found

    def _is_piece(self, along: float, across: float) -> bool:
        """Whether it lies where one is that is kept: one defect in two regions is not twice as dense."""
        for strip in self._near(across):
            near = strip[bisect_left(strip, (along - self._along, -math.inf)) :]
            if any(mark <= along + self._along and abs(place - across) <= self._across for mark, place in near):
                return True
        return False

    def _turns(self, train: _Train, along: float, across: float) -> int | None:
        """Periods from the train's last mark to this one; None where it is none of it."""
        if abs(across - train.across) > self._across:
            return None
        moved = along - train.last
        turns = round(moved / train.period)
        # wider than in the search: a mark just outside is no defect of its own
        near = abs(moved - turns * train.period) <= 2 * self._along
        return turns if near and turns >= 0 else None

    def _keep(self, along: float, across: float) -> None:
        strip = self._strips.setdefault(math.floor(across / self._across), [])
        insort(strip, (along, across))
        old = bisect_left(strip, (self._newest - self._reach, -math.inf))
        del strip[: max(old, len(strip) - KEPT)]

    # ------------------------------------------------------------------------------------------ a new train

    def _find(self, along: float, across: float) -> Repeat | None:
        marks, seen = self._around(along, across)
        if seen <= 0:
            return None
        first, end = bisect_left(marks, along - self._high), bisect_left(marks, along - self._low + self._along)
        for mark in reversed(marks[first:end]):  # short periods first: of two that fit, the fundamental
            chain = self._chain(marks, along, along - mark, seen)
            if chain is not None:
                chain = self._fundamental(marks, along, chain, seen)
                return self._begin_train(along, across, chain)
        return None

    def _around(self, along: float, across: float) -> tuple[list[float], float]:
        """Defects before this one at its place across, in order, and over how many mm all of them are known."""
        since = max(self._begin, along - self._reach)
        places: list[float] = []
        for strip in self._near(across):
            if len(strip) == KEPT:
                since = max(since, strip[0][0])
            places += [mark for mark, place in strip if abs(place - across) <= self._across]
        marks = sorted(mark for mark in places if since <= mark < along - self._along)
        return marks, along - since

    def _near(self, across: float) -> Iterator[list[tuple[float, float]]]:
        middle = math.floor(across / self._across)
        for number in (middle - 1, middle, middle + 1):
            if number in self._strips:
                yield self._strips[number]

    def _chain(self, marks: list[float], along: float, period: float, seen: float) -> dict[int, float] | None:
        """Marks by how many periods they lie behind `along`, as far as they tell a train; None where they do not."""
        chain, best, missing = {0: along}, None, 0
        for slot in range(1, SLOTS + 1):
            mark = _nearest(marks, along - slot * period)
            if mark is None or abs(mark - along + slot * period) > self._along:
                missing += 1
                if 2 * missing > len(chain) or along - slot * period < marks[0]:
                    break
                continue
            chain[slot] = mark
            period = (along - mark) / slot
            if len(chain) >= self._least and self._by_chance(chain, len(marks), seen) < CHANCE:
                best = dict(chain)
        return best

    def _by_chance(self, chain: dict[int, float], around: int, seen: float) -> float:
        """How many trains like it, or better, a new defect would find if those around it lay at random."""
        slots, marks = max(chain), len(chain)
        others = (around - (marks - 1) + 0.5) / seen  # per mm; a half: none seen is not none there
        hit = 1 - math.exp(-2 * self._along * others)
        if hit > DENSE:
            return math.inf
        # the first period is free, as the two marks give it; then marks − 2 of slots − 1 must be hit, the last of them
        tail = sum(math.comb(slots - 1, k) * hit**k * (1 - hit) ** (slots - 1 - k) for k in range(marks - 2, slots))
        return others * (self._high - self._low) * (slots - 1) * tail

    def _fundamental(self, marks: list[float], along: float, chain: dict[int, float], seen: float) -> dict[int, float]:
        """The chain with its period divided, where at least a third of the marks that then lie between are there."""
        slots = max(chain)
        period = (along - chain[slots]) / slots
        for parts in range(int(period / self._low), 1, -1):
            step = period / parts
            finer = {slot * parts: mark for slot, mark in chain.items()}
            between = [slot for slot in range(1, slots * parts) if slot % parts]
            for slot in between:
                mark = _nearest(marks, along - slot * step)
                if mark is not None and abs(mark - along + slot * step) <= self._along:
                    finer[slot] = mark
            if 3 * (len(finer) - len(chain)) >= len(between) and self._by_chance(finer, len(marks), seen) < CHANCE:
                return finer
        return chain

    def _begin_train(self, along: float, across: float, chain: dict[int, float]) -> Repeat:
        taken = set(chain.values())
        for strip in self._near(across):
            strip[:] = [one for one in strip if one[0] not in taken or abs(one[1] - across) > self._across]
        turns = max(chain)
        train = _Train(across, chain[turns], along, turns, len(chain), len(chain))
        self._trains.append(train)
        return train.repeat(again=False)


def _go_on(train: _Train, along: float, across: float, turns: int) -> Repeat | None:
    if turns == 0:  # a mark in two pieces
        return None
    train.last, train.turns, train.count = along, train.turns + turns, train.count + 1
    train.across += (across - train.across) / train.count
    if train.count < 2 * train.told:
        return None
    train.told = train.count
    return train.repeat(again=True)


def _nearest(marks: list[float], place: float) -> float | None:
    at = bisect_left(marks, place)
    return min(marks[max(at - 1, 0) : at + 1], key=lambda mark: abs(mark - place), default=None)
