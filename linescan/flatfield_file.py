"""Flat-fields on disk: what was measured of one camera, and when; loaded without torch, for the stages without it."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linescan.errors import ConfigError, InputError
from linescan.files import write_atomically
from linescan.line import Line
from linescan.messages import PixelFormat
from linescan.pixels import FORMATS

if TYPE_CHECKING:
    from linescan.inspection.flatfield import FlatField

FORMAT = 1


@dataclass(frozen=True)
class About:
    """Under which camera and how a flat-field was made."""

    made_utc: str
    camera_serial: str
    pixel_format: PixelFormat
    columns: int
    web: tuple[int, int]
    """columns first, end that were calibrated"""
    dark_lines: int
    white_lines: int
    level: float
    """mean brightness of corrected web at the calibration, in [0, 1]"""


@dataclass(frozen=True, eq=False)
class StoredFlatField:
    """A flat-field as its file holds it; arrays as in inspection.FlatField."""

    path: Path
    sha256: str
    about: About
    gain: NDArray[np.float32]
    dark: NDArray[np.float32]
    dead: tuple[int, ...]

    @property
    def pinned(self) -> dict[str, Any]:
        """What a `roll_start` says of it."""
        return {"made_utc": self.about.made_utc, "sha256": self.sha256}

    def field(self) -> FlatField:
        """As the engine applies it."""
        from linescan.inspection.flatfield import FlatField  # with torch

        about = self.about
        bits = FORMATS[about.pixel_format].bits
        return FlatField(self.gain, self.dark, self.dead, about.web, bits, about.level)

    def check(self, what: str, serial: str | None, columns: int | None, pixel_format: str | None) -> None:
        """Raises ConfigError where it was made under another camera than `what`; None is not known, and passes."""
        about = self.about
        pairs = (
            ("serial", about.camera_serial, serial),
            ("width", about.columns, columns),
            ("pixel format", about.pixel_format, pixel_format),
        )
        for name, made, found in pairs:
            if found is not None and made != found:
                raise ConfigError(
                    f"{self.path}: this flat-field was made under {name} {made}, {what} has {name} {found}; run "
                    "`linescan calibrate flatfield` under it"
                )


def save_flatfield(path: Path, field: FlatField, about: About) -> None:
    """Writes a flat-field as .npz; raises ConfigError where the folder cannot be written to."""
    header = json.dumps({"format": FORMAT, **asdict(about)})
    buffer = io.BytesIO()
    dead = np.array(field.dead, np.int64)
    np.savez(buffer, gain=field.gain, dark=field.dark, dead=dead, about=np.array(header))
    write_atomically(path, buffer.getvalue())


def load_flatfield(path: Path) -> StoredFlatField:
    """Reads a flat-field; raises InputError where it is none, damaged or of a newer format."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(str(arrays["about"]))
            gain, dark = arrays["gain"].astype(np.float32), arrays["dark"].astype(np.float32)
            dead = tuple(int(column) for column in arrays["dead"])
        version = header.pop("format")
        if version == FORMAT:
            about = About(**{**header, "web": tuple(header["web"])})
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a file that is not theirs
        raise InputError(f"{path}: not a flat-field: {error}") from error
    if version != FORMAT:
        raise InputError(f"{path}: a flat-field of format {version}, {FORMAT} expected")
    if not _is_sound(about, gain, dark, dead):
        raise InputError(f"{path}: damaged: a positive gain and a dark level for each column and channel were expected")
    return StoredFlatField(path, hashlib.sha256(data).hexdigest(), about, gain, dark, dead)


def _is_sound(about: About, gain: NDArray[np.float32], dark: NDArray[np.float32], dead: tuple[int, ...]) -> bool:
    if about.pixel_format not in FORMATS or not 0 < about.level <= 1:
        return False
    shape = (FORMATS[about.pixel_format].channels, about.columns)
    first, end = about.web
    return (
        gain.shape == dark.shape == shape
        and bool(np.isfinite(gain).all() and np.isfinite(dark).all() and (gain > 0).all())
        and 0 <= first < end <= about.columns
        and all(first <= column < end for column in dead)
        and len(set(dead)) < end - first
        and math.isfinite(about.level)
    )


def flatfield_of(line: Line, camera: str) -> StoredFlatField | None:
    """The flat-field that line.toml names for the camera, checked against the serial that it names."""
    settings = line.camera(camera)
    if settings.flatfield is None:
        return None
    stored = load_flatfield(line.file(settings.flatfield))
    stored.check(f"camera {camera} in {line.path}", settings.serial, None, None)
    return stored
