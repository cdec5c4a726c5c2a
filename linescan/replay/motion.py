"""How the web of a recording moved: when each line passed the camera, and where the web was at any time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from linescan.errors import ConfigError, FootageError

START_NS = 10**12  # of a motion that is not recorded
FAR = 1_000_000  # lines on which it goes beyond its first and last knot
WAITED_NS = 500_000_000  # frames that waited on their way seem later than they were


class RecordedMotion:
    """Straight between knots (line, monotonic ns), which both grow; beyond them as the first and last two say."""

    def __init__(self, knots: Sequence[tuple[int, int]]) -> None:
        self._lines = [line for line, _ in knots]
        self._times = [ns for _, ns in knots]

    @classmethod
    def steady(cls, first_line: int, lines_per_second: float) -> RecordedMotion:
        """`first_line` passes at START_NS."""
        return cls([(first_line, START_NS), (first_line + FAR, START_NS + round(FAR / lines_per_second * 1e9))])

    @classmethod
    def of(cls, frames: Sequence[tuple[int, int]], most_per_second: float, name: str) -> RecordedMotion:
        """Of frames: first line, and when it was exposed; two at least.

        Beyond them the web goes on at the median speed. Some frames may have waited before their time was taken, so
        where two seem nearer to each other than lines can come, the earlier one came earlier. Raises FootageError where
        times go back, ConfigError where lines come faster for so long that no wait explains it; both name `name`.
        """
        times = [ns for _, ns in frames]
        for (before, earlier_ns), (line, later_ns) in pairwise(frames):
            if later_ns < earlier_ns:
                raise FootageError(
                    f"{name}: times go back between lines {before} and {line}, as after a restart of the machine; "
                    "--speed says how fast the web is to run instead"
                )
        for i in range(len(frames) - 2, -1, -1):
            lines = frames[i + 1][0] - frames[i][0]
            times[i] = min(times[i], times[i + 1] - round(lines / most_per_second * 1e9) - 1)
            if frames[i][1] - times[i] > WAITED_NS:
                raise ConfigError(
                    f"{name}: lines from {frames[i][0]} on came faster than {most_per_second:.0f} a second, which is "
                    "more than web.top_speed_mm_s allows; --speed says how fast the web is to run instead"
                )
        knots = [(line, ns) for (line, _), ns in zip(frames, times, strict=True)]
        line_ns = median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(knots))
        (first, first_ns), (last, last_ns) = knots[0], knots[-1]
        far_ns = round(FAR * line_ns)
        return cls([(first - FAR, first_ns - far_ns), *knots, (last + FAR, last_ns + far_ns)])

    def ns(self, line: float) -> int:
        """When that line (a part of one) passed the camera."""
        i = self._interval(self._lines, line)
        lines = self._lines[i + 1] - self._lines[i]
        return self._times[i] + round((line - self._lines[i]) * (self._times[i + 1] - self._times[i]) / lines)

    def line(self, ns: int) -> float:
        """Where the web was at that time."""
        i = self._interval(self._times, ns)
        passed_ns = self._times[i + 1] - self._times[i]
        return self._lines[i] + (ns - self._times[i]) * (self._lines[i + 1] - self._lines[i]) / passed_ns

    @staticmethod
    def _interval(values: Sequence[int], value: float) -> int:
        return min(max(bisect_right(values, value) - 1, 0), len(values) - 2)
