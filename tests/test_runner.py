"""The runner: a patch's reconstruction does not depend on its neighbours, and what is asked for is what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from linescan.errors import ConfigError
from linescan.models import runner
from linescan.models.bundle import Bundle, load_bundle
from linescan.models.runner import Execution, Precision, Runner, choose_execution, patches_per_second
from tests.conftest import TOY_PATCH, toy_bundle

BATCH = 8
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def toy_loaded(toy: Path) -> Bundle:
    return load_bundle(toy)


@pytest.fixture(params=PRECISIONS)
def tiny_runner(request: pytest.FixtureRequest, tiny: Bundle) -> Runner:
    return Runner(tiny, Execution("cpu", request.param, BATCH, 1))


def patches(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(count))


# ------------------------------------------------------------------------------------------------ one fixed shape


def alone(run: Runner, batch: Tensor) -> Tensor:
    return torch.cat([run(one[None]) for one in batch])


def test_a_patch_gives_the_same_bits_at_every_position(tiny_runner: Runner) -> None:
    one = patches(1)
    expected = tiny_runner(one)
    for position in range(BATCH):
        crowd = patches(BATCH)
        crowd[position] = one[0]
        assert torch.equal(tiny_runner(crowd)[position], expected[0])


@pytest.mark.parametrize("grouping", [(1,), (3, 5), (8,), (9, 1, 2), (19,), (2, 17)])
def test_a_patch_gives_the_same_bits_in_every_grouping(tiny_runner: Runner, grouping: tuple[int, ...]) -> None:
    batch = patches(sum(grouping))
    expected = alone(tiny_runner, batch)
    grouped = torch.cat([tiny_runner(part) for part in torch.split(batch, list(grouping))])
    assert torch.equal(grouped, expected)


def test_every_forward_has_the_one_shape(toy_loaded: Bundle) -> None:
    shapes: list[tuple[int, ...]] = []

    def watching(plain: torch.jit.ScriptModule, _bundle: Bundle, _example: Tensor) -> Callable[[Tensor], Tensor]:
        def watched(batch: Tensor) -> Tensor:
            shapes.append(tuple(batch.shape))
            found: Tensor = plain(batch)
            return found

        return watched

    with patch.object(runner, "_fused_or", watching):
        run = Runner(toy_loaded, Execution("cpu", "float32", BATCH, 1))
    shapes.clear()  # of what warmed it up
    for count in (1, 7, 8, 9, 17):
        assert run(patches(count, TOY_PATCH)).shape == (count, 1, TOY_PATCH, TOY_PATCH)
    assert shapes == [(BATCH, 1, TOY_PATCH, TOY_PATCH)] * (1 + 1 + 1 + 2 + 3)
    assert run.patches == 1 + 7 + 8 + 9 + 17


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("grouping", [(1,), (8, 9), (40,), (3, 37)])
def test_threads_and_their_order_do_not_show(tiny: Bundle, precision: Precision, grouping: tuple[int, ...]) -> None:
    batch = patches(sum(grouping))
    shared = Runner(tiny, Execution("cpu", precision, BATCH, 3))
    assert shared.at_once == 3 * BATCH
    expected = alone(shared, batch)
    assert torch.equal(torch.cat([shared(part) for part in torch.split(batch, list(grouping))]), expected)
    by_itself = Runner(tiny, Execution("cpu", precision, BATCH, 1))
    assert torch.equal(by_itself(batch), expected)


def reconstructed(run: Runner, batch: Tensor) -> Tensor:
    """By the runner's own threads from both ends."""
    found = torch.full_like(batch, torch.nan)

    def fill(first: int, place: Tensor) -> None:
        assert place.dtype == run.dtype
        place.copy_(batch[first : first + len(place)])

    def take(first: int, given: Tensor, reconstructions: Tensor) -> None:
        assert torch.equal(given, batch[first : first + len(given)].to(run.dtype))
        found[first : first + len(given)] = reconstructions

    run.reconstruct(len(batch), fill, take)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_patches_may_be_filled_in_and_taken_where_the_forward_is(
    tiny: Bundle, precision: Precision, threads: int
) -> None:
    run = Runner(tiny, Execution("cpu", precision, BATCH, threads))
    for count in (1, 17, 40):
        batch = patches(count)
        assert torch.equal(reconstructed(run, batch), run(batch))


@pytest.mark.parametrize("threads", [1, 2])
def test_what_cannot_be_taken_ends_the_call_and_nothing_else(tiny: Bundle, threads: int) -> None:
    run = Runner(tiny, Execution("cpu", "float32", BATCH, threads))
    batch = patches(5 * BATCH)

    def refuse(first: int, *_: Tensor) -> None:
        if first == 2 * BATCH:
            raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        run.reconstruct(len(batch), refuse, lambda *_: None)
    with pytest.raises(ValueError, match="not this one"):
        run.reconstruct(len(batch), lambda *_: None, refuse)
    assert torch.equal(reconstructed(run, batch), run(batch))


def test_two_may_use_it_at_once(tiny: Bundle) -> None:
    """As rolls of two cameras may: each has its own patches' reconstructions."""
    run = Runner(tiny, Execution("cpu", "float32", BATCH, 2))
    batches = [patches(count) for count in (40, 41, 17, 64)]
    expected = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            for found, wanted in zip(callers.map(run, batches), expected, strict=True):
                assert torch.equal(found, wanted)


def test_a_forward_that_fails_leaves_nothing_behind(toy_loaded: Bundle) -> None:
    """No thread still writes when the error comes, and no input is missing afterwards."""
    fails = Event()

    def failing(plain: torch.jit.ScriptModule, _bundle: Bundle, _example: Tensor) -> Callable[[Tensor], Tensor]:
        def sometimes(batch: Tensor) -> Tensor:
            if fails.is_set():
                raise RuntimeError("no memory")
            found: Tensor = plain(batch)
            return found

        return sometimes

    with patch.object(runner, "_fused_or", failing):
        run = Runner(toy_loaded, Execution("cpu", "float32", BATCH, 2))
    batch = patches(5 * BATCH, TOY_PATCH)
    expected = run(batch)
    fails.set()
    with pytest.raises(RuntimeError, match="no memory"):
        run(batch)
    fails.clear()
    assert torch.equal(run(batch), expected)


def test_bare_forwards_are_counted_on_all_threads(toy_loaded: Bundle) -> None:
    run = Runner(toy_loaded, Execution("cpu", "float32", BATCH, 2))
    assert run.bare(0)[0] == 2
    count, spent = run.bare(0.05)
    assert count >= 2
    assert spent >= 0.05
    assert run.patches == 0


def test_no_patches_are_no_forward(toy_loaded: Bundle) -> None:
    run = Runner(toy_loaded, Execution("cpu", "float32", BATCH, 1))
    assert run(patches(0, TOY_PATCH)).shape == (0, 1, TOY_PATCH, TOY_PATCH)
    assert run.patches == 0


def test_padding_that_is_left_from_before_does_not_leak(toy_loaded: Bundle) -> None:
    run = Runner(toy_loaded, Execution("cpu", "float32", BATCH, 1))
    batch = patches(3, TOY_PATCH)
    before = run(batch)
    run(torch.full((BATCH, 1, TOY_PATCH, TOY_PATCH), torch.nan))
    assert torch.equal(run(batch), before)


def test_the_result_is_float32_and_what_was_given_stays_as_it_was(tiny_runner: Runner) -> None:
    batch = patches(5)
    copy = batch.clone()
    first = tiny_runner(batch)
    assert (first.dtype, first.is_contiguous()) == (torch.float32, True)
    kept = first.clone()
    tiny_runner(patches(6))
    assert torch.equal(first, kept)
    assert torch.equal(batch, copy)


def test_patches_cut_as_a_view_give_the_same_as_copied_ones(tiny_runner: Runner) -> None:
    web = torch.rand(1, 32, 96, generator=torch.Generator().manual_seed(3))
    view = web.unfold(2, 32, 16).permute(2, 0, 1, 3)
    assert torch.equal(tiny_runner(view), tiny_runner(view.contiguous()))


def test_bfloat16_is_near_float32(tiny: Bundle) -> None:
    batch = patches(BATCH)
    exact, rough = (Runner(tiny, Execution("cpu", p, BATCH, 1))(batch) for p in PRECISIONS)
    assert not torch.equal(exact, rough)
    assert float((exact - rough).abs().mean()) < 0.02


def test_colour(tmp_path: Path) -> None:
    bundle = load_bundle(toy_bundle(tmp_path / "rgb.pt", channels=3))
    run = Runner(bundle, Execution("cpu", "float32", BATCH, 1))
    batch = torch.rand(BATCH + 1, 3, TOY_PATCH, TOY_PATCH)
    assert torch.equal(run(batch), alone(run, batch))


# ------------------------------------------------------------------------------------------------ what is chosen


@pytest.fixture
def no_trials() -> Iterator[None]:
    with patch.object(runner, "patches_per_second", side_effect=AssertionError("nothing is left to measure")):
        yield


@pytest.mark.usefixtures("no_trials")
def test_what_is_asked_for_is_what_runs(toy_loaded: Bundle) -> None:
    chosen = choose_execution(toy_loaded, "cpu", "bfloat16", 5, 3)
    assert chosen == Execution("cpu", "bfloat16", 5, 3)
    assert chosen.as_dict() == {"device": "cpu", "precision": "bfloat16", "batch": 5, "threads": 3}


def test_what_is_not_asked_for_is_the_fastest(toy_loaded: Bundle) -> None:
    speed = {16: 10.0, 32: 30.0, 64: 20.0}
    measured = patch.object(runner, "patches_per_second", side_effect=lambda _bundle, how: speed[how.batch])
    with measured, patch.object(runner, "BATCHES", tuple(speed)):
        chosen = choose_execution(toy_loaded, "cpu", "float32", threads=1)
    assert chosen == Execution("cpu", "float32", 32, 1)


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_what_the_cpu_is_fast_in(toy_loaded: Bundle, fast: bool, precision: str) -> None:
    with patch.object(runner, "has_fast_bfloat16", return_value=fast):
        assert choose_execution(toy_loaded, "cpu", batch=4, threads=1).precision == precision


def test_threads_are_all_that_the_process_may_use(toy_loaded: Bundle) -> None:
    with patch.object(runner, "available_threads", return_value=7):
        assert choose_execution(toy_loaded, "cpu", "float32", 4).threads == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cpu", "float64", 4, 1), "precision 'float64': auto, float32, bfloat16 or float16 expected"),
        (("cpu", "float16", 4, 1), "float16 is for a GPU"),
        (("cpu", "float32", 0, 1), "batch 0: at least 1"),
        (("cpu", "float32", -3, 1), "batch -3: at least 1"),
        (("cpu", "float32", 4, 0), "threads 0: at least 1"),
        (("cpu", "float32", 4, -1), "threads -1: at least 1"),
    ],
)
def test_what_cannot_run_is_refused(toy_loaded: Bundle, arguments: tuple[str, str, int, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        choose_execution(toy_loaded, *arguments)
    assert caught.value.exit_code == 2


def test_a_gpu_that_is_not_there_is_refused(toy_loaded: Bundle) -> None:
    with patch.object(torch.cuda, "is_available", return_value=False):
        with pytest.raises(ConfigError, match="torch finds no GPU") as caught:
            choose_execution(toy_loaded, "cuda")
        assert caught.value.exit_code == 2
        assert choose_execution(toy_loaded, None, "float32", 4, 1).device == "cpu"


def test_a_trial_measures_something(toy_loaded: Bundle) -> None:
    assert patches_per_second(toy_loaded, Execution("cpu", "float32", 4, 1), 0.001) > 0


# ------------------------------------------------------------------------------------------------ CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the CPU twins of this test ran")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_a_patch_gives_the_same_bits_in_every_grouping(tiny: Bundle, precision: Precision) -> None:
    execution = choose_execution(tiny, "cuda", precision, BATCH)
    assert execution.device == "cuda"
    run = Runner(tiny, execution)
    batch = patches(19).cuda()
    expected = alone(run, batch)
    assert torch.equal(torch.cat([run(part) for part in torch.split(batch, [2, 17])]), expected)
    on_cpu = Runner(tiny, Execution("cpu", "float32", BATCH, 1))(batch.cpu())
    assert float((expected.cpu() - on_cpu).abs().mean()) < 0.02


@pytest.mark.parametrize("row", [65, 67, 80, 134, 545])
@pytest.mark.parametrize("threads", [2, 4])
def test_a_batch_is_filled_by_whole_rows_on_all_threads(row: int, threads: int) -> None:
    batch = runner.filled_batch(row, threads)
    assert 8 < batch <= 80
    assert runner.filling(batch, row, threads) > 0.95


@pytest.mark.parametrize("row", [16, 19, 33, 65, 67, 80, 81, 134, 545])
def test_a_batch_is_filled_by_whole_rows(row: int) -> None:
    batch = runner.filled_batch(row)
    assert 8 < batch <= 80
    assert runner.filling(batch, row) > 0.93
    assert runner.filling(batch, row) >= max(runner.filling(usual, row) for usual in runner.BATCHES) - 0.06


def test_how_full_the_batches_are() -> None:
    with patch.object(runner, "ROWS_TOGETHER", 2):
        assert runner.filling(32, 48) == (48 / 64 + 96 / 96) / 2
        assert runner.filling(32, 48, threads=2) == (48 / 64 + 96 / 128) / 2
    assert runner.filling(32, None) == 1.0


def test_a_trial_that_the_machine_disturbs_does_not_decide(toy_loaded: Bundle) -> None:
    trials = {16: iter((10.0, 10.0, 10.0)), 32: iter((1.0, 30.0, 2.0)), 64: iter((20.0, 20.0, 20.0))}
    measured = patch.object(runner, "patches_per_second", side_effect=lambda _bundle, how: next(trials[how.batch]))
    with measured, patch.object(runner, "BATCHES", tuple(trials)):
        assert choose_execution(toy_loaded, "cpu", "float32", threads=1).batch == 32


@pytest.mark.parametrize(("speed_of_16", "chosen"), [(100.0, 65), (130.0, 16)])
def test_a_batch_that_rows_fill_wins_unless_another_is_clearly_faster(
    toy_loaded: Bundle, speed_of_16: float, chosen: int
) -> None:
    speeds = {16: speed_of_16, 65: 92.0}
    measured = patch.object(runner, "patches_per_second", side_effect=lambda _bundle, how: speeds[how.batch])
    with measured, patch.object(runner, "BATCHES", (16,)), patch.object(runner, "filled_batch", return_value=65):
        assert choose_execution(toy_loaded, "cpu", "float32", threads=1, patches_a_row=65).batch == chosen
