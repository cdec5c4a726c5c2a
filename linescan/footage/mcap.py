"""MCAP recordings (mcap.dev): what came from a camera, with line numbers, checksummed, readable after a kill.

One channel a camera, topic /frames/CAMERA. A message is the length of the header (4 bytes, little-endian), the header
(messages.Frame as it travels) and the pixels (C order, little-endian). Beside it, on /events/CAMERA, what else acquire
says: which roll begins and ends, which lines were lost and why.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linescan import codec, messages
from linescan.errors import FootageError, MessageError
from linescan.footage.frames import FootageFrame, unreadable
from linescan.footage.mcap_chunks import ChunkWriter, Part
from linescan.messages import Gap, RollEnd, RollStart, StreamEnd
from linescan.pixels import FORMATS, pixels_of, shape_of

ENCODING = "linescan-frame"
EVENT_ENCODING = "linescan-message"
TOPIC, EVENT_TOPIC = "/frames/", "/events/"
SCHEMA = b"""A message is: the header's length (uint32, little-endian), the header, the pixels.
Header: a msgpack map {"type": "frame", "version": 1, "camera": str, "epoch": int, "roll": str, "first_line": int,
"lines": int, "columns": int, "pixel_format": "Mono8" | "Mono10" | "Mono12" | "Mono16" | "RGB8",
"encoder_count": int | nil, "monotonic_ns": int, "utc_ns": int}; first_line counts from the roll's start.
Pixels: lines x columns (Mono8: uint8, other Mono: uint16, little-endian, values in the low bits) or
lines x columns x 3 (RGB8: uint8), C order, without padding.
"""
EVENT_SCHEMA = b"""A message is a msgpack map {"type": str, "version": 1, "camera": str, "roll": str, ...}, the types:
"roll_start" {"recipe": str, "first_line": int, "settings": map}: the frames that follow are of this roll;
"gap" {"first_line": int, "last_line": int, "cause": str, "estimated": bool}: lines lost before they could be recorded;
"stream_end" {}: acquisition stopped here in order, and what follows is a new stretch of the same roll;
"roll_end" {"lines": int, "inspected_up_to": int, "lines_inspected": int, "lines_in_gaps": int}: lines is how many the
roll had, the others are 0.
"""
RollEvent = RollStart | Gap | StreamEnd | RollEnd


def pack(header: messages.Frame, pixels: NDArray[Any]) -> bytes:
    """The message of a frame; raises FootageError where the pixels are not what the header says."""
    return b"".join(_parts(header, pixels))


def _parts(header: messages.Frame, pixels: NDArray[Any]) -> list[Part]:
    dtype, shape = FORMATS[header.pixel_format].dtype, shape_of(header)
    if pixels.dtype != dtype or pixels.shape != shape:
        raise FootageError(f"{pixels.dtype} pixels of shape {pixels.shape}, {header.pixel_format} of {shape} announced")
    head = codec.encode(header)
    data = np.ascontiguousarray(pixels, dtype=np.dtype(dtype).newbyteorder("<"))
    return [struct.pack("<I", len(head)) + head, data.reshape(-1).view(np.uint8).data]


def unpack(data: bytes, camera: str | None = None) -> FootageFrame:
    """The frame in a message, without a name; unreadable, and without a header, where it is none of the camera's."""
    if len(data) < 4:
        return unreadable("", f"is a message of {len(data)} bytes")
    end = 4 + struct.unpack_from("<I", data)[0]
    try:
        header = codec.decode(data[4:end])
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
    return FootageFrame(
        "", header.lines, pixels, depth, error, first_line=header.first_line, header=header, roll=header.roll
    )


def unpack_event(data: bytes) -> RollEvent | None:
    """The event in a message; None where it is none."""
    try:
        event = codec.decode(data)
    except MessageError:
        return None
    return event if isinstance(event, RollEvent) else None


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
        self._failed, self._closed = False, False
        self._utc_ns = 0
        self._event_channel: int | None = None
        compress = compressor(compression, self.path)
        try:
            self._file = self.path.open("xb", buffering=0)
        except OSError as error:
            raise FootageError(f"{path}: cannot be created: {error.strerror}") from error
        try:
            self._writer = ChunkWriter(self._file.fileno(), chunk_bytes, compress)
        except OSError as error:
            self._file.close()
            self.path.unlink(missing_ok=True)
            raise FootageError(f"{path}: cannot be created: {error.strerror}") from error
        self._channel = self._writer.add_channel(TOPIC + camera, ENCODING, SCHEMA)

    @property
    def size(self) -> int:
        """Bytes of the file, with the chunk under way."""
        return self._writer.size + self._writer.pending

    @property
    def pending(self) -> int:
        """Bytes of the chunk under way: what a kill would lose."""
        return self._writer.pending

    @property
    def chunks(self) -> int:
        """Whole chunks in the file: what is readable after a kill."""
        return self._writer.chunks

    def write(self, header: messages.Frame, pixels: NDArray[Any]) -> None:
        """Appends a frame: lines×columns(×3) as the header says.

        Raises FootageError where they disagree, and where the disk refuses: then the recording has ended, and what
        was written before stays readable.
        """
        self._check(header.camera, "a frame")
        self._utc_ns = max(header.utc_ns, 0)
        self._add(self._channel, _parts(header, pixels))

    def write_event(self, event: RollEvent, utc_ns: int = 0) -> None:
        """Appends what acquire said between two frames; raises FootageError as `write` does.

        `utc_ns` is needed before the first frame: what comes later has the time of the frame before it.
        """
        self._check(event.camera, codec.type_name(event))
        self._utc_ns = self._utc_ns or utc_ns
        if self._event_channel is None:
            self._event_channel = self._writer.add_channel(EVENT_TOPIC + self.camera, EVENT_ENCODING, EVENT_SCHEMA)
        self._add(self._event_channel, [codec.encode(event)])

    def _check(self, camera: str, what: str) -> None:
        if self._failed or self._closed:
            raise FootageError(f"{self.path}: the recording has ended")
        if camera != self.camera:
            raise FootageError(f"{self.path}: {what} of camera {camera!r}, {self.camera!r} expected")

    def _add(self, channel: int, parts: list[Part]) -> None:
        try:
            self._writer.add(channel, self._utc_ns, parts)
        except OSError as error:
            self._failed = True
            raise FootageError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self, *, sync: bool = True) -> None:
        """Writes the index and closes the file; raises FootageError where the disk refuses.

        Without `sync` the system writes it out when it likes: a power failure may lose what a crash does not.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._writer.finish()
                if sync:
                    os.fsync(self._file.fileno())
        except OSError as error:
            raise FootageError(f"{self.path}: cannot be finished: {error.strerror}") from error
        finally:
            self._file.close()

    def __enter__(self) -> McapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def compressor(name: str, path: Path) -> tuple[str, Callable[[bytes], bytes]] | None:
    """The name of the compression in the file, and what does it; raises FootageError where it is not installed."""
    module = {"lz4": "lz4.frame", "zstd": "zstandard"}.get(name)
    if module is None:
        return None
    try:
        return name, import_module(module).compress
    except ImportError as error:
        raise FootageError(f"{path}: compression {name} needs a package that is not installed") from error
