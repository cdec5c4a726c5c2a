"""Defects pasted into good web: what a model must be able to see, without looking at real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.inspection.lines import Pixels
from linescan.models.bundle import Reference

Patch = NDArray[np.uint8]
RADII = (1 / 32, 1 / 16, 1 / 10, 1 / 6)  # of the patch's side


@dataclass(frozen=True)
class PastedWeb:
    """8-bit good web with blots pasted in, and where they lie: rows of (first line, end line, first column, end)."""

    pixels: Patch
    blots: tuple[tuple[int, int, int, int], ...]


def reference_candidates(image: Pixels, bit_depth: int, side: int) -> Iterator[tuple[Patch, Reference]]:
    """side×side patches from the middle of good web, each with a blot pasted in its middle, the smallest first.

    `side` is in pixels of the camera; the blots differ in size and in how they differ from the web.
    """
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    good = _eight_bit(image, bit_depth)[top : top + side, left : left + side]
    for share in (*RADII[2:], 1 / 4):
        for blot in _blots(good):
            radius = round(side * share)
            place = Reference(
                first_line=side // 2 - radius,
                last_line=side // 2 + radius,
                first_column=side // 2 - radius,
                last_column=side // 2 + radius,
            )
            yield _pasted(good, blot, side // 2, side // 2, radius), place


def pasted_web(image: Pixels, bit_depth: int, side: int, first: int, rng: np.random.Generator) -> PastedWeb:
    """A copy of good web with a blot in each side×side cell, in turn of all sizes and kinds, from number `first` on.

    Where in its cell is drawn from `rng`: in the middle of each, blots would lie alike to a grid of patches whose
    stride divides the cell.
    """
    web = _eight_bit(image, bit_depth).copy()
    blots: list[tuple[int, int, int, int]] = []
    number = first
    for top in range(0, web.shape[0] - side + 1, side):
        for left in range(0, web.shape[1] - side + 1, side):
            cell = web[top : top + side, left : left + side]
            kinds = _blots(cell)
            radius = max(2, round(side * RADII[number % len(RADII)]))
            blot = kinds[number // len(RADII) % len(kinds)]
            line, column = (int(place) for place in rng.integers(radius, side - radius, 2))
            cell[:] = _pasted(cell, blot, line, column, radius)
            middle = top + line, left + column
            blots.append((middle[0] - radius, middle[0] + radius + 1, middle[1] - radius, middle[1] + radius + 1))
            number += 1
    return PastedWeb(web, tuple(blots))


def _eight_bit(image: Pixels, bit_depth: int) -> Patch:
    return np.ascontiguousarray((image >> (bit_depth - 8)).astype(np.uint8))


def _blots(good: Patch) -> tuple[Patch, ...]:
    """A flat stretch of the web's grey, its greys turned by 90°, a dark and a light stain through which it shows."""
    flat = np.full_like(good, round(float(good.mean())))
    turned = np.ascontiguousarray(np.rot90(good))
    return flat, turned, (good * 0.5).astype(np.uint8), (127 + good * 0.5).astype(np.uint8)


def _pasted(good: Patch, blot: Patch, line: int, column: int, radius: int) -> Patch:
    inside = np.zeros(good.shape[:2], np.uint8)
    cv2.circle(inside, (column, line), radius, 1, -1)
    chosen = inside.astype(bool)
    result = good.copy()
    result[chosen] = blot[chosen]
    return result
