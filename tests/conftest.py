"""Shared by the tests of models, training, replay and commands: a rendered weave, a model trained on it, toy models."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from linescan.cli.main import main
from linescan.config import ImageBand, SsimSettings, TrainingSettings
from linescan.footage import write_image
from linescan.inspection import opening, residual
from linescan.models import runner
from linescan.models.bundle import BundleMetadata, Reference, save_bundle

Grey = NDArray[np.uint8]

COLUMNS = 96
TINY = (
    *("--patch-size", "32", "--latent", "16", "--batch", "16", "--learning-rate", "1e-3", "--precision", "float32"),
    *("--device", "cpu", "--smoothing-sigma", "1", "--schedule", "constant"),
)
# how every test runs a model: one thread, and nothing measured first
RUN = ("--device", "cpu", "--precision", "float32", "--batch", "8", "--threads", "1")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A run in the background is started with SIGINT ignored, and what it starts would ignore it too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _small_machine() -> Iterator[None]:
    """One thread, and no trials to find the fastest batch: the tests share their machine."""
    with patch.object(runner, "available_threads", return_value=1), patch.object(runner, "BATCHES", (16,)):
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="module")
def device_filters() -> Iterator[None]:
    """The filters of a device: those of the CPU have no place in a device's queues, and round otherwise."""
    with patch.object(residual, "on_cpu", lambda _maps: False), patch.object(opening, "on_cpu", lambda _maps: False):
        yield


# ------------------------------------------------------------------------------------------------ footage


def weave(lines: int, columns: int = COLUMNS, seed: int = 0) -> Grey:
    """A plain weave with a period of 8 pixels each way, and a little noise."""
    rng = np.random.default_rng(seed)
    line, column = np.arange(lines)[:, None], np.arange(columns)[None]
    pattern = np.sin(2 * np.pi * line / 8) * np.sin(2 * np.pi * column / 8)
    return (120 + 50 * pattern + rng.normal(0, 3, (lines, columns))).clip(0, 255).astype(np.uint8)


def write_frames(folder: Path, pixels: NDArray[Any], heights: Sequence[int] | int) -> Path:
    """Cuts the lines into PNG frames of the given heights, the last one as it comes; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    first, number = 0, 0
    while first < len(pixels):
        height = heights if isinstance(heights, int) else heights[number % len(heights)]
        write_image(folder / f"{number:04d}.png", pixels[first : first + height])
        first, number = first + height, number + 1
    return folder


@pytest.fixture(scope="session")
def good_footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("good"), weave(640), 160)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, good_footage: Path) -> Path:
    """Trained by the real command in a few seconds; it finds blots on the weave."""
    path = tmp_path_factory.mktemp("tiny") / "M.pt"
    amount = ("--epochs", "4", "--patches", "640", "--stride", "16", "--false-alarms", "30")
    assert main(["train", "--images", str(good_footage), "--output", str(path), *TINY, *amount]) == 0
    return path


# ------------------------------------------------------------------------------------------------ toy models


class Smooth(nn.Module):
    """Reconstructs the patch blurred: with method l2, the score is high where the web is not smooth."""

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(patches, (4, 4, 4, 4), "reflect"), 9, 1)


class NanWhereBright(nn.Module):
    """As Smooth, but it computes nonsense from bright web."""

    def forward(self, patches: Tensor) -> Tensor:
        smooth = nn.functional.avg_pool2d(nn.functional.pad(patches, (4, 4, 4, 4), "reflect"), 9, 1)
        return torch.where(patches.mean(dim=(1, 2, 3), keepdim=True) > 0.8, torch.nan, smooth)


class Blind(nn.Module):
    """Reconstructs everything, defects too: it sees nothing."""

    def forward(self, patches: Tensor) -> Tensor:
        return patches * 1.0


class Halved(nn.Module):
    """Returns another shape than it got."""

    def forward(self, patches: Tensor) -> Tensor:
        return patches[:, :, ::2]


class NotANumber(nn.Module):
    def forward(self, patches: Tensor) -> Tensor:
        return patches * torch.nan


TOY_PATCH = 16
TOY_THRESHOLD = 0.01


def plain(lines: int, columns: int = 64, seed: int = 0) -> Grey:
    """Web for the toy models: one grey with a little noise."""
    return (120 + np.random.default_rng(seed).normal(0, 2, (lines, columns))).clip(0, 255).astype(np.uint8)


def blot(pixels: NDArray[Any], line: int, column: int, size: int = 8, value: int = 255) -> NDArray[Any]:
    """The same web with a square of another grey."""
    marked = pixels.copy()
    marked[line : line + size, column : column + size] = value
    return marked


def toy_metadata(**changes: Any) -> BundleMetadata:
    fields: dict[str, Any] = {
        "method": "l2", "channels": 1, "patch_size": TOY_PATCH, "latent_dim": 1, "scale": 1, "stride": 8,
        "threshold": TOY_THRESHOLD, "blend": "mean", "smoothing_sigma": 0.0, "ssim": SsimSettings(),
        "band": ImageBand(mean_low=0.1, mean_high=0.95, lines=16),
        "reference": Reference(first_line=4, last_line=11, first_column=4, last_column=11),
        "training": TrainingSettings(patch_size=TOY_PATCH), "training_sha256": "", "version": "toy",
    }  # fmt: skip
    return BundleMetadata(**{**fields, **changes})


def toy_bundle(path: Path, model: nn.Module | None = None, **changes: Any) -> Path:
    """Writes a bundle around a toy model; `changes` are fields of its metadata."""
    metadata = toy_metadata(**changes)
    side = metadata.patch_size * metadata.scale
    reference = blot(np.full((side, side), 120, np.uint8), side // 4, side // 4, side // 2)
    if metadata.channels == 3:
        reference = np.repeat(reference[..., None], 3, 2)
    save_bundle(path, model or Smooth(), metadata, reference)
    return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of Smooth that finds blots on plain web."""
    return toy_bundle(tmp_path_factory.mktemp("toy") / "toy.pt")


# ------------------------------------------------------------------------------------------------ a live line


@pytest.fixture(scope="session")
def simulated_camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated camera's GenTL producer."""
    from tests.line_rig import build_producer

    if importlib.util.find_spec("harvesters") is None:
        pytest.skip("the GenICam packages are not installed")
    producer = build_producer(tmp_path_factory.mktemp("producer"))
    if producer is None:
        pytest.skip("the simulated camera needs a C compiler, and there is none")
    return producer


# ------------------------------------------------------------------------------------------------ looking inside


def archive_records(path: Path) -> dict[str, bytes]:
    """The records of a bundle by their full names."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, records: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in records.items():
            archive.writestr(name, value)
    return path


def rehashed(records: dict[str, bytes]) -> dict[str, bytes]:
    """The records with linescan.json vouching for them, as one would write who means harm or has a bug."""
    digest = hashlib.sha256()
    inner = {name.partition("/")[2]: value for name, value in records.items()}
    for key in sorted(inner):
        if key != "extra/linescan.json" and not key.endswith(".debug_pkl"):
            digest.update(f"{key}\0{len(inner[key])}\0".encode() + inner[key])
    about = json.loads(records["bundle/extra/linescan.json"])
    about["content_sha256"] = digest.hexdigest()
    return {**records, "bundle/extra/linescan.json": json.dumps(about).encode()}


def read_image(path: Path) -> NDArray[Any]:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, f"{path} cannot be decoded"
    return np.asarray(image)


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def leftovers(folder: Path) -> list[str]:
    """Temporary files that somebody left behind."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix in (".part", ".tmp")]


# ------------------------------------------------------------------------------------------------ one after the other

# These live in real time: a line of processes with its leases and watchdogs, sockets and brokers with their timeouts,
# a clock that is looked at; or they interrupt their own process. tools/test.sh runs the others several at a time, and
# these by themselves.
ALONE = frozenset(
    f"test_{name}.py"
    for name in (
        "cli_words", "faults_camera", "faults_disk", "faults_kills", "faults_plc", "faults_sockets", "genicam",
        "live_bench", "metrics_export", "modbus", "mqtt", "opcua", "operators", "plc_desk", "recipe_change",
        "recipe_change_live", "recorder", "replay", "simulator", "subscriber", "supervisor", "systemd", "transport",
    )
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = sorted(name for name in ALONE if not (Path(__file__).parent / name).exists())
    if missing:
        raise pytest.UsageError(f"{__file__}: ALONE names what is not there: {', '.join(missing)}")
    for item in items:
        if item.path.name in ALONE:
            item.add_marker(pytest.mark.alone)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-references", action="store_true", help="store the events of the replay references anew")
