"""Lanes and masks under a camera: strips in mm as columns, and what they say of each scaled column."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from linescan.config import Geometry, InspectionSettings, Strip
from linescan.inspection.residual import residual_reach

Columns = tuple[int, int]


def columns_of(strip: Strip, geometry: Geometry) -> Columns | None:
    """First and end column of the strip under a camera, not clipped to its last; None where it ends before column 0.

    An edge in mm goes to the nearest border of a column, so that strips that adjoin in mm do so in columns. Raises
    ValueError for a strip in mm where the geometry is not known, and for one that is no column wide.
    """
    low, high = strip.edges
    if not strip.in_mm:
        return int(low), int(high)
    if geometry.mm_per_column is None:
        raise ValueError("is in mm, which needs a line's camera with mm_per_column")
    first, end = (math.floor((edge - geometry.x_offset_mm) / geometry.mm_per_column + 0.5) for edge in (low, high))
    if first == end:
        raise ValueError(f"{low:g} to {high:g} mm is less than a column of {geometry.mm_per_column:g} mm")
    return (max(first, 0), end) if end > 0 else None


def uncovered(span: tuple[float, float], parts: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """What the parts leave of a span, from low to high."""
    low, high = span
    left = []
    for first, end in sorted(parts):
        if first > low:
            left.append((low, min(first, high)))
        low = max(low, end)
        if low >= high:
            return left
    return [*left, (low, high)]


@dataclass(frozen=True)
class Strips:
    """What lanes and masks make of the W scaled columns that a segment has; None where they say nothing.

    `thresholds` is float32; `inspected` is False in masked columns.
    """

    thresholds: Tensor | None = None
    inspected: Tensor | None = None

    def to(self, device: torch.device) -> Strips:
        thresholds, inspected = (None if one is None else one.to(device) for one in (self.thresholds, self.inspected))
        return Strips(thresholds, inspected)


def strips_of(settings: InspectionSettings, columns: slice) -> Strips:
    """The strips of these raw columns of the camera, which begin at a scaled one."""
    return Strips(_thresholds(settings, columns), _inspected(settings, columns))


def _thresholds(settings: InspectionSettings, columns: slice) -> Tensor | None:
    """Where a scaled column holds raw ones of two thresholds, the lower one is its: in doubt it is a defect."""
    if len(settings.thresholds) == 1:
        return None
    raw = torch.full((columns.stop,), settings.threshold, dtype=torch.float64)
    for lane in settings.lanes:
        if lane.threshold is not None:
            raw[lane.first_column : lane.end_column] = lane.threshold
    n, width = settings.scale, columns.stop - columns.start
    blocks = torch.nn.functional.pad(raw[columns], (0, -width % n), value=math.inf).reshape(-1, n)
    return blocks.amin(1).to(torch.float32)


def _inspected(settings: InspectionSettings, columns: slice) -> Tensor | None:
    """Beside a masked column there are as many whose window touches it: as beyond a selvage, they are not inspected."""
    if not settings.masks:
        return None
    n, reach = settings.scale, residual_reach(settings)
    inspected = torch.ones(-(-(columns.stop - columns.start) // n), dtype=torch.bool)
    for first, end in settings.masks:
        low, high = (first - columns.start) // n - reach, -((columns.start - end) // n) + reach
        if end > columns.start and first < columns.stop:
            inspected[max(low, 0) : max(high, 0)] = False
    return inspected
