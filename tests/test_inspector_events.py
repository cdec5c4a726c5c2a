"""What the Inspector tells: regions of known shape, invalid images, faults of the model, selvages, lost lines."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.config import ImageBand, InspectionSettings, Lane, Selvage, SsimSettings
from linescan.errors import InspectionError
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.inspector import FinalBand, Inspector
from linescan.inspection.placement import Footprint
from linescan.inspection.rows import Rows
from linescan.messages import Gap, Region
from tests import reference
from tests.inspection_kit import Case, Model, Pixels, Record, SideBySide, feed, nothing, ramp, run, scores

few = settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
PATCH, STRIDE = 16, 8
HEIGHTS = ([1], [3, 1, 8, 5], [1000])
Mask = NDArray[np.bool_]


def settings_of(**others: Any) -> InspectionSettings:
    return InspectionSettings(**{"patch_size": PATCH, "stride": STRIDE, "threshold": 0.3, **others})


def drawn(mask: Mask, **others: Any) -> Case:
    """A roll whose score is high where the mask is set: nothing is blurred, only opened."""
    pixels = mask.astype(np.uint8) * 200
    return Case(settings_of(method="l2", **others), Footprint(mask.shape[1]), [pixels], nothing)


def box(mask: Mask, top: int, left: int, height: int, width: int) -> None:
    mask[top : top + height, left : left + width] = True


def bounds(region: Region) -> tuple[int, int, int, int]:
    return region.first_line, region.last_line, region.first_column, region.last_column


def test_after_an_error_nothing_goes_on() -> None:
    """What was summed up to it would be summed again, and told as inspected."""
    calls: list[int] = []

    def once(patches: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("once")
        return patches * 0.8

    inspector = Inspector(settings_of(), Footprint(60), once)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    inspector.push(pixels)
    with pytest.raises(MemoryError):
        inspector.push(pixels)
    with pytest.raises(InspectionError, match="broke this segment off"):
        inspector.push(pixels)


# ------------------------------------------------------------------------------------------------ regions


@pytest.mark.parametrize(("left_top", "right_top"), [(10, 30), (30, 10), (20, 20)])
def test_the_younger_arm_of_a_u_closes_into_the_older_one(left_top: int, right_top: int) -> None:
    mask = np.zeros((140, 50), bool)
    box(mask, left_top, 5, 110 - left_top, 6)
    box(mask, right_top, 35, 110 - right_top, 6)
    box(mask, 100, 5, 10, 36)
    record = run(drawn(mask), [9])
    left, right = f"s0-l{left_top}-c6", f"s0-l{right_top}-c36"  # the opening rounds the corners off
    older, younger = (left, right) if left_top <= right_top else (right, left)
    (merged,) = [region for region in record.regions if region.merged_into]
    assert (merged.id, merged.merged_into, merged.phase) == (younger, older, "close")
    assert record.regions.index(merged) < len(record.regions) - 1
    (final,) = record.final_regions
    assert final.id == older
    assert bounds(final) == (min(left_top, right_top), 109, 5, 40)
    assert final.area_px == reference.opened(mask).sum()


def test_a_region_without_end_goes_on_in_parts() -> None:
    mask = np.zeros((400, 20), bool)
    box(mask, 7, 5, 393, 6)
    record = run(drawn(mask, max_region_lines=50), [11])
    parts = record.final_regions
    assert {region.id for region in parts} == {"s0-l7-c6"}
    assert [region.part for region in parts] == list(range(len(parts)))
    assert parts[0].first_line == 7
    assert parts[-1].last_line == 399
    for above, below in pairwise(parts):
        assert below.first_line == above.last_line + 1
        assert 50 <= above.last_line - above.first_line + 1 < 50 + STRIDE
    assert sum(region.area_px for region in parts) == reference.opened(mask).sum()


def test_a_region_as_wide_as_the_web_keeps_its_ends() -> None:
    mask = np.zeros((60, 40), bool)
    mask[30:34] = True
    (final,) = run(drawn(mask), [60]).final_regions
    assert bounds(final) == (30, 33, 0, 39)
    assert final.area_px == 4 * 40


@pytest.mark.parametrize("edge", [np.s_[:2, 10:14], np.s_[-2:, 10:14], np.s_[20:24, :2], np.s_[20:24, -2:]])
def test_a_defect_cut_by_the_border_of_the_web_stays(edge: tuple[slice, slice]) -> None:
    mask = np.zeros((60, 40), bool)
    mask[edge] = True
    assert len(run(drawn(mask), [60]).final_regions) == 1


@pytest.mark.parametrize("lanes", [(), (("a", 0, 30), ("b", 30, 60)), (("a", 10, 20), ("b", 15, 40))])
def test_a_flood_is_coalesced_and_nothing_of_it_is_dropped(lanes: tuple[tuple[str, int, int], ...]) -> None:
    mask = np.zeros((80, 60), bool)
    for top in range(20, 60, 6):
        for left in range(1, 54, 6):
            box(mask, top, left, 4, 4)
    named = tuple(Lane(name=name, first_column=first, end_column=end) for name, first, end in lanes)
    record = run(drawn(mask, max_regions=5, lanes=named), [7])
    final = record.final_regions
    assert any(region.coalesced for region in final)
    opened = reference.opened(mask)
    # nine discs a row: far fewer regions than discs
    assert len(final) <= 7 * (len(lanes) + 1)
    covered = np.zeros_like(mask)
    for region in final:
        covered[region.first_line : region.last_line + 1, region.first_column : region.last_column + 1] = True
    assert (covered >= opened).all()
    assert sum(region.area_px for region in final) == opened.sum()


def test_what_is_too_small_is_discarded_and_holds_nothing_up() -> None:
    mask = np.zeros((100, 40), bool)
    box(mask, 20, 5, 4, 4)  # 12 pixels after opening
    box(mask, 20, 20, 5, 5)  # 21
    record = run(drawn(mask, min_area_px=13), [1])
    assert [region.area_px for region in record.final_regions] == [21]
    assert len(run(drawn(mask, min_area_px=12), [1]).final_regions) == 2


@pytest.mark.parametrize(("least", "count"), [(84, 1), (85, 0)])
def test_the_least_area_counts_pixels_of_the_camera(least: int, count: int) -> None:
    mask = np.zeros((80, 60), bool)
    box(mask, 20, 10, 10, 10)  # 5×5 blocks of 2×2, of which the opening leaves 21
    assert len(run(drawn(mask, scale=2, min_area_px=least), [80]).final_regions) == count


@pytest.mark.parametrize(("least", "count"), [(10, 3), (11, 2), (24, 2), (25, 0)])
def test_the_least_length_counts_the_longer_side_in_pixels_of_the_camera(least: int, count: int) -> None:
    mask = np.zeros((80, 90), bool)
    box(mask, 20, 10, 10, 10)
    box(mask, 20, 30, 10, 24)  # across the web
    box(mask, 20, 70, 24, 10)  # along it
    assert len(run(drawn(mask, scale=2, min_length_px=least), [80]).final_regions) == count


def test_a_candidate_is_told_as_soon_as_it_is_long_enough() -> None:
    mask = np.zeros((120, 30), bool)
    box(mask, 10, 5, 40, 6)
    record = run(drawn(mask, min_length_px=30), [1])
    opened = record.regions[0]
    assert opened.first_line == 10
    assert 30 <= opened.last_line - opened.first_line + 1 < 30 + STRIDE
    assert opened.phase == "open"
    assert record.regions[-1].phase == "close"


def test_a_masked_stripe_is_not_inspected_and_what_lies_beside_it_is() -> None:
    mask = np.zeros((80, 60), bool)
    mask[:, 20:28] = True  # printed
    box(mask, 30, 40, 8, 8)
    record = run(drawn(mask, masks=((20, 28),)), [80])
    assert [bounds(region) for region in record.final_regions] == [(30, 37, 40, 47)]
    assert len(run(drawn(mask), [80]).final_regions) == 2


def test_a_thin_region_longer_than_the_most_but_smaller_than_the_least_is_told_whole() -> None:
    mask = np.zeros((120, 30), bool)
    box(mask, 10, 5, 80, 4)
    record = run(drawn(mask, min_area_px=100, max_region_lines=10), [8])
    assert sum(region.area_px for region in record.final_regions) == reference.opened(mask).sum()
    assert record.final_regions[0].first_line == 10


@pytest.mark.parametrize(("left", "count"), [(12, 1), (13, 2)])
def test_pixels_that_touch_at_a_corner_across_bands_are_one_region(left: int, count: int) -> None:
    border = 2 * STRIDE - reference.OPENING_REACH  # a band ends here, with no window and no smoothing
    mask = np.zeros((80, 40), bool)
    box(mask, border - 4, 10, 4, 4)
    box(mask, border, left, 4, 4)
    record = run(drawn(mask), [80])
    assert border in {band.first_line for band in record.bands}
    assert len(record.final_regions) == count


def test_a_pixel_at_the_threshold_passes() -> None:
    mask = np.zeros((60, 40), bool)
    box(mask, 20, 10, 8, 8)
    grey = np.float32(200) / np.float32(255)
    score = float(grey * grey)
    assert run(drawn(mask, threshold=score), [60]).regions == []
    assert len(run(drawn(mask, threshold=np.nextafter(np.float32(score), np.float32(0))), [60]).final_regions) == 1


@pytest.mark.parametrize(
    ("lines", "columns", "padded"), [(15, 40, True), (16, 40, False), (40, 15, True), (40, 16, False)]
)
def test_regions_of_a_segment_smaller_than_a_patch_say_so(lines: int, columns: int, padded: bool) -> None:
    mask = np.zeros((lines, columns), bool)
    box(mask, 4, 4, 6, 6)
    (final,) = run(drawn(mask), [7]).final_regions
    assert final.padded == padded


def test_phases_come_once_a_band() -> None:
    mask = np.zeros((100, 30), bool)
    box(mask, 10, 5, 60, 6)
    record = run(drawn(mask), [1])
    phases = [region.phase for region in record.regions]
    spanned = [band for band in record.bands if band.first_line <= 69 and band.end_line > 10]
    assert phases == ["open", *["update"] * (len(spanned) - 1), "close"]
    assert [region.last_line for region in record.regions[:-1]] == [min(band.end_line - 1, 69) for band in spanned]


def test_lines_and_columns_of_a_scaled_roll_are_the_cameras() -> None:
    mask = np.zeros((91, 80), bool)
    box(mask, 30, 20, 61, 30)
    asked = {"scale": 3, "columns": (5, 78)}
    (final,) = run(drawn(mask, **asked), [10]).final_regions
    # blocks of three from line 0 and column 5; the last row has one line only
    assert (final.first_line, final.last_line) == (30, 90)
    assert (final.first_column, final.last_column) == (20, 49)


# ------------------------------------------------------------------------------------------------ invalid images


def textured(lines: int, columns: int = 24, seed: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(60, 190, (lines, columns)).astype(np.uint8)


BAND = ImageBand(mean_low=0.2, mean_high=0.8, contrast_low=0.05, lines=4)
DARK, BRIGHT, FLAT = 5, 254, 128


def spoilt(lines: int, stretches: list[tuple[int, int]], grey: int = DARK) -> Case:
    pixels = textured(lines)
    for first, end in stretches:
        pixels[first:end] = grey
    return Case(settings_of(band=BAND, threshold=10), Footprint(24), [pixels])


def lines_of(gaps: list[Gap]) -> list[int]:
    return [line for gap in gaps for line in range(gap.first_line, gap.last_line + 1)]


@pytest.mark.parametrize("grey", [DARK, BRIGHT, FLAT])
@pytest.mark.parametrize(("first", "end"), [(30, 34), (30, 61), (0, 5), (76, 80), (0, 80)])
def test_an_invalid_stretch_is_a_gap_of_exactly_its_lines(grey: int, first: int, end: int) -> None:
    case = spoilt(80, [(first, end)], grey)
    records = [run(case, heights) for heights in HEIGHTS]
    for record in records:
        assert {gap.cause for gap in record.gaps} == {"invalid-image"}
        assert lines_of(record.gaps) == list(range(first, end))
        assert all(gap.last_line - gap.first_line < BAND.lines for gap in record.gaps)
        assert record.findings == records[0].findings
        assert record.plain_bands() == records[0].plain_bands()


@pytest.mark.parametrize(("first", "end"), [(30, 33), (0, 3), (77, 80)])
def test_a_stretch_shorter_than_the_band_asks_is_inspected(first: int, end: int) -> None:
    for heights in HEIGHTS:
        assert run(spoilt(80, [(first, end)]), heights).gaps == []


def test_flicker_neither_starts_nor_ends_a_gap() -> None:
    flicker = [(line, line + 3) for line in range(10, 30, 4)]  # three dark, one good
    gap = [(40, 44), *((line, line + 1) for line in range(47, 60, 4))]  # after four dark ones: three good, one dark
    for heights in HEIGHTS:
        record = run(spoilt(90, [*flicker, *gap]), heights)
        # the gap ends with the last dark line, 59: four good ones follow
        assert lines_of(record.gaps) == list(range(40, 60))


def test_a_dark_defect_over_half_the_width_is_no_invalid_image() -> None:
    case = spoilt(80, [])
    case.roll[0][30:50, :12] = DARK  # type: ignore[index]
    assert run(case, [7]).gaps == []


# ------------------------------------------------------------------------------------------------ faults of the model


def failing(value: float) -> Model:
    """A model that returns `value` somewhere in each patch that has a white pixel."""

    def model(patches: torch.Tensor) -> torch.Tensor:
        result = ramp(patches)
        white = (patches == 1).flatten(1).any(1)
        result[white, 0, 3, 5] = value
        return result

    return model


@st.composite
def marked(draw: st.DrawFn) -> tuple[Case, int]:
    """A roll with one white pixel, and its line."""
    width, lines = draw(st.sampled_from([9, 16, 40])), draw(st.integers(10, 90))
    pixels = np.minimum(textured(lines, width, draw(st.integers(0, 99))), 254)
    # a defect that runs on across the fault's border, and noise
    pixels[:, width // 3 : width // 3 + 6] //= 2
    line = draw(st.integers(0, lines - 1))
    pixels[line, draw(st.integers(0, width - 1))] = 255
    asked = settings_of(
        stride=draw(st.sampled_from([1, 2, 5, 8, 16])),
        ssim=SsimSettings(window=draw(st.sampled_from([3, 7]))),
        method=draw(st.sampled_from(["ssim", "l2"])),
        smoothing_sigma=draw(st.sampled_from([0, 1.0])),
        threshold=draw(st.sampled_from([0.02, 0.1, 0.5])),
    )
    value = draw(st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e9]))
    return Case(asked, Footprint(width), [pixels], failing(value)), line


@few
@given(marked(), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_a_fault_of_the_model_is_a_gap_and_leaves_its_neighbours_as_they_were(
    drawn_case: tuple[Case, int], heights: list[int]
) -> None:
    case, marker = drawn_case
    record = run(case, heights)
    assert {gap.cause for gap in record.gaps} == {"model-fault"}
    gap_lines = lines_of(record.gaps)
    assert gap_lines == lines_at_fault(case, marker)
    inside = np.zeros(case.lines, bool)
    inside[gap_lines] = True
    for region in record.regions:
        assert not inside[region.first_line : region.last_line + 1].any()
    sound = run(Case(case.settings, case.footprint, case.roll, ramp), heights)
    assert sound.gaps == []
    assert scores(record)[~inside].tobytes() == scores(sound)[~inside].tobytes()
    assert (opened(record)[~inside] == opened(sound)[~inside]).all()
    assert not opened(record)[inside].any()
    other = run(case, [case.lines])
    assert other.findings == record.findings
    assert other.plain_bands() == record.plain_bands()
    ((_, whole),) = case.whole()
    assert scores(record).tobytes() == whole.score.tobytes()
    assert (opened(record) == whole.opened).all()


def lines_at_fault(case: Case, marker: int) -> list[int]:
    """The lines of all patches that show the marker, and those whose score or mask depends on them."""
    height = max(case.lines, PATCH)
    rows = [reference.mirror(i, case.lines) for i in range(height)]
    hit = [y for y in reference.anchors(height, PATCH, case.settings.stride) if marker in rows[y : y + PATCH]]
    halo = reference.halo(case.settings)
    return list(range(max(hit[0] - halo, 0), min(hit[-1] + PATCH + halo, case.lines)))


def opened(record: Record) -> Mask:
    return np.concatenate([band.band.opened.numpy() for band in record.bands])


def test_a_model_that_returns_another_shape_is_refused() -> None:
    inspector = Inspector(settings_of(), Footprint(24), lambda patches: patches[..., :-1])
    with pytest.raises(InspectionError, match=r"\(8, 1, 16, 15\) for patches of \(8, 1, 16, 16\)"):
        inspector.push(textured(40))


# ------------------------------------------------------------------------------------------------ selvage


@pytest.mark.parametrize("backdrop", ["dark", "bright"])
def test_what_lies_beyond_a_wandering_selvage_is_not_inspected(backdrop: str) -> None:
    lines, columns, hold = 150, 70, 4
    left = (12 + 6 * np.sin(np.arange(lines) / 11)).astype(int)
    right = (55 + 6 * np.sin(np.arange(lines) / 17)).astype(int)
    column = np.arange(columns)
    web = (column >= left[:, None]) & (column < right[:, None])
    web[90:97] = False  # torn off: no web in these lines
    defects = np.zeros((lines, columns), bool)
    box(defects, 40, 30, 6, 6)
    box(defects, 40, 0, 6, hold - 1)  # too narrow to be taken for web
    box(defects, 120, 68, 8, 2)
    grey = np.where(web, textured(lines, columns, 3) // 2 + 60, 10)
    grey[defects] = 130
    if backdrop == "bright":
        grey = 255 - grey
    level = 0.2 if backdrop == "dark" else 0.8
    selvage = Selvage(backdrop=backdrop, level=level, hold_px=hold)  # type: ignore[arg-type]
    asked = settings_of(selvage=selvage, ssim=SsimSettings(window=5), threshold=0.5)
    case = Case(asked, Footprint(columns), [grey.astype(np.uint8)], texture_only)
    record = run(case, [13])
    inspected = np.concatenate([band.band.inspected.numpy() for band in record.bands])
    assert (inspected == eroded(left, right, web, 2)).all()
    assert [bounds(region) for region in record.final_regions] == [pytest.approx((40, 45, 30, 35), abs=2)]
    assert record.gaps == []


def texture_only(patches: torch.Tensor) -> torch.Tensor:
    """A model that reproduces the web, and returns black where all is one grey."""
    wide = torch.nn.functional.pad(patches, (1, 1, 1, 1), mode="replicate")
    windows = wide.unfold(2, 3, 1).unfold(3, 3, 1)
    flat = windows.amax((-1, -2)) - windows.amin((-1, -2)) < 0.01
    return torch.where(flat, 0.0, patches)


def eroded(left: NDArray[np.int_], right: NDArray[np.int_], web: Mask, reach: int) -> Mask:
    """Inspected pixels, from the edges that the roll was made with."""
    inside = np.zeros_like(web)
    for y in range(len(web)):
        near = slice(max(y - reach, 0), y + reach + 1)
        if web[near].any(1).all():
            inside[y, left[near].max() + reach : right[near].min() - reach] = True
    return inside


# ------------------------------------------------------------------------------------------------ memory


def held_bytes(inspector: Inspector) -> int:
    """Memory of the running segment's rows, scaler, gate and open regions."""
    assert inspector._running is not None
    segment = inspector._running.segment
    halves = segment.reconstruction, segment.scoring
    rows = [value for half in halves for value in vars(half).values() if isinstance(value, Rows)]
    tensors = [chunk for value in rows for chunk in value._chunks] + inspector._gate._held
    # the storage, since a small view may hold a large past
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    rest = inspector._running.scaler._rest
    size += 0 if rest is None else rest.untyped_storage().nbytes()
    return size + sum(len(half._faults) for half in halves) + len(inspector._running.labeller._open)


@pytest.mark.parametrize(("height", "scale", "blocks"), [(1, 1, 8), (7, 2, 20), (64, 1, 50)])
@pytest.mark.parametrize("model", [nothing, failing(float("nan"))])
def test_memory_does_not_grow_with_the_roll(height: int, scale: int, blocks: int, model: Model) -> None:
    pixels = textured(STRIDE * 8 * scale, 40) // 2
    pixels[:, 10:16] = 200  # a region without end
    pixels[20 * scale : 21 * scale, :scale] = 255  # here the other model fails, once a block
    asked = settings_of(method="l2", scale=scale, max_region_lines=100, smoothing_sigma=1, threshold=0.4)
    inspector = Inspector(asked, Footprint(40), model)
    sizes, gaps = [], 0
    for _ in range(blocks):
        for first in range(0, len(pixels), height):
            gaps += sum(isinstance(finding, Gap) for finding in inspector.push(pixels[first : first + height]))
        sizes.append(held_bytes(inspector))
    assert (gaps > 0) == (model is not nothing)
    assert sizes[1] == max(sizes[2:])
    # five maps of float32, of the rows that any stage may still need
    assert sizes[1] <= 5 * 4 * 40 * 2 * (PATCH + STRIDE + reference.halo(asked))


# ------------------------------------------------------------------------------------------------ lost lines


def test_lines_that_are_missing_become_a_gap() -> None:
    pixels = textured(90)
    inspector = Inspector(settings_of(), Footprint(24), ramp)
    inspector.push(pixels[:40], 0)
    findings = inspector.push(pixels[50:], 50)
    assert [finding for finding in findings if isinstance(finding, Gap)] == [
        Gap("camera", "roll", 40, 49, "incomplete")
    ]
    inspector.finish()
    assert (inspector.lines_inspected, inspector.lines_in_gaps, inspector.lines_pending) == (80, 10, 0)


def test_lines_that_come_again_are_passed_over() -> None:
    pixels = textured(90)
    case = Case(settings_of(), Footprint(24), [pixels])
    record = Record()
    inspector = case.inspector(record)
    for first, end in ((0, 30), (10, 45), (0, 20), (45, 90), (80, 90)):
        record.findings += inspector.push(pixels[first:end], first)
    record.findings += inspector.finish()
    undisturbed = run(case, [90])
    assert record.findings == undisturbed.findings
    assert record.plain_bands() == undisturbed.plain_bands()


def test_a_camera_may_hand_out_memory_that_is_read_only() -> None:
    pixels = textured(40)
    pixels.setflags(write=False)
    Inspector(settings_of(), Footprint(24), ramp).push(pixels)


def test_a_gap_says_its_cause_and_that_it_is_estimated() -> None:
    inspector = Inspector(settings_of(), Footprint(24, camera="left", roll="r7"), ramp)
    assert inspector.push_gap(9, "acquire-lost", estimated=True) == [Gap("left", "r7", 0, 9, "acquire-lost", True)]
    assert inspector.push_gap(9, "acquire-lost") == []


# ------------------------------------------------------------------------------------------------ refusals


def stopped() -> tuple[Inspector, bytes]:
    mask = np.zeros((60, 24), bool)
    box(mask, 30, 5, 30, 6)
    case = drawn(mask)
    inspector = case.inspector(Record())
    for _ in feed(inspector, case.roll, [60]):
        pass
    return inspector, inspector.snapshot()


def resumed(old: Inspector, snapshot: bytes, **others: Any) -> Inspector:
    made: dict[str, Any] = {"settings": old.settings, "footprint": old.footprint, "reconstruct": nothing, **others}
    return Inspector(**made, snapshot=snapshot)


def damaged(snapshot: bytes) -> Iterator[bytes]:
    state = msgpack.unpackb(snapshot)
    yield from (snapshot[:end] for end in range(len(snapshot)))
    yield from (msgpack.packb({k: v for k, v in state.items() if k != key}) for key in state)
    yield from (msgpack.packb({**state, "segment": value}) for value in ("x", 7, [1], {"first_line": 0}))
    yield from (b"", b"\x00", b"\xff" * 40, msgpack.packb([1, 2]), msgpack.packb({}), snapshot + b"\x00")


def test_a_snapshot_that_is_none_is_refused() -> None:
    old, snapshot = stopped()
    resumed(old, snapshot)
    for data in damaged(snapshot):
        with pytest.raises(InspectionError):
            resumed(old, data)


@few
@given(st.binary(max_size=80))
def test_garbage_is_no_snapshot(data: bytes) -> None:
    with pytest.raises(InspectionError):
        Inspector(settings_of(), Footprint(24), ramp, snapshot=data)


def test_a_snapshot_of_another_version_is_refused() -> None:
    old, snapshot = stopped()
    other = msgpack.packb({**msgpack.unpackb(snapshot), "version": 2})
    with pytest.raises(InspectionError, match="snapshot of version 2, 1 expected"):
        resumed(old, other)


@pytest.mark.parametrize(
    "others",
    [
        {"settings": settings_of(method="l2", threshold=0.31)},
        {"footprint": Footprint(24, roll="next")},
        {"footprint": Footprint(24, camera="right")},
        {"footprint": Footprint(24, bit_depth=10)},
        {"calibration": ColumnCalibration(np.zeros(24, np.float32), np.ones(24, np.float32))},
    ],
)
def test_a_snapshot_made_under_other_conditions_is_refused(others: dict[str, Any]) -> None:
    old, snapshot = stopped()
    with pytest.raises(InspectionError, match="made with other settings"):
        resumed(old, snapshot, **others)


@pytest.mark.parametrize("shape", [(10, 23), (10, 25), (10, 24, 3)])
def test_lines_of_another_camera_are_refused(shape: tuple[int, ...]) -> None:
    inspector = Inspector(settings_of(), Footprint(24), ramp)
    with pytest.raises(InspectionError, match="expected 24 and 1"):
        inspector.push(np.zeros(shape, np.uint8))


def test_settings_that_do_not_fit_the_camera_are_refused() -> None:
    with pytest.raises(InspectionError, match="columns 4:30 asked, the footage has 24"):
        Inspector(settings_of(columns=(4, 30)), Footprint(24), ramp)
    short = ColumnCalibration(np.zeros(23, np.float32), np.ones(23, np.float32))
    with pytest.raises(InspectionError, match="23 columns, 24 are inspected"):
        Inspector(settings_of(), Footprint(24), ramp, calibration=short)


def test_sixteen_bit_and_eight_bit_lines_of_one_web_score_alike() -> None:
    eight: Pixels = textured(60)
    sixteen: Pixels = eight.astype(np.uint16) * 257
    records = [
        run(Case(settings_of(), Footprint(24, depth), [pixels]), [9]) for depth, pixels in ((8, eight), (16, sixteen))
    ]
    np.testing.assert_allclose(scores(records[0]), scores(records[1]), atol=1e-6)


# ------------------------------------------------------------------------------------------------ the model's calls


class Watched:
    """A plain model that says how many patches it takes at once, and notes how many it got."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.sizes: list[int] = []

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(patches))
        return ramp(patches)


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [256, 34]), (96, [192, 98]), (300, [290])])
def test_a_plain_model_gets_whole_multiples_of_what_it_takes_at_once(at_once: int, sizes: list[int]) -> None:
    model = Watched(at_once)
    wide = PATCH + 144 * STRIDE
    Inspector(settings_of(), Footprint(wide), model).push(textured(PATCH + STRIDE, wide))
    assert model.sizes == sizes


@pytest.mark.parametrize("model", [failing(float("nan")), SideBySide(failing(float("nan")), (1, PATCH, PATCH))])
def test_bands_of_a_fault_are_tensors_like_all_others(model: Model) -> None:
    bands: list[FinalBand] = []
    inspector = Inspector(settings_of(), Footprint(40), model, on_band=bands.append)
    pixels = textured(6 * PATCH, 40)
    pixels[2 * PATCH, :] = 255
    for first in range(0, len(pixels), STRIDE):
        inspector.push(pixels[first : first + STRIDE])
    inspector.finish()
    assert any(band.band.faulty.any() for band in bands)
    for band in bands:
        assert not any(value.is_inference() for value in vars(band.band).values() if isinstance(value, torch.Tensor))


def test_an_ended_segment_is_freed_at_once() -> None:
    """Its rows are a device's memory."""
    inspector = Inspector(settings_of(), Footprint(40), ramp)
    inspector.push(textured(3 * PATCH, 40))
    assert inspector._running is not None
    segment = weakref.ref(inspector._running.segment)
    gc.disable()
    try:
        inspector.finish()
        assert segment() is None
    finally:
        gc.enable()
