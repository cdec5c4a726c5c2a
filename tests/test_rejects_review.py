"""What goes wrong in more than one place at once: nothing passes that was found, or that nobody inspected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from linescan.errors import JournalFullError
from linescan.messages import Gap, Order, Refused
from tests.line_kit import COLUMNS, ArrayCamera
from tests.test_rejects_lockstep import DISTANCE, START, Mill, close, make

LAG = 6  # frames that a slow worker is behind
LEFT = 0


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    made = make(tmp_path)
    yield made
    close(made)


def web(lines: int, top: int = 0, height: int = 0) -> NDArray[np.uint8]:
    """Good web, with one defect in the left lane where it has a height."""
    pixels = np.full((lines, COLUMNS), 75, np.uint8)
    pixels[top : top + height, 4:12] = 255
    return pixels


def run_lagged(mill: Mill, camera: ArrayCamera, pixels: NDArray[np.uint8]) -> None:
    """The web moves on, and the worker inspects a frame for each that comes, LAG behind the newest."""
    acquire, publisher = mill.acquire, mill.publisher
    assert acquire is not None
    assert publisher is not None
    frames = [pixels[first : first + 32] for first in range(0, len(pixels), 32)]
    for number, frame in enumerate(frames):
        mill.clock.advance(len(frame) / 900)
        camera.deliver(frame, mill.at + mill.shift)
        mill.true.append(frame)
        mill.at += len(frame)
        mill.plant.moves_to(mill.at)
        acquire.turn()
        if number >= LAG:
            mill.workers[0].turn()
        publisher.turn()


def defects_passed(mill: Mill) -> set[int]:
    return mill.went_through(LEFT) & mill.defective(LEFT)


def replug_plc(mill: Mill, offset: int) -> None:
    """Its power comes back: nothing is remembered, and its counter stands elsewhere."""
    mill.plant.restarts()
    mill.plant.taken.clear()
    mill.plant.offset = offset


# ------------------------------------------------------------------------------------------------ the book


def test_an_order_that_the_book_lacked_is_in_it_before_the_place_is(mill: Mill, monkeypatch: Any) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    with monkeypatch.context() as patched:
        patched.setattr(mill.books[-1], "add", full)
        mill.run(camera, web(320, 64, 20))
        assert mill.publisher is not None
        assert "orders-unkept" in mill.publisher.faults
    mill.plain(camera, 64)  # there is room again
    assert "orders-unkept" not in mill.publisher.faults
    mill.kill_publisher()
    replug_plc(mill, 0)
    mill.start_publisher()
    mill.plain(camera, 3 * DISTANCE)
    assert not defects_passed(mill)


def test_a_publisher_that_dies_while_the_book_is_full_rejects_what_it_lacks(mill: Mill, monkeypatch: Any) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    monkeypatch.setattr(mill.books[-1], "add", full)
    mill.run(camera, web(320, 64, 20))
    mill.plain(camera, 64)
    mill.kill_publisher()
    replug_plc(mill, 0)
    mill.start_publisher()
    mill.plain(camera, 4 * DISTANCE)
    assert not defects_passed(mill)
    assert mill.at - 2 * DISTANCE in mill.went_through(LEFT)


def full(*_: object) -> None:
    raise JournalFullError("no room")


def test_a_new_journal_beside_the_old_book_names_another_roll_alike(mill: Mill) -> None:
    mill.plain(mill.start(), 640)
    mill.stop_publisher()
    mill.kill_acquire()
    mill.kill_worker(mill.workers[0])
    (mill.folder / "journal.sqlite").rename(mill.folder / "damaged.sqlite")  # as its advice says
    mill.run(None, web(320))
    camera = mill.start()
    assert mill.publisher is not None
    mill.plain(camera, START)
    mill.run(camera, web(640, 200, 40))
    mill.plain(camera, 3 * DISTANCE)
    assert mill.origins == {"roll-000001": 960}
    mill.check()
    assert mill.at - 2 * DISTANCE in mill.went_through(LEFT)


def test_where_a_roll_is_stays_unknown_over_a_restart(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.kill_acquire()
    mill.run(None, web(64))
    mill.shift = 1 << 20  # the camera's counter was reset
    camera = mill.start_acquire()
    mill.turn(5)
    mill.plain(camera, 64)
    mill.turn(40, 0.15)
    mill.plain(camera, 320)
    assert [gap.estimated for gap in mill.told(Gap)] == [True]
    mill.kill_publisher()
    mill.start_publisher()
    mill.turn(3)
    at = mill.at
    run_lagged(mill, camera, web(640))
    run_lagged(mill, camera, web(640, 64, 30))
    run_lagged(mill, camera, web(3 * DISTANCE))
    assert mill.publisher is not None
    assert "untrusted" in mill.publisher.faults
    assert not mill.went_through(LEFT) & set(range(at - DISTANCE, mill.at))


# ------------------------------------------------------------------------------------------------ counters


def test_a_plc_that_comes_back_a_little_behind_is_not_believed(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, 320)
    run_lagged(mill, camera, web(512))
    run_lagged(mill, camera, web(64, 20, 30))
    run_lagged(mill, camera, web(352))
    mill.plant.away = True
    mill.turn(130, 0.15)
    mill.plant.away = False
    replug_plc(mill, -150)
    run_lagged(mill, camera, web(320))
    assert mill.publisher is not None
    assert "untrusted" in mill.publisher.faults
    assert not defects_passed(mill)


@pytest.mark.parametrize("restarted", [False, True])
def test_counters_that_both_began_anew_over_night(mill: Mill, restarted: bool) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    limits = list(mill.plant.limits)
    mill.command("end")
    mill.plain(camera, 64)
    mill.kill_acquire()
    mill.kill_worker(mill.workers[0])
    if restarted:
        mill.stop_publisher()
    replug_plc(mill, -mill.at)
    mill.shift = -mill.at
    mill.clock.advance(8 * 3600)
    if restarted:
        mill.start_publisher()
    camera = mill.start_acquire()
    mill.start_worker()
    mill.turn(10)
    mill.plant.limits = limits  # the last ones are given again to a new session
    mill.command("start")
    mill.plain(camera, 960)
    assert mill.publisher is not None
    assert "untrusted" in mill.publisher.faults
    worker = mill.workers[0]
    mill.freeze_worker(worker)
    mill.run(camera, web(800, 0, 700))
    assert not defects_passed(mill)
    mill.workers.append(worker)
    mill.turn(20)
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 5 * DISTANCE)
    assert mill.publisher.faults == ()
    assert mill.at - 2 * DISTANCE in mill.went_through(LEFT)
    assert not defects_passed(mill)


def test_orders_lost_with_the_plcs_counter_are_not_taken_for_given(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.run(camera, web(96, 20, 30))
    mill.plain(camera, 128)
    replug_plc(mill, -mill.plant.position)  # while the web stands
    mill.turn(30)
    mill.kill_publisher()
    replug_plc(mill, 0)  # and is set right
    mill.start_publisher()
    mill.turn(5)
    mill.plain(camera, 3 * DISTANCE)
    assert not defects_passed(mill)
    assert mill.at - 2 * DISTANCE in mill.went_through(LEFT)


def test_a_roll_that_begins_where_the_web_was_run_back_to(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.command("end")
    mill.plain(camera, 32)
    mill.clock.advance(2)
    mill.at -= 320
    mill.plant.position -= 320
    mill.plant.passed, mill.plant.rejected = [set(), set()], [set(), set()]
    del mill.true[-10:]
    mill.turn(3)
    mill.command("start")
    mill.run(camera, web(640, 64, 216))
    mill.plain(camera, 3 * DISTANCE)
    assert not defects_passed(mill)


# ------------------------------------------------------------------------------------------------ operators


@pytest.mark.parametrize("number", [str(1 << 64), "9" * 5000])
def test_a_verdict_on_an_event_beyond_all_numbers_is_refused(mill: Mill, number: str) -> None:
    mill.plain(mill.start(), 64)
    assert isinstance(mill.ask(Order("verdict", "", number, "defect")), Refused)
