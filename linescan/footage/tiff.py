"""The pages of a TIFF file (TIFF 6.0, BigTIFF), each rewritten as a small file of its own for the decoder.

A stack can be larger than memory and than what decoders take in one piece, and they number its pages from the start
for every page. Rewriting also leaves out the tags that decoders warn about.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from linescan.footage.formats import MAX_LINES

# Bytes of a value of each field type.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SHORT, _LONG, _LONG8 = 3, 4, 16
_INTEGERS = {1: "B", _SHORT: "H", _LONG: "I", _LONG8: "Q"}
_SUBFILE, _COLUMNS, _LINES, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 254, 256, 257, 258, 259, 262, 270
_STRIPS, _SAMPLES, _STRIP_SIZES, _PLANES, _TILES, _TILE_SIZES = 273, 277, 279, 284, 324, 325
# What a decoder needs: fill order, rows per strip, planar configuration, fax options, predictor, palette, tile size,
# extra samples, sample format, JPEG tables, YCbCr. Not the orientation: lines stay in the order they were stored.
_KEPT = {_COLUMNS, _LINES, _BITS, _COMPRESSION, 266, _SAMPLES, 278, _PLANES, 292, 293, 317, 320, 322, 323}
_KEPT |= {338, 339, 347, 529, 530, 531, 532}
_USED = {_SUBFILE, _PHOTOMETRIC, _DESCRIPTION, _STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES}
_REDUCED_OR_MASK = 0b101
_UNCOMPRESSED, _YCBCR = 1, 6
_MAX_TAG_BYTES = 1 << 26
_MAX_PAGE_BYTES = 1 << 31


@dataclass(frozen=True)
class Tag:
    kind: int
    count: int
    raw: bytes
    """the values in the file's byte order"""


@dataclass(frozen=True)
class Page:
    """One image of the file; `lines` 0 where that cannot be read."""

    lines: int = 0
    error: str | None = None
    alone: bool = False
    """the only one of its file"""
    order: str = "<"
    tags: dict[int, Tag] = field(default_factory=dict)
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def numbers(self, number: int) -> tuple[int, ...]:
        """The values of a tag of integers; none where the page lacks it."""
        tag = self.tags.get(number)
        if tag is None or tag.kind not in _INTEGERS:
            return ()
        return struct.unpack(f"{self.order}{tag.count}{_INTEGERS[tag.kind]}", tag.raw)

    def number(self, number: int, default: int) -> int:
        values = self.numbers(number)
        return values[0] if values else default

    @property
    def white_is_zero(self) -> bool:
        return self.number(_PHOTOMETRIC, 1) == 0

    @property
    def packed_bits(self) -> int:
        """10, 12 or 14 where values are packed so; decoders return them as the high bits of 16. Else 0."""
        bits = self.number(_BITS, 1)
        return bits if bits in (10, 12, 14) else 0


def pages(stream: BinaryIO) -> Iterator[Page]:
    """The images of a TIFF file in order; a last one with an error where the chain of directories breaks.

    Reduced versions and masks of another image are left out. Raises OSError only.
    """
    size = stream.seek(0, 2)
    seen: set[int] = set()
    try:
        order, big, at = _header(stream, size)
        while at:
            if at in seen:
                raise ValueError("its directories form a loop")
            seen.add(at)
            tags, at = _directory(stream, at, size, order, big)
            page = _checked(Page(order=order, tags=tags, alone=len(seen) == 1 and at == 0), size)
            if page.alone:
                yield from _contiguous(page, size)
            elif not page.number(_SUBFILE, 0) & _REDUCED_OR_MASK:
                yield page
    except (struct.error, ValueError) as error:
        yield Page(error=f"is cut off or damaged: {error}", alone=len(seen) < 2)


def single(stream: BinaryIO, page: Page) -> bytes:
    """The page as a classic TIFF file of its own; white-is-zero becomes black-is-zero, its values unchanged.

    Tags keep BigTIFF's 64-bit integers, which libtiff takes in a classic file too. Raises ValueError where the file
    has become shorter.
    """
    order, tiled = page.order, _TILES in page.tags
    file, offsets = io.BytesIO(bytes(8)), []
    file.seek(8)
    for offset, size in zip(page.offsets, page.sizes, strict=True):
        offsets.append(file.tell())
        file.write(_read(stream, offset, size, offset + size))
    tags = {number: tag for number, tag in page.tags.items() if number in _KEPT}
    tags[_PHOTOMETRIC] = _tag(order, _SHORT, [page.number(_PHOTOMETRIC, 1) or 1])
    tags[_TILES if tiled else _STRIPS] = _tag(order, _LONG, offsets)
    tags[_TILE_SIZES if tiled else _STRIP_SIZES] = _tag(order, _LONG, page.sizes)
    entries = b""
    for number, tag in sorted(tags.items()):
        value = tag.raw.ljust(4, b"\0")
        if len(tag.raw) > 4:
            value = struct.pack(order + "I", file.tell())
            file.write(tag.raw)
        entries += struct.pack(order + "HHI", number, tag.kind, tag.count) + value
    directory = file.tell()
    file.write(struct.pack(order + "H", len(tags)) + entries + bytes(4))
    file.seek(0)
    file.write((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory))
    return file.getvalue()


def _tag(order: str, kind: int, values: Sequence[int]) -> Tag:
    return Tag(kind, len(values), struct.pack(f"{order}{len(values)}{_INTEGERS[kind]}", *values))


def _read(stream: BinaryIO, at: int, length: int, size: int) -> bytes:
    if at + length > size:
        raise ValueError(f"byte {at + length} is needed, it has {size}")
    stream.seek(at)
    data = stream.read(length)
    if len(data) < length:
        raise ValueError(f"byte {at + length} is needed, it has {at + len(data)}")
    return data


def _header(stream: BinaryIO, size: int) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, the first directory's place."""
    head = _read(stream, 0, 8, size)
    order = "<" if head.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    if big:
        return order, big, struct.unpack(order + "Q", _read(stream, 8, 8, size))[0]
    return order, big, struct.unpack_from(order + "I", head, 4)[0]


def _directory(stream: BinaryIO, at: int, size: int, order: str, big: bool) -> tuple[dict[int, Tag], int]:
    """The tags of the directory at `at` that matter here, and the next one's place (0: none)."""
    count, entry, pointer = (order + code for code in (("Q", "HHQ", "Q") if big else ("H", "HHI", "I")))
    inline = struct.calcsize(pointer)
    step, start = struct.calcsize(entry) + inline, at + struct.calcsize(count)
    entries = struct.unpack(count, _read(stream, at, struct.calcsize(count), size))[0]
    data = _read(stream, start, entries * step + inline, size)
    tags = {}
    for i in range(entries):
        number, kind, values = struct.unpack_from(entry, data, i * step)
        if number not in _KEPT | _USED or kind not in _TYPE_SIZES:
            continue
        length, place = values * _TYPE_SIZES[kind], (i + 1) * step - inline
        if length > _MAX_TAG_BYTES:
            raise ValueError(f"tag {number} has {length} bytes")
        if length <= inline:
            raw = data[place : place + length]
        else:
            raw = _read(stream, struct.unpack_from(pointer, data, place)[0], length, size)
        tags[number] = Tag(kind, values, raw)
    return tags, struct.unpack_from(pointer, data, entries * step)[0]


def _checked(page: Page, size: int) -> Page:
    """The page with its size and the places of its pixels, or with what is wrong with them."""
    tiled = _TILES in page.tags
    offsets = page.numbers(_TILES if tiled else _STRIPS)
    sizes = page.numbers(_TILE_SIZES if tiled else _STRIP_SIZES)
    lines, samples, error = page.number(_LINES, 0), page.number(_SAMPLES, 1), None
    end = max((offset + length for offset, length in zip(offsets, sizes, strict=False)), default=0)
    if lines > MAX_LINES:
        lines, error = 0, f"is damaged: {lines} lines announced"
    elif not lines or not offsets or len(offsets) != len(sizes):
        error = "is damaged: its directory does not say where the pixels are"
    elif end > size:
        error = f"is cut off: its pixels end at byte {end}, it has {size}"
    elif samples not in (1, 3, 4):
        error = f"has {samples} values a pixel: 1, 3 or 4 expected"
    elif sum(sizes) >= _MAX_PAGE_BYTES:
        error = f"has {sum(sizes)} bytes: at most {_MAX_PAGE_BYTES} expected"
    elif sum(sizes) < _fewest_bytes(page, lines, samples):
        error = f"is damaged: {sum(sizes)} bytes of pixels, {_fewest_bytes(page, lines, samples)} expected"
    return replace(page, lines=lines, error=error, offsets=offsets, sizes=sizes)


def _fewest_bytes(page: Page, lines: int, samples: int) -> int:
    """Bytes of the pixels where that is known beforehand: decoders fill what is missing with zeros."""
    if page.number(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED or page.number(_PHOTOMETRIC, 1) == _YCBCR:
        return 1
    planes, values = (samples, 1) if page.number(_PLANES, 1) == 2 else (1, samples)
    return max(1, (page.number(_COLUMNS, 0) * page.number(_BITS, 1) * values + 7) // 8 * lines * planes)


def _contiguous(page: Page, size: int) -> Iterator[Page]:
    """The images of a file with one directory: ImageJ (over 4 GiB) and tifffile (on demand) write the rest behind."""
    step, images = sum(page.sizes), _images(page)
    gapless = all(a + n == b for a, n, b in zip(page.offsets, page.sizes, page.offsets[1:], strict=False))
    if images < 2 or page.error or not gapless or page.number(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        yield page
        return
    whole = min(images, (size - page.offsets[0]) // step)
    for i in range(whole):
        yield replace(page, alone=False, offsets=tuple(offset + i * step for offset in page.offsets))
    if whole < images:
        yield Page(page.lines * (images - whole), f"is cut off: {whole} of its {images} images are there")


def _images(page: Page) -> int:
    text = page.tags[_DESCRIPTION].raw.rstrip(b"\0") if _DESCRIPTION in page.tags else b""
    imagej = re.match(rb"ImageJ=.*?^images=(\d+)", text, re.DOTALL | re.MULTILINE)
    if imagej:
        return int(imagej[1])
    shaped = re.match(rb'\{"shape": \[([\d, ]+)\]', text)
    if not shaped:
        return 1
    pixels = page.lines * page.number(_COLUMNS, 1) * page.number(_SAMPLES, 1)
    return math.prod(int(length) for length in shaped[1].split(b",")) // max(pixels, 1)
