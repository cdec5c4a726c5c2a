"""The variational autoencoder: its samples, its residual, and the invariants of the engine over its two maps."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from linescan.cli.main import main
from linescan.config import InspectionSettings, TrainingSettings, VaeSettings
from linescan.errors import BundleError, InspectionError, TrainingError
from linescan.inspection import reconstruction, tiles
from linescan.inspection.placement import Footprint
from linescan.inspection.residual import residual
from linescan.models.autoencoder import VariationalAutoencoder, initialise
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from linescan.training import train
from linescan.training.agreement import active_dimensions
from linescan.training.dataset import GoodImages, load_good_images
from linescan.training.losses import divergence
from linescan.training.train import Trainer
from tests import reference
from tests.conftest import RUN, TINY, archive_records, blot, rehashed, toy_bundle, weave, write_archive, write_frames
from tests.inspection_kit import Case, Record, feed, run, scores

NOISE = 0.01
LATENT, PATCH, SAMPLES = 5, 16, 3
CPU = torch.device("cpu")


def vae(channels: int = 1, seed: int = 0) -> VariationalAutoencoder:
    """Drawn weights, but samples and an output that are not nearly flat as at the start of a training."""
    model = VariationalAutoencoder(LATENT, channels, PATCH, SAMPLES)
    initialise(model, 0.5, torch.Generator().manual_seed(seed))
    conv9, last = model.encoder[-1], model.decoder[-1]
    assert isinstance(conv9, nn.Conv2d)
    assert conv9.bias is not None
    assert isinstance(last, nn.ConvTranspose2d)
    with torch.no_grad():
        conv9.bias[LATENT:] = 0
        last.weight *= 10
    return model.eval()


def patches(count: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, PATCH, PATCH, generator=torch.Generator().manual_seed(seed))


def vae_settings(**others: object) -> InspectionSettings:
    usual: dict[str, object] = {
        "method": "vae", "noise_variance": NOISE, "patch_size": PATCH, "stride": 7, "threshold": 1.0,
    }  # fmt: skip
    return InspectionSettings.model_validate({**usual, **others})


# ------------------------------------------------------------------------------------------------ the network


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_those_of_the_decoded_samples(channels: int) -> None:
    model, web = vae(channels), patches(4, channels)
    with torch.inference_mode():
        mean, log_variance = model.encode(web)
        assert mean.shape == log_variance.shape == (4, LATENT, 1, 1)
        samples = torch.stack(
            [model.decode(mean + (0.5 * log_variance).exp() * noise.view(1, -1, 1, 1)) for noise in model.noise]
        ).double()
        moments = model.moments(web)
        assert moments.shape == (4, 2 * channels, PATCH, PATCH)
        assert torch.allclose(moments[:, :channels].double(), samples.mean(0), atol=1e-6)
        assert torch.allclose(moments[:, channels:].double(), samples.var(0, correction=0), atol=1e-6)
        assert float(moments[:, channels:].max()) > 1e-4
        assert torch.equal(model(web), moments[:, :channels])


def test_the_noise_is_the_seeds_and_all_samples_differ() -> None:
    first, again, other = vae(seed=1).noise, vae(seed=1).noise, vae(seed=2).noise
    assert first.shape == (SAMPLES, LATENT)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) == SAMPLES


def test_divergence_against_torch() -> None:
    mean, log_variance = torch.randn(2, 6, 7, 1, 1, generator=torch.Generator().manual_seed(0))
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    assert torch.allclose(divergence(mean, log_variance), expected, atol=1e-5)


def test_active_dimensions_are_those_whose_mean_moves() -> None:
    means = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05, 0.0])
    assert active_dimensions(means + 3) == 2


# ------------------------------------------------------------------------------------------------ the residual


def test_the_residual_is_the_negative_log_probability_less_its_minimum() -> None:
    rng = np.random.default_rng(0)
    web, mean = (torch.from_numpy(rng.random((3, 6, 5)).astype(np.float32)) for _ in range(2))
    variance = torch.from_numpy((rng.random((3, 6, 5)) * 0.05).astype(np.float32))
    found = residual(web, torch.cat([mean, variance]), vae_settings(channels=3))
    density = torch.distributions.Normal(mean.double(), (variance.double() + NOISE).sqrt()).log_prob(web.double())
    highest = torch.distributions.Normal(0.0, NOISE**0.5).log_prob(torch.tensor(0.0))
    assert torch.allclose(found.double(), (highest - density).mean(0), atol=1e-5)
    assert float(found.min()) >= 0
    assert float(residual(web, torch.cat([web, 0 * web]), vae_settings(channels=3)).max()) == 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2), st.floats(1e-6, 1))
@settings(deadline=None, derandomize=True, database=None)
def test_a_pixel_further_from_the_samples_is_less_probable(
    error: float, more: float, variance: float, noise: float
) -> None:
    maps = torch.tensor([[[0.0]], [[variance]]])
    asked = vae_settings(noise_variance=noise)
    near, far = (float(residual(torch.tensor([[[value]]]), maps, asked)) for value in (error, error + more))
    assert 0 <= near <= far < np.inf


# ------------------------------------------------------------------------------------------------ the engine


def two_maps(maps: Tensor) -> Tensor:
    """A toy VAE, patch by patch: a mean and a variance that depend on the place in the patch."""
    place = torch.arange(PATCH * PATCH, dtype=torch.float32).reshape(PATCH, PATCH) / PATCH**2
    return torch.cat([maps * (0.4 + 0.5 * place) + 0.2, 0.03 * place.T + 0.1 * maps**2], 1)


def web_of(lines: int, width: int, seed: int, channels: int = 1) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    shape = (lines, width) if channels == 1 else (lines, width, channels)
    return (120 + 30 * rng.standard_normal(shape)).clip(0, 255).astype(np.uint8)


def by_hand(raw: NDArray[np.uint8], asked: InspectionSettings) -> NDArray[np.float64]:
    """The residual of a whole roll in float64: patches, weighted means of both maps, negative log probability."""
    web = raw.reshape(*raw.shape[:2], -1).transpose(2, 0, 1).astype(np.float64) / 255
    (height, width), p = web.shape[1:], PATCH
    image = reference.padded(web.astype(np.float32), 0, max(p - height, 0), 0, max(p - width, 0))
    weights = reference.patch_weights(asked).astype(np.float64)
    total, weight = np.zeros((2 * len(web), *image.shape[1:])), np.zeros(image.shape[1:])
    for y in reference.anchors(image.shape[1], p, asked.stride):
        for x in reference.anchors(image.shape[2], p, asked.stride):
            patch_here = torch.from_numpy(np.ascontiguousarray(image[None, :, y : y + p, x : x + p]))
            total[:, y : y + p, x : x + p] += two_maps(patch_here)[0].numpy() * weights
            weight[y : y + p, x : x + p] += weights
    maps = (total / weight)[:, :height, :width]
    mean, variance = maps[: len(web)], maps[len(web) :]
    spread = asked.noise_variance + variance
    surprise: NDArray[np.float64] = 0.5 * ((web - mean) ** 2 / spread + np.log(spread / asked.noise_variance))
    return np.asarray(surprise.mean(0))


few = settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@given(
    lines=st.integers(1, 90), width=st.integers(1, 70), stride=st.integers(2, PATCH), channels=st.sampled_from([1, 3]),
    blend=st.sampled_from(["mean", "hann"]), heights=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    pieces=st.sampled_from([1, 3, 1024]), columns=st.sampled_from([13, 10_000]),
)  # fmt: skip
@few
def test_seams_do_not_show_and_the_whole_is_what_is_computed_by_hand(
    lines: int, width: int, stride: int, channels: int, blend: str, heights: list[int], pieces: int, columns: int
) -> None:
    raw = web_of(lines, width, lines * 100 + width, channels)
    asked = vae_settings(stride=stride, channels=channels, blend=blend)
    expected = by_hand(raw, asked)
    asked = asked.model_copy(update={"threshold": float(np.quantile(expected, 0.8))})
    case = Case(asked, Footprint(width), [raw], two_maps)
    whole = run(case, [lines])
    assert np.allclose(scores(whole), expected, rtol=1e-3, atol=1e-4)
    small = {"TILE_COLUMNS": columns, "TILE_PIXELS": columns}
    with patch.object(reconstruction, "PATCHES_AT_ONCE", pieces), patch.multiple(tiles, **small):
        cut = run(case, heights)
    assert scores(cut).tobytes() == scores(whole).tobytes()
    assert cut.findings == whole.findings
    assert all(band.band.reconstruction.shape[0] == channels for band in whole.bands)


@given(heights=st.lists(st.integers(1, 30), min_size=1, max_size=6), stop=st.integers(1, 6))
@few
def test_a_resumed_run_gives_the_same_scores(heights: list[int], stop: int) -> None:
    raw = web_of(100, 40, 1)
    case = Case(vae_settings(threshold=1.5), Footprint(40), [raw], two_maps)
    whole = run(case, [100])
    first, second = Record(), Record()
    inspector = case.inspector(first)
    for number, _ in enumerate(feed(inspector, case.roll, heights)):
        if number == stop:
            break
    resumed = case.inspector(second, inspector.snapshot())
    for _ in feed(resumed, case.roll, [9], resumed.resume_from):
        pass
    resumed.finish()
    kept = np.concatenate([scores(record) for record in (first, second) if record.bands])
    assert kept.tobytes() == scores(whole).tobytes()


def test_a_variance_that_is_no_number_is_a_fault_and_spreads_no_further() -> None:
    def sometimes(maps: Tensor) -> Tensor:
        result = two_maps(maps)
        result[:, 1:][maps.mean((1, 2, 3)) > 0.9] = torch.nan
        return result

    raw = web_of(200, 32, 2)
    raw[90:110] = 255
    record = run(Case(vae_settings(stride=8), Footprint(32), [raw], sometimes), [10])
    assert {gap.cause for gap in record.gaps} == {"model-fault"}
    assert record.gaps[0].first_line > 50
    assert record.gaps[-1].last_line < 150
    assert np.isfinite(scores(record)).all()


def test_a_model_that_gives_one_map_is_refused() -> None:
    case = Case(vae_settings(), Footprint(32), [web_of(40, 32, 0)], lambda maps: maps)
    with pytest.raises(InspectionError, match="the model returned"):
        run(case, [40])


# ------------------------------------------------------------------------------------------------ the bundle


def vae_bundle(path: Path, model: nn.Module | None = None, samples: int = SAMPLES, channels: int = 1) -> Path:
    return toy_bundle(
        path, model or vae(channels), method="vae", vae=VaeSettings(samples=samples, noise_variance=NOISE),
        channels=channels, latent_dim=LATENT,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bundle_encodes_decodes_and_draws_as_its_model(tmp_path: Path, channels: int) -> None:
    model, web = vae(channels), patches(3, channels)
    module = load_bundle(vae_bundle(tmp_path / "M.pt", model, channels=channels)).module()
    with torch.inference_mode():
        assert torch.allclose(module(web), model(web), atol=1e-5)
        assert module(web).shape == web.shape
        assert torch.allclose(module.moments(web), model.moments(web), atol=1e-5)
        for ours, theirs in zip(module.encode(web), model.encode(web), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        latent = torch.randn(2, LATENT, 1, 1, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(module.decode(latent), model.decode(latent), atol=1e-5)
        assert torch.equal(module.noise, model.noise)


def test_the_plain_torchscript_file_offers_the_same(tmp_path: Path) -> None:
    """As somebody would load it who has no linescan."""
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        module = torch.jit.load(str(vae_bundle(tmp_path / "M.pt")))  # type: ignore[no-untyped-call]
    mean, log_variance = module.encode(patches(2))
    assert mean.shape == log_variance.shape == (2, LATENT, 1, 1)
    assert module.decode(mean).shape == (2, 1, PATCH, PATCH)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_patch_has_the_same_samples_at_every_place_of_a_batch(tmp_path: Path, precision: str) -> None:
    bundle = load_bundle(vae_bundle(tmp_path / "M.pt"))
    runner = Runner(bundle, Execution("cpu", precision, 7, 1))  # type: ignore[arg-type]
    crowd = patches(7, seed=3)
    together = runner(crowd)
    assert together.dtype == torch.float32
    assert together.shape == (7, 2, PATCH, PATCH)
    for place in range(7):
        assert torch.equal(runner(crowd.roll(place, 0)).roll(-place, 0), together)
    assert torch.equal(runner(crowd[4:5])[0], together[4])


class WithoutMoments(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps


def test_a_vae_bundle_without_its_methods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"M\.pt: TorchScript cannot run it"):
        load_bundle(vae_bundle(tmp_path / "M.pt", WithoutMoments()))


def test_a_bundle_whose_samples_do_not_match_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"says 4 samples, its model draws 3"):
        load_bundle(vae_bundle(tmp_path / "M.pt", samples=4))


@pytest.mark.parametrize(("method", "vae_fields"), [("l2", {"samples": 3, "noise_variance": 0.1}), ("vae", None)])
def test_method_and_variance_model_belong_together(tmp_path: Path, method: str, vae_fields: object) -> None:
    records = archive_records(vae_bundle(tmp_path / "M.pt"))
    about = json.loads(records["bundle/extra/linescan.json"])
    about.update(method=method, vae=vae_fields)
    records["bundle/extra/linescan.json"] = json.dumps(about).encode()
    with pytest.raises(BundleError, match="a VAE's samples and variance, or none"):
        load_bundle(write_archive(tmp_path / "other.pt", rehashed(records)))


# ------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> GoodImages:
    folder = write_frames(tmp_path_factory.mktemp("small"), weave(192, 48), 96)
    return load_good_images([str(folder)], None, 1, PATCH)


def small(**changes: object) -> TrainingSettings:
    usual: dict[str, object] = {
        "method": "vae", "patch_size": PATCH, "latent_dim": 4, "epochs": 2, "patches": 48, "batch": 16,
        "learning_rate": 2e-3, "samples": SAMPLES,
    }  # fmt: skip
    return TrainingSettings.model_validate({**usual, **changes})


def test_a_resumed_run_ends_as_an_unbroken_one(images: GoodImages, tmp_path: Path) -> None:
    whole = Trainer(images, small(epochs=3), CPU)
    whole.fit()
    Trainer(images, small(epochs=1), CPU, tmp_path / "c").fit()
    resumed = Trainer(images, small(epochs=3), CPU, tmp_path / "c")
    resumed.fit()
    assert resumed.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_noise_variance_is_that_of_held_out_pixels_about_the_samples(images: GoodImages) -> None:
    trainer = Trainer(images, small(), CPU)
    trainer.fit()
    web = trainer._validation
    assert isinstance(trainer.model, VariationalAutoencoder)
    with torch.inference_mode():
        mean, log_variance = trainer.model.encode(web)
        samples = [
            trainer.model.decode(mean + (0.5 * log_variance).exp() * noise.view(1, -1, 1, 1))
            for noise in trainer.model.noise
        ]
    expected = np.mean([float(((web - sample) ** 2).mean()) for sample in samples])
    assert trainer.noise_variance() == pytest.approx(expected, rel=1e-4)


def test_a_collapsed_posterior_is_refused(images: GoodImages) -> None:
    """So strong a pull to the prior that no dimension says anything about the patch."""
    with patch.object(train, "DEAD_START_STEPS", 30), pytest.raises(TrainingError) as error:
        Trainer(images, small(epochs=30, kl_weight=1e5, kl_warmup_epochs=0), CPU).fit()
    assert "the latent dimension has collapsed: after 30 steps none of its 4 dimensions" in str(error.value)
    assert error.value.exit_code == 70


def test_the_divergence_is_warmed_up_and_then_weighs_in_full(images: GoodImages) -> None:
    weights: list[float] = []
    trainer = Trainer(images, small(epochs=4, kl_weight=0.5, kl_warmup_epochs=2), CPU)
    trainer.fit(on_step=lambda *_: weights.append(trainer._objective.kl_weight))
    assert weights == pytest.approx([0, 0, 0, 0, 1 / 6, 1 / 3] + [0.5] * 6)
    at_once: list[float] = []
    trainer = Trainer(images, small(kl_warmup_epochs=0), CPU)
    trainer.fit(on_step=lambda *_: at_once.append(trainer._objective.kl_weight))
    assert at_once == [1.0] * 6


def test_train_evaluate_and_replay_with_a_vae(good_footage: Path, tmp_path: Path) -> None:
    model = tmp_path / "M.pt"
    amount = ("--epochs", "4", "--patches", "640", "--stride", "16", "--false-alarms", "30", "--kl-weight", "1e-3")
    arguments = ["train", "--method", "vae", "--samples", "2", "--images", str(good_footage), "--output", str(model)]
    assert main([*arguments, *TINY, *amount]) == 0
    metadata = load_bundle(model).metadata
    assert metadata.method == "vae"
    assert metadata.vae is not None
    assert metadata.vae.samples == 2
    assert 0 < metadata.vae.noise_variance < 0.1
    assert metadata.metrics["latent_used"] >= 1
    folder, masks = tmp_path / "images", tmp_path / "masks"
    write_frames(folder, blot(weave(160, seed=5), 70, 40, 14), 160)
    write_frames(masks, blot(np.zeros((160, 96), np.uint8), 70, 40, 14), 160)
    arguments = ["evaluate", "--images", str(folder), "--masks", str(masks), "--model", str(model), *RUN]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["auroc"] > 0.9
    assert metrics["settings"]["noise_variance"] == metadata.vae.noise_variance
