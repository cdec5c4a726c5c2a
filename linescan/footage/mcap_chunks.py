"""Writes the chunks of an MCAP file (mcap.dev/spec) from parts as they lie in memory, and the index at its end.

The package's own writer copies each message five times; a camera's frames go here from where they are to the file.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    MessageIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

MAGIC = b"\x89MCAP0\r\n"
Part = bytes | memoryview
_MESSAGE = struct.Struct("<BQHIQQ")  # opcode, length; channel, sequence, log time, publish time; then the data
_CHUNK = struct.Struct("<BQQQQI")  # opcode, length; first and last time, uncompressed size, CRC; then compression, data
_FOOTER = struct.Struct("<BQQQ")  # what of the footer its CRC covers


class ChunkWriter:
    """An MCAP file being written; a chunk is full, and handed to the system, from `chunk_bytes` on (0: each message).

    Every method that writes raises OSError; what was handed over before stays readable.

    Args:
        descriptor: of the new file.
        compress: of a chunk's content, and its name; None: as it is.
    """

    def __init__(
        self, descriptor: int, chunk_bytes: int, compress: tuple[str, Callable[[bytes], bytes]] | None = None
    ) -> None:
        self._file, self._chunk_bytes, self._compress = descriptor, chunk_bytes, compress
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunks: list[ChunkIndex] = []
        self._counts: Counter[int] = Counter()
        self._parts: list[Part] = []
        self._indexes: dict[int, MessageIndex] = {}
        self._pending = 0  # bytes in _parts
        self.size = 0  # bytes of the file
        self._write([MAGIC, _packed(Header(profile="", library="linescan"))])

    @property
    def pending(self) -> int:
        """Bytes that wait for their chunk to be full."""
        return self._pending

    @property
    def chunks(self) -> int:
        """How many were handed over whole."""
        return len(self._chunks)

    def add_channel(self, topic: str, encoding: str, schema: bytes) -> int:
        """A new channel, described in the next chunk; returns its id."""
        number = len(self._channels) + 1
        self._schemas.append(Schema(id=number, data=schema, encoding="text/plain", name=encoding))
        self._channels.append(Channel(number, topic, encoding, {}, number))
        for record in (self._schemas[-1], self._channels[-1]):
            self._put([_packed(record)])
        return number

    def add(self, channel: int, time_ns: int, parts: Sequence[Part]) -> None:
        """Appends a message; its parts are copied only where their chunk is not yet full."""
        length = sum(map(len, parts))
        index = self._indexes.setdefault(channel, MessageIndex(channel, []))
        index.records.append((time_ns, self._pending))
        sequence = self._counts[channel] & 0xFFFFFFFF
        head = _MESSAGE.pack(Opcode.MESSAGE, length + 22, channel, sequence, time_ns, time_ns)
        self._counts[channel] += 1
        full = self._pending + len(head) + length >= self._chunk_bytes
        self._put([head, *(parts if full else map(bytes, parts))])
        if full:
            self.flush()

    def flush(self) -> None:
        """Hands the chunk over as it is."""
        if not self._indexes:
            return
        times = [time for index in self._indexes.values() for time, _ in index.records]
        crc, parts, size = 0, self._parts, self._pending
        for part in parts:
            crc = zlib.crc32(part, crc)
        name = b""
        if self._compress is not None:
            name = self._compress[0].encode()
            parts = [self._compress[1](b"".join(parts))]
        stored = sum(map(len, parts))
        tail = struct.pack("<I", len(name)) + name + struct.pack("<Q", stored)
        length = _CHUNK.size - 9 + len(tail) + stored
        head = _CHUNK.pack(Opcode.CHUNK, length, min(times), max(times), size, crc)
        indexes = {channel: _packed(index) for channel, index in self._indexes.items()}
        at = self.size
        self._write([head, tail, *parts, *indexes.values()])
        offsets, place = {}, at + 9 + length
        for channel, packed in indexes.items():
            offsets[channel] = place
            place += len(packed)
        self._chunks.append(
            ChunkIndex(
                chunk_length=9 + length, chunk_start_offset=at, compression=name.decode(), compressed_size=stored,
                message_end_time=max(times), message_index_length=place - at - 9 - length,
                message_index_offsets=offsets, message_start_time=min(times), uncompressed_size=size,
            )
        )  # fmt: skip
        self._parts, self._indexes, self._pending = [], {}, 0

    def finish(self) -> None:
        """Writes the last chunk and the index; the file stays open."""
        self.flush()
        self._write([_packed(DataEnd(0))])
        start, groups, offsets = self.size, b"", b""
        for kind, records in (
            (Opcode.SCHEMA, self._schemas),
            (Opcode.CHANNEL, self._channels),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, self._chunks),
        ):
            group = b"".join(map(_packed, records))
            offsets += _packed(SummaryOffset(kind, start + len(groups), len(group)))
            groups += group
        summary, offsets_at = groups + offsets, start + len(groups)
        crc = zlib.crc32(_FOOTER.pack(Opcode.FOOTER, 20, start, offsets_at), zlib.crc32(summary))
        self._write([summary, _packed(Footer(start, offsets_at, crc)), MAGIC])

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunks),
            message_count=self._counts.total(),
            metadata_count=0,
            message_start_time=min((chunk.message_start_time for chunk in self._chunks), default=0),
            message_end_time=max((chunk.message_end_time for chunk in self._chunks), default=0),
            schema_count=len(self._schemas),
        )

    def _put(self, parts: Sequence[Part]) -> None:
        self._parts += parts
        self._pending += sum(map(len, parts))

    def _write(self, parts: Sequence[Part]) -> None:
        for part in parts:
            rest = memoryview(part)
            while rest:  # the system takes at most 2 GiB at once, and less where the disk is nearly full
                rest = rest[os.write(self._file, rest) :]
            self.size += len(part)


def _packed(record: Any) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    data: bytes = builder.end()  # type: ignore[no-untyped-call]
    return data
