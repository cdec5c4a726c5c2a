"""Footage as a camera: recorded frames at a camera's pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from linescan.cameras.camera import Lines, LinesLost
from linescan.errors import FootageError
from linescan.footage import Footage, FootageFrame
from linescan.messages import PixelFormat

_MONO: dict[int, PixelFormat] = {8: "Mono8", 10: "Mono10", 12: "Mono12", 16: "Mono16"}


class RecordedCamera:
    """Plays footage as one roll; `ended` once its last lines were read.

    Lines that the recording lacks come as lost ones, frames that cannot be read as incomplete ones.

    Args:
        lines_per_second: 0 is as fast as they are read.
        behind: asked before each frame; while it is true none is delivered, so that playing does not outrun a worker.
    """

    def __init__(
        self, footage: Footage, lines_per_second: float = 0.0, behind: Callable[[], bool] = lambda: False
    ) -> None:
        if footage.channels == 3 and footage.bit_depth != 8:
            raise FootageError(f"{footage.path}: colour of {footage.bit_depth} bits; a line takes colour of 8")
        self.name = footage.path
        self.columns = footage.columns
        self.frame_lines = 1
        self.pixel_format: PixelFormat = "RGB8" if footage.channels == 3 else _MONO[footage.bit_depth]
        self.line_rate_hz = lines_per_second or None
        self.ended = False
        self._footage = footage
        self._behind = behind
        self._frames: Iterator[FootageFrame] = iter(())
        self._held: FootageFrame | None = None
        self._line = 0  # of the recording, the next to be delivered
        self._start = 0.0

    def start(self) -> None:
        self._frames = iter(self._footage)
        self._start = time.monotonic()

    def read(self) -> Lines | LinesLost | None:
        frame = self._held or next(self._frames, None)
        self._held = frame
        if frame is None:
            self.ended = True
            return None
        first = self._line if frame.first_line is None else frame.first_line
        if first > self._line:
            lost = LinesLost(first - self._line, "incomplete")
            self._line = first
            return lost
        if self._behind() or not self._is_due(first + frame.lines):
            return None
        self._held = None
        self._line = first + frame.lines
        if frame.pixels is None:
            return LinesLost(frame.lines, "incomplete")
        return Lines(frame.pixels.copy(), None, time.monotonic_ns(), time.time_ns())

    def stop(self) -> None:
        self._frames, self._held = iter(()), None

    def latched(self) -> int | None:
        return None

    def check(self) -> None:
        """Footage does not go away."""

    def close(self) -> None:
        self._frames = iter(())

    def _is_due(self, line: int) -> bool:
        return not self.line_rate_hz or time.monotonic() - self._start >= line / self.line_rate_hz
