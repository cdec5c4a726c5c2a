"""`linescan bench`: that it measures what it says, counts what it says, and compares; its figures are nobody's here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from linescan.bench import compare as comparing
from linescan.bench import libraries
from linescan.bench.ceilings import Ceilings, measure_ceilings
from linescan.bench.compare import compare
from linescan.bench.machine import commit, machine, peak_mib, resident_mib
from linescan.bench.naive import naive_inspection
from linescan.bench.report import of_rivals, of_steps
from linescan.bench.scaling import Plan, scaling
from linescan.bench.steps import MODEL, REST, STEPS, StepClock, measure_steps
from linescan.bench.web import Web, web
from linescan.bench.whole import inspect
from linescan.bench.work import encoder_layers, model_work, steps_work
from linescan.cli.main import main
from linescan.config import InspectionSettings, SsimSettings, VaeSettings
from linescan.errors import ConfigError, FootageError, PeerError
from linescan.models.autoencoder import Autoencoder
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from linescan.recipe import Setup, load_setup
from tests.conftest import toy_bundle, toy_metadata, write_frames

EXECUTION = Execution("cpu", "float32", 8, 1)
SMALL = Web(64, 96, 32)


@pytest.fixture
def setup(toy: Path) -> Setup:
    return load_setup(toy)


# ------------------------------------------------------------------------------------------------ the web


def test_a_web_of_the_reference_patch_has_no_seams(setup: Setup) -> None:
    lines, columns = np.mgrid[:16, :16]
    bundle = replace(setup.bundle, reference=(lines * 16 + columns).astype(np.uint8))
    frames = list(web(bundle, 40, 300, 32))
    assert [len(frame) for frame in frames] == [32] * 9 + [12]
    whole = np.concatenate(frames)
    assert whole.shape == (300, 40)
    for places in (whole // 16).T, whole % 16:
        assert np.abs(np.diff(places.astype(int))).max() == 1


@pytest.mark.parametrize(("percent", "share"), [(10.0, 1.0), (5.0, 0.5), (1.0, 0.1)])
def test_defects_come_as_often_as_asked(setup: Setup, percent: float, share: float) -> None:
    whole = np.concatenate(list(web(setup.bundle, 32, 32000, 32, percent)))
    dense = np.concatenate(list(web(setup.bundle, 32, 32000, 32, 10.0)))
    good = setup.bundle.reference[0, 0]
    assert (whole != good).mean() == pytest.approx(share * (dense != good).mean(), rel=0.05)


def test_a_web_whose_defect_begins_at_once_is_defect_all_over(tmp_path: Path) -> None:
    place = {"first_line": 0, "last_line": 7, "first_column": 0, "last_column": 7}
    bundle = load_bundle(toy_bundle(tmp_path / "t.pt", reference=place))
    assert len(np.concatenate(list(web(bundle, 20, 50, 20, 1.0)))) == 50


def test_a_web_of_footage_goes_there_and_back(setup: Setup, tmp_path: Path) -> None:
    recorded = np.random.default_rng(0).integers(0, 256, (50, 24)).astype(np.uint8)
    folder = write_frames(tmp_path / "images", recorded, 20)
    frames = list(Web(60, 130, 40, images=(str(folder),)).frames(setup.bundle))
    assert [frame.shape for frame in frames] == [(40, 60)] * 3 + [(10, 60)]
    expected = np.concatenate([recorded, recorded[::-1], recorded])[:130]
    whole = np.concatenate(frames)
    for first, part in ((0, expected), (24, expected[:, ::-1]), (48, expected[:, :12])):
        assert (whole[:, first : first + part.shape[1]] == part).all()


def test_footage_longer_than_the_web_is_not_read_to_its_end(setup: Setup, tmp_path: Path) -> None:
    recorded = np.random.default_rng(1).integers(0, 256, (50, 16)).astype(np.uint8)
    folder = write_frames(tmp_path / "images", recorded, 10)
    (folder / "0004.png").write_bytes(b"no picture")
    asked = Web(16, 35, 35, images=(str(folder),))
    assert (next(asked.frames(setup.bundle)) == recorded[:35]).all()
    with pytest.raises(FootageError, match=r"0004\.png"):
        next(replace(asked, lines=45).frames(setup.bundle))


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [((20, 16), np.uint16, "16 bits a pixel, 8 expected"), ((20, 16, 3), np.uint8, "images of 1 channels expected")],
)
def test_footage_that_cannot_be_measured_with(
    tmp_path: Path, toy: Path, shape: tuple[int, ...], dtype: type, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full(shape, np.iinfo(dtype).max, dtype)
    folder = write_frames(tmp_path / "images", pixels, 20)
    asked = ("bench", "--model", str(toy), "--images", str(folder), "--lines", "20", "--width", "16")
    assert main([*asked, "--device", "cpu", "--precision", "float32", "--batch", "4", "--threads", "1"]) != 0
    assert said in capsys.readouterr().err


def test_a_roll_is_inspected_to_its_end(setup: Setup) -> None:
    runner = Runner(setup.bundle, EXECUTION)
    roll = inspect(setup, runner, 8, Web(64, 96, 32, 10.0))
    assert roll.patches == 7 * 11  # of 16 pixels, every 8: 64 columns and 96 lines
    assert 0 < roll.region_pixels < 64 * 96
    assert roll.seconds > 0


# ------------------------------------------------------------------------------------------------ work


def test_the_papers_network_costs_what_the_paper_network_costs() -> None:
    meta = toy_metadata(patch_size=128, latent_dim=100, stride=30)
    assert model_work(meta, 1, 1, 2).flop == pytest.approx(242.5e6, rel=2e-3)


@pytest.mark.parametrize(("channels", "patch_size", "latent"), [(1, 128, 100), (3, 64, 20), (1, 16, 5)])
def test_layers_are_those_of_the_network(channels: int, patch_size: int, latent: int) -> None:
    meta = toy_metadata(channels=channels, patch_size=patch_size, latent_dim=latent, stride=8)
    layers = encoder_layers(meta)
    model = Autoencoder(latent, channels, patch_size)
    shapes: list[tuple[int, ...]] = []
    for module in model.encoder:
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, channels, patch_size, patch_size))
    assert [(layer.outputs, layer.output_side, layer.output_side) for layer in layers] == shapes
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 4)
    assert sum(layer.weights for layer in layers) * 2 == weights


def test_a_vae_decodes_each_sample() -> None:
    plain = model_work(toy_metadata(method="l2"), 1, 0, 4)
    vae = model_work(toy_metadata(method="vae", vae=VaeSettings(samples=6, noise_variance=0.01)), 1, 0, 4)
    assert 3.4 < vae.flop / plain.flop < 3.6  # an encoder and six decoders for an encoder and a decoder


def test_work_follows_pixels_and_patches(setup: Setup) -> None:
    changed = {"method": "ssim", "ssim": SsimSettings(), "smoothing_sigma": 10.0, "blend": "hann"}
    settings = setup.settings.model_copy(update=changed)
    one, two = steps_work(settings, 10_000, 100, 4), steps_work(settings, 20_000, 200, 4)
    assert one.keys() == STEPS.keys() - {MODEL}
    for name, work in one.items():
        assert (two[name].flop, two[name].bytes) == (2 * work.flop, 2 * work.bytes)
    assert one["residual"].flop == 10_000 * (3 + 5 * 11 + 24)  # five maps, two axes of 5 additions, one division
    assert one["smoothing"].flop == 10_000 * 2 * 91  # 30 pairs of taps and the middle one
    assert one["gathering patches"].bytes == 100 * 256 * 8
    without = steps_work(setup.settings, 10_000, 100, 4)["smoothing"]
    assert (without.flop, without.bytes) == (0, 0)


def test_ceilings_are_positive() -> None:
    for execution in (EXECUTION, Execution("cpu", "bfloat16", 8, 1), Execution("openvino", "int8", 8, 1)):
        ceilings = measure_ceilings(execution, side=32, copy_bytes=1 << 12)
        assert min(vars(ceilings).values()) > 0


# ------------------------------------------------------------------------------------------------ steps


def test_the_clock_counts_the_outermost_named_function_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("linescan.bench.steps.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def inner() -> None:
        now[0] += 1

    def outer() -> None:
        inner()
        now[0] += 10
        inner()

    before = sys.getprofile()
    with StepClock({"outer": (outer,), "inner": (inner,)}) as clock:
        outer()
        now[0] += 100
        inner()
    assert sys.getprofile() is before
    assert clock.seconds == {"outer": 12, "inner": 1}


def test_every_step_is_seen_in_a_roll(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy.pt", method="ssim", smoothing_sigma=2.0, ssim=SsimSettings(window=3))
    setup = load_setup(bundle)
    steps = measure_steps(setup, EXECUTION, 8, Web(64, 96, 32, 10.0), Ceilings(1e9, 1e9, 1e9))
    assert {step.name for step in steps} == {*STEPS, REST}
    assert sum(step.share for step in steps) == pytest.approx(1, abs=0.001)
    assert all(step.roof is not None and step.roof > 0 for step in steps if step.name != REST)
    text = of_steps(8, steps)
    assert all(name in text for name in STEPS)


def test_steps_on_a_gpu_are_refused(setup: Setup) -> None:
    with pytest.raises(ConfigError, match="device 'cuda'"):
        measure_steps(setup, Execution("cuda", "float32", 8, 1), 8, SMALL, Ceilings(1.0, 1.0, 1.0))


# ------------------------------------------------------------------------------------------------ compared


def test_the_naive_loop_finds_what_the_engine_finds(tmp_path: Path) -> None:
    setup = load_setup(toy_bundle(tmp_path / "toy.pt", method="ssim", ssim=SsimSettings(window=3), threshold=0.5))
    asked = Web(64, 96, 96, 10.0)
    raw = np.concatenate(list(web(setup.bundle, 64, 96, 96, 10.0)))
    roll = inspect(setup, Runner(setup.bundle, EXECUTION), 8, asked)
    found = naive_inspection(setup.bundle.module(), raw, setup.settings)
    assert found > 0
    assert roll.region_pixels > 0
    plain = np.full_like(raw, 120)
    assert naive_inspection(setup.bundle.module(), plain, setup.settings) == 0


def test_what_is_missing_is_listed_with_how_to_install_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "TILE", 32)
    for name in ("pytorch_msssim", "kornia.metrics", "anomalib.models.image.padim.torch_model"):
        monkeypatch.setitem(sys.modules, name, None)
    broken = "anomalib.models.image.efficient_ad.torch_model"

    def import_module(name: str) -> Any:
        if name == broken:
            raise RuntimeError("operator torchvision::nms does not exist\nand more")
        return __import__(name, fromlist=["x"])

    monkeypatch.setattr(libraries, "import_module", import_module)
    rivals = {(rival.job, rival.name): rival for rival in compare(setup, EXECUTION, 8, SMALL)}
    missing = {name: rival.missing for (_, name), rival in rivals.items() if rival.megapixels_per_second is None}
    assert missing.keys() == {
        "pytorch-msssim", "kornia", "anomalib PaDiM, ResNet-18, float32", "anomalib EfficientAD small, float32",
    }  # fmt: skip
    assert "pip install 'linescan[bench]'" in missing["kornia"]
    assert "operator torchvision::nms does not exist" in missing["anomalib EfficientAD small, float32"]
    measured = [rival for rival in rivals.values() if rival.megapixels_per_second is not None]
    assert {rival.name for rival in measured} == {
        "linescan, whole", "one patch at a time, float32", "linescan", "scikit-image",
    }  # fmt: skip
    assert all(rival.ours == 1 for rival in measured if rival.name.startswith("linescan"))
    text = of_rivals(list(rivals.values()))
    assert all(name in text for name in missing)


def test_another_model_sees_all_pixels_of_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "TILE", 16)
    seen: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            seen.append(images.clone())

    module = ModuleType("anomalib.models.image.efficient_ad.torch_model")
    monkeypatch.setattr(module, "EfficientAdModel", Model, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(libraries, "import_module", lambda name: sys.modules[name])
    grey = torch.arange(40 * 33.0).reshape(40, 33)
    libraries.efficient_ad(grey)()
    images = torch.cat(seen)
    assert images.shape == (9, 3, 16, 16)
    assert set(images.flatten().tolist()) == set(grey.flatten().tolist())


def test_maps_of_both_windows_are_those_of_scikit_image() -> None:
    x, y = torch.rand(40, 50), torch.rand(40, 50)
    result: Any = libraries.skimage_ssim(x, y, False)()
    theirs, ours = result[1], 1 - comparing._own_map(x, y, SsimSettings())
    assert np.allclose(ours[8:-8, 8:-8], theirs[8:-8, 8:-8], atol=0.02)  # they divide the variance by n − 1
    assert ours.shape == theirs.shape


def test_a_web_smaller_than_a_tile_has_no_comparison_with_anomalib(setup: Setup) -> None:
    assert not any("anomalib" in rival.name for rival in compare(setup, EXECUTION, 8, SMALL))


# ------------------------------------------------------------------------------------------------ scaling


def test_scaling_measures_and_plots(setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        usual=SMALL, widths=(32, 64), strides=(8, 16), batches=(1, 8), cameras=(1, 2), roll=Web(32, 40 * 32, 32)
    )
    result = scaling(setup, EXECUTION, tmp_path / "plots", plan)
    figures = json.loads((tmp_path / "plots" / "scaling.json").read_text())["scaling"]
    assert figures == result["scaling"]
    assert [row["columns"] for row in figures["width"]] == [32, 64]
    assert [row["cameras"] for row in figures["cameras"]] == [1, 2]
    assert all(row["mpix_per_s"] > 0 for name in ("width", "stride", "batch", "cameras") for row in figures[name])
    assert [row["lines"] for row in figures["roll"]] == list(range(64, 40 * 32 + 1, 64))
    assert all(row["peak_mib"] >= row["loaded_mib"] > 0 for row in figures["memory"])
    for name in ("speed.png", "flat.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert "width: columns 32" in capsys.readouterr().out


def test_a_process_that_dies_is_said(toy: Path, tmp_path: Path) -> None:
    gone = Setup(load_bundle(toy), InspectionSettings.model_construct(), None, "toy")  # settings that nothing runs with
    with pytest.raises(PeerError, match="ended or said nothing"):
        scaling(gone, EXECUTION, tmp_path, Plan(usual=SMALL, widths=(), strides=(), batches=(), cameras=(1,)))


# ------------------------------------------------------------------------------------------------ the machine


def test_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine().keys() >= {"cpu", "cores", "gpu", "torch", "numpy", "python", "linescan", "commit"}
    assert 0 < resident_mib() <= peak_mib() + 1  # the kernel counts pages a little late
    monkeypatch.setattr("linescan.__file__", str(tmp_path / "linescan" / "__init__.py"))
    assert commit() == "unknown"  # an installed package
    (tmp_path / ".git").mkdir()
    assert commit() == "unknown"  # no repository that git reads
