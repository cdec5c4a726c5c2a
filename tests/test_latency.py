"""The longest that a line waits for others, as `linescan check` reckons with it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.config import ImageBand, InspectionSettings
from linescan.inspection import Footprint, Inspector
from linescan.inspection.latency import context_lines
from tests.inspection_kit import nothing


def longest_wait(asked: InspectionSettings, pixels: np.ndarray) -> int:  # type: ignore[type-arg]
    """The most lines that were pending while lines came one by one."""
    inspector = Inspector(asked, Footprint(pixels.shape[1]), nothing)
    longest = 0
    for line in pixels:
        inspector.push(line[None])
        longest = max(longest, inspector.lines_pending)
    return longest


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 2), st.integers(1, 16), st.sampled_from([0.0, 1.0]), st.integers(1, 60), st.integers(1, 40),
    st.integers(0, 2**31),
)  # fmt: skip
def test_no_line_waits_longer(scale: int, stride: int, sigma: float, area: int, length: int, seed: int) -> None:
    asked = InspectionSettings(
        method="l2", patch_size=16, scale=scale, stride=stride, threshold=0.5, smoothing_sigma=sigma, min_area_px=area,
        min_length_px=length, band=ImageBand(mean_low=0.1, lines=6),
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    pixels = generator.integers(60, 90, (400, 36)).astype(np.uint8)
    for _ in range(12):
        top, left = generator.integers(0, 390), generator.integers(0, 34)
        pixels[top : top + generator.integers(2, 90), left : left + generator.integers(2, 8)] = 255
    for _ in range(3):  # dark lines: too few for a gap, or enough
        top = generator.integers(0, 390)
        pixels[top : top + generator.integers(1, 9)] = 0
    assert longest_wait(asked, pixels) <= context_lines(asked)


def test_on_clean_web_lines_wait_for_what_is_reckoned_without_regions_and_gaps() -> None:
    asked = InspectionSettings(method="ssim", patch_size=16, stride=7, scale=2, threshold=9.0, band=ImageBand(lines=1))
    pixels = np.random.default_rng(1).integers(60, 90, (300, 40)).astype(np.uint8)
    reckoned = (16 + 7 - 1 + 5 + 3) * 2 + 1
    assert context_lines(asked) == reckoned
    assert reckoned - 2 - 2 * 1 <= longest_wait(asked, pixels) <= reckoned
