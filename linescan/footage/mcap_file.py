"""One MCAP file, front to back, whole chunks only, so that a file without its end is read as well."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError, UnsupportedCompressionError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Statistics
from mcap.stream_reader import breakup_chunk

from linescan.errors import FootageError
from linescan.footage.frames import FootageFrame
from linescan.footage.mcap import (
    ENCODING,
    EVENT_ENCODING,
    EVENT_TOPIC,
    TOPIC,
    RollEvent,
    unpack,
    unpack_event,
)
from linescan.footage.mcap_chunks import MAGIC

_WANTED = (Opcode.CHUNK, Opcode.MESSAGE, Opcode.CHANNEL, Opcode.STATISTICS)
_RECORD = struct.Struct("<BQ")  # opcode, length
_FOOTER = struct.Struct("<BQQQI8s")  # opcode, length, start of summary, of summary offsets, CRC, magic
# What parsing a damaged record raises: the package's own, short fields, bad text or checksum, lz4, absurd sizes.
_DAMAGE: tuple[type[Exception], ...] = (McapError, struct.error, ValueError, RuntimeError, MemoryError, OverflowError)
try:
    from zstandard import ZstdError

    _DAMAGE = (*_DAMAGE, ZstdError)
except ImportError:
    pass


@dataclass(frozen=True)
class Summary:
    """What a finished recording says at its end."""

    channels: dict[int, Channel]
    counts: dict[int, int]
    """messages by channel"""

    def cameras(self) -> set[str]:
        return {channel.topic.removeprefix(TOPIC) for channel in self.channels.values() if _holds_frames(channel)}

    def frames(self, camera: str) -> int:
        return sum(
            self.counts.get(number, 0)
            for number, channel in self.channels.items()
            if _holds_frames(channel) and channel.topic == TOPIC + camera
        )


class McapFile:
    """One file; `ignored`, `damaged` and `truncated` are of the last reading, as McapFootage's."""

    def __init__(self, path: Path, part: bool = False) -> None:
        """Reads the summary; raises FootageError where this is no MCAP file, unless it is a `part` that is cut off."""
        self.path = path
        self.ignored = self.damaged = 0
        self.truncated: str | None = None
        try:
            with path.open("rb") as stream:
                magic = stream.read(len(MAGIC))
                if magic != MAGIC and not (part and MAGIC.startswith(magic)):
                    raise FootageError(f"{path}: an MCAP recording expected, it begins with {magic!r}")
                self.summary = _read_summary(stream)
        except OSError as error:
            raise FootageError(f"{path}: cannot be read: {error.strerror}") from error

    def read(self, chosen: Chosen) -> Iterator[FootageFrame | RollEvent | str]:
        """The camera's frames and events as they are stored; a text in the place of a chunk that cannot be read."""
        self.truncated, self.ignored, self.damaged, seen = None, 0, 0, 0
        channels = dict(self.summary.channels) if self.summary is not None else {}
        with self.path.open("rb") as stream:
            records = Records(stream, len(MAGIC), stream.seek(0, 2))
            for opcode, data in records:
                parsed = self._parsed(opcode, data)
                if isinstance(parsed, str):
                    self.damaged += 1
                    yield parsed
                    continue
                for record in parsed:
                    if isinstance(record, Channel):
                        channels[record.id] = record
                    elif isinstance(record, Message):
                        item = self._item(channels.get(record.channel_id), record.data, chosen)
                        seen += isinstance(item, FootageFrame)
                        if item is not None:
                            yield item
        self.truncated = self._ending(records, seen, chosen.camera or "")

    def _parsed(self, opcode: int, data: bytes) -> list[McapRecord] | str:
        """The records in a chunk (its checksum verified) or the record itself; a text where it is damaged."""
        stream = ReadDataStream(BytesIO(data))
        try:
            if opcode == Opcode.CHUNK:
                return breakup_chunk(Chunk.read(stream), validate_crc=True)
            if opcode == Opcode.MESSAGE:
                return [Message.read(stream, len(data))]
            return [Channel.read(stream)] if opcode == Opcode.CHANNEL else []
        except UnsupportedCompressionError as error:
            raise FootageError(f"{self.path}: {error}: a package is missing") from error
        except _DAMAGE as error:
            return f"is lost: a part of the recording is damaged ({str(error) or type(error).__name__})"

    def _ending(self, records: Records, seen: int, camera: str) -> str | None:
        if records.broken is not None:
            return f"{self.path} was not finished or is damaged: its records end at byte {records.broken}"
        expected = None if self.summary is None else self.summary.frames(camera)
        if expected is not None and seen != expected:
            return f"{self.path} says that it has {expected} frames, {seen} are readable"
        return None

    def _item(self, channel: Channel | None, data: bytes, chosen: Chosen) -> FootageFrame | RollEvent | None:
        """What is in a message; None (and counted) where it is nothing of this camera."""
        frame: FootageFrame | None = None
        event: RollEvent | None = None
        camera: str | None = None
        if channel is None:  # a damaged chunk may have held the channel: then the message itself knows its camera
            event = unpack_event(data)
            frame = unpack(data) if event is None else None
            header = event or (frame.header if frame is not None else None)
            camera = header.camera if header is not None else None
        elif _holds_frames(channel):
            camera = channel.topic.removeprefix(TOPIC)
        elif channel.message_encoding == EVENT_ENCODING and channel.topic.startswith(EVENT_TOPIC):
            event = unpack_event(data)
            camera = event.camera if event is not None else None
        if camera is None or not chosen.takes(camera, self.path):
            self.ignored += 1
            return None
        return event or frame or unpack(data, camera)


class Chosen:
    """Which camera of a recording is read: the one that was asked for, or else the only one."""

    def __init__(self, camera: str | None, asked: bool) -> None:
        self.camera, self._asked = camera, asked

    def takes(self, camera: str, path: Path) -> bool:
        """Whether it is that one; raises FootageError where it is a second and none was asked for."""
        if self.camera is None:
            self.camera = camera
        if camera != self.camera and not self._asked:
            raise ambiguous(str(path), {camera, self.camera})
        return camera == self.camera


class Records:
    """The records between two bytes of a file that matter here, as (opcode, content), up to the data section's end.

    `broken` says afterwards where they ended before that. A wrong length cannot be told from a file that is cut off:
    what follows is not searched for records.
    """

    def __init__(self, stream: BinaryIO, at: int, end: int) -> None:
        self._stream, self._at, self._end = stream, at, end
        self.broken: int | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        at = self._at
        while True:
            self._stream.seek(at)
            head = self._stream.read(_RECORD.size)
            opcode, length = _RECORD.unpack(head) if len(head) == _RECORD.size else (0, 0)
            if opcode == Opcode.DATA_END:
                return
            if opcode == 0 or at + _RECORD.size + length > self._end:
                self.broken = at
                return
            if opcode in _WANTED:
                yield opcode, self._stream.read(length)
            at += _RECORD.size + length


def ambiguous(path: str, cameras: set[str]) -> FootageError:
    return FootageError(f"{path}: it has frames of the cameras {', '.join(sorted(cameras))}: choose one with camera=")


def _read_summary(stream: BinaryIO) -> Summary | None:
    """The summary at the file's end; None where there is none, or not a whole one."""
    end = stream.seek(0, 2) - _FOOTER.size
    if end < len(MAGIC):
        return None
    stream.seek(end)
    footer = stream.read(_FOOTER.size)
    opcode, _, start, _, crc, magic = _FOOTER.unpack(footer)
    if opcode != Opcode.FOOTER or magic != MAGIC or not len(MAGIC) <= start <= end:
        return None
    stream.seek(start)
    summary = zlib.crc32(stream.read(end - start))
    if crc and zlib.crc32(footer[: -4 - len(MAGIC)], summary) != crc:
        return None
    channels, counts = {}, {}
    try:
        for kind, data in Records(stream, start, end):
            content = ReadDataStream(BytesIO(data))
            if kind == Opcode.CHANNEL:
                channel = Channel.read(content)
                channels[channel.id] = channel
            elif kind == Opcode.STATISTICS:
                counts = dict(Statistics.read(content).channel_message_counts)
    except _DAMAGE:
        return None
    return Summary(channels, counts) if counts else None


def _holds_frames(channel: Channel) -> bool:
    return channel.message_encoding == ENCODING and channel.topic.startswith(TOPIC)
