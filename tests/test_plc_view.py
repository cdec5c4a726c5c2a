"""What is made of a PLC's registers: where the web was, and since when that is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from linescan.plc.registers import PlcBlock
from linescan.plc.view import Sight
from linescan.web import Motion

MS = 1_000_000
TOP = 4000.0  # counts/s


def block(heartbeat: int, position: int | None) -> PlcBlock:
    return PlcBlock(
        heartbeat=heartbeat, enabled=True, gates_confirm=False, entry_refused=False, accepted=1, tail=0, depth=64,
        acknowledge=0, roll_start=0, roll_end=0, splice=0, sync_number=0, position=position, sync_count=None,
        roll_id="", openings=(0,) * 16, opened_at=(None,) * 16,
    )  # fmt: skip


def test_a_position_is_as_old_as_the_heartbeat_beside_it() -> None:
    """A program that stands does not count: the web may go on all the same."""
    sight, motion = Sight(), Motion(TOP, 10)
    for number, (beat, position) in enumerate([(1, 100), (2, 180), (2, 180), (2, 180), (3, None), (4, 420)]):
        view = sight.look(block(beat, position), 20 * number * MS, 20 * number * MS + 1)
        if view.position is not None and view.position_ns > motion.position_ns:
            assert motion.moved(view.position, view.position_ns, view.heard_ns)
        assert view.position_ns == {2: 20, 3: 20, 4: 20}.get(number, 20 * number) * MS
    assert (motion.position, motion.jumps) == (420, 0)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=20))
def test_answers_that_take_long_are_no_jump(delays: list[tuple[int, int]]) -> None:
    """At top speed, whenever between question and answer the PLC had looked."""
    sight, motion, now = Sight(), Motion(TOP, 10), MS
    for beat, (there, back) in enumerate([*delays, (0, 0)]):
        read_ns = now + there * MS
        view = sight.look(block(beat, int(TOP * read_ns / 1e9)), now, read_ns + back * MS)
        assert view.position is not None
        assert motion.moved(view.position, view.position_ns, view.heard_ns)
        now = view.heard_ns + 20 * MS
    assert not motion.moved(view.position + int(TOP / 10), now, now + MS)
