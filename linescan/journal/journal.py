"""The publisher's event store: one SQLite file, one writer, every commit on the disk before it returns.

Write-ahead log, synchronous=FULL. A checkpoint comes by itself after CHECKPOINT_PAGES; the log is then begun anew and
cut to LOG_BYTES, so it stays near that size unless another program holds the file open in one long read. No
statement waits longer than BUSY_S for such a program. Space of deleted rows is used again; the file does not shrink.

A journal belongs to the thread that opened it. Every write can raise JournalFullError, and then has changed nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from linescan.codec import decode, encode
from linescan.errors import ConfigError, MessageError, PeerError
from linescan.journal.file import ADVICE, LockedFile
from linescan.journal.records import CameraRow, CameraState, Entry, Left, Mark, RunningRoll
from linescan.journal.tables import open_journal
from linescan.line import JournalSettings
from linescan.messages import Message, Origin, Progress, Published, RollStart

EXPIRE_ROWS = 500  # deleted by one call: a few milliseconds
CLOCK_STEP_NS = 86_400 * 10**9

_Decoded = TypeVar("_Decoded", bound=Message)
_COLUMNS = ", ".join(field.name for field in dataclasses.fields(CameraRow))


class Journal(LockedFile):
    """An open journal; `last` and `oldest` are sequence numbers of its rows (`oldest` = `last` + 1: no rows).

    `run` is the file's UUID. Raises PeerError where the file cannot be made or opened, is damaged, is not ours, is
    of another version, or is held by another process.
    """

    def __init__(self, path: Path, settings: JournalSettings) -> None:
        self._settings = settings
        self._clock_offset_ns: int | None = None
        super().__init__(path, open_journal)
        with ExitStack() as stack:
            stack.callback(self.close)
            self.run: str = self._one("SELECT run FROM journal")[0]
            self.last: int = self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")[0]
            self.oldest: int = self._one("SELECT min(sequence) FROM events")[0] or self.last + 1
            for (name,) in self._all("SELECT camera FROM cameras"):
                self.camera(name)  # what cannot be decoded is better found now
            stack.pop_all()

    # -------------------------------------------------------------------------------------- events and progress

    def commit(
        self,
        entries: Sequence[Entry],
        marks: Mapping[str, Mark] = MappingProxyType({}),
        taken: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> list[Published]:
        """Stores all or nothing, the events as consecutive rows in their order.

        `marks` are by camera, and so is `taken`: epoch and sequence up to which a stream was taken, where its end is
        not stored itself (an event found again).
        """
        if not entries and not marks and not taken:
            return []
        rows = [
            (number, one.camera, one.epoch, one.origin, one.utc_ns, one.needed_ns, one.replayed, encode(one.event))
            for number, one in enumerate(entries, self.last + 1)
        ]
        with self._transaction():
            self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            for camera in {*(one.camera for one in entries), *marks, *taken}:
                with self._changed(camera) as row:
                    for entry in entries:
                        if entry.camera == camera:
                            row.add(entry)
                    mark = marks.get(camera)
                    if mark is not None and row.add_mark(mark):
                        self._put_mark(camera, mark)
                    row.stamp(*taken.get(camera, (-1, -1)))
        self.last += len(rows)
        return [self._publish(row) for row in rows]

    def since(self, sequence: int, limit: int) -> list[Published]:
        """At most `limit` of the rows after `sequence`, oldest first."""
        return self._published("sequence > ? ORDER BY sequence LIMIT ?", sequence, max(limit, 0))

    def expire(
        self, now_utc_ns: int, *, monotonic_ns: int | None = None, cameras: Collection[str] | None = None
    ) -> int:
        """Deletes the oldest rows if they are too old or too many bytes are in use; returns how many it deleted.

        At most EXPIRE_ROWS go in one call: call again while as many went. From the first event after a camera's mark
        on, rows stay while its roll has not ended; `cameras` names those that count (None: all ever seen), for a
        camera that was taken away in mid-roll would hold them for ever. Age counts only while UTC can be believed: not
        behind the newest row, nor more than a day ahead of where the monotonic clock puts it since the first call. A
        row from the future holds those after it, until the size lets it go.
        """
        clock = time.monotonic_ns() if monotonic_ns is None else monotonic_ns
        rows = self._all(
            "SELECT sequence, utc_ns FROM events WHERE sequence < ? ORDER BY sequence LIMIT ?",
            self._first_held(cameras), EXPIRE_ROWS,
        )  # fmt: skip
        believed = self._is_believed(now_utc_ns, clock)
        if self._used_bytes() <= self._settings.keep_mib << 20:
            cutoff = now_utc_ns - int(self._settings.keep_days * 86_400 * 1e9)
            rows = list(takewhile(lambda row: believed and row[1] < cutoff, rows))
        if rows:
            with self._transaction():
                self._db.execute("DELETE FROM events WHERE sequence <= ?", (rows[-1][0],))
            self.oldest = rows[-1][0] + 1
        return len(rows)

    # -------------------------------------------------------------------------------------- cameras

    def camera(self, name: str) -> CameraState:
        row = self._row(name)
        running = self.running_roll()
        rolls = (running.name if running else "", "" if row.ended else row.roll)
        marks = self._all("SELECT * FROM marks WHERE camera = ? AND roll = ?", name, row.roll)
        mark = None
        for _, _, epoch, origin, progress, monotonic_ns, utc_ns, boot in marks:
            mark = Mark(epoch, origin, self._decoded(Progress, progress), monotonic_ns, utc_ns, boot)
        origins = self._all("SELECT roll, origin FROM origins WHERE camera = ?", name)
        return CameraState(
            generation=row.generation,
            epoch=row.epoch,
            origin_sequence=row.origin,
            roll_start=self._decoded(RollStart, row.roll_start) if row.roll_start else None,
            mark=mark,
            ended=bool(row.ended),
            origin=next((self._decoded(Origin, packed) for roll, packed in origins if roll in rolls), None),
            left=row.left_by,
            recent=tuple(self._recent(name, row)),
        )

    def register(self, camera: str) -> int:
        """Counts one more registration of acquire; returns how many there were."""
        with self._transaction(), self._changed(camera) as row:
            row.generation += 1
        return row.generation

    def take_over(self, camera: str, epoch: int) -> None:
        """Makes `epoch` the newest; one that is not newer changes nothing."""
        with self._transaction(), self._changed(camera) as row:
            row.stamp(epoch, -1)

    def keep_origin(self, origin: Origin) -> None:
        """Stores where a roll began under one camera, in place of the roll before."""
        with self._transaction():
            self._db.execute("REPLACE INTO origins VALUES (?, ?, ?)", (origin.camera, origin.roll, encode(origin)))

    def set_left(self, camera: str, left: Left) -> None:
        """Stores why acquire stopped; the next one that has learned it is to have it emptied."""
        with self._transaction(), self._changed(camera) as row:
            row.left_by = left

    # -------------------------------------------------------------------------------------- rolls

    def start_roll(
        self, roll: str | None, recipe: str, *, replayed: bool = False, instead_of: str | None = None
    ) -> str:
        """Begins a roll, named roll-000001 and so on where no name is given; returns its name.

        Raises ConfigError for a name that was ever used, and while another roll runs than the one it comes
        `instead_of`, which ends with it.
        """
        running = self.running_roll()
        if running is not None and running.name != instead_of:
            raise ConfigError(f"roll {running.name!r} is running; end it before another starts")
        with self._transaction():
            name = roll or self._next_name()
            if self._is_used(name):
                raise ConfigError(f"roll {name!r} was there before; each roll needs a name of its own")
            self._db.execute("UPDATE rolls SET running = 0 WHERE running")
            self._db.execute("INSERT INTO rolls VALUES (?, ?, ?, 1)", (name, recipe, replayed))
        return name

    def end_roll(self, roll: str) -> None:
        """Ends the running roll; raises ConfigError where that is not `roll`."""
        running = self.running_roll()
        if running is None or running.name != roll:
            raise ConfigError(f"roll {roll!r} is not running; {repr(running.name) if running else 'none'} is")
        with self._transaction():
            self._db.execute("UPDATE rolls SET running = 0 WHERE roll = ?", (roll,))

    def running_roll(self) -> RunningRoll | None:
        for name, recipe, replayed in self._all("SELECT roll, recipe, replayed FROM rolls WHERE running"):
            return RunningRoll(name, recipe, bool(replayed))
        return None

    # -------------------------------------------------------------------------------------- inside

    @contextmanager
    def _changed(self, camera: str) -> Iterator[CameraRow]:
        row = self._row(camera)
        yield row
        values = dataclasses.astuple(row)
        marks = ", ?" * len(values)
        self._db.execute(f"REPLACE INTO cameras (camera, {_COLUMNS}) VALUES (?{marks})", (camera, *values))

    def _row(self, camera: str) -> CameraRow:
        return CameraRow(*next(iter(self._all(f"SELECT {_COLUMNS} FROM cameras WHERE camera = ?", camera)), ()))

    def _recent(self, camera: str, row: CameraRow) -> list[Published]:
        if not row.roll:
            return []
        after = (row.after_epoch, row.after_origin)
        return self._published("camera = ? AND (epoch, origin) > (?, ?) ORDER BY sequence", camera, *after)

    def _first_held(self, cameras: Collection[str] | None) -> int:
        """The first row that some camera's next worker needs, or the one after the last."""
        first = self.last + 1
        for name, epoch, origin in self._all(
            "SELECT camera, after_epoch, after_origin FROM cameras WHERE roll != '' AND NOT ended"
        ):
            if cameras is None or name in cameras:
                held = "SELECT min(sequence) FROM events WHERE camera = ? AND (epoch, origin) > (?, ?)"
                first = min(first, self._one(held, name, epoch, origin)[0] or first)
        return first

    def _is_believed(self, now_utc_ns: int, monotonic_ns: int) -> bool:
        offset_ns = now_utc_ns - monotonic_ns
        if self._clock_offset_ns is None:
            self._clock_offset_ns = offset_ns
        newest = next(iter(self._all("SELECT utc_ns FROM events WHERE sequence = ?", self.last)), (now_utc_ns,))
        return offset_ns - self._clock_offset_ns <= CLOCK_STEP_NS and bool(newest[0] <= now_utc_ns)

    def _used_bytes(self) -> int:
        pages = self._one("PRAGMA page_count")[0] - self._one("PRAGMA freelist_count")[0]
        return int(pages * self._one("PRAGMA page_size")[0])

    def _next_name(self) -> str:
        number = self._one("SELECT named_rolls FROM journal")[0] + 1
        while self._is_used(f"roll-{number:06d}"):
            number += 1
        self._db.execute("UPDATE journal SET named_rolls = ?", (number,))
        return f"roll-{number:06d}"

    def _is_used(self, roll: str) -> bool:
        return bool(self._all("SELECT 1 FROM rolls WHERE roll = ?", roll))

    def _put_mark(self, camera: str, mark: Mark) -> None:
        progress = (mark.progress.roll, mark.epoch, mark.origin, encode(mark.progress))
        values = (camera, *progress, mark.monotonic_ns, mark.utc_ns, mark.boot)
        self._db.execute("REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _publish(self, row: tuple[Any, ...]) -> Published:
        sequence, camera, epoch, origin, utc_ns, needed_ns, replayed, event = row
        return Published(self.run, sequence, True, camera, epoch, origin, utc_ns, needed_ns, bool(replayed), event)

    def _published(self, condition: str, *values: Any) -> list[Published]:
        return [self._publish(row) for row in self._all(f"SELECT * FROM events WHERE {condition}", *values)]

    def _decoded(self, kind: type[_Decoded], packed: bytes) -> _Decoded:
        try:
            message = decode(packed)
        except MessageError as error:
            raise PeerError(f"{self.path}: a stored message is damaged ({error}); {ADVICE}") from error
        if not isinstance(message, kind):
            raise PeerError(f"{self.path}: found a {type(message).__name__} for a {kind.__name__}; {ADVICE}")
        return message
