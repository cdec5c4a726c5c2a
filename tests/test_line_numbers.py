"""Line numbers: by the encoder, by what the camera says it lost, and after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.cameras.camera import Lines, LinesLost
from linescan.line import Encoder
from linescan.stages.line_numbers import LineNumbers, line_after_restart


def lines(count: int, encoder: int | None = None) -> Lines:
    return Lines(np.zeros((count, 4), np.uint8), encoder, 0, 0)


def test_without_an_encoder_lines_follow_one_another() -> None:
    numbers = LineNumbers(None)
    assert numbers.place(lines(10, 500)) == (0, "overrun")
    assert numbers.place(lines(5)) == (10, "overrun")
    numbers.lost(LinesLost(7, "incomplete"))
    numbers.lost(LinesLost(3, "incomplete"))
    assert (numbers.next_line, numbers.end) == (15, 25)
    assert numbers.place(lines(5)) == (25, "incomplete")
    assert numbers.place(lines(5)) == (30, "overrun")
    assert numbers.end == 35


def test_an_encoder_says_how_many_were_lost() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=4))
    assert numbers.place(lines(10, 1000)) == (0, "overrun")
    assert numbers.place(lines(10, 1040)) == (10, "overrun")
    numbers.lost(LinesLost(99, "incomplete"))
    assert numbers.place(lines(10, 1160)) == (40, "incomplete")
    assert numbers.place(lines(10, 1160 + 4 * 25)) == (65, "overrun")  # a jump that the camera did not notice
    assert numbers.backward == 0


def test_lines_lost_before_a_buffer_without_a_count_are_not_forgotten() -> None:
    numbers = LineNumbers(Encoder())
    numbers.place(lines(10, 0))
    numbers.lost(LinesLost(5, "incomplete"))
    assert numbers.end == 15
    assert numbers.place(lines(10)) == (15, "incomplete")
    assert numbers.place(lines(10, 25)) == (25, "overrun")


def test_lines_lost_before_the_first_ones() -> None:
    numbers = LineNumbers(Encoder())
    numbers.lost(LinesLost(5, "overrun"))
    assert numbers.place(lines(10, 700)) == (5, "overrun")
    assert numbers.place(lines(10, 710)) == (15, "overrun")


@pytest.mark.parametrize("bits", [8, 16, 32, 63])
def test_the_counter_wraps(bits: int) -> None:
    span = 1 << bits
    numbers = LineNumbers(Encoder(bits=bits, counts_per_line=2))
    count, expected = span - 60, 0
    for _ in range(20):
        assert numbers.place(lines(10, count % span))[0] == expected
        count, expected = count + 20, expected + 10
    count, expected = count + 40, expected + 20
    assert numbers.place(lines(10, count % span))[0] == expected


def test_a_counter_that_falls_behind_numbers_no_line_twice() -> None:
    numbers = LineNumbers(Encoder(counts_per_line=10))
    numbers.place(lines(10, 1000))
    assert numbers.place(lines(10, 1097)) == (10, "overrun")  # jitter of less than half a line
    assert numbers.backward == 0
    assert numbers.place(lines(10, 1197)) == (20, "overrun")
    assert numbers.place(lines(10, 1250)) == (30, "overrun")  # the web ran back
    assert numbers.backward == 1
    assert numbers.place(lines(10, 1350)) == (40, "overrun")


def test_a_reference_from_before() -> None:
    numbers = LineNumbers(Encoder(), next_line=500, reference=(90, 500))
    assert numbers.place(lines(10, 90)) == (500, "overrun")
    assert numbers.place(lines(10, 120)) == (530, "overrun")


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
