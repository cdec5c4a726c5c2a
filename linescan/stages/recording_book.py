"""What a recorder remembers over its restarts: where regions were, and which lines each of its files holds."""

from __future__ import annotations

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Lines:
    """Lines first…last (inclusive) of a roll."""

    roll: str
    first: int
    last: int


@dataclass
class _Windows:
    """Stretches of lines to be kept, disjoint and in order."""

    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)

    def add(self, first: int, last: int) -> None:
        start, end = bisect_left(self.lasts, first - 1), bisect_right(self.firsts, last + 1)
        if start < end:  # those that it touches become one with it
            first, last = min(first, self.firsts[start]), max(last, self.lasts[end - 1])
        self.firsts[start:end], self.lasts[start:end] = [first], [last]

    def touches(self, first: int, last: int) -> bool:
        at = bisect_left(self.lasts, first)
        return at < len(self.lasts) and self.firsts[at] <= last

    def forget_before(self, line: int) -> None:
        at = bisect_left(self.lasts, line)
        del self.firsts[:at], self.lasts[:at]


class RecordingBook:
    """Kept in a small file beside the recording.

    A file that is missing or damaged is an empty book: then `sequence` is None, and the journal has it all.
    """

    def __init__(self, path: Path, around_lines: int) -> None:
        self._path, self._around = path, around_lines
        self._windows: dict[str, _Windows] = {}
        self._files: dict[str, Lines] = {}
        self.run = ""
        self.sequence: int | None = None
        self._saved: tuple[str, int | None] = ("", None)
        self._changed = False
        try:
            self._load(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            self._windows, self._files, self.run, self.sequence = {}, {}, "", None

    def _load(self, stored: Any) -> None:
        if stored["format"] != FORMAT:
            return
        for roll, windows in stored["regions"].items():
            kept = self._windows.setdefault(roll, _Windows())
            for first, last in windows:
                kept.add(int(first), int(last))
        for name, (roll, first, last) in stored["files"].items():
            self._files[name] = Lines(roll, int(first), int(last))
        sequence = int(stored["sequence"])
        self.run, self.sequence = str(stored["run"]), sequence if sequence >= 0 else None
        self._saved = (self.run, self.sequence)

    def reached(self, run: str, sequence: int) -> None:
        """What the journal `run` has up to that sequence number is in the book."""
        if run:
            self.run, self.sequence = run, sequence

    def add_region(self, roll: str, first: int, last: int) -> None:
        """A region lies on those lines; what is around them is to be kept too."""
        self._windows.setdefault(roll, _Windows()).add(first - self._around, last + self._around)
        self._changed = True

    def add_file(self, name: str, lines: Lines) -> None:
        self._files[name] = lines
        self._changed = True

    def lines_of(self, name: str) -> Lines | None:
        """What a file holds; None where its recorder was killed."""
        return self._files.get(name)

    def wants(self, lines: Lines) -> bool:
        """Whether any of the lines are in a region or around one."""
        windows = self._windows.get(lines.roll)
        return windows is not None and windows.touches(lines.first, lines.last)

    def forget(self, name: str, left: Iterable[str], running: str) -> None:
        """The file is gone, `left` are those that remain; regions that none of them can hold go too."""
        self._files.pop(name, None)
        self._changed = True
        oldest: dict[str, int] = {running: -1}
        for other in left:
            lines = self._files.get(other)
            if lines is None:
                return  # it may hold anything
            oldest[lines.roll] = min(oldest.get(lines.roll, lines.first), lines.first)
        self._windows = {roll: windows for roll, windows in self._windows.items() if roll in oldest}
        for roll, windows in self._windows.items():
            windows.forget_before(oldest[roll])

    def save(self) -> bool:
        """Writes what changed; False where the disk refuses."""
        if not self._changed and self._saved == (self.run, self.sequence):
            return True
        regions = {
            roll: list(zip(windows.firsts, windows.lasts, strict=True)) for roll, windows in self._windows.items()
        }
        files = {name: (lines.roll, lines.first, lines.last) for name, lines in self._files.items()}
        sequence = -1 if self.sequence is None else self.sequence
        stored = {"format": FORMAT, "run": self.run, "sequence": sequence, "regions": regions, "files": files}
        beside = self._path.with_suffix(".new")
        try:
            # not synced: that may take seconds while a recording fills the disk's queue, and the journal has it all
            beside.write_text(json.dumps(stored), encoding="utf-8")
            os.replace(beside, self._path)
        except OSError:
            return False
        self._changed, self._saved = False, (self.run, self.sequence)
        return True
