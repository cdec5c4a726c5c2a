"""Where a roll's line 0 was must be in the journal before anybody inspects a line of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.line_kit import Desk, Full, check_account, findings, undisturbed, web, write_line

ROLL = "r1"


def at_the_roll_change(folder: Path) -> Desk:
    """A line whose acquire was told of a new roll and has seen no line of it."""
    desk = Desk(write_line(folder, rolls="commanded"))
    desk.start_publisher()
    desk.start_acquire()
    desk.start_worker()
    desk.turn(5)
    desk.command("start", ROLL)
    desk.turn(5)
    return desk


def end_roll(desk: Desk) -> None:
    desk.turn(100, 0.1)
    desk.command("end")
    desk.turn(100, 0.1)


def test_no_line_is_handed_out_before(tmp_path: Path) -> None:
    desk = at_the_roll_change(tmp_path)
    assert desk.acquire is not None
    pixels = web(640)
    desk.kill_publisher()
    desk.feed(desk.acquire._camera, pixels)  # type: ignore[arg-type]
    desk.turn(20, 0.05)
    assert desk.workers[0].counters["frames"] == 0
    desk.start_publisher()
    end_roll(desk)
    end = check_account(desk.stored, ROLL)
    assert (end.lines, end.lines_in_gaps) == (640, 0)
    assert findings(desk.stored) == undisturbed(pixels, ROLL)
    assert desk.journal is not None
    desk.journal.close()


def test_acquire_and_publisher_are_lost_before(tmp_path: Path) -> None:
    """The roll begins with the first line of which it is known where it was; lines are not taken for others."""
    desk = at_the_roll_change(tmp_path)
    assert desk.acquire is not None
    desk.kill_publisher()
    desk.feed(desk.acquire._camera, web(320, 1))  # type: ignore[arg-type]
    desk.turn(20, 0.05)
    desk.kill_acquire()
    desk.start_publisher()
    camera = desk.start_acquire()
    desk.turn(5)
    pixels = np.ascontiguousarray(web(640, 2))
    desk.feed(camera, pixels)
    end_roll(desk)
    end = check_account(desk.stored, ROLL)
    assert (end.lines, end.lines_in_gaps) == (640, 0)
    assert findings(desk.stored) == undisturbed(pixels, ROLL)
    assert desk.journal is not None
    desk.journal.close()


@pytest.mark.parametrize("whole", [False, True])
def test_a_full_disk_does_not_hold_the_lines_back(tmp_path: Path, whole: bool) -> None:
    desk = at_the_roll_change(tmp_path)
    assert desk.acquire is not None
    assert desk.journal is not None
    with Full(desk.journal, "keep_origin", *(["commit"] if whole else [])):
        desk.feed(desk.acquire._camera, web(320, 1))  # type: ignore[arg-type]
        desk.turn(20, 0.05)
        assert desk.workers[0].counters["frames"] == 10
    desk.turn(60, 0.1)
    assert desk.journal.camera("cam0").origin is not None
    assert desk.publisher is not None
    assert desk.publisher.faults == ()
    end_roll(desk)
    assert check_account(desk.stored, ROLL).lines == 320
    desk.journal.close()
