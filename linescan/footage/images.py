"""Image files: each one, or each page of a TIFF, is a frame."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.errors import ConfigError, FootageError
from linescan.files import write_atomically
from linescan.footage import formats, tiff
from linescan.footage.frames import Footage, FootageFrame, Pixels, unreadable

_WRITABLE = {".png": (np.uint8, np.uint16), ".tif": (np.uint8, np.uint16, np.float32)}
_WRITABLE[".tiff"] = _WRITABLE[".tif"]


class ImageFootage(Footage):
    """Image files in the given order, read one at a time."""

    def __init__(self, path: str, files: Sequence[Path], bit_depth: int | None = None) -> None:
        """`bit_depth`: what full scale means in 16-bit files (10 or 12 where a camera's values were stored as such)."""
        self._files = list(files)
        self._depth = bit_depth
        super().__init__(path)
        if bit_depth is not None and bit_depth != self.bit_depth:
            raise FootageError(f"{path}: {self.bit_depth} bits a value, but bit_depth={bit_depth} was given")

    def _frames(self) -> Generator[FootageFrame, None, None]:
        for file in self._files:
            try:
                with file.open("rb") as stream:
                    if stream.read(4) in formats.TIFF:
                        yield from self._pages(file.name, stream)
                    else:
                        stream.seek(0)
                        yield self._image(file.name, stream.read())
            except OSError as error:
                yield unreadable(file.name, f"cannot be read: {error.strerror}")

    def _count(self) -> int:
        """Of several files each counts as one frame: looking into all of them would take too long."""
        if len(self._files) > 1:
            return len(self._files)
        with self._files[0].open("rb") as stream:
            return sum(1 for _ in tiff.pages(stream)) if stream.read(4) in formats.TIFF else 1

    def _image(self, name: str, data: bytes) -> FootageFrame:
        report = formats.inspect(data)
        if report.error is not None:
            return unreadable(name, report.error, report.lines)
        return self._frame(name, report.lines, _decode(report.data, report.grey))

    def _pages(self, file: str, stream: BinaryIO) -> Generator[FootageFrame, None, None]:
        for index, page in enumerate(tiff.pages(stream)):
            name = file if page.alone else f"{file}#{index}"
            if page.error is not None:
                yield unreadable(name, page.error, page.lines)
                continue
            try:
                pixels = _decode(tiff.single(stream, page))
            except ValueError as error:  # the file shrank meanwhile
                pixels = f"is cut off: {error}"
            if not isinstance(pixels, str) and page.white_is_zero:
                pixels = np.invert(pixels)
            if not isinstance(pixels, str) and page.packed_bits:
                pixels = np.right_shift(pixels, 16 - page.packed_bits)
            yield self._frame(name, page.lines, pixels, page.packed_bits)

    def _frame(self, name: str, lines: int, pixels: Pixels | str, packed_bits: int = 0) -> FootageFrame:
        if isinstance(pixels, str):
            return unreadable(name, pixels, lines)
        if lines and pixels.shape[0] != lines:
            return unreadable(name, f"was decoded to {pixels.shape[0]} lines, its header says {lines}", lines)
        depth = 8 if pixels.dtype == np.uint8 else self._depth or packed_bits or 16
        return FootageFrame(name, pixels.shape[0], pixels, depth)


def _decode(data: bytes, grey: bool = False) -> Pixels | str:
    """The pixels, lines×columns or lines×columns×3 (RGB), of a file known to be whole, or why there are none."""
    try:
        image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # limits of size
        return f"cannot be decoded: {error.err}"
    if image is None:
        return "cannot be decoded: it is damaged, or of a kind that is not supported"
    if image.dtype not in (np.uint8, np.uint16):
        return f"holds {image.dtype} values: unsigned ones of 8 or 16 bits expected"
    if image.ndim == 3 and image.shape[2] == 4:
        if image[..., 3].min() != np.iinfo(image.dtype).max:
            return "is transparent: an opaque image expected"
        image = image[..., :3]
    if image.ndim == 3:
        image = image[..., 0] if grey else image[..., ::-1]
    return np.ascontiguousarray(image)


def write_image(path: str | Path, image: NDArray[Any]) -> None:
    """Writes lines×columns or lines×columns×3 (RGB) pixels as PNG (8, 16 bit) or TIFF (also float32).

    The file appears whole or not at all. Raises FootageError.
    """
    path = Path(path)
    kinds = _WRITABLE.get(path.suffix.lower(), ())
    if image.dtype not in kinds:
        raise FootageError(f"{path}: {image.dtype} pixels cannot be written to a {path.suffix} file")
    try:
        written, data = cv2.imencode(path.suffix.lower(), image[..., ::-1] if image.ndim == 3 else image)
    except cv2.error as error:
        raise FootageError(f"{path}: {image.shape} pixels cannot be encoded: {error.err}") from error
    if not written:
        raise FootageError(f"{path}: {image.shape} pixels cannot be encoded")
    try:
        write_atomically(path, data.tobytes())
    except ConfigError as error:
        raise FootageError(str(error)) from error
    except OSError as error:
        raise FootageError(f"{path}: cannot be written: {error.strerror}") from error
