"""What acquire needs of a camera, whatever drives it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from linescan.messages import PixelFormat


@dataclass(frozen=True, eq=False)
class Lines:
    """Consecutive lines that a camera delivered in one buffer; the pixels are a copy that nobody else writes to."""

    pixels: NDArray[Any]
    """lines×columns, or lines×columns×3; uint8, or uint16 with the values in the low bits"""
    encoder_count: int | None
    """of the first line, as the camera latched it"""
    monotonic_ns: int
    """when the first line was exposed, as well as is known"""
    utc_ns: int


@dataclass(frozen=True)
class LinesLost:
    """Lines that the camera scanned and that did not arrive."""

    lines: int
    cause: Literal["incomplete", "overrun"]


class Camera(Protocol):
    """A line-scan camera that delivers lines in buffers.

    Every method raises CameraLostError once the camera is gone; then it is closed and the process ends.
    """

    name: str
    columns: int
    frame_lines: int
    """lines of a whole buffer"""
    pixel_format: PixelFormat
    line_rate_hz: float | None
    """what the camera is set to, where it says"""

    def start(self) -> None: ...

    def read(self) -> Lines | LinesLost | None:
        """The next thing that came, at once; None where nothing did."""
        ...

    def stop(self) -> None:
        """Scans no more lines; `read` still hands over those that were delivered before."""
        ...

    def latched(self) -> int | None:
        """The count that the last sync pulse latched; None where the camera latches none."""
        ...

    def check(self) -> None:
        """Asks the camera for something that costs little; raises CameraLostError where it does not answer."""
        ...

    def close(self) -> None: ...


class BufferPool:
    """Memory for frames, used again: fresh memory of a frame's size costs as much as copying into it.

    A buffer is free when nobody refers to it any more, the transport's queues included.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._buffers: list[NDArray[np.uint8]] = []
        self._limit = limit

    def take(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes that are nobody else's."""
        for index in range(len(self._buffers)):
            # 2: the list's reference and the one that getrefcount itself is given
            if self._buffers[index].nbytes >= size and sys.getrefcount(self._buffers[index]) <= 2:
                self._buffers.append(self._buffers.pop(index))  # the oldest is looked at first
                return self._buffers[-1][:size]
        buffer = np.empty(size, np.uint8)
        if len(self._buffers) < self._limit:
            self._buffers.append(buffer)
        return buffer[:size]
