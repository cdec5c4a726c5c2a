"""The model bundle: Table 1 inside, the same file for the same model, and a clear word for every file that is none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from linescan import files
from linescan.errors import BundleError, ConfigError
from linescan.files import atomic_file, write_atomically
from linescan.models.autoencoder import Autoencoder, initialise
from linescan.models.bundle import load_bundle, save_bundle
from tests.conftest import (
    TOY_PATCH,
    Halved,
    NotANumber,
    Smooth,
    archive_records,
    leftovers,
    rehashed,
    toy_bundle,
    toy_metadata,
    write_archive,
)

REFERENCE = np.full((TOY_PATCH, TOY_PATCH), 120, np.uint8)
JSON = "bundle/extra/linescan.json"

# ------------------------------------------------------------------------------------------------ Table 1

# Bergmann et al. 2018, Table 1: layer, output size, kernel, stride, padding
TABLE_1 = (
    ("Conv1", (64, 64, 32), 4, 2, 1),
    ("Conv2", (32, 32, 32), 4, 2, 1),
    ("Conv3", (32, 32, 32), 3, 1, 1),
    ("Conv4", (16, 16, 64), 4, 2, 1),
    ("Conv5", (16, 16, 64), 3, 1, 1),
    ("Conv6", (8, 8, 128), 4, 2, 1),
    ("Conv7", (8, 8, 64), 3, 1, 1),
    ("Conv8", (8, 8, 32), 3, 1, 1),
    ("Conv9", (1, 1, None), 8, 1, 0),
)


@pytest.mark.parametrize("latent", [100, 500])
def test_the_encoder_is_table_1(latent: int) -> None:
    convolutions = [layer for layer in Autoencoder(latent).encoder if isinstance(layer, nn.Conv2d)]
    maps = torch.zeros(1, 1, 128, 128)
    assert len(convolutions) == len(TABLE_1) == 9
    for layer, (name, (height, width, channels), kernel, stride, padding) in zip(convolutions, TABLE_1, strict=True):
        maps = layer(maps)
        assert tuple(maps.shape[1:]) == (channels or latent, height, width), name
        assert (layer.kernel_size, layer.stride) == ((kernel, kernel), (stride, stride)), name
        assert (layer.padding, layer.dilation, layer.groups) == ((padding, padding), (1, 1), 1), name


@pytest.mark.parametrize("latent", [100, 500])
def test_the_decoder_mirrors_the_encoder(latent: int) -> None:
    model = Autoencoder(latent)
    forward = [layer for layer in model.encoder if isinstance(layer, nn.Conv2d)]
    backward = [layer for layer in model.decoder if isinstance(layer, nn.ConvTranspose2d)]
    for there, back in zip(forward, reversed(backward), strict=True):
        assert (there.in_channels, there.out_channels) == (back.out_channels, back.in_channels)
        assert (there.kernel_size, there.stride, there.padding) == (back.kernel_size, back.stride, back.padding)
    with torch.inference_mode():
        assert model.decoder(torch.zeros(1, latent, 1, 1)).shape == (1, 1, 128, 128)


def test_every_layer_but_the_ends_has_a_leaky_relu_of_slope_0_2() -> None:
    model = Autoencoder(100)
    for half, kind in ((model.encoder, nn.Conv2d), (model.decoder, nn.ConvTranspose2d)):
        kinds = [type(layer) for layer in half]
        assert kinds == [kind, nn.LeakyReLU] * 8 + [kind]  # ends linearly
        assert {layer.negative_slope for layer in half if isinstance(layer, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize(("latent", "channels"), [(100, 1), (500, 1), (100, 3)])
def test_the_number_of_parameters(latent: int, channels: int) -> None:
    model = Autoencoder(latent, channels)
    inputs = [channels, *(size[2] for _, size, *_ in TABLE_1[:-1] if size[2])]
    outputs = [*inputs[1:], latent]
    weights = sum(a * b * row[2] ** 2 for a, b, row in zip(inputs, outputs, TABLE_1, strict=True))
    assert sum(p.numel() for p in model.parameters()) == 2 * weights + sum(outputs) + sum(inputs)


@pytest.mark.parametrize(("patch_size", "kernel"), [(16, 1), (32, 2), (64, 4), (256, 16)])
def test_other_patch_sizes_change_conv9_alone(patch_size: int, kernel: int) -> None:
    model = Autoencoder(8, 1, patch_size)
    assert model.encoder[-1].kernel_size == model.decoder[0].kernel_size == (kernel, kernel)
    with torch.inference_mode():
        assert model.encoder(torch.zeros(2, 1, patch_size, patch_size)).shape == (2, 8, 1, 1)
        assert model(torch.zeros(2, 1, patch_size, patch_size)).shape == (2, 1, patch_size, patch_size)


@pytest.mark.parametrize("patch_size", [0, -16, 8, 100, 129])
def test_a_patch_size_that_does_not_halve_four_times_is_refused(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 16, got {patch_size}"):
        Autoencoder(8, 1, patch_size)


def test_initialise_starts_at_the_mean_grey_with_little_of_anything_else() -> None:
    model = Autoencoder(16, 1, 32)
    initialise(model, 0.37, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(torch.rand(8, 1, 32, 32))
    assert abs(float(output.mean()) - 0.37) < 0.1
    assert 0.001 < float(output.std()) < 0.3  # small, but it moves with its input


# ------------------------------------------------------------------------------------------------ saved and loaded


def small_net(channels: int = 1, patch_size: int = 32) -> Autoencoder:
    model = Autoencoder(4, channels, patch_size)
    initialise(model, 0.5, torch.Generator().manual_seed(1))
    return model


def save_net(path: Path, model: nn.Module, **changes: Any) -> str:
    metadata = toy_metadata(**{"patch_size": 32, **changes})
    reference = np.full((32, 32) if metadata.channels == 1 else (32, 32, 3), 120, np.uint8)
    return save_bundle(path, model, metadata, reference)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_saved_is_loaded(tmp_path: Path, channels: int) -> None:
    model, metadata = small_net(channels), toy_metadata(channels=channels, patch_size=32, terms="ours")
    reference = np.random.default_rng(0).integers(0, 256, (32, 32, 3) if channels == 3 else (32, 32), np.uint8)
    sha256 = save_bundle(tmp_path / "M.pt", model, metadata, reference)
    bundle = load_bundle(tmp_path / "M.pt", sha256.upper())
    assert bundle.sha256 == sha256 == hashlib.sha256((tmp_path / "M.pt").read_bytes()).hexdigest()
    assert bundle.metadata.model_copy(update={"content_sha256": ""}) == metadata
    assert np.array_equal(bundle.reference, reference)
    patches = torch.rand(3, channels, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(bundle.module()(patches), model(patches), atol=1e-5)


def test_the_same_model_gives_the_same_bytes_wherever_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = save_net(tmp_path / "M.pt", small_net())
    second = save_net(tmp_path / "elsewhere" / "other-name.pt", small_net())
    other = small_net()
    with torch.no_grad():
        other.decoder[0].bias[0] += 1e-6
    assert first == second
    assert save_net(tmp_path / "M.pt", other) != first


def test_a_bundle_names_no_path_of_the_machine_that_made_it(tiny_bundle: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    for secret in (str(root), str(Path.home()) + "/", str(tiny_bundle.parent), str(Path(sys.prefix))):
        for name, value in archive_records(tiny_bundle).items():
            assert secret.encode() not in value, f"{secret} in {name}"
            assert secret not in name


def test_what_a_program_without_linescan_may_rely_on(tiny_bundle: Path) -> None:
    extra = {"linescan.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(tiny_bundle), _extra_files=extra)
    about = json.loads(extra["linescan.json"])
    assert {
        "format", "method", "channels", "patch_size", "latent_dim", "scale", "threshold", "blend", "smoothing_sigma",
        "ssim",
    } <= about.keys()  # fmt: skip
    assert set(about["ssim"]) == {"window", "kind", "sigma", "c1", "c2", "alpha", "beta", "gamma"}
    assert (about["format"], about["method"], about["patch_size"], about["latent_dim"]) == (1, "ssim", 32, 16)
    for count in (1, 5):
        shape = (count, about["channels"], about["patch_size"], about["patch_size"])
        assert module(torch.rand(shape)).shape == shape


def test_the_threshold_is_not_in_the_graph(tmp_path: Path) -> None:
    patches = torch.rand(1, 1, 32, 32)
    outputs = []
    for threshold in (0.1, 0.9):
        save_net(tmp_path / "M.pt", small_net(), threshold=threshold)
        outputs.append(load_bundle(tmp_path / "M.pt").module()(patches))
    assert torch.equal(*outputs)


# ------------------------------------------------------------------------------------------------ refused


def refusal(path: Path, sha256: str | None = None) -> str:
    """The text of the refusal, which names the file and is one line."""
    with pytest.raises(BundleError) as caught:
        load_bundle(path, sha256)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.pt")
    assert "directory" in refusal(tmp_path)


def test_files_that_are_no_bundles(tmp_path: Path) -> None:
    path = tmp_path / "M.pt"
    for data in (b"", b"PK", b"hello " * 100, os.urandom(5000)):
        path.write_bytes(data)
        assert "not a model bundle" in refusal(path)
    assert "linescan.json is missing" in refusal(write_archive(path, {"word/document.xml": b"<w/>"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Smooth()), path)
    assert "linescan.json is missing" in refusal(path)
    torch.save(small_net().state_dict(), path)
    assert "linescan.json is missing" in refusal(path)


def test_a_bundle_that_was_cut_off_anywhere(tmp_path: Path, toy: Path) -> None:
    data = toy.read_bytes()
    for cut in {*range(0, len(data), 97), *range(len(data) - 200, len(data))}:
        (tmp_path / "M.pt").write_bytes(data[:cut])
        refusal(tmp_path / "M.pt")


def test_a_flipped_byte_anywhere_is_refused_or_changes_nothing(tmp_path: Path, toy: Path) -> None:
    """Bytes of a zip that nobody reads (dates, attributes) may flip; the file's sha256 still tells."""
    data, sound = toy.read_bytes(), load_bundle(toy)
    patches = torch.rand(1, 1, TOY_PATCH, TOY_PATCH)
    accepted = 0
    positions = [*random.Random(0).sample(range(len(data)), 200), *range(len(data) - 400, len(data), 2)]
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "M.pt").write_bytes(damaged)
        assert "was pinned" in refusal(tmp_path / "M.pt", sound.sha256)
        try:
            bundle = load_bundle(tmp_path / "M.pt")
        except BundleError:
            continue
        accepted += 1
        assert bundle.metadata == sound.metadata
        assert np.array_equal(bundle.reference, sound.reference)
        assert torch.equal(bundle.module()(patches), sound.module()(patches))
    assert accepted < len(positions) / 2


def test_a_wrong_pin(toy: Path) -> None:
    text = refusal(toy, "0" * 64)
    assert "0" * 64 in text
    assert hashlib.sha256(toy.read_bytes()).hexdigest() in text


def rewritten(path: Path, source: Path, **changes: Any) -> Path:
    """The bundle with other values in linescan.json; None leaves a key out."""
    records = archive_records(source)
    about = json.loads(records[JSON]) | changes
    kept = {key: value for key, value in about.items() if value is not None}
    return write_archive(path, {**records, JSON: json.dumps(kept).encode()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format 2 is newer than this linescan reads (1)"),
        ({"format": None}, "format"),
        ({"format": "one"}, "one"),
        ({"format": 0}, "format"),
        ({"threshold": None}, "threshold"),
        ({"threshold": "high"}, "threshold = 'high'"),
        ({"method": "magic"}, "method = 'magic'"),
        ({"patch_size": -16}, "patch_size = -16"),
        ({"patch_size": 10**7}, "patch_size = 10000000"),
        ({"scale": 99}, "scale = 99"),
        ({"smoothing_sigma": 1e9}, "smoothing_sigma"),
        ({"stride": 17}, "stride"),
        ({"channels": 2}, "channels = 2"),
        ({"patch_size": 32}, "reference.png"),
        ({"channels": 3}, "reference.png"),
        ({"surprise": 1}, "surprise = 1"),
        ({"ssim": {"window": 10}}, "ssim.window = 10"),
        ({"columns": [5, 2]}, "columns"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, toy: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(rewritten(tmp_path / "M.pt", toy, **changes))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"format": 1e999}', b'{"format": NaN}', b"[" * 100_000]
)
def test_metadata_that_is_not_even_json(tmp_path: Path, toy: Path, text: bytes) -> None:
    path = write_archive(tmp_path / "M.pt", {**archive_records(toy), JSON: text})
    assert "linescan.json cannot be read" in refusal(path)


def test_tampered_content_under_intact_metadata(tmp_path: Path, toy: Path) -> None:
    records = archive_records(toy)
    for name in (name for name in records if name != JSON):
        changed = {**records, name: records[name] + b" "}
        assert "does not match the hash" in refusal(write_archive(tmp_path / "M.pt", changed))
    added = {**records, "bundle/code/more.py": b""}
    assert "does not match the hash" in refusal(write_archive(tmp_path / "M.pt", added))


def test_a_record_that_is_there_twice(tmp_path: Path, toy: Path) -> None:
    """What is hashed must be what torch loads: two records of one name would leave that open."""
    records = archive_records(toy)
    name = next(name for name in records if name.endswith(".py"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, value in [*records.items(), (name.replace("bundle/", "other/"), records[name])]:
            archive.writestr(key, value)
    (tmp_path / "M.pt").write_bytes(buffer.getvalue())
    assert "twice" in refusal(tmp_path / "M.pt")


@pytest.mark.parametrize("picture", [b"", b"no picture", cv2.imencode(".png", np.zeros((3, 5), np.uint8))[1].tobytes()])
def test_a_reference_patch_that_is_none(tmp_path: Path, toy: Path, picture: bytes) -> None:
    records = {**archive_records(toy), "bundle/extra/reference.png": picture}
    assert "reference.png" in refusal(write_archive(tmp_path / "M.pt", rehashed(records)))


def test_torchscript_that_cannot_run(tmp_path: Path, toy: Path) -> None:
    records = archive_records(toy)
    for name in ("bundle/data.pkl", "bundle/constants.pkl", "bundle/version"):
        changed = rehashed({**records, name: b"\x00 nonsense"})
        assert "TorchScript cannot run it" in refusal(write_archive(tmp_path / "M.pt", changed))


class Picky(nn.Module):
    """Raises for a grey patch."""

    def forward(self, patches: Tensor) -> Tensor:
        if bool((patches == 0.5).any()):
            raise ValueError("I do not like grey")
        return patches


class Talkative(nn.Module):
    """Returns two things."""

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        return patches, patches


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Halved(), "returns (1, 1, 8, 16) for (1, 1, 16, 16)"),
        (NotANumber(), "not numbers"),
        (Picky(), "TorchScript cannot run it"),
        (Talkative(), "returns tuple"),
    ],
)
def test_a_module_that_does_not_reconstruct(tmp_path: Path, model: nn.Module, said: str) -> None:
    assert said in refusal(toy_bundle(tmp_path / "M.pt", model))


# ------------------------------------------------------------------------------------------------ whole or not there


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "M.pt"
    old = save_net(path, small_net())
    for name in ("fsync", "replace"):
        target = files.os if name == "fsync" else Path
        with (
            patch.object(target, name, side_effect=OSError(28, "No space left on device")),
            pytest.raises(OSError, match="No space"),
        ):
            save_net(path, small_net(), threshold=0.7)
        assert load_bundle(path).sha256 == old
        assert leftovers(tmp_path) == []


def test_an_interrupted_body_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"old")

    def broken_off(error: type[BaseException]) -> None:
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise error

    for error in (KeyboardInterrupt, ValueError, SystemExit):
        with pytest.raises(error):
            broken_off(error)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["events.jsonl"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "M.pt"
    path.write_bytes(b"old")
    code = (
        "import os, pathlib, sys\nfrom linescan.files import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as file:\n"
        " file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/M\.pt: cannot be written: No such file"):
        write_atomically(tmp_path / "nowhere" / "M.pt", b"")


def test_what_was_written_is_readable_by_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "M.pt", b"new")
    assert (tmp_path / "M.pt").stat().st_mode & 0o777 == 0o644
