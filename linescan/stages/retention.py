"""The frames that acquire keeps until what they hold is in the journal."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from linescan.messages import Credit, Frame, Gap, RollEnd, RollStart, StreamEnd
from linescan.transport.network import Buffer

MOST_GAPS = 1000  # that a spilled stretch leaves; beyond them neighbours become one, whatever their causes
KEEP_OF_BUDGET = 0.75  # down to which a full store is emptied, so that it does not overflow with each frame


@dataclass(frozen=True, eq=False)
class Item:
    """Something of the frames' stream; `needed_ns` is when the last line of it came."""

    message: Frame | Gap | RollStart | RollEnd | StreamEnd
    pixels: Buffer | None = None
    needed_ns: int = 0

    @property
    def size(self) -> int:
        return 0 if self.pixels is None else len(self.pixels)


class Retention:
    """The frames' stream from the first line that a new worker may still need.

    Items have places 0, 1, 2, … in the stream; a place never names another item later.

    Args:
        budget: bytes of pixels that are kept.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._items: deque[Item] = deque()
        self._rolls: Counter[str] = Counter()  # items of each
        self._first = 0
        self.size = 0
        self.lines_dropped = 0

    @property
    def first(self) -> int:
        """Place of the oldest item."""
        return self._first

    @property
    def end(self) -> int:
        """Place after the newest item."""
        return self._first + len(self._items)

    @property
    def full(self) -> bool:
        return self.size > self._budget

    def __getitem__(self, place: int) -> Item:
        return self._items[place - self._first]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def append(self, item: Item) -> None:
        self._items.append(item)
        self._rolls[item.message.roll] += 1
        self.size += item.size

    def free(self, journaled: Credit) -> None:
        """Lets go of what comes before journaled progress: nobody will ask for it again."""
        while self._rolls[journaled.roll] and _is_past(self._items[0], journaled):  # not into the roll that follows
            self._drop_first()

    def _drop_first(self) -> None:
        item = self._items.popleft()
        self.size -= item.size
        self._first += 1
        roll = item.message.roll
        self._rolls[roll] -= 1
        if not self._rolls[roll]:
            del self._rolls[roll]

    def spill(self, journaled: Credit | None) -> None:
        """Turns the oldest frames into gaps until the budget holds; lines that are inspected are in no gap."""
        kept: list[Item] = []
        for item in self._items:
            if isinstance(item.message, Gap):
                _add(kept, item.message, item.needed_ns)
                continue
            if item.pixels is None or self.size <= self._budget * KEEP_OF_BUDGET:
                kept.append(item)
                continue
            self.size -= item.size
            assert isinstance(item.message, Frame)
            gap = _gap_of(item.message, journaled)
            if gap is not None:
                self.lines_dropped += gap.last_line - gap.first_line + 1
                _add(kept, gap, item.needed_ns)
        self._first = self.end  # the places before were of another stream: whoever reads on starts anew
        self._items = deque(kept)
        self._rolls = Counter(item.message.roll for item in kept)


def _is_past(item: Item, journaled: Credit) -> bool:
    message = item.message
    if message.roll != journaled.roll:
        return True  # rolls come one after the other: what is before the journaled one has been journaled
    if journaled.ended:
        return True
    if isinstance(message, Frame):
        return message.first_line + message.lines <= journaled.resume_from
    if isinstance(message, Gap):
        return message.last_line < journaled.inspected_up_to
    return isinstance(message, RollStart)


def _gap_of(frame: Frame, journaled: Credit | None) -> Gap | None:
    first, last = frame.first_line, frame.first_line + frame.lines - 1
    if journaled is not None and journaled.roll == frame.roll:
        first = max(first, journaled.inspected_up_to)
    return Gap(frame.camera, frame.roll, first, last, "worker-lost") if first <= last else None


def _add(kept: list[Item], gap: Gap, needed_ns: int) -> None:
    before = kept[-1].message if kept else None
    follows = isinstance(before, Gap) and (before.roll, before.last_line + 1) == (gap.roll, gap.first_line)
    same = isinstance(before, Gap) and (before.cause, before.estimated) == (gap.cause, gap.estimated)
    if isinstance(before, Gap) and follows and same:
        kept[-1] = Item(replace(before, last_line=gap.last_line), None, needed_ns)
    elif isinstance(before, Gap) and follows and len(kept) > MOST_GAPS:  # a camera with faults, and no worker for days
        estimated = before.estimated or gap.estimated
        one = replace(before, last_line=gap.last_line, cause="worker-lost", estimated=estimated)
        kept[-1] = Item(one, None, needed_ns)
    else:
        kept.append(Item(gap, None, needed_ns))
