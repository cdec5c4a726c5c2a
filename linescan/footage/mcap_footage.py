"""MCAP recordings as footage: the files of one camera, one after the other, with what their damage has swallowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from linescan.errors import FootageError
from linescan.footage.frames import Footage, FootageFrame, unreadable
from linescan.footage.mcap import RollEvent
from linescan.footage.mcap_file import Chosen, McapFile, ambiguous
from linescan.messages import Gap, GapCause, RollEnd, RollStart


@dataclass(frozen=True)
class _Place:
    """The first line of a roll that is still to come."""

    roll: str
    line: int


class McapFootage(Footage):
    """The frames of one camera of an MCAP recording, finished or cut off, in one file or in several.

    A chunk with a wrong checksum, or a message without a header, becomes one unreadable frame with those next to it,
    its lines reckoned from the line numbers around it; where these leave no room for lost lines (it held another
    camera's) there is none. Lines that the live line lost are a frame with its `cause`; lines that were never recorded
    show in `first_line` alone. After an iteration `ignored` counts the messages of other topics and `damaged` the
    chunks that could not be read.
    """

    ignored = 0
    damaged = 0

    def __init__(self, paths: Path | Sequence[Path], camera: str | None = None) -> None:
        """`camera` is needed where the recording has several; raises FootageError.

        A recording that was not finished has no list of its cameras: then a second one raises when its first frame
        is reached.
        """
        files = [paths] if isinstance(paths, Path) else list(paths)
        title = str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1].name}"
        self._files = [McapFile(path, part=len(files) > 1) for path in files]
        cameras = {name for file in self._files if file.summary is not None for name in file.summary.cameras()}
        if camera is None and len(cameras) > 1:
            raise ambiguous(title, cameras)
        complete = all(file.summary is not None for file in self._files)
        if complete and (not cameras or (camera is not None and camera not in cameras)):
            expected = "a camera" if camera is None else f"camera {camera!r}"
            raise FootageError(f"{title}: frames of {expected} expected, it has cameras {sorted(cameras)}")
        self._chosen = Chosen(camera or next(iter(cameras), None), asked=camera is not None)
        self._name = ""
        super().__init__(title)
        self.camera = self._chosen.camera

    def _count(self) -> int | None:
        summaries = [file.summary for file in self._files]
        counts = [summary.frames(self._chosen.camera or "") for summary in summaries if summary is not None]
        return sum(counts) if len(counts) == len(summaries) else None

    def _frames(self) -> Generator[FootageFrame, None, None]:
        indexes: Counter[str] = Counter()
        for frame in self._accounted():
            yield replace(frame, name=f"{self._name}#{indexes[self._name]}")
            indexes[self._name] += 1
        self.camera = self._chosen.camera

    def _accounted(self) -> Iterator[FootageFrame]:
        """The frames and, between them, one for what damaged chunks and messages have swallowed."""
        damage: str | None = None
        before: _Place | None = None
        for item in self._stored():
            if isinstance(item, str) or (isinstance(item, FootageFrame) and item.header is None):
                damage = damage or (item if isinstance(item, str) else item.error)
                continue
            here = _start(item, before)
            if here is None:
                continue
            if damage is not None:
                lost = _lost(damage, before, here, item.lines if isinstance(item, FootageFrame) else 0)
                if lost is not None:
                    yield lost
                    before = _Place(here.roll, here.line) if lost.lines else before
                damage = None
            frame = item if isinstance(item, FootageFrame) else _told(item, here, before)
            if frame is None:
                continue
            yield frame
            end = here.line if frame.first_line is None else frame.first_line + frame.lines
            before = _Place(here.roll, max(end, here.line))
        if damage is not None:
            yield replace(unreadable("", damage), first_line=None if before is None else before.line)

    def _stored(self) -> Iterator[FootageFrame | RollEvent | str]:
        """What the files hold, in order."""
        self.truncated, self.ignored, self.damaged = None, 0, 0
        for file in self._files:
            self._name = file.path.name
            yield from file.read(self._chosen)
            self.ignored += file.ignored
            self.damaged += file.damaged
            self.truncated = self.truncated or file.truncated


def _start(item: FootageFrame | RollEvent, before: _Place | None) -> _Place | None:
    """Where what comes next begins; None where that says nothing about lines."""
    if isinstance(item, FootageFrame):
        assert item.header is not None
        return _Place(item.header.roll, item.header.first_line)
    if isinstance(item, RollStart):
        return None
    if isinstance(item, Gap):
        return _Place(item.roll, item.first_line)
    if isinstance(item, RollEnd):
        return _Place(item.roll, item.lines)
    return before if before is not None and before.roll == item.roll else None


def _told(event: RollEvent, here: _Place, before: _Place | None) -> FootageFrame | None:
    """The lines that the live line lost, as a frame in their place; none of them where its stream ended for a while."""
    reached = before.line if before is not None and before.roll == here.roll else None
    if isinstance(event, Gap):
        first = here.line if reached is None else max(here.line, reached)
        return _gap_frame(event.roll, first, event.last_line + 1 - first, event.cause, event.estimated)
    if isinstance(event, RollEnd):
        missing = event.lines - (reached or 0)
        return _gap_frame(event.roll, reached or 0, missing, "incomplete") if missing > 0 else None
    return _gap_frame(event.roll, here.line, 0, "shutdown")


def _gap_frame(roll: str, first: int, lines: int, cause: GapCause, estimated: bool = False) -> FootageFrame:
    error = f"was lost before it could be recorded ({cause})"
    lost = unreadable("", error, max(lines, 0))
    return replace(lost, estimated=estimated, first_line=first, roll=roll, cause=cause)


def _lost(damage: str, before: _Place | None, here: _Place, lines_after: int) -> FootageFrame | None:
    """The lines lost between two places; None where their numbers leave no room for any.

    `lines_after` is how many what follows has: of what is lost at a recording's beginning nothing else is known.
    """
    lost = unreadable("", damage)
    if before is not None and before.roll != here.roll:
        return replace(lost, first_line=before.line)
    if before is None:  # at most as many lines as what follows has, and not before the roll's start
        lines = min(lines_after, here.line)
        lost = replace(lost, lines=lines, first_line=here.line - lines, estimated=True)
        return lost if lines else None
    lines = here.line - before.line
    return replace(lost, lines=lines, first_line=before.line) if lines > 0 else None
