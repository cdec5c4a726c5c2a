"""Defects pasted into good web: what a model must be able to see before it may watch a line."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.inspection.lines import Pixels
from linescan.models.bundle import Reference

Patch = NDArray[np.uint8]


def reference_candidates(image: Pixels, bit_depth: int, side: int) -> Iterator[tuple[Patch, Reference]]:
    """8-bit side×side patches from the middle of good web, each with a blot pasted in its middle, plainest last.

    `side` is in pixels of the camera; the blots differ in size and in how they differ from the web.
    """
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    good = (image[top : top + side, left : left + side] >> (bit_depth - 8)).astype(np.uint8)
    for radius in (side // 10, side // 6):
        for blot in (_flat(good), _turned(good), np.full_like(good, 255), np.zeros_like(good)):
            yield _paste(good, blot, radius)


def _flat(good: Patch) -> Patch:
    return np.full_like(good, round(float(good.mean())))


def _turned(good: Patch) -> Patch:
    """The same greys in another structure."""
    return np.ascontiguousarray(cv2.resize(np.rot90(good), good.shape[1::-1], fx=0, fy=0)[:, ::-1] // 2 + 64)


def _paste(good: Patch, blot: Patch, radius: int) -> tuple[Patch, Reference]:
    middle = len(good) // 2
    inside = np.zeros(good.shape[:2], np.uint8)
    cv2.circle(inside, (middle, middle), radius, 1, -1)
    chosen = inside.astype(bool) if good.ndim == 2 else inside.astype(bool)[..., None]
    first, last = middle - radius, middle + radius
    place = Reference(first_line=first, last_line=last, first_column=first, last_column=last)
    return np.where(chosen, blot, good), place
