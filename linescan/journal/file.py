"""The SQLite file of a journal: made whole or not at all, locked, checked before it is written to."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linescan.errors import JournalFullError, PeerError

APPLICATION_ID = 0x4C534A4E  # "LSJN"
SCHEMA_VERSION = 1  # of the tables, and of the messages in them: a new codec.VERSION needs a new one here
BUSY_S = 2.0
CHECKPOINT_PAGES = 1000
LOG_BYTES = 16 << 20
WHOLE_CHECK_BYTES = 64 << 20  # larger files are checked in part at the start: the whole would take too long

_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")  # the second is what a quota answers
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "malformed", "not a database")  # the last two: Python 3.10
ADVICE = "put back a copy, or move it, its -wal and its -shm away: then a new run begins at sequence 1"
_SCHEMA = f"""
BEGIN;
CREATE TABLE journal (run TEXT NOT NULL, named_rolls INTEGER NOT NULL);
CREATE TABLE events (sequence INTEGER PRIMARY KEY AUTOINCREMENT, camera TEXT NOT NULL, epoch INTEGER NOT NULL,
    origin INTEGER NOT NULL, utc_ns INTEGER NOT NULL, needed_ns INTEGER NOT NULL, replayed INTEGER NOT NULL,
    event BLOB NOT NULL);
CREATE INDEX events_by_stamp ON events (camera, epoch, origin);
CREATE TABLE cameras (camera TEXT PRIMARY KEY, generation INTEGER NOT NULL, epoch INTEGER NOT NULL,
    origin INTEGER NOT NULL, roll TEXT NOT NULL, roll_start BLOB, ended INTEGER NOT NULL, left_by TEXT NOT NULL,
    after_epoch INTEGER NOT NULL, after_origin INTEGER NOT NULL);
CREATE TABLE marks (camera TEXT PRIMARY KEY, roll TEXT NOT NULL, epoch INTEGER NOT NULL, origin INTEGER NOT NULL,
    progress BLOB NOT NULL, monotonic_ns INTEGER NOT NULL, utc_ns INTEGER NOT NULL, boot TEXT NOT NULL);
CREATE TABLE origins (camera TEXT PRIMARY KEY, roll TEXT NOT NULL, origin BLOB NOT NULL);
CREATE TABLE rolls (roll TEXT PRIMARY KEY, recipe TEXT NOT NULL, replayed INTEGER NOT NULL,
    running INTEGER NOT NULL);
CREATE UNIQUE INDEX running_roll ON rolls (running) WHERE running;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def locked(path: Path) -> int:
    """Takes the journal for this process by a lock file beside it; returns its descriptor."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise PeerError(f"{path}: another process writes this journal; a line has one publisher") from error
    return descriptor


def create(path: Path) -> None:
    """Makes an empty journal: it gets its name when it is whole, so a file found later is one, or is damaged."""
    if Path(f"{path}-wal").exists():
        raise PeerError(f"{path}: missing, but its -wal is there; {ADVICE}")
    temporary = path.with_name(f".{path.name}.new")
    for leftover in (temporary, Path(f"{temporary}-wal"), Path(f"{temporary}-shm"), Path(f"{temporary}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))  # -wal and -shm take its mode
    db = sqlite3.connect(temporary, isolation_level=None)
    try:
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO journal VALUES (?, 0)", (str(uuid.uuid4()),))
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(db: sqlite3.Connection, path: Path) -> None:
    """Finds out what the file is before anything is written to it, then sets how it is written."""
    if path.stat().st_size == 0:
        raise PeerError(f"{path}: damaged, it is empty; {ADVICE}")
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise PeerError(f"{path}: an SQLite file, but no journal of linescan (application id {application:#x})")
    if version != SCHEMA_VERSION:
        raise PeerError(f"{path}: a journal of version {version}; this linescan reads version {SCHEMA_VERSION}")
    tables = ["journal", "cameras", "marks", "origins", "rolls"]
    small = path.stat().st_size <= WHOLE_CHECK_BYTES
    found = [db.execute(f"PRAGMA quick_check({what})").fetchone()[0] for what in (["1"] if small else tables)]
    if set(found) != {"ok"}:
        raise PeerError(f"{path}: damaged ({' '.join(max(found).split())}); {ADVICE}")
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise PeerError(f"{path}: this file system has no write-ahead log for SQLite (mode {mode!r})")
    for setting in ("synchronous = FULL", f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
                    f"journal_size_limit = {LOG_BYTES}", "cell_size_check = ON", "trusted_schema = OFF",
                    "temp_store = MEMORY"):  # fmt: skip
        db.execute(f"PRAGMA {setting}").fetchall()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite or the system says into PeerError; wrong use of either passes through."""
    try:
        yield
    except OSError as error:
        raise PeerError(f"{path}: cannot be opened: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError)):
            raise
        said = f"{getattr(error, 'sqlite_errorname', '')} {error}".strip()  # Python 3.10 has no names
        if any(name in said for name in (*_FULL, "disk is full")):
            raise JournalFullError(f"{path}: cannot be written: {error}") from error
        if any(name in said for name in _DAMAGED):
            raise PeerError(f"{path}: damaged ({error}); {ADVICE}") from error
        raise PeerError(f"{path}: {error}") from error
