"""The tables of a journal, and what is looked at before one is believed."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from linescan.errors import PeerError
from linescan.journal.file import ADVICE, connect, create, identity

APPLICATION_ID = 0x4C534A4E  # "LSJN"
SCHEMA_VERSION = 1  # of the tables, and of the messages in them: a new codec.VERSION needs a new one here
CHECKPOINT_PAGES = 1000
WHOLE_CHECK_BYTES = 64 << 20  # larger files are checked in part at the start: the whole would take too long

_SCHEMA = f"""
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


def open_journal(path: Path) -> sqlite3.Connection:
    """Opens a journal, made where there is none."""
    if not path.exists():
        if Path(f"{path}-wal").exists():
            raise PeerError(f"{path}: missing, but its -wal is there; {ADVICE}")
        create(path, f"{_SCHEMA} INSERT INTO journal VALUES ('{uuid.uuid4()}', 0);")
    return connect(
        path, lambda db: _check(db, path),
        "synchronous = FULL", f"wal_autocheckpoint = {CHECKPOINT_PAGES}", "temp_store = MEMORY",
    )  # fmt: skip


def _check(db: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size == 0:
        raise PeerError(f"{path}: damaged, it is empty; {ADVICE}")
    application, version = identity(db)
    if application != APPLICATION_ID:
        raise PeerError(f"{path}: an SQLite file, but no journal of linescan (application id {application:#x})")
    if version != SCHEMA_VERSION:
        raise PeerError(f"{path}: a journal of version {version}; this linescan reads version {SCHEMA_VERSION}")
    tables = ["journal", "cameras", "marks", "origins", "rolls"]
    small = path.stat().st_size <= WHOLE_CHECK_BYTES
    found = [db.execute(f"PRAGMA quick_check({what})").fetchone()[0] for what in (["1"] if small else tables)]
    if set(found) != {"ok"}:
        raise PeerError(f"{path}: damaged ({' '.join(max(found).split())}); {ADVICE}")
