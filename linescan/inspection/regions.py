"""Streaming labelling: opened lines come in bands, regions of any length come out in phases.

Coordinates here are scaled pixels of one segment. Memory is bounded by the width and by the regions that are open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.inspection.found import Scores
from linescan.messages import Phase


@dataclass
class OpenRegion:
    """One region so far; `key` is its topmost-then-leftmost pixel and never changes, sums are of the current part."""

    key: tuple[int, int]
    part: int
    first_row: int
    last_row: int
    first_column: int
    last_column: int
    area: int
    score_sum: float
    peak: float
    announced: bool = False
    coalesced: bool = False
    large: bool = False  # it or what it absorbed has reached the least area and length, in this part or an earlier one

    def absorb(self, other: OpenRegion) -> None:
        self.first_row = min(self.first_row, other.first_row)
        self.last_row = max(self.last_row, other.last_row)
        self.first_column = min(self.first_column, other.first_column)
        self.last_column = max(self.last_column, other.last_column)
        self.area += other.area
        self.score_sum += other.score_sum
        self.peak = max(self.peak, other.peak)
        self.coalesced |= other.coalesced
        self.large |= other.large


@dataclass(frozen=True)
class RegionPhase:
    """What is to be told of a region after a band; `merged_into` is the key of the region that goes on."""

    phase: Phase
    region: OpenRegion
    merged_into: tuple[int, int] | None = None


@dataclass(frozen=True)
class LabellerSettings:
    """Limits, in scaled pixels; lanes are (first, end) columns, over which a flood is coalesced."""

    min_area: int
    min_length: int  # of a region's longer side
    max_rows: int
    max_regions: int
    lanes: tuple[tuple[int, int], ...]


class Labeller:
    """Labels 8-connected regions of one segment, band by band; what it emits depends on where bands end.

    The bands are those of the patch grid, so the camera's frames do not show in the result.
    """

    def __init__(self, columns: int, settings: LabellerSettings, row: int = 0) -> None:
        self.row = row
        self._settings = settings
        self._open: list[OpenRegion] = []
        self._last_row = np.zeros(columns, np.int32)  # index into _open plus 1, 0 where nothing is

    @property
    def decided_up_to(self) -> int:
        """First row that an unannounced candidate touches, or the first one not labelled yet."""
        return min([self.row, *(region.first_row for region in self._open if not region.announced)])

    def push(self, opened: NDArray[np.bool_], score: Scores) -> list[RegionPhase]:
        """Labels the next rows×columns band; returns what is to be told, older regions first.

        Only the scores of opened pixels are asked for.
        """
        labels, found = self._components(opened, score)
        groups = self._connect(labels, len(found))
        told: list[RegionPhase] = []
        survivors: list[OpenRegion] = []
        carried = np.zeros(len(found) + 1, np.int32)
        grown = np.zeros(len(self._open), bool)
        for olds, news in groups:
            region = self._join([self._open[i] for i in olds], [found[i] for i in news], told)
            grown[list(olds)] = True
            survivors.append(region)
            for i in news:
                carried[i + 1] = len(survivors)
        told += [_closed(region) for region, alive in zip(self._open, grown, strict=True) if not alive]
        self.row += len(opened)
        self._carry(survivors, carried[labels[-1]], told)
        return _in_order(told)

    def finish(self) -> list[RegionPhase]:
        """Closes what is open: the segment has ended, or its next lines are a gap."""
        told = [_closed(region) for region in self._open]
        self._open = []
        self._last_row[:] = 0
        return _in_order(told)

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` makes the same labeller."""
        edges = np.flatnonzero(np.diff(self._last_row, prepend=0, append=0)).tolist()
        runs = [[a, b, int(self._last_row[a])] for a, b in pairwise(edges) if self._last_row[a]]
        return {"row": self.row, "runs": runs, "open": [asdict(region) for region in self._open]}

    def restore(self, state: dict[str, Any]) -> None:
        self.row = state["row"]
        self._open = [OpenRegion(**{**fields, "key": tuple(fields["key"])}) for fields in state["open"]]
        self._last_row[:] = 0
        for first, end, label in state["runs"]:
            self._last_row[first:end] = label

    def _components(self, opened: NDArray[np.bool_], score: Scores) -> tuple[NDArray[np.int32], list[OpenRegion]]:
        count, raw = cv2.connectedComponents(opened.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        labels = np.asarray(raw, np.int32)
        if count == 1:
            return labels, []
        flood = count - 1 > self._settings.max_regions
        if flood:
            labels = self._lane_labels(opened)
        return labels, _measured(labels, opened, score[opened].astype(np.float64), self.row, flood)

    def _lane_labels(self, opened: NDArray[np.bool_]) -> NDArray[np.int32]:
        """One label a lane that has anything; they count from 1 without holes."""
        labels = np.zeros(opened.shape, np.int32)
        count = 0
        for first, end in self._settings.lanes:
            inside = opened[:, first:end] & (labels[:, first:end] == 0)
            if inside.any():
                count += 1
                labels[:, first:end][inside] = count
        outside = opened & (labels == 0)
        if outside.any():
            labels[outside] = count + 1
        return labels

    def _connect(self, labels: NDArray[np.int32], new_count: int) -> list[tuple[list[int], list[int]]]:
        """Groups of open regions and new components that touch, as (open, new) indices; new ones alone too."""
        old_count = len(self._open)
        parent = list(range(old_count + new_count))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        for old, new in _touching(self._last_row, labels[0]):
            a, b = root(old - 1), root(old_count + new - 1)
            parent[max(a, b)] = min(a, b)
        groups: dict[int, tuple[list[int], list[int]]] = {}
        for i in range(old_count + new_count):
            olds, news = groups.setdefault(root(i), ([], []))
            (olds if i < old_count else news).append(i if i < old_count else i - old_count)
        return [group for group in groups.values() if group[1]]

    def _join(self, olds: list[OpenRegion], news: list[OpenRegion], told: list[RegionPhase]) -> OpenRegion:
        """The oldest region of a group grows by the others; the others that were announced close into it."""
        if not olds:
            olds, news = news[:1], news[1:]
        olds = sorted(olds, key=lambda region: region.key)
        survivor = olds[0]
        for other in olds[1:]:
            if other.announced:
                told.append(RegionPhase("close", other, merged_into=survivor.key))
            survivor.absorb(other)
        for new in news:
            survivor.absorb(new)
        return survivor

    def _carry(self, survivors: list[OpenRegion], last: NDArray[np.int32], told: list[RegionPhase]) -> None:
        """Announces what grew; keeps open what reaches the band's last row, cuts what became too long."""
        goes_on = np.zeros(len(survivors) + 1, np.int32)
        self._open = []
        alive = set(last.tolist())
        for i, region in enumerate(survivors, start=1):
            region.large |= self._is_large(region)
            if region.large:
                phase: Phase = "update" if region.announced else "open"
                region.announced = True
                # what goes on changes after it was told
                told.append(RegionPhase(phase, _copy(region) if i in alive else region))
            if i not in alive:
                told.append(_closed(region))
                continue
            # one too small to be told is not cut: its parts would all stay too small
            if region.announced and region.last_row - region.first_row + 1 >= self._settings.max_rows:
                told.append(_closed(region))
                self._open.append(_next_part(region))
            else:
                self._open.append(region)
            goes_on[i] = len(self._open)
        self._last_row = goes_on[last]

    def _is_large(self, region: OpenRegion) -> bool:
        longer_side = max(region.last_row - region.first_row, region.last_column - region.first_column) + 1
        return region.area >= self._settings.min_area and longer_side >= self._settings.min_length


def _measured(
    labels: NDArray[np.int32], opened: NDArray[np.bool_], score: NDArray[np.float64], row: int, flood: bool
) -> list[OpenRegion]:
    """The region of each label 1, 2, … of a band; `score` has its opened pixels in raster order.

    By runs, pixels of one label side by side in a row, of which there are far fewer.
    """
    turns = labels[:, 1:] != labels[:, :-1]
    starts, ends = opened.copy(), opened.copy()
    starts[:, 1:] &= turns
    ends[:, :-1] &= turns
    first, last = np.flatnonzero(starts), np.flatnonzero(ends)
    lengths = last - first + 1
    places = np.cumsum(lengths) - lengths  # among the scores
    # numpy's quick ways through `at` are for an index as wide as a pointer, and not for float32
    which = labels.reshape(-1)[first].astype(np.intp)
    count, width = int(which.max()), labels.shape[1]
    numbers = np.arange(len(which))
    topmost, lowest = np.zeros((2, count + 1), np.intp)
    # of a place that is written more than once the last value stays
    lowest[which] = numbers
    topmost[which[::-1]] = numbers[::-1]
    top, start = np.divmod(first[topmost], width)  # topmost, then leftmost
    bottom = last[lowest] // width
    left, right = np.full(count + 1, width), np.zeros(count + 1, np.intp)
    np.minimum.at(left, which, first % width)
    np.maximum.at(right, which, last % width)
    peak = np.full(count + 1, -np.inf)
    np.maximum.at(peak, which, np.maximum.reduceat(score, places))
    area = np.bincount(which, lengths).astype(np.intp)
    total = np.bincount(which, np.add.reduceat(score, places))
    lists = [figure[1:].tolist() for figure in (top + row, start, bottom + row, left, right, area, total, peak)]
    return [
        OpenRegion((r0, key), 0, r0, r1, c0, c1, pixels, summed, most, coalesced=flood)
        for r0, key, r1, c0, c1, pixels, summed, most in zip(*lists, strict=True)
    ]


def _touching(above: NDArray[np.int32], below: NDArray[np.int32]) -> Sequence[tuple[int, int]]:
    """Pairs of labels of two neighbouring rows that are 8-connected."""
    pairs: set[tuple[int, int]] = set()
    for shift in (-1, 0, 1):
        a = above[max(0, -shift) : len(above) - max(0, shift)]
        b = below[max(0, shift) : len(below) - max(0, -shift)]
        both = (a > 0) & (b > 0)
        pairs.update(zip(a[both].tolist(), b[both].tolist(), strict=True))
    return sorted(pairs)


def _next_part(region: OpenRegion) -> OpenRegion:
    """The same region from the next row on, with nothing counted yet."""
    # bounds that any pixel widens: last before first
    row, nowhere = region.last_row + 1, 2**31 - 1
    return OpenRegion(region.key, region.part + 1, row, row - 1, nowhere, -1, 0, 0.0, float("-inf"), large=True)


def _copy(region: OpenRegion) -> OpenRegion:
    return OpenRegion(**vars(region))  # several times as fast as copy.copy


def _closed(region: OpenRegion) -> RegionPhase:
    return RegionPhase("close", region)


def _in_order(told: list[RegionPhase]) -> list[RegionPhase]:
    """What was never announced (too small) is discarded; the rest comes by key, then part, as it was told."""
    announced = [item for item in told if item.region.announced or item.phase != "close"]
    return sorted(announced, key=lambda item: (item.region.key, item.region.part))
