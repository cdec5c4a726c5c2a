"""A set of counts as sorted spans."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Spans:
    """Sorted spans first…end − 1 that do not touch each other; the cost of each call grows with the logarithm."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.ends: list[int] = []

    def __len__(self) -> int:
        return len(self.firsts)

    def add(self, first: int, end: int) -> list[tuple[int, int]]:
        """Makes first…end − 1 a part; returns what of it was none before."""
        low, high = bisect_left(self.ends, first), bisect_right(self.firsts, end)  # those that it touches
        pieces, reached = [], first
        for known_first, known_end in zip(self.firsts[low:high], self.ends[low:high], strict=True):
            if known_first > reached:
                pieces.append((reached, known_first))
            reached = max(reached, known_end)
        if reached < end:
            pieces.append((reached, end))
        if low < high:
            first, end = min(first, self.firsts[low]), max(end, self.ends[high - 1])
        self.firsts[low:high], self.ends[low:high] = [first], [end]
        return pieces

    def last_end(self, count: int) -> int | None:
        """The largest end that is not beyond `count`."""
        index = bisect_right(self.ends, count) - 1
        return self.ends[index] if index >= 0 else None

    def next_first(self, count: int) -> int | None:
        """The smallest first that is not before `count`."""
        index = bisect_left(self.firsts, count)
        return self.firsts[index] if index < len(self.firsts) else None

    def begins(self, count: int) -> int:
        """Where the span begins that holds `count` or ends there; `count` itself where there is none."""
        index = bisect_left(self.ends, count)
        return min(self.firsts[index], count) if index < len(self.firsts) else count

    def drop_before(self, count: int) -> None:
        gone = bisect_right(self.ends, count)
        del self.firsts[:gone], self.ends[:gone]
        if self.firsts:
            self.firsts[0] = max(self.firsts[0], count)
