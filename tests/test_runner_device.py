"""The runner in the queues of a device, and half precision against float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from linescan.models import runner
from linescan.models.bundle import Bundle, load_bundle
from linescan.models.device import OutOfMemory, device_lost
from linescan.models.parity import TOLERANCE, PrecisionWarning, difference, parity_patches
from linescan.models.runner import Execution, Runner, choose_execution, in_precision
from tests.conftest import TOY_PATCH, toy_bundle
from tests.device_twin import Twin

BATCH = 4


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def patches(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(count))


# ------------------------------------------------------------------------------------------------ one launch


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recorded_forward_gives_the_same_bits(tiny: Bundle, precision: runner.Precision) -> None:
    execution = Execution("cpu", precision, BATCH, 1)
    plain, recorded = Runner(tiny, execution), Runner(tiny, execution, Twin(0))
    kept = recorded(patches(3))
    for count in (1, 4, 9):
        assert torch.equal(recorded(patches(count)), plain(patches(count)))
    assert torch.equal(kept, plain(patches(3)))  # a replay overwrites the memory of the one before
    assert recorded.patches == 3 + 1 + 4 + 9


def test_only_what_was_recorded_runs(tiny: Bundle) -> None:
    run = Runner(tiny, Execution("cpu", "float32", BATCH, 1), Twin(0))
    before = run(patches(5))
    places = []
    recorded = run._idle.get()

    def watched() -> Tensor:
        output = recorded.run()
        places.append(output.data_ptr())
        return output

    run._idle.put(replace(recorded, run=watched))
    assert torch.equal(run(patches(5)), before)
    assert len(set(places)) == 1
    assert len(places) == 2


class Refusing(Twin):
    """A device that cannot record."""

    def __init__(self, error: Exception) -> None:
        super().__init__(0)
        self._refusal = error

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise self._refusal


def test_a_forward_that_cannot_be_recorded_runs_all_the_same(tiny: Bundle) -> None:
    execution = Execution("cpu", "float32", BATCH, 1)
    refusing = Refusing(RuntimeError("operation not permitted when stream is capturing"))
    with pytest.warns(UserWarning, match="cannot be recorded, and is launched piece by piece: operation not permitted"):
        run = Runner(tiny, execution, refusing)
    assert torch.equal(run(patches(5)), Runner(tiny, execution)(patches(5)))


@pytest.mark.parametrize(
    "error", [OutOfMemory("CUDA out of memory. Tried to allocate"), RuntimeError("CUDA error: device-side assert")]
)
def test_a_device_that_fails_is_no_device_that_cannot_record(tiny: Bundle, error: Exception) -> None:
    with pytest.raises(type(error), match="CUDA"):
        Runner(tiny, Execution("cpu", "float32", BATCH, 1), Refusing(error))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (OutOfMemory("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA driver error: unknown error"), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_which_errors_mean_that_the_device_is_gone(error: RuntimeError, lost: bool) -> None:
    assert device_lost(error) is lost


# ------------------------------------------------------------------------------------------------ half precision


class Rough(nn.Module):
    """Exact in float32 up to rounding; in bfloat16 the grey values drown in the offset."""

    def forward(self, patches: Tensor) -> Tensor:
        return (patches + 64.0) - 64.0


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(toy_bundle(tmp_path_factory.mktemp("rough") / "rough.pt", Rough()))


def test_a_bundle_that_half_precision_suits_runs_in_it(tiny: Bundle, toy: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bundle in (tiny, load_bundle(toy)):
            assert choose_execution(bundle, "cpu", "bfloat16", BATCH, 1).precision == "bfloat16"


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_a_bundle_that_is_too_rough_in_half_precision_runs_in_float32(rough: Bundle, asked: str) -> None:
    said = rf"rough.pt: in bfloat16 its reconstructions are 0\.\d+ of full scale away.*at most {TOLERANCE:g} are"
    with patch.object(runner, "has_fast_bfloat16", return_value=True), pytest.warns(PrecisionWarning, match=said):
        chosen = choose_execution(rough, "cpu", asked, BATCH, 1)
    assert chosen == Execution("cpu", "float32", BATCH, 1)


def test_float32_is_not_held_against_itself(rough: Bundle) -> None:
    with patch.object(runner, "difference", side_effect=AssertionError("nothing to compare")):
        assert choose_execution(rough, "cpu", "float32", BATCH, 1).precision == "float32"


def test_how_a_roll_ran_before_is_held_against_float32_too(rough: Bundle) -> None:
    with pytest.warns(PrecisionWarning):
        assert in_precision(rough, Execution("cpu", "bfloat16", 16, 1)) == Execution("cpu", "float32", 16, 1)


def test_the_difference_is_that_of_the_reference_patch_in_four_positions(tiny: Bundle) -> None:
    given = parity_patches(tiny)
    assert given.shape == (4, 1, *tiny.reference.shape)
    assert 0 <= float(given.min()) < float(given.max()) <= 1
    assert torch.equal(given[3], given[0].flip(-1, -2))
    assert difference(tiny, lambda one: one + 0.25, lambda one: one) == pytest.approx(0.25)
    assert difference(tiny, lambda one: one, lambda one: one) == 0


def test_what_is_not_a_number_is_too_rough(tiny: Bundle) -> None:
    with patch.object(runner, "difference", return_value=float("nan")), pytest.warns(PrecisionWarning):
        assert choose_execution(tiny, "cpu", "bfloat16", BATCH, 1).precision == "float32"


def test_colour_and_scale(tmp_path: Path) -> None:
    bundle = load_bundle(toy_bundle(tmp_path / "rgb.pt", channels=3, scale=2))
    assert parity_patches(bundle).shape == (4, 3, TOY_PATCH, TOY_PATCH)
    assert in_precision(bundle, Execution("cpu", "bfloat16", 2, 1)).precision == "bfloat16"


# ------------------------------------------------------------------------------------------------ CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the twin's tests ran")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_a_replayed_forward_gives_the_same_bits_every_time(tiny: Bundle, precision: runner.Precision) -> None:
    execution = choose_execution(tiny, "cuda", precision, BATCH)
    batch = patches(19).cuda()
    first = Runner(tiny, execution)(batch)
    for _ in range(3):
        assert torch.equal(Runner(tiny, execution)(batch), first)
