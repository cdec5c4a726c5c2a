"""The book of orders: what the PLC was told to reject and may not have passed yet, so that a restart forgets none.

One SQLite file beside the journal. Its commits do not wait for the disk (synchronous=OFF), so a PLC write does not wait
for them: they outlive the process, and may not outlive the machine. Hence the book also says how far each inspection
was taken into account; what the journal knows beyond that has to be rejected unseen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from linescan.codec import decode, encode
from linescan.errors import MessageError, PeerError
from linescan.journal.file import LockedFile, connect, create, identity
from linescan.messages import Reject

ORDERS_ID = 0x4C534F52  # "LSOR"
ORDERS_VERSION = 3
_SCHEMA = f"""
CREATE TABLE orders (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, reject BLOB NOT NULL);
CREATE INDEX orders_by_id ON orders (id);
CREATE TABLE places (camera TEXT PRIMARY KEY, roll TEXT NOT NULL, origin INTEGER, reached INTEGER NOT NULL,
    ahead INTEGER);
CREATE TABLE known (only_one INTEGER PRIMARY KEY CHECK (only_one = 0), from_count INTEGER, line TEXT NOT NULL);
INSERT INTO known VALUES (0, NULL, '');
PRAGMA application_id = {ORDERS_ID};
PRAGMA user_version = {ORDERS_VERSION};
"""


@dataclass(frozen=True)
class Place:
    """Where a camera's roll lies: `origin` is the count of its line 0, `reached` how far its inspection was seen.

    `origin` is None where nobody knows any more where its lines are.

    Both are counts of the camera's counter that do not wrap; the PLC's was `ahead` of it by so many, None: that was not
    known, or not believed any more.
    """

    roll: str
    origin: int | None
    reached: int
    ahead: int | None


class OrderBook(LockedFile):
    """An open book; belongs to the thread that opened it.

    A damaged one is put aside and begun anew (`lost` says so). Every write can raise JournalFullError, and then has
    changed nothing. Raises PeerError where the file cannot be made, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.lost = ""  # why the book before could not be read
        super().__init__(path, self._opened)

    # -------------------------------------------------------------------------------------- orders

    def belongs_to(self, line: str) -> None:
        """Emptied where it is of another line: `line` stands for where gates and cameras are."""
        with self._transaction():
            if self._db.execute("SELECT line FROM known").fetchone()[0] != line:
                self._db.execute("DELETE FROM orders")
                self._db.execute("DELETE FROM places")
                self._db.execute("UPDATE known SET from_count = NULL, line = ?", (line,))

    @property
    def last(self) -> int:
        """The highest sequence that was ever stored; 0: none."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")[0])

    def add(self, sequence: int, reject: Reject) -> None:
        with self._transaction():
            self._db.execute("INSERT INTO orders VALUES (?, ?, ?)", (sequence, reject.id, encode(reject)))

    def pending(self) -> list[tuple[int, Reject]]:
        """What was ordered and is not forgotten, in order."""
        rows = self._all("SELECT sequence, reject FROM orders ORDER BY sequence")
        return [(sequence, _reject(packed, self.path)) for sequence, packed in rows]

    def forget(self, sequences: Collection[int], known_from: int | None) -> None:
        """These have passed their gates; what was ordered before count `known_from` at a gate is not remembered."""
        with self._transaction():
            self._db.executemany("DELETE FROM orders WHERE sequence = ?", [(one,) for one in sequences])
            self._db.execute("UPDATE known SET from_count = ?", (known_from,))

    @property
    def known_from(self) -> int | None:
        found: int | None = self._one("SELECT from_count FROM known")[0]
        return found

    # -------------------------------------------------------------------------------------- where things are

    def place(self, camera: str) -> Place | None:
        rows = self._all("SELECT roll, origin, reached, ahead FROM places WHERE camera = ?", camera)
        return Place(*rows[0]) if rows else None

    def put_place(self, camera: str, place: Place) -> None:
        with self._transaction():
            values = (camera, place.roll, place.origin, place.reached, place.ahead)
            self._db.execute("REPLACE INTO places VALUES (?, ?, ?, ?, ?)", values)

    # -------------------------------------------------------------------------------------- inside

    def _opened(self, path: Path) -> sqlite3.Connection:
        try:
            return self._found_or_made(path)
        except (sqlite3.DatabaseError, _OtherFileError) as error:
            self.lost = str(error)
            _put_aside(path)
            return self._found_or_made(path)

    def _found_or_made(self, path: Path) -> sqlite3.Connection:
        if not path.exists():
            _put_aside(path)  # the log of a book that was taken away would be taken for the new one's
            create(path, _SCHEMA)
        return connect(path, self._check, "synchronous = OFF")

    def _check(self, db: sqlite3.Connection) -> None:
        if identity(db) != (ORDERS_ID, ORDERS_VERSION):
            raise _OtherFileError(f"{self.path}: no book of orders of version {ORDERS_VERSION}")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError(f"{self.path}: damaged")


def _put_aside(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        file = Path(f"{path}{end}")
        if file.exists():
            file.replace(f"{path}.damaged{end}")


class _OtherFileError(Exception):
    """The file is something else."""


def _reject(packed: bytes, path: Path) -> Reject:
    try:
        message = decode(packed)
    except MessageError as error:
        raise PeerError(f"{path}: a stored order is damaged ({error}); move the file away") from error
    assert isinstance(message, Reject)
    return message
