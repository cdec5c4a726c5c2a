"""Training: the same from the same seed, resumable, never on held-out lines, and loud when it goes wrong."""

from __future__ import annotations

import json
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.cli import train as train_command
from linescan.cli.main import main
from linescan.config import SsimSettings, TrainingSettings
from linescan.errors import FootageError, InputError, TrainingError
from linescan.footage import write_image
from linescan.inspection.ssim import similarity, window_mean_reflected
from linescan.models.autoencoder import Autoencoder
from linescan.models.bundle import load_bundle
from linescan.recipe import load_setup
from linescan.training import train
from linescan.training.augmentation import augment, spoilt
from linescan.training.dataset import GoodImages, PatchSampler, load_good_images
from linescan.training.losses import Objective, reconstruction_loss
from linescan.training.stride import strides_for
from linescan.training.train import Epoch, Trainer
from tests.conftest import COLUMNS, TINY, weave, write_frames

CPU = torch.device("cpu")
SMALL = TrainingSettings(
    patch_size=16,
    latent_dim=4,
    epochs=4,
    patches=48,
    batch=16,
    learning_rate=2e-3,
    augment=("flip-lines", "brightness"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("small"), weave(192, 48), 96)


@pytest.fixture(scope="module")
def images(folder: Path) -> GoodImages:
    return load_good_images([str(folder)], None, 1, 16)


def small(**changes: Any) -> TrainingSettings:
    return SMALL.model_copy(update=changes)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fitted(images: GoodImages, settings: TrainingSettings, checkpoint: Path | None = None) -> Trainer:
    trainer = Trainer(images, settings, CPU, checkpoint)
    trainer.fit()
    return trainer


# ------------------------------------------------------------------------------------------------ reproducible


def test_the_same_seed_gives_the_same_weights(images: GoodImages) -> None:
    first, second, other = (fitted(images, small(epochs=2, seed=seed)) for seed in (3, 3, 4))
    assert same(weights(first), weights(second))
    assert first.history == second.history
    assert not same(weights(first), weights(other))


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> GoodImages:
    """Web as wide as a patch that brightens from left to right: all patches are alike."""
    web = np.broadcast_to(np.linspace(20, 235, 16), (192, 16)).astype(np.uint8)
    folder = write_frames(tmp_path_factory.mktemp("easy"), web, 96)
    return load_good_images([str(folder)], None, 1, 16)


@pytest.mark.parametrize("method", ["ssim", "l2"])
def test_it_learns(easy: GoodImages, method: str) -> None:
    history = fitted(easy, small(method=method, patches=320, epochs=3, augment=())).history
    assert [epoch.number for epoch in history] == [1, 2, 3]
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].validation_loss < 0.5 * history[0].validation_loss
    assert history[-1].correlation > 0.8


def test_bfloat16_trains_too(images: GoodImages) -> None:
    trainer = fitted(images, small(precision="bfloat16", epochs=1))
    assert all(value.dtype == torch.float32 for value in trainer.model.state_dict().values())
    assert not same(weights(trainer), weights(fitted(images, small(epochs=1))))


# ------------------------------------------------------------------------------------------------ resumed


class StopHereError(Exception):
    pass


def stop_after(number: int) -> Callable[[Epoch], None]:
    def after_epoch(epoch: Epoch) -> None:
        if epoch.number == number:
            raise StopHereError

    return after_epoch


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_ends_as_an_unbroken_one(images: GoodImages, tmp_path: Path, schedule: str) -> None:
    settings = small(schedule=schedule)
    whole = fitted(images, settings)
    with pytest.raises(StopHereError):
        Trainer(images, settings, CPU, tmp_path / "c").fit(on_epoch=stop_after(2))
    resumed = Trainer(images, settings, CPU, tmp_path / "c")
    assert len(resumed.history) == 2
    resumed.fit()
    assert same(weights(resumed), weights(whole))
    assert resumed.history == whole.history


def test_a_run_that_ended_can_be_made_longer(images: GoodImages, tmp_path: Path) -> None:
    fitted(images, small(epochs=2), tmp_path / "c")
    longer = fitted(images, small(epochs=4), tmp_path / "c")
    assert same(weights(longer), weights(fitted(images, small(epochs=4))))


def test_a_stop_within_an_epoch_loses_that_epoch_alone(images: GoodImages, tmp_path: Path) -> None:
    def on_step(step: int, _steps: int, _loss: float) -> None:
        if len(trainer.history) == 1 and step == 2:
            raise KeyboardInterrupt

    trainer = Trainer(images, small(epochs=2), CPU, tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_step)
    resumed = Trainer(images, small(epochs=2), CPU, tmp_path / "c")
    assert len(resumed.history) == 1
    resumed.fit()
    assert same(weights(resumed), weights(fitted(images, small(epochs=2))))


def test_a_run_that_is_done_is_not_trained_again(images: GoodImages, tmp_path: Path) -> None:
    done = fitted(images, small(epochs=2), tmp_path / "c")
    again = Trainer(images, small(epochs=2), CPU, tmp_path / "c")
    again.fit(on_step=lambda *_: pytest.fail("a step too many"))
    assert same(weights(again), weights(done))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 9}, "seed"),
        ({"learning_rate": 1e-3, "batch": 8}, "batch, learning_rate"),
        ({"ssim": SsimSettings(window=7)}, "ssim"),
        ({"latent_dim": 5}, "latent_dim"),
        ({"augment": ()}, "augment"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    images: GoodImages, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    fitted(images, small(epochs=1), tmp_path / "c")
    with pytest.raises(InputError, match=rf"c: belongs to another training run \(differs in {named}\)") as caught:
        Trainer(images, small(**changes), CPU, tmp_path / "c")
    assert caught.value.exit_code == 65


def test_a_checkpoint_of_other_images_is_refused(images: GoodImages, tmp_path: Path) -> None:
    fitted(images, small(epochs=1), tmp_path / "c")
    folder = write_frames(tmp_path / "other", weave(192, 48, seed=1), 96)
    with pytest.raises(InputError, match="differs in the images"):
        Trainer(load_good_images([str(folder)], None, 1, 16), small(), CPU, tmp_path / "c")


def test_a_checkpoint_of_an_older_linescan_is_refused(images: GoodImages, tmp_path: Path) -> None:
    """Adam's moments would be those of a loss many times smaller."""
    fitted(images, small(epochs=1), tmp_path / "c")
    state = torch.load(tmp_path / "c")
    del state["format"]
    torch.save(state, tmp_path / "c")
    with pytest.raises(InputError, match="differs in the version of linescan that wrote it"):
        Trainer(images, small(epochs=2), CPU, tmp_path / "c")


def test_the_loss_is_a_sum_over_the_patch_s_pixels(images: GoodImages) -> None:
    """As in the paper's equations: the weight decay beside it would else be many times too strong."""
    trainer = Trainer(images, small(epochs=1), CPU)
    seen: list[Tensor] = []

    def marked(model: Autoencoder, patches: Tensor, *_: object) -> Tensor:
        seen.append(model.encoder[0].bias)
        return model.encoder[0].bias.sum()  # a mean over the pixels, for all that the trainer knows

    with patch.object(trainer, "_objective", marked):
        trainer._train_epoch(1, None)
    gradient = seen[-1].grad
    assert gradient is not None
    assert torch.equal(gradient, torch.full_like(gradient, float(trainer.settings.patch_size**2)))


def test_a_longer_run_s_checkpoint_is_no_shorter_run(images: GoodImages, tmp_path: Path) -> None:
    fitted(images, small(epochs=2), tmp_path / "c")
    with pytest.raises(InputError, match="holds 2 epochs, 1 are asked for"):
        Trainer(images, small(epochs=1), CPU, tmp_path / "c")


def test_a_cosine_run_cannot_be_made_longer(images: GoodImages, tmp_path: Path) -> None:
    """Its learning rate depends on the epochs asked for: the result would be that of no run."""
    fitted(images, small(epochs=2, schedule="cosine"), tmp_path / "c")
    with pytest.raises(InputError, match="differs in epochs"):
        Trainer(images, small(epochs=4, schedule="cosine"), CPU, tmp_path / "c")


class Malice:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return pytest.fail, ("the checkpoint ran its code",)


def test_a_checkpoint_that_is_none_is_refused(images: GoodImages, tmp_path: Path) -> None:
    path = tmp_path / "c"
    fitted(images, small(epochs=1), path)
    sound = path.read_bytes()
    state = torch.load(path, weights_only=True)

    def write(content: Any) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)

    for content in (
        b"", b"hello", sound[: len(sound) // 2], sound[:-10], [1, 2], {}, {**state, "model": {}},
        {**state, "history": 5}, {**state, "history": [{"number": 1}]}, {**state, "optimiser": None}, {"history": []},
        Malice(),
    ):  # fmt: skip
        write(content)
        with pytest.raises(InputError, match="c: not a training checkpoint"):
            Trainer(images, small(), CPU, path)
    path.write_bytes(sound)
    assert len(Trainer(images, small(), CPU, path).history) == 1


# ------------------------------------------------------------------------------------------------ gone wrong


def tiny_weights(bundle: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(torch.jit.load(str(bundle)).state_dict())


def test_the_mirrored_optimum_is_refused(good_footage: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A trained decoder of the opposite sign: the SSIM loss is as low, and no defect would show."""
    mirrored = tiny_weights(tiny_bundle)
    last = max(int(name.split(".")[1]) for name in mirrored if name.startswith("decoder"))
    for part in ("weight", "bias"):
        mirrored[f"decoder.{last}.{part}"] = -mirrored[f"decoder.{last}.{part}"]

    def initialise(model: Autoencoder, _grey: float, _generator: torch.Generator) -> None:
        model.load_state_dict(mirrored)

    images = load_good_images([str(good_footage)], None, 1, 32)
    settings = small(patch_size=32, latent_dim=16, learning_rate=1e-9, augment=())
    with patch.object(train, "initialise", initialise):
        trainer = Trainer(images, settings, CPU, tmp_path / "c")
    losses: list[float] = []
    with pytest.raises(TrainingError, match=r"epoch 1: .*mirrored optimum") as caught:
        trainer.fit(on_step=lambda _step, _steps, loss: losses.append(loss))
    assert caught.value.exit_code == 70
    assert max(losses) < 0.85
    assert not (tmp_path / "c").exists()


def constant(model: Autoencoder, grey: float, _generator: torch.Generator) -> None:
    """PyTorch's own initialisation, on its plateau: the output hardly depends on the input."""
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    with torch.no_grad():
        model.decoder[-1].bias.fill_(grey)


def test_a_dead_start_is_refused(images: GoodImages) -> None:
    settings = small(learning_rate=1e-9, augment=())
    with patch.object(train, "initialise", constant):
        fitted(images, settings)  # too early to tell
        with patch.object(train, "DEAD_START_STEPS", 6), pytest.raises(TrainingError, match=r"epoch 2: .*a dead start"):
            fitted(images, settings)


def test_a_start_that_is_slow_is_not_dead(images: GoodImages) -> None:
    """Feature matching comes to the pixels slowly."""
    trainer = Trainer(images, small(epochs=9), CPU)
    trainer.history = [Epoch(1, 9.0, 9.0, 0.05, 0.5)]
    with patch.object(train, "DEAD_START_STEPS", 6):
        trainer._refuse_bad_optimum(Epoch(2, 8.0, 8.7, 0.05, 0.5))
        with pytest.raises(TrainingError, match=r"epoch 2: .*a dead start"):
            trainer._refuse_bad_optimum(Epoch(2, 8.9, 8.95, 0.05, 0.5))
        trainer.history = []
        trainer._refuse_bad_optimum(Epoch(1, 9.0, 9.0, 0.05, 0.5))  # the next one will tell
        with pytest.raises(TrainingError, match=r"epoch 9: .*a dead start"):  # nobody wants a model of that
            trainer._refuse_bad_optimum(Epoch(9, 8.0, 8.0, 0.05, 0.5))


def test_no_false_alarm_of_a_dead_start(easy: GoodImages) -> None:
    with patch.object(train, "DEAD_START_STEPS", 6):
        assert len(fitted(easy, small(epochs=2, patches=160, augment=())).history) == 2


def test_a_loss_that_is_no_number_ends_the_run(images: GoodImages, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, step 2: training diverged") as caught:
        fitted(images, small(learning_rate=1e30), tmp_path / "c")
    assert "nothing was kept" in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_weights_that_explode_in_the_last_step_of_an_epoch_are_not_kept(images: GoodImages, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the held-out loss is nan: training diverged"):
        fitted(images, small(learning_rate=1e30, patches=16), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_last_good_epoch_is_kept_when_a_later_one_diverges(images: GoodImages, tmp_path: Path) -> None:
    def on_step(step: int, _steps: int, _loss: float) -> None:
        if len(trainer.history) == 2 and step == 1:
            next(trainer.model.parameters()).data.fill_(torch.nan)

    trainer = Trainer(images, small(), CPU, tmp_path / "c")
    with pytest.raises(TrainingError, match="epoch 3, step 2: training diverged; the checkpoint holds epoch 2"):
        trainer.fit(on_step)
    kept = Trainer(images, small(), CPU, tmp_path / "c")
    assert len(kept.history) == 2
    assert same(weights(kept), weights(fitted(images, small(epochs=2))))


# ------------------------------------------------------------------------------------------------ what it sees


def marked(lines: int, kept: int, columns: int = 48) -> NDArray[np.uint8]:
    """Dark web whose lines from `kept` on are bright."""
    web = weave(lines, columns) // 3
    web[kept:] += 150
    return web


def brightness(trainer: Trainer) -> tuple[float, float]:
    """The brightest pixel that is trained on, and the darkest that is held out."""
    return float(trainer._sampler.cut(trainer._places).max()), float(trainer._validation.min())


def test_held_out_lines_are_never_trained_on(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.png", marked(200, 170))  # 15 % of 200
    images = load_good_images([str(tmp_path)], None, 1, 16)
    assert [tuple(image.shape) for image in images.training] == [(1, 170, 48)] * 2
    assert [len(image) for image in images.held_out_lines] == [30, 30]
    brightest, darkest = brightness(Trainer(images, small(patches=4000), CPU))
    assert brightest < 0.5 < darkest


def test_at_least_a_patch_is_held_out(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", marked(40, 24))
    images = load_good_images([str(tmp_path)], None, 1, 16)
    assert [image.shape[-2] for image in images.training] == [24]
    brightest, darkest = brightness(Trainer(images, small(patches=2000), CPU))
    assert brightest < 0.5 < darkest


def test_of_many_images_every_sixth_is_held_out(tmp_path: Path) -> None:
    for number in range(13):
        write_image(tmp_path / f"{number:02d}.png", marked(20, 0 if number in (5, 11) else 20))
    images = load_good_images([str(tmp_path)], None, 1, 16)
    assert (len(images.training), len(images.held_out)) == (11, 2)
    brightest, darkest = brightness(Trainer(images, small(patches=2000), CPU))
    assert brightest < 0.5 < darkest


def test_images_too_short_to_cut_are_held_out_whole(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.png", marked(20, 20 - 20 * number))
    images = load_good_images([str(tmp_path)], None, 1, 16)
    assert (len(images.training), len(images.held_out)) == (1, 1)
    brightest, darkest = brightness(Trainer(images, small(), CPU))
    assert brightest < 0.5 < darkest


def test_one_image_too_short_to_cut_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", weave(31, 48))
    with pytest.raises(FootageError, match=r"one image of 31 lines is too short .* at least 32 lines or a second"):
        load_good_images([str(tmp_path)], None, 1, 16)


def test_scaled_images_and_columns(tmp_path: Path) -> None:
    web = weave(203, 61)
    write_image(tmp_path / "0.png", web)
    images = load_good_images([str(tmp_path)], (4, 49), 2, 16)
    assert images.held_out_lines[0].shape == (32, 45)
    assert images.training[0].shape == (1, 86, 23)
    assert float(images.training[0][0, 0, 0]) == pytest.approx(web[:2, 4:6].mean() / 255, abs=1e-6)
    assert (web[171:, 4:49] == images.held_out_lines[0]).all()


def test_deep_and_colour_images(tmp_path: Path) -> None:
    web = weave(80, 48)
    write_image(tmp_path / "deep.png", web.astype(np.uint16) * 257)
    images = load_good_images([str(tmp_path / "deep.png")], None, 1, 16)
    assert images.bit_depth == 16
    assert torch.allclose(images.training[0][0], torch.from_numpy(web[:64]) / 255)
    write_image(tmp_path / "colour.png", np.stack([web, web // 2, web // 4], 2))
    images = load_good_images([str(tmp_path / "colour.png")], None, 1, 16)
    assert images.training[0].shape == (3, 64, 48)
    assert Trainer(images, small(), CPU).model.channels == 3


def test_the_band_is_far_outside_what_good_lines_show(images: GoodImages) -> None:
    lines = weave(192, 48)[:, :].astype(float) / 255
    mean, contrast = lines.mean(1), lines.std(1)
    assert images.band.mean_low == pytest.approx(mean.min() / 2, abs=1e-6)
    assert images.band.mean_high == pytest.approx((mean.max() + 1) / 2, abs=1e-6)
    assert images.band.contrast_low == pytest.approx(contrast.min() / 3, abs=1e-4)


def test_patches_are_cut_where_they_were_drawn() -> None:
    shapes = [(20, 16), (16, 30), (40, 40)]
    generator = torch.Generator().manual_seed(0)
    web = [torch.rand(2, *shape, generator=generator) for shape in shapes]
    sampler = PatchSampler(web, 16, CPU)
    corners = [[i, h - 16, w - 16] for i, (h, w) in enumerate(shapes)] + [[i, 0, 0] for i in range(3)]
    places = torch.cat([torch.tensor(corners), sampler.draw(500, generator)])
    cut = sampler.cut(places)
    assert cut.shape == (506, 2, 16, 16)
    for (image, line, column), got in zip(places.tolist(), cut, strict=True):
        expected = web[image][:, line : line + 16, column : column + 16]
        assert expected.shape == (2, 16, 16)  # within the image
        assert torch.equal(got, expected)


def test_every_place_is_equally_likely() -> None:
    sampler = PatchSampler([torch.zeros(1, 17, 16), torch.zeros(1, 16, 21)], 16, CPU)  # 2 and 6 places
    places = sampler.draw(16_000, torch.Generator().manual_seed(0))
    _, counts = torch.unique(places, dim=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 1800
    assert counts.max() < 2200


# ------------------------------------------------------------------------------------------------ augmented


def ramp(count: int = 64) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("kind", "dim"), [("flip-lines", -2), ("flip-columns", -1)])
def test_about_half_of_the_patches_are_flipped(kind: str, dim: int) -> None:
    patches = ramp()
    result = augment(patches, (kind,), torch.Generator().manual_seed(1))
    flipped = [torch.equal(new, old.flip(dim)) for old, new in zip(patches, result, strict=True)]
    kept = [torch.equal(new, old) for old, new in zip(patches, result, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48


def test_brightness_is_a_gain_for_each_patch() -> None:
    patches = ramp() * 0.8
    gains = augment(patches, ("brightness",), torch.Generator().manual_seed(1)) / patches
    assert float((gains.amax((1, 2, 3)) - gains.amin((1, 2, 3))).max()) < 1e-5
    assert 0.9 <= float(gains.min()) < 0.95
    assert 1.05 < float(gains.max()) <= 1.1001
    assert float(augment(ramp() * 0 + 0.99, ("brightness",), torch.Generator()).max()) == 1


def test_augmentation_depends_on_the_generator_alone() -> None:
    kinds = ("flip-lines", "flip-columns", "brightness")
    first, second, other = (augment(ramp(), kinds, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(augment(ramp(), (), torch.Generator()), ramp())


def smooth_web(count: int = 200, side: int = 64) -> Tensor:
    """Patches that differ in grey and slope, so that no part of one is like another's."""
    across = torch.linspace(0.2, 0.8, side).expand(count, 1, side, side)
    return across * torch.linspace(0.5, 1, count).view(-1, 1, 1, 1)


def test_about_half_of_the_patches_are_spoilt_and_a_small_part_of_each() -> None:
    patches = smooth_web()
    result = spoilt(patches, torch.Generator().manual_seed(1))
    changed = (result != patches).flatten(1).float().mean(1)
    assert 70 < int((changed > 0).sum()) < 130
    assert 0.05 < float(changed[changed > 0].mean()) < 0.3
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_blots_of_all_sizes_are_pasted() -> None:
    patches = smooth_web()
    changed = (spoilt(patches, torch.Generator().manual_seed(1)) != patches)[:, 0].numpy()
    sizes = [part.sum() / (cv2.connectedComponents(part.astype(np.uint8))[0] - 1) for part in changed if part.any()]
    assert min(sizes) < 12  # pixels of a blot, on the patch's average
    assert max(sizes) > 150


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_few_patches_is_spoilt_too(count: int) -> None:
    assert spoilt(smooth_web(count), torch.Generator().manual_seed(3)).shape == (count, 1, 64, 64)


def test_blots_depend_on_the_generator_alone() -> None:
    first, second, other = (spoilt(smooth_web(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loss_is_against_what_is_wanted() -> None:
    wanted = smooth_web(8, 32)
    shown = spoilt(wanted, torch.Generator().manual_seed(3))
    assert not torch.equal(shown, wanted)

    class Passing(Autoencoder):  # a model that leaves nothing out
        def forward(self, patches: Tensor) -> Tensor:
            return patches

    for method in ("ssim", "l2"):
        objective = Objective(small(method=method), CPU)
        loss = objective(Passing(4, 1, 32), shown, torch.Generator(), wanted)
        assert float(loss) == float(reconstruction_loss(method, wanted, shown, SMALL.ssim)) > 0
        assert float(objective(Passing(4, 1, 32), wanted, torch.Generator())) == pytest.approx(0, abs=1e-6)


def test_training_shows_blots_and_wants_the_web_without(easy: GoodImages) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    whole = Objective.__call__

    def watched(self: Objective, model: Any, patches: Tensor, chance: torch.Generator, wanted: Any = None) -> Tensor:
        if wanted is not None:
            seen.append((patches.clone(), wanted.clone()))
        return whole(self, model, patches, chance, wanted)

    with patch.object(Objective, "__call__", watched):
        fitted(easy, small(augment=("defects",), epochs=1, patches=160))
    shown, wanted = (torch.cat(part) for part in zip(*seen, strict=True))
    assert len(wanted) == 160
    assert torch.equal(wanted, easy.training[0][:, :16].expand(160, 1, 16, 16))  # all of this web's patches are alike
    spoilt_ones = (shown != wanted).flatten(1).any(1)
    assert 40 < int(spoilt_ones.sum()) < 120


# ------------------------------------------------------------------------------------------------ loss, learning rate


def test_the_loss_is_one_minus_ssim_or_the_squared_error() -> None:
    first, second = ramp(4), ramp(8)[4:]
    settings = SsimSettings(window=7)
    ssim = float(reconstruction_loss("ssim", first, second, settings))
    assert ssim == pytest.approx(1 - float(similarity(first, second, settings, window_mean_reflected).mean()), abs=1e-6)
    assert float(reconstruction_loss("ssim", first, first, settings)) == pytest.approx(0, abs=1e-5)
    squared = float(reconstruction_loss("l2", first, second, settings))
    assert squared == pytest.approx(float(np.mean((first.numpy() - second.numpy()) ** 2)), rel=1e-5)


def learning_rates(images: GoodImages, schedule: str) -> list[float]:
    trainer = Trainer(images, small(schedule=schedule, epochs=2, learning_rate=1e-3), CPU)
    rates: list[float] = []
    trainer.fit(on_step=lambda *_: rates.append(trainer._optimiser.param_groups[0]["lr"]))
    return rates


def test_the_learning_rate_is_constant_or_falls_as_a_cosine(images: GoodImages) -> None:
    assert learning_rates(images, "constant") == [1e-3] * 6
    expected = [1e-3 * (1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]
    assert learning_rates(images, "cosine") == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------ the command


def trained(images: Path | str, output: Path, *arguments: str) -> int:
    few = ("--epochs", "2", "--patches", "64", "--patch-size", "16", "--latent", "4", "--false-alarms", "100")
    return main(["train", "--images", str(images), "--output", str(output), *TINY, *few, *arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--patch-size", "100"), 2, "patch_size = 100"),
        (("--epochs", "0"), 2, "epochs = 0"),
        (("--patches", "0"), 2, "patches = 0"),
        (("--batch", "-1"), 2, "batch = -1"),
        (("--window", "10"), 2, "window = 10"),
        (("--learning-rate", "nan"), 2, "learning_rate = nan"),
        (("--stride", "17"), 2, "--stride 17"),
        (("--stride", "0"), 2, "--stride 0"),
        (("--smoothing-sigma", "-1"), 2, "--smoothing-sigma -1"),
        (("--smoothing-sigma", "nan"), 2, "--smoothing-sigma nan"),
        (("--false-alarms", "0"), 2, "a rate of 0"),
        (("--false-alarms", "nan"), 2, "a rate of nan"),
        (("--pixel-size-mm", "0"), 2, "pixels of 0 mm"),
        (("--columns", "10:500"), 65, "10:500 were asked for"),
        (("--columns", "90:"), 65, "at least 16×16"),
        (("--patch-size", "128"), 65, "96×160 pixels: training at scale 1/1 needs at least 128×128"),
        (("--scale", "10"), 65, "training at scale 1/10 needs at least 160×160"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(
    good_footage: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert trained(good_footage, tmp_path / "M.pt", *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("linescan train: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_trained_on(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    damaged = write_frames(tmp_path / "damaged", weave(300), 100)
    (damaged / "0001.png").write_bytes((damaged / "0001.png").read_bytes()[:500])
    uneven = write_frames(tmp_path / "uneven", weave(300), 100)
    write_image(uneven / "0002.png", weave(100, COLUMNS - 1))
    for folder, said in (
        ("empty", "the folder has none"),
        ("missing", "No such file"),
        ("damaged", "0001.png is cut off after 500 bytes: it cannot be trained on"),
        ("uneven", "0002.png is 95 columns wide, the footage before it 96: it cannot be trained on"),
    ):
        assert trained(tmp_path / folder, tmp_path / "M.pt") == 65
        assert said in capsys.readouterr().err
    assert trained(good_footage, tmp_path / "nowhere" / "M.pt") == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "empty", "uneven"]


def test_the_columns_up_to_the_last_one(good_footage: Path, tmp_path: Path) -> None:
    assert trained(good_footage, tmp_path / "M.pt", "--columns", "8:", "--method", "l2") == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    assert metadata.columns == metadata.training.columns == (8, COLUMNS)
    assert metadata.method == "l2"


def test_a_command_that_was_interrupted_goes_on_where_it_was(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--method", "l2", "--augment", "flip-lines", "--epochs", "2", "--patches", "32")
    assert trained(good_footage, tmp_path / "whole.pt", *arguments) == 0
    real = Trainer._validate

    def interrupted(self: Trainer, number: int, loss: float) -> Epoch:
        if number == 2:
            raise KeyboardInterrupt
        return real(self, number, loss)

    with patch.object(Trainer, "_validate", interrupted):
        assert trained(good_footage, tmp_path / "M.pt", *arguments) == 130
    assert capsys.readouterr().err.endswith("linescan train: interrupted\n")
    assert not (tmp_path / "M.pt").exists()
    assert trained(good_footage, tmp_path / "M.pt", *arguments) == 0
    assert "resumed from" in capsys.readouterr().out
    assert same(tiny_weights(tmp_path / "M.pt"), tiny_weights(tmp_path / "whole.pt"))
    assert trained(good_footage, tmp_path / "M.pt", *arguments, "--seed", "7") == 65
    assert "differs in seed" in capsys.readouterr().err
    assert trained(good_footage, tmp_path / "M.pt", *arguments, "--fresh") == 0
    assert "resumed from" not in capsys.readouterr().out


def test_bundles_on_the_way(good_footage: Path, tmp_path: Path) -> None:
    assert trained(good_footage, tmp_path / "M.pt", "--method", "l2", "--bundle-every", "1") == 0
    assert load_bundle(tmp_path / "M.epoch001.pt").metadata.metrics["epochs"] == 1
    assert load_bundle(tmp_path / "M.pt").metadata.metrics["epochs"] == 2
    assert not (tmp_path / "M.epoch002.pt").exists()


def test_a_bundle_on_the_way_that_is_too_weak_does_not_end_the_training(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = train_command.produce

    def weak_at_first(trainer: Trainer, *others: Any) -> Any:
        if len(trainer.history) < 2:
            raise TrainingError("it sees none of the defects")
        return real(trainer, *others)

    with patch.object(train_command, "produce", weak_at_first):
        assert trained(good_footage, tmp_path / "M.pt", "--method", "l2", "--bundle-every", "1") == 0
    assert not (tmp_path / "M.epoch001.pt").exists()
    assert (tmp_path / "M.pt").exists()
    said = capsys.readouterr()
    assert "M.epoch001.pt was not written: it sees none of the defects" in said.out + said.err


def test_what_could_never_be_written_is_refused_first(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for every in ("0", "-1"):
        assert trained(good_footage, tmp_path / "M.pt", "--bundle-every", every) == 2
        assert "1 or more epochs" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert trained(good_footage, tmp_path / "folder") == 2
    assert "a file was expected, it is a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_checkpoint_for_which_there_is_no_room_is_named(
    good_footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
    try:
        code = trained(good_footage, tmp_path / "M.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    error = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in error
    assert f"{tmp_path / 'M.pt.checkpoint'}: File too large" in error
    assert list(tmp_path.iterdir()) == []


def test_what_was_asked_for_is_in_the_bundle(tiny_bundle: Path, good_footage: Path) -> None:
    metadata = load_bundle(tiny_bundle).metadata
    assert (metadata.stride, metadata.blend, metadata.smoothing_sigma) == (16, "hann", 1.0)
    assert (metadata.training.epochs, metadata.training.patches, metadata.training.seed) == (4, 640, 0)
    assert metadata.training_sha256 == load_good_images([str(good_footage)], None, 1, 32).fingerprint
    assert metadata.threshold_basis is not None
    assert (metadata.threshold_basis.false_alarms, metadata.threshold_basis.per) == (30, "megapixel")
    assert metadata.threshold_basis.extrapolated
    assert metadata.metrics["correlation"] > 0.3
    assert 0 < metadata.band.mean_low < 0.47 < metadata.band.mean_high < 1


def test_the_paper_s_preset(good_footage: Path, tmp_path: Path) -> None:
    arguments = ("--preset", "paper", "--patch-size", "32", "--method", "l2", "--smoothing-sigma", "0")
    assert trained(good_footage, tmp_path / "M.pt", *arguments) == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    assert (metadata.stride, metadata.blend, metadata.smoothing_sigma) == (30, "mean", 0)
    assert not (tmp_path / "M.toml").exists()


def test_a_small_patch_takes_a_stride_that_fits(good_footage: Path, tmp_path: Path) -> None:
    assert trained(good_footage, tmp_path / "M.pt", "--method", "l2") == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    assert metadata.stride in strides_for(16)
    assert max(strides_for(16)) < 16


def test_colour_and_depth_go_all_the_way(tmp_path: Path) -> None:
    web = weave(128, 64)
    folder = write_frames(tmp_path / "rgb", np.stack([web, web // 2, 255 - web], 2), 64)
    assert trained(folder, tmp_path / "rgb.pt", "--method", "l2", "--scale", "2") == 0
    bundle = load_bundle(tmp_path / "rgb.pt")
    assert (bundle.metadata.channels, bundle.metadata.scale) == (3, 2)
    assert bundle.reference.shape == (32, 32, 3)
    deep = write_frames(tmp_path / "deep", web.astype(np.uint16) * 257, 64)
    assert trained(deep, tmp_path / "deep.pt", "--method", "l2") == 0
    assert load_setup(tmp_path / "deep.pt").settings.channels == 1


def test_a_web_that_differs_across_gets_a_recipe(tmp_path: Path) -> None:
    """Noise that grows to the right, as in dim light, makes the residual grow there."""
    rng = np.random.default_rng(0)
    web = 120 + rng.normal(0, 1, (384, 96)) * np.linspace(1, 20, 96)
    folder = write_frames(tmp_path / "web", web.clip(0, 255).astype(np.uint8), 192)
    assert trained(folder, tmp_path / "M.pt", "--method", "l2", "--false-alarms", "1000") == 0
    setup = load_setup(None, tmp_path / "M.toml")
    assert setup.calibration is not None
    assert setup.calibration.mean[80] > 2 * setup.calibration.mean[10]
    assert json.loads(json.dumps(setup.pinned))["model_sha256"] == load_bundle(tmp_path / "M.pt").sha256


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (20, 1e-3, "cosine")),
        (("--preset", "paper"), (200, 2e-4, "constant")),
        (("--method", "l2"), (200, 2e-4, "constant")),
        (("--epochs", "3", "--schedule", "constant"), (3, 1e-3, "constant")),
        (("--preset", "paper", "--learning-rate", "0.01"), (200, 0.01, "constant")),
    ],
)
def test_the_course_of_a_training_is_the_presets(
    arguments: tuple[str, ...], expected: tuple[Any, ...], good_footage: Path, tmp_path: Path
) -> None:
    class SeenError(BaseException):  # the command line answers every Exception
        pass

    seen: list[TrainingSettings] = []

    def stop(_images: GoodImages, settings: TrainingSettings, *_: Any) -> None:
        seen.append(settings)
        raise SeenError

    with patch("linescan.cli.train.Trainer", stop), pytest.raises(SeenError):
        main(
            [
                "train",
                "--images",
                str(good_footage),
                "--output",
                str(tmp_path / "M.pt"),
                "--patch-size",
                "16",
                *arguments,
            ]
        )
    assert (seen[0].epochs, seen[0].learning_rate, seen[0].schedule) == expected


def test_smoothing_is_chosen_by_pasted_defects(good_footage: Path, tmp_path: Path) -> None:
    few = ("--epochs", "1", "--patches", "32", "--patch-size", "16", "--latent", "4", "--method", "l2")
    tiny = [value for value in TINY if value not in ("--smoothing-sigma", "1")]
    assert main(["train", "--images", str(good_footage), "--output", str(tmp_path / "M.pt"), *tiny, *few]) == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    assert metadata.smoothing_sigma in (0, 1, 2, 3, 4, 6, 8, 10, 14)
    assert 0 <= metadata.metrics["pasted_defects_found"] <= 1
