"""A line whose worker computes on a device: results come late, its memory runs short, it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.errors import DeviceLostError
from linescan.inspection import Footprint, Inspector, staging
from linescan.messages import Message, RollEnd, RollStart, RollState, Status
from linescan.models.device import OutOfMemory
from tests.device_twin import Twin
from tests.inspection_kit import nothing
from tests.line_kit import COLUMNS, ArrayCamera, Desk, ToyEngine, check_account, findings, undisturbed, web, write_line
from tests.test_inspector_properties import few

LINES, ROLL = 300, "roll-000001"
pytestmark = pytest.mark.usefixtures("device_filters")


class TwinEngine(ToyEngine):
    """Inspects in the queues of a twin; at the pushes or waits of `failing` the device fails."""

    def __init__(self, stored: Any, seed: int, failing: list[Exception]) -> None:
        super().__init__(stored)
        self.seed, self.failing = seed, failing

    def inspector(self, start: RollStart, progress: Any) -> Inspector:
        footprint = Footprint(start.settings["columns"], 8, start.camera, start.roll)
        return Inspector(
            self.settings, footprint, self._reconstruct, queues=Twin(self.seed),
            snapshot=progress.snapshot if progress else None,
        )  # fmt: skip

    def _reconstruct(self, patches: Any) -> Any:
        if self.failing:
            raise self.failing.pop()
        return nothing(patches)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lambda: tmp_path_factory.mktemp("line")


def started(folder: Path, seed: int = 0, **options: Any) -> tuple[Desk, ArrayCamera, list[Exception]]:
    failing: list[Exception] = []
    desk = Desk(write_line(folder, **options))
    desk.engine = lambda _recipe, stored: TwinEngine(stored, seed, failing)
    desk.start_publisher()
    camera = desk.start_acquire()
    desk.start_worker()
    desk.turn(5)
    return desk, camera, failing


def ended(desk: Desk) -> tuple[RollEnd, list[Message]]:
    """Ends the roll, waits for its end to be stored, and checks its account; all that is in the journal."""
    state = desk.command("status")
    assert isinstance(state, RollState)
    desk.command("end")
    for _ in range(10):
        desk.turn(40, 0.15)
        if RollEnd in map(type, desk.stored[-1:]):
            break
    stored = desk.stored
    assert desk.journal is not None
    desk.journal.close()
    return check_account(stored, state.roll), stored


@settings(few, max_examples=30)
@given(
    st.integers(0, 2**32), st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, LINES), st.booleans()
)
def test_results_that_come_late_are_the_same(folders: Any, seed: int, heights: list[int], at: int, kill: bool) -> None:
    pixels = web(LINES, seed % 1000)
    with patch.multiple(staging, STAGED_PIXELS=24 * COLUMNS):
        desk, camera, _ = started(folders(), seed)
        desk.feed(camera, pixels[:at], heights)
        if kill:
            desk.kill_worker(desk.workers[0])
            desk.start_worker()
        desk.feed(camera, pixels[at:], heights)
        end, stored = ended(desk)
    assert (end.lines, end.lines_in_gaps) == (LINES, 0)
    assert findings(stored) == undisturbed(pixels, ROLL)


def test_what_is_under_way_is_told_when_no_frame_comes(folders: Any) -> None:
    desk, camera, _ = started(folders())
    desk.feed(camera, web(200), turns=1)
    inspector = desk.workers[0]._inspection._inspector
    assert inspector is not None
    desk.turn(5)
    assert inspector.settled
    assert inspector.lines_pending < 64
    assert desk.workers[0].frame_since_ns is None
    ended(desk)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_device_without_memory_gets_smaller_batches_and_a_new_segment(folders: Any, turns: int) -> None:
    desk, camera, failing = started(folders())
    pixels = web(LINES, 5)
    desk.feed(camera, pixels[:200])
    engine = desk.workers[0]._inspection._engine
    failing.append(OutOfMemory("CUDA out of memory"))
    desk.feed(camera, pixels[200:], turns=turns)
    desk.turn(40, 0.15)
    worker = desk.workers[0]
    assert worker.counters["out_of_memory"] == 1
    assert engine is not None
    assert engine.execution.batch == 8
    end, stored = ended(desk)
    assert end.lines_in_gaps == 0
    starts = [one.settings["execution"]["batch"] for one in stored if isinstance(one, RollStart)]
    assert starts == [16, 8]
    segments = {one.id.split("-")[0] for one in stored if hasattr(one, "phase")}
    assert len(segments) == 2


def test_a_device_that_is_lost_is_a_fault_and_a_replacement_goes_on(folders: Any) -> None:
    desk, camera, failing = started(folders())
    pixels, lost = web(LINES, 5), []
    heartbeats = desk.network.subscription(desk.line.events_endpoint, ["status"])
    for first in range(0, LINES, 32):
        if first == 192:
            said = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported late"
            failing.append(RuntimeError(said))
        try:
            desk.feed(camera, pixels[first : first + 32])
        except DeviceLostError as error:
            lost.append(error)
            assert desk.publisher is not None
            desk.publisher.turn()  # hears what the worker said last
            desk.kill_worker(desk.workers[0])
            desk.turn()
            desk.start_worker()
    (error,) = lost
    assert str(error) == "camera cam0: the device that computes is gone: CUDA error: unspecified launch failure"
    assert error.exit_code == 70
    end, stored = ended(desk)
    assert end.lines_in_gaps == 0
    assert findings(stored) == undisturbed(pixels, ROLL)
    told = []
    while (received := heartbeats.receive()) is not None:
        assert isinstance(received.message, Status)
        told += [received.message.faults] if received.message.stage == "worker" else []
    assert told.count(("device-lost",)) == 1
    assert told[-1] == ()


def test_another_error_of_torch_is_none_of_the_device(folders: Any) -> None:
    desk, camera, failing = started(folders())
    failing.append(RuntimeError("The size of tensor a (3) must match"))
    with pytest.raises(RuntimeError, match="size of tensor"):
        desk.feed(camera, web(200))
    assert desk.journal is not None
    desk.journal.close()
