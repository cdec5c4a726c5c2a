"""What a PLC has to do for linescan, as the program of its scan cycle: docs/plc.md in Python.

The addresses are those of `linescan.plc.registers`; the arithmetic is the PLC's own. The page docs/plc.md has the same
program in Structured Text. All counts are of 32 bits and wrap; a difference of two is taken as signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from linescan.plc import registers as at

MASK = 0xFFFFFFFF
READY, BYPASS, UNTRUSTED, STOP_LINE = 1 << 0, 1 << 3, 1 << 5, 1 << 6  # of the status register


def ahead(a: int, b: int) -> int:
    """How far count a is ahead of count b: DINT of their difference."""
    return ((a - b + 0x80000000) & MASK) - 0x80000000


class Image:
    """The PLC's memory, as Modbus sees it: holding registers from `base` on."""

    def __init__(self, words: list[int], base: int = 0, high_first: bool = True, swap_bytes: bool = False) -> None:
        self._words = words
        self._base = base
        self._high_first = high_first
        self._swap_bytes = swap_bytes

    def clear(self) -> None:
        self._words[:] = [0] * len(self._words)

    def get(self, address: int) -> int:
        word = self._words[self._base + address]
        return word >> 8 | (word & 0xFF) << 8 if self._swap_bytes else word

    def put(self, address: int, word: int) -> None:
        word &= 0xFFFF
        self._words[self._base + address] = word >> 8 | (word & 0xFF) << 8 if self._swap_bytes else word

    def get_u32(self, address: int) -> int:
        high, low = (self.get(address), self.get(address + 1)) if self._high_first else (
            self.get(address + 1), self.get(address))  # fmt: skip
        return high << 16 | low

    def put_u32(self, address: int, value: int) -> None:
        high, low = value >> 16 & 0xFFFF, value & 0xFFFF
        first, second = (high, low) if self._high_first else (low, high)
        self.put(address, first)
        self.put(address + 1, second)

    def get_guarded(self, address: int) -> int | None:
        words = [self.get(address + word) for word in range(3)]
        return self.get_u32(address) if words[0] ^ words[1] ^ words[2] == 0xFFFF else None

    def put_guarded(self, address: int, value: int) -> None:
        self.put_u32(address, value)
        self.put(address + 2, ~(self.get(address) ^ self.get(address + 1)))


@dataclass
class Window:
    """A row of the table: these outputs reject from `first` until `end`."""

    outputs: int
    first: int
    end: int

    def covers(self, count: int) -> bool:
        return (count - self.first) & MASK < (self.end - self.first) & MASK


class Verdict(NamedTuple):
    passes: bool
    why: str


class Program:
    """State between scans. `scan` is one scan: read, take, decide, write."""

    def __init__(
        self, image: Image, outputs: int, depth: int, table_size: int, heartbeat_ns: int, back_counts: int
    ) -> None:
        self.image = image
        self.outputs = outputs
        self.depth = depth
        self.table_size = table_size
        self.heartbeat_ns = heartbeat_ns
        self.back_counts = back_counts
        self.enabled = True
        self.gates_confirm = True
        self.session = self.tail = self.last_sequence = self.beats = 0
        self.refused = False
        self.repeated = 0
        self.table: list[Window] = []
        self.limits: list[int | None] = [None] * outputs
        self.high_water: int | None = None
        self._beat: int | None = None
        self._beat_ns: int | None = None  # when linescan's heartbeat moved last; None: not in this session

    def start(self) -> None:
        """Zeros mean reject; then who this is."""
        self.image.clear()
        self.image.put_u32(at.PLC_MARK, at.ORDER_MARK)
        self.image.put(at.PLC_DEPTH, self.depth)
        self.image.put(at.PLC_BLOCK + 1, at.VERSION)
        self.image.put(at.PLC_BLOCK, at.PLC_MAGIC)

    def scan(self, position: int, now_ns: int) -> list[Verdict]:
        self._watch(now_ns)
        self._accept(position)
        self._move(position)
        told = [
            self.image.get_guarded(at.LIMITS + at.GUARDED_WORDS * output) for output in range(self.outputs)
        ]  # before the head
        if self._take():
            # only now: every order that was given before these limits is in the table
            self.limits = [new if new is not None else old for new, old in zip(told, self.limits, strict=True)]
        verdicts = [self._decide(output, position, now_ns) for output in range(self.outputs)]
        self._tell(position)
        return verdicts

    @property
    def stops_line(self) -> bool:
        return bool(self.image.get(at.STATUS) & STOP_LINE)

    def _watch(self, now_ns: int) -> None:
        beat = self.image.get(at.HEARTBEAT)
        if self._beat is not None and beat != self._beat:
            self._beat_ns = now_ns
        self._beat = beat

    def _accept(self, position: int) -> None:
        """A new session begins with nothing ready and an empty FIFO; another one is none."""
        image, session = self.image, self.image.get(at.SESSION)
        if session == self.session:
            return
        self.session = 0
        known = image.get(0) == at.LINESCAN_MAGIC and image.get(1) == at.VERSION
        alike = image.get(at.DEPTH_IN_USE) == self.depth and image.get_u32(at.MARK) == at.ORDER_MARK
        if session and known and alike and image.get(at.STATUS) & READY == 0 and image.get(at.HEAD) == 0:
            self.session = session
            self.tail = self.last_sequence = 0
            self.refused = False
            self.limits = [None] * self.outputs
            self.high_water = position
            self._beat_ns = None
        # the table stays: what was to be rejected is to be rejected

    def _move(self, position: int) -> None:
        """Windows go when they are so far behind that the web cannot run back into them."""
        if self.high_water is None or ahead(position, self.high_water) > 0:
            self.high_water = position
        past = self.high_water - self.back_counts
        self.table = [window for window in self.table if ahead(past, window.end) < 0]

    def _take(self) -> bool:
        """Moves entries from the FIFO into the table; whether none is left there."""
        head = self.image.get(at.HEAD)
        if self.session == 0 or self.refused or (head - self.tail) & 0xFFFF > self.depth:
            return False
        while self.tail != head:
            first = at.FIFO + at.ENTRY_WORDS * (self.tail % self.depth)
            words = [self.image.get(address) for address in range(first, first + at.ENTRY_WORDS)]
            check = self.session
            for word in words[:-1]:
                check = (check << 1 & 0xFFFF | check >> 15) ^ word
            if check != words[-1] or words[0] == 0:
                self.refused = True
                return False
            if words[0] == self.last_sequence:
                self.repeated += 1
            elif not self._store(Window(words[1], self.image.get_u32(first + 2), self.image.get_u32(first + 4))):
                return False  # the table is full: the entry stays, the limits stay, and the gates reject
            self.last_sequence = words[0]
            self.tail = (self.tail + 1) & 0xFFFF
        return True

    def _store(self, new: Window) -> bool:
        """A window within another one is known; one that adjoins makes it longer; else it takes a row."""
        length = (new.end - new.first) & MASK
        for window in self.table:
            begins, has = (new.first - window.first) & MASK, (window.end - window.first) & MASK
            if window.outputs != new.outputs or begins > has or begins + length >= 1 << 31:
                continue
            if begins + length > has:
                window.end = new.end
            return True
        if len(self.table) >= self.table_size:
            return False
        self.table.append(new)
        return True

    def _decide(self, output: int, position: int, now_ns: int) -> Verdict:  # noqa: PLR0911 one line a reason
        """The gate passes only if all of it holds; the first that does not is the reason."""
        status, limit = self.image.get(at.STATUS), self.limits[output]
        assert self.high_water is not None
        if self.session == 0:
            return Verdict(False, "no-session")
        if not status & READY:
            return Verdict(False, "not-ready")
        if self._beat_ns is None or now_ns - self._beat_ns > self.heartbeat_ns:
            return Verdict(False, "heartbeat")
        if not self.enabled:
            return Verdict(False, "disabled")
        if status & BYPASS:
            return Verdict(True, "bypass")
        if status & UNTRUSTED:
            return Verdict(False, "untrusted")
        if ahead(self.high_water, position) > self.back_counts:
            return Verdict(False, "ran-back")
        if limit is None or ahead(limit, position) <= 0:
            return Verdict(False, "limit")
        if any(window.outputs >> output & 1 and window.covers(position) for window in self.table):
            return Verdict(False, "window")
        return Verdict(True, "inspected")

    def _tell(self, position: int) -> None:
        """Values first, the numbers that say they are new behind them."""
        self.image.put_guarded(at.POSITION, position)
        self.image.put(at.CONTROL, self.enabled | self.gates_confirm << 1 | self.refused << 2)
        self.image.put(at.TAIL, self.tail)
        self.image.put(at.ACCEPTED, self.session)
        self.beats = (self.beats + 1) & 0xFFFF
        self.image.put(at.PLC_HEARTBEAT, self.beats)
