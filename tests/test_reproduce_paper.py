"""tools/reproduce_paper.py on small sets drawn here: what it writes, what it keeps, and what it says."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from linescan.footage import write_image
from linescan.training import smoothing
from linescan.training.train import Trainer
from tests.conftest import blot, read_image, weave

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
reproduce_paper = importlib.import_module("reproduce_paper")
figures = importlib.import_module("paper.figures")
sets = importlib.import_module("paper.sets")
tables = importlib.import_module("paper.tables")
toys = importlib.import_module("paper.toys")

SMALL = ("--epochs", "1", "--patches", "16", "--batch", "16", "--precision", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three sets in small: two good images, two with a defect each, one good for the test."""
    root = tmp_path_factory.mktemp("data")
    for name, shape in (("nanotwice", (272, 136)), ("mvtec_grid_512", (512, 264)), ("aitex_f02", (256, 800))):
        for part in ("train/good", "test/defect", "test/good", "ground_truth"):
            (root / name / part).mkdir(parents=True)
        for number in range(2):
            write_image(root / name / "train/good" / f"{number}.png", weave(*shape, seed=number))
            size = 24 - 8 * number
            corner = (100, shape[1] - 90)
            spoilt = blot(weave(*shape, seed=5 + number), *corner, size, 255 if number else 130)
            write_image(root / name / "test/defect" / f"{number}.png", spoilt)
            write_image(root / name / "ground_truth" / f"{number}.png", blot(np.zeros(shape, np.uint8), *corner, size))
        write_image(root / name / "test/good" / "9.png", weave(*shape, seed=9))
    (root / "aitex_f02/defects.csv").write_text("image,backdrop\n0,white\n1,dark\n")
    return root


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with patch.object(tables, "TIMED_SECONDS", 0.05), patch.object(tables, "TIMED_IMAGES", 1):
        yield


def reproduce(data: Path, out: Path, *arguments: str) -> int:
    return int(reproduce_paper.main([*arguments, "--data", str(data), "--out", str(out), *SMALL]))


def results(out: Path, name: str) -> Any:
    return json.loads((out / f"{name}.json").read_text())["results"]


# ------------------------------------------------------------------------------------------------ without a training


def test_fig2_the_same_to_l2_and_each_seen_by_its_own_part(data: Path, tmp_path: Path) -> None:
    assert reproduce(data, tmp_path, "fig2") == 0
    found = results(tmp_path, "fig2")
    assert list(found) == ["luminance", "contrast", "structure"]
    for own, parts in found.items():
        assert parts["squared"] == pytest.approx(0.25)
        assert parts[own] < 0.01
        assert all(parts[other] > 0.9 for other in found if other != own)
    assert read_image(tmp_path / "fig2.png").size > 10_000
    text = (tmp_path / "fig2.md").read_text()
    assert "python tools/reproduce_paper.py fig2 --data" in text
    assert "Seed 0; " in text
    assert "Not the paper's schedule" not in text  # nothing was trained


def test_a_checkerboard_is_what_it_says() -> None:
    board = toys._board(128, 16, 0, np.zeros(2))
    assert sorted(np.unique(board.round(4)).tolist()) == pytest.approx([0.1, 0.9])
    assert (board[:16, :16] == board[0, 0]).all()
    assert (board[:16, 16:32] != board[0, 0]).all()
    turned = toys._board(128, 16, 30, np.zeros(2))
    assert 0.4 < float(turned.mean()) < 0.6
    spoilt, defect = toys._spoilt(board)
    assert (spoilt[defect] == np.float32(0.5)).all()
    assert np.array_equal(spoilt[~defect], board[~defect])
    assert 0.01 < defect.mean() < 0.1


def test_the_highest_and_the_lowest_contrast_are_chosen_by_the_ground_truth(data: Path) -> None:
    web = sets.grid(data, 256)
    contrasts = {path.name: contrast for contrast, path in figures._contrasts(web)}
    assert contrasts["1.png"] > 2
    assert contrasts["0.png"] < 0.5


# ------------------------------------------------------------------------------------------------ trained


def test_fig7_is_computed_once_and_says_that_it_is_reduced(
    data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(data, out, "fig7") == 0
    assert read_image(out / "fig7.png").size > 10_000
    text = (out / "fig7.md").read_text()
    assert "**Not the paper's schedule:** 1 epochs instead of 200, 16 patches instead of 10000." in text
    first = json.loads((out / "fig7.json").read_text())
    (bundle,) = (out / "models").glob("nanotwice-ssim-*.pt")
    before = bundle.stat().st_mtime_ns
    capsys.readouterr()
    with patch.object(Trainer, "fit", side_effect=AssertionError("trained again")):
        assert reproduce(data, out, "fig7") == 0
    assert "evaluating" not in capsys.readouterr().out
    assert bundle.stat().st_mtime_ns == before
    assert json.loads((out / "fig7.json").read_text()) == first


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    whole = Trainer._validate

    def stop(self: Trainer, number: int, loss: float) -> Any:
        if number == 2:
            raise StoppedError
        return whole(self, number, loss)

    arguments = ("fig7", "--data", str(data), "--out", str(tmp_path), *SMALL[2:], "--epochs", "2")
    with patch.object(Trainer, "_validate", stop):
        assert reproduce_paper.main(arguments) == 70
    epochs: list[int] = []

    def watched(self: Trainer, number: int, loss: float) -> Any:
        epochs.append(number)
        return whole(self, number, loss)

    with patch.object(Trainer, "_validate", watched):
        assert reproduce_paper.main(arguments) == 0
    assert epochs == [2]


def test_other_settings_are_other_models(data: Path, out: Path) -> None:
    assert reproduce(data, out, "fig7", "--seed", "3", "--limit", "1") == 0
    assert len(list((out / "models").glob("nanotwice-ssim-*.pt"))) >= 2
    assert "only the first 1 test images of each set" in (out / "fig7.md").read_text()


@pytest.mark.slow
def test_fig6_goes_on_without_a_system_that_cannot_be_measured(
    data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch("torch.hub.get_dir", return_value=str(out)):
        assert reproduce(data, out, "fig6a", "fig6b", "fig6c") == 0
    for part, web in (("a", "nanotwice"), ("b", "grid256"), ("c", "grid512")):
        found = results(out, f"fig6{part}")
        assert found.keys() == {"l2", "vae", "ssim", "missing"}
        assert list(found["missing"]) == ["fm"]
        assert 0 <= found["vae"]["auroc_opened"] <= 1
        text = (out / f"fig6{part}.md").read_text()
        assert "| feature matching | not measured |" in text
        assert "--method fm needs AlexNet" in text
        assert len(list((out / "models").glob(f"{web}-*.pt"))) >= 3
    assert "0.966" in (out / "fig6a.md").read_text()
    assert "0.966" not in (out / "fig6b.md").read_text()
    assert "feature matching: not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_panels_runtime_and_the_strips(data: Path, out: Path) -> None:
    shown: list[tuple[str, int]] = []
    real = figures._panels

    def watched(result: Any, defect: Any, *rest: Any) -> Any:
        shown.append((result.name, int(defect.sum())))
        return real(result, defect, *rest)

    with patch.object(smoothing, "SIGMAS", (0.0, 2.0)), patch.object(sets, "FABRIC_COLUMNS", (512, 800)):
        assert reproduce(data, out, "fig1", "fig5", "aitex", "runtime") == 0
        with patch.object(figures, "_panels", watched):
            assert reproduce(data, out, "fig8") == 0
    # "1.png" was chosen before "0.png", and images are read by name: each comes with its own mask all the same
    masks = {f"{i}.png": read_image(data / "mvtec_grid_512/ground_truth" / f"{i}.png") for i in range(2)}
    assert {name for name, _ in shown} == set(masks)
    assert all(pixels == (masks[name] > 0).sum() for name, pixels in shown)
    for name in ("fig1", "fig5", "fig8"):
        assert read_image(out / f"{name}.png").size > 50_000
    assert list(results(out, "fig8")) == ["1.png", "0.png"]
    assert results(out, "fig5").keys() == {"grid256", "aitex"}
    strips = results(out, "aitex")
    assert all(found["defects"] == 1 for found in strips.values())  # the one with a white backdrop
    assert {"l2, paper preset", "ssim, paper preset", "ssim, default preset"} <= strips.keys()
    times = results(out, "runtime")
    assert times["one patch"]["batch"] == 1
    assert times["image_s"] > 0


@pytest.mark.slow
def test_table2_and_the_checkerboard(data: Path, out: Path) -> None:
    with (
        patch.object(tables, "LATENT", {50: 0.848}),
        patch.object(tables, "WINDOW", {3: 0.889, 11: 0.966}),
        patch.object(tables, "PATCH", {32: 0.949}),
    ):
        assert reproduce(data, out, "table2", "fig3") == 0
    assert list(results(out, "table2")) == ["d = 50", "K = 3", "K = 11", "P = 32"]
    assert set(results(out, "fig3")) == {"squared error", "1 − luminance", "1 − contrast", "1 − structure", "1 − ssim"}


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--epochs", "0"), 2, "epochs = 0"),
        (("--limit", "0"), 2, "--limit 0: at least 1 image"),
        (("--data", "nowhere"), 65, "nowhere/nanotwice/train/good: images were expected there"),
    ],
)
def test_what_cannot_be_done(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    asked = ["fig7", "--data", str(data), "--out", str(tmp_path), *SMALL, *arguments]
    assert reproduce_paper.main(asked) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
