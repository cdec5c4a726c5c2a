"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from linescan.errors import ConfigError


def make_folder(path: Path) -> None:
    """Makes the folder and those above it where they are missing; raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: the folder cannot be made: {error.strerror}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes `path`'s place at the end, on an error nothing remains.

    Raises ConfigError where the folder cannot be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a write for which there is no room names none
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_path`, opened for writing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_atomically(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def find_secret(path: Path) -> Path | None:
    """The file of that name in $CREDENTIALS_DIRECTORY, else at `path`; None where it is in neither.

    Raises ConfigError where others may read it.
    """
    # systemd lets the service in by an access list, which shows as rights of the group
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    places = ((Path(credentials) / path.name if credentials else None, 0o007), (path, 0o077))
    for place, others in places:
        if place is not None and place.exists():
            if stat.S_IMODE(place.stat().st_mode) & others:
                raise ConfigError(f"{place}: a secret key that others may read (mode 0600 expected)")
            return place
    return None
