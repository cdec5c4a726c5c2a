"""What every kind of recording is read as: frames in order, the unreadable ones included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linescan import messages
from linescan.errors import FootageError

Own = TypeVar("Own", bound="Footage")
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class FootageFrame:
    """Consecutive lines of a recording, or the place of lines that cannot be read.

    `error` is a predicate: "NAME ERROR" is a sentence ("0007.png is 500 columns wide, the footage before it 512").
    """

    name: str
    """file name, "film.avi#12", "roll.mcap#17": what an error or an event names"""
    lines: int
    """height, also where unreadable"""
    pixels: Pixels | None
    """lines×columns, or lines×columns×3 (RGB order); None where unreadable"""
    bit_depth: int
    """8, 10, 12 or 16: full scale is 2**bit_depth − 1"""
    error: str | None = None
    """why unreadable"""
    estimated: bool = False
    """`lines` was guessed (the previous readable frame's height)"""
    first_line: int | None = None
    """where the recording knows it (MCAP); None: follows the previous frame"""
    header: messages.Frame | None = None
    """MCAP only"""
    roll: str | None = None
    """whose lines these are, where the recording says it (MCAP); None: of the roll before"""
    cause: messages.GapCause = "unreadable"
    """why there are no pixels; others are the live line's, whose stream stopped for a while where `lines` is 0"""


def unreadable(name: str, error: str, lines: int = 0) -> FootageFrame:
    """A frame without pixels; `lines` 0 where nothing says how many it had: Footage estimates them."""
    return FootageFrame(name, lines, None, 8, error)


class Footage(ABC):
    """A recording; each iteration reads it from its beginning, one frame in memory at a time.

    Every frame has the width, channels and bit depth of the first readable one or is unreadable. A recording without
    any readable frame raises FootageError when it is opened.
    """

    columns: int
    channels: int
    """1 or 3"""
    bit_depth: int
    total_lines: int | None
    """for a progress bar: frames times the height of the first one; None where the number of frames is unknown"""
    truncated: str | None = None
    """after an iteration: how the recording ended before its announced end, None where it did not"""
    camera: str | None = None
    """where the recording knows it (MCAP)"""

    def __init__(self, path: str) -> None:
        """Looks for the first readable frame of the recording at `path`."""
        self.path = path
        self._iteration: Generator[FootageFrame, None, None] | None = None
        frame, pixels = self._first_readable()
        self.columns, self.channels, self.bit_depth = pixels.shape[1], _channels(pixels), frame.bit_depth
        self._first_lines = frame.lines
        count = self._count()
        self.total_lines = None if count is None else count * frame.lines

    def _first_readable(self) -> tuple[FootageFrame, Pixels]:
        reason = None
        frames = self._frames()
        try:
            for frame in map(_in_range, frames):
                if frame.pixels is not None:
                    return frame, frame.pixels
                reason = reason or f"{frame.name} {frame.error}"
        finally:
            frames.close()
        raise FootageError(f"{self.path}: a readable frame expected, but {reason or 'it holds no frame'}")

    @abstractmethod
    def _frames(self) -> Generator[FootageFrame, None, None]:
        """All frames as they are stored; `lines` 0 where unknown."""

    @abstractmethod
    def _count(self) -> int | None:
        """The number of frames, as far as it can be had without reading them."""

    def __iter__(self) -> Generator[FootageFrame, None, None]:
        self._iteration = self._checked()
        return self._iteration

    def _checked(self) -> Generator[FootageFrame, None, None]:
        height = self._first_lines
        for stored in self._frames():
            frame = self._like_the_first(_in_range(stored))
            if frame.pixels is not None:
                height = frame.lines
            known = frame.lines > 0 or frame.cause != "unreadable"
            yield replace(
                frame,
                bit_depth=self.bit_depth,
                lines=frame.lines if known else height,
                estimated=frame.estimated or not known,
            )

    def _like_the_first(self, frame: FootageFrame) -> FootageFrame:
        if frame.pixels is None:
            return frame
        columns, channels = frame.pixels.shape[1], _channels(frame.pixels)
        if columns != self.columns:
            error = f"is {columns} columns wide, the footage before it {self.columns}"
        elif channels != self.channels:
            error = f"has {channels} channels, the footage before it {self.channels}"
        elif frame.bit_depth != self.bit_depth:
            error = f"has {frame.bit_depth} bits a value, the footage before it {self.bit_depth}"
        else:
            return frame
        return replace(frame, pixels=None, error=error)

    def close(self) -> None:
        """Ends the iteration under way and closes its file."""
        if self._iteration is not None:
            self._iteration.close()

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _channels(pixels: Pixels) -> int:
    return 1 if pixels.ndim == 2 else pixels.shape[2]


def _in_range(frame: FootageFrame) -> FootageFrame:
    """The frame, unreadable where a value is beyond full scale: scaled to [0, 1] it would be no pixel value."""
    if frame.pixels is None or frame.bit_depth == 8 * frame.pixels.itemsize:
        return frame
    peak = int(frame.pixels.max(initial=0))
    if peak < 1 << frame.bit_depth:
        return frame
    return replace(frame, pixels=None, error=f"holds the value {peak}, too large for {frame.bit_depth} bits")
