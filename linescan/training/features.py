"""The features of the feature matching autoencoder (eq. 3): the first three convolutional layers of AlexNet."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from linescan.errors import ConfigError, InputError

# torchvision's names and shapes of the three layers' weights; its state dict also holds the rest of the network
LAYERS = {"features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3)}
HUB_FILES = "alexnet-owt-*.pth"  # as torchvision names them in torch hub's folder of checkpoints
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels, with which it was trained
SMALLEST_PATCH = 32  # smaller ones leave nothing after the second pooling
RANDOM = "random"


class AlexNetFeatures(nn.Module):
    """F of eq. 3: N×C×P×P patches in [0, 1], grey or RGB → N×f, what the third layer gives after its ReLU."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        rgb = patches.expand(-1, 3, -1, -1)  # grey is the same in all three
        return self.features((rgb - self.mean) / self.deviation).flatten(1)  # type: ignore[no-any-return]


def load_features(asked: str | None, patch_size: int) -> tuple[AlexNetFeatures, str]:
    """The network and its name for the bundle: its file's sha256, or "random".

    Args:
        asked: a file of torchvision's AlexNet state dict, or "random" for weights that were never trained; None looks
            into torch hub's folder.

    Raises:
        ConfigError: no weights, or patches too small. InputError: a file that is no such state dict.
    """
    if patch_size < SMALLEST_PATCH:
        raise ConfigError(f"--method fm: AlexNet's layers need patches of {SMALLEST_PATCH} or more, got {patch_size}")
    if asked == RANDOM:
        return random_features(), RANDOM
    path = Path(asked) if asked is not None else _in_hub()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"--features {path}: cannot be read: {error.strerror}") from error
    features = AlexNetFeatures()
    features.load_state_dict(_state(data, path))
    return features, hashlib.sha256(data).hexdigest()


def random_features() -> AlexNetFeatures:
    """The layers with He's weights from a fixed seed: for experiments on what the training on ImageNet is worth."""
    features, generator = AlexNetFeatures(), torch.Generator().manual_seed(0)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return features


def _in_hub() -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(folder.glob(HUB_FILES))
    if not found:
        raise ConfigError(
            f"--method fm needs AlexNet trained on ImageNet: there is no {HUB_FILES} in {folder}; give torchvision's "
            "file with --features FILE, or --features random for an experiment with untrained features"
        )
    return found[0]


def _state(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        wanted = {f"{layer}.{part}": shape for layer, full in LAYERS.items() for part, shape in _parts(full)}
        wrong = [key for key, shape in wanted.items() if tuple(stored[key].shape) != shape]
        state = {key: stored[key] for key in wanted}
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise InputError(f"--features {path}: not torchvision's state dict of AlexNet: {error!r}") from error
    if wrong:
        raise InputError(
            f"--features {path}: not torchvision's state dict of AlexNet: {wrong[0]} has the shape "
            f"{tuple(state[wrong[0]].shape)}, {wanted[wrong[0]]} was expected"
        )
    return state


def _parts(weight: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return ("weight", weight), ("bias", weight[:1])
