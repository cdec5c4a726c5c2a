"""The SQLite files of a line: made whole or not at all, held by one process, checked before they are written to."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from linescan.errors import JournalFullError, PeerError

BUSY_S = 2.0
LOG_BYTES = 16 << 20

_Opened = TypeVar("_Opened", bound="LockedFile")
_SETTINGS = (f"journal_size_limit = {LOG_BYTES}", "cell_size_check = ON", "trusted_schema = OFF")
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")  # the second is what a quota answers
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "malformed", "not a database")  # the last two: Python 3.10
ADVICE = "put back a copy, or move it, its -wal and its -shm away: then a new run begins at sequence 1"


class LockedFile:
    """An open SQLite file that no other process has; belongs to the thread that opened it.

    Every write can raise JournalFullError, and then has changed nothing. Raises PeerError where the file cannot be made
    or opened, or is held by another process.

    Args:
        opened: opens it while the lock is held: `connect` below, where the file was found or made.
    """

    def __init__(self, path: Path, opened: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        with ExitStack() as stack, explained(path):
            stack.callback(os.close, locked(path))
            self._db = opened(path)
            stack.callback(self._db.close)
            self._closing = stack.pop_all()

    def close(self) -> None:
        self._closing.close()

    def __enter__(self: _Opened) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # after some errors SQLite has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with explained(self.path):
            # fetched whole: an open cursor would keep the log from being begun anew
            return self._db.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: Any) -> Any:
        return self._all(statement, *values)[0]


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


def create(path: Path, script: str) -> None:
    """Makes a file by an SQL script: it gets its name when it is whole, so one found later is whole, or damaged."""
    temporary = path.with_name(f".{path.name}.new")
    for leftover in (temporary, Path(f"{temporary}-wal"), Path(f"{temporary}-shm"), Path(f"{temporary}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))  # -wal and -shm take its mode
    db = sqlite3.connect(temporary, isolation_level=None)
    try:
        db.executescript(f"BEGIN; {script} COMMIT;")
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(path: Path, check: Callable[[sqlite3.Connection], None], *settings: str) -> sqlite3.Connection:
    """Opens a file that is there; `check` finds out what it is before anything is written to it.

    Args:
        settings: pragmas that this kind of file has beside those of all.
    """
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        check(db)
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise PeerError(f"{path}: this file system has no write-ahead log for SQLite (mode {mode!r})")
        for setting in (*_SETTINGS, *settings):
            db.execute(f"PRAGMA {setting}").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def identity(db: sqlite3.Connection) -> tuple[int, int]:
    """Which program's file it is, and of which version."""
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    return application, version


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
