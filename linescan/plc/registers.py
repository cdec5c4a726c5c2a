"""The register map of docs/plc.md: where what stands in the PLC's holding registers, and how values are packed there.

Addresses are offsets from `base_register`. All zeros mean: nothing was inspected, nothing is asked for. Where a number
says that a value is new, the number has the lower address: who writes puts the value first and the number last, who
reads takes the number first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from linescan.errors import PeerError
from linescan.plc.link import COUNTS, SEQUENCES, Flags, GateOrder

LINESCAN_MAGIC = 0x4C53  # "LS"
PLC_MAGIC = 0x504C  # "PL"
VERSION = 1
ORDER_MARK = 0x01020304  # tells the order of words, which nothing else would betray
OUTPUTS = 16
DEPTH = 64  # entries of the FIFO at most; a PLC may have fewer, a power of two
ENTRY_WORDS = 10
ROLL_ID_WORDS = 16
GUARDED_WORDS = 3
GATE_WORDS = 1 + GUARDED_WORDS
WRITE_WORDS = 120  # of one Modbus request; the protocol allows 123

WordOrder = Literal["high-first", "low-first"]
ByteOrder = Literal["big", "little"]


class Field(NamedTuple):
    """A row of the map: `words` registers from `offset` on."""

    offset: int
    words: int
    name: str


STATUS, HEARTBEAT, SESSION, HEAD, DEPTH_IN_USE, MARK, LIMITS, FIFO = 2, 3, 4, 5, 6, 8, 10, 58
PLC_BLOCK = 800
PLC_HEARTBEAT, CONTROL, ACCEPTED, TAIL, PLC_DEPTH = 802, 803, 804, 805, 806
ACKNOWLEDGE, ROLL_START, ROLL_END, SPLICE = 807, 808, 809, 810
SYNC_NUMBER, POSITION, SYNC_COUNT, ROLL_ID, GATES, PLC_MARK = 811, 812, 815, 818, 834, 898

LINESCAN_FIELDS = (
    Field(0, 1, "magic"),
    Field(1, 1, "map version"),
    Field(STATUS, 1, "status"),
    Field(HEARTBEAT, 1, "heartbeat"),
    Field(SESSION, 1, "session"),
    Field(HEAD, 1, "FIFO head"),
    Field(DEPTH_IN_USE, 1, "FIFO depth in use"),
    Field(7, 1, "reserved"),
    Field(MARK, 2, "order mark"),
    Field(LIMITS, GUARDED_WORDS * OUTPUTS, "pass limits"),
    Field(FIFO, ENTRY_WORDS * DEPTH, "FIFO"),
)
PLC_FIELDS = (
    Field(PLC_BLOCK, 1, "PLC magic"),
    Field(801, 1, "PLC map version"),
    Field(PLC_HEARTBEAT, 1, "PLC heartbeat"),
    Field(CONTROL, 1, "control"),
    Field(ACCEPTED, 1, "accepted session"),
    Field(TAIL, 1, "FIFO tail"),
    Field(PLC_DEPTH, 1, "FIFO depth"),
    Field(ACKNOWLEDGE, 1, "acknowledge"),
    Field(ROLL_START, 1, "roll start"),
    Field(ROLL_END, 1, "roll end"),
    Field(SPLICE, 1, "splice"),
    Field(SYNC_NUMBER, 1, "sync number"),
    Field(POSITION, GUARDED_WORDS, "position"),
    Field(SYNC_COUNT, GUARDED_WORDS, "sync count"),
    Field(ROLL_ID, ROLL_ID_WORDS, "roll id"),
    Field(GATES, GATE_WORDS * OUTPUTS, "gate confirmations"),
    Field(PLC_MARK, 2, "PLC order mark"),
)
PLC_BLOCK_WORDS = PLC_MARK + 2 - PLC_BLOCK  # 100: one read; the protocol allows 125
SPAN = PLC_BLOCK + PLC_BLOCK_WORDS

STATUS_BITS = ("ready", "running", "fault", "bypass", "late", "untrusted", "stop line", "overrun")
CONTROL_BITS = ("enable", "gates confirm", "entry refused")
ENTRY_WORD_NAMES = ("sequence", "outputs", "first", "first", "end", "end", "category", "severity", "flags", "checksum")
LATE_ENTRY = 1  # bit of an entry's flags


class RegistersError(PeerError):
    """The PLC's registers are not this map; no word of ours goes there."""


@dataclass(frozen=True)
class Packing:
    """How the PLC keeps numbers of 32 bits in two registers, and bytes in one."""

    word_order: WordOrder = "high-first"
    byte_order: ByteOrder = "big"

    def u32(self, value: int) -> list[int]:
        """Two words; `value` is taken modulo 2³²."""
        high, low = value >> 16 & 0xFFFF, value & 0xFFFF
        return [high, low] if self.word_order == "high-first" else [low, high]

    def read_u32(self, words: Sequence[int]) -> int:
        high, low = words if self.word_order == "high-first" else reversed(words)
        return high << 16 | low

    def guarded(self, value: int | None) -> list[int]:
        """The value and a check word; half of a new value beside half of an old one fits neither's. None: zeros."""
        if value is None:
            return [0] * GUARDED_WORDS
        words = self.u32(value)
        return [*words, ~(words[0] ^ words[1]) & 0xFFFF]

    def read_guarded(self, words: Sequence[int]) -> int | None:
        """The value, or None where it is torn or was never written."""
        return self.read_u32(words[:2]) if words[0] ^ words[1] ^ words[2] == 0xFFFF else None

    def wire(self, words: Iterable[int]) -> list[int]:
        """Registers as Modbus carries them from words as the PLC sees them, and back."""
        if self.byte_order == "big":
            return list(words)
        return [word >> 8 | (word & 0xFF) << 8 for word in words]


def status_word(flags: Flags, ready: bool, overrun: bool) -> int:
    bits = (ready, flags.running, flags.fault, flags.bypass, flags.late, flags.untrusted, flags.stop_line, overrun)
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def checksum(session: int, words: Iterable[int]) -> int:
    """Of an entry's first nine words: from the session on, rotate left by one and exclusive-or with the next word."""
    value = session
    for word in words:
        value = (value << 1 & 0xFFFF | value >> 15) ^ word
    return value


def check_order(order: GateOrder) -> None:
    """Raises ValueError for an order that no entry can carry."""
    if order.sequence < 1:
        raise ValueError(f"order {order.sequence}: a sequence from 1 on expected")
    if not 1 <= order.outputs < 1 << OUTPUTS:
        raise ValueError(f"order {order.sequence}: outputs {order.outputs:#x}, a mask of {OUTPUTS} bits expected")
    for name in ("category", "severity"):
        if not 0 <= getattr(order, name) <= 0xFFFF:
            raise ValueError(f"order {order.sequence}: {name} {getattr(order, name)}, 16 bits expected")
    if not 0 < (order.end - order.first) % COUNTS < COUNTS // 2:
        raise ValueError(f"order {order.sequence}: counts {order.first} to {order.end}, 1 to 2³¹ − 1 of them expected")


def shown_sequence(sequence: int) -> int:
    """As the PLC sees it: 1 … SEQUENCES − 1, and again."""
    return (sequence - 1) % (SEQUENCES - 1) + 1


def entry_words(order: GateOrder, session: int, packing: Packing) -> list[int]:
    words = [
        shown_sequence(order.sequence), order.outputs, *packing.u32(order.first), *packing.u32(order.end),
        order.category, order.severity, LATE_ENTRY * order.late,
    ]  # fmt: skip
    return [*words, checksum(session, words)]


def header_words(heartbeat: int, depth: int, packing: Packing) -> list[int]:
    """Registers 0 to 9 before a session: nothing ready, no session, an empty FIFO."""
    return [LINESCAN_MAGIC, VERSION, 0, heartbeat, 0, 0, depth, 0, *packing.u32(ORDER_MARK)]


def limit_words(counts: Sequence[int | None], packing: Packing) -> list[int]:
    return [word for count in counts for word in packing.guarded(count)]


@dataclass(frozen=True)
class PlcBlock:
    """What the PLC's block says; counters are raw, None is torn or never written."""

    heartbeat: int
    enabled: bool
    gates_confirm: bool
    entry_refused: bool
    accepted: int
    tail: int
    depth: int
    acknowledge: int
    roll_start: int
    roll_end: int
    splice: int
    sync_number: int
    position: int | None
    sync_count: int | None
    roll_id: str
    openings: tuple[int, ...]
    opened_at: tuple[int | None, ...]


def read_plc_block(words: Sequence[int], packing: Packing) -> PlcBlock:
    """Of PLC_BLOCK_WORDS words; raises RegistersError where they are not this map's."""

    def at(address: int, count: int = 1) -> Sequence[int]:
        return words[address - PLC_BLOCK : address - PLC_BLOCK + count]

    found = tuple(words[:2])
    if found != (PLC_MAGIC, VERSION):
        raise RegistersError(
            f"registers {PLC_BLOCK} and {PLC_BLOCK + 1}: {found[0]:#06x} and {found[1]}, "
            f"{PLC_MAGIC:#06x} and map version {VERSION} expected"
        )
    mark = packing.read_u32(at(PLC_MARK, 2))
    if mark != ORDER_MARK:
        raise RegistersError(
            f"registers {PLC_MARK} and {PLC_MARK + 1}: {mark:#010x} in word order {packing.word_order}, "
            f"{ORDER_MARK:#010x} expected"
        )
    depth, control = at(PLC_DEPTH)[0], at(CONTROL)[0]
    if not 1 <= depth <= DEPTH or depth & depth - 1:
        raise RegistersError(f"register {PLC_DEPTH}: FIFO depth {depth}, a power of two up to {DEPTH} expected")
    gates = [at(GATES + GATE_WORDS * output, GATE_WORDS) for output in range(OUTPUTS)]
    text = b"".join(word.to_bytes(2, "big") for word in at(ROLL_ID, ROLL_ID_WORDS))
    return PlcBlock(
        heartbeat=at(PLC_HEARTBEAT)[0],
        enabled=bool(control & 1),
        gates_confirm=bool(control & 2),
        entry_refused=bool(control & 4),
        accepted=at(ACCEPTED)[0],
        tail=at(TAIL)[0],
        depth=depth,
        acknowledge=at(ACKNOWLEDGE)[0],
        roll_start=at(ROLL_START)[0],
        roll_end=at(ROLL_END)[0],
        splice=at(SPLICE)[0],
        sync_number=at(SYNC_NUMBER)[0],
        position=packing.read_guarded(at(POSITION, GUARDED_WORDS)),
        sync_count=packing.read_guarded(at(SYNC_COUNT, GUARDED_WORDS)),
        roll_id=text.partition(b"\0")[0].decode("ascii", "replace").strip(),
        openings=tuple(gate[0] for gate in gates),
        opened_at=tuple(packing.read_guarded(gate[1:]) for gate in gates),
    )
