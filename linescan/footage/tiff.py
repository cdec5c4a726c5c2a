"""The pages of a TIFF file (TIFF 6.0, BigTIFF), each rewritten as a small file of its own for the decoder.

A stack can be larger than memory and than what decoders take in one piece, and they number its pages from the start
for every page. Rewriting also leaves out the tags that decoders warn about.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

# Bytes of a value of each field type.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SHORT, _LONG, _LONG8 = 3, 4, 16
_INTEGERS = {1: "B", _SHORT: "H", _LONG: "I", _LONG8: "Q"}
_SUBFILE, _COLUMNS, _LINES, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 254, 256, 257, 258, 259, 262, 270
_STRIPS, _SAMPLES, _STRIP_SIZES, _TILES, _TILE_SIZES = 273, 277, 279, 324, 325
# What a decoder needs: fill order, rows per strip, planar configuration, fax options, predictor, palette, tile size,
# extra samples, sample format, JPEG tables, YCbCr. Not the orientation: lines stay in the order they were stored.
_KEPT = {_COLUMNS, _LINES, _BITS, _COMPRESSION, 266, _SAMPLES, 278, 284, 292, 293, 317, 320, 322, 323, 338, 339, 347}
_KEPT |= {529, 530, 531, 532}
_REDUCED_OR_MASK = 0b101
_MAX_TAG_BYTES = 1 << 26
_BROKEN = "is cut off or damaged: its directory {}"


@dataclass(frozen=True)
class Tag:
    kind: int
    count: int
    raw: bytes
    """the values in the file's byte order"""


@dataclass(frozen=True)
class Page:
    """One directory of the file; `lines` 0 where it cannot be read."""

    lines: int = 0
    error: str | None = None
    alone: bool = False
    """the only page of its file"""
    order: str = "<"
    tags: dict[int, Tag] | None = None
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        values = _integers(self.tags or {}, tag, self.order)
        return values[0] if values else default

    @property
    def white_is_zero(self) -> bool:
        return self.number(_PHOTOMETRIC, 1) == 0

    @property
    def packed_bits(self) -> int:
        """10, 12 or 14 where values are packed so, which decoders return as the high bits of 16; else 0."""
        bits = self.number(_BITS, 1)
        return bits if bits in (10, 12, 14) else 0


def pages(stream: BinaryIO) -> Iterator[Page]:
    """The pages of a TIFF file in order; one with an error where the chain of directories breaks.

    Reduced versions and masks of another page are left out. Raises OSError only.
    """
    size = stream.seek(0, 2)
    try:
        order, big, offset = _header(_read(stream, 0, 16, size))
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise ValueError("chain is a loop")
            seen.add(offset)
            tags, following = _directory(stream, offset, size, order, big)
            page = replace(_page(tags, order, size), alone=len(seen) == 1 and following == 0)
            if not page.number(_SUBFILE) & _REDUCED_OR_MASK:
                yield from _contiguous(page, size) if page.alone else [page]
            offset = following
    except (struct.error, ValueError) as error:
        yield Page(error=_BROKEN.format(error))


def single(stream: BinaryIO, page: Page) -> bytes:
    """The page as a classic TIFF file of its own, white-is-zero as black-is-zero."""
    tags = {number: tag for number, tag in (page.tags or {}).items() if number in _KEPT}
    order = page.order
    photometric = 1 if page.white_is_zero else page.number(_PHOTOMETRIC, 1)
    tags[_PHOTOMETRIC] = Tag(_SHORT, 1, struct.pack(order + "H", photometric))
    tiled = _TILES in (page.tags or {})
    long = struct.Struct(f"{order}{len(page.sizes)}I")
    tags[_TILE_SIZES if tiled else _STRIP_SIZES] = Tag(_LONG, len(page.sizes), long.pack(*page.sizes))
    start = 8 + 6 + 12 * (len(tags) + 1) + sum(len(tag.raw) for tag in tags.values() if len(tag.raw) > 4)
    start += long.size if long.size > 4 else 0
    offsets = [start + sum(page.sizes[:i]) for i in range(len(page.sizes))] if len(page.sizes) < 2 else _running(
        start, page.sizes
    )
    tags[_TILES if tiled else _STRIPS] = Tag(_LONG, len(page.sizes), long.pack(*offsets))
    return b""
