"""Flat-field: an even web looks even, however frames are cut; what cannot be corrected is refused or said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.config import ImageBand, InspectionSettings
from linescan.errors import ConfigError, InputError, InspectionError
from linescan.flatfield_file import About, load_flatfield, save_flatfield
from linescan.inspection import Inspector
from linescan.inspection.brightness import ENOUGH_LINES, MEMORY_LINES, Brightness
from linescan.inspection.flatfield import MAX_LINES, FlatField, Levels, make_flatfield
from linescan.inspection.placement import Footprint
from tests.inspection_kit import Case, Pixels, Record, feed, ramp, run

WHITE = 200


def settings_of(**fields: Any) -> InspectionSettings:
    return InspectionSettings(**{"method": "l2", "patch_size": 16, "stride": 10, "threshold": 0.1, **fields})


@dataclass(frozen=True)
class Lens:
    """How a camera sees a scene: raw = dark + scene · shade, in grey values of its depth."""

    shade: NDArray[np.float64]
    """C×W"""
    dark: NDArray[np.float64]
    bits: int = 8

    def sees(self, scene: NDArray[Any] | float, lines: int = 256, noise: float = 0.0, seed: int = 0) -> Pixels:
        """lines×W (×C) pixels of a scene of 8-bit grey values, lines×W or one for all."""
        channels, columns = self.shade.shape
        scale = (2**self.bits - 1) / 255
        wide = np.broadcast_to(np.asarray(scene, float), (lines, columns))[..., None] * scale
        raw = self.dark.T + wide * self.shade.T
        raw = raw + np.random.default_rng(seed).normal(0, noise, raw.shape) if noise else raw
        pixels = np.round(raw).clip(0, 2**self.bits - 1).astype(np.uint8 if self.bits == 8 else np.uint16)
        return pixels[..., 0] if channels == 1 else pixels


def lens(columns: int, seed: int = 0, channels: int = 1, bits: int = 8, fixed: float = 0.08) -> Lens:
    """A vignette, flatter where there are few columns, with a gain and a dark level of each column's own."""
    rng = np.random.default_rng(seed)
    across = np.linspace(-1, 1, columns)
    shade = (1 - 0.4 * min(1, columns / 200) * across**2) * rng.uniform(1 - fixed, 1 + fixed, (channels, columns))
    dark = rng.uniform(2, 9, (channels, columns)) * (2**bits - 1) / 255
    return Lens(shade * 0.9, np.round(dark), bits)


def levels(pixels: Pixels, bits: int, name: str = "footage", portion: int = 100) -> Levels:
    found = Levels(pixels.shape[1], 1 if pixels.ndim == 2 else pixels.shape[2], bits, name)
    for first in range(0, len(pixels), portion):
        found.add(pixels[first : first + portion])
    return found


def made(
    camera: Lens, target: float | None = None, web: tuple[int, int] | None = None, noise: float = 0.0
) -> FlatField:
    dark = levels(camera.sees(0, noise=noise, seed=1), camera.bits, "dark")
    white = levels(camera.sees(WHITE, noise=noise, seed=2), camera.bits, "white")
    return make_flatfield(dark, white, target, web)


# ------------------------------------------------------------------------------------------------ what it does


@given(
    columns=st.integers(8, 90),
    seed=st.integers(0, 1000),
    channels=st.sampled_from([1, 3]),
    bits=st.sampled_from([8, 10, 12, 16]),
    target=st.none() | st.floats(0.3, 0.9),
)
@settings(max_examples=60, deadline=None)
def test_corrected_white_is_flat_within_rounding(
    columns: int, seed: int, channels: int, bits: int, target: float | None
) -> None:
    camera = lens(columns, seed, channels, bits)
    field = made(camera, target)
    white = camera.sees(WHITE, 5)
    corrected = field.correct(white).astype(float)
    wanted = (white.astype(float) - camera.sees(0, 1)).reshape(-1, columns, channels).mean((0, 1))
    if target is not None:
        wanted = np.full(channels, target * (2**bits - 1))
    assert field.dead == ()
    assert np.abs(corrected.reshape(5, columns, channels) - wanted).max() <= 0.5 + 2e-6 * 2**bits
    assert corrected.shape == white.shape
    assert field.correct(white).dtype == white.dtype
    assert field.level == pytest.approx(wanted.mean() / (2**bits - 1))
    assert field.correct(camera.sees(0, 5)).max() == 0


@given(bits=st.sampled_from([8, 12, 16]), seed=st.integers(0, 100), lines=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_correction_is_the_formula_and_loses_half_a_grey_value(bits: int, seed: int, lines: int) -> None:
    camera = lens(50, seed, bits=bits)
    field = made(camera)
    full = 2**bits - 1
    raw = np.random.default_rng(seed).integers(0, full + 1, (lines, 50)).astype(np.uint8 if bits == 8 else np.uint16)
    exact = ((raw - field.dark.astype(float)) * field.gain.astype(float)).clip(0, full)
    exact[raw == full] = full
    assert np.abs(field.correct(raw) - exact).max() <= 0.5 + 2e-6 * 2**bits


def test_a_target_makes_colours_alike_and_a_mean_keeps_them() -> None:
    camera = lens(40, channels=3)
    camera = replace(camera, shade=camera.shade * np.array([[1.0], [0.8], [0.6]]))
    white = camera.sees(WHITE, 1)
    kept = made(camera).correct(white)[0].mean(0)
    assert kept[0] - kept[2] > 40
    assert np.ptp(made(camera, 0.7).correct(white)[0].astype(int)) <= 1


def test_what_is_saturated_stays_so_and_what_is_darker_than_dark_is_black() -> None:
    camera = lens(60)
    field = made(camera)
    assert field.gain.min() < 0.95  # else full scale would stay there by itself
    raw = camera.sees(100, 4)
    raw[1, 5:50], raw[2, 5:50] = 255, 0
    corrected = field.correct(raw)
    assert (corrected[1, 5:50] == 255).all()
    assert (corrected[2, 5:50] == 0).all()
    assert np.ptp(corrected[[0, 3]].astype(int)) <= 2


def test_columns_that_do_not_show_the_white_stay_as_they_are() -> None:
    camera = lens(80)
    camera.shade[:, :20] = 0.01
    with pytest.raises(InputError, match="20 of 80 columns are dead"):
        made(camera)
    field = made(camera, web=(20, 80))
    raw = camera.sees(WHITE, 2)
    assert np.array_equal(field.correct(raw)[:, :20], raw[:, :20])
    assert np.ptp(field.correct(raw)[:, 20:].astype(int)) <= 1
    assert (field.web, field.dead) == ((20, 80), ())


# ------------------------------------------------------------------------------------------------ dead columns


@pytest.mark.parametrize("dead", [(0,), (199,), (17,), (40, 41), (0, 1, 90, 199), (60, 61, 62, 63)])
@pytest.mark.parametrize("answer", [0.0, 0.4, 1.7])
def test_dead_columns_are_listed_and_lie_between_their_neighbours(dead: tuple[int, ...], answer: float) -> None:
    camera = lens(200, 3)
    camera.shade[:, list(dead)] *= answer
    field = made(camera)
    assert field.dead == dead
    scene = np.linspace(60, 180, 200)[None]  # a ramp: what lies between is known
    corrected = field.correct(camera.sees(scene, 3)).astype(float)
    live = np.setdiff1d(np.arange(200), dead)
    wanted = np.interp(np.arange(200), live, corrected[0, live])
    assert np.abs(corrected - wanted).max() <= 1


def test_a_column_that_is_always_bright_is_dead() -> None:
    camera = lens(100, bits=12)
    camera.dark[:, 30] = 4095
    assert made(camera).dead == (30,)


# ------------------------------------------------------------------------------------------------ levels


def test_dust_that_passes_does_not_count() -> None:
    camera = lens(64)
    clean = camera.sees(WHITE, 1024, noise=2)
    dusty = clean.copy()
    for line in range(0, 1000, 1):  # a streak that wanders across, 6 columns wide
        dusty[line, line // 20 : line // 20 + 6] = 20
    for line in range(100, 1000, 200):  # and blots
        dusty[line : line + 30, 30:40] = 0
    found, wanted = levels(dusty, 8).mean(), levels(clean, 8).mean()
    assert np.abs(found - wanted).max() < 1.0
    assert np.abs(dusty.mean(0) - wanted).max() > 20  # a plain mean would see it
    # what stays in the mean is near the best that so many lines allow
    assert np.abs(wanted - (camera.dark + WHITE * camera.shade)).max() < 5 * 2 / np.sqrt(1024) + 0.05


@given(heights=st.lists(st.integers(1, 90), min_size=1, max_size=8), channels=st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_levels_do_not_depend_on_the_frames(heights: list[int], channels: int) -> None:
    pixels = lens(12, channels=channels).sees(WHITE, 300, noise=3)
    found, first, cuts = Levels(12, channels, 8, "x"), 0, iter(heights)
    while first < 300:
        height = next(cuts, 37)
        found.add(pixels[first : first + height])
        first += height
    assert found.lines == 300
    assert np.array_equal(found.mean(), levels(pixels, 8, portion=300).mean())


def test_more_lines_than_are_needed_are_left() -> None:
    found = Levels(1, 1, 8, "x")
    while not found.full:
        found.add(np.full((3000, 1), 7, np.uint8))
    assert found.lines == MAX_LINES
    assert found.mean().item() == 7


# ------------------------------------------------------------------------------------------------ refusals


def refused(dark: Pixels, white: Pixels, bits: int = 8, target: float | None = None) -> str:
    with pytest.raises(InputError) as caught:
        make_flatfield(levels(dark, bits, "d.png"), levels(white, bits, "w.png"), target)
    return str(caught.value)


def test_levels_that_cannot_be() -> None:
    camera = lens(100)
    dark, white = camera.sees(0), camera.sees(WHITE)
    assert "not brighter than the dark of w.png; were they taken for each other?" in refused_swapped(dark, white)
    assert "w.png: the white is saturated in 100 of 100 columns" in refused(dark, np.full_like(white, 255))
    assert "only 18.0 grey values brighter" in refused(dark, np.broadcast_to(dark + 18, white.shape))
    assert "w.png: 255 lines, at least 256 are needed" in refused(dark, white[:255])
    assert "d.png: 10 lines" in refused(dark[:10], white)
    assert "at most 8 is sensible" in refused(dark, camera.sees(40), target=0.99)


def refused_swapped(dark: Pixels, white: Pixels) -> str:
    with pytest.raises(InputError) as caught:
        make_flatfield(levels(white, 8, "w.png"), levels(dark, 8, "d.png"))
    return str(caught.value)


def test_too_many_dead_columns() -> None:
    for dead, said in (
        (range(50, 55), "columns 50 to 54 are dead; at most 4 side by side"),
        (range(100, 230, 10), "13 of 600 columns are dead, at most 2%"),
        (range(200, 260), "60 of 600 columns are dead"),  # wider than what a column is compared with
    ):
        camera = lens(600)
        camera.shade[:, list(dead)] = 0
        assert said in refused(camera.sees(0), camera.sees(WHITE))


# ------------------------------------------------------------------------------------------------ in the engine


@dataclass(frozen=True)
class Corrected(Case):
    field: FlatField | None = None

    def inspector(self, record: Record, snapshot: bytes | None = None) -> Inspector:
        return Inspector(
            self.settings, self.footprint, self.model, flatfield=self.field, on_band=record.bands.append,
            snapshot=snapshot,
        )  # fmt: skip


def web_under(camera: Lens, lines: int, seed: int) -> Pixels:
    """Textured web with blots and a stretch without light, as that camera sees it."""
    rng = np.random.default_rng(seed)
    columns = camera.shade.shape[1]
    scene = 110 + 30 * np.sin(np.arange(columns) / 3) + rng.normal(0, 4, (lines, columns))
    for _ in range(4):
        top, left = rng.integers(0, lines), rng.integers(0, columns)
        scene[top : top + 9, left : left + 8] = 240
    dark = rng.integers(0, lines - 30)
    scene[dark : dark + 30] = 0
    return camera.sees(scene, lines)


@given(
    seed=st.integers(0, 1000),
    heights=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    scale=st.sampled_from([1, 2]),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=25, deadline=None)
def test_frames_do_not_show_and_corrected_pixels_are_what_is_inspected(
    seed: int, heights: list[int], scale: int, channels: int
) -> None:
    camera = lens(37, seed, channels)
    camera.shade[:, 12] = 0
    field = made(camera)
    assert field.dead == (12,)
    asked = settings_of(channels=channels, scale=scale, band=ImageBand(mean_low=0.2, lines=8))
    raw = web_under(camera, 180, seed)
    case = Corrected(asked, Footprint(37), [raw], ramp, field=field)
    cut, whole = run(case, heights), run(case, [180])
    assert cut.plain_bands() == whole.plain_bands()
    # gaps come in pieces, regions in bands: the order of what was told at once is the engine's, the content is not
    assert cut.findings == whole.findings
    before = run(Case(asked, Footprint(37), [field.correct(raw)], ramp), [180])
    assert before.plain_bands() == whole.plain_bands()
    assert before.findings == whole.findings
    assert whole.gaps  # the stretch without light is dark after the correction too


@given(seed=st.integers(0, 1000), at=st.integers(1, 150))
@settings(max_examples=15, deadline=None)
def test_a_snapshot_goes_on_under_the_same_flat_field_alone(seed: int, at: int) -> None:
    camera = lens(30, seed)
    field = made(camera)
    case = Corrected(settings_of(), Footprint(30), [web_under(camera, 180, seed)], ramp, field=field)
    whole, first = run(case, [16]), Record()
    inspector = case.inspector(first)
    done = 0
    for findings in feed(inspector, [case.roll[0][:at]], [16]):  # type: ignore[index]
        done += len(findings)
    snapshot = inspector.snapshot()
    rest = Record()
    resumed = case.inspector(rest, snapshot)
    told = [one for findings in feed(resumed, case.roll, [16], resumed.resume_from) for one in findings]
    assert whole.findings[done:] == told + resumed.finish()
    for other in (None, replace(field, gain=field.gain * np.float32(1.001)), replace(field, dead=(3,))):
        with pytest.raises(InspectionError, match="other settings, calibration, flat-field"):
            replace(case, field=other).inspector(Record(), snapshot)


def test_a_flat_field_of_other_lines_is_refused() -> None:
    field = made(lens(30))
    for footprint, channels in ((Footprint(31), 1), (Footprint(30, 12), 1), (Footprint(30), 3)):
        with pytest.raises(InspectionError, match="the flat-field is of 30 columns, 1 channels and 8 bits"):
            Inspector(settings_of(channels=channels), footprint, ramp, flatfield=field)


# ------------------------------------------------------------------------------------------------ brightness


def test_the_mean_is_slow_and_says_nothing_too_early() -> None:
    def fed(mean: float, lines: int, into: Brightness) -> float | None:
        for _ in range(lines // 64):
            into.add(torch.full((64,), mean, dtype=torch.float64))
        return into.mean

    brightness = Brightness()
    assert fed(0.5, ENOUGH_LINES - 64, brightness) is None
    assert fed(0.5, 64, brightness) == pytest.approx(0.5)
    fed(0.5, MEMORY_LINES, brightness)
    assert fed(0.4, MEMORY_LINES // 64 * 64, brightness) == pytest.approx(0.4 + 0.1 / np.e, abs=2e-3)
    brightness.add(torch.zeros(0))
    brightness.add(torch.full((10 * MEMORY_LINES,), 0.1, dtype=torch.float64))
    assert brightness.mean == pytest.approx(0.1)


def test_only_lines_that_can_be_inspected_have_a_brightness() -> None:
    asked = settings_of(band=ImageBand(mean_low=0.2, lines=8))
    inspector = Inspector(asked, Footprint(24), ramp)
    inspector.push(np.full((ENOUGH_LINES, 24), 102, np.uint8))
    inspector.push(np.zeros((ENOUGH_LINES, 24), np.uint8))
    assert inspector.brightness == pytest.approx(0.4)


# ------------------------------------------------------------------------------------------------ on disk

ABOUT = About("2026-01-02T03:04:05+00:00", "SN7", "Mono8", 40, (0, 40), 300, 400, 0.5)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "cam0.npz"
    save_flatfield(path, made(lens(40)), ABOUT)
    return path


def test_a_flat_field_comes_back_from_disk(stored: Path) -> None:
    field, back = made(lens(40)), load_flatfield(stored)
    assert back.about == ABOUT
    assert back.field().fingerprint == field.fingerprint
    assert back.field().level == 0.5  # the file's word
    raw = lens(40).sees(90, 20, noise=5)
    assert np.array_equal(back.field().correct(raw), field.correct(raw))
    assert back.pinned == {"made_utc": ABOUT.made_utc, "sha256": back.sha256}
    assert len(back.sha256) == 64


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        (("SN8", 40, "Mono8"), "made under serial SN7, camera cam0 has serial SN8"),
        (("SN7", 41, "Mono8"), "made under width 40, camera cam0 has width 41"),
        (("SN7", 40, "Mono12"), "made under pixel format Mono8, camera cam0 has pixel format Mono12"),
    ],
)
def test_another_camera_is_refused(stored: Path, camera: tuple[str, int, str], said: str) -> None:
    flatfield = load_flatfield(stored)
    flatfield.check("camera cam0", "SN7", 40, "Mono8")
    flatfield.check("camera cam0", None, None, None)
    with pytest.raises(ConfigError, match=said) as caught:
        flatfield.check("camera cam0", *camera)
    assert str(stored) in str(caught.value)


def changed(path: Path, about: dict[str, Any] | None = None, **arrays: Any) -> None:
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    header = {**json.loads(str(content["about"])), **(about or {})}
    np.savez(path, **{**content, **arrays, "about": np.array(json.dumps(header))})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"garbage"), "not a flat-field"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a flat-field"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: changed(path, {"format": 2}), "of format 2, 1 expected"),
        (lambda path: changed(path, {"colour": "red"}), "not a flat-field"),
        (lambda path: changed(path, {"columns": 39}), "damaged"),
        (lambda path: changed(path, {"level": 0.0}), "damaged"),
        (lambda path: changed(path, {"pixel_format": "YUV"}), "damaged"),
        (lambda path: changed(path, {"web": [0, 41]}), "damaged"),
        (lambda path: changed(path, dead=np.array([40])), "damaged"),
        (lambda path: changed(path, dead=np.arange(40)), "damaged"),
        (lambda path: changed(path, gain=np.full((1, 40), np.nan)), "damaged"),
        (lambda path: changed(path, gain=np.zeros((1, 40))), "damaged"),
        (lambda path: changed(path, dark=np.zeros((1, 39))), "damaged"),
    ],
)
def test_a_damaged_file_is_said(stored: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(stored)
    with pytest.raises(InputError, match=said) as caught:
        load_flatfield(stored)
    assert str(stored) in str(caught.value)
