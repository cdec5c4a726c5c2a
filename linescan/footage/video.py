"""Video files, as far as the decoder tells the truth: each picture is a frame of 8 bits."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from cv2.typing import MatLike

from linescan.errors import FootageError
from linescan.footage.frames import Footage, FootageFrame, Pixels, unreadable

GREY_TOLERANCE = 8
"""Largest difference between the channels of a picture that is grey: coding the colour planes adds a few levels."""


class VideoFootage(Footage):
    """A video; grey is stored as three equal channels and returned as one, decided by the first picture.

    The announced number of pictures is an estimate in some containers: a video that ends early says so in `truncated`,
    without frames for what is missing. A file that is cut off within a picture is decoded all the same, the rest of
    the picture made up: the last picture of such a file is unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.resolve()  # an absolute path is never taken for a protocol or a pattern
        super().__init__(str(path))

    @contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        capture = cv2.VideoCapture(str(self._file), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise FootageError(f"{self.path}: no video that can be decoded: damaged, cut off or of another kind")
            yield capture
        finally:
            capture.release()

    def _count(self) -> int | None:
        with self._opened() as capture:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def _frames(self) -> Generator[FootageFrame, None, None]:
        self.truncated = None
        announced = self._count()
        cut_off = self._cut_off()
        held, found = None, 0
        for frame in self._pictures():
            if held is not None:
                yield held
            held = frame
            found += 1
        if held is not None and cut_off:
            held = replace(held, pixels=None, error="is the last picture of a file that is cut off within or before it")
        if announced is not None and found < announced:
            self.truncated = f"{self.path} ends after {found} of about {announced} pictures"
        elif cut_off:
            self.truncated = f"{self.path} is cut off after {found} pictures"
        if held is not None:
            yield held

    def _pictures(self) -> Iterator[FootageFrame]:
        grey = None
        with self._opened() as capture:
            index = 0
            while True:
                read, image = capture.read()
                if not read:
                    return
                spread = int((image.max(axis=2) - image.min(axis=2)).max()) if image.ndim == 3 else 0
                grey = spread <= GREY_TOLERANCE if grey is None else grey
                name = f"{self._file.name}#{index}"
                if image.dtype != np.uint8:
                    yield unreadable(name, f"holds {image.dtype} values: 8 bits expected", image.shape[0])
                else:
                    pixels: Pixels = _grey(image) if grey and spread <= GREY_TOLERANCE else _rgb(image)
                    yield FootageFrame(name, image.shape[0], pixels, 8)
                index += 1

    def _cut_off(self) -> bool:
        with self._file.open("rb") as stream:
            return is_cut_off(stream)


def _grey(image: MatLike) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image, np.uint8)


def _rgb(image: MatLike) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def is_cut_off(stream: BinaryIO) -> bool:
    """Whether an AVI, MP4 or MOV file is shorter than its outermost parts say.

    Of other containers the decoder itself leaves out an incomplete last picture (seen with Matroska).
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(12)
    if head.startswith(b"RIFF"):
        return _riff_end(stream, size) > size
    if head[4:8] in (b"ftyp", b"wide", b"moov", b"mdat"):
        return _boxes_end(stream, size) > size
    return False


def _riff_end(stream: BinaryIO, size: int) -> int:
    """Where the last RIFF list ends; past `size` also where its writer never came to note its length."""
    at = end = 0
    while at + 8 <= size:
        stream.seek(at)
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind != b"RIFF":  # something behind the video
            break
        if length == 0:
            return size + 1
        end = at + 8 + length
        at = end + length % 2
    return end


def _boxes_end(stream: BinaryIO, size: int) -> int:
    """Where the last box ends (ISO 14496-12, 4.2)."""
    at = 0
    while at + 16 <= size:
        stream.seek(at)
        length, _, long = struct.unpack(">I4sQ", stream.read(16))
        if length == 0:  # up to the file's end
            return size
        length = long if length == 1 else length
        if length < 8:  # no box: something behind the video
            break
        at += length
    return at
