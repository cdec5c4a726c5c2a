"""Reading MCAP recordings: front to back, whole chunks only, so that a recording without its end is read as well."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError, UnsupportedCompressionError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Statistics
from mcap.stream_reader import breakup_chunk

from linescan import messages
from linescan.errors import FootageError
from linescan.footage.frames import Footage, FootageFrame, unreadable
from linescan.footage.mcap import ENCODING, TOPIC, unpack

MAGIC = b"\x89MCAP0\r\n"
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

    def cameras(self) -> list[str]:
        return sorted({channel.topic.removeprefix(TOPIC) for channel in self.channels.values() if _is_ours(channel)})

    def frames(self, camera: str) -> int:
        return sum(
            self.counts.get(number, 0)
            for number, channel in self.channels.items()
            if _is_ours(channel) and channel.topic == TOPIC + camera
        )


class McapFootage(Footage):
    """The frames of one camera of an MCAP recording, finished or cut off.

    A chunk with a wrong checksum, or a message without a header, becomes one unreadable frame with those next to it,
    its lines reckoned from the line numbers around it; where these leave no room for lost lines (it held another
    camera's) there is none. Lines that were never recorded show in `first_line` alone. After an iteration `ignored`
    counts the messages of other topics and `damaged` the chunks that could not be read.
    """

    ignored = 0
    damaged = 0

    def __init__(self, path: Path, camera: str | None = None) -> None:
        """`camera` is needed where the recording has several; raises FootageError.

        A recording that was not finished has no list of its cameras: then a second one raises when its first frame
        is reached.
        """
        self._file = path
        self._summary = self._opened()
        self.camera, self._chosen = camera, camera is not None
        if self._summary is not None:
            cameras = self._summary.cameras()
            if camera is None and len(cameras) > 1:
                raise _ambiguous(path, cameras)
            if not cameras or (camera is not None and camera not in cameras):
                expected = "a camera" if camera is None else f"camera {camera!r}"
                raise FootageError(f"{path}: frames of {expected} expected, it has cameras {cameras}")
            self.camera = camera or cameras[0]
        super().__init__(str(path))

    def _opened(self) -> Summary | None:
        try:
            with self._file.open("rb") as stream:
                magic = stream.read(len(MAGIC))
                if magic != MAGIC:
                    raise FootageError(f"{self._file}: an MCAP recording expected, it begins with {magic!r}")
                return _read_summary(stream)
        except OSError as error:
            raise FootageError(f"{self._file}: cannot be read: {error.strerror}") from error

    def _count(self) -> int | None:
        return self._summary.frames(self.camera or "") if self._summary is not None else None

    def _frames(self) -> Generator[FootageFrame, None, None]:
        for index, frame in enumerate(self._accounted()):
            yield replace(frame, name=f"{self._file.name}#{index}")

    def _accounted(self) -> Iterator[FootageFrame]:
        """The frames and, between them, one for what damaged chunks and messages have swallowed."""
        damage: str | None = None
        before: messages.Frame | None = None
        for item in self._messages():
            if isinstance(item, str) or item.header is None:
                damage = damage or (item if isinstance(item, str) else item.error)
                continue
            if damage is not None:
                lost = _lost(damage, before, item.header)
                if lost is not None:
                    yield lost
                damage = None
            yield item
            before = item.header
        if damage is not None:
            yield replace(unreadable("", damage), first_line=_end(before))

    def _messages(self) -> Iterator[FootageFrame | str]:
        """The camera's frames as they are stored; a text in the place of a chunk that cannot be read."""
        self.truncated, self.ignored, self.damaged, seen = None, 0, 0, 0
        channels = dict(self._summary.channels) if self._summary is not None else {}
        with self._file.open("rb") as stream:
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
                        frame = self._frame(channels.get(record.channel_id), record.data)
                        if frame is not None:
                            seen += 1
                            yield frame
        self.truncated = self._ending(records, seen)

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
            raise FootageError(f"{self._file}: {error}: a package is missing") from error
        except _DAMAGE as error:
            return f"is lost: a part of the recording is damaged ({str(error) or type(error).__name__})"

    def _ending(self, records: Records, seen: int) -> str | None:
        expected = self._count()
        if records.broken is not None:
            return f"{self._file} was not finished or is damaged: its records end at byte {records.broken}"
        if expected is not None and seen != expected:
            return f"{self._file} says that it has {expected} frames, {seen} are readable"
        return None

    def _frame(self, channel: Channel | None, data: bytes) -> FootageFrame | None:
        """The frame in a message; None (and counted) where it is not one of this camera."""
        frame = None
        if channel is not None:  # a damaged chunk may have held the channel: then the message itself knows its camera
            camera = channel.topic.removeprefix(TOPIC) if _is_ours(channel) else None
        else:
            frame = unpack(data)
            camera = frame.header.camera if frame.header is not None else None
        if camera is not None and self.camera is None:
            self.camera = camera
        if camera is None or camera != self.camera:
            if camera is not None and not self._chosen:
                raise _ambiguous(self._file, sorted({camera, self.camera or ""}))
            self.ignored += 1
            return None
        return frame or unpack(data, camera)


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


def _is_ours(channel: Channel) -> bool:
    return channel.message_encoding == ENCODING and channel.topic.startswith(TOPIC)


def _ambiguous(path: Path, cameras: list[str]) -> FootageError:
    return FootageError(f"{path}: it has frames of the cameras {', '.join(cameras)}: choose one with camera=")


def _end(frame: messages.Frame | None) -> int | None:
    return None if frame is None else frame.first_line + frame.lines


def _lost(damage: str, before: messages.Frame | None, after: messages.Frame | None) -> FootageFrame | None:
    """The lines lost between two frames; None where their numbers leave no room for any."""
    lost, start = unreadable("", damage), _end(before)
    if after is None or (before is not None and before.roll != after.roll):
        return replace(lost, first_line=start)
    if start is None:  # before the first frame: at most as many lines as it has, and not before the roll's start
        lines = min(after.lines, after.first_line)
        lost = replace(lost, lines=lines, first_line=after.first_line - lines, estimated=True)
        return lost if lines else None
    lines = after.first_line - start
    return replace(lost, lines=lines, first_line=start) if lines > 0 else None
