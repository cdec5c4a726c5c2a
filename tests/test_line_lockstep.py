"""The stages together, one process, no clock and no socket of the system: every way a line can be disturbed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linescan.messages import Gap, RollCommand, RollEnd, RollStart
from tests.line_kit import Desk, findings, undisturbed, web, write_line


def feed(desk: Desk, camera: object, pixels: np.ndarray, height: int = 32, turns: int = 2) -> None:
    for first in range(0, len(pixels), height):
        camera.deliver(pixels[first : first + height])  # type: ignore[attr-defined]
        desk.turn(turns)


def end_roll(desk: Desk, turns: int = 60) -> None:
    client = desk.network.client(desk.line.control_endpoint)
    client.send(RollCommand("end", "", ""))
    desk.turn(5, 0.5)
    camera = desk.acquire._camera  # type: ignore[union-attr]  # noqa: SLF001
    camera.deliver(np.full((1, 48), 70, np.uint8))  # the first line after the roll tells where it ended
    desk.turn(turns, 0.05)


def started(folder: Path, **transport: float) -> tuple[Desk, object]:
    desk = Desk(write_line(folder, **transport))
    desk.start_publisher()
    camera = desk.start_acquire()
    desk.start_worker()
    desk.turn(5)
    return desk, camera


def test_a_roll_goes_from_the_camera_to_the_world(tmp_path: Path) -> None:
    desk, camera = started(tmp_path)
    pixels = web(1000)
    feed(desk, camera, pixels)
    end_roll(desk)
    start, end = desk.events[0], desk.events[-1]
    assert isinstance(start, RollStart)
    assert start.settings["columns"] == 48
    assert end == RollEnd("cam0", start.roll, 1000, 1000, 1000, 0)
    assert findings(desk.events) == undisturbed(pixels, start.roll)
    assert [event.sequence for event in desk.published] == list(range(1, len(desk.published) + 1))


@pytest.mark.parametrize("seed", range(6))
def test_killed_workers_and_publishers_change_nothing(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    desk, camera = started(tmp_path)
    pixels = web(2000, seed, 30)
    for first in range(0, 2000, 32):
        camera.deliver(pixels[first : first + 32])  # type: ignore[attr-defined]
        desk.turn(int(generator.integers(0, 4)))
        if generator.random() < 0.15:
            desk.kill_worker(desk.workers[0])
            desk.turn(int(generator.integers(0, 3)))
            desk.start_worker()
        if generator.random() < 0.15:
            desk.kill_publisher()
            desk.turn(int(generator.integers(0, 30)), 0.05)
            desk.start_publisher()
    desk.turn(300, 0.05)
    end_roll(desk)
    events = desk.journal.since(0, 10**6)  # type: ignore[union-attr]
    desk.published = events
    assert findings(desk.events) == undisturbed(pixels, "roll-000001")
    assert desk.events[-1] == RollEnd("cam0", "roll-000001", 2000, 2000, 2000, 0)
