"""Whether `linescan check` knows which gates are too near, and how far the inspection is behind the newest line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.cli.main import main
from linescan.config import ImageBand, InspectionSettings, Selvage
from linescan.inspection.inspector import Inspector
from linescan.inspection.latency import context_lines
from linescan.inspection.placement import Footprint
from linescan.schedule import shortest_distance_mm
from tests.inspection_kit import Case, nothing

Output = pytest.CaptureFixture[str]
CAMERA = """
[[cameras]]
name = "{name}"
producer = "camera.cti"
serial = "{name}"
max_line_rate_hz = {rate}
encoder = {{ counts_per_line = 4 }}
mm_per_column = 0.5
{more}
[cameras.features]
Width = 64
{features}
"""
LANES = '[[lanes]]\nname = "{}"\nfrom_mm = 0.0\nto_mm = 32.0\n'
# the toy bundle: patch 16, stride 8, opening 3, image band of 16 lines
CONTEXT = 16 + 8 - 1 + 3 + 2 * 15
MM, TOP = 0.5, 500.0


def camera(name: str = "cam0", rate: float = 1000.0, more: str = "", height: int | None = 64) -> str:
    return CAMERA.format(name=name, rate=rate, more=more, features=f"Height = {height}" if height else "")


def check(
    folder: Path, toy: Path, cameras: str, *, distance_mm: float = 1000.0, recipe: str = "", **others: str
) -> int:
    """Runs `linescan check` on a line with one gate; `others` are recipes beside its own."""
    sha256 = hashlib.sha256(toy.read_bytes()).hexdigest()
    (folder / "recipes").mkdir(exist_ok=True)
    for name, text in {"own": recipe, **others}.items():
        head = f'[model]\nfile = "{toy}"\nsha256 = "{sha256}"\n'
        (folder / "recipes" / f"{name}.toml").write_text(head + text + LANES.format("lane"), encoding="utf-8")
    (folder / "camera.cti").touch()
    (folder / "line.toml").write_text(
        f"""recipe = "recipes/own.toml"
[worker]
precision = "float32"
batch = 4
threads = 1
[web]
counts_per_mm = 8.0
top_speed_mm_s = {TOP}
border_hold_s = 0.25
[rejects]
lead_mm = 4.0
lag_mm = 5.0
merge_mm = 6.0
inspection_s = 0.2
plc_scan_s = 0.01
actuator_s = 0.03
gates = [{{ lane = "lane", output = 0, distance_mm = {distance_mm!r} }}]
{cameras}""",
        encoding="utf-8",
    )
    return main(["check", "--config", str(folder / "line.toml")])


def needed(frame: int = 64, context: int = CONTEXT, more_s: float = 0.0) -> float:
    return (frame + context) * MM + (0.2 + 0.01 + 0.03 + more_s) * TOP + 4 + 6


def test_a_gate_that_is_far_enough_is_said_to_be(tmp_path: Path, toy: Path, capsys: Output) -> None:
    assert check(tmp_path, toy, camera(), distance_mm=needed()) == 0
    said = capsys.readouterr().out
    assert (
        f"gate lane: 190 mm, at least {needed():.1f} are needed at 500 mm/s: camera cam0: 64 lines of a frame + "
        in said
    )
    assert (
        f"+ {CONTEXT} of context at 0.5 mm, inspection 0.2 s + PLC 0.01 s + actuator 0.03 s, lead 4 mm, merge" in said
    )
    # a lead of 4 mm, while the web moves 20 mm before the gate has moved
    assert "warning: rejects.lead_mm = 4, lag_mm = 5: while PLC and actuator react the web moves 20.0 mm" in said
    assert said.count("warning") == 1


def test_a_gate_that_is_nearer_is_refused(tmp_path: Path, toy: Path, capsys: Output) -> None:
    assert check(tmp_path, toy, camera(), distance_mm=needed() - 0.01) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/line.toml: rejects.gates: lane 'lane': distance_mm = 189.99, at least 190.0 is needed" in error
    assert "at web.top_speed_mm_s = 500 with recipe own: camera cam0: 64 lines" in error


def test_what_makes_a_gate_s_distance_longer(tmp_path: Path, toy: Path, capsys: Output) -> None:
    """An offset of the camera, the recipe's limits, a neighbour at its border; the camera that needs most counts."""
    far = camera("cam1", more="x_offset_mm = 100.0")
    beside = camera("cam1", more="x_offset_mm = 30.0")
    for cameras, recipe, most in (
        (camera(more="y_offset_mm = 20.0"), "", needed() + 20),
        (camera(more="y_offset_mm = -20.0"), "", needed() - 20),
        (camera(), "[inspection]\nstride = 16\nmin_length_px = 11\n", needed(context=CONTEXT + 8 + 10)),
        (camera() + beside, "", needed(more_s=0.25)),
        (camera() + far, "", needed()),
        (camera() + camera("cam1", more="x_offset_mm = 30.0\ny_offset_mm = 7.0"), "", needed(more_s=0.25) + 7),
    ):
        assert check(tmp_path, toy, cameras, distance_mm=most, recipe=recipe) == 0
        assert f"at least {most:.1f} are needed" in capsys.readouterr().out
        assert check(tmp_path, toy, cameras, distance_mm=most - 0.01, recipe=recipe) == 2
        assert f"at least {most:.1f} is needed" in capsys.readouterr().err


def test_a_frame_of_unknown_height_is_a_warning(tmp_path: Path, toy: Path, capsys: Output) -> None:
    assert check(tmp_path, toy, camera(height=None), distance_mm=needed(frame=0)) == 0
    said = capsys.readouterr().out
    assert "warning: cameras.cam0.features has no Height: the distances below lack the lines of a frame" in said
    assert check(tmp_path, toy, camera(height=None), distance_mm=needed(frame=0) - 0.01) == 2


def test_a_camera_that_is_too_slow_for_the_web_is_refused(tmp_path: Path, toy: Path, capsys: Output) -> None:
    assert check(tmp_path, toy, camera(rate=999.0)) == 2
    assert (
        f"{tmp_path}/line.toml: cameras.cam0.max_line_rate_hz = 999: at web.top_speed_mm_s = 500 and 0.5 mm a line, "
        "1000 lines/s pass"
    ) in capsys.readouterr().err


def test_another_recipe_that_needs_more_is_a_warning(tmp_path: Path, toy: Path, capsys: Output) -> None:
    coarse = "[inspection]\nmin_length_px = 9\n"
    assert check(tmp_path, toy, camera(), distance_mm=needed(), coarse=coarse) == 0
    said = capsys.readouterr().out
    assert "recipe coarse: sound" in said
    assert (
        f"at least {needed(context=CONTEXT + 8):.1f} is needed at web.top_speed_mm_s = 500 with recipe coarse" in said
    )
    assert "warning: " in said


# ------------------------------------------------------------------------------------------------ the context


@given(
    scale=st.integers(1, 3),
    stride=st.integers(1, 16),
    window=st.sampled_from([1, 7, 11]),
    sigma=st.sampled_from([0.0, 1.0, 2.4]),
    min_area=st.integers(1, 60),
    min_length=st.integers(1, 20),
    held=st.integers(1, 20),
    method=st.sampled_from(["ssim", "l2"]),
)
def test_the_context_is_the_bound_that_the_engine_s_tests_hold_it_to(
    scale: int, stride: int, window: int, sigma: float, min_area: int, min_length: int, held: int, method: str
) -> None:
    asked = InspectionSettings.model_validate(
        {
            "method": method, "ssim": {"window": window}, "patch_size": 16, "stride": stride, "scale": scale,
            "threshold": 0.5, "smoothing_sigma": sigma, "min_area_px": min_area, "min_length_px": min_length,
            "band": {"lines": held},
        }
    )  # fmt: skip
    assert context_lines(asked) == Case(asked, Footprint(32), []).pending_bound()


@settings(max_examples=15, deadline=None)
@given(stride=st.integers(1, 16), scale=st.integers(1, 2), frame=st.integers(1, 40), min_length=st.integers(1, 12))
def test_a_line_is_final_when_its_context_has_come(stride: int, scale: int, frame: int, min_length: int) -> None:
    """And not much sooner: a distance reckoned with it is neither too short nor much too long."""
    asked = InspectionSettings(
        method="l2", patch_size=16, stride=stride, scale=scale, threshold=0.5, min_length_px=min_length,
        band=ImageBand(lines=1),
    )  # fmt: skip
    inspector, behind = Inspector(asked, Footprint(32), nothing), 0
    for _ in range(0, 300, frame):
        inspector.push(np.full((frame, 32), 75, np.uint8))
        behind = max(behind, inspector.lines_pending)
    assert behind <= context_lines(asked)
    least = -(-min_length // scale) - 1
    if frame == 1:
        assert behind == context_lines(asked) - least * scale


def test_selvages_and_the_image_band_do_not_hold_lines_for_longer() -> None:
    """Lines that come dark now and then are held, and their verdict falls within the context."""
    asked = InspectionSettings(
        method="l2", patch_size=16, stride=8, threshold=0.5, band=ImageBand(mean_low=0.1, lines=8),
        selvage=Selvage(backdrop="dark", level=0.1, hold_px=4),
    )  # fmt: skip
    generator = np.random.default_rng(3)
    pixels = np.full((2000, 32), 75, np.uint8)
    for first in generator.integers(0, 2000, 90):
        pixels[first : first + generator.integers(1, 12)] = 0
    inspector, behind = Inspector(asked, Footprint(32), nothing), 0
    for line in pixels:
        inspector.push(line[None])
        behind = max(behind, inspector.lines_pending)
    assert 16 + 8 - 1 + 3 <= behind <= context_lines(asked)


def test_the_distance_is_what_the_web_moves_until_the_gate_has_answered() -> None:
    asked = {"mm_per_line": 0.5, "top_speed_mm_s": 500.0, "reaction_s": 0.04, "lead_mm": 4.0, "merge_mm": 6.0}
    assert shortest_distance_mm(frame_lines=64, context_lines=CONTEXT, inspection_s=0.2, **asked) == needed()
