"""Whether an image file is whole: decoders fill the rest of a cut-off picture with zeros or grey and say nothing."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

PNG, BMP, JPEG = b"\x89PNG\r\n\x1a\n", b"BM", b"\xff\xd8"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_LINES = 1 << 20  # decoders take no more; a header that says so is damaged
CUT_OFF = "is cut off after {} bytes"

# The rest can only make the decoder complain (broken colour profiles) or change nothing: it is not shown to it.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_GREY = (0, 4)
_PNG_PALETTE = 3
# 0xFF begins a marker, except as 0xFF00 (a data byte), before RST0…7 (within the data) and before another 0xFF (fill).
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_BMP_UNCOMPRESSED = (0, 3, 6)


@dataclass(frozen=True)
class Report:
    """What a file says of itself without being decoded; `lines` 0 where it does not say."""

    lines: int = 0
    error: str | None = None
    grey: bool = False
    """decoded to three equal channels, but grey"""
    data: bytes = b""
    """what the decoder is to be given"""


def inspect(data: bytes) -> Report:
    """Height and wholeness of a PNG, BMP or JPEG image; never raises."""
    if not data:
        return Report(error="is empty")
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(BMP):
        return _bmp(data)
    if data.startswith(JPEG):
        return _jpeg(data)
    return Report(error="is no PNG, BMP, TIFF or JPEG image")


def _png(data: bytes) -> Report:
    """Walks the chunks (PNG 3rd edition, 5.3) to IEND and checks each one's CRC."""
    lines, grey, kept, at = 0, False, [PNG], len(PNG)
    while True:
        if at + 12 > len(data):
            return Report(lines, CUT_OFF.format(len(data)))
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return Report(lines, CUT_OFF.format(len(data)))
        body = memoryview(data)[at + 8 : end - 4]
        if zlib.crc32(body, zlib.crc32(kind)) != struct.unpack_from(">I", data, end - 4)[0]:
            return Report(lines, f"is damaged: the CRC of its chunk at byte {at} is wrong")
        if at == len(PNG):
            if kind != b"IHDR" or length != 13:
                return Report(0, "is damaged: it does not begin with IHDR")
            lines, colour = struct.unpack_from(">I", body, 4)[0], body[9]
            grey = colour in _PNG_GREY
        elif kind == b"PLTE" and colour == _PNG_PALETTE:
            grey = body[0::3] == body[1::3] == body[2::3]
        elif kind == b"acTL":
            return Report(lines, "is an animation: one picture a file expected")
        if kind in _PNG_CHUNKS:
            kept.append(data[at:end])
        if kind == b"IEND":
            return Report(lines, None, grey, b"".join(kept))
        at = end


def _jpeg(data: bytes) -> Report:
    """Walks the segments (ITU T.81, B.1.1) to the EOI marker; damage within the coded data cannot be seen."""
    lines, at = 0, 2
    while (marker := _JPEG_MARKER.search(data, at)) is not None:
        kind = marker[1][0]
        if kind == _JPEG_END:
            return Report(lines, None, False, data)
        if marker.end() + 2 > len(data):
            break
        length = struct.unpack_from(">H", data, marker.end())[0]
        at = marker.end() + length
        if kind in _JPEG_SIZES and at <= len(data) and length >= 8:
            lines = struct.unpack_from(">H", data, marker.end() + 3)[0]
    return Report(lines, CUT_OFF.format(len(data)))


def _bmp(data: bytes) -> Report:
    """Compares the file's size with the one that its header asks for."""
    if len(data) < 34:
        return Report(0, CUT_OFF.format(len(data)))
    size, _, start, header = struct.unpack_from("<IIII", data, 2)
    if header == 12:  # BITMAPCOREHEADER
        columns, lines, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        columns, lines, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        lines = abs(lines)  # negative: stored top-down
    if compression in _BMP_UNCOMPRESSED:
        size = start + (columns * bits + 31) // 32 * 4 * lines
    if len(data) < size:
        return Report(lines if lines <= MAX_LINES else 0, CUT_OFF.format(len(data)))
    return Report(lines, None, False, data)
