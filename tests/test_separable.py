"""Windows and smoothing on a CPU: the figures of the plain computation, and no trace of where the rows were cut."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch

from linescan.config import InspectionSettings, SsimSettings
from linescan.inspection import residual as engine
from linescan.inspection import separable
from linescan.inspection.patches import reflect_sides
from linescan.inspection.ssim import gaussian_weights, smooth

WIDTHS = (1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 515)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def maps(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def settings(sigma: float = 0.0, channels: int = 1, **ssim: object) -> InspectionSettings:
    return InspectionSettings(
        ssim=SsimSettings.model_validate(ssim), smoothing_sigma=sigma, channels=channels, threshold=1.0
    )


@pytest.mark.parametrize("reach", [0, 1, 5, 30])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_is_the_same_wherever_the_rows_are_cut(width: int, reach: int) -> None:
    image = maps(1, 2 * reach + 40, width + 2 * reach)[0].numpy()
    weights = gaussian_weights(reach / 3 + 0.1, reach)
    whole = separable.filtered(image, weights)
    assert whole.shape == (40, width)
    for first in range(40):
        for count in {1, 2, 3, 8, 19, 40 - first}:
            part = separable.filtered(image[first : min(first + count, 40) + 2 * reach], weights)
            np.testing.assert_array_equal(part, whole[first : first + count])


@pytest.mark.parametrize("sigma", [0.4, 1.0, 4.0, 10.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_smoothing_agrees_with_the_plain_computation(sigma: float, width: int, threads: int) -> None:
    reach = engine.smoothing_reach(sigma)
    image = maps(1, 2 * reach + 70, width + 2 * reach)[0]
    expected = smooth(image.double(), gaussian_weights(sigma, reach))
    torch.testing.assert_close(engine.smoothed(image, sigma).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("window", [1, 3, 7, 11, 21])
@pytest.mark.parametrize("channels", [1, 3])
def test_residuals_agree_with_those_of_a_device(
    kind: Literal["uniform", "gaussian"], window: int, channels: int, threads: int
) -> None:
    web = maps(channels, 90, 64)
    other = web + 0.1 * maps(channels, 90, 64, seed=1)
    asked = settings(channels=channels, kind=kind, window=window)
    found = engine.residual(web, other, asked)
    with patch.object(engine, "on_cpu", lambda _maps: False):
        expected = engine.residual(web, other, asked)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pixels", [1, 64 * 33, 1 << 17])
def test_pieces_and_threads_do_not_show(pixels: int, threads: int) -> None:
    web, other = maps(1, 150, 64), maps(1, 150, 64, seed=1)
    asked = settings(sigma=2.0)
    with patch.object(separable, "PIECE_PIXELS", pixels):
        residuals = engine.residual(web, other, asked)
        found = engine.smoothed(residuals, 2.0)
    torch.set_num_threads(1)
    with patch.object(separable, "PIECE_PIXELS", 1 << 30):
        assert torch.equal(engine.residual(web, other, asked), residuals)
        assert torch.equal(engine.smoothed(residuals, 2.0), found)


@pytest.mark.parametrize("width", [*WIDTHS, 3, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_reflecting_is_what_reflected_columns_give(width: int, channels: int, threads: int) -> None:
    """Webs narrower than the windows too, which are reflected more than once."""
    asked = settings(sigma=3.0, channels=channels)
    web, other = maps(channels, 70, width), maps(channels, 70, width, seed=1)
    found = engine.residual(web, other, asked, reflecting=True)
    assert found.shape == (60, width)
    expected = engine.residual(reflect_sides(web, 5), reflect_sides(other, 5), asked)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        engine.smoothed(found, 3.0, reflecting=True), engine.smoothed(reflect_sides(found, 9), 3.0), rtol=0, atol=1e-6
    )
    with patch.object(engine, "on_cpu", lambda _maps: False):
        torch.testing.assert_close(engine.residual(web, other, asked, reflecting=True), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reach", [1, 5, 30])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_reflecting_row_is_the_same_wherever_the_rows_are_cut(width: int, reach: int) -> None:
    image = maps(1, 2 * reach + 40, width)[0].numpy()
    weights = gaussian_weights(reach / 3 + 0.1, reach)
    whole = separable.filtered(image, weights, reflecting=True)
    assert whole.shape == (40, width)
    for first in range(40):
        for count in {1, 2, 3, 8, 19, 40 - first}:
            part = separable.filtered(image[first : min(first + count, 40) + 2 * reach], weights, reflecting=True)
            np.testing.assert_array_equal(part, whole[first : first + count])


def test_small_pieces_are_cut() -> None:
    heights: list[int] = []

    def compute(rows: separable.Floats) -> separable.Floats:
        heights.append(len(rows))
        return rows[2:-2, 2:-2]

    image = maps(1, 104, 68)[0]
    with patch.object(separable, "PIECE_PIXELS", 64 * 40):
        assert torch.equal(separable.by_rows(compute, (image,), 2), image[2:-2, 2:-2])
    assert heights == [38, 38, 36]  # 100 rows in pieces of 40 at most, with 2 more on each side


def test_what_is_no_number_stays_where_it_is() -> None:
    """Not through running sums into all that follows."""
    web, other = maps(1, 60, 64), maps(1, 60, 64, seed=1)
    clean = engine.residual(web, other, settings())
    other[0, 30, 20] = float("nan")
    found = engine.residual(web, other, settings())
    reached = torch.zeros(50, 54, dtype=torch.bool)
    reached[20:31, 10:21] = True
    assert not bool(torch.isfinite(found[reached]).any())
    assert torch.equal(found[~reached], clean[~reached])


def _sum(results: multiprocessing.SimpleQueue[float]) -> None:
    torch.set_num_threads(2)
    results.put(float(engine.smoothed(maps(1, 90, 90)[0], 2.0).sum()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    expected = float(engine.smoothed(maps(1, 90, 90)[0], 2.0).sum())
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[float] = context.SimpleQueue()
    child = context.Process(target=_sum, args=(results,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert results.get() == expected
