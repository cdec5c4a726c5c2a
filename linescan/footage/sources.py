"""What the arguments of a command mean: a folder, a pattern, image files, a video, the files of a recording."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from linescan.errors import FootageError
from linescan.footage.frames import Footage
from linescan.footage.images import ImageFootage
from linescan.footage.mcap_footage import McapFootage
from linescan.footage.video import VideoFootage

IMAGES = frozenset({".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg"})
VIDEOS = frozenset({".avi", ".mp4", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"})
RECORDINGS = frozenset({".mcap"})
NUMBERED = re.compile(r"-(\d+)$")  # the end of a recording's name: the number of its file among the camera's
_EXPECTED = "image files (.png .bmp .tif .tiff .jpg .jpeg)"


def open_footage(
    paths: str | Path | Sequence[str | Path], *, bit_depth: int | None = None, camera: str | None = None
) -> Footage:
    """Opens recorded footage: a folder or pattern of images, image files, one video, or one MCAP recording.

    Images are read in name order, each page of a TIFF is a frame; the files of a recording by the number at the end of
    their names. `bit_depth` (10, 12, 16) is what full scale means in 16-bit images; `camera` chooses one of an MCAP
    recording. Raises FootageError where there is nothing readable.
    """
    arguments = [paths] if isinstance(paths, str | Path) else list(paths)
    if not arguments:
        raise FootageError("no footage was named")
    if bit_depth not in (None, 10, 12, 16):
        raise FootageError(f"bit_depth={bit_depth}: 10, 12 or 16 expected")
    title = ", ".join(map(str, arguments[:3])) + (" …" if len(arguments) > 3 else "")
    files = find_files(arguments)
    kind = _kind(title, files)
    if camera is not None and kind is not RECORDINGS:
        raise FootageError(f"{title}: camera={camera!r} was given, but only MCAP recordings name cameras")
    if bit_depth is not None and kind is not IMAGES:
        raise FootageError(f"{title}: bit_depth={bit_depth} was given, but only 16-bit images need it")
    if kind is IMAGES:
        return ImageFootage(title, files, bit_depth)
    return VideoFootage(files[0]) if kind is VIDEOS else McapFootage(sorted(files, key=_number), camera)


def find_files(arguments: Sequence[str | Path]) -> list[Path]:
    """The files that the arguments stand for, in name order; raises FootageError."""
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        try:
            if path.is_dir():
                if len(arguments) > 1:
                    raise FootageError(f"{path}: a folder is footage of its own, more was given")
                files += _content(path)
            elif path.exists() or not glob.has_magic(str(argument)):
                path.stat()
                files.append(path)
            else:
                files += _matches(str(argument))
        except OSError as error:
            raise FootageError(f"{path}: {error.strerror}") from error
    files.sort()
    for before, after in itertools.pairwise(files):
        if before == after:
            raise FootageError(f"{after}: was named twice")
    return files


def _content(folder: Path) -> list[Path]:
    """The folder's images, or where it has none the files of the recording that it holds."""
    files = [path for path in folder.iterdir() if not _is_left_out(path)]
    for kind in (IMAGES, RECORDINGS):
        found = [path for path in files if path.suffix.lower() in kind]
        if found:
            return found
    raise FootageError(f"{folder}: {_EXPECTED} expected, the folder has none")


def _number(recording: Path) -> tuple[int, str]:
    number = NUMBERED.search(recording.stem)
    return (int(number[1]) if number else -1, recording.name)


def _matches(pattern: str) -> list[Path]:
    known = IMAGES | VIDEOS | RECORDINGS
    matches = map(Path, glob.glob(pattern, recursive=True))
    found = [path for path in matches if path.suffix.lower() in known and not _is_left_out(path)]
    if not found:
        raise FootageError(f"{pattern}: {_EXPECTED}, a video or an MCAP recording expected, none matches")
    return found


def _is_left_out(path: Path) -> bool:
    """Hidden files and folders; not a link to nowhere: that is an image which cannot be read."""
    return path.name.startswith(".") or path.is_dir()


def _kind(title: str, files: Sequence[Path]) -> frozenset[str]:
    kinds = set()
    for file in files:
        known = [kind for kind in (IMAGES, VIDEOS, RECORDINGS) if file.suffix.lower() in kind]
        if not known:
            raise FootageError(f"{file}: {_EXPECTED}, a video or an MCAP recording expected")
        kinds.update(known)
    if len(kinds) > 1:
        raise FootageError(f"{title}: files of one kind expected: images, a video or an MCAP recording")
    kind = kinds.pop()
    if len(files) > 1 and kind is VIDEOS:
        raise FootageError(f"{title}: {len(files)} recordings, one expected")
    return kind
