"""Before the publisher's ledger: what a camera tells of a region at its border waits until its neighbour is as far.

streams of the cameras ──BorderGate──▶ the same streams, closes at a border with the `merged_into` of one web
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from linescan.messages import Gap, Message, Progress, Region, RollEnd, RollStart, Stamp
from linescan.neighbours import Neighbours, Piece, View, beside

HELD = 250  # messages of a camera; a worker has no more than 500 on their way, and its next Progress must get through
ROLLS = 3  # the newest are kept, and those in which a camera still is
EVERYWHERE = 1 << 62  # a count beyond any
Events = RollStart | Region | Gap | RollEnd | Progress
Lines = Callable[[int], int]


@dataclass(frozen=True)
class Told:
    """A message as it came from a worker."""

    peer: bytes
    stamp: Stamp
    message: Message


@dataclass
class _Roll:
    """Counts up to which each camera is final: as it said, and as was passed on."""

    name: str
    web: Neighbours
    lines: dict[str, Lines] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Held:
    told: Told
    since_ns: int
    roll: _Roll | None
    piece: Piece | None = None  # of a close that may be merged
    needs: Mapping[str, int] = field(default_factory=dict)  # neighbour → count that it must have passed


@dataclass
class _Stream:
    """One camera's: the stamp that comes next, what waits, and in which roll it is, as it said and as was passed on."""

    camera: str
    beside: tuple[str, ...]
    epoch: int = 0
    next: int = 0
    roll: str = ""
    passed_roll: str = ""
    waiting: deque[_Held] = field(default_factory=deque)
    given_up: bool = False  # a neighbour waited for it in vain, and nothing has come since

    def holds(self, stamp: Stamp) -> bool:
        if not self.waiting or stamp.epoch != self.epoch:
            return False
        return self.waiting[0].told.stamp.sequence <= stamp.sequence < self.next


class BorderGate:
    """Passes the cameras' streams on in the order in which each came, regions of one defect merged into one.

    The close of a region that a neighbour can see too waits, with all that its camera tells after it, until the
    neighbour's inspection is beyond it: by Progress, announced gap or end of the roll as they *come*, held or not, so
    that two cameras never wait for each other. It waits `hold_s` at most; then it goes as it is, and what the
    neighbour still tells of the same defect is merged into it. A neighbour that was waited for in vain is not waited
    for again before it speaks. A camera without neighbours is passed through untouched.

    `merged_into` is an id of the same camera, or "camera/id" of another one; the survivor may have closed before.
    Call `begin` for each camera before its first message, and `place` for each roll of a camera, as soon as the count
    of its line 0 is known; without one, a camera's regions of that roll stay its own.

    `counters`: border_merged, closes that got another camera's id or one that another camera showed to be the same;
    border_unmatched, closes at a border passed before the neighbour was as far; border_told_apart, defects that turned
    out to be one after both were told.

    Args:
        views: what each camera sees; of regions that begin at the same count, the earlier camera's is the older.
        counts_per_mm: of the web's coordinate.
        margin_mm: boxes this near to each other are one defect, across and along.
        hold_s: how long a message waits at most, in time of `now_ns`.
    """

    def __init__(self, views: Mapping[str, View], *, counts_per_mm: float, margin_mm: float, hold_s: float) -> None:
        self._views, self._margin_mm = dict(views), margin_mm
        self._margin = round(margin_mm * counts_per_mm)
        self._hold_ns = hold_s * 1e9
        self._streams = {camera: _Stream(camera, beside(camera, views, margin_mm)) for camera in views}
        self._rolls: dict[str, _Roll] = {}
        self.counters: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Messages that wait."""
        return sum(len(stream.waiting) for stream in self._streams.values())

    @property
    def kept(self) -> int:
        """Regions and pieces of them in memory."""
        return sum(roll.web.kept for roll in self._rolls.values())

    def begin(self, camera: str, epoch: int, sequence: int) -> None:
        """The camera's stream goes on with that stamp: at the start, and when a worker takes over.

        What waits is dropped: it was not acknowledged, so it will be told again.
        """
        stream = self._streams[camera]
        stream.epoch, stream.next, stream.roll = epoch, sequence, stream.passed_roll
        stream.waiting.clear()
        for roll in self._rolls.values():
            roll.heard.pop(camera, None)
            if camera in roll.passed:
                roll.heard[camera] = roll.passed[camera]

    def place(self, camera: str, roll: str, lines: Lines) -> None:
        """`lines(line)` is where a line of that roll begins, growing with it, in counts that all cameras share."""
        if self._streams[camera].beside:
            self._roll(roll).lines[camera] = lines

    def came(self, told: Told, now_ns: int) -> list[Told]:
        """Takes what came; returns what may go on now, of this camera and of its neighbours."""
        stream = self._streams.get(told.stamp.camera)
        if stream is None or not stream.beside:
            return [told]
        if (told.stamp.epoch, told.stamp.sequence) != (stream.epoch, stream.next):
            return [] if stream.holds(told.stamp) else [told]  # sent again, or not for this lease: the ledger knows
        stream.next += 1
        stream.given_up = False
        stream.waiting.append(self._hear(stream, told, now_ns))
        released = self._release(stream, now_ns)
        for other in stream.beside:
            released += self._release(self._streams[other], now_ns)
        return released

    def turn(self, now_ns: int) -> list[Told]:
        """What has waited long enough."""
        return [told for stream in self._streams.values() for told in self._release(stream, now_ns)]

    # ------------------------------------------------------------------------------------------ as it comes

    def _roll(self, name: str) -> _Roll:
        if name not in self._rolls:
            web = Neighbours(self._views, self._margin_mm, self._margin, self.counters)
            self._rolls[name] = _Roll(name, web)
            running = {name for stream in self._streams.values() for name in (stream.roll, stream.passed_roll)}
            for old in list(self._rolls)[:-ROLLS]:
                if old not in running:
                    del self._rolls[old]
        return self._rolls[name]

    def _hear(self, stream: _Stream, told: Told, now_ns: int) -> _Held:
        message, camera = told.message, stream.camera
        if not isinstance(message, Events):
            return _Held(told, now_ns, None)
        roll = self._roll(message.roll)
        if stream.roll != roll.name and stream.roll in self._rolls:
            self._rolls[stream.roll].heard[camera] = EVERYWHERE
        stream.roll = roll.name
        lines, final = roll.lines.get(camera), roll.heard.get(camera, -EVERYWHERE)
        roll.heard[camera] = _reached(final, message, lines)
        if not isinstance(message, Region) or message.across_mm is None or lines is None:
            return _Held(told, now_ns, roll)
        across = View(message.across_mm[0], message.across_mm[1])
        piece = roll.web.hear(message, across, (lines(message.first_line), lines(message.last_line + 1)), final)
        if message.phase != "close" or message.merged_into is not None:
            return _Held(told, now_ns, roll)
        needs = {other: count + self._margin for other, count in piece.reaches.items()}
        return _Held(told, now_ns, roll, piece, needs)

    # ------------------------------------------------------------------------------------------ as it goes on

    def _release(self, stream: _Stream, now_ns: int) -> list[Told]:
        released = []
        while stream.waiting and self._may_go(stream, now_ns):
            released.append(self._pass(stream, stream.waiting.popleft()))
        return released

    def _may_go(self, stream: _Stream, now_ns: int) -> bool:
        head = stream.waiting[0]
        behind = self._behind(head)
        if not behind:
            return True
        if now_ns - head.since_ns >= self._hold_ns:
            for other in behind:
                other.given_up = True
        elif len(stream.waiting) <= HELD and not all(other.given_up for other in behind):
            return False
        self.counters["border_unmatched"] += 1
        return True

    def _behind(self, held: _Held) -> list[_Stream]:
        """Neighbours that may still tell of the same defect; one without a place in this roll cannot say so."""
        roll = held.roll
        if roll is None or not held.needs:
            return []
        late = [camera for camera, count in held.needs.items() if roll.heard.get(camera, -EVERYWHERE) <= count]
        streams = [self._streams[camera] for camera in late]
        return [other for other in streams if other.camera in roll.lines or other.roll != roll.name]

    def _pass(self, stream: _Stream, held: _Held) -> Told:
        message, roll = held.told.message, held.roll
        if roll is None or not isinstance(message, Events):
            return held.told
        self._go_on(stream, message, roll)
        if held.piece is None or not isinstance(message, Region):
            return held.told
        keeps = roll.web.decide(held.piece)
        if keeps is held.piece:
            return held.told
        self.counters["border_merged"] += 1
        name = keeps.id if keeps.camera == stream.camera else f"{keeps.camera}/{keeps.id}"
        return replace(held.told, message=replace(message, merged_into=name))

    def _go_on(self, stream: _Stream, message: Events, roll: _Roll) -> None:
        camera, before = stream.camera, self._rolls.get(stream.passed_roll)
        if before is not None and before is not roll:
            before.passed[camera] = EVERYWHERE
            before.web.forget(camera, before.passed)
        stream.passed_roll = roll.name
        roll.passed[camera] = _reached(roll.passed.get(camera, -EVERYWHERE), message, roll.lines.get(camera))
        if isinstance(message, Progress | RollEnd):
            roll.web.forget(camera, roll.passed)


def _reached(final: int, message: Events, lines: Lines | None) -> int:
    """The count before which all is final or in an announced gap, after the message."""
    if isinstance(message, RollEnd):
        return EVERYWHERE
    if lines is not None and isinstance(message, Progress):
        return max(final, lines(message.inspected_up_to))
    if lines is not None and isinstance(message, Gap) and lines(message.first_line) <= final:
        return max(final, lines(message.last_line + 1))
    return final
