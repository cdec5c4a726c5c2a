"""The streaming labeller alone, against scipy's labels of the whole mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from linescan.inspection.regions import Labeller, LabellerSettings, RegionPhase

few = settings(max_examples=250, derandomize=True, deadline=None, database=None)
Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]


@dataclass
class Stream:
    """A mask through a Labeller in bands; what it told, and how far it was after each band."""

    mask: Mask
    score: Scores
    limits: LabellerSettings
    cuts: list[int]
    told: list[RegionPhase] = field(default_factory=list)
    decided: list[int] = field(default_factory=list)

    def run(self, restart: bool = False) -> Stream:
        labeller = Labeller(self.mask.shape[1], self.limits)
        first, cuts = 0, list(self.cuts)
        while first < len(self.mask):
            height = cuts.pop(0) if cuts else 4
            told = labeller.push(self.mask[first : first + height], self.score[first : first + height])
            self._check(told, labeller)
            places = [(item.region.key, item.region.part) for item in told]
            assert places == sorted(places), "older regions first"
            first += height
            if restart:
                labeller = restarted(labeller, self.mask.shape[1], self.limits)
        self.told += labeller.finish()
        return self

    def _check(self, told: list[RegionPhase], labeller: Labeller) -> None:
        before = self.decided[-1] if self.decided else 0
        assert labeller.decided_up_to >= before
        for item in told:
            assert item.phase != "open" or item.region.part > 0 or item.region.first_row >= before
        # nothing waits longer than it takes to become large enough
        if self.limits.max_regions > self.mask.size:
            assert labeller.row - labeller.decided_up_to < max(self.limits.min_area, self.limits.min_length)
        self.told += told
        self.decided.append(labeller.decided_up_to)

    def final(self) -> list[RegionPhase]:
        return [item for item in self.told if item.phase == "close" and item.merged_into is None]


def restarted(labeller: Labeller, columns: int, limits: LabellerSettings) -> Labeller:
    """Another one, from the first one's state after a journey through msgpack."""
    other = Labeller(columns, limits)
    other.restore(msgpack.unpackb(msgpack.packb(labeller.state())))
    return other


def limits_of(**others: int) -> LabellerSettings:
    limits = {"min_area": 1, "min_length": 1, "max_rows": 10**6, "max_regions": 10**6, **others}
    return LabellerSettings(**limits, lanes=((0, 10**6),))


@st.composite
def streams(draw: st.DrawFn, limits: st.SearchStrategy[LabellerSettings]) -> Stream:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 50)), draw(st.sampled_from([1, 2, 5, 12, 30]))
    # near the density where regions of all sizes merge
    mask = rng.random(shape) < draw(st.sampled_from([0.1, 0.3, 0.4, 0.5, 0.7]))
    score = rng.random(shape).astype(np.float32)
    return Stream(mask, score, draw(limits), draw(st.lists(st.integers(1, 20), max_size=10)))


def components(mask: Mask) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [np.nonzero(labels == i) for i in range(1, count + 1)]


@few
@given(streams(st.just(limits_of())))
def test_final_regions_are_scipys_whatever_the_bands(stream: Stream) -> None:
    stream.run()
    expected = {}
    for rows, columns in components(stream.mask):
        scores = stream.score[rows, columns]
        key = int(rows[0]), int(columns[0])
        bounds = int(rows[0]), int(rows[-1]), int(columns.min()), int(columns.max())
        expected[key] = (*bounds, len(rows), float(scores.max()), pytest.approx(float(scores.sum(dtype=np.float64))))
    found = {
        item.region.key: (
            item.region.first_row, item.region.last_row, item.region.first_column, item.region.last_column,
            item.region.area, item.region.peak, item.region.score_sum,
        )
        for item in stream.final()
    }  # fmt: skip
    assert len(found) == len(stream.final())
    assert found == expected


def small_limits() -> st.SearchStrategy[LabellerSettings]:
    least = st.sampled_from([1, 3, 10, 40])
    return st.builds(
        limits_of, min_area=least, min_length=st.sampled_from([1, 1, 3, 9]), max_rows=st.sampled_from([1, 4, 10, 10**6])
    )


def is_large(place: tuple[NDArray[np.intp], NDArray[np.intp]], limits: LabellerSettings) -> bool:
    """In the words of the recipe: enough pixels, and a longer side that is long enough."""
    rows, columns = place
    return len(rows) >= limits.min_area and max(np.ptp(rows), np.ptp(columns)) + 1 >= limits.min_length


@few
@given(streams(small_limits()))
def test_parts_and_merges_account_for_every_pixel(stream: Stream) -> None:
    stream.run()
    assert_protocol(stream.told)
    large = [place for place in components(stream.mask) if is_large(place, stream.limits)]
    assert sum(item.region.area for item in stream.final()) == sum(len(rows) for rows, _ in large)
    total = sum(item.region.score_sum for item in stream.final())
    assert total == pytest.approx(sum(float(stream.score[place].sum(dtype=np.float64)) for place in large))
    covered = boxes(stream)
    assert all(covered[place].all() for place in large)
    if stream.final():
        assert max(item.region.peak for item in stream.final()) == max(stream.score[place].max() for place in large)


def boxes(stream: Stream) -> Mask:
    covered = np.zeros_like(stream.mask)
    for item in stream.told:
        region = item.region
        covered[region.first_row : region.last_row + 1, region.first_column : region.last_column + 1] = True
    return covered


def assert_protocol(told: list[RegionPhase]) -> None:
    """open, update …, close for each part of each region, in this order, and merges into regions that are told."""
    state: dict[tuple[int, int], tuple[int, bool]] = {}
    for item in told:
        part, is_open = state.get(item.region.key, (-1, False))
        if item.phase == "open":
            assert (part + 1, is_open) == (item.region.part, False)
        else:
            assert (part, is_open) == (item.region.part, True)
        state[item.region.key] = item.region.part, item.phase != "close"
    assert not any(is_open for _, is_open in state.values())
    for item in told:
        if item.merged_into is not None:
            assert item.merged_into in state
            assert item.merged_into < item.region.key, "the older one survives"


def flood_limits() -> st.SearchStrategy[LabellerSettings]:
    lanes = st.sampled_from([((0, 100),), ((0, 5), (5, 100)), ((2, 4), (3, 9)), ((0, 0), (4, 6))])
    return st.builds(LabellerSettings, st.just(1), st.just(1), st.just(10**6), st.integers(1, 8), lanes)


@few
@given(streams(flood_limits()))
def test_a_flood_covers_all_that_it_coalesces(stream: Stream) -> None:
    stream.run()
    assert_protocol(stream.told)
    assert (boxes(stream) >= stream.mask).all()
    assert sum(item.region.area for item in stream.final()) == stream.mask.sum()
    wide = max(stream.limits.max_regions, len(stream.limits.lanes) + 1)
    bands = len(stream.decided)
    assert sum(item.phase == "open" for item in stream.told) <= bands * wide


def test_a_flood_becomes_one_region_a_lane() -> None:
    mask = np.zeros((3, 40), bool)
    mask[1, ::2] = True
    limits = LabellerSettings(1, 1, 100, 5, ((0, 20), (20, 40)))
    told = Labeller(40, limits).push(mask, np.ones((3, 40), np.float32))
    opened = [item.region for item in told if item.phase == "open"]
    assert [(region.first_column, region.last_column, region.area) for region in opened] == [(0, 18, 10), (20, 38, 10)]
    assert all(region.coalesced for region in opened)


@pytest.mark.parametrize(("most", "flood"), [(10, False), (9, True)])
def test_a_flood_begins_with_one_region_more_than_the_most(most: int, flood: bool) -> None:
    mask = np.zeros((3, 40), bool)
    mask[1, :20:2] = True
    told = Labeller(40, limits_of(max_regions=most)).push(mask, np.ones((3, 40), np.float32))
    assert {item.region.coalesced for item in told} == {flood}
    assert len(told) == (2 if flood else 20)


def test_a_region_that_a_flood_flows_into_is_marked() -> None:
    mask = np.zeros((3, 40), bool)
    mask[:2, 4] = mask[1, ::4] = True
    stream = Stream(mask, np.ones((3, 40), np.float32), limits_of(max_regions=5), [1, 1, 1]).run()
    assert [(item.region.key, item.region.area, item.region.coalesced) for item in stream.final()] == [
        ((0, 4), 11, True)
    ]


@few
@given(streams(st.one_of(small_limits(), flood_limits())))
def test_a_labeller_restarted_after_each_band_tells_the_same(stream: Stream) -> None:
    again = Stream(stream.mask, stream.score, stream.limits, stream.cuts)
    assert stream.run().told == again.run(restart=True).told
    assert stream.decided == again.decided


def test_what_was_told_and_merges_into_something_too_small_is_told_with_it() -> None:
    # the right arm is large and was cut into parts; its second part is small where it meets a small, older pixel
    mask = np.zeros((8, 9), bool)
    mask[2:5, 4:9] = True
    mask[1:6, 1] = True
    mask[5, 8] = mask[6, 1:9] = True
    stream = Stream(mask, np.ones((8, 9), np.float32), limits_of(min_area=15, max_rows=3), [5, 1, 1, 1]).run()
    assert_protocol(stream.told)
    assert [item.merged_into for item in stream.told if item.merged_into] == [(1, 1)]
    assert sum(item.region.area for item in stream.final()) == mask.sum()


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_pixels_touch_across_a_band_also_at_their_corners(shift: int) -> None:
    mask = np.zeros((2, 6), bool)
    mask[0, 2] = mask[1, 2 + shift] = True
    stream = Stream(mask, np.ones((2, 6), np.float32), limits_of(), [1, 1]).run()
    assert [item.region.area for item in stream.final()] == [2]
