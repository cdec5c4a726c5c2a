"""The opening, against scipy's, in black and white and in grey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from linescan.inspection import opening
from tests import reference

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (4, 4), (17, 30), (40, 25)]


def opened(maps: torch.Tensor, outside: float) -> torch.Tensor:
    reach = (opening.REACH,) * 4
    return opening.opening(torch.nn.functional.pad(maps, reach, value=outside))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.3, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_binary_opening_is_scipys(
    shape: tuple[int, int], density: float, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "on_cpu", lambda _maps: on_cpu)
    rng = np.random.default_rng(3)
    for _ in range(5):
        mask = rng.random(shape) < density
        found = opening.opening(torch.from_numpy(np.pad(mask, opening.REACH, mode="symmetric")))
        assert found.dtype == torch.bool
        assert (found.numpy() == reference.opened(mask)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_grey_opening_is_scipys(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(4).random(shape).astype(np.float32)
    wide = np.pad(grey, 8, constant_values=np.inf)
    eroded = ndimage.grey_erosion(wide, footprint=reference.DISC, mode="constant", cval=np.inf)
    expected = ndimage.grey_dilation(eroded, footprint=reference.DISC, mode="constant", cval=-np.inf)[8:-8, 8:-8]
    assert (opened(torch.from_numpy(grey), outside=float("inf")).numpy() == expected).all()


def test_what_the_disc_fits_into_stays_and_all_else_goes() -> None:
    mask = np.zeros((30, 30), bool)
    mask[3:7, 3:7] = reference.DISC
    mask[10:13, 3:25] = True  # three lines: too thin for the disc
    mask[20:24, 3:7] = True
    mask[20, 4] = False  # a hole in the rim of the disc
    expected = np.zeros_like(mask)
    expected[3:7, 3:7] = reference.DISC
    assert (opened(torch.from_numpy(mask), outside=False).numpy() == expected).all()


def test_opening_twice_changes_nothing_and_nothing_is_added() -> None:
    mask = torch.rand(50, 50, generator=torch.Generator().manual_seed(5)) < 0.85
    once = opened(mask, outside=True)
    assert bool((once <= mask).all())
    assert torch.equal(opened(once, outside=True), once)


def test_leading_dimensions_are_opened_each_by_itself() -> None:
    masks = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(6)) < 0.9
    together = opening.opening(masks)
    assert together.shape == (2, 3, 14, 14)
    assert torch.equal(together[1, 2], opening.opening(masks[1, 2]))
