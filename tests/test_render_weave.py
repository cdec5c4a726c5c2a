"""The renderer of woven web, and the footage in the repository that it rendered."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
render_weave = importlib.import_module("render_weave")
presets = importlib.import_module("weave.presets")
defects = importlib.import_module("weave.defects")
cloth = importlib.import_module("weave.cloth")
yarns = importlib.import_module("weave.yarns")

SHIPPED = {
    ("plain", "train"): ROOT / "tools/demo/train",
    ("plain", "demo"): ROOT / "tools/demo/plain",
    ("plain", "tests"): ROOT / "tests/footage",
    ("twill", "train"): ROOT / "tools/demo/train-twill",
    ("twill", "demo"): ROOT / "tools/demo/twill",
}
WITH_DEFECTS = [key for key in SHIPPED if presets.PRESETS[key].defects]
KINDS = {"cut", "roughened", "contamination", "metal_pin", "missing_yarn", "broken_yarn"}

Image = npt.NDArray[np.uint8]


def read(folder: Path) -> list[Image]:
    images = [np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in sorted(folder.glob("*.png"))]
    assert images
    assert all(image.ndim == 2 and image.dtype == np.uint8 for image in images)
    return images


def records(key: tuple[str, str]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((SHIPPED[key] / "defects.json").read_text(encoding="utf-8"))
    return listed


def test_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        render_weave.main(["--preset", "tests", "--lines", "400", "--output", str(tmp_path / name)])
    first, second = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("first", "second")
    )
    assert first == second
    assert {str(path) for path in first} == {
        "0000.png",
        "0001.png",
        "masks/0000.png",
        "masks/0001.png",
        "defects.json",
        "README.txt",
    }
    # 400 lines end in the third defect of the preset, which is left out.
    assert [record["kind"] for record in json.loads(first[Path("defects.json")])] == ["cut", "contamination"]


def test_seed_is_another_roll_of_the_same_product() -> None:
    preset = presets.PRESETS["plain", "tests"]
    one, other = (cloth.Web(yarns.Layout(preset.product, seed), 320).render(0, 64) for seed in (1, 2))
    assert np.abs(one.astype(int) - other).mean() > 10
    assert abs(one.mean() - other.mean()) < 10


@pytest.mark.parametrize("arguments", [["--lines", "0"], ["--columns", "-3"], ["--weave", "satin"]])
def test_arguments_that_make_no_web_are_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        render_weave.main(["--preset", "demo", "--output", str(tmp_path / "web"), *arguments])
    assert ended.value.code == 2
    assert not (tmp_path / "web").exists()


@pytest.mark.parametrize("kind", ["contamination", "missing_yarn", "broken_yarn"])
def test_a_look_that_does_not_exist_is_refused(kind: str) -> None:
    layout = yarns.Layout(presets.PRESETS["plain", "tests"].product, 1)
    with pytest.raises(ValueError, match="'velvet'"):
        defects.plant(defects.Planted(kind, 90, 90, 20, 20, look="velvet"), layout)


@pytest.mark.parametrize("weave", ["plain", "twill"])
def test_any_cut_of_the_roll_renders_alike(weave: str) -> None:
    web = presets.PRESETS[weave, "tests"].web()
    bounds = [200, 201, 203, 256, 300, 411, 470]
    pieces = [web.render(first, last - first) for first, last in pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(pieces), web.render(200, 270))


def test_presets_are_rolls_of_one_product() -> None:
    for weave in ("plain", "twill"):
        rolls = [presets.PRESETS[weave, name] for name in ("train", "demo", "tests")]
        assert len({roll.seed for roll in rolls}) == len({roll.product for roll in rolls}) == 3
        for one, other in combinations(rolls, 2):
            for system in ("warp", "weft"):
                ours, theirs = getattr(one.product, system), getattr(other.product, system)
                assert 0.97 < ours.pitch_px / theirs.pitch_px < 1.03
                assert 0.95 < ours.grey / theirs.grey < 1.05
            assert not np.array_equal(one.web().render(0, 32)[:, :320], other.web().render(0, 32)[:, :320])


@pytest.mark.parametrize("key", WITH_DEFECTS)
def test_each_defect_changes_its_mask_and_nothing_else(key: tuple[str, str]) -> None:
    preset = presets.PRESETS[key]
    web = preset.web()
    good = cloth.Web(web.layout, web.columns)
    assert len(web.defects) == len(preset.defects)
    for defect in web.defects:
        alone = cloth.Web(web.layout, web.columns, [defect])
        first = defect.box.first_line - 4
        lines = defect.box.last_line + 5 - first
        change = np.abs(alone.render(first, lines).astype(int) - good.render(first, lines))
        mask = web.mask(defect, first, lines)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
        assert change[~around].max() <= 2, defect.kind
        assert change[mask].mean() > 15, defect.kind
        # A mask far too large would make the defect easy to find: most of it has to lie on changed pixels.
        changed = cv2.dilate((change > 8).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert changed[mask].mean() > 0.6, defect.kind


@pytest.mark.parametrize("key", SHIPPED)
def test_shipped_frames_are_what_the_preset_renders(key: tuple[str, str]) -> None:
    preset = presets.PRESETS[key]
    frames = read(SHIPPED[key])
    assert sum(frame.shape[0] for frame in frames) == preset.lines
    assert {frame.shape for frame in frames} == {(256, preset.columns)}
    # Another libm may round a pixel the other way, hence no comparison of bytes.
    difference = np.abs(preset.web().render(256, 64).astype(int) - frames[1][:64])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize("key", SHIPPED)
def test_shipped_frames_run_on_across_seams(key: tuple[str, str]) -> None:
    frames = [frame.astype(int) for frame in read(SHIPPED[key])]
    inside = np.mean([np.abs(np.diff(frame, axis=0)).mean() for frame in frames])
    # Single seams differ with the phase of the weft that they fall on, hence the means.
    seams = np.mean([np.abs(after[0] - before[-1]).mean() for before, after in pairwise(frames)])
    with_lines_lost = np.mean([np.abs(after[3] - before[-1]).mean() for before, after in pairwise(frames)])
    assert seams < 1.4 * inside < with_lines_lost


@pytest.mark.parametrize("key", WITH_DEFECTS)
def test_shipped_list_is_what_the_masks_show(key: tuple[str, str]) -> None:
    masks = read(SHIPPED[key] / "masks")
    assert [mask.shape for mask in masks] == [frame.shape for frame in read(SHIPPED[key])]
    roll = np.concatenate(masks)
    assert set(np.unique(roll)) == {0, 255}
    _, _, stats, _ = cv2.connectedComponentsWithStats(roll, connectivity=8)
    shown = {
        (top, top + height - 1, left, left + width - 1, area) for left, top, width, height, area in stats[1:].tolist()
    }
    bounds = ("first_line", "last_line", "first_column", "last_column", "area_px")
    assert {tuple(record[name] for name in bounds) for record in records(key)} == shown
    assert len(records(key)) == len(shown)
    for record in records(key):
        assert record["crosses_frames"] is (record["first_line"] // 256 != record["last_line"] // 256)


@pytest.mark.parametrize(("key", "each"), [(("plain", "demo"), 2), (("plain", "tests"), 1), (("twill", "demo"), 2)])
def test_shipped_footage_shows_every_kind(key: tuple[str, str], each: int) -> None:
    counts = Counter(record["kind"] for record in records(key))
    assert set(counts) == KINDS
    assert min(counts.values()) >= each
    assert any(record["crosses_frames"] for record in records(key))


def test_demo_has_a_good_stretch_and_defects_of_a_few_pixels() -> None:
    marked = np.flatnonzero(np.concatenate(read(SHIPPED["plain", "demo"] / "masks")).any(1))
    assert np.diff(marked).max() > 300
    narrow = [
        min(record["last_line"] - record["first_line"], record["last_column"] - record["first_column"]) + 1
        for record in records(("plain", "demo"))
    ]
    assert sum(width <= 7 for width in narrow) >= 4
