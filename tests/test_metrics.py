"""The metrics against scikit-learn, scipy.ndimage and counting by hand; spilled to disk they are the same."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import auc, roc_auc_score, roc_curve

from linescan.errors import ConfigError, InputError, InspectionError
from linescan.training.metrics import PixelScores
from linescan.training.spill import BYTES_PER_TALLY, keys_of, scores_of

Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]

SMALL = 2 * BYTES_PER_TALLY  # two distinct scores in memory
LARGE = 256 << 20


def made_up(count: int = 6, seed: int = 0, decimals: int | None = None, size: int = 40) -> list[Image]:
    """Images with blobs that score higher; rounding to few decimals gives ties."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        defect = ndimage.gaussian_filter(rng.normal(size=(size, size + 5)), 2) > 0.18
        score = rng.gamma(2, 0.1, defect.shape) + 0.15 * defect
        ignore = np.zeros(defect.shape, np.bool_)
        ignore[:, : rng.integers(0, 12)] = True
        ignore[20:23] = True
        score = score if decimals is None else score.round(decimals)
        images.append((score.astype(np.float32), defect, ignore))
    return images


def added(images: list[Image], memory_bytes: int = LARGE) -> PixelScores:
    scores = PixelScores(memory_bytes)
    for image in images:
        scores.add(*image)
    return scores


def flat(images: list[Image]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    return (
        np.concatenate([score[~ignore] for score, _, ignore in images]),
        np.concatenate([defect[~ignore] for _, defect, ignore in images]),
    )


def regions_of(images: list[Image]) -> list[npt.NDArray[np.float32]]:
    """Independent of the code under test: the scores of each ground-truth region."""
    regions = []
    for score, defect, ignore in images:
        labels, count = ndimage.label(defect, structure=np.ones((3, 3)))
        regions += [score[(labels == label) & ~ignore] for label in range(1, count + 1)]
    return [region for region in regions if region.size]


def pro_reference(images: list[Image], limit: float) -> float:
    score, defect = flat(images)
    regions = regions_of(images)
    thresholds = [np.inf, *np.unique(score)[::-1]]
    fpr = np.array([np.mean(score[~defect] >= threshold) for threshold in thresholds])
    overlap = np.array([np.mean([np.mean(region >= threshold) for region in regions]) for threshold in thresholds])
    inside = fpr <= limit
    # Where the curve rises straight up at the limit, np.interp may take either end, and the area is the same.
    x = [*fpr[inside], limit]
    y = [*overlap[inside], np.interp(limit, fpr, overlap) if not (fpr == limit).any() else overlap[inside][-1]]
    return float(auc(x, y)) / limit


@st.composite
def image_sets(draw: st.DrawFn) -> list[Image]:
    ties = st.sampled_from([0.0, -0.0, 0.25, 1.0, -3.5]).map(np.float32)
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False).map(np.float32)
    values = draw(st.sampled_from([ties, floats]))
    images = []
    for _ in range(draw(st.integers(1, 3))):
        shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        score = draw(hnp.arrays(np.float32, shape, elements=values))
        defect, ignore = (draw(hnp.arrays(np.bool_, shape)) for _ in range(2))
        images.append((score, defect, ignore))
    return images


def has_both(images: list[Image]) -> bool:
    defect = flat(images)[1]
    return bool(defect.any() and not defect.all())


@pytest.fixture(params=[SMALL, 50 * BYTES_PER_TALLY, LARGE], ids=["two", "fifty", "all"])
def memory_bytes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# ---------------------------------------------------------------------------------------------------- ROC


@settings(deadline=None, max_examples=150)
@given(images=image_sets(), memory_bytes=st.sampled_from([SMALL, 7 * BYTES_PER_TALLY, LARGE]))
def test_every_metric_equals_its_independent_twin(images: list[Image], memory_bytes: int) -> None:
    with added(images, memory_bytes) as scores:
        if not has_both(images):
            with pytest.raises(InputError):
                scores.auroc()
            return
        score, defect = flat(images)
        assert scores.auroc() == pytest.approx(roc_auc_score(defect, score.astype(np.float64)), abs=1e-12)
        for limit in (0.3, 1.0):
            assert scores.pro(limit) == pytest.approx(pro_reference(images, limit), abs=1e-12)
        thresholds = scores.thresholds_at_fpr([0.0, 0.1, 0.5, 1.0])
        expected = [[np.mean(region > np.float32(t)) for t in thresholds] for region in regions_of(images)]
        np.testing.assert_array_equal(np.sort(scores.overlaps(thresholds), axis=0), np.sort(expected, axis=0))


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_auroc_equals_sklearn_whatever_the_ties(decimals: int | None, memory_bytes: int) -> None:
    images = made_up(2, decimals=decimals, size=24)
    score, defect = flat(images)
    with added(images, memory_bytes) as scores:
        assert scores.auroc() == pytest.approx(roc_auc_score(defect, score), abs=1e-13)
        assert scores.good_pixels == np.count_nonzero(~defect)
        assert scores.defect_pixels == np.count_nonzero(defect)


def test_constant_scores_are_chance(memory_bytes: int) -> None:
    images = [(np.full_like(score, 0.7), defect, ignore) for score, defect, ignore in made_up(2)]
    with added(images, memory_bytes) as scores:
        assert scores.auroc() == 0.5
        assert scores.pro(1.0) == pytest.approx(0.5)
        curve = scores.roc()
        assert curve.fpr.tolist() == curve.tpr.tolist() == [0, 1]


def test_perfect_and_inverted_scores() -> None:
    defect = np.array([[True, False, False]])
    none = np.zeros_like(defect)
    for sign, expected in ((1, 1.0), (-1, 0.0)):
        with added([(np.array([[sign * 3.0, 1, 2]], np.float32), defect, none)]) as scores:
            assert scores.auroc() == expected
            assert scores.pro() == expected


def test_order_of_images_and_pixels_does_not_matter() -> None:
    images = made_up(2)
    score, defect = flat(images)
    order = np.random.default_rng(1).permutation(score.size)
    shuffled = [(score[order][None], defect[order][None], np.zeros((1, score.size), np.bool_))]
    with added(images) as a, added(images[::-1], 99 * BYTES_PER_TALLY) as b, added(shuffled, 999 * SMALL) as c:
        assert a.auroc() == b.auroc() == c.auroc()
        assert a.pro() == pytest.approx(b.pro(), abs=1e-12)


def test_spilled_is_identical() -> None:
    images = made_up(5)
    with added(images) as memory, added(images, 300 * BYTES_PER_TALLY) as disk:
        assert disk.spilled_bytes > 20 * memory.spilled_bytes > 0
        assert disk.auroc() == memory.auroc()
        for points in (50, 10**6):
            here, there = memory.roc(points), disk.roc(points)
            for name in ("fpr", "tpr", "thresholds"):
                np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
        assert disk.pro() == pytest.approx(memory.pro(), abs=1e-12)
        rates = np.linspace(0, 1, 21)
        np.testing.assert_array_equal(
            disk.overlap_quantiles(rates).overlap, memory.overlap_quantiles(rates[::-1]).overlap[:, ::-1]
        )


def test_asked_between_images_counts_what_was_added(memory_bytes: int) -> None:
    images = made_up(3, decimals=2, size=24)
    with PixelScores(memory_bytes) as scores:
        for count, image in enumerate(images, start=1):
            scores.add(*image)
            score, defect = flat(images[:count])
            assert scores.auroc() == pytest.approx(roc_auc_score(defect, score), abs=1e-13)


def test_roc_of_few_distinct_scores_is_sklearns(memory_bytes: int) -> None:
    images = made_up(2, decimals=1)
    score, defect = flat(images)
    with added(images, memory_bytes) as scores:
        curve = scores.roc(100_000)
    fpr, tpr, _ = roc_curve(defect, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-15)


@pytest.mark.parametrize("points", [3, 4, 40, 500])
def test_thinned_roc_has_exact_points_and_stays_near(points: int) -> None:
    images = made_up()
    score, defect = flat(images)
    for memory in (LARGE, 500 * BYTES_PER_TALLY):
        with added(images, memory) as scores:
            curve = scores.roc(points)
        assert 3 <= len(curve.fpr) <= points
        assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
        assert (np.diff(curve.thresholds) < 0).all()
        for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds.astype(np.float32), strict=True):
            assert fpr == np.mean(score[~defect] > threshold)
            assert tpr == np.mean(score[defect] > threshold)
        full_fpr, full_tpr, _ = roc_curve(defect, score, drop_intermediate=False)
        step = 1 / np.count_nonzero(defect) + 1 / np.count_nonzero(~defect)
        assert np.abs(np.interp(full_fpr, curve.fpr, curve.tpr) - full_tpr).max() <= 2 / (points - 1) + step


def test_threshold_at_fpr_is_the_lowest_that_keeps_the_rate(memory_bytes: int) -> None:
    images = made_up(2, decimals=2, size=24)
    score, defect = flat(images)
    good = score[~defect]
    rates = [0.5, 0.0, 1.0, 0.05, 0.3, 1 / good.size, 1 - 1 / good.size]
    with added(images, memory_bytes) as scores:
        thresholds = scores.thresholds_at_fpr(rates)
        assert [scores.threshold_at_fpr(rate) for rate in rates[:3]] == thresholds[:3].tolist()
    below = np.nextafter(score.min(), np.float32(-np.inf))
    for rate, threshold in zip(rates, thresholds, strict=True):
        fitting = [t for t in (below, *np.unique(score)) if np.mean(good > t) <= rate]
        assert np.float32(threshold) == min(fitting)


def test_threshold_needs_no_defect_and_loses_no_pixel_to_rounding() -> None:
    score = np.arange(100, dtype=np.float32)[None]
    none = np.zeros(score.shape, np.bool_)
    with added([(score, none, none)]) as scores:
        assert scores.threshold_at_fpr(0.29) == 70  # 29 of 100 above, though 0.29 × 100 < 29
        assert scores.threshold_at_fpr(0.0) == 99
        assert scores.threshold_at_fpr(1.0) == pytest.approx(0, abs=1e-40)
        assert scores.threshold_at_fpr(1.0) < 0


def test_extreme_scores_have_a_threshold_below_them() -> None:
    lowest, highest = np.finfo(np.float32).min, np.finfo(np.float32).max
    score = np.array([[lowest, highest]], np.float32)
    with added([(score, score > 0, score > np.inf)]) as scores:
        assert scores.threshold_at_fpr(1.0) == -np.inf
        assert scores.overlaps([-np.inf, float(lowest), float(highest), np.inf]).tolist() == [[1, 1, 0, 0]]
        assert scores.auroc() == scores.pro() == 1


# ---------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [None, 1])
def test_pro_equals_the_straightforward_way(limit: float, decimals: int | None, memory_bytes: int) -> None:
    images = made_up(2, seed=3, decimals=decimals, size=24)
    with added(images, memory_bytes) as scores:
        assert scores.pro(limit) == pytest.approx(pro_reference(images, limit), abs=1e-12)
        assert scores.regions == len(regions_of(images))


def test_pro_counts_regions_alike() -> None:
    # A region of 1 pixel found first, one of 9 pixels never: AUROC sees a tenth, PRO a half.
    score = np.zeros((3, 20), np.float32)
    defect = np.zeros(score.shape, np.bool_)
    defect[0, 0] = defect[:, 5:8] = True
    score[0, 0], score[:, 5:8] = 1, -1
    with added([(score, defect, np.zeros_like(defect))]) as scores:
        assert scores.regions == 2
        assert scores.auroc() == pytest.approx(0.1)
        assert scores.pro() == pytest.approx(0.5)


def test_overlap_quantiles_by_hand(memory_bytes: int) -> None:
    # Good pixels 1…10. Regions: {11, 12}, {9.5, 3}, {10.5, 9.5, 2.5, 0.5}.
    score = np.array([[11, 12, 1, 9.5, 3, 2, 10.5, 9.5, 2.5, 0.5], [0, 3, 4, 5, 0, 6, 7, 8, 9, 10]], np.float32)
    defect = np.array([[1, 1, 0, 1, 1, 0, 1, 1, 1, 1], [0] * 10], np.bool_)
    ignore = np.zeros_like(defect)
    ignore[1, [0, 4]] = True
    with added([(score, defect, ignore)], memory_bytes) as scores:
        assert (scores.good_pixels, scores.defect_pixels, scores.regions) == (10, 8, 3)
        result = scores.overlap_quantiles([0.0, 0.1, 0.8, 1.0], [0, 0.25, 0.5, 1])
        np.testing.assert_array_equal(
            scores.overlaps(result.thresholds), [[1, 1, 1, 1], [0, 0.5, 1, 1], [0.25, 0.5, 0.75, 1]]
        )
    # No good pixel exceeds 10, one exceeds 9, eight exceed 2 (and 2.5, a defective score, but 2 is lower).
    assert result.thresholds[:3].tolist() == [10, 9, 2]
    assert result.thresholds[3] < 0.5
    np.testing.assert_array_equal(
        result.overlap, [[0, 0.5, 0.75, 1], [0.125, 0.5, 0.875, 1], [0.25, 0.5, 1, 1], [1, 1, 1, 1]]
    )
    assert result.regions == 3


def test_ignored_pixels_count_nowhere_and_cut_no_region() -> None:
    score = np.array([[5, np.nan, 1, 0, np.inf, 2]], np.float32)
    defect = np.array([[True, True, True, False, True, False]])
    ignore = np.array([[False, True, False, False, True, False]])
    with added([(score, defect, ignore)]) as scores:
        # The gap in column 1 leaves one region of two pixels; the region in column 4 is not there.
        assert (scores.regions, scores.defect_pixels, scores.good_pixels) == (1, 2, 2)
        assert scores.overlaps([2.0]).tolist() == [[0.5]]
        assert scores.auroc() == 0.75


def test_diagonal_neighbours_are_one_region_and_images_do_not_join() -> None:
    defect = np.array([[1, 0, 0], [0, 1, 0]], np.bool_)
    image = (np.ones(defect.shape, np.float32), defect, np.zeros_like(defect))
    with added([image, image]) as scores:
        assert scores.regions == 2


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_and_nothing_counted(bad: float) -> None:
    (image,) = made_up(1)
    broken = np.where(image[1] & ~image[2], np.float32(bad), image[0])
    with added([image]) as scores:
        before = scores.auroc()
        with pytest.raises(InputError, match="finite"):
            scores.add(broken, image[1], image[2])
        assert scores.auroc() == before


def test_a_set_without_defective_or_good_pixels_says_so() -> None:
    score = np.ones((2, 3), np.float32)
    none, all_ = np.zeros(score.shape, np.bool_), np.ones(score.shape, np.bool_)
    asked: list[Any] = [
        lambda s: s.auroc(),
        lambda s: s.roc(),
        lambda s: s.pro(),
        lambda s: s.overlaps([0.5]),
        lambda s: s.overlap_quantiles([0.5]),
    ]
    for ask in asked:
        with added([(score, none, none)]) as scores, pytest.raises(InputError, match="no defective pixel among 6"):
            ask(scores)
        for images in ([(score, all_, none)], [(score, all_, none), (score, none, all_)], []):
            with added(images) as scores, pytest.raises(InputError, match="no good pixel"):
                ask(scores)
    with added([(score, all_, none)]) as scores, pytest.raises(InputError, match="no good pixel among 6"):
        scores.threshold_at_fpr(0.1)


def test_wrong_shapes_and_types_are_refused() -> None:
    score, none = np.ones((2, 3), np.float32), np.zeros((2, 3), np.bool_)
    with PixelScores() as scores:
        for bad in (
            (score.astype(np.float64), none),
            (score[None], none[None]),
            (score, none.astype(np.uint8)),
            (score, none[:1]),
            (score, none, none[:, :1]),
        ):
            with pytest.raises(InputError):
                scores.add(*bad)
        assert scores.good_pixels == scores.defect_pixels == scores.regions == 0


def test_arguments_out_of_range_are_refused() -> None:
    with added(made_up(1)) as scores:
        for rate in (-0.1, 1.1, np.nan):
            with pytest.raises(ConfigError):
                scores.threshold_at_fpr(rate)
            with pytest.raises(ConfigError):
                scores.overlap_quantiles([0.1], [rate])
        for limit in (0.0, 1.5, np.nan):
            with pytest.raises(ConfigError):
                scores.pro(limit)
        with pytest.raises(ConfigError):
            scores.roc(2)
        with pytest.raises(ConfigError):
            scores.overlaps([np.nan])


# ---------------------------------------------------------------------------------------------------- disk and memory


def open_files(folder: Path) -> list[str]:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.is_symlink() and os.readlink(link).startswith(str(folder))]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc/self/fd")
@pytest.mark.parametrize("fails", [False, True])
def test_temporary_files_lie_in_the_folder_and_are_gone_afterwards(tmp_path: Path, fails: bool) -> None:
    class StopError(Exception):
        pass

    try:
        with PixelScores(50 * SMALL, tmp_path) as scores:
            for image in made_up(2):
                scores.add(*image)
            scores.auroc()
            assert scores.spilled_bytes > 0
            assert len(open_files(tmp_path)) == 2
            if fails:
                raise StopError
    except StopError:
        pass
    assert open_files(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_closed_scores_say_so() -> None:
    images = made_up(1)
    scores = added(images)
    scores.close()
    scores.close()
    for ask in (scores.auroc, scores.roc, scores.pro, lambda: scores.add(*images[0])):
        with pytest.raises(InspectionError, match="closed"):
            ask()


def test_memory_stays_under_the_bound_whatever_the_number_of_pixels() -> None:
    bound, size = 1 << 20, 64
    rng = np.random.default_rng(0)
    with PixelScores(bound) as scores:
        tracemalloc.start()
        try:
            for _ in range(24):  # 98,000 distinct scores; 28 bytes each are two and a half times the bound
                score = rng.random((size, size), dtype=np.float32)
                scores.add(score, score > rng.random(score.shape) * 8)
            scores.auroc()
            scores.roc()
            scores.pro()
            scores.threshold_at_fpr(0.1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert scores.spilled_bytes > 2.4 * bound
        assert peak < bound + 60 * size * size + 8 * scores.regions


@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_keys_turn_the_order_around_and_come_back(scores: npt.NDArray[np.float32]) -> None:
    keys = keys_of(scores)
    assert keys.dtype == np.uint32
    np.testing.assert_array_equal(scores_of(keys), scores)
    np.testing.assert_array_equal(keys[:, None] < keys, scores[:, None] > scores)
    np.testing.assert_array_equal(keys[:, None] == keys, scores[:, None] == scores)
