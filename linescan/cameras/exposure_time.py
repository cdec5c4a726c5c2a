"""When the first line of a buffer was exposed."""

from __future__ import annotations

import time
from typing import Literal

NEAR_NS = 1_000_000_000  # a timestamp this close before the arrival of its frame is by one of the host's clocks


class ExposureTime:
    """The buffer's timestamp where it is by a clock of the host, else the arrival less the time the lines took.

    A timestamp is taken to be of the first line. Whether it is by the monotonic clock or UTC (a camera that follows
    PTP) is decided by the first frame; a camera's own clock is not used. Without one, and where UTC was set, frames
    that waited to be read seem later by their wait.
    """

    def __init__(self, line_rate_hz: float) -> None:
        self._line_ns = 1e9 / line_rate_hz
        self._clock: Literal["monotonic", "utc", "none"] | None = None

    def of_first_line(self, timestamp_ns: int | None, lines: int) -> tuple[int, int]:
        """Monotonic and UTC nanoseconds, of a frame that arrived just now."""
        now, utc = time.monotonic_ns(), time.time_ns()
        took = round(lines * self._line_ns)
        if self._clock is None:
            self._clock = _clock_of(timestamp_ns, now, utc, took)
        if timestamp_ns is None or self._clock == "none":
            age = took
        elif self._clock == "monotonic":
            age = max(now - timestamp_ns, 0)
        else:
            age = utc - timestamp_ns
            if not 0 <= age <= took + NEAR_NS:  # one of the two was set: of monotonic time that says nothing
                age = took
        return now - age, utc - age


def _clock_of(timestamp_ns: int | None, now: int, utc: int, took: int) -> Literal["monotonic", "utc", "none"]:
    if timestamp_ns is not None and 0 <= now - timestamp_ns <= took + NEAR_NS:
        return "monotonic"
    if timestamp_ns is not None and 0 <= utc - timestamp_ns <= took + NEAR_NS:
        return "utc"
    return "none"
