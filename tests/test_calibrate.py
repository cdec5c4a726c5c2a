"""Threshold and column calibration: what was asked for is kept, and what good web cannot show is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from linescan.cli import calibrate as cli
from linescan.cli.main import main
from linescan.cli.replay import main as replay
from linescan.config import ImageBand, InspectionSettings, Recipe, Selvage, load_toml
from linescan.errors import ConfigError, InputError
from linescan.footage import write_image
from linescan.inspection.inspector import Footprint, Inspector
from linescan.messages import Region
from linescan.recipe import load_setup
from linescan.training.calibrate import (
    COLUMN_SMOOTHING,
    FalseAlarms,
    choose_threshold,
    column_calibration,
    column_profile_is_real,
    good_scores,
    opened_map,
    rate_at,
    rate_is_reached,
)
from linescan.training.smoothing import SIGMAS, choose_smoothing
from linescan.training.trial import Scores
from tests.conftest import COLUMNS, RUN, Smooth, blot, events_of, leftovers, plain, weave, write_frames

Map = NDArray[np.float32]
CPU = torch.device("cpu")
SETTINGS = InspectionSettings(method="l2", patch_size=16, stride=8, threshold=0.5)


def smooth_noise(lines: int, columns: int, seed: int = 0) -> Map:
    """A score of good web: blobs of a few pixels, with a tail."""
    noise = np.random.default_rng(seed).normal(size=(lines, columns))
    field = ndimage.gaussian_filter(noise, 3)
    return np.exp(field / field.std() / 2).astype(np.float32)


def regions_in(maps: list[Map], threshold: float) -> int:
    return sum(ndimage.label(opened_map(score) > threshold, np.ones((3, 3)))[1] for score in maps)


MAPS = [smooth_noise(200, 250), smooth_noise(150, 250, 1), smooth_noise(50, 250, 2)]  # 0.1 megapixels

# ------------------------------------------------------------------------------------------------ the threshold


@pytest.mark.parametrize("allowed", [1, 2, 5, 20, 60])
def test_the_asked_number_of_regions_is_kept_and_used(allowed: int) -> None:
    threshold, basis = choose_threshold(MAPS, 1, FalseAlarms(10 * allowed))
    assert regions_in(MAPS, threshold) <= allowed
    top = max(float(opened_map(score).max()) for score in MAPS)
    assert regions_in(MAPS, threshold - (top - 0.5) / 100) > allowed  # no higher than needed
    assert (basis.extrapolated, basis.false_alarms, basis.per) == (False, 10 * allowed, "megapixel")
    assert basis.calibration_megapixels == 0.1


def test_a_rate_is_reached_where_so_many_regions_stand_apart() -> None:
    wide = [np.asarray(ndimage.gaussian_filter(score, 12), np.float32) for score in MAPS]  # some thirty blobs in all
    for maps, most in ((MAPS, 600), (wide, 50)):
        assert rate_is_reached(maps, 1, FalseAlarms(20))
        assert rate_is_reached(maps, 1, FalseAlarms(most))
        assert not rate_is_reached(maps, 1, FalseAlarms(1e6))
    assert not rate_is_reached(wide, 1, FalseAlarms(600))


def test_sigma_is_not_chosen_at_a_rate_that_smoothed_web_never_reaches() -> None:
    maps = [[np.asarray(ndimage.gaussian_filter(score, sigma), np.float32) for score in MAPS] for sigma in SIGMAS]
    tops = [max(float(opened_map(score).max()) for score in good) for good in maps]

    class Given:
        """Blots that stand out from the unsmoothed web a little, and from the smoothed webs hardly at all."""

        def scores(self, ways: list[InspectionSettings], _runner: object) -> list[Scores]:
            assert [way.smoothing_sigma for way in ways] == list(SIGMAS)
            peaks = [top * (1.02 if sigma == 0 else 0.97) for sigma, top in zip(SIGMAS, tops, strict=True)]
            few = [np.array([peak] + [peak / 2] * 3) for peak in peaks]  # most are never found: the rate is loosened
            return [Scores(tuple(good), at, 1) for good, at in zip(maps, few, strict=True)]

    sigma, found = choose_smoothing(Given(), SETTINGS, None, FalseAlarms(10))  # type: ignore[arg-type]
    assert (sigma, found) == (0, 0.25)


@pytest.mark.parametrize(("rate", "best"), [(600, 1.0), (1e7, 2.0)])
def test_a_sigma_that_does_not_reach_the_asked_rate_is_not_compared(rate: float, best: float) -> None:
    """The threshold for such a rate is the median of the good web, and every blot lies above it."""
    maps = [[np.asarray(ndimage.gaussian_filter(score, sigma), np.float32) for score in MAPS] for sigma in SIGMAS]
    reached = [rate_is_reached(good, 1, FalseAlarms(rate)) for good in maps]
    assert reached == [sigma <= 3 and rate == 600 for sigma in SIGMAS]

    def peaks(good: list[Map], sigma: float) -> list[float]:
        """Of ten blots, few above the thresholds for the rate, and for one in a thousand reported, except at `best`."""
        opened = np.concatenate([opened_map(score).ravel() for score in good])
        low = max(choose_threshold(good, 1, FalseAlarms(rate))[0], float(np.quantile(opened, 0.999)))
        medians = float(np.median(opened)) * 1.001
        many = 8 if sigma == best else 6
        return [1.01 * low] * many + [medians] * (10 - many)

    class Given:
        def scores(self, _ways: list[InspectionSettings], _runner: object) -> list[Scores]:
            found = [np.array(peaks(good, sigma)) for good, sigma in zip(maps, SIGMAS, strict=True)]
            return [Scores(tuple(good), at, 1) for good, at in zip(maps, found, strict=True)]

    sigma, found = choose_smoothing(Given(), SETTINGS, None, FalseAlarms(rate))  # type: ignore[arg-type]
    assert (sigma, found) == (best, 0.8)


def test_a_rate_that_allows_less_than_one_region_is_extrapolated() -> None:
    top = max(float(opened_map(score).max()) for score in MAPS)
    thresholds = []
    for rate in (9.9, 1, 0.1, 0.01):
        threshold, basis = choose_threshold(MAPS, 1, FalseAlarms(rate))
        assert basis.extrapolated
        assert threshold >= top
        assert regions_in(MAPS, threshold) == 0
        thresholds.append(threshold)
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1] < 10 * top


def test_the_extrapolation_follows_the_tail() -> None:
    """A tenth of the web and a tenth of the regions: the threshold lands near the one that the whole web shows."""
    large = [smooth_noise(1000, 500, seed) for seed in range(4)]  # 2 megapixels
    shown, basis = choose_threshold(large, 1, FalseAlarms(1.0))
    assert not basis.extrapolated
    guessed, basis = choose_threshold([large[0][:400]], 1, FalseAlarms(1.0))
    assert basis.extrapolated
    assert abs(guessed - shown) < 0.35 * shown


def test_good_web_without_any_structure() -> None:
    flat = [np.full((50, 60), 0.25, np.float32)]
    for rate in (1.0, 1000.0):
        threshold, _ = choose_threshold(flat, 1, FalseAlarms(rate))
        assert np.isfinite(threshold)
        assert threshold >= 0.25
        assert regions_in(flat, threshold) == 0


def test_a_map_with_holes_beyond_the_selvage() -> None:
    holed = MAPS[0].copy()
    holed[:, :20] = np.nan
    threshold, _ = choose_threshold([holed], 1, FalseAlarms(100))
    assert np.isfinite(threshold)
    assert regions_in([holed], threshold) <= 5


def test_scaled_pixels_count_as_the_camera_s() -> None:
    _, basis = choose_threshold(MAPS, 2, FalseAlarms(100))
    assert basis.calibration_megapixels == 0.4
    first, _ = choose_threshold(MAPS, 2, FalseAlarms(25))
    second, _ = choose_threshold(MAPS, 1, FalseAlarms(100))
    assert first == second


def test_a_rate_per_square_metre() -> None:
    asked = FalseAlarms(30, pixel_size_mm=0.2)
    assert asked.unit == "m2"
    assert asked.allowed(1) == pytest.approx(30 * 1e6 * 0.2e-3 * 0.2e-3)
    assert (FalseAlarms(30).unit, FalseAlarms(30).allowed(2)) == ("megapixel", 60)
    per_m2, basis = choose_threshold(MAPS, 1, FalseAlarms(50 / 0.04, 0.2))
    per_megapixel, _ = choose_threshold(MAPS, 1, FalseAlarms(50))
    assert per_m2 == per_megapixel
    assert (basis.per, basis.pixel_size_mm) == ("m2", 0.2)


def test_the_rate_that_a_threshold_costs() -> None:
    for asked, unit in ((FalseAlarms(70), 0.1), (FalseAlarms(7, 0.5), 0.1 * 0.25)):
        threshold, _ = choose_threshold(MAPS, 1, asked)
        assert rate_at(MAPS, 1, threshold, asked) == pytest.approx(regions_in(MAPS, threshold) / unit)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ConfigError, match="false alarms: one above 0 expected"):
        FalseAlarms(rate)
    with pytest.raises(ConfigError, match="a size above 0 expected"):
        FalseAlarms(1.0, rate)


# ------------------------------------------------------------------------------------------------ scores of good web


@pytest.mark.parametrize("heights", [(300,), (100, 200), (17, 83, 200)])
def test_the_engine_finds_as_many_regions_as_the_threshold_allows(heights: tuple[int, ...]) -> None:
    """At the edges, at seams and by the opening, the two must count alike."""
    web = plain(300, 120, 3)
    frames = np.split(web, np.cumsum(heights)[:-1])
    maps = good_scores([frames], SETTINGS, Smooth(), 8, CPU)
    assert [score.shape for score in maps] == [(300, 120)]
    for allowed in (1, 3, 12):
        threshold, _ = choose_threshold(maps, 1, FalseAlarms(allowed / 0.036 * 1.0001))
        settings = SETTINGS.model_copy(update={"threshold": threshold})
        inspector = Inspector(settings, Footprint(120), Smooth())
        found = [item for frame in frames for item in inspector.push(frame)] + inspector.finish()
        closed = {
            item.id
            for item in found
            if isinstance(item, Region) and item.phase == "close" and item.merged_into is None
        }  # fmt: skip
        assert len(closed) == regions_in(maps, threshold) <= allowed


def test_gaps_are_no_good_web() -> None:
    web = plain(200, 50)
    web[80:120] = 0
    settings = SETTINGS.model_copy(update={"band": ImageBand(mean_low=0.1)})
    maps = good_scores([[web], [plain(30, 50)]], settings, Smooth(), 8, CPU)
    assert [score.shape for score in maps] == [(160, 50), (30, 50)]
    assert float(maps[0].max()) < 0.01


def test_what_lies_beyond_the_selvage_is_no_good_web() -> None:
    web = plain(100, 60)
    web[:, :20] = 2
    settings = SETTINGS.model_copy(update={"selvage": Selvage(backdrop="dark", level=0.2)})
    (score,) = good_scores([[web]], settings, Smooth(), 8, CPU)
    assert np.isnan(score[:, :20]).all()
    assert np.isfinite(score[:, 30:]).all()
    assert float(np.nanmax(score[:, 30:])) < 0.01


def test_footage_that_cannot_be_inspected_at_all() -> None:
    settings = SETTINGS.model_copy(update={"band": ImageBand(mean_low=0.9)})
    with pytest.raises(InputError, match="no line of the good footage could be inspected"):
        good_scores([[plain(100, 50)]], settings, Smooth(), 8, CPU)
    with pytest.raises(InputError, match="no line of the good footage"):
        good_scores([], SETTINGS, Smooth(), 8, CPU)


# ------------------------------------------------------------------------------------------------ columns


def across(lines: int, columns: int, seed: int) -> Map:
    """Residuals whose mean and deviation triple from left to right, as through a lens that blurs there."""
    rng = np.random.default_rng(seed)
    profile = np.linspace(0.1, 0.3, columns)
    return (profile * (1 + 0.2 * rng.normal(size=(lines, columns)))).astype(np.float32)


def test_a_profile_that_both_halves_show_is_real() -> None:
    assert column_profile_is_real([across(100, 300, 0)])
    assert column_profile_is_real([across(50, 300, 0), across(50, 300, 1)])


def test_noise_is_no_profile() -> None:
    rng = np.random.default_rng(0)
    real = sum(column_profile_is_real([rng.normal(1, 0.2, (100, 640)).astype(np.float32)]) for _ in range(40))
    assert real <= 3


def test_a_profile_of_one_half_alone_is_not_real() -> None:
    rng = np.random.default_rng(1)
    half = rng.normal(0.2, 0.02, (50, 640)).astype(np.float32)
    assert not column_profile_is_real([across(50, 640, 0), half])


@pytest.mark.parametrize("shape", [(1, 300), (100, 2 * COLUMN_SMOOTHING - 1), (100, 1)])
def test_too_little_to_tell(shape: tuple[int, int]) -> None:
    assert not column_profile_is_real([across(*shape, 0)])
    assert not column_profile_is_real([np.full((100, 300), 0.5, np.float32)])


def test_the_calibration_takes_the_difference_across_the_web_out() -> None:
    maps = [across(200, 300, seed) for seed in range(3)]
    calibration = column_calibration(maps)
    assert calibration.mean.shape == calibration.deviation.shape == (300,)
    assert calibration.mean[-20:].mean() > 2.5 * calibration.mean[:20].mean()
    fresh = calibration.apply(torch.from_numpy(across(400, 300, 9))).numpy()
    stretches = np.split(fresh, 10, 1)
    assert np.allclose([part.mean() for part in stretches], 0, atol=0.25)
    assert np.allclose([part.std() for part in stretches], 1, atol=0.15)


def test_the_calibration_is_the_mean_and_deviation_over_its_neighbours() -> None:
    maps = [across(60, 200, 0), across(40, 200, 1)]
    lines = np.concatenate(maps).astype(np.float64)
    calibration = column_calibration(maps)
    reach = COLUMN_SMOOTHING // 2
    for column in (reach, 100, 199 - reach):
        part = lines[:, column - reach : column + reach + 1]
        assert calibration.mean[column] == pytest.approx(part.mean(), rel=1e-5)
        assert calibration.deviation[column] == pytest.approx(part.std(), rel=1e-4)
    assert calibration.mean[0] == pytest.approx(lines[:, : reach + 1].mean(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ the command


def calibrate(images: Path, model: Path, output: Path, *arguments: str) -> int:
    return main(
        ["calibrate", "--images", str(images), "--model", str(model), "--output", str(output), *RUN, *arguments]
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good footage of a camera that the model was not trained on, and a roll of it with a defect."""
    folder = tmp_path_factory.mktemp("shop")
    write_frames(folder / "good", weave(480, seed=5), 120)
    write_frames(folder / "roll", blot(weave(200, seed=6), 90, 40, 16), 50)
    return folder


def found(folder: Path) -> list[tuple[int, int]]:
    """The middle of each region that closed."""
    return [
        ((event["first_line"] + event["last_line"]) // 2, (event["first_column"] + event["last_column"]) // 2)
        for event in events_of(folder)
        if event["type"] == "region" and event["phase"] == "close" and event["merged_into"] is None
    ]


@pytest.mark.parametrize("arguments", [(), ("--no-columns",), ("--columns", "8:"), ("--separate",)])
def test_replay_runs_with_the_recipe_that_was_written(
    shop: Path, tiny_bundle: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    recipe = tmp_path / "R.toml"
    assert calibrate(shop / "good", tiny_bundle, recipe, "--false-alarms", "30", *arguments) == 0
    assert leftovers(tmp_path) == []
    product = load_toml(recipe, Recipe)
    assert product.model.sha256 is not None
    assert (
        (tmp_path / "R.columns.npz").exists() == (product.calibration is not None) == ("--no-columns" not in arguments)
    )
    assert product.inspection.columns == ((8, COLUMNS) if "--columns" in arguments else None)
    for roll, defects in (("roll", 1), ("good", 0)):
        assert (
            replay([str(shop / roll), "--recipe", str(recipe), "--output", str(tmp_path / roll), "--quiet", *RUN]) == 0
        )
        places = found(tmp_path / roll)
        assert len(places) >= defects
        if defects:
            assert any(abs(line - 98) < 16 and abs(column - 48) < 16 for line, column in places)
        elif "--separate" not in arguments:  # inspected as one roll, its seams are not the ones it was calibrated on
            assert len(places) <= 30 * 480 * COLUMNS / 1e6


def test_the_recipe_says_what_was_asked_for(
    shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--stride", "8", "--false-alarms", "2000", "--pixel-size-mm", "0.5")
    assert calibrate(shop / "good", tiny_bundle, tmp_path / "R.toml", *arguments) == 0
    setup = load_setup(None, tmp_path / "R.toml")
    assert setup.settings.stride == 8
    out = capsys.readouterr().out
    assert f"threshold {setup.settings.threshold:.4f} for 2000 per m2 on 0.046 megapixels" in out
    assert "extrapolated" not in out
    assert calibrate(shop / "good", tiny_bundle, tmp_path / "R.toml", "--false-alarms", "0.1") == 0
    assert "extrapolated" in capsys.readouterr().out


def test_what_cannot_be_calibrated_on(
    shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = write_frames(tmp_path / "damaged", weave(200), 100)
    (damaged / "0001.png").write_bytes(b"")
    colour = write_frames(tmp_path / "colour", np.random.default_rng(0).integers(0, 255, (50, 96, 3), np.uint8), 50)
    dark = write_frames(tmp_path / "dark", np.zeros((100, COLUMNS), np.uint8), 50)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    for images, arguments, code, said in (
        (damaged, (), 65, "0001.png is empty: good web to calibrate on must be readable"),
        (colour, (), 65, "the footage has 3 channels"),
        (dark, (), 65, "no line of the good footage could be inspected"),
        (tmp_path / "empty", (), 65, "the folder has none"),
        (shop / "good", ("--columns", "0:97"), 2, "columns 0:97 are asked for, the footage has 96"),
        (shop / "good", ("--false-alarms", "0"), 2, "a rate of 0"),
        (shop / "good", ("--pixel-size-mm", "-1"), 2, "pixels of -1 mm"),
        (shop / "good", ("--stride", "33"), 2, "stride 33"),
    ):
        assert calibrate(images, tiny_bundle, out / "R.toml", *arguments) == code
        error = capsys.readouterr().err
        assert error.startswith("linescan calibrate: error: ")
        assert error.count("\n") == 1
        assert said in error
    assert list(out.iterdir()) == []
    assert calibrate(shop / "good", tiny_bundle, tmp_path / "nowhere" / "R.toml") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_what_is_interrupted_leaves_the_recipe_and_its_columns_as_they_were(
    shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A new calibration under an old threshold would be taken without a word."""
    recipe = tmp_path / "R.toml"
    assert calibrate(shop / "good", tiny_bundle, recipe, "--false-alarms", "30") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with patch.object(cli, "choose_threshold", side_effect=KeyboardInterrupt):
        assert calibrate(shop / "roll", tiny_bundle, recipe, "--false-alarms", "30") == 130
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_roll_s_start_tells_one_calibration_from_another(shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "R.toml"
    assert calibrate(shop / "good", tiny_bundle, recipe, "--false-alarms", "30") == 0
    setup = load_setup(None, recipe)
    assert setup.calibration is not None
    other = replace(setup, calibration=replace(setup.calibration, mean=setup.calibration.mean + np.float32(0.01)))
    assert setup.pinned != other.pinned
    assert setup.pinned == load_setup(None, recipe).pinned
    assert "calibration_sha256" not in replace(setup, calibration=None).pinned


def test_what_could_not_be_inspected_is_told(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = weave(400, seed=5)
    web[100:200] = 0
    write_frames(tmp_path / "some", web, 100)
    assert calibrate(tmp_path / "some", tiny_bundle, tmp_path / "R.toml", "--false-alarms", "30") == 0
    assert "of 400 lines of the good footage could not be inspected (invalid-image)" in capsys.readouterr().out
    web[100:350] = 0
    write_frames(tmp_path / "most", web, 100)
    assert calibrate(tmp_path / "most", tiny_bundle, tmp_path / "S.toml", "--false-alarms", "30") == 65
    assert "it is no good web, or not this bundle's" in capsys.readouterr().err
    assert not (tmp_path / "S.toml").exists()


def test_it_makes_a_recipe_and_reads_none(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--recipe", "R.toml"], ["--model", "M.pt", "--recipe", "R.toml"], ["--model", "M.pt"]):
        with pytest.raises(SystemExit) as caught:
            main(["calibrate", "--images", str(shop / "good"), *arguments, "--threshold", "1", "--output", "x.toml"])
        assert caught.value.code == 2
    assert "--threshold" in capsys.readouterr().err


def test_frames_of_uneven_height_are_one_roll(tiny_bundle: Path, tmp_path: Path) -> None:
    web = weave(240, seed=3)
    thresholds = []
    for heights in ((240,), (50, 70, 120)):
        folder = write_frames(tmp_path / str(len(thresholds)), web, heights)
        assert calibrate(folder, tiny_bundle, tmp_path / "R.toml", "--false-alarms", "200") == 0
        thresholds.append(load_setup(None, tmp_path / "R.toml").settings.threshold)
    assert thresholds[0] == thresholds[1]


def test_deep_footage_gives_the_same_threshold(tiny_bundle: Path, tmp_path: Path) -> None:
    web = weave(240, seed=3)
    write_frames(tmp_path / "8", web, 120)
    (tmp_path / "16").mkdir()
    for number, part in enumerate(np.split(web, 2)):
        write_image(tmp_path / "16" / f"{number}.png", part.astype(np.uint16) * 257)
    thresholds = []
    for folder in ("8", "16"):
        assert calibrate(tmp_path / folder, tiny_bundle, tmp_path / "R.toml", "--false-alarms", "200") == 0
        thresholds.append(load_setup(None, tmp_path / "R.toml").settings.threshold)
    assert thresholds[0] == thresholds[1]
