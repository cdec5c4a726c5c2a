"""linescan evaluate: metrics, plots and the page, and a clear word where the ground truth does not fit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from linescan.cli.main import main
from linescan.config import ImageBand, SsimSettings
from linescan.footage import write_image
from linescan.models.runner import Execution, Runner
from linescan.recipe import load_setup
from linescan.training.inspected import inspect_images
from tests.conftest import RUN, blot, leftovers, plain, read_image, toy_bundle

Set = tuple[Path, Path]
SIZE = 10


def write_mask(path: Path, *corners: tuple[int, int], shape: tuple[int, int] = (80, 64)) -> None:
    mask = np.zeros(shape, np.uint8)
    for line, column in corners:
        mask[line : line + SIZE, column : column + SIZE] = 255
    write_image(path, mask)


@pytest.fixture
def images(tmp_path: Path) -> Set:
    """Three images: one defect, two defects, and one defect that is only in the mask."""
    folder, masks = tmp_path / "images", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    write_image(folder / "a.png", blot(plain(80, 64, 0), 30, 20, SIZE))
    write_mask(masks / "a.png", (30, 20))
    write_image(folder / "b.png", blot(blot(plain(80, 64, 1), 10, 10, SIZE), 50, 40, SIZE))
    write_mask(masks / "b_mask.png", (10, 10), (50, 40))
    write_image(folder / "c.png", plain(80, 64, 2))
    write_mask(masks / "c.png", (20, 20))
    return folder, masks


def evaluate(images: Set, model: Path, output: Path, *arguments: object) -> int:
    folder, masks = images
    return main(
        ["evaluate", "--images", str(folder), "--masks", str(masks), "--model", str(model), "--output", str(output),
         *RUN, *map(str, arguments)]
    )  # fmt: skip


def metrics_of(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "metrics.json").read_text()))


# ------------------------------------------------------------------------------------------------ what it writes


def test_metrics_plots_and_page(images: Set, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert evaluate(images, toy, out) == 0
    metrics = metrics_of(out)
    assert metrics.keys() >= {
        "auroc", "pro", "overlap", "threshold", "at_threshold", "images", "model", "model_sha256", "settings",
    }  # fmt: skip
    assert 0.5 < metrics["auroc"] <= 1
    assert 0 < metrics["pro"] <= 1
    assert metrics["overlap"].keys() >= {"0.01", "0.05", "0.3"}
    assert metrics["overlap"]["0.05"].keys() == {"q25", "q50", "q75"}
    assert metrics["images"] == 3
    counts = metrics["at_threshold"]
    assert (counts["defects"], counts["found"], counts["false_regions"]) == (4, 3, 0)
    for name in ("roc.png", "overlap.png", "contact.png"):
        assert read_image(out / name).size > 10_000
    page = (out / "index.html").read_text()
    assert page.count("<img") == 3
    assert f"{metrics['auroc']:.4f}"[:5] in page
    assert leftovers(out) == []
    printed = capsys.readouterr().out
    assert "3 images: AUROC" in printed
    assert "3 of 4 defects found, 0 false regions" in printed


def test_good_images_count_as_good(images: Set, toy: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for number in range(2):
        write_image(good / f"{number}.png", blot(plain(80, 64, 9), 20, 20, SIZE) if number else plain(80, 64, 8))
    assert evaluate(images, toy, tmp_path / "out", "--good", good) == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["images"] == 5
    counts = metrics["at_threshold"]
    assert (counts["defects"], counts["false_regions"]) == (4, 1)  # what is reported on good web is false
    assert counts["false_regions_per_megapixel"] == pytest.approx(1 / (5 * 80 * 64 / 1e6), rel=1e-3)


def test_only_the_columns_asked_for_count(images: Set, toy: Path, tmp_path: Path) -> None:
    assert evaluate(images, toy, tmp_path / "out", "--columns", "36:") == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["settings"]["columns"] == [36, 64]
    assert (metrics["at_threshold"]["defects"], metrics["at_threshold"]["found"]) == (1, 1)


def test_what_was_not_inspected_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A defect that nobody looked at would else be missing from found and from all alike."""
    folder, masks = tmp_path / "images", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    image = blot(plain(160, 64, 0), 30, 20, SIZE)
    image[100:] = 0
    write_image(folder / "a.png", image)
    write_mask(masks / "a.png", (30, 20), (130, 40), shape=(160, 64))
    model = toy_bundle(tmp_path / "banded.pt", band=ImageBand(mean_low=0.2))
    assert evaluate((folder, masks), model, tmp_path / "out") == 0
    counts = metrics_of(tmp_path / "out")["at_threshold"]
    assert (counts["defects"], counts["found"], counts["defects_not_inspected"]) == (1, 1, 1)
    assert 50 < counts["lines_in_gaps"] <= 80
    said = capsys.readouterr().out
    assert f"none of these figures: {counts['lines_in_gaps']} lines, and 1 defects" in said


def test_a_scaled_model_is_scored_on_the_images_own_pixels(tmp_path: Path) -> None:
    half = toy_bundle(tmp_path / "half.pt", scale=2)
    folder, masks = tmp_path / "images", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    write_image(folder / "a.png", blot(plain(101, 77), 40, 30, 20))
    mask = np.zeros((101, 77), np.uint8)
    mask[40:60, 30:50] = 1  # any value but 0
    write_image(masks / "a.png", mask)
    assert evaluate((folder, masks), half, tmp_path / "out") == 0
    counts = metrics_of(tmp_path / "out")["at_threshold"]
    assert (counts["defects"], counts["found"], counts["false_regions"]) == (1, 1, 0)


def test_colour_images(tmp_path: Path) -> None:
    model = toy_bundle(tmp_path / "rgb.pt", channels=3)
    folder, masks = tmp_path / "images", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    write_image(folder / "a.png", np.stack([blot(plain(80, 64, i), 30, 20, SIZE) for i in range(3)], 2))
    write_mask(masks / "a.png", (30, 20))
    assert evaluate((folder, masks), model, tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["at_threshold"]["found"] == 1


def test_pages_of_a_stack_have_masks_of_their_own(toy: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    pages = np.stack([blot(plain(80, 64, 0), 30, 20, SIZE), blot(plain(80, 64, 1), 10, 40, SIZE)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    write_mask(masks / "stack.png", (30, 20))
    assert evaluate((tmp_path / "stack.tif", masks), toy, tmp_path / "out") == 65  # whose would it be?
    write_mask(masks / "stack-0.png", (30, 20))
    write_mask(masks / "stack-1.png", (10, 40))
    assert evaluate((tmp_path / "stack.tif", masks), toy, tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["at_threshold"]["found"] == 2


# ------------------------------------------------------------------------------------------------ refusals


def remove_mask(folder: Path, masks: Path) -> None:
    (masks / "c.png").unlink()


def shrink_mask(folder: Path, masks: Path) -> None:
    write_mask(masks / "c.png", shape=(80, 63))


def empty_mask(folder: Path, masks: Path) -> None:
    (masks / "c.png").write_bytes(b"")


def garble_mask(folder: Path, masks: Path) -> None:
    (masks / "c.png").write_bytes(b"no image")


def blank_masks(folder: Path, masks: Path) -> None:
    for path in masks.iterdir():
        write_mask(path)


def fill_masks(folder: Path, masks: Path) -> None:
    for path in masks.iterdir():
        write_image(path, np.full((80, 64), 255, np.uint8))


def garble_image(folder: Path, masks: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:-30])


def colour_images(folder: Path, masks: Path) -> None:
    for path in folder.iterdir():
        write_image(path, np.random.default_rng(0).integers(0, 255, (80, 64, 3), np.uint8))


def remove_masks(folder: Path, masks: Path) -> None:
    masks.rename(masks.with_name("elsewhere"))


def remove_images(folder: Path, masks: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (remove_mask, "c.png has no mask: a file named c.* was expected"),
        (shrink_mask, "masks/c.png: the mask is 63×80, its image 64×80"),
        (empty_mask, "masks/c.png: the mask cannot be read"),
        (garble_mask, "masks/c.png: the mask cannot be read"),
        (blank_masks, "masks: no mask in it has a defect"),
        (fill_masks, "no good pixel"),
        (garble_image, "b.png is cut off"),
        (colour_images, "the footage has 3 channels"),
        (remove_masks, "masks: a folder of masks was expected"),
        (remove_images, "the folder has none"),
    ],
)
def test_a_set_that_does_not_fit(
    images: Set, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[..., None], said: str
) -> None:
    spoil(*images)
    assert evaluate(images, toy, tmp_path / "out") == 65
    error = capsys.readouterr().err
    assert error.startswith("linescan evaluate: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--columns", "0:65"), 2, "columns 0:65 are asked for, the footage has 64"),
        (("--stride", "0"), 2, "stride = 0"),
        (("--good", "/nowhere"), 65, "/nowhere"),
        (("--batch", "-2"), 2, "batch -2"),
    ],
)
def test_arguments_that_do_not_fit(
    images: Set,
    toy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert evaluate(images, toy, tmp_path / "out", *arguments) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(images: Set, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert evaluate(images, toy, tmp_path / "out") == 2
    assert "the folder cannot be made" in capsys.readouterr().err


def test_ctrl_c_ends_the_evaluation(images: Set, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = Runner.reconstruct

    def call(self: Runner, *work: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(self, *work)

    with patch.object(Runner, "reconstruct", call):
        assert evaluate(images, toy, tmp_path / "out") == 130
    assert capsys.readouterr().err == "linescan evaluate: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_a_mask_may_be_of_another_kind_than_its_image(images: Set, toy: Path, tmp_path: Path) -> None:
    _, masks = images
    (masks / "c.png").unlink()
    mask: NDArray[Any] = np.zeros((80, 64, 3), np.uint8)
    mask[20:30, 20:30] = (0, 0, 255)
    (masks / "c.bmp").write_bytes(cv2.imencode(".bmp", mask)[1].tobytes())
    (masks / ".hidden.png").write_bytes(b"")
    assert evaluate(images, toy, tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["at_threshold"]["defects"] == 4


# ------------------------------------------------------------------------------------------------ opened, and apart


@pytest.mark.parametrize("scale", [1, 2])
def test_the_opened_score_above_a_threshold_is_the_opened_mask(tmp_path: Path, scale: int) -> None:
    model = toy_bundle(tmp_path / "M.pt", scale=scale)
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_image(folder / "a.png", blot(plain(83, 71), 30, 20, 3 * SIZE) + rng.integers(0, 40, (83, 71), np.uint8))
    runner = None
    for quantile in (0.3, 0.6, 0.9):
        setup = load_setup(model, columns=(5, 68))
        runner = runner or Runner(setup.bundle, Execution("cpu", "float32", 8, 1))
        (first,) = inspect_images([str(folder)], setup, runner)
        threshold = float(np.nanquantile(first.score, quantile))
        (result,) = inspect_images([str(folder)], load_setup(model, columns=(5, 68), threshold=threshold), runner)
        inspected = np.isfinite(result.score)
        assert inspected[:, 5:68].all()
        assert not inspected[:, :5].any()
        assert result.opened.any()
        assert not result.opened[inspected].all()
        assert np.array_equal(result.opened_score[inspected] > threshold, result.opened[inspected])


def test_opened_metrics_and_curves(images: Set, toy: Path, tmp_path: Path) -> None:
    assert evaluate(images, toy, tmp_path / "out") == 0
    metrics = metrics_of(tmp_path / "out")
    assert 0.5 < metrics["auroc_opened"] <= 1
    assert metrics["auroc_opened"] != metrics["auroc"]
    assert 0 < metrics["pro_opened"] <= 1
    assert metrics["overlap_opened"].keys() == metrics["overlap"].keys()
    curves = json.loads((tmp_path / "out/curves.json").read_text())
    for kind, suffix in (("score", ""), ("opened", "_opened")):
        fpr, tpr = (np.array(curves[kind]["roc"][name]) for name in ("fpr", "tpr"))
        area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
        assert area == pytest.approx(metrics[f"auroc{suffix}"], abs=5e-3)
        assert curves[kind]["overlap"]["regions"] == 4
        assert len(curves[kind]["overlap"]["overlap"]) == 3


def test_components_apart(images: Set, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = toy_bundle(tmp_path / "M.pt", method="ssim", ssim=SsimSettings(window=5), threshold=0.9)
    assert evaluate(images, model, tmp_path / "plain") == 0
    assert not (tmp_path / "plain/components.png").exists()
    assert evaluate(images, model, tmp_path / "out", "--components") == 0
    assert read_image(tmp_path / "out/components.png").size > 10_000
    assert "components.png" in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_product_of_the_components_is_what_the_engine_scores(tmp_path: Path, channels: int) -> None:
    ssim = SsimSettings(window=5, beta=2, gamma=1)
    model = toy_bundle(tmp_path / "M.pt", method="ssim", ssim=ssim, threshold=0.9, channels=channels)
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = blot(plain(50, 40), 20, 10, SIZE)
    write_image(folder / "a.png", pixels if channels == 1 else np.stack([pixels] * 3, 2))
    setup = load_setup(model)
    (result,) = inspect_images([str(folder)], setup, Runner(setup.bundle, Execution("cpu", "float32", 8, 1)), True)
    parts = result.components
    assert list(parts) == ["luminance", "contrast", "structure", "ssim"]
    assert np.allclose(parts["ssim"], result.score, atol=1e-5)
    luminance, contrast, structure = (1 - parts[name] for name in ("luminance", "contrast", "structure"))
    assert np.allclose(luminance * contrast**2 * structure, 1 - result.score, atol=1e-4)
