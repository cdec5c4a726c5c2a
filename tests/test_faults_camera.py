"""What a camera does to a line: lost frames, a pulled cable, a dead lamp, a web that the model chokes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linescan.messages import Gap
from tests.conftest import NanWhereBright
from tests.line_oracle import Oracle, Verdict, check_subscriptions, mask
from tests.line_rig import COLUMNS, HEIGHT, MARGIN, SERIAL, LineRig, web

BUFFERED = 64 * HEIGHT  # lines in the camera's buffers, which go with it


@pytest.fixture(scope="module")
def rig(simulated_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineRig]:
    with LineRig(tmp_path_factory.mktemp("camera"), simulated_camera) as rig:
        rig.begin()
        yield rig


@pytest.fixture
def oracle(rig: LineRig) -> Oracle:
    return Oracle(rig)


def causes(verdict: Verdict) -> set[str]:
    return {gap.cause for gap in verdict.gaps}


@pytest.mark.parametrize(("command", "cause"), [("drop", "overrun"), ("incomplete", "incomplete")])
def test_lost_frames(rig: LineRig, oracle: Oracle, command: str, cause: str) -> None:
    rig.fresh_roll()
    for frames in (1, 3, 1):
        rig.pass_lines(600)
        rig.simulator.send(SERIAL, f"{command} {frames}", timeout_s=60)
    rig.pass_lines(1000)
    verdict = oracle.judge(rig.finish())
    verdict.check()
    assert verdict.not_delivered >= 5 * HEIGHT
    assert cause in causes(verdict)
    check_subscriptions(rig)


def test_lost_frames_without_an_encoder(simulated_camera: Path, tmp_path: Path) -> None:
    with LineRig(tmp_path, simulated_camera, encoder=False) as rig:
        rig.begin()
        for command in ("drop 2", "incomplete 2"):
            rig.pass_lines(600)
            rig.simulator.send(SERIAL, command, timeout_s=60)
        rig.pass_lines(1000)
        verdict = Oracle(rig).judge(rig.finish())
        verdict.check()
        assert verdict.not_delivered >= 4 * HEIGHT


def test_a_killed_acquire_without_an_encoder(simulated_camera: Path, tmp_path: Path) -> None:
    """How many lines passed can only be estimated: by the clock, and the gap says so."""
    with LineRig(tmp_path, simulated_camera, encoder=False) as rig:
        rig.begin()
        roll = rig.roll
        rig.pass_lines(1000)
        (before,) = rig.watcher.offsets[roll]
        inspected = rig.progress[roll]
        rig.kill("acquire")
        came = rig.web_line()
        rig.start("acquire")
        rig.inspect_lines(came - before - inspected + 2000)
        rig.finish()
        (gap,) = (one for one in rig.messages(roll) if isinstance(one, Gap) and one.cause == "acquire-lost")
        assert gap.estimated
        (after,) = rig.watcher.offsets[roll] - {before} or {before}
        missed = [entry for entry in rig.simulator.log(SERIAL) if entry.outcome == "unattended"][-1]
        # at the camera's top speed the clock tells all of them, but for how long the last lines were on their way
        assert abs(after - before) <= rig.rate
        assert gap.last_line - gap.first_line + 1 >= missed.lines - rig.rate
        assert gap.last_line + 1 <= came - before + missed.lines + rig.rate
        assert rig.end_of(roll) is not None
        check_subscriptions(rig)


def test_unplugged_and_plugged_in_again(rig: LineRig, oracle: Oracle) -> None:
    rig.fresh_roll()
    rig.pass_lines(1000)
    acquire = rig.processes["acquire"]
    rig.simulator.unplug(SERIAL)
    assert rig.wait_exit(acquire) == 75, acquire.said
    while_unplugged = rig.launch("acquire")
    rig.wait(lambda: while_unplugged.code is not None, "acquire to find no camera")
    assert while_unplugged.code == 69, while_unplugged.said
    rig.simulator.replug(SERIAL)
    rig.start("acquire")
    rig.inspect_lines(2000)
    verdict = oracle.judge(rig.finish())
    verdict.check(needless=BUFFERED)
    (gap,) = (gap for gap in verdict.gaps if gap.cause == "camera-lost")
    assert not gap.estimated
    check_subscriptions(rig)


@pytest.mark.parametrize(("command", "grey"), [("dark", 0), ("saturate", 255)])
def test_a_stretch_without_an_image(rig: LineRig, oracle: Oracle, command: str, grey: int) -> None:
    rig.fresh_roll()
    rig.pass_lines(1000)
    rig.simulator.send(SERIAL, f"{command} 333", timeout_s=60)
    kept = (rig.simulator.folder / f"{SERIAL}.t0").read_text().split()
    first, end = map(int, kept[kept.index("dark" if grey == 0 else "bright") + 1 :][:2])
    assert end - first == 333
    oracle.painted.append((first, end, grey))
    rig.pass_lines(1500)
    roll = rig.finish()
    verdict = oracle.judge(roll)
    verdict.check()
    offset = min(rig.watcher.offsets[roll])
    told = mask([gap for gap in verdict.gaps if gap.cause == "invalid-image"], verdict.lines)
    assert np.flatnonzero(told).tolist() == list(range(first - offset, end - offset))
    check_subscriptions(rig)


def test_a_stretch_that_the_model_chokes_on(simulated_camera: Path, tmp_path: Path) -> None:
    strip = web(defects=20)
    strip[1000:1100, MARGIN:COLUMNS] = np.minimum(strip[1000:1100, MARGIN:COLUMNS], 2) + 220  # within the band
    with LineRig(tmp_path, simulated_camera, strip=strip, model=NanWhereBright()) as rig:
        rig.begin()
        rig.pass_lines(2500)
        roll = rig.finish()
        verdict = Oracle(rig).judge(roll)
        verdict.check()
        # the web passes again and again; where a patch is bright all over, none that covers the line has a result
        on_strip = (np.arange(verdict.lines) + min(rig.watcher.offsets[roll])) % len(strip)
        told = mask([gap for gap in verdict.gaps if gap.cause == "model-fault"], verdict.lines)
        assert told[(on_strip >= 1032) & (on_strip < 1068)].all()
        assert not told[(on_strip < 1000 - 48) | (on_strip >= 1100 + 48)].any()
        check_subscriptions(rig)
