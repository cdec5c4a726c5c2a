"""The engine's work in the queues of a device: the same result in every order that a device may choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linescan.config import ImageBand, InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection import bands, reconstruction, segment, staging
from linescan.inspection.cuda import CudaQueues, queues_of
from linescan.inspection.flatfield import FlatField
from linescan.inspection.inspector import Inspector
from linescan.inspection.placement import Footprint
from linescan.inspection.queues import Done, Inline, Queue, Queues
from linescan.messages import Gap
from tests.device_twin import LookError, Mark, NoLook, NoTaking, TooEarlyError, Twin
from tests.inspection_kit import Case, Model, Pixels, Record, feed, nothing
from tests.test_inspector_properties import cases, few, frame_heights

COLUMNS, PATCH = 60, 16
SMALL = {"STAGED_PIXELS": 12 * COLUMNS}
ASKED = InspectionSettings(
    method="l2", patch_size=PATCH, stride=7, threshold=0.02, channels=1, scale=1, smoothing_sigma=1.0
)
GRAPHIC_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the twin's tests ran")
pytestmark = pytest.mark.usefixtures("device_filters")


def inspected(case: Case, queues: Queues | None, heights: list[int], **options: Any) -> tuple[Record, Inspector]:
    """The whole roll; the account is checked at each push."""
    record = Record()
    inspector = Inspector(
        case.settings, case.footprint, case.model, calibration=case.calibration, on_band=record.bands.append,
        queues=queues, **options,
    )  # fmt: skip
    up_to = 0
    for findings in feed(inspector, case.roll, heights):
        record.findings += findings
        assert inspector.lines_inspected + inspector.lines_in_gaps + inspector.lines_pending == inspector.lines_scanned
        assert up_to <= inspector.inspected_up_to
        assert inspector.resume_from <= inspector.inspected_up_to or inspector.lines_inspected == 0
        up_to = inspector.inspected_up_to
    record.findings += inspector.finish()
    assert inspector.lines_pending == 0
    return record, inspector


def check_same(case: Case, heights: list[int], seed: int, ahead: int) -> None:
    at_once, _ = inspected(case, None, heights)
    pieces = patch.multiple(staging, STAGED_PIXELS=9 * case.footprint.columns)
    with pieces, patch.object(reconstruction, "PATCHES_AT_ONCE", 20):
        queued, _ = inspected(case, Twin(seed, ahead), heights)
    assert queued.findings == at_once.findings
    assert queued.plain_bands() == at_once.plain_bands()


@few
@given(cases(), frame_heights(), st.integers(0, 2**32), st.integers(1, 3))
def test_whatever_order_a_device_chooses_the_result_is_the_same(
    case: Case, heights: list[int], seed: int, ahead: int
) -> None:
    check_same(case, heights, seed, ahead)


@few
@given(cases(), st.integers(1, 40), st.integers(0, 2**32), st.data())
def test_a_snapshot_amid_the_work_goes_on_with_the_same_events(
    case: Case, height: int, seed: int, data: st.DataObject
) -> None:
    whole, _ = inspected(case, None, [height])
    stop = data.draw(st.integers(0, -(-case.lines // height)), "pushes")
    first, record = Record(), Record()
    with patch.multiple(staging, STAGED_PIXELS=9 * case.footprint.columns):
        one = Inspector(
            case.settings, case.footprint, case.model, calibration=case.calibration, on_band=first.bands.append,
            queues=Twin(seed),
        )  # fmt: skip
        for _, findings in zip(range(stop), feed(one, case.roll, [height]), strict=False):
            first.findings += findings
        snapshot, resume_from = one.snapshot(), one.resume_from
        other = Inspector(
            case.settings, case.footprint, case.model, calibration=case.calibration, on_band=record.bands.append,
            queues=Twin(seed + 1), snapshot=snapshot,
        )  # fmt: skip
        assert (other.inspected_up_to, other.resume_from) == (one.inspected_up_to, resume_from)
        for findings in feed(other, case.roll, [height], resume_from):
            record.findings += findings
        record.findings += other.finish()
    assert first.findings + record.findings == whole.findings


# ------------------------------------------------------------------------------------------------ what the twin sees


def web(lines: int = 200, seed: int = 1, columns: int = COLUMNS) -> Pixels:
    """Dark web with bright blots, a stretch beyond the image band, and a line on which a model may fail."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 20, (lines, columns)).astype(np.uint8)
    for _ in range(12):
        top, left = rng.integers(0, lines - 9), rng.integers(0, columns - 9)
        pixels[top : top + 9, left : left + 6] = 200
    pixels[100:118] = 255
    return pixels


BAND = ImageBand(mean_high=0.9, lines=4)
BLOTS = Case(ASKED.model_copy(update={"band": BAND}), Footprint(COLUMNS), [web()], nothing)


def differs(forget: Callable[[Queue, Done[Any]], bool], seed: int) -> bool:
    """Whether it shows under that seed that marks are left out."""
    at_once, _ = inspected(BLOTS, None, [10])
    with patch.multiple(staging, **SMALL):
        try:
            queued, _ = inspected(BLOTS, Twin(seed, 3, forget), [10])
        except TooEarlyError:
            return True
    return queued.findings != at_once.findings or queued.plain_bands() != at_once.plain_bands()


@pytest.mark.parametrize(("queue", "after"), [("compute", "upload"), ("upload", "compute"), ("download", "compute")])
def test_a_mark_that_is_left_out_shows(queue: Queue, after: Queue) -> None:
    def forget(into: Queue, mark: Done[Any]) -> bool:
        assert isinstance(mark, Mark)
        return (into, mark.queue) == (queue, after)

    assert not any(differs(lambda *_: False, seed) for seed in range(10))
    assert any(differs(forget, seed) for seed in range(10))


def test_a_host_that_does_not_wait_for_its_buffer_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = Mark.wait
    monkeypatch.setattr(Mark, "wait", lambda mark: None if mark.queue == "upload" else waited(mark))
    assert any(differs(lambda *_: False, seed) for seed in range(10))


def test_a_host_that_does_not_wait_for_a_result_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mark, "wait", lambda mark: mark.value)
    assert any(differs(lambda *_: False, seed) for seed in range(10))


@pytest.mark.parametrize(
    "look",
    [
        lambda one: bool(one.any()), lambda one: one.sum().item(), lambda one: one.nonzero(), lambda one: one[one > 0],
        lambda one: one.max().tolist(), lambda one: one.masked_select(one > 0), lambda one: int(one[0]),
    ],
)  # fmt: skip
def test_work_that_looks_at_a_value_is_caught(look: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(LookError), NoTaking(), NoLook():
        look(torch.arange(3))
    with NoTaking(), NoLook():  # these do not look
        torch.arange(9).reshape(3, 3)[1:, torch.tensor([0, 2])].cumsum(0)


def test_the_engine_is_told_not_to_look() -> None:
    looking = patch("linescan.inspection.inspector.Segment", lambda *args, look: segment.Segment(*args, look=True))
    with looking, pytest.raises(LookError):
        inspected(BLOTS, Twin(0), [10])


# ------------------------------------------------------------------------------------------------ overlap


def test_the_host_waits_for_results_alone_while_the_device_has_work() -> None:
    clean = np.full((40 * 12, COLUMNS), 9, np.uint8)
    twin = Twin(0)
    inspector = Inspector(ASKED, Footprint(COLUMNS), nothing, queues=twin)
    with patch.multiple(staging, **SMALL):
        for first in range(0, len(clean), 12):
            inspector.push(clean[first : first + 12])
    waits, portions = twin.waits, 40
    # for each portion its verdict, its masks, and the buffer of two portions before, which is free by then
    assert waits["compute"] == 0
    assert waits["upload"] <= portions
    assert waits["download"] <= 2 * portions
    assert inspector.lines_scanned == len(clean)
    before = inspector.inspected_up_to
    inspector.settle()
    assert 0 < before < inspector.inspected_up_to < len(clean)
    inspector.finish()
    assert inspector.inspected_up_to == len(clean)


def test_scores_are_fetched_only_where_something_was_found() -> None:
    twin = Twin(0)
    clean = np.full((60, COLUMNS), 9, np.uint8)
    with patch("linescan.inspection.found.ScoresOnDevice.__getitem__", side_effect=AssertionError("nothing was found")):
        inspected(Case(ASKED, Footprint(COLUMNS), [clean], nothing), twin, [7])
        with pytest.raises(AssertionError, match="nothing was found"):
            inspected(BLOTS, Twin(0), [7])


def test_two_cameras_share_a_device() -> None:
    alone = [inspected(replace(BLOTS, roll=[web(seed=seed)]), None, [10])[0] for seed in (1, 2)]
    twin, records = Twin(5), (Record(), Record())
    with patch.multiple(staging, **SMALL):
        inspectors = [
            Inspector(BLOTS.settings, BLOTS.footprint, nothing, queues=twin, on_band=record.bands.append)
            for record in records
        ]
        for first in range(0, 200, 10):
            for inspector, record, seed in zip(inspectors, records, (1, 2), strict=True):
                record.findings += inspector.push(web(seed=seed)[first : first + 10])
        for inspector, record in zip(inspectors, records, strict=True):
            record.findings += inspector.finish()
    for record, expected in zip(records, alone, strict=True):
        assert record.findings == expected.findings
        assert record.plain_bands() == expected.plain_bands()


# ------------------------------------------------------------------------------------------------ the whole way


def dim(columns: int, bit_depth: int, channels: int) -> FlatField:
    gain = np.linspace(1.0, 2.0, columns, dtype=np.float32)[None].repeat(channels, 0)
    dark = np.full((channels, columns), 3.0, np.float32)
    return FlatField(gain, dark, (5, 6, columns - 1), (0, columns), bit_depth, 0.1)


@pytest.mark.parametrize("flatfield", [False, True])
@pytest.mark.parametrize(("bit_depth", "channels"), [(8, 1), (8, 3), (12, 1), (16, 3)])
def test_raw_lines_of_every_kind(flatfield: bool, bit_depth: int, channels: int) -> None:
    wide = web().astype(np.uint16) * (2**bit_depth // 256)
    pixels = wide.astype(np.uint8) if bit_depth == 8 else wide
    if channels > 1:
        pixels = np.stack([pixels, pixels // 2, pixels], -1)
    asked = BLOTS.settings.model_copy(update={"channels": channels, "scale": 2})
    field = dim(COLUMNS, bit_depth, channels) if flatfield else None
    case = Case(asked, Footprint(COLUMNS, bit_depth), [pixels], nothing)
    at_once, _ = inspected(case, None, [10], flatfield=field)
    with patch.multiple(staging, **SMALL):
        queued, _ = inspected(case, Twin(3), [10], flatfield=field)
    assert at_once.regions
    assert queued.findings == at_once.findings
    assert queued.plain_bands() == at_once.plain_bands()


def choking(patches: torch.Tensor) -> torch.Tensor:
    """Not a number where a patch has a bright corner."""
    return torch.where(patches[:, :, :1, :1] > 0.5, torch.nan, torch.zeros_like(patches))


def test_a_model_that_fails_now_and_then() -> None:
    case = replace(BLOTS, model=choking)
    at_once, _ = inspected(case, None, [10])
    assert {gap.cause for gap in at_once.gaps} == {"model-fault", "invalid-image"}
    check_same(case, [10], 4, 1)


def test_an_error_of_the_work_reaches_the_host() -> None:
    case = replace(BLOTS, model=lambda patches: patches[:, :, 1:])
    with pytest.raises(InspectionError, match="the model returned"):
        inspected(case, Twin(1), [10])


@few
@given(st.integers(0, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_masks_travel_as_bits(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    opened, faulty = rng.random((rows, columns)) < rng.random(), rng.random(rows) < 0.5
    blank = torch.zeros(rows, columns)
    cut = int(rng.integers(0, rows + 1))
    whole = bands.Band(0, blank, blank, blank, torch.from_numpy(opened), blank > 0, torch.from_numpy(faulty))
    both = [whole.part(0, cut), whole.part(cut, rows)]
    sent = bands.packed(both, torch.device("cpu")).numpy()
    assert sent.shape == (rows, -(-columns // 8) + 1)
    for back, expected in zip(bands.unpacked(sent, columns), (opened, faulty), strict=True):
        assert back.dtype == bool
        assert (back == expected).all()
    assert (sent[:, :-1] == np.packbits(opened, 1)).all()


def test_a_processor_has_no_queues() -> None:
    cpu = torch.device("cpu")
    assert isinstance(queues_of(cpu), Inline)
    assert queues_of(cpu) is queues_of(torch.device("cpu"))


# ------------------------------------------------------------------------------------------------ CUDA


@GRAPHIC_GPU
@pytest.mark.parametrize("model", [nothing, choking])
def test_on_a_gpu_the_host_waits_for_results_alone(model: Model) -> None:
    gpu = torch.device("cuda")
    case = replace(BLOTS, model=model)
    at_once, _ = inspected(case, None, [10])
    with patch.multiple(staging, **SMALL):
        inspected(case, CudaQueues(gpu), [10])  # what is made once may wait
        queues = CudaQueues(gpu)
        torch.cuda.set_sync_debug_mode("error")
        try:
            queued, _ = inspected(case, queues, [10])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [gap for gap in queued.findings if isinstance(gap, Gap)] == at_once.gaps
    assert [(one.id, one.phase) for one in queued.regions] == [(one.id, one.phase) for one in at_once.regions]
