"""A web to measure with: the bundle's reference patch, mirrored so that its copies join, with a defect now and then.

Or footage of one's own, which has as many defects as it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from linescan.errors import FootageError
from linescan.footage import open_footage
from linescan.models.bundle import Bundle

FRAME_LINES = 256
DENSE_PERCENT = 10.0  # of the web is defect, about, where the whole reference patch follows itself


@dataclass(frozen=True)
class Web:
    """What is inspected: columns and lines of the web, lines of a frame, and about how much of it is defect.

    With `images`, 8-bit footage, it is theirs: mirrored sideways to so many columns, and after its end run backwards.
    """

    columns: int
    lines: int
    frame_lines: int = FRAME_LINES
    defects_percent: float = 1.0
    images: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        return self.columns * self.lines

    def frames(self, bundle: Bundle) -> Iterator[NDArray[np.uint8]]:
        """Its frames; a last one may be shorter. Raises FootageError where the bundle cannot take the images."""
        if not self.images:
            yield from web(bundle, self.columns, self.lines, self.frame_lines, self.defects_percent)
            return
        recorded = _recorded(self.images, self.columns, self.lines)
        if recorded.ndim != bundle.reference.ndim:
            named, channels = ", ".join(self.images), bundle.metadata.channels
            raise FootageError(f"{named}: images of {channels} channels expected, as the model takes")
        there_and_back = np.concatenate([np.arange(len(recorded)), np.arange(len(recorded))[::-1]])
        yield from _frames(recorded, there_and_back, self.lines, self.frame_lines)


@lru_cache(maxsize=1)
def _recorded(images: tuple[str, ...], columns: int, lines: int) -> NDArray[np.uint8]:
    """At most so many lines of footage, mirrored sideways to so many columns."""
    parts: list[NDArray[np.uint8]] = []
    with open_footage(list(images)) as footage:
        if footage.bit_depth != 8:
            raise FootageError(f"{', '.join(images)}: {footage.bit_depth} bits a pixel, 8 expected to measure with")
        for frame in footage:
            if frame.pixels is None:
                raise FootageError(f"{frame.name} {frame.error}")
            parts.append(frame.pixels.astype(np.uint8))
            if sum(map(len, parts)) >= lines:
                break
    return _across(np.concatenate(parts)[:lines], columns)


def web(
    bundle: Bundle, columns: int, lines: int, frame_lines: int = FRAME_LINES, defects_percent: float = 1.0
) -> Iterator[NDArray[np.uint8]]:
    """Frames of a web of which about so much is defect; a last frame may be shorter.

    Its lines run down and up the good lines above the reference patch's planted defect, and now and then down through
    the defect and up again: every line stands beside one of its neighbours in the patch, so nothing but the defect is
    conspicuous.
    """
    path = _path(len(bundle.reference), bundle.metadata.reference.first_line, defects_percent)
    yield from _frames(_across(bundle.reference, columns), path, lines, frame_lines)


def _across(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Beside each other, every other one mirrored, until there are so many columns."""
    both = np.concatenate([pixels, pixels[:, ::-1]], 1)
    return np.concatenate([both] * -(-columns // both.shape[1]), 1)[:, :columns]


def _frames(
    wide: NDArray[np.uint8], path: NDArray[np.intp], lines: int, frame_lines: int
) -> Iterator[NDArray[np.uint8]]:
    """Frames of those of its lines that the path names, again and again."""
    for first in range(0, lines, frame_lines):
        places = np.arange(first, min(first + frame_lines, lines)) % len(path)
        yield np.ascontiguousarray(wide[path[places]])


def _path(height: int, good: int, defects_percent: float) -> NDArray[np.intp]:
    """Lines of the reference patch in the order in which the web shows them, once over."""
    whole, short = np.arange(height), np.arange(good)
    path = [whole, whole[::-1]]
    wanted = round(2 * height * DENSE_PERCENT / max(defects_percent, 0.01))
    if good:
        path += [short, short[::-1]] * max(0, (wanted - 2 * height) // (2 * good))
    return np.concatenate(path)
