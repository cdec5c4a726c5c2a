"""Line numbers: by the encoder, by what the camera says it lost, and after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.cameras.camera import Lines, LinesLost
from linescan.line import Encoder
from linescan.stages.line_numbers import LineNumbers, Placed, line_after_restart


def lines(count: int, encoder: int | None = None) -> Lines:
    return Lines(np.zeros((count, 4), np.uint8), encoder, 0, 0)


def placed(numbers: LineNumbers, came: Lines) -> tuple[int, str]:
    """Where lines belong of which none had come before."""
    first, again, cause = numbers.place(came)
    assert again == 0
    return first, cause


def test_without_an_encoder_lines_follow_one_another() -> None:
    numbers = LineNumbers(None)
    assert placed(numbers, lines(10, 500)) == (0, "overrun")
    assert placed(numbers, lines(5)) == (10, "overrun")
    numbers.lost(LinesLost(7, "incomplete"))
    numbers.lost(LinesLost(3, "incomplete"))
    assert (numbers.next_line, numbers.end) == (15, 25)
    assert placed(numbers, lines(5)) == (25, "incomplete")
    assert placed(numbers, lines(5)) == (30, "overrun")
    assert numbers.end == 35


def test_an_encoder_says_how_many_were_lost() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=4))
    assert placed(numbers, lines(10, 1000)) == (0, "overrun")
    assert placed(numbers, lines(10, 1040)) == (10, "overrun")
    numbers.lost(LinesLost(99, "incomplete"))
    assert placed(numbers, lines(10, 1160)) == (40, "incomplete")
    assert placed(numbers, lines(10, 1160 + 4 * 25)) == (65, "overrun")  # a jump that the camera did not notice
    assert numbers.backward == 0


def test_lines_lost_before_a_buffer_without_a_count_are_not_forgotten() -> None:
    numbers = LineNumbers(Encoder())
    numbers.place(lines(10, 0))
    numbers.lost(LinesLost(5, "incomplete"))
    assert numbers.end == 15
    assert placed(numbers, lines(10)) == (15, "incomplete")
    assert placed(numbers, lines(10, 25)) == (25, "overrun")


def test_lines_lost_before_the_first_ones() -> None:
    numbers = LineNumbers(Encoder())
    numbers.lost(LinesLost(5, "overrun"))
    assert placed(numbers, lines(10, 700)) == (5, "overrun")
    assert placed(numbers, lines(10, 710)) == (15, "overrun")


@pytest.mark.parametrize("bits", [8, 16, 32, 63])
def test_the_counter_wraps(bits: int) -> None:
    span = 1 << bits
    numbers = LineNumbers(Encoder(bits=bits, counts_per_line=2))
    count, expected = span - 60, 0
    for _ in range(20):
        assert placed(numbers, lines(10, count % span))[0] == expected
        count, expected = count + 20, expected + 10
    count, expected = count + 40, expected + 20
    assert placed(numbers, lines(10, count % span))[0] == expected


def test_what_is_less_than_a_line_off_is_neither_lost_nor_again() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=10))
    numbers.place(lines(10, 1000))
    for off in (9, -9, 5, -5, 0):
        first = numbers.next_line
        assert placed(numbers, lines(10, 1000 + 10 * first + off)) == (first, "overrun")
    assert (numbers.backward, numbers.again) == (0, 0)
    assert placed(numbers, lines(10, 1000 + 600 + 10)) == (61, "overrun")  # a whole line is lost
    assert numbers.place(lines(10, 1000 + 710 - 10)) == Placed(71, 1, "overrun")  # and one came again


def test_small_differences_do_not_add_up() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=10))
    for buffer in range(50):  # 4 counts more than the lines say, each time
        first, again, _ = numbers.place(lines(10, 104 * buffer))
        assert again == 0
        assert abs(104 * buffer - 10 * first) < 10


def test_by_the_cameras_word_and_the_encoders_together() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=10))
    numbers.place(lines(10, 0))
    numbers.lost(LinesLost(3, "incomplete"))
    assert placed(numbers, lines(10, 124)) == (13, "incomplete")  # 2.4 by the encoder
    numbers.lost(LinesLost(1, "incomplete"))
    assert placed(numbers, lines(10, 230)) == (23, "incomplete")  # by the encoder none was


def test_lines_of_a_web_that_ran_back_do_not_count_again() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=10))
    numbers.place(lines(30, 1000))
    assert numbers.place(lines(10, 1000)) == Placed(30, 10, "overrun")
    assert (numbers.behind, numbers.again, numbers.backward) == (20, 10, 1)
    assert numbers.place(lines(10, 900)) == Placed(30, 10, "overrun")  # before the roll's line 0
    assert numbers.behind == 30
    assert numbers.place(lines(10, 1250)) == Placed(30, 5, "overrun")
    assert (numbers.behind, numbers.next_line) == (0, 35)
    assert placed(numbers, lines(10, 1350)) == (35, "overrun")
    assert (numbers.again, numbers.backward) == (25, 3)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 12), st.integers(16, 40), st.integers(0, 1 << 40), st.data(),
    st.lists(st.tuples(st.integers(-90, 60), st.integers(1, 40)), min_size=1, max_size=40),
)  # fmt: skip
def test_wherever_the_web_goes_every_new_line_has_its_number(
    per_line: int, bits: int, start: int, data: st.DataObject, moves: list[tuple[int, int]]
) -> None:
    """The web moves on or back by so many lines, then comes a buffer; the pixels are the true lines."""
    jitter = data.draw(st.integers(0, (per_line - 1) // 2))  # of each of two counts: less than a line together
    numbers = LineNumbers(Encoder(counts_per_line=per_line, bits=bits))
    at, delivered, highest = 0, list[int](), 0
    for i, (moved, count) in enumerate(moves):
        at += moved if i else 0  # the first line is line 0
        off = data.draw(st.integers(-jitter, jitter))
        shown = (start + at * per_line + off) % (1 << bits)
        true = list(range(at, at + count))
        before = numbers.next_line
        first, again, _ = numbers.place(lines(count, shown))
        kept = true[again:]
        if jitter:  # what is less than a line off is not noticed, and the numbers stay within a line of the truth
            assert not kept or abs(first - kept[0]) <= 1
        else:
            assert true[:again] == [line for line in true if line < highest]
            assert kept == list(range(first, first + len(kept)))
        assert first >= before
        delivered += range(first, first + len(kept))
        assert numbers.next_line == (delivered[-1] + 1)
        highest = max(highest, at + count)
        at += count
    assert delivered == sorted(set(delivered))


def test_a_reference_from_before() -> None:
    numbers = LineNumbers(Encoder(), next_line=500, reference=(90, 500))
    assert placed(numbers, lines(10, 90)) == (500, "overrun")
    assert placed(numbers, lines(10, 120)) == (530, "overrun")


# ------------------------------------------------------------------------------------------------ after a restart


def test_the_counter_says_where_the_web_is() -> None:
    encoder = Encoder(counts_per_line=2, bits=16)
    assert line_after_restart(encoder, 2 * 700, 500, 1000) == 700
    assert line_after_restart(encoder, 2 * 500, 500, 1000) == 500
    assert line_after_restart(encoder, 2 * 499, 500, 1000) == 500  # a line of jitter
    assert line_after_restart(encoder, (2 * 33_000) % (1 << 16), 32_000, 2000) == 33_000  # wrapped meanwhile
    assert line_after_restart(encoder, -(1 << 16) + 2 * 700, 500, 1000) == 700


def test_a_counter_that_was_reset_is_not_believed() -> None:
    encoder = Encoder(bits=32)
    assert line_after_restart(encoder, 5 - 3_000_000, 100_000, 5000) is None
    assert line_after_restart(encoder, 90_000, 100_000, 5000) is None  # it would have to have wrapped
    assert line_after_restart(encoder, 100_000 + 5000 * 3, 100_000, 5000) is None  # more than can have passed


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 5), st.integers(12, 40), st.integers(0, 10**7), st.integers(0, 800), st.integers(0, 2**40))
def test_wherever_the_counter_stood_the_line_is_found(
    per_line: int, bits: int, up_to: int, passed: int, count: int
) -> None:
    encoder = Encoder(counts_per_line=per_line, bits=bits)
    span = 1 << bits
    true = up_to + min(passed, span // per_line - 2)  # more than a turn of the counter cannot be told
    moved = ((count + true * per_line) % span) - count % span
    assert line_after_restart(encoder, moved, up_to, passed + 1) == true
