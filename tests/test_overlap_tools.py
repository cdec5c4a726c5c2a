"""tools/measure_refinement.py and tools/measure_sharing.py measure the engine's own numbers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from linescan.config import InspectionSettings, SsimSettings
from linescan.inspection import FinalBand, Footprint, Inspector
from linescan.inspection.calibration import ColumnCalibration
from linescan.models.autoencoder import Autoencoder, initialise
from tests.inspection_kit import ramp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
passes = importlib.import_module("overlap.passes")
margins = importlib.import_module("overlap.margins")
shared_encoder = importlib.import_module("overlap.shared_encoder")
other_residuals = importlib.import_module("overlap.residuals")
sets = importlib.import_module("overlap.sets")

SIZE, STRIDE = 32, 8
LINES, COLUMNS = 93, 107


def settings(blend: str, sigma: float) -> InspectionSettings:
    return InspectionSettings(
        ssim=SsimSettings(window=5), patch_size=SIZE, stride=STRIDE, blend=blend, smoothing_sigma=sigma, threshold=0.35
    )  # fmt: skip


def web(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (LINES, COLUMNS), dtype=np.uint8)


def forward(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.flatten(1).mean(1, keepdim=True), ramp(patches)


def unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels)[None].to(torch.float32) / 255.0


@pytest.mark.parametrize(("blend", "sigma", "calibrated"), [("mean", 0.0, False), ("hann", 1.5, True)])
def test_a_pass_is_what_the_engine_makes_of_the_web(blend: str, sigma: float, calibrated: bool) -> None:
    chosen, pixels = settings(blend, sigma), web(1)
    columns = np.linspace(0.5, 1.5, COLUMNS, dtype=np.float32)
    calibration = ColumnCalibration(columns - 0.4, columns) if calibrated else None
    bands: list[FinalBand] = []
    inspector = Inspector(chosen, Footprint(COLUMNS), ramp, calibration=calibration, on_band=bands.append)
    inspector.push(pixels)
    inspector.finish()
    patches = passes.all_patches(unit(pixels), SIZE, STRIDE, forward)
    residual = passes.residual_of(unit(pixels), passes.blended(patches, 1, blend), chosen)
    score = passes.scored(residual, chosen, calibration)
    assert torch.equal(score, torch.cat([one.band.score for one in bands]))
    opened = passes.opened(score, chosen.threshold)
    assert np.array_equal(opened, torch.cat([one.band.opened for one in bands]).numpy())
    assert 0 < opened.sum() < opened.size


def test_the_coarse_grid_is_the_engines_and_part_of_the_fine_one() -> None:
    pixels = web(2)
    fine = passes.all_patches(unit(pixels), SIZE, STRIDE, forward)
    coarse = passes.all_patches(unit(pixels), SIZE, 3 * STRIDE, forward)
    lines, columns = fine.kept(3)
    assert [fine.lines[i] for i in lines] == coarse.lines
    assert [fine.columns[i] for i in columns] == coarse.columns
    assert torch.equal(passes.blended(fine, 3, "hann"), passes.blended(coarse, 1, "hann"))


@pytest.mark.parametrize("place", [(40, 50), (0, 0), (LINES - 1, 3)])
def test_the_patches_counted_for_a_pixel_are_those_that_decide_about_it(place: tuple[int, int]) -> None:
    chosen, pixels = settings("mean", 1.0), web(3)
    patches = passes.all_patches(unit(pixels), SIZE, STRIDE, forward)
    flagged = np.zeros((LINES, COLUMNS), np.float32)
    flagged[place] = 1
    needed = passes.highest_around(flagged, patches, passes.halo(chosen)) > 0
    assert 0 < needed.sum() < needed.size
    whole = _score(unit(pixels), patches.reconstructions, patches, chosen)
    without = patches.reconstructions.clone()
    without[~needed] = 9.0
    changed = _score(unit(pixels), without, patches, chosen)
    near = tuple(slice(max(at - 3, 0), at + 4) for at in place)  # what the opening of the pixel looks at
    assert torch.equal(changed[near], whole[near])
    assert not torch.equal(changed, whole)
    fewer = patches.reconstructions.clone()  # and one counted patch less does show
    fewer[tuple(np.argwhere(needed)[len(np.argwhere(needed)) // 2])] = 9.0
    assert not torch.equal(_score(unit(pixels), fewer, patches, chosen)[near], whole[near])


def _score(pixels: Tensor, reconstructions: Tensor, patches: object, chosen: InspectionSettings) -> Tensor:
    fields = vars(patches) | {"reconstructions": reconstructions}
    mean = passes.blended(passes.Patches(**fields), 1, chosen.blend)
    return passes.scored(passes.residual_of(pixels, mean, chosen), chosen, None)


def test_margins() -> None:
    patches = np.array([0.1, 0.2, 0.3, 0.9], np.float32)
    regions = np.array([0.25, 0.5, 0.8, 0.95], np.float32)
    score = margins.Score(patches, regions, np.linspace(0, 1, 101, dtype=np.float32), 2, 0.1, regions > 0.6)
    assert score.margin(0.0) == regions[0]
    assert score.speed_up(score.margin(0.0)) == 6 / 4
    assert score.margin(0.25) == regions[1]
    assert score.missed(score.margin(0.25)) == 0.25
    assert score.speed_up(2.0) == 3.0
    assert score.defect_margin() == regions[2]
    assert score.from_share(score.as_share(0.7)) == pytest.approx(0.7, abs=0.02)
    assert score.from_height(score.as_height(0.7)) == pytest.approx(0.7)


def test_layers_count_what_the_paper_counts_and_share_what_padding_does_not_reach() -> None:
    layers = shared_encoder.encoder_layers(128, 100)
    assert 2 * sum(layer.flop for layer in layers) == pytest.approx(242.5e6, rel=1e-3)
    model = Autoencoder(8)
    initialise(model, 0.5, torch.Generator().manual_seed(0))
    model.double()
    torch.manual_seed(1)
    whole = torch.rand(1, 1, 512, 512, dtype=torch.float64)
    patch, seen = whole[..., 192:320, 192:320], whole
    step = 1
    for layer, (conv, activation) in zip(
        layers[:-1], zip(model.encoder[::2], model.encoder[1::2], strict=False), strict=True
    ):
        patch, seen = activation(conv(patch)), activation(conv(seen))
        step *= conv.stride[0]
        same = torch.isclose(patch, seen[..., 192 // step : 320 // step, 192 // step : 320 // step], rtol=0, atol=1e-12)
        assert float(same.all(1).double().mean()) == pytest.approx(layer.sharable), layer.name


def test_with_context_the_shared_encoder_gives_the_codes_of_single_patches() -> None:
    model = Autoencoder(8)
    initialise(model, 0.5, torch.Generator().manual_seed(0))
    model.double().eval()
    torch.manual_seed(2)
    pixels = torch.rand(1, 256, 384, dtype=torch.float64)
    around = shared_encoder.surrounded(pixels)
    with torch.inference_mode():
        shared = shared_encoder.shared_codes(model, pixels, 64, "context")
        assert shared.shape[:2] == (3, 5)
        for i, line in enumerate(range(0, 129, 64)):
            for j, column in enumerate(range(0, 257, 64)):
                crop = around[None, :, line : line + 256, column : column + 256]
                one = shared_encoder.patch_codes(model, crop, "context")[0, :, 0, 0]
                torch.testing.assert_close(shared[i, j], one)
        zeros = shared_encoder.shared_codes(model, pixels, 64, "zeros")
        own = shared_encoder.patch_codes(model, pixels[None, :, 64:192, 64:192], "zeros")[0, :, 0, 0]
    assert (zeros[1, 1] - own).norm() > 1e-3 * own.norm()


# ------------------------------------------------------------------------------------------------ other residuals


@pytest.fixture
def small_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_residuals, "STRIDE", STRIDE)
    monkeypatch.setattr(other_residuals, "OTHERS", (STRIDE, 13))


@pytest.mark.usefixtures("small_strides")
def test_the_first_of_the_residuals_is_the_engine_s() -> None:
    chosen, pixels = settings("hann", 0.0), web(4)
    bands: list[FinalBand] = []
    inspector = Inspector(chosen, Footprint(COLUMNS), ramp, on_band=bands.append)
    inspector.push(pixels)
    inspector.finish()
    found = dict(other_residuals.residuals(unit(pixels), chosen, ramp))
    engine = torch.cat([one.band.score for one in bands])
    assert torch.equal(found[other_residuals.OWN], engine)
    assert torch.equal(found[f"stride {STRIDE}"], engine)
    both = (engine + found["stride 13"]) / 2
    torch.testing.assert_close(found[f"mean of strides {STRIDE} and 13"], both)
    assert all(part.shape == engine.shape for part in found.values())
    different = [name for name, part in found.items() if not torch.allclose(part, engine)]
    assert len(different) == len(found) - 2


def test_of_a_single_patch_the_averaged_residual_is_the_patch_s() -> None:
    chosen, pixels = settings("hann", 0.0), unit(web(5))[:, :SIZE, :SIZE]
    patches = passes.all_patches(pixels, SIZE, STRIDE, forward)
    expected = passes.residual_of(pixels, ramp(pixels[None])[0], chosen)
    torch.testing.assert_close(other_residuals.averaged(pixels, patches, chosen), expected)


@pytest.mark.usefixtures("small_strides")
def test_other_residuals_are_judged_for_each_sigma() -> None:
    judged = other_residuals.Judged(settings("hann", 0.0), [0.0, 1.0])
    pixels = unit(web(6))
    defect = np.zeros(pixels.shape[1:], bool)
    defect[20:40, 30:50] = True
    judged.add(sets.Web("one", pixels, defect), ramp)
    header, _, *rows = judged.table().splitlines()
    assert header == "| way | σ = 0 | σ = 1 |"
    assert len(rows) == 12
    judged.close()
