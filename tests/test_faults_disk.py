"""A disk that is full, and a clock that jumps: inspection goes on, and every event is told once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.line_oracle import Oracle, check_subscriptions
from tests.line_rig import LineRig

DAY_NS = 86_400 * 10**9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk of its own can be mounted by root only: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that takes all the room there is."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            with suppress(OSError):
                while file.write(os.urandom(size)):
                    pass
    return filler


def test_a_full_disk_under_the_journal(simulated_camera: Path, tmp_path: Path, small_disk: Path) -> None:
    with LineRig(tmp_path, simulated_camera, journal=small_disk / "journal.sqlite") as rig:
        rig.begin()
        filler = fill(small_disk)
        rig.wait(lambda: rig.events[-1].sequence is None, "an event that is not stored")
        rig.wait(lambda: "disk-full" in rig.statuses["publisher"].faults, "the fault to be told")
        before = len(rig.events)
        rig.wait(lambda: len(rig.events) > before + 100 and rig.counter("publisher", "not_durable") > 100, "many more")
        rig.pass_lines(1000)
        filler.unlink()
        rig.wait(lambda: rig.events[-1].sequence is not None, "events to be stored again")
        rig.inspect_lines(1000)
        assert rig.statuses["publisher"].faults == ()
        assert rig.counter("publisher", "events_lost") == 0
        Oracle(rig).judge(rig.finish()).check()
        check_subscriptions(rig)


def test_a_publisher_that_is_killed_on_a_full_disk(simulated_camera: Path, tmp_path: Path, small_disk: Path) -> None:
    """What was told and not stored is lost to the journal; that its lines are is told as a gap."""
    with LineRig(tmp_path, simulated_camera, journal=small_disk / "journal.sqlite") as rig:
        rig.begin()
        filler = fill(small_disk)
        rig.wait(lambda: rig.counter("publisher", "not_durable") > 50, "events that are not stored")
        rig.kill("publisher")
        rig.start("publisher")
        rig.wait(lambda: rig.processes["publisher"].ready, "the publisher to start on a full disk")
        rig.pass_lines(1000)
        filler.unlink()
        rig.inspect_lines(1500)
        verdict = Oracle(rig).judge(rig.finish(), exact=False)
        assert verdict.missed == 0
        assert verdict.wrong == []


def test_utc_steps(simulated_camera: Path, tmp_path: Path) -> None:
    """Under every stage, with kills in between: no line, no event and no number depends on it."""
    with LineRig(tmp_path, simulated_camera) as rig:
        rig.begin()
        oracle = Oracle(rig)
        for step_ns in (200 * DAY_NS, -20_000 * DAY_NS):
            rig.utc_step.write_text(str(step_ns))
            rig.inspect_lines(500)
            rig.kill("worker")
            rig.start("worker")
            rig.inspect_lines(500)
        oracle.judge(rig.finish()).check()
        rig.kill("publisher")
        rig.utc_step.write_text(str(40 * DAY_NS))
        rig.start("publisher")
        rig.inspect_lines(500)
        inspected, offset = rig.progress[rig.roll], min(rig.watcher.offsets[rig.roll])
        rig.kill("acquire")
        came = rig.web_line() - offset
        rig.utc_step.write_text(str(-40 * DAY_NS))
        rig.start("acquire")
        rig.inspect_lines(came - inspected + 1000)
        verdict = oracle.judge(rig.finish())
        verdict.check(needless=came - inspected)
        assert not any(gap.estimated for gap in verdict.gaps)
        rig.pause(11)  # in which the publisher looks for events that are too old
        check_subscriptions(rig)
        assert max(event.utc_ns for event in rig.events) - min(event.utc_ns for event in rig.events) > 10_000 * DAY_NS
