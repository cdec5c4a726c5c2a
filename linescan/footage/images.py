"""Image files: each one, or each page of a TIFF, is a frame."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.errors import FootageError
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
        return self._decoded(name, report.data, report.lines, report.grey)

    def _pages(self, name: str, stream: io.BufferedReader) -> Generator[FootageFrame, None, None]:
        for index, page in enumerate(tiff.pages(stream)):
            if page.error is None and page.data is not None:
                yield self._decoded(page.name(name, index), page.data(), page.lines, page.grey, page)
            else:
                yield unreadable(page.name(name, index), page.error or "", page.lines)
