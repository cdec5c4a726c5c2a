"""Several cameras, one web: which regions of neighbouring cameras are one defect, and which id it keeps.

Two regions of neighbouring cameras are one where their boxes overlap, or come within a margin, in mm across the web and
in counts along it. Boxes are compared as they grow, slice by slice: what an event adds is the lines that were not final
before it, over the region's columns. One defect keeps one id, that of its oldest region; unless a younger one of it was
closed as a defect of its own before the older was known to belong to it: what was told is not taken back.

A shape whose arms lie under one camera and have all closed before they join under the other is told apart, and counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from linescan.messages import Region

SLICES = 10_000  # of a camera that are kept while its neighbour does not go on


@dataclass(frozen=True)
class View:
    """What a camera sees across the web, in mm; where that is not known, rather more than less."""

    from_mm: float
    to_mm: float

    def within(self, other: View, margin_mm: float) -> bool:
        """Whether the two overlap, or come that near."""
        return self.from_mm <= other.to_mm + margin_mm and other.from_mm <= self.to_mm + margin_mm


class _Defect:
    """Pieces that are one (a node of a union-find forest).

    `candidates` may still keep their id: they are open, or `told`, which was closed as a defect of its own.
    """

    def __init__(self) -> None:
        self.parent: _Defect | None = None
        self.candidates: set[Piece] = set()
        self.told: Piece | None = None

    def root(self) -> _Defect:
        node = self
        while node.parent is not None:
            if node.parent.parent is not None:
                node.parent = node.parent.parent
            node = node.parent
        return node


@dataclass(eq=False)
class Piece:
    """What one camera sees of a defect: a region, whatever its parts.

    `age` orders pieces, older first: first count, place of the camera in its line, number. `reaches` says to which
    count a neighbour can see it.
    """

    camera: str
    id: str
    age: tuple[int, int, int]
    end: int
    closed: bool = False
    reaches: dict[str, int] = field(default_factory=dict)
    defect: _Defect = field(default_factory=_Defect)


@dataclass(frozen=True)
class _Slice:
    start: int
    end: int
    across: View
    piece: Piece


class _Slices:
    """One camera's slices near a border, by where they end."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._slices: list[_Slice] = []
        self._longest = 0

    def __len__(self) -> int:
        return len(self._slices)

    def add(self, piece: _Slice) -> None:
        at = bisect_right(self._ends, piece.end)
        self._ends.insert(at, piece.end)
        self._slices.insert(at, piece)
        self._longest = max(self._longest, piece.end - piece.start)
        self._drop(len(self._slices) - SLICES)

    def touching(self, start: int, end: int) -> Iterator[_Slice]:
        """Those that have a count in common with start…end, or border on it."""
        for i in range(bisect_left(self._ends, start), len(self._slices)):
            if self._ends[i] - self._longest > end:
                return
            if self._slices[i].start <= end:
                yield self._slices[i]

    def forget(self, before: int) -> None:
        self._drop(bisect_left(self._ends, before))

    def _drop(self, count: int) -> None:
        if count > 0:
            del self._ends[:count], self._slices[:count]


class Neighbours:
    """The regions of one roll under all cameras; counts are of the web, so that the same place has the same count.

    Args:
        views: of each camera, in the order that decides between regions that begin at the same count.
        margin_mm, margin: how near to each other two boxes are one, across in mm and along in counts.
        counters: `border_told_apart` is counted there.
    """

    def __init__(self, views: Mapping[str, View], margin_mm: float, margin: int, counters: Counter[str]) -> None:
        self._views, self._margin_mm, self._margin, self._counters = views, margin_mm, margin, counters
        self._rank = {camera: rank for rank, camera in enumerate(views)}
        self._beside = {camera: beside(camera, views, margin_mm) for camera in views}
        self._slices = {camera: _Slices() for camera in views}
        self._pieces: dict[tuple[str, str], Piece] = {}
        self._closed: defaultdict[str, deque[Piece]] = defaultdict(deque)
        self._number = 0

    @property
    def kept(self) -> int:
        """Pieces and slices in memory."""
        return len(self._pieces) + sum(map(len, self._slices.values()))

    def hear(self, region: Region, across: View, counts: tuple[int, int], final: int) -> Piece:
        """Takes an event of a region whose lines are counts[0]…counts[1]; those before count `final` were final."""
        start, end = counts
        key = (region.camera, region.id)
        piece = self._pieces.get(key)
        if piece is None:
            self._number += 1
            age = (start, self._rank[region.camera], self._number)
            piece = self._pieces[key] = Piece(region.camera, region.id, age, end)
            piece.defect.candidates.add(piece)
        piece.end = max(piece.end, end)
        if max(start, final) < end:
            self._extend(piece, _Slice(max(start, final), end, across, piece))
        piece.closed = region.phase == "close"
        if piece.closed:
            self._closed[region.camera].append(piece)
            if region.merged_into is not None:
                self._absorb(piece, self._pieces.get((region.camera, region.merged_into)))
        return piece

    def decide(self, piece: Piece) -> Piece:
        """The piece whose id the defect keeps; asked once for each close that the camera itself did not merge."""
        defect = piece.defect.root()
        keeps = defect.told or min(defect.candidates, key=lambda one: one.age, default=piece)
        if keeps is piece:
            defect.told = piece
        else:
            defect.candidates.discard(piece)
        return keeps

    def forget(self, camera: str, passed: Mapping[str, int]) -> None:
        """Lets go of what nothing can touch any more after `camera` went on; `passed`: how far each camera is final."""
        done, closed = passed[camera], self._closed[camera]
        while closed and closed[0].end < done:  # a part that follows begins at its end
            piece = closed.popleft()
            if piece.closed:
                self._pieces.pop((piece.camera, piece.id), None)
        for other in self._beside[camera]:
            behind = [passed.get(one) for one in self._beside[other]]
            known = [count for count in behind if count is not None]
            if len(known) == len(behind):
                self._slices[other].forget(min(known) - self._margin)

    def _extend(self, piece: Piece, added: _Slice) -> None:
        seen = [one for one in self._beside[piece.camera] if added.across.within(self._views[one], self._margin_mm)]
        for other in seen:
            piece.reaches[other] = max(piece.reaches.get(other, added.end), added.end)
            for near in self._slices[other].touching(added.start - self._margin, added.end + self._margin):
                if near.across.within(added.across, self._margin_mm):
                    self._join(piece.defect, near.piece.defect)
        if seen:
            self._slices[piece.camera].add(added)

    def _absorb(self, piece: Piece, into: Piece | None) -> None:
        """The camera itself has merged the piece, so its id is gone."""
        if into is not None:
            self._join(piece.defect, into.defect)
        defect = piece.defect.root()
        defect.candidates.discard(piece)
        if defect.told is piece:
            defect.told = None

    def _join(self, one: _Defect, other: _Defect) -> None:
        one, other = one.root(), other.root()
        if one is other:
            return
        if len(one.candidates) < len(other.candidates):
            one, other = other, one
        other.parent = one
        one.candidates |= other.candidates
        if one.told is not None and other.told is not None:
            older, younger = sorted((one.told, other.told), key=lambda piece: piece.age)
            if younger.closed:  # else its next part closes into the older
                self._counters["border_told_apart"] += 1
            one.candidates.discard(younger)
            one.told = older
        else:
            one.told = one.told or other.told
        other.candidates = set()


def beside(camera: str, views: Mapping[str, View], margin_mm: float) -> tuple[str, ...]:
    """The other cameras that see, within the margin, something of what this one sees."""
    return tuple(other for other in views if other != camera and views[other].within(views[camera], margin_mm))
