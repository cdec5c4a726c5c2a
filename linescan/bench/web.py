"""A web to measure with: the bundle's reference patch, mirrored so that its copies join, with a defect now and then."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from linescan.models.bundle import Bundle

FRAME_LINES = 256
DENSE_PERCENT = 10.0  # of the web is defect, about, where the whole reference patch follows itself


def web(
    bundle: Bundle, columns: int, lines: int, frame_lines: int = FRAME_LINES, defects_percent: float = 1.0
) -> Iterator[NDArray[np.uint8]]:
    """Frames of a web of which about so much is defect; a last frame may be shorter.

    Its lines run down and up the good lines above the reference patch's planted defect, and now and then down through
    the defect and up again: every line stands beside one of its neighbours in the patch, so nothing but the defect is
    conspicuous.
    """
    reference = bundle.reference
    wide = np.concatenate([reference, reference[:, ::-1]], 1)
    across = -(-columns // wide.shape[1])
    wide = np.concatenate([wide] * across, 1)[:, :columns]
    path = _path(len(reference), bundle.metadata.reference.first_line, defects_percent)
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
