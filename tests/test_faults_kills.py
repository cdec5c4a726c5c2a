"""Processes that are killed, hang, or are one too many: a worker or a publisher lost costs no line and no event."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line_oracle import Oracle, check_subscriptions
from tests.line_rig import COLUMNS, HEIGHT, LineRig


@pytest.fixture(scope="module")
def rig(simulated_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineRig]:
    with LineRig(tmp_path_factory.mktemp("kills"), simulated_camera) as rig:
        rig.begin()
        yield rig


@pytest.fixture(scope="module")
def oracle(rig: LineRig) -> Oracle:
    return Oracle(rig)


def kill_some(rig: LineRig, chance: random.Random, stages: list[str]) -> None:
    """Kills one after the other at random moments; each begins anew after a random while."""
    for stage in stages:
        rig.pause(chance.uniform(0, 1.5))
        rig.kill(stage)
        rig.pause(chance.uniform(0, 1.0))
        rig.start(stage)


def test_an_undisturbed_roll(rig: LineRig, oracle: Oracle) -> None:
    rig.fresh_roll()
    rig.pass_lines(3000)
    verdict = oracle.judge(rig.finish())
    verdict.check()
    assert verdict.lines >= 3000
    assert len(rig.messages(verdict.roll)) > 200


ROUNDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 6))]


@pytest.mark.parametrize("seed", ROUNDS)
def test_killed_workers_and_publishers_change_nothing(rig: LineRig, oracle: Oracle, seed: int) -> None:
    chance = random.Random(seed)
    rig.fresh_roll()
    stages = ["worker", "publisher"] if seed < 3 else chance.choices(["worker", "publisher"], k=4)
    kill_some(rig, chance, chance.sample(stages, len(stages)))
    rig.inspect_lines(1000)
    oracle.judge(rig.finish()).check()
    check_subscriptions(rig)


def test_worker_and_publisher_killed_at_once(rig: LineRig, oracle: Oracle) -> None:
    rig.fresh_roll()
    rig.pass_lines(1000)
    rig.kill("worker", "publisher")
    rig.start("worker", "publisher")
    rig.inspect_lines(1000)
    oracle.judge(rig.finish()).check()
    check_subscriptions(rig)


@pytest.mark.parametrize("stages", [["worker"], ["publisher"], ["worker", "publisher"]])
def test_killed_where_one_roll_follows_another(rig: LineRig, oracle: Oracle, stages: list[str]) -> None:
    first = rig.fresh_roll()
    rig.pass_lines(500)
    second = rig.change_roll()
    rig.kill(*stages)
    rig.start(*stages)
    rig.wait(lambda: rig.progress.get(second), "the new roll to be inspected")
    rig.finish()
    oracle.judge(first).check()
    oracle.judge(second).check()
    check_subscriptions(rig)


def test_a_hung_worker_is_replaced(rig: LineRig, oracle: Oracle) -> None:
    rig.fresh_roll()
    hung, waiting = rig.processes["worker"], rig.launch("worker")
    rig.wait(lambda: waiting.ready, "the replacement to be warm")
    rig.wait(lambda: rig.counter("acquire", "hellos_refused") or waiting.code is not None, "it to be refused")
    hung.popen.send_signal(signal.SIGSTOP)
    rig.inspect_lines(2500)  # more than the lease lasts, and by somebody else
    hung.popen.send_signal(signal.SIGCONT)
    rig.wait(lambda: hung.code is not None, "the hung one to find itself replaced", mortal=["worker"])
    assert hung.code == 69
    assert "another worker holds the lease" in hung.said
    rig.processes["worker"] = waiting
    rig.others.remove(waiting)
    rig.others.append(hung)
    oracle.judge(rig.finish()).check()
    check_subscriptions(rig)


def test_a_second_worker_gives_way(rig: LineRig, oracle: Oracle) -> None:
    rig.fresh_roll()
    second = rig.launch("worker")
    rig.wait(lambda: second.code is not None, "the second worker to give up")
    assert second.code == 69
    assert "camera cam0: another worker holds the lease of this camera" in second.said
    oracle.judge(rig.finish()).check()


def test_a_second_acquire_gives_way(rig: LineRig, oracle: Oracle) -> None:
    """With the same camera, and with another camera under the same name."""
    rig.fresh_roll()
    journal = rig.folder / "journal.sqlite"
    producer = Path(rig.line.settings.cameras[0].producer)
    other = rig.write_config("other.toml", producer, journal, serial="SIM0002")
    for second, reason in ((rig.launch("acquire"), "held by another process"),
                           (rig.launch("acquire", other), "another process serves it")):  # fmt: skip
        rig.wait(lambda: second.code is not None, "the second acquire to give up")  # noqa: B023
        assert second.code == 69, second.said
        assert reason in second.said
    oracle.judge(rig.finish()).check()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 4))])
def test_a_killed_acquire_costs_what_it_had_and_what_it_missed(rig: LineRig, oracle: Oracle, seed: int) -> None:
    chance = random.Random(seed)
    rig.fresh_roll()
    rig.pause(chance.uniform(0.5, 2))
    inspected = rig.progress[rig.roll]
    first = min(rig.watcher.offsets[rig.roll])
    rig.kill("acquire")
    came = rig.web_line() - first  # all that the camera had delivered by then
    rig.pause(chance.uniform(0, 1.5))
    rig.start("acquire")
    rig.inspect_lines(came - inspected + 1000)
    verdict = oracle.judge(rig.finish())
    verdict.check(needless=came - inspected)
    (gap,) = (gap for gap in verdict.gaps if gap.cause == "acquire-lost")
    assert not gap.estimated
    assert inspected <= gap.first_line <= came
    check_subscriptions(rig)


def test_beyond_the_byte_budget_the_oldest_lines_are_a_gap(simulated_camera: Path, tmp_path: Path) -> None:
    kept = int((1 << 20) * 0.75 / COLUMNS) - HEIGHT  # of 1 MiB; down to three quarters a full store is emptied
    with LineRig(tmp_path, simulated_camera, rate=2000, transport={"retain_mib": 1}) as rig:
        rig.begin()
        rig.pass_lines(1000)
        first = min(rig.watcher.offsets[rig.roll])
        inspected = rig.progress[rig.roll]
        rig.kill("worker")
        rig.pass_lines(14000)
        rig.start("worker")
        rig.inspect_lines(8000)
        came = rig.web_line() - first
        verdict = Oracle(rig).judge(rig.finish())
        lost = [gap for gap in verdict.gaps if gap.cause == "worker-lost"]
        assert sum(gap.last_line - gap.first_line + 1 for gap in lost) >= 14000 - (1 << 20) // COLUMNS - HEIGHT
        verdict.check(needless=came - inspected - kept)
        check_subscriptions(rig)
