"""The web's coordinate: encoder counts ⇄ lines ⇄ millimetres, how the web moves, and which lanes it has.

Counts grow as the web moves on. Inside they are plain integers that never wrap; what a counter of so many bits shows is
unwrapped where it comes in and wrapped where it goes out. Where a piece of web is, is told by the count at which it
passes the *reference line*, from which gates' distances are measured: at a gate `distance` counts further on it passes
at that count plus `distance`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from linescan.line import CameraSettings
from linescan.line import Web as WebSettings

SPEED_NS = 1_000_000_000  # the speed is that of the last second
SAMPLE_NS = 10_000_000  # positions nearer to each other than this are one sample
STALE_NS = 250_000_000  # beyond this age of the last position the web may move at its top speed


@dataclass(frozen=True)
class Counter:
    """A counter of so many bits, which starts again at 0."""

    bits: int = 32

    @property
    def span(self) -> int:
        return 1 << self.bits

    def wrap(self, count: int) -> int:
        """What the counter shows at that count."""
        return count % self.span

    def unwrap(self, shown: int, near: int) -> int:
        """The count at which the counter shows this, the one nearest to `near`; of two the lower."""
        half = self.span // 2
        return near + (shown - near + half) % self.span - half


@dataclass(frozen=True)
class CameraOnWeb:
    """Where the lines of one roll lie under one camera.

    Args:
        origin: count of line 0 on the camera's counter.
        x_offset_mm: of column 0, across the web.
        y_offset_mm: of the camera's line, along the web from the reference line.
    """

    origin: int
    counts_per_line: int
    counts_per_mm: float
    mm_per_column: float
    x_offset_mm: float = 0.0
    y_offset_mm: float = 0.0

    @classmethod
    def of(cls, origin: int, camera: CameraSettings, web: WebSettings) -> CameraOnWeb:
        """By line.toml, which has been checked to have `encoder` and `mm_per_column` where there is a [web]."""
        if camera.encoder is None or camera.mm_per_column is None:
            raise ValueError(f"camera {camera.name}: encoder and mm_per_column are needed to place it on the web")
        return cls(
            origin, camera.encoder.counts_per_line, web.counts_per_mm, camera.mm_per_column,
            camera.x_offset_mm, camera.y_offset_mm,
        )  # fmt: skip

    @property
    def mm_per_line(self) -> float:
        return self.counts_per_line / self.counts_per_mm

    def count(self, line: int) -> int:
        """The camera's count when the leading edge of a line passes the reference line."""
        return self.origin + line * self.counts_per_line - round(self.y_offset_mm * self.counts_per_mm)

    def span(self, first_line: int, last_line: int) -> tuple[int, int]:
        """Lines first_line…last_line (inclusive) as counts first…end − 1 at the reference line."""
        return self.count(first_line), self.count(last_line + 1)

    def line(self, count: int) -> int:
        """The line that passes the reference line at that count of the camera."""
        return (count - self.count(0)) // self.counts_per_line

    def along_mm(self, line: int) -> float:
        """From the roll's line 0 to the leading edge of a line."""
        return line * self.mm_per_line

    def across_mm(self, first_column: int, last_column: int) -> tuple[float, float]:
        """The outer edges of columns first_column…last_column (inclusive), from and to."""
        return (
            self.x_offset_mm + first_column * self.mm_per_column,
            self.x_offset_mm + (last_column + 1) * self.mm_per_column,
        )


# ------------------------------------------------------------------------------------------------ lanes


@dataclass(frozen=True)
class Strip:
    """A part of the web across it, from and to in mm: a lane, or what a camera sees."""

    name: str
    from_mm: float
    to_mm: float


def touched(strips: Iterable[Strip], from_mm: float, to_mm: float) -> tuple[str, ...]:
    """Names of the strips that have something in common with that span; a common edge is nothing."""
    return tuple(strip.name for strip in strips if strip.from_mm < to_mm and from_mm < strip.to_mm)


def seen_by(lanes: Sequence[Strip], views: Sequence[Strip]) -> dict[str, tuple[str, ...]]:
    """For each camera (its view) the lanes of which it sees something."""
    return {view.name: touched(lanes, view.from_mm, view.to_mm) for view in views}


def unseen(lane: Strip, views: Iterable[Strip]) -> list[tuple[float, float]]:
    """Parts of a lane, from and to in mm, that no camera sees."""
    holes, reached = [], lane.from_mm
    for view in sorted(views, key=lambda view: view.from_mm):
        if view.to_mm <= reached:
            continue
        if view.from_mm >= lane.to_mm:
            break
        if view.from_mm > reached:
            holes.append((reached, view.from_mm))
        reached = view.to_mm
    return holes if reached >= lane.to_mm else [*holes, (reached, lane.to_mm)]


# ------------------------------------------------------------------------------------------------ how it moves


class Motion:
    """The web's position and speed, from positions of one counter and when they were read.

    Args:
        top_speed: the fastest that the web runs, counts/s.
        tolerance: counts by which a position may be off.
        scan_s: how old a position may be when it is read, since its owner writes it once a scan.
    """

    def __init__(self, top_speed: float, tolerance: float, scan_s: float = 0.0) -> None:
        self._top_speed, self._tolerance, self._scan_s = top_speed, tolerance, scan_s
        self._samples: deque[tuple[int, int]] = deque()  # (monotonic ns, count), of the last second
        self.position: int | None = None
        self.position_ns = 0
        self.speed = 0.0
        """counts/s forward: of the last second or of its last quarter, whichever is higher; 0 standing or back"""
        self.direction: Literal[-1, 0, 1] = 0
        self.jumps = 0

    @classmethod
    def of(cls, web: WebSettings, scan_s: float = 0.0) -> Motion:
        return cls(web.top_speed_mm_s * web.counts_per_mm, web.tolerance_mm * web.counts_per_mm, scan_s)

    def moved(self, position: int, monotonic_ns: int, latest_ns: int | None = None) -> bool:
        """Takes the position at a time not before the last one; False where no web moves so far: the counter jumped.

        After a jump it goes on from there; what was said of counts before means nothing any more.

        Args:
            latest_ns: when it may have been read at the latest, where a slow answer leaves that open.
        """
        sound = True
        if self.position is not None:
            passed_s = max((latest_ns or monotonic_ns) - self.position_ns, 0) / 1e9
            most = self._top_speed * (1.25 * passed_s + self._scan_s) + self._tolerance
            sound = abs(position - self.position) <= most
        if not sound:
            self.jumps += 1
            self._samples.clear()
        self.position, self.position_ns = position, monotonic_ns
        samples = self._samples
        if len(samples) > 1 and monotonic_ns - samples[-2][0] < SAMPLE_NS:
            samples.pop()
        samples.append((monotonic_ns, position))
        while samples[0][0] < monotonic_ns - SPEED_NS:
            samples.popleft()
        # a web that speeds up is believed at once, one that slows down after a second: deadlines are rather too early
        lately = self._slope(SPEED_NS // 4)
        self.speed = max(self._slope(SPEED_NS), lately, 0.0)
        self.direction = 0 if lately == 0 else 1 if lately > 0 else -1
        return sound

    def at_most(self, now_ns: int) -> int | None:
        """Where the web can be by now: on at its speed, at top speed where the position is old; None: unknown."""
        if self.position is None:
            return None
        age_ns = max(now_ns - self.position_ns, 0)
        moved = self.speed * min(age_ns, STALE_NS) + self._top_speed * max(age_ns - STALE_NS, 0)
        return self.position + ceil(moved / 1e9)

    def _slope(self, within_ns: int) -> float:
        last_ns, last = self._samples[-1]
        earliest = next(sample for sample in self._samples if sample[0] >= last_ns - within_ns)
        passed_ns = last_ns - earliest[0]
        return (last - earliest[1]) / passed_ns * 1e9 if passed_ns else 0.0
