"""The register map, the queue of what is told, and the PLC's program, without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linescan.plc import registers as at
from linescan.plc.link import COUNTS, Flags, GateOrder
from linescan.plc.modbus import fifo_writes
from linescan.plc.orders import Orders
from linescan.plc.registers import Packing, RegistersError
from linescan.plc.view import Edges, Liveness, Sight
from tests.plc_rig import encoder, program
from tests.structured_text import StProgram

DOCUMENT = Path(__file__).parents[1] / "docs" / "plc.md"
PACKINGS = [Packing(words, octets) for words in ("high-first", "low-first") for octets in ("big", "little")]
packings = st.sampled_from(PACKINGS)
u32 = st.integers(0, COUNTS - 1)
u16 = st.integers(0, 0xFFFF)


def order(sequence: int = 1, first: int = 100, end: int = 200, outputs: int = 1, **changes: Any) -> GateOrder:
    return GateOrder(sequence, outputs, first % COUNTS, end % COUNTS, **changes)


# ------------------------------------------------------------------------------------------------ packing


@given(u32, packings)
def test_values_survive_packing(value: int, packing: Packing) -> None:
    assert packing.read_u32(packing.u32(value)) == value
    assert packing.read_guarded(packing.guarded(value)) == value
    words = packing.guarded(value)
    assert packing.wire(packing.wire(words)) == words


@given(u32, u32, st.integers(0, 7), packings)
def test_a_mixture_of_two_guarded_values_is_neither_taken_for_a_third(
    old: int, new: int, mask: int, packing: Packing
) -> None:
    before, after = packing.guarded(old), packing.guarded(new)
    mixed = [after[word] if mask >> word & 1 else before[word] for word in range(3)]
    assert packing.read_guarded(mixed) in (None, old, new)


def test_zeros_are_no_value() -> None:
    assert Packing().read_guarded([0, 0, 0]) is None
    assert Packing().guarded(None) == [0, 0, 0]


def test_words_and_bytes_lie_as_the_settings_say() -> None:
    assert Packing("high-first", "big").wire(Packing("high-first").u32(0x01020304)) == [0x0102, 0x0304]
    assert Packing("low-first", "big").wire(Packing("low-first").u32(0x01020304)) == [0x0304, 0x0102]
    assert Packing("high-first", "little").wire(Packing("high-first").u32(0x01020304)) == [0x0201, 0x0403]


@given(u16.filter(bool), st.lists(u16, min_size=9, max_size=9), st.integers(0, 8), st.integers(0, 15))
def test_the_checksum_sees_any_one_bit(session: int, words: list[int], word: int, bit: int) -> None:
    changed = [*words]
    changed[word] ^= 1 << bit
    assert at.checksum(session, changed) != at.checksum(session, words)
    assert at.checksum(session ^ 1 << bit, words) != at.checksum(session, words)


def test_an_empty_slot_is_no_entry() -> None:
    assert all(at.checksum(session, [0] * 9) != 0 for session in range(1, 1 << 16))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 0}, {"outputs": 0}, {"outputs": 1 << 16}, {"category": 1 << 16},
        {"severity": -1}, {"end": 100}, {"end": 100 + COUNTS // 2}, {"end": 99},
    ],
)  # fmt: skip
def test_an_order_that_no_entry_can_carry_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="order"):
        at.check_order(order(**wrong))
    at.check_order(order(first=COUNTS - 5, end=COUNTS + 5))


def test_sequences_begin_again_for_the_plc_alone() -> None:
    shown = [
        at.entry_words(order(sequence), 1, Packing())[0] for sequence in (1, 2, 65535, 65536, 65537, 131070, 131071)
    ]
    assert shown == [1, 2, 65535, 1, 2, 65535, 1]


def test_status_bits_are_in_the_order_of_their_names() -> None:
    names = {"running": "running", "fault": "fault", "bypass": "bypass", "late": "late", "untrusted": "untrusted"}
    for bit, name in enumerate(at.STATUS_BITS):
        flags = Flags(**{names[name]: True}) if name in names else Flags(stop_line=name == "stop line")
        assert at.status_word(flags, ready=name == "ready", overrun=name == "overrun") == 1 << bit


@given(st.integers(0, 0xFFFF), st.integers(0, 64), st.sampled_from([1, 2, 8, 64]))
def test_entries_go_to_their_slots_in_requests_that_modbus_can_carry(head: int, count: int, depth: int) -> None:
    count = min(count, depth)
    entries = [[number] * at.ENTRY_WORDS for number in range(1, count + 1)]
    memory = [0] * at.SPAN
    for address, words in fifo_writes(head, entries, depth):
        assert len(words) <= at.WRITE_WORDS
        memory[address : address + len(words)] = words
    for number, entry in enumerate(entries, head):
        slot = at.FIFO + number % depth * at.ENTRY_WORDS
        assert memory[slot : slot + at.ENTRY_WORDS] == entry
    assert sum(map(bool, memory)) == count * at.ENTRY_WORDS
    assert not any(memory[at.FIFO + depth * at.ENTRY_WORDS :])


# ------------------------------------------------------------------------------------------------ the map


def rows(heading: str) -> list[tuple[int, int, str]]:
    """(first register, how many, name) of the table under that heading in docs/plc.md."""
    section = DOCUMENT.read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    found = re.findall(r"^\| (\d+)(?:–(\d+))? \| ([^|]+?) \|", section, re.MULTILINE)
    return [(int(first), int(last or first) - int(first) + 1, name) for first, last, name in found]


def test_the_document_has_the_map_that_is_built() -> None:
    assert rows("What linescan writes") == list(at.LINESCAN_FIELDS)
    assert rows("What the PLC writes") == list(at.PLC_FIELDS)
    entry = [(word, 1, name) for word, name in enumerate(at.ENTRY_WORD_NAMES)]
    listed = [(first + word, 1, name) for first, words, name in rows("An entry") for word in range(words)]
    assert listed == entry
    text = DOCUMENT.read_text()
    for names in (at.STATUS_BITS, at.CONTROL_BITS):
        for bit, name in enumerate(names):
            assert f"{bit} {name}" in text
    for value in (at.LINESCAN_MAGIC, at.PLC_MAGIC, at.ORDER_MARK):
        assert f"16#{value:0{8 if value > 0xFFFF else 4}X}" in text


def test_the_fields_join_without_hole_or_overlap() -> None:
    for fields, begins in ((at.LINESCAN_FIELDS, 0), (at.PLC_FIELDS, at.PLC_BLOCK)):
        end = begins
        for field in fields:
            assert field.offset == end
            end += field.words
    assert end == at.SPAN
    assert at.LINESCAN_FIELDS[-1].offset + at.LINESCAN_FIELDS[-1].words <= at.PLC_BLOCK
    assert at.PLC_BLOCK_WORDS <= 125  # one read


def plc_words(**changes: int) -> list[int]:
    words = [0] * at.SPAN
    image = program.Image(words)
    program.Program(image, outputs=2, depth=8, table_size=4, heartbeat_ns=10**9, back_counts=10).start()
    for name, value in changes.items():
        image.put(getattr(at, name), value)
    return words[at.PLC_BLOCK :]


def test_the_block_of_a_plc_is_read() -> None:
    block = at.read_plc_block(plc_words(ACKNOWLEDGE=3, CONTROL=5, TAIL=7), Packing())
    assert (block.acknowledge, block.tail, block.depth) == (3, 7, 8)
    assert (block.enabled, block.gates_confirm, block.entry_refused) == (True, False, True)
    assert block.position is None
    assert block.opened_at == (None,) * 16


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PLC_BLOCK": 0}, "0x0000 and 1, 0x504c and map version 1 expected"),
        ({"PLC_DEPTH": 0}, "FIFO depth 0"),
        ({"PLC_DEPTH": 48}, "FIFO depth 48, a power of two up to 64 expected"),
        ({"PLC_DEPTH": 128}, "FIFO depth 128"),
    ],
)
def test_a_block_that_is_not_the_map_is_refused(changes: dict[str, int], says: str) -> None:
    with pytest.raises(RegistersError, match=says):
        at.read_plc_block(plc_words(**changes), Packing())


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_another_order_of_words_or_bytes_is_seen(packing: Packing) -> None:
    with pytest.raises(RegistersError):
        at.read_plc_block(packing.wire(plc_words()), packing)


# ------------------------------------------------------------------------------------------------ what is told


@st.composite
def tellings(draw: st.DrawFn) -> list[tuple[str, int]]:
    steps = st.sampled_from(["order", "reach", "take", "done", "lose", "forget"])
    return draw(st.lists(st.tuples(steps, st.integers(0, 5)), max_size=60))


@given(tellings())
@settings(max_examples=300)
def test_no_limit_overtakes_an_order_and_nothing_is_lost(steps: list[tuple[str, int]]) -> None:
    """A PLC that has limits has all that was told before them and is not past, however often it lost its memory."""
    orders = Orders()
    before: dict[int, set[int]] = {}  # limit → orders told before it
    told: list[int] = []
    forgotten: set[int] = set()
    has: list[int] = []
    limit = None
    ever: set[int] = set()

    def finish() -> None:
        nonlocal limit
        batch = orders.take(100)
        has.extend(order.sequence for order in batch.orders)
        if batch.limits is not None:
            assert batch.limits[0] is not None
            limit = batch.limits[0]
        ever.update(has)
        orders.done()

    for number, (step, amount) in enumerate(steps, 1):
        if step == "order":
            orders.order(order(number))
            told.append(number)
        elif step == "reach":
            orders.reach([number])
            before[number] = set(told)
        elif step == "take":
            orders.take(amount)
        elif step == "done":
            finish()
        elif step == "lose":
            has, limit = [], None
            orders.again()
        else:
            gone = [sequence for sequence in told if sequence in ever][:amount]
            orders.forget(gone)
            forgotten.update(gone)
        if limit is not None:
            assert before[limit] - forgotten <= set(has)
        assert has == sorted(has)
        assert orders.delivered == len(ever)
    while not orders.out(orders.told):
        finish()
    assert set(told) - forgotten <= set(has)
    if before:
        assert limit == max(before)


def test_what_has_passed_while_it_waited_is_not_delivered_any_more() -> None:
    """After half a turn of its counter a PLC would take it for the future, and keep it for ever."""
    orders = Orders()
    for number in range(1, 7):
        orders.order(order(number))
    orders.reach([7])
    mark = orders.told
    assert [one.sequence for one in orders.take(2).orders] == [1, 2]
    orders.forget([1, 3, 4, 6])
    assert [one.sequence for one in orders.take(2).orders] == [1, 2]  # that batch may have arrived already
    orders.done()
    assert (orders.pending, orders.delivered) == (4, 2)
    batch = orders.take(2)
    assert ([one.sequence for one in batch.orders], batch.limits, batch.full) == ([5], (7,), False)
    assert not orders.out(mark)
    orders.done()
    assert orders.out(mark)
    assert (orders.pending, orders.delivered) == (0, 6)  # in the order told: who counts them counts right
    orders.again()
    assert [one.sequence for one in orders.take(9).orders] == [2, 5]


def test_ready_waits_for_what_was_told_before() -> None:
    orders = Orders()
    orders.order(order(1))
    orders.reach([5])
    mark = orders.told
    assert not orders.out(mark)
    orders.take(5)
    assert not orders.out(mark)
    orders.done()
    assert orders.out(mark)
    orders.again()
    assert not orders.out(mark)


# ------------------------------------------------------------------------------------------------ what a PLC says


def test_edges_are_counted_over_wraps_and_restarts() -> None:
    edges = Edges()
    assert [edges.look(raw) for raw in (65534, 65535, 1)] == [0, 1, 3]
    assert edges.look(0) == 3  # it went back: a restart
    edges.restart()
    assert [edges.look(raw) for raw in (9, 10)] == [3, 4]


def test_a_heartbeat_must_move() -> None:
    now = [0]
    liveness = Liveness(1.0, clock=lambda: now[0])
    assert not liveness.alive
    liveness.look(1)
    assert not liveness.alive  # it answers; whether it runs is not known yet
    liveness.look(2)
    assert liveness.alive
    now[0] = 1_000_000_001
    assert liveness.frozen
    assert not liveness.alive
    liveness.look(3)
    assert liveness.alive
    liveness.lost()
    assert not liveness.alive
    assert not liveness.frozen


def test_a_torn_position_leaves_the_last_one_with_its_time() -> None:
    words = plc_words()
    sight, packing = Sight(), Packing()
    place = slice(at.POSITION - at.PLC_BLOCK, at.POSITION - at.PLC_BLOCK + 3)
    words[place] = packing.guarded(70_000)
    assert sight.look(at.read_plc_block(words, packing), 10, 20).position == 70_000
    words[place] = [*packing.u32(80_000), packing.guarded(70_000)[2]]
    torn = sight.look(at.read_plc_block(words, packing), 30, 40)
    assert (torn.position, torn.position_ns, torn.heard_ns) == (70_000, 10, 40)


def test_the_first_opening_of_a_gate_is_seen() -> None:
    words = plc_words(CONTROL=2)
    sight, packing = Sight(), Packing()
    gate = at.GATES - at.PLC_BLOCK + at.GATE_WORDS
    assert sight.look(at.read_plc_block(words, packing), 0, 0).gates == (0,) * 16
    words[gate : gate + at.GATE_WORDS] = [1, *packing.guarded(55)]
    view = sight.look(at.read_plc_block(words, packing), 0, 0)
    assert view.gates is not None
    assert view.opened_at is not None
    assert (view.gates[1], view.opened_at[1]) == (1, 55)


# ------------------------------------------------------------------------------------------------ the PLC's program


class Desk:
    """The program with registers that a test writes."""

    SESSION = 77

    def __init__(self, table_size: int = 64, position: int = 0, back_counts: int = 10, fresh_ns: int = 1000) -> None:
        self.image = program.Image([0] * at.SPAN)
        self.program = program.Program(
            self.image, outputs=2, depth=8, table_size=table_size, heartbeat_ns=fresh_ns, back_counts=back_counts
        )
        self.program.start()
        self.now_ns = self.head = 0
        self.position = position
        self.scan()

    def put(self, address: int, words: list[int]) -> None:
        for offset, word in enumerate(words):
            self.image.put(address + offset, word)

    def scan(self, beat: bool = True) -> list[str]:
        self.now_ns += 100
        if beat:
            self.image.put(at.HEARTBEAT, self.image.get(at.HEARTBEAT) + 1)
        verdicts = self.program.scan(self.position % COUNTS, self.now_ns)
        for verdict in verdicts:
            assert verdict.passes == (verdict.why in ("inspected", "bypass"))
        return [verdict.why for verdict in verdicts]

    def open(self, session: int = SESSION) -> None:
        self.session, self.head = session, 0
        self.put(0, at.header_words(self.image.get(at.HEARTBEAT), 8, Packing()))
        self.put(at.SESSION, [session])
        self.scan()
        self.put(at.STATUS, [program.READY])

    def give(self, *orders: GateOrder) -> None:
        for order in orders:
            self.put(at.FIFO + self.head % 8 * 10, at.entry_words(order, self.session, Packing()))
            self.head = (self.head + 1) & 0xFFFF
        self.put(at.HEAD, [self.head])

    def limit(self, *counts: int) -> None:
        self.put(at.LIMITS, at.limit_words([count % COUNTS for count in counts], Packing()))


def test_each_condition_alone_rejects() -> None:
    desk = Desk()
    assert desk.scan() == ["no-session", "no-session"]
    desk.open()
    assert desk.scan() == ["limit", "limit"]
    desk.limit(1000)
    assert desk.scan() == ["inspected", "limit"]
    desk.limit(1000, 1000)
    desk.position = 999
    assert desk.scan() == ["inspected", "inspected"]
    desk.position = 1000
    assert desk.scan() == ["limit", "limit"]
    desk.position = 995
    for status, why in (
        (0, "not-ready"),
        (program.READY | program.UNTRUSTED, "untrusted"),
        (program.READY, "inspected"),
    ):
        desk.put(at.STATUS, [status])
        assert desk.scan()[0] == why
    desk.program.enabled = False
    assert desk.scan()[0] == "disabled"
    desk.program.enabled = True
    desk.give(order(1, 990, 999, outputs=2))
    assert desk.scan() == ["inspected", "window"]
    desk.position = 980
    assert desk.scan()[0] == "ran-back"
    desk.position = 996
    for _ in range(12):
        whys = desk.scan(beat=False)
    assert whys[0] == "heartbeat"
    assert desk.scan()[0] == "inspected"


def test_bypass_passes_while_linescan_is_alive_and_only_then() -> None:
    desk = Desk()
    desk.put(at.STATUS, [program.BYPASS | program.READY])
    assert desk.scan()[0] == "no-session"
    desk.open()
    desk.put(at.STATUS, [program.BYPASS | program.READY])
    assert desk.scan()[0] == "bypass"
    for _ in range(12):
        whys = desk.scan(beat=False)
    assert whys[0] == "heartbeat"


def test_a_torn_limit_is_not_taken() -> None:
    desk = Desk()
    desk.open()
    desk.limit(70_000, 70_000)
    desk.scan()
    desk.put(at.LIMITS, Packing().u32(90_000))  # the check word is still the old one's
    desk.scan()
    assert desk.program.limits == [70_000, 70_000]


def test_registers_that_outlive_the_program_are_no_session() -> None:
    """A PLC whose Modbus memory was kept over its restart must not take what stands there for news."""
    desk = Desk()
    desk.open()
    desk.give(order(1, 100, 200), order(2, 300, 400))
    desk.limit(5000, 5000)
    desk.position = 50
    assert desk.scan()[0] == "inspected"
    kept = [desk.image.get(address) for address in range(at.PLC_BLOCK)]
    again = Desk()
    again.put(0, kept)
    again.position = 150
    assert again.scan()[0] == "no-session"
    assert again.scan()[0] == "no-session"


def test_a_full_table_leaves_entries_and_limits_where_they_are() -> None:
    desk = Desk(table_size=2)
    desk.open()
    desk.limit(250, 250)
    assert desk.scan()[0] == "inspected"
    desk.give(order(1, 300, 310), order(2, 320, 330), order(3, 340, 350))
    desk.limit(900, 900)
    desk.scan()
    assert (desk.program.tail, desk.program.limits[0]) == (2, 250)
    desk.position = 345
    assert desk.scan()[0] == "window"  # the first two are behind it, and a place is free
    assert (desk.program.tail, desk.program.limits[0]) == (3, 900)


def test_limits_wait_for_an_entry_that_cannot_be_read() -> None:
    desk = Desk()
    desk.open()
    desk.give(order(1, 300, 310))
    desk.put(at.FIFO + 3, [301])
    desk.limit(900, 900)
    assert desk.scan()[0] == "limit"
    assert at.read_plc_block([desk.image.get(a) for a in range(at.PLC_BLOCK, at.SPAN)], Packing()).entry_refused
    desk.open(78)
    assert not desk.program.refused


def test_an_entry_given_twice_is_taken_once() -> None:
    desk = Desk()
    desk.open()
    desk.give(order(1, 300, 310), order(1, 300, 310))
    desk.scan()
    assert (desk.program.repeated, len(desk.program.table)) == (1, 1)
    desk.open(78)  # linescan was restarted and gives again what it does not know to be delivered
    desk.give(order(1, 300, 310), order(2, 305, 320))
    desk.scan()
    assert [(window.first, window.end) for window in desk.program.table] == [(300, 320)]


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60), st.integers(1, 3)), max_size=25),
    st.sampled_from([0, COUNTS - 200, COUNTS // 2 - 150]),
    st.integers(1, 30),
    st.integers(2, 40),
)
@settings(max_examples=200, deadline=None)
def test_the_program_decides_as_the_predicate_says(
    spans: list[tuple[int, int, int]], base: int, step: int, table_size: int
) -> None:
    """Whatever overlaps, adjoins, is given out of order, stalls or wraps: compared with all windows, one by one."""
    desk = Desk(position=base, table_size=table_size)
    desk.open()
    waiting = [
        order(number, base + first, base + first + length, outputs)
        for number, (first, length, outputs) in enumerate(sorted(spans), 1)
    ]
    given_: list[GateOrder] = []
    limit = base
    for position in range(base, base + 480, step):
        while waiting and (desk.head - desk.program.tail) & 0xFFFF < 8:
            given_.append(waiting.pop(0))
            desk.give(given_[-1])
        # as linescan does it: the limit stays before what was not given yet
        limit = base + min([span[0] for span in sorted(spans)[len(given_) :]], default=600)
        desk.limit(limit, limit)
        desk.position = position
        for output, why in enumerate(desk.scan()):
            covered = any(
                span[0] <= position - base < span[0] + span[1] and span[2] >> output & 1 for span in sorted(spans)
            )
            if why == "inspected":
                assert not covered
            elif why == "window":
                assert covered
            else:
                assert why == "limit"
                assert position >= limit or desk.program.tail != desk.head or len(desk.program.table) == table_size
        assert len(desk.program.table) <= table_size


STEPS = (
    "give",
    "give",
    "limit",
    "limit here",
    "torn limit",
    "move",
    "jump",
    "beat",
    "status",
    "enable",
    "open",
    "wild head",
    "broken",
)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(-300, 900)), min_size=5, max_size=60))
@example([("grow", 3)])
@settings(max_examples=80, deadline=None)
def test_the_structured_text_does_the_same(steps: list[tuple[str, int]]) -> None:  # noqa: PLR0912, PLR0915 one a step
    """The program on the page and the reference PLC's, from the same registers: the same gates and the same words."""
    base = COUNTS - 200
    desk = Desk(table_size=3, position=base, back_counts=40, fresh_ns=500_000_000)
    text = StProgram(GATES=2, DEPTH=8, ROWS=3, BACK=40)
    position, sequence, sessions, last = base, 0, 100, order()
    for step, amount in [("open", 0), ("limit", 400), ("give", 50), ("give", 90), ("beat", 1), *steps]:
        if step == "give" and (desk.head - desk.image.get(at.TAIL)) & 0xFFFF < 8 and desk.program.session:
            sequence += 1
            last = order(sequence, base + amount, base + amount + 30 + sequence % 50, 1 + sequence % 3)
            desk.give(last)
        elif step == "grow" and sequence and (desk.head - desk.image.get(at.TAIL)) & 0xFFFF < 8:
            sequence += 1
            last = order(sequence, last.first, last.end + 1, last.outputs)
            desk.give(last)
            desk.limit(last.end + 5, last.end + 5)
            position = last.end - (amount % 2)
        elif step == "limit":
            desk.limit(base + amount, base + amount // 2)
        elif step == "limit here":
            desk.limit(position + amount % 3, position + amount % 3 - 1)
        elif step == "torn limit":
            desk.put(at.LIMITS, Packing().u32((base + amount) % COUNTS))
        elif step in ("move", "jump"):
            position = position + amount // 8 if step == "move" else base + amount
        elif step == "status":
            desk.put(at.STATUS, [1 | (amount & 0xFF)])
        elif step == "enable":
            desk.program.enabled = amount % 4 != 0
        elif step == "open":
            sessions += 1
            desk.session, desk.head, sequence = sessions, 0, 0
            ready = amount % 5 == 1  # then it is not to be accepted
            desk.put(0, at.header_words(desk.image.get(at.HEARTBEAT), 8, Packing()))
            desk.put(at.SESSION, [sessions])
            desk.put(at.STATUS, [int(ready)])
        elif step == "wild head":
            desk.put(at.HEAD, [desk.head + amount & 0xFFFF])
        elif step == "broken" and amount % 4 == 0:
            desk.put(at.FIFO + amount % 80, [amount & 0xFFFF])
        if step == "beat":
            desk.put(at.HEARTBEAT, [desk.image.get(at.HEARTBEAT) + 1])
        if amount % 3 == 0 and step not in ("status", "open"):
            desk.put(at.STATUS, [program.READY])
        text.registers[: at.PLC_BLOCK] = [desk.image.get(address) for address in range(at.PLC_BLOCK)]
        desk.now_ns += 400_000_000 if amount == 0 else 20_000_000
        passes = [verdict.passes for verdict in desk.program.scan(position % COUNTS, desk.now_ns)]
        assert text.scan(position % COUNTS, desk.now_ns, desk.program.enabled)[:2] == passes
        says = [desk.image.get(address) for address in range(at.PLC_BLOCK, at.SPAN)]
        says[at.CONTROL - at.PLC_BLOCK] &= ~2  # it has no sensors
        beats = at.PLC_HEARTBEAT - at.PLC_BLOCK
        assert says[beats] - 1 == text.registers[at.PLC_HEARTBEAT]  # the desk has scanned once before
        says[beats] -= 1
        assert text.registers[at.PLC_BLOCK :] == says


# ------------------------------------------------------------------------------------------------ its encoder


def test_a_moving_web_follows_its_script() -> None:
    second = 10**9
    web = encoder.Moving(0, 100.0, 5.0, [(2, 1000.0), (1, -200.0)])
    assert web.count(second) == 1100
    assert web.count(2 * second) == 2100
    assert web.count(5 * second) == 1910
    web.speed(5 * second, 0.0)
    assert web.count(9 * second) == 1910
    web.jump(9 * second, COUNTS - 1)
    assert web.count(9 * second) == COUNTS - 1
