"""Which lines are inspected: the gate alone, against the verdicts of the whole roll at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.config import ImageBand, Selvage
from linescan.inspection.gate import LineGate, Stretch, line_statistics

few = settings(max_examples=300, derandomize=True, deadline=None, database=None)
GOOD, BAD = 100, 0
Piece = tuple[int, int, bool]


def raw_lines(flags: list[bool]) -> torch.Tensor:
    """1×N×3 lines; each carries its number in the middle column, outside of what is judged."""
    grey = torch.tensor([GOOD if flag else BAD for flag in flags], dtype=torch.int32)
    return torch.stack([grey, torch.arange(len(flags), dtype=torch.int32), grey], -1)[None]


def verdicts(flags: list[bool], least: int, valid: bool = True) -> list[bool]:
    """Run by run over the whole roll: a verdict turns where `least` lines in a row speak against it."""
    told, first = [], 0
    while first < len(flags):
        end = first
        while end < len(flags) and flags[end] == flags[first]:
            end += 1
        if flags[first] != valid and end - first >= least:
            valid = not valid
        told += [valid] * (end - first)
        first = end
    return told


def gate_of(least: int, line: int = 0) -> LineGate:
    return LineGate(ImageBand(mean_low=0.2, lines=least), 8, slice(0, 1), line)


def through(gate: LineGate, raw: torch.Tensor, cuts: list[int]) -> list[Stretch]:
    stretches, first = [], 0
    while first < raw.shape[1]:
        height = cuts.pop(0) if cuts else 5
        frame = raw[:, first : first + height].clone()
        for stretch in gate.push(frame):
            # the lines are used before the camera's buffer is
            lines = None if stretch.lines is None else stretch.lines.clone()
            stretches.append(Stretch(stretch.first_line, stretch.count, lines))
        frame[:] = 77
        first += height
        assert gate.line == min(first, raw.shape[1])
        told = sum(stretch.count for stretch in stretches)
        assert gate.line - told <= 2 * (gate._band.lines - 1), "what is held is bounded"
    return stretches + gate.flush()


@few
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6), st.lists(st.integers(1, 20), max_size=12))
def test_verdicts_are_those_of_the_whole_roll(flags: list[bool], least: int, cuts: list[int]) -> None:
    raw = raw_lines(flags)
    stretches = through(gate_of(least), raw, cuts)
    assert sum(stretch.count for stretch in stretches) == len(flags)
    told: list[bool] = []
    for stretch in stretches:
        assert stretch.first_line == len(told)
        told += [stretch.lines is not None] * stretch.count
        if stretch.lines is not None:
            assert torch.equal(stretch.lines, raw[:, stretch.first_line : stretch.first_line + stretch.count])
    assert told == verdicts(flags, least)


@few
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6), st.lists(st.integers(1, 20), max_size=12))
def test_gaps_come_in_the_same_pieces_however_the_frames_fall(flags: list[bool], least: int, cuts: list[int]) -> None:
    raw = raw_lines(flags)
    pieces = [gaps(through(gate_of(least), raw, list(heights))) for heights in (cuts, [1] * 60, [60])]
    assert pieces[0] == pieces[1] == pieces[2]
    for (first, count), (after, _) in zip(pieces[0], pieces[0][1:], strict=False):
        assert count == least or first + count < after, "only a gap's last piece is short"


def gaps(stretches: list[Stretch]) -> list[tuple[int, int]]:
    return [(stretch.first_line, stretch.count) for stretch in stretches if stretch.lines is None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bit_depth", [8, 12, 16])
def test_mean_and_contrast_are_in_units_of_full_scale(channels: int, bit_depth: int) -> None:
    full = 2**bit_depth - 1
    rng = np.random.default_rng(9)
    lines = rng.integers(0, full + 1, (channels, 1, 50)).astype(np.int32)
    unit = lines / full
    for mean_off, contrast_off, good in ((-1e-9, -1e-9, True), (1e-9, -1e-9, False), (-1e-9, 1e-9, False)):
        band = ImageBand(mean_low=unit.mean() + mean_off, contrast_low=unit.std() + contrast_off, lines=1)
        gate = LineGate(band, bit_depth, slice(0, 50))
        (stretch,) = gate.push(torch.from_numpy(lines))
        assert (stretch.lines is not None) == good
    band = ImageBand(mean_high=unit.mean() - 1e-9, lines=1)
    (stretch,) = LineGate(band, bit_depth, slice(0, 50)).push(torch.from_numpy(lines))
    assert stretch.lines is None


@pytest.mark.parametrize("grey", [0, 255])
def test_without_a_band_every_line_is_inspected(grey: int) -> None:
    lines = torch.full((1, 3, 20), grey, dtype=torch.uint8)
    (stretch,) = LineGate(ImageBand(lines=1), 8, slice(0, 20)).push(lines)
    assert stretch.lines is not None


def test_only_the_inspected_columns_are_judged() -> None:
    lines = torch.zeros(1, 4, 30, dtype=torch.int32)
    lines[..., 10:20] = GOOD
    band = ImageBand(mean_low=0.3, lines=1)
    assert LineGate(band, 8, slice(10, 20)).push(lines)[0].lines is not None
    assert LineGate(band, 8, slice(9, 30)).push(lines)[0].lines is None


def test_after_a_gap_from_outside_the_lines_are_taken_for_valid_again() -> None:
    gate = gate_of(3)
    through(gate, raw_lines([False] * 7), [7])
    assert not gate.valid
    gate.skip_to(20)
    assert (gate.line, gate.valid) == (20, True)
    (stretch,) = gate.push(raw_lines([True]))
    assert (stretch.first_line, stretch.count) == (20, 1)
    assert stretch.lines is not None


@pytest.mark.parametrize("absent", [5, 40])
def test_lines_that_show_no_web_are_a_gap(absent: int) -> None:
    # bright web in the middle of a dark table; then the web is torn off
    lines = torch.full((1, 100, 64), 20, dtype=torch.uint8)
    lines[:, :, 20:50] = 200
    lines[:, 30 : 30 + absent] = 20
    gate = LineGate(ImageBand(lines=10), 8, slice(0, 64), selvage=Selvage(backdrop="dark", level=0.4, hold_px=8))
    stretches = [*gate.push(lines), *gate.flush()]
    missing = {s.first_line + i for s in stretches if s.lines is None for i in range(s.count)}
    assert missing == (set(range(30, 30 + absent)) if absent >= 10 else set())


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("columns", [1, 255, 256, 2049])
def test_a_line_s_figures_are_exact(bits: int, columns: int) -> None:
    """Sums of float32 would round where the web is bright and wide."""
    highest = 2**bits - 1
    lines = np.full((3, 2, columns), highest, np.int64)
    lines[:, 1] = np.random.default_rng(5).integers(0, highest + 1, (3, columns))
    mean, contrast = line_statistics(torch.from_numpy(lines.astype(np.int32)), bits)
    flat = lines.transpose(1, 0, 2).reshape(2, -1)
    expected = flat.sum(1) / flat.shape[1]
    assert mean.tolist() == (expected / highest).tolist()
    variance = (flat * flat).sum(1) / flat.shape[1] - expected * expected
    assert contrast.tolist() == (np.sqrt(np.maximum(variance, 0)) / highest).tolist()
