"""Which recorded files stay: the newest, and of the others what lies around regions."""

from __future__ import annotations

import fcntl
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from linescan.errors import ConfigError, FootageError, PeerError
from linescan.footage import FootageFrame, McapWriter
from linescan.footage.mcap import RollEvent, compressor
from linescan.footage.mcap_file import Chosen, McapFile
from linescan.line import Recording
from linescan.messages import RollStart
from linescan.stages.recording_book import Lines, RecordingBook
from linescan.stages.recording_tape import file_number

REGIONS = "regions"  # the folder beside the files
PORTION = 4 << 20  # bytes of frames that are looked at in one turn: some milliseconds, which the credits bridge
RETRY_TURNS = 1000  # after a copy that the disk refused


@dataclass
class _Kept:
    path: Path
    size: int


class Keeper:
    """Deletes the oldest files beyond `keep_bytes`; frames around regions are copied first, up to `regions_bytes`.

    All in portions, one a `turn()`: a thread would need a lock around the book and could not be tested in lockstep.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        book: RecordingBook,
        *,
        keep_bytes: int,
        regions_bytes: int,
        compression: Literal["none", "lz4", "zstd"],
    ) -> None:
        self._folder, self._camera, self._book = folder, camera, book
        self._keep_bytes, self._regions_bytes = keep_bytes, regions_bytes
        self._compression: Literal["none", "lz4", "zstd"] = compression
        for left in (folder / REGIONS).glob(".*.part"):  # of a copy that was killed
            left.unlink()
        self._files = _files_in(folder)
        self._copies = _files_in(folder / REGIONS)
        self._size = sum(kept.size for kept in self._files)
        self._job: Iterator[int] | None = None
        self._pause = 0  # turns
        self.counters: Counter[str] = Counter()

    @property
    def next_number(self) -> int:
        """Beyond all that are there, and that a copy was made of."""
        numbers = [file_number(kept.path) or 0 for kept in (*self._files, *self._copies)]
        return max(numbers, default=0) + 1

    def add(self, path: Path, size: int) -> None:
        """A file is complete."""
        self._files.append(_Kept(path, size))
        self._size += size

    def turn(self, running: str, writing: int) -> bool:
        """One portion of what is to be done, and whether there was any.

        `running` is the roll that is being recorded, `writing` the size of its file so far.
        """
        if self._pause:
            self._pause -= 1
            return False
        if self._job is None:
            if not self._files or self._size + writing <= self._keep_bytes:
                return False
            self._job = self._expire(self._files[0], running)
        done = 0
        try:
            for size in self._job:
                done += size
                if done >= PORTION:
                    return True
        except FootageError:  # the copy cannot be written: what is to be kept is not deleted
            self.counters["copies_failed"] += 1
            self._pause = RETRY_TURNS
        self._job = None
        return True

    def _expire(self, oldest: _Kept, running: str) -> Iterator[int]:
        lines = self._book.lines_of(oldest.path.name)
        if lines is None or self._book.wants(lines):
            yield from self._copy(oldest.path)
        oldest.path.unlink(missing_ok=True)
        self._size -= self._files.popleft().size
        self._book.forget(oldest.path.name, [kept.path.name for kept in self._files], running)
        self.counters["files_deleted"] += 1

    def _copy(self, path: Path) -> Iterator[int]:
        """Copies what is to be kept of a file; tells after each frame how large it was."""
        target = self._folder / REGIONS / path.name
        part = target.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        copy = _Copy(part, self._camera, self._compression)
        try:
            for item in _stored(path, self._camera):
                if not isinstance(item, FootageFrame):
                    copy.hold(item)
                    continue
                if item.header is not None and item.pixels is not None:
                    last = item.header.first_line + item.lines - 1
                    if self._book.wants(Lines(item.header.roll, item.header.first_line, last)):
                        copy.write(item)
                    yield item.pixels.nbytes
            copied = copy.close()
        except BaseException:
            copy.abandon()
            raise
        if copied:
            part.replace(target)
            self._copies.append(_Kept(target, target.stat().st_size))
            self.counters["frames_kept"] += copied
            self._limit_copies()

    def _limit_copies(self) -> None:
        while len(self._copies) > 1 and sum(kept.size for kept in self._copies) > self._regions_bytes:
            self._copies.popleft().path.unlink(missing_ok=True)
            self.counters["copies_deleted"] += 1


class _Copy:
    """A file of chosen frames, begun with the first of them, and the events from its roll's start on."""

    def __init__(self, path: Path, camera: str, compression: Literal["none", "lz4", "zstd"]) -> None:
        self._path, self._camera = path, camera
        self._compression: Literal["none", "lz4", "zstd"] = compression
        self._writer: McapWriter | None = None
        self._start: RollStart | None = None
        self._frames = 0

    def hold(self, event: RollEvent) -> None:
        if self._writer is not None:
            self._writer.write_event(event)
        elif isinstance(event, RollStart):
            self._start = event

    def write(self, frame: FootageFrame) -> None:
        assert frame.header is not None
        assert frame.pixels is not None
        if self._writer is None:
            self._writer = McapWriter(self._path, self._camera, compression=self._compression)
            if self._start is not None:
                self._writer.write_event(self._start, frame.header.utc_ns)
        self._writer.write(frame.header, frame.pixels)
        self._frames += 1

    def close(self) -> int:
        """How many frames it has; none: no file."""
        if self._writer is not None:
            self._writer.close(sync=False)
        return self._frames

    def abandon(self) -> None:
        if self._writer is not None:
            with suppress(FootageError):
                self._writer.close(sync=False)
            self._path.unlink(missing_ok=True)


def _stored(path: Path, camera: str) -> Iterator[FootageFrame | RollEvent]:
    """What can be read of a file; of one that is gone or was overwritten nothing can be kept."""
    try:
        for item in McapFile(path, part=True).read(Chosen(camera, asked=True)):
            if not isinstance(item, str):
                yield item
    except (FootageError, OSError):
        return


def _files_in(folder: Path) -> deque[_Kept]:
    """The recorder's files, oldest first."""
    numbered = [(number, path) for path in folder.iterdir() if (number := file_number(path)) is not None]
    return deque(_Kept(path, path.stat().st_size) for _, path in sorted(numbered))


def prepared_folder(folder: Path, settings: Recording) -> IO[str]:
    """The folder, made and locked: two recorders would delete each other's files.

    Raises ConfigError for a compression that is not installed, PeerError where the folder cannot be used.
    """
    try:
        compressor(settings.compression, folder)
    except FootageError as error:
        raise ConfigError(str(error)) from error
    try:
        (folder / REGIONS).mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise PeerError(f"{folder}: cannot be recorded to: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise PeerError(f"{folder}: another recorder writes there") from None
    return lock
