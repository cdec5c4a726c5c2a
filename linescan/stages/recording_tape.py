"""The file that a recorder writes: a new one for each roll, and where it has become large."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from linescan.errors import FootageError
from linescan.footage import McapWriter
from linescan.footage.mcap import RollEvent
from linescan.messages import Frame, RollEnd, RollStart
from linescan.stages.recording_book import Lines

NAME = re.compile(r".*-(\d{6,})\.mcap")
ROOM_PARTS = 8  # recording goes on where there is room for an eighth of a file: not for a frame, then a frame again
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Tape:
    """Frames and events into files of about `file_bytes`, numbered over all rolls of the camera.

    Where the disk refuses, `fault` says so and nothing is written until `retry()` finds room.

    Args:
        number: of the next file.
        on_file: told of each file that was begun and is complete or given up: its path, its lines, its size in bytes.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        number: int,
        file_bytes: int,
        compression: Literal["none", "lz4", "zstd"],
        on_file: Callable[[Path, Lines, int], object],
    ) -> None:
        self._folder, self._camera, self._number = folder, camera, number
        self._file_bytes, self._compression, self._on_file = file_bytes, compression, on_file
        self._writer: McapWriter | None = None
        self._lines: Lines | None = None  # of the file that is being written
        self._pending = 0  # lines in the chunk under way
        self._start: RollStart | None = None  # of the roll that runs, where it is known
        self._largest = 0  # bytes of a frame
        self.fault: Literal["", "disk-full", "disk-error"] = ""
        self.reason = ""
        self.files = 0
        self.lines_lost = 0  # were taken, and the disk did not

    @property
    def size(self) -> int:
        """Bytes of the file that is being written."""
        return 0 if self._writer is None else self._writer.size

    def begin_roll(self, start: RollStart | None) -> None:
        """What comes now is of another roll."""
        self.finish()
        self._start = start

    def write(self, frame: Frame, pixels: NDArray[Any]) -> None:
        """Appends a frame; without room its lines are counted as lost."""
        self._largest = max(self._largest, pixels.nbytes)
        lines = Lines(frame.roll, frame.first_line, frame.first_line + frame.lines - 1)
        if self._lines is not None and self.size + pixels.nbytes > self._file_bytes:
            self.finish()
        if self.fault:
            self.lines_lost += frame.lines
            return
        try:
            writer = self._writer or self._open(frame.roll, frame.utc_ns)
            writer.write(frame, pixels)
        except FootageError as error:
            self._give_up(error, frame.lines)
            return
        first = lines.first if self._lines is None else self._lines.first
        self._lines = Lines(frame.roll, first, lines.last)
        self._pending = self._pending + frame.lines if writer.pending else 0

    def write_event(self, event: RollEvent) -> None:
        """Appends what came between two frames; without room it is left out: what is missing then says as much."""
        if self.fault or (self._writer is None and isinstance(event, RollEnd)):  # an end alone is no recording
            return
        try:
            (self._writer or self._open(event.roll, time.time_ns())).write_event(event)
        except FootageError as error:
            self._give_up(error, 0)

    def finish(self) -> None:
        """Completes the file that is being written, if there is one."""
        if self._writer is None:
            return
        try:
            # a power failure may take what the system has not written yet; waiting for it would cost frames
            self._writer.close(sync=False)
        except FootageError as error:
            self._give_up(error, 0)
            return
        self._end_file()

    def retry(self) -> bool:
        """Whether there is room again."""
        try:
            space = os.statvfs(self._folder)
        except OSError:
            return False
        if space.f_bavail * space.f_frsize < max(self._file_bytes // ROOM_PARTS, 2 * self._largest):
            return False
        self.fault, self.reason = "", ""
        return True

    def _open(self, roll: str, utc_ns: int) -> McapWriter:
        name = f"{_part_of_a_name(roll)}-{self._number:06d}.mcap"
        writer = McapWriter(self._folder / name, self._camera, compression=self._compression)
        self._number += 1
        self.files += 1
        self._writer = writer
        if self._start is not None and self._start.roll == roll:
            writer.write_event(self._start, utc_ns)
        return writer

    def _give_up(self, error: FootageError, lines: int) -> None:
        cause = error.__cause__
        self.fault = "disk-full" if isinstance(cause, OSError) and cause.errno in NO_ROOM else "disk-error"
        self.reason = str(error)
        self.lines_lost += self._pending + lines
        writer = self._writer
        if writer is None:
            return
        with suppress(FootageError):
            writer.close(sync=False)
        if not writer.chunks:
            writer.path.unlink(missing_ok=True)
        self._end_file()

    def _end_file(self) -> None:
        writer, lines = self._writer, self._lines
        self._writer, self._lines, self._pending = None, None, 0
        if writer is not None and writer.path.exists():
            self._on_file(writer.path, lines or Lines("", 0, -1), writer.path.stat().st_size)


def file_number(path: Path) -> int | None:
    """The number in the name of a recorder's file; None where it is none."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def _part_of_a_name(roll: str) -> str:
    """The roll's name as far as it may be part of a file's; the files know the whole."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", roll).lstrip(".")[:100] or "roll"
