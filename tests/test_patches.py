"""The patch grid: anchors, reflection, and what the patches add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linescan.config import Blend
from linescan.inspection.patches import PatchRow, anchors, blend_weights, mirrored, reflected, take
from tests import reference


@pytest.mark.parametrize("patch_size", [1, 2, 16])
def test_anchors_cover_every_pixel_and_the_last_one_ends_with_the_axis(patch_size: int) -> None:
    for stride in range(1, patch_size + 1):
        for length in range(patch_size, 5 * patch_size + 2):
            found = anchors(length, patch_size, stride)
            assert found == reference.anchors(length, patch_size, stride)
            assert found[-1] == length - patch_size
            assert {x for anchor in found for x in range(anchor, anchor + patch_size)} == set(range(length))


def test_a_web_narrower_than_a_patch_has_one() -> None:
    assert [anchors(length, 16, 5) for length in (1, 15, 16)] == [[0]] * 3


@pytest.mark.parametrize("length", range(1, 24))
def test_reflection_is_numpys_repeated_as_often_as_needed(length: int) -> None:
    for before, after in ((0, 50), (50, 0), (1, 1), (7, 3)):
        row = np.arange(length)
        # one side after the other: numpy < 2 errs where both need more than one reflection
        wide = np.pad(row, (0, after), mode="reflect")
        mirrored = np.pad(row, (before, 0), mode="reflect")[:before]
        expected = [*mirrored.tolist(), *wide.tolist()]
        assert reflected(-before, length + after, length) == expected
        assert [reference.mirror(i, length) for i in range(-before, length + after)] == expected


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
def test_mirroring_repeats_the_border(length: int) -> None:
    for before, after in ((0, 30), (30, 0), (3, 3)):
        row = np.arange(length)
        wide = np.pad(row, (0, after), mode="symmetric")
        mirror = np.pad(row, (before, 0), mode="symmetric")[:before]
        assert mirrored(-before, length + after, length) == [*mirror.tolist(), *wide.tolist()]


def test_take_gives_the_chosen_rows_or_columns() -> None:
    maps = torch.arange(60).reshape(2, 5, 6)
    for indices in ([0, 1, 2], [3], [4, 3, 2], [1, 1], [0, 2, 4]):
        assert torch.equal(take(maps, 1, indices), maps[:, indices])
        assert torch.equal(take(maps, -1, indices), maps[:, :, indices])
    assert take(maps, 1, [1, 2]).data_ptr() == maps[:, 1:3].data_ptr()


@pytest.mark.parametrize("patch_size", [16, 32])
def test_blend_weights_are_those_of_the_design(patch_size: int) -> None:
    assert torch.equal(blend_weights("mean", patch_size), torch.ones(patch_size, patch_size))
    window = np.hanning(patch_size + 2)[1:-1]
    hann = blend_weights("hann", patch_size)
    np.testing.assert_allclose(hann.numpy(), np.outer(window, window) + 0.001, rtol=1e-6)
    assert float(hann.min()) > 0.001


@pytest.mark.parametrize("blend", ["mean", "hann"])
@pytest.mark.parametrize("columns", [1, 7, 16, 17, 40, 47])
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_patches_cut_and_added_back_are_the_web(blend: Blend, columns: int, stride: int) -> None:
    row = PatchRow(columns, 16, stride, blend, torch.device("cpu"))
    web = torch.rand(3, 16, columns, generator=torch.Generator().manual_seed(8))
    patches = torch.full((len(row), 3, 16, 16), torch.nan)
    row.cut(web, patches)
    wide = reference.padded(web.numpy(), 0, 0, 0, max(16 - columns, 0))
    for anchor, patch in zip(row.anchors, patches, strict=True):
        assert (patch.numpy() == wide[:, :, anchor : anchor + 16]).all()
    total = torch.zeros(3, 16, row.width)
    weighted = row.weigh(patches)
    row.add(weighted, total)
    by_blocks = torch.zeros(3, 16, row.width)
    row._add_by_blocks(weighted, by_blocks, 0)
    assert torch.equal(by_blocks, total)  # as a device adds them
    for first in range(1, len(row)):
        one, other = torch.zeros_like(total), torch.zeros_like(total)
        row.add(weighted[first:], one, first)
        row._add_by_blocks(weighted[first:], other, first)
        assert torch.equal(one, other)
    torch.testing.assert_close((total / row.weight_sum)[..., :columns], web, rtol=1e-5, atol=1e-6)
