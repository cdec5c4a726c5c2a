"""Web coordinates: counters that wrap, lines and millimetres, lanes, the motion, and how two counters are tied."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.line import CameraSettings, Encoder, Web
from linescan.tie import MISSED, PulseTie, SharedTie, Tie
from linescan.web import CameraOnWeb, Counter, Motion, Strip, seen_by, touched, unseen

S = 1_000_000_000
MS = S // 1000
WEB = Web(counts_per_mm=10.0, top_speed_mm_s=1000.0, offset_counts=5000, tolerance_mm=1.0)
TOP = 10_000  # counts/s


# ------------------------------------------------------------------------------------------------ counters


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(8, 64), st.integers(-(1 << 70), 1 << 70), st.integers(0, 1 << 63))
def test_a_counter_is_unwrapped_to_the_nearest(bits: int, count: int, apart: int) -> None:
    counter = Counter(bits)
    shown = counter.wrap(count)
    assert 0 <= shown < 1 << bits
    half = 1 << (bits - 1)
    for near in (count - apart % half, count + apart % half):
        assert counter.unwrap(shown, near) == count
    assert counter.unwrap(shown, count + half) == count  # of two as near the lower


# ------------------------------------------------------------------------------------------------ lines, millimetres


def test_lines_counts_and_millimetres() -> None:
    camera = CameraSettings(
        name="cam0", producer="p", serial="1", max_line_rate_hz=1000.0, encoder=Encoder(counts_per_line=4),
        mm_per_column=0.25, x_offset_mm=100.0, y_offset_mm=30.0,
    )  # fmt: skip
    place = CameraOnWeb.of(1000, camera, WEB)
    assert place.mm_per_line == pytest.approx(0.4)
    assert place.count(0) == 1000 - 300  # the web had passed the reference line 30 mm before
    assert place.span(10, 12) == (740, 752)
    assert place.along_mm(10) == pytest.approx(4.0)
    assert place.across_mm(0, 0) == pytest.approx((100.0, 100.25))
    assert place.across_mm(8, 11) == pytest.approx((102.0, 103.0))
    with pytest.raises(ValueError, match="camera cam0: encoder and mm_per_column are needed"):
        CameraOnWeb.of(0, camera.model_copy(update={"encoder": None}), WEB)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.integers(-(1 << 40), 1 << 40), st.integers(1, 50), st.floats(0.5, 100), st.floats(-500, 500),
    st.integers(0, 1 << 30), st.integers(0, 1000),
)  # fmt: skip
def test_every_count_belongs_to_the_line_whose_span_holds_it(
    origin: int, per_line: int, per_mm: float, offset_mm: float, first: int, more: int
) -> None:
    place = CameraOnWeb(origin, per_line, per_mm, 0.1, y_offset_mm=offset_mm)
    begins, ends = place.span(first, first + more)
    assert ends - begins == (more + 1) * per_line
    assert (place.line(begins), place.line(ends - 1)) == (first, first + more)
    assert (place.line(begins - 1), place.line(ends)) == (first - 1, first + more + 1)
    assert place.along_mm(first + 1) - place.along_mm(first) == pytest.approx(per_line / per_mm, abs=1e-3)


# ------------------------------------------------------------------------------------------------ lanes

LANES = (Strip("a", 0, 100), Strip("b", 100, 200), Strip("c", 250, 300))


@pytest.mark.parametrize(
    ("from_mm", "to_mm", "expected"),
    [
        (10, 20, "a"), (90, 110, "ab"), (100, 200, "b"), (200, 250, ""), (-50, 500, "abc"), (199.9, 250.1, "bc"),
        (-10, 0, ""),
    ],
)  # fmt: skip
def test_lanes_that_a_span_touches(from_mm: float, to_mm: float, expected: str) -> None:
    assert touched(LANES, from_mm, to_mm) == tuple(expected)


def test_lanes_and_cameras() -> None:
    views = (Strip("right", 140, 320), Strip("left", 10, 150))
    assert seen_by(LANES, views) == {"right": ("b", "c"), "left": ("a", "b")}
    assert unseen(LANES[0], views) == [(0, 10)]
    assert unseen(LANES[1], views) == []
    assert unseen(LANES[1], [Strip("x", 120, 130), Strip("y", 125, 126), Strip("z", 150, 160)]) == [
        (100, 120), (130, 150), (160, 200),
    ]  # fmt: skip
    assert unseen(LANES[2], []) == [(250, 300)]
    assert unseen(LANES[2], [Strip("x", 0, 100), Strip("y", 300, 400)]) == [(250, 300)]


# ------------------------------------------------------------------------------------------------ motion


def run(motion: Motion, speeds: list[float], position: float = 0.0, step_ns: int = 20 * MS) -> tuple[float, int]:
    """Each speed for a second; returns where and when it ends."""
    now = motion.position_ns
    for speed in speeds:
        for _ in range(S // step_ns):
            position, now = position + speed * step_ns / 1e9, now + step_ns
            assert motion.moved(round(position), now)
    return position, now


def test_the_speed_is_that_of_the_last_second_and_of_its_last_quarter_where_that_is_higher() -> None:
    motion = Motion(TOP, 10)
    assert (motion.speed, motion.direction, motion.at_most(0)) == (0.0, 0, None)
    run(motion, [500.0, 500.0])
    assert motion.speed == pytest.approx(500, rel=0.02)
    assert motion.direction == 1
    position = float(motion.position or 0)
    for _ in range(13):  # a quarter of a second at ten times the speed
        position += 5000 * 0.02
        motion.moved(round(position), motion.position_ns + 20 * MS)
    assert motion.speed == pytest.approx(5000, rel=0.05)
    position, _ = run(motion, [5000.0], position)
    motion.moved(round(position + 10), motion.position_ns + 20 * MS)
    assert motion.speed > 4500  # it slows down, and that is not believed at once


def test_a_web_that_stands_or_runs_back_has_no_speed() -> None:
    motion = Motion(TOP, 10)
    position, _ = run(motion, [500.0, 0.0, 0.0])
    assert (motion.speed, motion.direction) == (0.0, 0)
    run(motion, [-300.0], position)
    assert (motion.speed, motion.direction) == (0.0, -1)


def test_jitter_of_many_samples_does_not_make_a_speed() -> None:
    motion = Motion(TOP, 10)
    for number in range(2000):
        motion.moved(1000 + number % 2, number * MS)
    assert motion.speed <= 4  # a count in a quarter of a second
    assert len(motion._samples) <= 120


def test_a_position_that_no_web_can_have_reached_is_a_jump() -> None:
    motion = Motion(TOP, 10)
    run(motion, [500.0])
    assert motion.moved(500 + 1250 + 10, motion.position_ns + 100 * MS)  # a quarter more than the top speed allows
    before = motion.position or 0
    assert not motion.moved(0, motion.position_ns + 20 * MS)  # the PLC was started anew
    assert before > 1000
    assert (motion.jumps, motion.position, motion.speed) == (1, 0, 0.0)
    assert motion.moved(100, motion.position_ns + 20 * MS)
    assert motion.moved(5000, motion.position_ns + S)  # it was away for long


@pytest.mark.parametrize("every_ms", [3, 7, 20, 33])
def test_a_position_that_is_as_old_as_a_scan_is_no_jump(every_ms: int) -> None:
    motion, scan_ns = Motion(TOP, 10, scan_s=0.01), 10 * MS
    for now in range(0, 2 * S, every_ms * MS):
        written = now // scan_ns * scan_ns
        assert motion.moved(TOP * written // S, now)
    assert not motion.moved(TOP * 2 + 10 + 100 + 13 * every_ms + 200, motion.position_ns + every_ms * MS)


def test_an_old_position_has_gone_on() -> None:
    motion = Motion(TOP, 10)
    position, now = run(motion, [400.0, 400.0])
    assert motion.at_most(now) == round(position)
    assert motion.at_most(now - S) == round(position)
    assert motion.at_most(now + 250 * MS) == pytest.approx(position + 100, abs=2)
    assert motion.at_most(now + 1250 * MS) == pytest.approx(position + 100 + TOP, abs=2)


# ------------------------------------------------------------------------------------------------ shared counter


def test_a_shared_counter_is_trusted_when_the_position_is_plausible() -> None:
    tie = SharedTie.of(WEB, 32)
    assert (tie.trusted, tie.offset) == (False, None)
    assert "not been compared" in tie.reason
    tie.check(1000, S, 6100, S)
    assert (tie.trusted, tie.offset, tie.reason) == (True, 5000, "")
    tie.check(1000, S, 5991, S)  # the web ran back: the highest position counts
    tie.check(6105 - 5000, S, 6100, S)  # within the tolerance
    assert tie.trusted


def test_the_two_counters_may_have_wrapped_differently() -> None:
    tie = SharedTie.of(WEB, 16)
    tie.check(1000, S, 6100 + 3 * (1 << 16), S)
    assert (tie.trusted, tie.offset) == (True, 5000 + 3 * (1 << 16))
    tie.check(1500, S, 6600 + 3 * (1 << 16), S)
    assert tie.trusted


@pytest.mark.parametrize(
    ("line", "position", "reason"),
    [
        (1200, 6189, "11 counts behind the camera's newest line, 10 at most"),
        (1000, 6000 + 20_000 + 1000 + 11, "21011 counts ahead of the camera's newest line, 21010 at most"),
    ],
)
def test_an_implausible_position_is_not_trusted_until_it_was_mended(line: int, position: int, reason: str) -> None:
    tie = SharedTie.of(WEB, 32)
    tie.check(1000, S, 6000, S)
    tie.check(line, S + 1, position, S + S // 10)
    assert not tie.trusted
    assert reason in tie.reason
    tie.check(8000, S, 13_000, S)
    assert not tie.trusted  # nobody has said that it was mended
    tie.acknowledge()
    assert (tie.trusted, tie.offset) == (True, 5000)
    tie.distrust("the camera's counter was reset")
    tie.acknowledge()
    assert (tie.trusted, tie.reason) == (False, "the camera's counter was reset")  # they have not been compared since
    tie.check(8000, S, 100_000, S)
    assert not tie.trusted
    tie.check(90_000, S, 100_000, S)
    assert tie.trusted


def test_a_position_older_than_the_line_may_be_behind_it() -> None:
    tie = SharedTie.of(WEB, 32)
    tie.check(1000, S, 6000, S)
    tie.check(1900, S + 100 * MS, 6000, S)  # a tenth of a second at top speed: 1000 counts
    assert tie.trusted
    tie.check(2011, S + 100 * MS, 6000, S)
    assert not tie.trusted


# ------------------------------------------------------------------------------------------------ sync pulses


def pulses(tie: PulseTie, pairs: list[tuple[int | None, int | None]], now: int = 0, late_ns: int = 100 * MS) -> int:
    """One pulse every two seconds, latched as said by the camera and, a little later, by the PLC."""
    for camera, plc in pairs:
        now += 2 * S
        if camera is not None:
            tie.camera_latched(camera, now)
        if plc is not None:
            tie.plc_latched(plc, now + late_ns)
        tie.settle(now + S)
    return now


def test_the_first_pair_of_latches_says_the_offset_and_each_later_one_checks_it() -> None:
    tie = PulseTie.of(WEB)
    tie.settle(S)
    assert (tie.trusted, tie.reason) == (False, "no sync pulse yet")
    now = pulses(tie, [(1000, 7000)])
    assert (tie.trusted, tie.offset) == (True, 6000)
    now = pulses(tie, [(2000, 8010), (3000, 8990)], now)
    assert (tie.trusted, tie.offset, tie.drift) == (True, 6000, -10)
    now = pulses(tie, [(4000, 9989)], now)
    assert (tie.trusted, tie.drift) == (False, -11)
    assert "drifted apart by -11 counts, 10 are allowed" in tie.reason
    now = pulses(tie, [(5000, 11_000)], now)
    assert not tie.trusted  # not acknowledged
    tie.acknowledge()
    assert (tie.trusted, tie.offset) == (True, 6000)
    tie.distrust("the camera's counter was reset")
    tie.acknowledge()
    assert not tie.trusted  # no pair since
    pulses(tie, [(10, 12_000)], now)
    assert (tie.trusted, tie.offset) == (True, 11_990)
    assert (tie.pairs, tie.unpaired) == (6, 0)


def test_what_one_counter_alone_latched_is_no_pair_and_soon_a_loss() -> None:
    tie = PulseTie.of(WEB)
    now = pulses(tie, [(1000, 7000), (None, 8000), (3000, None), (4000, 10_000)])
    assert (tie.trusted, tie.unpaired, tie.pairs) == (True, 2, 2)
    now = pulses(tie, [(None, 10_000 + 1000 * missed) for missed in range(1, MISSED)], now)
    assert tie.trusted
    now = pulses(tie, [(None, 20_000)], now)
    assert not tie.trusted
    assert f"{MISSED} sync pulses in a row were latched by one counter alone, now the PLC" in tie.reason


def test_a_latch_that_came_too_late_is_no_pair() -> None:
    tie = PulseTie.of(WEB)
    pulses(tie, [(1000, 7000)], late_ns=600 * MS)
    tie.settle(10 * S)
    assert (tie.trusted, tie.unpaired) == (False, 2)


def test_a_latch_that_is_told_late_is_no_pair_with_a_newer_one() -> None:
    tie = PulseTie.of(WEB)
    tie.plc_latched(9000, 4 * S)
    tie.camera_latched(1000, 2 * S)
    assert not tie.trusted
    tie.settle(4 * S)
    tie.camera_latched(3000, 4 * S + 100 * MS)
    assert (tie.trusted, tie.offset, tie.unpaired) == (True, 6000, 1)


def test_pulses_of_a_web_that_stands_say_nothing() -> None:
    tie = PulseTie.of(WEB)
    now = pulses(tie, [(1000, 7000)] + [(None, 7000), (1000, None), (1000, 7000)] * MISSED)
    assert (tie.trusted, tie.pairs, tie.unpaired) == (True, 1, 0)
    pulses(tie, [(2000, 8001)], now)
    assert (tie.trusted, tie.pairs, tie.drift) == (True, 2, 1)


def test_what_was_latched_before_trust_was_lost_mends_nothing() -> None:
    tie = PulseTie.of(WEB)
    now = pulses(tie, [(1000, 7000)]) + 2 * S
    tie.camera_latched(2000, now)
    tie.distrust("the camera's counter was reset")
    tie.plc_latched(8000, now + 100 * MS)
    tie.acknowledge()
    assert tie.lost is tie.trusted is False
    assert (tie.pairs, tie.unpaired) == (1, 1)


def test_a_position_of_the_scan_before_is_not_behind_the_line() -> None:
    tie = SharedTie.of(WEB, 32, scan_s=0.01)
    tie.check(2000, S, 6900, S)  # at top speed 100 counts a scan
    assert (tie.trusted, tie.offset) == (True, 5000)
    tie.check(2100, S, 6990, S)
    assert tie.trusted
    tie.check(2101, S, 6990, S)
    assert not tie.trusted


def test_a_position_read_before_the_line_came_is_not_the_counters_last_turn() -> None:
    tie = SharedTie.of(WEB, 32)
    tie.check(2000, S, 6950, S - 100 * MS)
    assert (tie.trusted, tie.offset) == (True, 5000)


@pytest.mark.parametrize("side", ["camera", "PLC"])
def test_pulses_that_cannot_be_told_apart_are_not_trusted(side: str) -> None:
    tie = PulseTie.of(WEB)
    now = pulses(tie, [(1000, 7000)])
    latched = tie.camera_latched if side == "camera" else tie.plc_latched
    latched(2000, now + 2 * S)
    latched(2100, now + 2 * S + 900 * MS)
    assert not tie.trusted
    assert tie.reason.startswith(f"the {side} latched two sync pulses within 1 s")
    assert tie.unpaired == 1


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.integers(-(1 << 33), 1 << 33),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-499, 499)), min_size=1, max_size=20),
)
def test_whatever_gets_lost_no_wrong_pair_is_made(offset: int, lost: list[tuple[bool, bool, int]]) -> None:
    tie = PulseTie(0.0)
    for number, (camera_lost, plc_lost, late_ms) in enumerate(lost):
        at, count = (2 + 2 * number) * S, 700 * number
        latches = [] if camera_lost else [(at, tie.camera_latched, count)]
        latches += [] if plc_lost else [(at + late_ms * MS, tie.plc_latched, count + offset)]
        for came_ns, latched, shown in sorted(latches, key=lambda latch: latch[0]):
            latched(shown, came_ns)
        tie.settle(at + S)
        assert tie.offset in (None, offset)
        assert tie.drift == 0
    assert tie.pairs == sum(not (camera or plc) for camera, plc, _ in lost)


def test_both_kinds_are_a_tie() -> None:
    for tie in (SharedTie.of(WEB, 32), PulseTie.of(WEB)):
        assert isinstance(tie, Tie)
        assert not tie.trusted
        assert tie.reason
        tie.acknowledge()  # nothing was lost, nothing is known
        assert not tie.trusted


def test_what_the_plc_lost_shows_though_the_web_has_moved_on() -> None:
    tie = SharedTie.of(WEB, 32)
    tie.check(1000, S, 6000, S)
    assert tie.trusted
    for step in range(1, 20):  # lines are known 0.3 s late, and the PLC has lost 40 counts of its position after 0.5 s
        now = S + step * S // 10
        moved = 6000 + 200 * step - (40 if step >= 5 else 0)
        line_ns = now - 3 * S // 10
        tie.check(1000 + 200 * (step - 3), line_ns, moved, now)
        if step < 8:
            assert tie.trusted, step
    assert not tie.trusted
    assert "40 counts behind" in tie.reason
