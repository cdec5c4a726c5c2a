"""Sorting more pixel scores than fit in memory: sorted runs in a temporary file, merged as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[Any]  # structured: numpy has no static type for the fields

# One distinct score: how many good and defective pixels have it, and the defective ones' summed weight.
TALLY = np.dtype([("key", "<u4"), ("good", "<i8"), ("defect", "<i8"), ("weight", "<f8")])
BYTES_PER_TALLY = 240  # peak while compacting, or merging with the reader's sums; measured 130 to 200

_SIGN = np.uint32(0x80000000)


def keys_of(scores: npt.NDArray[np.float32]) -> Keys:
    """Map finite float32 scores to uint32 keys of opposite order: a higher score has a lower key.

    Any shape, kept. Equal scores have equal keys, −0.0 and 0.0 included.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # −0.0 + 0.0 = 0.0
    return np.where(bits & _SIGN, bits, ~(bits | _SIGN))


def scores_of(keys: Keys) -> npt.NDArray[np.float32]:
    """Invert keys_of, float32 of the same shape."""
    return np.where(keys & _SIGN, keys, ~keys & ~_SIGN).astype(np.uint32, copy=False).view(np.float32)


class Spool:
    """Rows of one dtype in a temporary file that has no name or loses it on close, read back by position.

    Args:
        dtype: of the rows.
        folder: where the file lies; None is the system's choice, which may be a file system in memory.
    """

    def __init__(self, dtype: np.dtype[Any], folder: Path | None) -> None:
        self._dtype = dtype
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: Rows) -> None:
        self._file.seek(self._rows * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(rows, self._dtype).view(np.uint8).data)
        self._rows += len(rows)

    def read(self, first: int, count: int) -> Rows:
        rows = np.empty(min(count, self._rows - first), self._dtype)
        self._file.seek(first * self._dtype.itemsize)
        if self._file.readinto(rows.view(np.uint8).data) != rows.nbytes:
            raise OSError(f"the temporary file ends before row {first + len(rows)} of {self._rows}")
        return rows

    def close(self) -> None:
        self._file.close()


class SortedTallies:
    """Tallies in key order, summed per distinct key, of which at most `capacity` are in memory at a time.

    What exceeds it is sorted and written as a run; blocks() merges the runs, `capacity` / runs tallies of each at
    a time. That is at least one of each: the bound holds for up to capacity² / 2 distinct scores.
    """

    def __init__(self, capacity: int, folder: Path | None) -> None:
        self.capacity = capacity
        self._pending: list[Rows] = []
        self._pending_rows = 0
        self._runs: list[tuple[int, int]] = []  # first row and end in the spool
        self._folder = folder
        self._spool: Spool | None = None

    @property
    def spilled_bytes(self) -> int:
        return len(self._spool) * TALLY.itemsize if self._spool else 0

    @property
    def most_distinct(self) -> int:
        """An upper bound of the number of distinct keys."""
        return self._pending_rows + (len(self._spool) if self._spool else 0)

    def add(self, keys: Keys, good: bool, weights: npt.NDArray[np.float64] | None = None) -> None:
        """Count pixels: n keys in any order, all good or all defective, with n weights or none."""
        step = max(1, self.capacity // 2)
        for first in range(0, len(keys), step):
            piece = keys[first : first + step]
            if weights is None:
                distinct, counts = np.unique(piece, return_counts=True)
            else:
                distinct, inverse, counts = np.unique(piece, return_inverse=True, return_counts=True)
            tallies = np.zeros(len(distinct), TALLY)
            tallies["key"] = distinct
            tallies["good" if good else "defect"] = counts
            if weights is not None:
                tallies["weight"] = np.bincount(inverse, weights[first : first + step])
            self._pending.append(tallies)
            self._pending_rows += len(tallies)
            if self._pending_rows > self.capacity:
                self._compact()

    def blocks(self) -> Iterator[Rows]:
        """Yield all tallies in key order, each distinct key in one row of one block, at most `capacity` rows each."""
        if not self._runs:
            self._pending = [_summed(self._pending)]
            self._pending_rows = len(self._pending[0])
            yield self._pending[0]
            return
        if self._pending_rows:
            self._compact(spill=True)
        yield from self._merge()

    def close(self) -> None:
        self._pending = []
        if self._spool:
            self._spool.close()

    def _compact(self, spill: bool = False) -> None:
        tallies = _summed(self._pending)
        self._pending, self._pending_rows = [tallies], len(tallies)
        if not spill and len(tallies) <= self.capacity // 2:
            return  # many ties: worth keeping, the next compaction is at least half a capacity away
        if self._spool is None:
            self._spool = Spool(TALLY, self._folder)
        self._runs.append((len(self._spool), len(self._spool) + len(tallies)))
        self._spool.append(tallies)
        self._pending, self._pending_rows = [], 0

    def _merge(self) -> Iterator[Rows]:
        assert self._spool is not None
        depth = max(1, self.capacity // len(self._runs))
        left = list(self._runs)
        heads: list[Rows] = [np.empty(0, TALLY)] * len(left)
        while True:
            for i, (first, end) in enumerate(left):
                if first < end and 2 * len(heads[i]) <= depth:  # not only when empty: the shortest head sets the pace
                    read = self._spool.read(first, min(depth - len(heads[i]), end - first))
                    heads[i] = np.concatenate([heads[i], read])
                    left[i] = (first + len(read), end)
            if not any(len(head) for head in heads):
                return
            # What a run still has in the file lies beyond its head: up to the lowest last key of these, all is known.
            more = [head for head, (first, end) in zip(heads, left, strict=True) if first < end]
            known = min((int(head["key"][-1]) for head in more), default=2**32 - 1)
            cuts = [int(np.searchsorted(head["key"], np.uint32(known), side="right")) for head in heads]
            ready = [head[:cut] for head, cut in zip(heads, cuts, strict=True)]
            heads = [head[cut:] for head, cut in zip(heads, cuts, strict=True)]
            yield _summed(ready)


def _summed(parts: list[Rows]) -> Rows:
    """Concatenate, sort by key and add up rows of equal key; empties `parts`, so that they need not be held twice."""
    tallies = np.concatenate(parts) if parts else np.empty(0, TALLY)
    parts.clear()
    if not len(tallies):
        return tallies
    order = np.argsort(tallies["key"], kind="stable")  # stable: float sums then do not depend on the machine
    keys = tallies["key"][order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    summed = np.empty(len(starts), TALLY)
    summed["key"] = keys[starts]
    for field in ("good", "defect", "weight"):
        summed[field] = np.add.reduceat(tallies[field][order], starts)
    return summed
