"""MCAP recordings (mcap.dev): what came from a camera, with line numbers, checksummed, readable after a kill.

One channel a camera, topic /frames/CAMERA. A message is the length of the header (4 bytes, little-endian), the header
(messages.Frame as it travels) and the pixels (C order, little-endian).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from mcap.exceptions import UnsupportedCompressionError
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from linescan import messages
from linescan.errors import FootageError, MessageError
from linescan.footage.frames import FootageFrame, unreadable
from linescan.pixels import FORMATS, pixels_of, shape_of

ENCODING = "linescan-frame"
TOPIC = "/frames/"
SCHEMA = b"""A message is: the header's length (uint32, little-endian), the header, the pixels.
Header: a msgpack map {"type": "frame", "version": 1, "camera": str, "epoch": int, "roll": str, "first_line": int,
"lines": int, "columns": int, "pixel_format": "Mono8" | "Mono10" | "Mono12" | "Mono16" | "RGB8",
"encoder_count": int | nil, "monotonic_ns": int, "utc_ns": int}; first_line counts from the roll's start.
Pixels: lines x columns (Mono8: uint8, other Mono: uint16, little-endian, values in the low bits) or
lines x columns x 3 (RGB8: uint8), C order, without padding.
"""
_COMPRESSION = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}


def pack(header: messages.Frame, pixels: NDArray[Any]) -> bytes:
    """The message of a frame; raises FootageError where the pixels are not what the header says."""
    dtype, shape = FORMATS[header.pixel_format].dtype, shape_of(header)
    if pixels.dtype != dtype or pixels.shape != shape:
        raise FootageError(f"{pixels.dtype} pixels of shape {pixels.shape}, {header.pixel_format} of {shape} announced")
    head = messages.encode(header)
    data = np.ascontiguousarray(pixels, dtype=np.dtype(dtype).newbyteorder("<"))
    return b"".join((struct.pack("<I", len(head)), head, data.data))


def unpack(data: bytes, camera: str | None = None) -> FootageFrame:
    """The frame in a message, without a name; unreadable, and without a header, where it is none of the camera's."""
    if len(data) < 4:
        return unreadable("", f"is a message of {len(data)} bytes")
    end = 4 + struct.unpack_from("<I", data)[0]
    try:
        header = messages.decode(data[4:end])
    except MessageError as reason:
        return unreadable("", f"has an unreadable header: {reason}")
    if not isinstance(header, messages.Frame) or header.lines < 1 or header.columns < 1 or header.first_line < 0:
        return unreadable("", f"has a header that is not a frame's: {header!r:.80}")
    if camera is not None and header.camera != camera:
        return unreadable("", f"is of camera {header.camera!r}, recorded as {camera!r}")
    pixels: NDArray[Any] | None = None
    error = None
    try:
        pixels = pixels_of(header, memoryview(data)[end:]).copy()
    except MessageError as reason:
        error = f"has {reason}"
    depth = FORMATS[header.pixel_format].bits
    return FootageFrame("", header.lines, pixels, depth, error, first_line=header.first_line, header=header)


class McapWriter:
    """Writes the frames of one camera to a new file, in place: what a kill leaves behind can be read.

    Frames are handed to the operating system in chunks of at least `chunk_bytes`: a kill loses the chunk under way
    at most (0: the frame under way). Memory grows by about a kilobyte a chunk, for the index at the file's end.
    """

    def __init__(
        self,
        path: str | Path,
        camera: str,
        *,
        compression: Literal["none", "lz4", "zstd"] = "none",
        chunk_bytes: int = 1 << 20,
    ) -> None:
        """Creates the file; raises FootageError where it exists, or where the compression is not installed."""
        self.path, self.camera = Path(path), camera
        self._written, self._failed, self._closed = 0, False, False
        try:
            self._file = self.path.open("xb")
        except OSError as error:
            raise FootageError(f"{path}: cannot be created: {error.strerror}") from error
        try:
            self._writer = Writer(self._file, chunk_size=chunk_bytes, compression=_COMPRESSION[compression])
            self._writer.start(profile="", library="linescan")
        except UnsupportedCompressionError as error:
            self._file.close()
            self.path.unlink()
            raise FootageError(f"{path}: compression {compression} needs a package that is not installed") from error
        schema = self._writer.register_schema(ENCODING, "text/plain", SCHEMA)
        self._channel = self._writer.register_channel(TOPIC + camera, ENCODING, schema)

    def write(self, header: messages.Frame, pixels: NDArray[Any]) -> None:
        """Appends a frame: lines×columns(×3) as the header says.

        Raises FootageError where they disagree, and where the disk refuses: then the recording has ended, and what
        was written before stays readable.
        """
        if self._failed or self._closed:
            raise FootageError(f"{self.path}: the recording has ended")
        if header.camera != self.camera:
            raise FootageError(f"{self.path}: a frame of camera {header.camera!r}, {self.camera!r} expected")
        data, time = pack(header, pixels), max(header.utc_ns, 0)
        try:
            self._writer.add_message(self._channel, time, data, time, self._written & 0xFFFFFFFF)
            self._file.flush()
        except OSError as error:
            self._failed = True
            raise FootageError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._written += 1

    def close(self) -> None:
        """Writes the index and closes the file; raises FootageError where the disk refuses."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._writer.finish()  # type: ignore[no-untyped-call]
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            if not self._failed:
                raise FootageError(f"{self.path}: cannot be finished: {error.strerror}") from error

    def __enter__(self) -> McapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
