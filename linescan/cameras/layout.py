"""How a camera's buffer holds the pixels (PFNC formats), and copying them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linescan.cameras.camera import BufferPool
from linescan.messages import PixelFormat
from linescan.pixels import FORMATS

PACKED: dict[str, PixelFormat] = {"Mono12p": "Mono12"}  # two pixels in three bytes, unpacked here
NAMES: tuple[str, ...] = (*FORMATS, *PACKED)
BLOCK = 1 << 15  # pairs of pixels unpacked at once: its intermediates stay in the cache


@dataclass(frozen=True)
class Layout:
    """Lines of `columns` pixels in the PFNC format `name`, one of NAMES."""

    name: str
    columns: int

    @property
    def pixel_format(self) -> PixelFormat:
        """As the pixels are once they are copied out."""
        return PACKED[self.name] if self.name in PACKED else next(name for name in FORMATS if name == self.name)

    @property
    def line_bits(self) -> int:
        dtype, channels, _ = FORMATS[self.pixel_format]
        return self.columns * (12 if self.name in PACKED else channels * np.dtype(dtype).itemsize * 8)

    def image_bytes(self, lines: int, padding: int = 0) -> int:
        """Bytes from the first to the last pixel, with `padding` bytes between the lines.

        Packed lines follow one another without a break, in the middle of a byte too, unless there is padding.
        """
        if padding == 0:
            return -(-lines * self.line_bits // 8)
        return lines * (-(-self.line_bits // 8) + padding) - padding

    def copy(self, raw: bytes, offset: int, lines: int, padding: int, pool: BufferPool) -> NDArray[Any]:
        """The image at `offset` of `raw`, in memory of `pool`: lines×columns[×3], the values in the low bits."""
        dtype, channels, _ = FORMATS[self.pixel_format]
        shape = (lines, self.columns) + ((channels,) if channels > 1 else ())
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        target = pool.take(size)
        rows = self._rows(raw, offset, lines, padding)
        if self.name in PACKED:
            pixels = target.view(np.uint16).reshape(len(rows), -1)
            for source, line in zip(rows, pixels, strict=True):
                unpack_mono12p(source, line)
        else:
            target.reshape(rows.shape)[...] = rows
        return target.view(dtype).reshape(shape)

    def _rows(self, raw: bytes, offset: int, lines: int, padding: int) -> NDArray[np.uint8]:
        """The bytes of the pixels: lines×bytes, or 1×bytes where nothing lies between the lines."""
        if padding == 0:
            return np.frombuffer(raw, np.uint8, self.image_bytes(lines), offset)[None]
        line_bytes = -(-self.line_bits // 8)
        flat = np.frombuffer(raw, np.uint8, self.image_bytes(lines, padding), offset)
        return np.lib.stride_tricks.as_strided(flat, (lines, line_bytes), (line_bytes + padding, 1), writeable=False)


def unpack_mono12p(packed: NDArray[np.uint8], pixels: NDArray[np.uint16]) -> None:
    """Unpacks ⌈1.5 N⌉ bytes into N values: pixel 0 is byte 0 and the low half of byte 1, pixel 1 the rest.

    Two pixels at a time, as one 32-bit number (little-endian) that is read where it lies, and spread.
    """
    pairs = max((len(packed) - 1) // 3, 0)  # each read takes a byte more than its pair has
    words: NDArray[np.uint32] = np.ndarray((pairs,), "<u4", packed.data, 0, (3,))
    spread = pixels[: 2 * pairs].view("<u4")
    scratch = np.empty(BLOCK, "<u4")
    for first in range(0, pairs, BLOCK):
        out = spread[first : first + BLOCK]
        word = scratch[: len(out)]
        np.copyto(word, words[first : first + BLOCK])
        np.left_shift(word, 4, out=out)
        out &= 0x0FFF0000
        word &= 0x0FFF
        out |= word
    rest = int.from_bytes(packed[3 * pairs :].tobytes(), "little")
    for index in range(2 * pairs, len(pixels)):
        pixels[index] = rest >> 12 * (index - 2 * pairs) & 0x0FFF
