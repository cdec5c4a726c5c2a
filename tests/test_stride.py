"""The stride that training recommends, what it is measured by, and the tool that measures it on real defects."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from linescan.cli.main import main
from linescan.config import ImageBand, InspectionSettings
from linescan.errors import InspectionError
from linescan.footage import write_image
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from linescan.recipe import inspection_settings
from linescan.training.calibrate import good_scores
from linescan.training.dataset import GoodImages
from linescan.training.matched import Matched
from linescan.training.remembered import Remembered
from linescan.training.stride import SHARES, STRIDES, choose_stride, strides_for
from linescan.training.synthetic import pasted_web
from linescan.training.trial import MOST_CELLS, Scores, Trial
from tests.conftest import TINY, TOY_PATCH, Blind, Smooth, blot, plain, toy_bundle

CPU = torch.device("cpu")


class Grey(nn.Module):
    """Knows nothing but the web's grey: its patches fit together wherever they lie."""

    def forward(self, patches: Tensor) -> Tensor:
        return torch.full_like(patches, 120 / 255)


class Restless(nn.Module):
    """As Grey, with a few errors that are others in every patch: only many patches over a pixel average them out."""

    def forward(self, patches: Tensor) -> Tensor:
        noise = nn.functional.avg_pool2d(patches.flip(-1, -2) - 120 / 255, 5, 1, 2)
        return 120 / 255 + 0.3 * (noise > 0.004).to(patches.dtype)


def held_out(*stretches: np.ndarray) -> GoodImages:  # type: ignore[type-arg]
    return GoodImages((), (), stretches, "", 8, ImageBand())


def toy_runner(path: Path, model: nn.Module) -> tuple[Runner, InspectionSettings]:
    bundle = load_bundle(toy_bundle(path / "toy.pt", model, blend="hann", smoothing_sigma=1.0))
    return Runner(bundle, Execution("cpu", "float32", 8, 1)), inspection_settings(bundle, {}, "toy")


# ------------------------------------------------------------------------------------------------ one set of forwards


@pytest.mark.parametrize("kept_bytes", [1 << 20, 3 * 8 * TOY_PATCH**2 * 4, 0])
def test_remembered_forwards_change_nothing(tmp_path: Path, kept_bytes: int) -> None:
    """With room for all of them, for some and for none."""
    runner, settings = toy_runner(tmp_path, Smooth())
    web = blot(plain(90, 70), 30, 30)
    ways = [
        settings.model_copy(update={"smoothing_sigma": sigma, "blend": blend})
        for sigma in (0.0, 2.0)
        for blend in ("mean", "hann")
    ]
    expected = [good_scores([[web]], way, runner, 8, CPU)[0] for way in ways]
    alone = runner.patches // len(ways)
    before, shared = runner.patches, Remembered(runner, kept_bytes)
    for way, score in zip(ways, expected, strict=True):
        shared.again()
        np.testing.assert_array_equal(good_scores([[web]], way, shared, 8, CPU)[0], score)
    assert (runner.patches - before == alone) == (kept_bytes == 1 << 20)


def test_another_grid_is_no_repetition(tmp_path: Path) -> None:
    runner, settings = toy_runner(tmp_path, Smooth())
    shared = Remembered(runner)
    good_scores([[plain(90, 70)]], settings, shared, 8, CPU)
    shared.again()
    with pytest.raises(InspectionError, match="not the same web or grid"):
        good_scores([[plain(90, 70)]], settings.model_copy(update={"stride": 14}), shared, 8, CPU)


# ------------------------------------------------------------------------------------------------ the trial


def test_blots_lie_everywhere_in_their_cells() -> None:
    """In the middle of each, a stride that divides the cell would see them all alike."""
    web = pasted_web(plain(512, 512), 8, 64, 0, np.random.default_rng(0))
    places = np.array([(top + end - 1, left + right - 1) for top, end, left, right in web.blots]) // 2 % 64
    assert len(web.blots) == 64
    assert len(np.unique(places[:, 0] // 8)) == len(np.unique(places[:, 1] // 8)) == 8
    for number, (top, end, left, right) in enumerate(web.blots):
        line, column = number // 8 * 64, number % 8 * 64
        assert line <= top < end <= line + 64
        assert column <= left < right <= column + 64


def test_of_much_web_a_bounded_part_is_tried() -> None:
    settings = InspectionSettings(patch_size=16, threshold=1, stride=4)
    for stretches in ([plain(4096, 80)], [plain(48, 160) for _ in range(200)], [plain(16, 16 * 600)]):
        trial = Trial(held_out(*stretches), settings)
        cells = sum(len(web.blots) for web in trial._pasted)
        assert MOST_CELLS / 2 <= cells <= max(MOST_CELLS, 600)
    few = Trial(held_out(plain(32, 48)), settings)
    assert sum(len(web.blots) for web in few._pasted) == 8 * 6  # of little web, several rounds


def test_heights_are_over_the_share_of_good_web_that_is_reported() -> None:
    score = np.zeros((100, 100), np.float32)
    score[:10, :10] = 2  # 1 % of the web, and it withstands the opening
    peaks = np.array([1.0, 4.0])
    ratios = Scores((score,), peaks, 1).over((0.02, 0.001))
    assert ratios.shape == (2, 2)
    assert (ratios[0] > 1).all()
    assert ratios[1].tolist() == [0.5, 2.0]


# ------------------------------------------------------------------------------------------------ the choice


def test_strides_keep_the_paper_s_proportion() -> None:
    assert strides_for(128) == STRIDES
    assert strides_for(256) == tuple(2 * stride for stride in STRIDES)
    for size in range(16, 513, 16):
        assert all(1 <= stride < size for stride in strides_for(size))


def test_where_the_overlap_does_not_matter_the_largest_stride_is_taken(tmp_path: Path) -> None:
    runner, settings = toy_runner(tmp_path, Grey())
    choice = choose_stride(Trial(held_out(plain(128, 128)), settings), settings, runner, False)
    assert choice.stride == strides_for(TOY_PATCH)[-1]
    assert [one.stride for one in choice.measured] == list(strides_for(TOY_PATCH))
    assert f"{choice.stride}: " in choice.table()
    assert choice.table().count("taken") == 1


def test_where_the_overlap_averages_errors_out_the_stride_stays_small(tmp_path: Path) -> None:
    runner, settings = toy_runner(tmp_path, Restless())
    choice = choose_stride(Trial(held_out(plain(128, 128)), settings), settings, runner, False)
    first, last = choice.measured[0], choice.measured[-1]
    assert choice.stride < last.stride
    assert sum(last.found) < sum(first.found)
    assert last.height < 0.95
    assert choice.metrics[f"stride_{last.stride}_height"] == last.height
    assert choice.metrics[f"stride_{first.stride}_found_at_{SHARES[1]:g}"] == first.found[1]


def test_a_model_that_sees_nothing_keeps_the_smallest_stride(tmp_path: Path) -> None:
    runner, settings = toy_runner(tmp_path, Blind())
    choice = choose_stride(Trial(held_out(plain(64, 64)), settings), settings, runner, True)
    assert choice.stride == strides_for(TOY_PATCH)[0]
    assert len(choice.measured) == 1
    assert "too few are found" in choice.table()


def test_the_command_measures_the_stride_unless_told_one(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = (*TINY, "--patch-size", "16", "--epochs", "2", "--patches", "64", "--latent", "4", "--method", "l2")
    common = ("train", "--images", str(good_footage), *few, "--false-alarms", "100")
    assert main([*common, "--output", str(tmp_path / "measured.pt")]) == 0
    said = capsys.readouterr().out
    metadata = load_bundle(tmp_path / "measured.pt").metadata
    assert f"{metadata.stride}: " in next(line for line in said.splitlines() if line.endswith(", taken"))
    assert metadata.metrics["stride_pasted_defects"] > 0
    assert metadata.metrics["stride_4_height"] == 1.0
    for asked, expected in ((("--stride", "9"), 9), (("--preset", "paper", "--patch-size", "32"), 30)):
        path = tmp_path / f"{expected}.pt"
        assert main([*common, "--output", str(path), *asked]) == 0
        metadata = load_bundle(path).metadata
        assert metadata.stride == expected
        assert not [name for name in metadata.metrics if name.startswith("stride_")]
        assert "pasted" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ regions beside others


def test_regions_are_matched_by_what_they_have_in_common() -> None:
    def mask(*squares: tuple[int, int, int]) -> np.ndarray:  # type: ignore[type-arg]
        drawn = np.zeros((100, 100), bool)
        for line, column, size in squares:
            drawn[line : line + size, column : column + size] = True
        return drawn

    matched = Matched()
    reference = mask((10, 10, 10), (50, 50, 20), (80, 10, 5))
    matched.add(reference, mask((10, 13, 10), (50, 50, 10), (65, 65, 4), (5, 80, 6)), mask((0, 0, 75)))
    assert (matched.reference, matched.met, matched.regions, matched.new) == (3, 2, 4, 1)
    assert matched.iou == pytest.approx([70 / 130, 100 / 400])  # of two in one place, the larger is the partner
    assert matched.distance_px == pytest.approx([3, np.hypot(5, 5)])
    assert matched.area_ratio == pytest.approx([1, 1 / 4])
    assert matched.as_dict()["distance_px"][1] == pytest.approx((3 + np.hypot(5, 5)) / 2, abs=1e-3)
    assert Matched().as_dict()["iou"] is None


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parent.parent / "tools" / "measure_stride.py"
    spec = importlib.util.spec_from_file_location("measure_stride", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_compares_every_way_with_the_reference(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = toy_bundle(tmp_path / "toy.pt", smoothing_sigma=1.0)
    for folder in ("images", "masks", "good"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        web, nothing = plain(60, 80, number), np.zeros((60, 80), np.uint8)
        write_image(tmp_path / "images" / f"{number}.png", blot(web, 20, 30 + 5 * number))
        write_image(tmp_path / "masks" / f"{number}.png", blot(nothing, 20, 30 + 5 * number))
        write_image(tmp_path / "good" / f"{number}.png", plain(60, 80, 7 + number))
    arguments = [
        *("--model", str(bundle), "--calibrate-on", str(tmp_path / "good"), "--masks", str(tmp_path / "masks")),
        *("--images", *map(str, sorted((tmp_path / "images").iterdir())), "--false-alarms", "50"),
        *("--good", *map(str, sorted((tmp_path / "good").iterdir())), "--column-calibration", "no", "yes"),
        *("--strides", "4", "14", "--output", str(tmp_path / "out"), "--batch", "8", "--threads", "1"),
    ]
    assert tool.main([*arguments, "--precision", "float32", "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "out/stride.json").read_text())
    rows = result["rows"]
    assert len(rows) == 2 * 2 * 2 * 2  # strides, blends, σ, with and without column calibration
    assert {row["defects"] for row in rows} == {2}
    for row in rows:
        against = row["against_reference"]
        assert row["auroc"] > 0.9
        if (row["stride"], row["blend"]) == (4, "mean"):
            assert against["iou"] == [1, 1, 1]
            assert (row["lost"], row["gained"], against["new"]) == (0, 0, 0)
    assert rows[0]["patches_per_megapixel"] > 5 * rows[-1]["patches_per_megapixel"]
    assert (tmp_path / "out/stride.md").read_text() in capsys.readouterr().out
    (tmp_path / "masks/1.png").unlink()
    assert tool.main([*arguments, "--precision", "float32", "--device", "cpu"]) == 2
    assert "no mask for" in capsys.readouterr().err
    write_image(tmp_path / "masks/1.png", nothing[:40])
    assert tool.main([*arguments, "--precision", "float32", "--device", "cpu"]) == 65
    assert "1.png: the mask is (40, 80)" in capsys.readouterr().err
