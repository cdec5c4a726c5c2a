"""The paper's methods beside SSIM and VAE: eq. 2 and 3, AlexNet's weights, and the training that all four share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from linescan.cli.main import main
from linescan.config import InspectionSettings, SsimSettings, TrainingSettings
from linescan.errors import ConfigError, InputError, TrainingError
from linescan.inspection.residual import residual
from linescan.models.autoencoder import Autoencoder, initialise
from linescan.models.bundle import load_bundle
from linescan.training import train
from linescan.training.agreement import effective_dimensions
from linescan.training.dataset import GoodImages, load_good_images
from linescan.training.features import LAYERS, AlexNetFeatures, load_features, random_features
from linescan.training.losses import Objective
from linescan.training.train import Trainer
from tests.conftest import TINY, weave, write_frames

CPU = torch.device("cpu")
PATCH = 32


def asked(**changes: object) -> TrainingSettings:
    usual: dict[str, object] = {
        "method": "l2", "patch_size": PATCH, "latent_dim": 4, "epochs": 2, "patches": 48, "batch": 16,
        "learning_rate": 2e-3,
    }  # fmt: skip
    return TrainingSettings.model_validate({**usual, **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> GoodImages:
    folder = write_frames(tmp_path_factory.mktemp("small"), weave(192, 48), 96)
    return load_good_images([str(folder)], None, 1, PATCH)


def pair(count: int = 3, channels: int = 1) -> tuple[Tensor, Autoencoder]:
    generator = torch.Generator().manual_seed(0)
    model = Autoencoder(4, channels, PATCH)
    initialise(model, 0.5, generator)
    return torch.rand(count, channels, PATCH, PATCH, generator=generator), model


def loss_of(settings: TrainingSettings, web: Tensor, model: Autoencoder, features: nn.Module | None = None) -> float:
    with torch.inference_mode():
        return float(Objective(settings, CPU, features)(model, web, torch.Generator()))


# ------------------------------------------------------------------------------------------------ eq. 2 and eq. 3


def test_the_l2_loss_is_eq_2_over_the_pixels() -> None:
    web, model = pair()
    with torch.inference_mode():
        sums = [float(((x - y) ** 2).sum()) for x, y in zip(web, model(web), strict=True)]
    assert loss_of(asked(), web, model) == pytest.approx(np.mean(sums) / PATCH**2, rel=1e-5)


@pytest.mark.parametrize("method", ["l2", "fm"])
def test_the_residual_is_the_squared_error_per_pixel(method: str) -> None:
    rng = np.random.default_rng(0)
    web, reconstruction = (torch.from_numpy(rng.random((3, 7, 5)).astype(np.float32)) for _ in range(2))
    settings = InspectionSettings.model_validate({"method": method, "threshold": 0, "channels": 3})
    expected = ((web.numpy() - reconstruction.numpy()) ** 2).mean(0)
    assert np.allclose(residual(web, reconstruction, settings).numpy(), expected)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_feature_matching_loss_is_eq_3_over_the_pixels(weight: float) -> None:
    web, model = pair()
    features = random_features()
    with torch.inference_mode():
        distances = [
            float(((features(x[None]) - features(y[None])) ** 2).sum()) for x, y in zip(web, model(web), strict=True)
        ]
    expected = loss_of(asked(), web, model) + weight * np.mean(distances) / PATCH**2
    settings = asked(method="fm", features="random", feature_weight=weight)
    assert np.mean(distances) > 0
    assert loss_of(settings, web, model, features) == pytest.approx(expected, rel=1e-4)


def test_the_features_are_never_trained(images: GoodImages) -> None:
    features = random_features()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    trainer = Trainer(images, asked(method="fm", features="random"), CPU, features=features)
    trainer.fit()
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())
    assert len(trainer.history) == 2


def test_features_change_what_is_learnt(images: GoodImages) -> None:
    matched = Trainer(images, asked(method="fm", features="random"), CPU, features=random_features())
    plain = Trainer(images, asked(), CPU)
    for trainer in (matched, plain):
        trainer.fit()
    ours, theirs = matched.model.state_dict(), plain.model.state_dict()
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("method", "features"), [("fm", ""), ("l2", "random"), ("fm", "somebody's")])
def test_features_belong_to_feature_matching(method: str, features: str) -> None:
    with pytest.raises(ValueError, match="features"):
        asked(method=method, features=features)


def test_a_trainer_without_the_features_it_needs_is_refused(images: GoodImages) -> None:
    with pytest.raises(ConfigError, match="method fm: a feature extractor is needed"):
        Trainer(images, asked(method="fm", features="random"), CPU)


# ------------------------------------------------------------------------------------------------ AlexNet


def alexnet_state(seed: int = 0) -> dict[str, Tensor]:
    """Keys and shapes of torchvision's AlexNet, its classifier among them, with weights of our own."""
    generator = torch.Generator().manual_seed(seed)
    state = {"classifier.6.bias": torch.zeros(1000)}
    for layer, shape in LAYERS.items():
        state[f"{layer}.weight"] = torch.randn(shape, generator=generator) * 0.02
        state[f"{layer}.bias"] = torch.randn(shape[:1], generator=generator) * 0.02
    return state


def stored(path: Path, state: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_the_features_are_alexnets_first_three_layers(tmp_path: Path, channels: int) -> None:
    state = alexnet_state()
    features, name = load_features(str(stored(tmp_path / "alexnet.pth", state)), PATCH)
    assert name == hashlib.sha256((tmp_path / "alexnet.pth").read_bytes()).hexdigest()
    web = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    maps = (web.repeat(1, 3 // channels, 1, 1) - mean) / deviation
    f = nn.functional
    maps = f.relu(f.conv2d(maps, state["features.0.weight"], state["features.0.bias"], stride=4, padding=2))
    maps = f.max_pool2d(maps, 3, 2)
    maps = f.relu(f.conv2d(maps, state["features.3.weight"], state["features.3.bias"], padding=2))
    maps = f.max_pool2d(maps, 3, 2)
    maps = f.relu(f.conv2d(maps, state["features.6.weight"], state["features.6.bias"], padding=1))
    with torch.inference_mode():
        assert torch.allclose(features(web), maps.flatten(1), atol=1e-6)
    assert float(maps.abs().max()) > 0


def test_features_come_from_torch_hubs_folder(tmp_path: Path) -> None:
    path = stored(tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth", alexnet_state())
    with patch.object(torch.hub, "get_dir", return_value=str(tmp_path)):
        assert load_features(None, PATCH)[1] == hashlib.sha256(path.read_bytes()).hexdigest()


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not torchvision's state dict"),
        (b"garbage", "not torchvision's state dict"),
        ([1, 2], "not torchvision's state dict"),
        (without(alexnet_state(), "features.3.bias"), "features.3.bias"),
        ({**alexnet_state(), "features.6.weight": torch.zeros(384, 192, 5, 5)}, r"features.6.weight has the shape"),
        (AlexNetFeatures(), "not torchvision's state dict"),  # a whole pickled module is code
    ],
)
def test_a_file_that_is_no_alexnet_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"--features .*weights.pth: .*{said}"):
        load_features(str(path), PATCH)


def test_no_weights_at_all(tmp_path: Path, good_footage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--method", "fm", "--images", str(good_footage), "--output", str(tmp_path / "M.pt"), *TINY]
    with patch.object(torch.hub, "get_dir", return_value=str(tmp_path)):
        assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"no alexnet-owt-*.pth in {tmp_path}/checkpoints" in said
    assert "--features FILE" in said
    assert "--features random" in said
    assert main([*arguments, "--features", str(tmp_path / "none.pth")]) == 65
    assert "none.pth: cannot be read" in capsys.readouterr().err
    assert main([*arguments, "--features", "random", "--patch-size", "16"]) == 2
    assert "patches of 32 or more, got 16" in capsys.readouterr().err
    arguments[2] = "ssim"
    assert main([*arguments, "--features", "random"]) == 2
    assert "only --method fm has features, not ssim" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_random_features_are_marked_in_the_bundle(good_footage: Path, tmp_path: Path) -> None:
    amount = (
        "--epochs",
        "6",
        "--patches",
        "640",
        "--stride",
        "16",
        "--false-alarms",
        "1000",
        "--feature-weight",
        "0.01",
    )
    arguments = ["train", "--method", "fm", "--features", "random", "--images", str(good_footage)]
    assert main([*arguments, "--output", str(tmp_path / "M.pt"), *TINY, *amount]) == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    assert (metadata.method, metadata.training.features, metadata.training.feature_weight) == ("fm", "random", 0.01)


def test_a_checkpoint_of_other_features_is_refused(images: GoodImages, tmp_path: Path) -> None:
    Trainer(images, asked(method="fm", features="random", epochs=1), CPU, tmp_path / "c", random_features()).fit()
    features, name = load_features(str(stored(tmp_path / "alexnet.pth", alexnet_state())), PATCH)
    with pytest.raises(InputError, match=r"differs in features"):
        Trainer(images, asked(method="fm", features=name), CPU, tmp_path / "c", features)


def test_a_checkpoint_from_before_the_methods_is_resumed(images: GoodImages, tmp_path: Path) -> None:
    Trainer(images, asked(epochs=1), CPU, tmp_path / "c").fit()
    state = torch.load(tmp_path / "c", weights_only=True)
    for key in ("samples", "kl_weight", "kl_warmup_epochs", "features", "feature_weight"):
        del state["settings"][key]
    for epoch in state["history"]:
        del epoch["variation"], epoch["latent_used"]
    torch.save(state, tmp_path / "c")
    assert len(Trainer(images, asked(epochs=2), CPU, tmp_path / "c").history) == 1


# ------------------------------------------------------------------------------------------------ other patch sizes


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("method", ["ssim", "vae"])
def test_patches_of_table_2(tmp_path: Path, method: str, size: int) -> None:
    """The sizes of Table 2 train and inspect, at the paper's stride."""
    folder = write_frames(tmp_path / "good", weave(256, 96), 128)
    arguments = ["--method", method, "--patch-size", str(size), "--preset", "paper", "--false-alarms", "100000"]
    few = ("--epochs", "1", "--patches", "16", "--latent", "4", "--batch", "16", "--device", "cpu")
    output = tmp_path / "M.pt"
    assert main(["train", "--images", str(folder), "--output", str(output), *arguments, *few]) == 0
    metadata = load_bundle(output).metadata
    assert (metadata.patch_size, metadata.stride, metadata.blend, metadata.smoothing_sigma) == (size, 30, "mean", 0)


# ------------------------------------------------------------------------------------------------ as on a GPU


def losses_read_together(trainer: Trainer, together: int) -> Trainer:
    trainer.losses_together = together
    return trainer


@pytest.mark.parametrize("method", ["ssim", "vae"])
def test_reading_losses_rarely_changes_nothing(images: GoodImages, method: str) -> None:
    """The path of a GPU, whose losses are read 32 steps at a time."""
    seen: list[list[tuple[int, int, float]]] = []
    trainers = [losses_read_together(Trainer(images, asked(method=method), CPU), count) for count in (1, 2, 32)]
    for trainer in trainers:
        steps: list[tuple[int, int, float]] = []
        trainer.fit(on_step=lambda *step, steps=steps: steps.append(step))  # type: ignore[misc]
        seen.append(steps)
    assert [step for step, _, _ in seen[0]] == [1, 2, 3] * 2
    assert seen[0] == seen[1] == seen[2]
    assert trainers[0].history == trainers[1].history == trainers[2].history
    for name, value in trainers[0].model.state_dict().items():
        assert torch.equal(value, trainers[2].model.state_dict()[name]), name


def test_a_loss_that_is_no_number_is_named_by_its_step_all_the_same(images: GoodImages, tmp_path: Path) -> None:
    Trainer(images, asked(epochs=1), CPU, tmp_path / "c").fit()
    kept = (tmp_path / "c").read_bytes()
    trainer = losses_read_together(Trainer(images, asked(), CPU, tmp_path / "c"), 32)
    whole = trainer._objective.__call__
    calls: list[int] = []

    def poisoned(model: Any, web: Tensor, generator: torch.Generator, wanted: Tensor | None = None) -> Tensor:
        calls.append(1)
        return whole(model, web, generator, wanted) * (torch.nan if len(calls) == 2 else 1)

    with (
        patch.object(trainer, "_objective", poisoned),
        pytest.raises(TrainingError, match=r"the loss is nan in epoch 2, step 2: .*the checkpoint holds epoch 1"),
    ):
        trainer.fit()
    assert (tmp_path / "c").read_bytes() == kept


def test_nothing_is_moved_to_the_device_within_an_epoch(images: GoodImages) -> None:
    """On `meta`, tensors of another device cannot take part: what is used in a step must be there before."""
    trainer = Trainer(images, asked(augment=("flip-lines", "brightness")), CPU)
    assert {tensor.device for tensor in (trainer._places, trainer._validation, trainer._sampler._flat)} == {CPU}
    moved: list[str] = []
    whole: Callable[..., Tensor] = Tensor.to

    def to(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if any(isinstance(argument, torch.device) for argument in arguments) or "device" in options:
            moved.append(str(tuple(self.shape)))
        return whole(self, *arguments, **options)

    with patch.object(Tensor, "to", to), patch.object(Tensor, "tolist", lambda self: [0.5] * len(self)):
        trainer.losses_together = 32
        trainer._train_epoch(1, None)
    # the order of the patches, once; places are there already and stay (N×3 to their own device)
    assert moved[0] == "(48,)"
    assert set(moved[1:]) <= {"(16, 3)"}


# ------------------------------------------------------------------------------------------------ collapse


def test_effective_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(400, 10, generator=generator)
    assert 9 < effective_dimensions(codes) <= 10
    codes[:, 3:] = 5
    assert 2.5 < effective_dimensions(codes) <= 3
    assert effective_dimensions(codes[:1].expand(7, -1)) == 0
    wide = torch.randn(20, 2, generator=generator) @ torch.randn(2, 500, generator=generator)
    assert effective_dimensions(wide) == pytest.approx(effective_dimensions(wide[:, torch.randperm(500)]), rel=1e-6)
    assert 1 < effective_dimensions(wide) <= 2


def test_a_collapsed_autoencoder_is_refused(images: GoodImages) -> None:
    trainer = Trainer(images, asked(learning_rate=1e-9), CPU)
    average = trainer._validation.mean(0, keepdim=True)
    whole = trainer._objective.reconstruct

    def one_for_all(model: Any, web: Tensor) -> Tensor:
        return average + 1e-4 * whole(model, web)

    with (
        patch.object(train, "DEAD_START_STEPS", 3),
        patch.object(train, "DEAD_CORRELATION", 0.0),  # in this small web patches and their average have much in common
        patch.object(trainer._objective, "reconstruct", one_for_all),
        pytest.raises(TrainingError, match=r"latent dimension has collapsed: .* the same whatever goes in") as error,
    ):
        trainer.fit()
    assert error.value.exit_code == 70


# ------------------------------------------------------------------------------------------------ parameters of SSIM


def test_the_ssim_bundle_says_what_it_was_trained_with(good_footage: Path, tmp_path: Path) -> None:
    given = ("--window", "7", "--window-kind", "gaussian", "--exponents", "1", "0.5", "2", "--constants", "paper")
    few = ("--epochs", "1", "--patches", "32", "--stride", "16", "--false-alarms", "100000")
    arguments = ["train", "--images", str(good_footage), "--output", str(tmp_path / "M.pt"), *TINY, *few, *given]
    assert main(arguments) == 0
    metadata = load_bundle(tmp_path / "M.pt").metadata
    expected = SsimSettings(window=7, kind="gaussian", beta=0.5, gamma=2, c1=0.01, c2=0.03)
    assert metadata.ssim == metadata.training.ssim == expected
    assert json.loads(metadata.model_dump_json())["ssim"]["gamma"] == 2
