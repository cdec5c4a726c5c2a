"""Pixels as they travel beside a Frame: C order, little-endian, without padding, values in the low bits."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linescan.errors import FootageError, MessageError
from linescan.messages import Frame, PixelFormat


class Format(NamedTuple):
    """A pixel format: its numbers, how many a pixel has, and how many bits of each count."""

    dtype: type[np.uint8] | type[np.uint16]
    channels: int
    bits: int


FORMATS: dict[PixelFormat, Format] = {
    "Mono8": Format(np.uint8, 1, 8),
    "Mono10": Format(np.uint16, 1, 10),
    "Mono12": Format(np.uint16, 1, 12),
    "Mono16": Format(np.uint16, 1, 16),
    "RGB8": Format(np.uint8, 3, 8),
}


def format_of(channels: int, bits: int) -> PixelFormat:
    """The format of pixels with so many numbers of so many bits; raises FootageError where there is none."""
    for name, pixel in FORMATS.items():
        if (pixel.channels, pixel.bits) == (channels, bits):
            return name
    raise FootageError(f"pixels of {channels} channels of {bits} bits; {', '.join(FORMATS)} can be taken from a camera")


def shape_of(frame: Frame) -> tuple[int, ...]:
    """lines×columns, or lines×columns×3."""
    return (frame.lines, frame.columns) + ((3,) if FORMATS[frame.pixel_format].channels == 3 else ())


def pixels_of(frame: Frame, data: memoryview | bytes) -> NDArray[Any]:
    """The pixels in `data`, a view of it where the machine is little-endian; raises MessageError on a wrong size."""
    if frame.lines < 1 or frame.columns < 1:
        raise MessageError(f"a frame of {frame.lines} lines and {frame.columns} columns")
    dtype, channels, _ = FORMATS[frame.pixel_format]
    expected = frame.lines * frame.columns * channels * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise MessageError(f"{len(data)} bytes of pixels, {expected} expected")
    flat = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    if sys.byteorder == "big":
        flat = flat.astype(dtype)
    return flat.reshape(shape_of(frame))
