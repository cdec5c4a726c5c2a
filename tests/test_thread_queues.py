"""The engine's work on threads of a CPU: the same result, and the model at work while the lines before are scored."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection import reconstruction
from linescan.inspection.cuda import queues_of
from linescan.inspection.inspector import Inspector
from linescan.inspection.placement import Footprint
from linescan.inspection.queues import Finished
from linescan.inspection.scoring import Scoring
from linescan.inspection.thread_queues import ThreadQueues, thread_queues
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from tests.device_twin import Twin
from tests.inspection_kit import Case, Record, feed, nothing
from tests.test_inspector_properties import cases, few, frame_heights
from tests.test_queues import inspected, web

COLUMNS, PATCH, STRIDE = 60, 16, 7
ASKED = InspectionSettings(
    method="l2", patch_size=PATCH, stride=STRIDE, threshold=0.02, channels=1, scale=1, smoothing_sigma=1.0
)
BLOTS = Case(ASKED, Footprint(COLUMNS), [web()], nothing)


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------ the same result


@few
@given(cases(), frame_heights(), st.integers(1, 3))
def test_on_threads_the_result_is_the_same(case: Case, heights: list[int], threads: int) -> None:
    at_once, _ = inspected(case, None, heights)
    torch.set_num_threads(threads)
    with patch.object(reconstruction, "PATCHES_AT_ONCE", 20):
        queued, _ = inspected(case, thread_queues(), heights)
    assert queued.findings == at_once.findings
    assert queued.plain_bands() == at_once.plain_bands()


@few
@given(cases(), frame_heights(), st.integers(0, 2**32), st.integers(1, 3))
def test_in_whatever_order_model_and_scoring_are_done_the_result_is_the_same(
    case: Case, heights: list[int], seed: int, ahead: int
) -> None:
    at_once, _ = inspected(case, None, heights)
    with patch.object(reconstruction, "PATCHES_AT_ONCE", 20):
        queued, _ = inspected(case, Twin(seed, ahead, apart=False), heights)
    assert queued.findings == at_once.findings
    assert queued.plain_bands() == at_once.plain_bands()


@pytest.mark.parametrize("stop", [0, 3, 11])
def test_a_snapshot_amid_the_work_goes_on_with_the_same_events(stop: int) -> None:
    whole, _ = inspected(BLOTS, None, [10])
    record = Record()
    one = Inspector(BLOTS.settings, BLOTS.footprint, nothing, queues=thread_queues())
    for _, findings in zip(range(stop), feed(one, BLOTS.roll, [10]), strict=False):
        record.findings += findings
    snapshot, resume_from = one.snapshot(), one.resume_from
    other = Inspector(BLOTS.settings, BLOTS.footprint, nothing, queues=thread_queues(), snapshot=snapshot)
    for findings in feed(other, BLOTS.roll, [10], resume_from):
        record.findings += findings
    assert record.findings + other.finish() == whole.findings


@pytest.mark.parametrize("scale", [1, 2])
def test_the_caller_may_use_its_memory_again_at_once(scale: int) -> None:
    case = Case(ASKED.model_copy(update={"scale": scale}), Footprint(COLUMNS), [web()], nothing)
    at_once, _ = inspected(case, None, [9])
    inspector = Inspector(case.settings, case.footprint, nothing, queues=thread_queues())
    buffer, findings = np.empty((9, COLUMNS), np.uint8), []
    for first in range(0, 200, 9):
        lines = web()[first : first + 9]
        buffer[: len(lines)] = lines
        findings += inspector.push(buffer[: len(lines)])
        buffer[:] = 255
    assert findings + inspector.finish() == at_once.findings


def test_two_cameras_share_the_threads() -> None:
    alone = [inspected(Case(ASKED, Footprint(COLUMNS), [web(seed=seed)], nothing), None, [10])[0] for seed in (1, 2)]
    inspectors = [Inspector(ASKED, Footprint(COLUMNS), nothing, queues=thread_queues()) for _ in alone]
    found: list[list[object]] = [[], []]
    for first in range(0, 200, 10):
        for camera, inspector in enumerate(inspectors):
            found[camera] += inspector.push(web(seed=1 + camera)[first : first + 10])
    for inspector, findings, expected in zip(inspectors, found, alone, strict=True):
        assert findings + inspector.finish() == expected.findings


# ------------------------------------------------------------------------------------------------ side by side


class Gate:
    """A model that stands still once it has had so many calls, until it is let go."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self.stands, self.go = threading.Event(), threading.Event()

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            self.stands.set()
            assert self.go.wait(30), "nobody let the model go"
        return nothing(patches)


def test_lines_are_scored_and_told_while_the_model_is_at_the_next_ones() -> None:
    portion = 3 * PATCH
    gate = Gate(1)
    inspector = Inspector(ASKED, Footprint(COLUMNS), gate, queues=ThreadQueues())
    inspector.push(web()[:portion])
    inspector.push(web()[portion : 2 * portion])  # returns though the model stands in the middle of it
    assert gate.stands.wait(30)
    assert 0 < inspector.inspected_up_to < portion  # the first portion's lines are told
    assert not inspector.settled
    gate.go.set()
    before = inspector.inspected_up_to
    inspector.settle()
    assert inspector.settled
    assert inspector.inspected_up_to > before


def test_the_next_lines_wait_until_no_more_than_one_portion_is_under_way() -> None:
    gate = Gate(0)
    inspector = Inspector(ASKED, Footprint(COLUMNS), gate, queues=ThreadQueues())
    inspector.push(web()[:40])
    with ThreadPoolExecutor(1) as camera:
        second = camera.submit(inspector.push, web()[40:80])
        assert gate.stands.wait(30)
        assert not second.done()
        gate.go.set()
        second.result(30)


def test_work_on_the_threads_has_the_host_s_number_of_torch_s_threads() -> None:
    queues = ThreadQueues()
    for threads in (3, 1, 2):
        torch.set_num_threads(threads)
        assert queues.submit("compute", torch.get_num_threads).wait() == threads
        assert queues.submit("score", torch.get_num_threads).wait() == threads


def test_what_is_neither_computing_nor_scoring_is_the_host_s() -> None:
    queues = ThreadQueues()
    model = queues.submit("compute", threading.current_thread)
    done = queues.submit("upload", threading.current_thread, (model,))
    assert isinstance(done, Finished)
    assert done.value is threading.current_thread() is not model.wait()


def test_a_runner_of_several_threads_has_them_and_one_of_a_single_thread_has_not(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert Runner(bundle, Execution("cpu", "float32", 4, 2)).queues is thread_queues()
    assert Runner(bundle, Execution("cpu", "float32", 4, 1)).queues is queues_of(torch.device("cpu"))


# ------------------------------------------------------------------------------------------------ faults


def push_all(inspector: Inspector) -> None:
    for first in range(0, 200, 40):
        inspector.push(web()[first : first + 40])
    inspector.settle()


def test_an_error_of_the_model_reaches_the_host_and_the_segment_does_not_go_on() -> None:
    inspector = Inspector(ASKED, Footprint(COLUMNS), lambda patches: patches[:, :, 1:], queues=thread_queues())
    with pytest.raises(InspectionError, match="the model returned"):
        push_all(inspector)
    with pytest.raises(InspectionError):
        inspector.finish()


def test_an_error_of_the_scoring_reaches_the_host_and_the_segment_does_not_go_on() -> None:
    inspector = Inspector(ASKED, Footprint(COLUMNS), nothing, queues=thread_queues())
    failing = patch.object(Scoring, "_band", side_effect=MemoryError("no room for a band"))
    with failing, pytest.raises(MemoryError, match="no room"):
        push_all(inspector)
    with pytest.raises((InspectionError, MemoryError)):
        inspector.finish()


def test_a_forked_child_has_threads_of_its_own() -> None:
    expected, _ = inspected(BLOTS, thread_queues(), [10])
    child = os.fork()
    if not child:
        try:
            same = inspected(BLOTS, thread_queues(), [10])[0].findings == expected.findings
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
