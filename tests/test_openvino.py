"""OpenVINO: the same bundle, the same invariants; in int8 near float32, or refused. Skips where it is not installed."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from linescan.cli import quantise
from linescan.cli.main import main
from linescan.cli.replay import main as replay
from linescan.errors import BundleError, ConfigError, InputError
from linescan.models import openvino, runner
from linescan.models.autoencoder import Autoencoder
from linescan.models.bundle import Bundle, load_bundle
from linescan.models.openvino_int8 import Ranges, load_ranges, measure_ranges, ranges_path, save_ranges
from linescan.models.runner import Execution, Precision, Runner, choose_execution
from linescan.stages.engine import _stored_execution
from tests.conftest import blot, toy_bundle, weave, write_frames

BATCH = 19
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

pytestmark = pytest.mark.skipif(not openvino.openvino_installed(), reason="the extra linescan[openvino] is not here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, good_footage: Path) -> Path:
    """The tiny bundle with its ranges beside it, measured by the real command."""
    path = Path(shutil.copy(tiny_bundle, tmp_path_factory.mktemp("openvino") / "M.pt"))
    assert main(["quantise", "--model", str(path), "--images", str(good_footage), "--patches", "100"]) == 0
    return path


@pytest.fixture(scope="module")
def bundle(model: Path) -> Bundle:
    return load_bundle(model)


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Bundle:
    """A copy whose ranges a test may damage."""
    shutil.copy(ranges_path(load_bundle(model)), tmp_path / "M.int8.json")
    return load_bundle(Path(shutil.copy(model, tmp_path / "M.pt")))


@pytest.fixture(scope="module", params=[(p, threads) for p in PRECISIONS for threads in (1, 2)], ids=str)
def run(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Runner]:
    precision, threads = request.param
    yield Runner(bundle, Execution("openvino", precision, BATCH, threads))
    torch.set_num_threads(1)


def good_patches(count: int, size: int = 32) -> Tensor:
    """Patches of the weave, as greys in [0, 1]: N×1×P×P."""
    web = torch.from_numpy(weave(size * 2, 32 * count, seed=count)).float() / 255
    return torch.stack([web[None, index % size :, 29 * index :][:, :size, :size] for index in range(count)])


# ------------------------------------------------------------------------------------------------ one fixed shape


def test_a_patch_gives_the_same_bits_at_every_position(run: Runner) -> None:
    one, crowd = good_patches(1), good_patches(BATCH)
    expected = run(one)[0]
    for position in range(BATCH):
        among = crowd.clone()
        among[position] = one[0]
        assert torch.equal(run(among)[position], expected)


@pytest.mark.parametrize("grouping", [(1,), (3, 5), (19,), (20, 1, 2), (2, 40)])
def test_a_patch_gives_the_same_bits_in_every_grouping(run: Runner, grouping: tuple[int, ...]) -> None:
    batch = good_patches(sum(grouping))
    expected = torch.cat([run(one[None]) for one in batch])
    assert torch.equal(torch.cat([run(part) for part in torch.split(batch, list(grouping))]), expected)


def test_what_was_handed_out_stays_as_it_was(run: Runner) -> None:
    batch = good_patches(BATCH + 2)
    copy = batch.clone()
    first = run(batch)
    kept = first.clone()
    run(torch.full((BATCH, 1, 32, 32), torch.nan))
    assert torch.equal(first, kept)
    assert torch.equal(batch, copy)
    assert torch.equal(run(batch), kept)  # nothing of the other patches is left in the empty places


def test_patches_cut_as_a_view_give_the_same_as_copied_ones(run: Runner) -> None:
    web = torch.rand(1, 32, 96, generator=torch.Generator().manual_seed(3))
    view = web.unfold(2, 32, 16).permute(2, 0, 1, 3)
    assert torch.equal(run(view), run(view.contiguous()))


# ------------------------------------------------------------------------------------------------ near float32


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_how_far_each_precision_is_from_float32_by_torch(bundle: Bundle) -> None:
    batch = good_patches(50)
    exact = Runner(bundle, Execution("cpu", "float32", BATCH, 1))(batch)
    away = {p: rms(Runner(bundle, Execution("openvino", p, BATCH, 1))(batch) - exact) for p in PRECISIONS}
    web = rms(batch - exact)
    assert away["float32"] < 1e-5
    assert 1e-5 < away["int8"] < web / 4
    assert away["bfloat16"] < web / 10


def test_colour(tmp_path: Path) -> None:
    colour = Autoencoder(8, channels=3, patch_size=32)
    path = toy_bundle(tmp_path / "rgb.pt", colour, channels=3, patch_size=32)
    bundle = load_bundle(path)
    batch = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made, exact = (Runner(bundle, Execution(device, "float32", BATCH, 1))(batch) for device in ("openvino", "cpu"))
    assert torch.allclose(made, exact, atol=1e-5)


# ------------------------------------------------------------------------------------------------ int8 as it is defined


def layers_of(bundle: Bundle) -> list[nn.Module]:
    meta = bundle.metadata
    model = Autoencoder(meta.latent_dim, meta.channels, meta.patch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is the format all the same
        model.load_state_dict(torch.jit.load(io.BytesIO(bundle.data)).state_dict())  # type: ignore[no-untyped-call]
    return [*model.encoder, *model.decoder]


def is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)


def rounded_weights(layer: Any) -> Tensor:
    weights: Tensor = layer.weight.detach()
    axes = (1, 2, 3) if isinstance(layer, nn.Conv2d) else (0, 2, 3)
    step = weights.abs().amax(axes, keepdim=True) / 127
    return (weights / step).round() * step


def rounded_input(values: Tensor, low: float, high: float) -> Tensor:
    if low >= 0:
        return (values * 255 / high).round().clamp(0, 255) * high / 255
    step = max(high, -low) / 127
    return (values / step).round().clamp(-128, 127) * step


def test_ranges_are_what_the_layers_see(bundle: Bundle) -> None:
    batch, seen = good_patches(70), []
    ranges = measure_ranges(bundle, batch)
    values = batch
    with torch.inference_mode():
        for layer in layers_of(bundle):
            if is_convolution(layer):
                seen.append((float(values.min()), float(values.max())))
            values = layer(values)
    assert (ranges.lowest[0], ranges.highest[0]) == (0.0, 1.0)
    lowest, highest = zip(*seen[1:], strict=True)
    assert ranges.lowest[1:] == pytest.approx(lowest, rel=1e-3, abs=1e-4)
    assert ranges.highest[1:] == pytest.approx(highest, rel=1e-3, abs=1e-4)


def test_int8_rounds_inputs_and_weights_and_nothing_else(bundle: Bundle) -> None:
    """Against the same rounding written out in torch, with which patches agree to a thousandth of what rounding costs.

    Not all do: a latent number that float32's last bits put on the other side of a step moves its whole patch, and
    how many such there are is the chance of these weights. By any other rounding none would agree.
    """
    batch, ranges = good_patches(40), load_ranges(bundle).ranges
    values, bounds = batch, iter(zip(ranges.lowest, ranges.highest, strict=True))
    with torch.inference_mode():
        for layer in layers_of(bundle):
            if is_convolution(layer):
                values = rounded_input(values, *next(bounds))
                layer.weight.copy_(rounded_weights(layer))  # type: ignore[operator,union-attr]
            values = layer(values)
    exact = Runner(bundle, Execution("cpu", "float32", BATCH, 1))(batch)
    int8 = Runner(bundle, Execution("openvino", "int8", BATCH, 1))(batch)
    apart, rounding = ((int8 - other).square().mean((1, 2, 3)).sqrt() for other in (values, exact))
    assert int((apart < 1e-3 * rounding).sum()) >= len(batch) / 4
    assert rms(int8 - values) < rms(int8 - exact)


# ------------------------------------------------------------------------------------------------ what is refused


def damaged(bundle: Bundle, **changes: Any) -> None:
    save_ranges(bundle, load_ranges(bundle).ranges.model_copy(update=changes))


def start(bundle: Bundle, **fields: Any) -> Runner:
    return Runner(bundle, Execution(**{"device": "openvino", "precision": "int8", "batch": 4, "threads": 1, **fields}))


def test_int8_without_ranges_names_the_command(own: Bundle) -> None:
    ranges_path(own).unlink()
    with pytest.raises(ConfigError, match=r"M\.int8\.json cannot be read .*`linescan quantise --model"):
        choose_execution(own, "openvino", "int8", 4, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not the ranges of a model"), ("\xff", "not the ranges"), ("[]", "valid"), ('{"format": 2}', "format = 2")],
)
def test_ranges_that_cannot_be_read_are_refused(own: Bundle, text: str, said: str) -> None:
    ranges_path(own).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said) as caught:
        start(own)
    assert "M.int8.json" in str(caught.value)
    assert caught.value.exit_code == 65


def test_ranges_of_another_bundle_are_refused(own: Bundle) -> None:
    damaged(own, bundle_sha256="0" * 64)
    with pytest.raises(InputError, match="measured with another bundle"):
        start(own)


def test_ranges_of_another_number_of_layers_are_refused(own: Bundle) -> None:
    damaged(own, lowest=(0.0,), highest=(1.0,))
    with pytest.raises(BundleError, match="18 convolutions, its ranges are for 1"):
        start(own)


def test_int8_that_is_far_from_float32_on_this_cpu_is_refused(own: Bundle) -> None:
    """As on a CPU whose sums of int8 products overflow: here the steps are too coarse instead."""
    ranges = load_ranges(own).ranges
    damaged(own, highest=tuple(100 * high for high in ranges.highest))
    with pytest.raises(ConfigError, match="int8 differs from float32 by"):
        start(own)


def test_other_ranges_than_the_roll_began_with_are_refused(own: Bundle) -> None:
    chosen = choose_execution(own, "openvino", "int8", 4, 1)
    assert Runner(own, chosen).execution.as_dict()["quantisation"] == load_ranges(own).sha256
    damaged(own, patches=7)
    with pytest.raises(ConfigError, match="the roll that runs began with"):
        Runner(own, chosen)


def test_a_vae_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    vae = bundle.metadata.model_copy(update={"vae": object()})
    with pytest.raises(ConfigError, match="does not run a VAE's samples"):
        choose_execution(Bundle("vae.pt", "", vae, bundle.reference, bundle.data), "openvino", "float32", 4, 1)


def test_a_model_without_convolutions_has_no_int8(toy: Path) -> None:
    with pytest.raises(BundleError, match="no convolution"):
        measure_ranges(load_bundle(toy), torch.rand(3, 1, 16, 16))


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("cpu", "int8", "device openvino was expected with it"),
        ("openvino", "float16", "float16 is for a GPU"),
        ("openvino", "float64", "precision 'float64'"),
    ],
)
def test_precisions_that_do_not_go_with_a_device(bundle: Bundle, device: str, precision: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_execution(bundle, device, precision, 4, 1)


def test_int8_is_never_chosen_unasked(bundle: Bundle) -> None:
    for fast in (True, False):
        with patch.object(runner, "has_fast_bfloat16", return_value=fast):
            chosen = choose_execution(bundle, "openvino", batch=4, threads=1)
        assert chosen.precision == ("bfloat16" if fast else "float32")
        assert "quantisation" not in chosen.as_dict()


@pytest.mark.parametrize(("a_row", "batch"), [(65, 65), (19, 19), (None, 64)])
def test_the_batch_is_one_that_rows_fill_without_a_trial(bundle: Bundle, a_row: int | None, batch: int) -> None:
    unneeded = patch.object(runner, "patches_per_second", side_effect=AssertionError("nothing is to be measured"))
    with unneeded, patch.object(runner, "BATCHES", (16, 32, 64)):
        assert choose_execution(bundle, "openvino", "int8", None, 1, a_row).batch == batch


def test_a_roll_goes_on_without_openvino_as_the_line_is_set(bundle: Bundle) -> None:
    stored = {"execution": choose_execution(bundle, "openvino", "int8", 4, 1).as_dict()}
    resumed = _stored_execution(stored)
    assert resumed is not None
    assert resumed.as_dict() == stored["execution"]
    with patch.object(openvino.importlib.util, "find_spec", return_value=None):
        assert _stored_execution(stored) is None


# ------------------------------------------------------------------------------------------------ nobody is told


def test_nothing_is_reported_to_anyone(own: Bundle) -> None:
    telemetry = pytest.importorskip("openvino_telemetry")

    def refused(*_arguments: object, **_fields: object) -> None:
        raise AssertionError("telemetry was set up")

    with patch.object(telemetry.Telemetry, "init", refused), patch("socket.socket.connect", refused):
        with pytest.raises(AssertionError, match="telemetry was set up"):  # what this test would see
            __import__("openvino").convert_model(own.module())
        save_ranges(own, measure_ranges(own, good_patches(3)))
        start(own)


# ------------------------------------------------------------------------------------------------ the commands


INT8 = ("--device", "openvino", "--precision", "int8", "--batch", "8", "--threads", "2")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_int8_finds_what_float32_finds_whatever_the_frames(model: Path, tmp_path: Path) -> None:
    web = blot(blot(weave(300), 60, 20), 180, 50, size=12)
    found = {}
    for name, height, how in (
        ("whole", 300, INT8), ("cut", 37, INT8), ("float32", 300, ("--device", "cpu", "--precision", "float32")),
    ):  # fmt: skip
        footage, out = write_frames(tmp_path / name, web, height), tmp_path / f"{name}.out"
        assert replay([str(footage), "--model", str(model), "--output", str(out), "--quiet", *how]) == 0
        found[name] = events(out)
    plain = [{**event, "roll": ""} for event in found["whole"]]
    assert [{**event, "roll": ""} for event in found["cut"]] == plain
    execution = found["whole"][0]["settings"]["execution"]
    assert execution["quantisation"] == load_ranges(load_bundle(model)).sha256
    closed = {
        name: [event for event in told if event["type"] == "region" and event["phase"] == "close"]
        for name, told in found.items()
    }
    assert len(closed["whole"]) == len(closed["float32"]) == 2


def test_quantise_says_how_far_int8_is(own: Bundle, good_footage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ranges_path(own).read_bytes()
    ranges_path(own).unlink()
    assert main(["quantise", "--model", own.path, "--images", str(good_footage), "--patches", "100"]) == 0
    assert ranges_path(own).read_bytes() == before  # same web, same seed, same file
    said = capsys.readouterr().out
    assert f"of {quantise.COMPARED} held-out patches differ from float32's by" in said
    assert f"written: {ranges_path(own)}" in said


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [(("--patches", "0"), "--patches 0: at least 1", 2), (("--columns", "0:9999"), "9999 were asked for", 65)],
)
def test_quantise_refuses(
    own: Bundle,
    good_footage: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
    code: int,
) -> None:
    assert main(["quantise", "--model", own.path, "--images", str(good_footage), *arguments]) == code
    assert said in capsys.readouterr().err


def test_ranges_are_numbers(own: Bundle) -> None:
    fields = json.loads(ranges_path(own).read_text())
    for value in ("NaN", "Infinity"):
        text = json.dumps({**fields, "highest": ["?"] * len(fields["highest"])}).replace('"?"', value)
        ranges_path(own).write_text(text)
        with pytest.raises(InputError, match="highest"):
            load_ranges(own)
    assert Ranges.model_validate(fields).format == 1
