"""What is to be rejected where: defects and uninspected web become windows at the gates.

Counts are those of the PLC's counter and do not wrap here; where a camera's lines are is told by the count at which
they pass the reference line (`web.py`). A gate's windows are in counts at the gate: `distance` further on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from linescan.line import Rejects, Web
from linescan.messages import RejectCause
from linescan.spans import Spans
from linescan.web import Motion

FAR = 1 << 30  # counts by which a limit may be behind: a PLC compares 32-bit counts by the sign of their difference

Uninspected = Literal["gap", "outside-roll", "untrusted"]
UNANNOUNCED = ("outside-roll", "untrusted")  # a PLC rejects them without being told


@dataclass(frozen=True)
class Rules:
    """How spans become windows, in counts; `reaction_s` is the PLC's scan and the actuator.

    `behind` is how far behind the gate windows are remembered, for a web that runs back. Without `reject_uninspected`
    gaps and the web outside rolls are only told: nothing here orders them.
    """

    lead: int
    lag: int
    minimum: int
    merge: int
    reaction_s: float
    behind: int
    reject_uninspected: bool = True


@dataclass(frozen=True)
class Window:
    """An order: the lane's gate rejects from count `first` until `end`.

    The PLC had to have it at count `deadline`; `in_time` says whether the web was not beyond it yet.
    """

    lane: str
    cause: RejectCause
    source: str
    first: int
    end: int
    deadline: int
    in_time: bool


@dataclass
class _Gate:
    """A lane's gate; all counts are at the gate."""

    lane: str
    distance: int
    windows: Spans = field(default_factory=Spans)
    limit: int | None = None  # what is before it was inspected or is in a window; never goes back
    known_from: int | None = None  # windows before it are forgotten


@dataclass
class _Camera:
    lanes: tuple[str, ...]
    up_to: int | None = None  # at the reference line; None: where its lines are is not known
    final: int = 0  # up to which its present roll was called final: after the web ran back it begins before `up_to`


class Schedule:
    """The rejects of one line.

    Each method returns what is newly to be ordered; the caller hands it to the PLC in that order, then the limits. What
    was ordered stays ordered.

    **What is rejected.** For a span [first, end) that was told, [first − lead, end + lag) at the gate, at least
    `minimum` long; a hole of less than `merge` between two windows of a lane is closed. Spans are whole lines. So the
    web around a defect in a lane is rejected

        from at most   lead + one line + merge + speed · scan                                  before it
        until at most  max(lag, minimum − lead − its length) + one line + merge + speed · scan  behind it

    counting `merge` only where another window is that near; the last terms are of a gate that moves at the PLC's scans
    (its jitter). A line is a unit: one that is defective in part is rejected in whole. A lane that a growing region
    newly reaches is rejected from the first line on that was not final when that was told.

    **What passes.** Only what is before the lane's `limit` and in no window; and no window is ordered any more that
    begins before the limit. New spans begin at or beyond `inspected_up_to` of their camera, so the limit stays `lead`
    behind the least of the cameras' that see the lane; and while a window ended less than `merge` before that, it stays
    at that window's end, for a new one would close the hole. Exceptions: a web that comes back farther than is
    remembered, and a region that opens in lines that had been called final. Those are ordered all the same.

    **Nobody can forget** the web between two rolls, before the first, or after the counters were tied anew: `begin`
    orders it. A camera whose place is not known holds the limits of its lanes.

    **In time** is a window whose deadline (`reaction_s` at the present speed before it begins) was not passed when it
    was ordered. Where the web's position is not known that is denied; where it is old, the web has gone on at top
    speed. What is outside a roll or untrusted the PLC rejects without being told: it is always in time.

    Args:
        gates: lane → counts from the reference line to its gate.
        cameras: camera → lanes of which it sees something.
        motion: the web's, kept up to date by the caller.
    """

    def __init__(
        self, gates: Mapping[str, int], cameras: Mapping[str, Iterable[str]], rules: Rules, motion: Motion
    ) -> None:
        self.rules = rules
        self._motion = motion
        self._gates = {lane: _Gate(lane, distance) for lane, distance in gates.items()}
        self._cameras = {name: _Camera(self._gated(lanes)) for name, lanes in cameras.items()}

    @classmethod
    def of(cls, web: Web, rejects: Rejects, cameras: Mapping[str, Iterable[str]], motion: Motion) -> Schedule:
        """By line.toml; windows are remembered behind the gate for as far as it is from the camera."""
        per_mm = web.counts_per_mm
        gates = {gate.lane: round(gate.distance_mm * per_mm) for gate in rejects.gates}
        rules = Rules(
            lead=ceil(rejects.lead_mm * per_mm),
            lag=ceil(rejects.lag_mm * per_mm),
            minimum=ceil(rejects.minimum_mm * per_mm),
            merge=ceil(rejects.merge_mm * per_mm),
            reaction_s=rejects.plc_scan_s + rejects.actuator_s,
            behind=max(gates.values()),
            reject_uninspected=rejects.uninspected != "warn",
        )
        return cls(gates, cameras, rules, motion)

    # ------------------------------------------------------------------------------------------ what is known

    def limit(self, lane: str) -> int | None:
        """Count at the lane's gate before which everything was inspected or is in a window; None: nothing is known."""
        return self._gates[lane].limit

    def known_from(self, lane: str) -> int | None:
        """Count at the lane's gate before which windows are forgotten: they are past."""
        return self._gates[lane].known_from

    def windows(self, lane: str) -> list[tuple[int, int]]:
        """What is rejected at the lane's gate, first and end, as far as it is remembered."""
        known = self._gates[lane].windows
        return list(zip(known.firsts, known.ends, strict=True))

    @property
    def lanes(self) -> tuple[str, ...]:
        return tuple(self._gates)

    # ------------------------------------------------------------------------------------------ where cameras are

    def begin(
        self,
        camera: str,
        first: int,
        lanes: Iterable[str] | None = None,
        *,
        now_ns: int,
        cause: Uninspected = "outside-roll",
        source: str = "",
    ) -> list[Window]:
        """The camera's lines are followed from count `first` on: a roll begins, or the counters were tied anew.

        What lies between there and what it had reached is ordered. Where that is not known (the first roll, or after
        `lose`), all that may still come to the gate is; `first` is then to be behind all lines scanned so far.

        Args:
            lanes: of which it sees something from now on, where the recipe changed them.
        """
        known = self._cameras[camera]
        before, sees = known.lanes, known.lanes if lanes is None else self._gated(lanes)
        ordered: list[Window] = []
        for lane in dict.fromkeys((*before, *sees)):
            gate = self._gates[lane]
            open_from, limit = self._open(gate, first - self.rules.behind)
            reached, end = known.up_to, first
            if reached is None:
                reached = open_from - gate.distance + self.rules.lead
                end = max(first, limit - gate.distance)  # counts of another tie may have been larger
            elif lane not in before:
                reached = limit - gate.distance + self.rules.lead
            if end > reached:
                ordered += self._reject((lane,), reached, end, cause, source, now_ns)
        known.lanes, known.up_to = sees, first if known.up_to is None else max(first, known.up_to)
        known.final = first
        self._advance((*before, *sees))
        return ordered

    def lose(self, camera: str) -> None:
        """Where the camera's lines are is not known any more: its lanes' limits stand until it begins again."""
        self._cameras[camera].up_to = None

    def reached(self, camera: str, up_to: int) -> None:
        """The camera's lines before count `up_to` are final or in gaps, and all of them was told here."""
        known = self._cameras[camera]
        known.final = max(known.final, up_to)
        if known.up_to is not None and up_to > known.up_to:
            known.up_to = up_to
            self._advance(known.lanes)

    def restore(self, windows: Iterable[tuple[str, int, int]], known_from: int, up_to: Mapping[str, int]) -> None:
        """Goes on where another stopped, before anything else is told.

        Args:
            windows: lane, first and end of what was ordered from count `known_from` at the gate on.
            up_to: camera → count at the reference line before which everything that it saw is inspected or in them.
        """
        for gate in self._gates.values():
            self._open(gate, known_from)
        for lane, first, end in windows:
            self._gates[lane].windows.add(first, end)
        for camera, count in up_to.items():
            self._cameras[camera].up_to = self._cameras[camera].final = count
        self._advance(self._gates)

    def moved(self, now_ns: int) -> list[Window]:
        """The motion has a new position: forgets what is past; where the web comes back, orders what was forgotten."""
        position, ordered = self._motion.position, list[Window]()
        if position is None:
            return ordered
        oldest = position - self.rules.behind
        for gate in self._gates.values():
            known_from, limit = self._open(gate, oldest)
            if position - self.rules.behind // 2 < known_from:  # early: the PLC has to have it when it is needed
                ordered += self._order(gate, oldest, known_from, "untrusted", "web-back", now_ns)
                gate.known_from = oldest
            elif oldest > known_from:
                gate.known_from = oldest
                gate.windows.drop_before(oldest)
            if position - limit > FAR:
                if self._wanted("outside-roll"):
                    ordered += self._order(gate, max(limit, oldest), position, "outside-roll", "", now_ns)
                gate.limit = position
        return ordered

    # ------------------------------------------------------------------------------------------ what is rejected

    def region(
        self, camera: str, lanes: Iterable[str], first: int, end: int, *, opens: bool, now_ns: int, source: str = ""
    ) -> list[Window]:
        """A region of that camera at counts first…end − 1, all of it so far; again in each phase.

        Only what is not final yet can be new in a phase after the first (`opens`): what lies before was told. Where it
        has no lane, or one without a gate, it is rejected in all lanes that the camera sees.
        """
        known = self._cameras[camera]
        if known.up_to is None:
            return []  # all that was scanned so far will be rejected when it begins
        first = first if opens else max(first, known.final)
        named = tuple(lanes)
        gated = self._gated(named)
        if not gated or len(gated) < len(set(named)):
            gated = tuple(dict.fromkeys((*gated, *(known.lanes or self._gates))))
        return self._reject(gated, first, end, "region", source, now_ns)

    def uninspected(
        self,
        camera: str,
        first: int,
        end: int,
        *,
        now_ns: int,
        cause: Uninspected = "gap",
        source: str = "",
    ) -> list[Window]:
        """Counts first…end − 1 of that camera were not inspected: a gap, in every lane of which it sees something."""
        known = self._cameras[camera]
        return [] if known.up_to is None else self._reject(known.lanes, first, end, cause, source, now_ns)

    def reject(
        self, lanes: Iterable[str], first: int, end: int, *, cause: RejectCause, now_ns: int, source: str = ""
    ) -> list[Window]:
        """Counts first…end − 1 at the reference line in those lanes, whatever is there: a test."""
        return self._reject(self._gated(lanes), first, end, cause, source, now_ns)

    # ------------------------------------------------------------------------------------------ inside

    def _reject(
        self, lanes: Iterable[str], first: int, end: int, cause: RejectCause, source: str, now_ns: int
    ) -> list[Window]:
        if end <= first or not self._wanted(cause):
            return []
        ordered: list[Window] = []
        for lane in lanes:
            gate = self._gates[lane]
            begins, ends = first + gate.distance - self.rules.lead, end + gate.distance + self.rules.lag
            if cause in UNANNOUNCED:  # it may be longer than 32 bits can tell, and so far back it is past
                begins = max(begins, ends - FAR)
            ordered += self._order(gate, begins, ends, cause, source, now_ns)
        return ordered

    def _order(self, gate: _Gate, first: int, end: int, cause: RejectCause, source: str, now_ns: int) -> list[Window]:
        """Makes counts first…end − 1 at the gate a part of its windows; returns what is new in them."""
        rules, windows, asked = self.rules, gate.windows, first
        before = windows.last_end(first)
        if before is not None and first - before < rules.merge and (gate.limit is None or before >= gate.limit):
            first = before
        end = max(end, windows.begins(first) + rules.minimum)
        after = windows.next_first(end)
        if after is not None and after - end < rules.merge:
            end = after
        reaction = ceil(rules.reaction_s * self._motion.speed)
        position = self._motion.at_most(now_ns)
        ordered = []
        for piece_first, piece_end in windows.add(first, end):
            deadline = max(piece_first, asked) - reaction
            in_time = cause in UNANNOUNCED or (position is not None and position <= deadline)
            ordered.append(Window(gate.lane, cause, source, piece_first, piece_end, deadline, in_time))
        self._advance((gate.lane,))
        return ordered

    def _advance(self, lanes: Iterable[str]) -> None:
        """Moves the limits of those lanes to where they may be."""
        for lane in lanes:
            gate = self._gates[lane]
            reached = [camera.up_to for camera in self._cameras.values() if lane in camera.lanes]
            known = [up_to for up_to in reached if up_to is not None]
            if not known or len(known) < len(reached):
                continue
            limit = min(known) + gate.distance - self.rules.lead
            before = gate.windows.last_end(limit)
            if before is not None and limit - before < self.rules.merge:
                limit = before
            gate.limit = limit if gate.limit is None else max(gate.limit, limit)

    def _open(self, gate: _Gate, known_from: int) -> tuple[int, int]:
        """Where the gate's memory begins, and its limit; both at `known_from` where there were none."""
        gate.known_from = known_from if gate.known_from is None else gate.known_from
        gate.limit = known_from if gate.limit is None else gate.limit
        return gate.known_from, gate.limit

    def _gated(self, lanes: Iterable[str]) -> tuple[str, ...]:
        return tuple(lane for lane in dict.fromkeys(lanes) if lane in self._gates)

    def _wanted(self, cause: RejectCause) -> bool:
        return self.rules.reject_uninspected or cause not in ("gap", "outside-roll")


def shortest_distance_mm(
    *,
    frame_lines: int,
    context_lines: int,
    mm_per_line: float,
    top_speed_mm_s: float,
    inspection_s: float,
    reaction_s: float,
    lead_mm: float,
    merge_mm: float,
) -> float:
    """How far a gate has to be from the camera's line, at least, so that nothing good is rejected for being too late.

    A line waits for the rest of its frame and for `context_lines` more on which its result depends, then for the
    inspection (`inspection_s` from the last needed line to the order), while the web runs on; the PLC's scan and the
    actuator (`reaction_s`) come on top. A gate opens `lead_mm` before a defect, and a limit may be held back by
    `merge_mm`. A camera `y_offset_mm` behind the reference line has so much less.
    """
    scanned_mm = (frame_lines + context_lines) * mm_per_line
    return scanned_mm + (inspection_s + reaction_s) * top_speed_mm_s + lead_mm + merge_mm
