"""Too many rejects: an alarm when so many of one lane began within a stretch of the web, told once an episode."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """`rejects` windows of that lane began in counts first_count…last_count."""

    lane: str
    rejects: int
    first_count: int
    last_count: int


class RejectAlarm:
    """Counts the rejects of each lane; a window that adjoins another, as that of a growing defect does, is no new one.

    An episode is over when less than half as many began within the stretch; then there may be an alarm again. Windows
    may come in any order; one that begins a whole stretch behind the newest is passed over. Where counts begin anew, as
    after a reset of the PLC's counter, a new object is needed.

    Args:
        rejects: so many are an alarm.
        within_counts: length of the stretch.
    """

    def __init__(self, rejects: int, within_counts: int) -> None:
        self._rejects, self._within = rejects, within_counts
        self._lanes: dict[str, _Lane] = {}

    def rejects(self, lane: str, first_count: int, end_count: int) -> Alarm | None:
        """Takes a window first_count…end_count − 1 when it is ordered; returns an alarm where one begins."""
        windows = self._lanes.setdefault(lane, _Lane())
        if first_count <= windows.newest - self._within:
            return None
        windows.newest = max(windows.newest, first_count)
        behind = windows.newest - self._within
        windows.drop(behind)
        if 2 * len(windows.began_after(behind)) < self._rejects:
            windows.alarmed = False
        windows.add(first_count, end_count)
        began = windows.began_after(behind)
        if windows.alarmed or len(began) < self._rejects:
            return None
        windows.alarmed = True
        return Alarm(lane, len(began), began[0], began[-1])


class _Lane:
    """Disjoint windows of one lane; those that adjoin are one."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self.alarmed = False
        self.newest = -(1 << 62)

    def began_after(self, count: int) -> list[int]:
        return self._firsts[bisect_right(self._firsts, count) :]

    def drop(self, count: int) -> None:
        """Forgets those that ended before that count."""
        behind = bisect_left(self._ends, count)
        del self._firsts[:behind], self._ends[:behind]

    def add(self, first: int, end: int) -> None:
        low, high = bisect_left(self._ends, first), bisect_right(self._firsts, end)
        if low < high:
            first, end = min(first, self._firsts[low]), max(end, self._ends[high - 1])
        self._firsts[low:high], self._ends[low:high] = [first], [end]
