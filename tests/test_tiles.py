"""SSIM and smoothing without gradients: done in pieces and in place, to the bits of the plain computation."""

from __future__ import annotations

from typing import Literal
from unittest.mock import patch

import pytest
import torch

from linescan.config import SsimSettings
from linescan.inspection import tiles
from linescan.inspection.ssim import gaussian_weights, similarity, smooth, window_mean

SHAPE = (1, 41, 173)


def web(seed: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("columns", "pixels"), [(7, 7), (20, 41 * 50), (512, 1 << 18)])
def test_pieces_do_not_show(columns: int, pixels: int) -> None:
    ssim, weights = SsimSettings(), gaussian_weights(3.0, 9)
    x, y = web(1), web(2)
    calls: list[int] = []

    def counted(web: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        calls.append(web.shape[-1])
        return similarity(web, reconstruction, ssim)

    with patch.multiple(tiles, TILE_COLUMNS=columns, TILE_PIXELS=pixels):
        in_pieces = tiles.by_columns(counted, (x, y), 5)
        smoothed = tiles.by_columns(lambda part: smooth(part, weights), (x,), 9)
    assert len(calls) == {7: 24, 20: 4, 512: 1}[columns]  # 163 columns in pieces of 7, of 2050 // 41 and in one
    assert torch.equal(in_pieces, similarity(x, y, ssim))
    assert torch.equal(smoothed, smooth(x, weights))


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("window", [1, 3, 7, 11, 17, 21])
def test_without_gradients_the_bits_are_the_same(kind: Literal["uniform", "gaussian"], window: int) -> None:
    ssim = SsimSettings(kind=kind, window=window)
    x, y = web(3), web(4)
    before = x.clone(), y.clone()
    plain = similarity(x.clone().requires_grad_(), y, ssim)
    assert torch.equal(similarity(x, y, ssim), plain.detach())
    with torch.inference_mode():
        assert torch.equal(similarity(x, y, ssim), plain.detach())
    assert torch.equal(x, before[0])  # nothing was written into what came in
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("window", [1, 3, 11, 17])
def test_window_means_leave_their_input_alone(window: int) -> None:
    ssim = SsimSettings(window=window)
    with torch.inference_mode():
        maps = web(5)
        before = maps.clone()
        mean = window_mean(maps, ssim)
        assert torch.equal(maps, before)
    pooled = torch.nn.functional.avg_pool2d(before, window, stride=1)
    assert torch.allclose(mean, pooled, atol=1e-6)
