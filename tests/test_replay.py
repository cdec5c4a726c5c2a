"""linescan-replay, from footage on disk to events, pictures and residuals on disk, with every fault provoked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan import messages
from linescan.cli.replay import main
from linescan.footage import McapWriter, open_footage, write_image
from linescan.inspection.inspector import FinalBand
from linescan.models.runner import Runner
from linescan.replay import pictures
from linescan.replay.pictures import ResidualFile, ShrinkingRows
from linescan.replay.roll import stem_of
from tests.conftest import (
    COLUMNS,
    RUN,
    Blind,
    NanWhereBright,
    blot,
    events_of,
    leftovers,
    plain,
    read_image,
    toy_bundle,
    weave,
    write_frames,
)

LINES, WIDTH = 256, 64
LINE, COLUMN, SIZE = 100, 30, 8  # of the planted defect
NEAR = 6  # how far a region may reach beyond it


def replay(*arguments: object) -> int:
    return main([*map(str, arguments), *RUN])


def defective() -> NDArray[Any]:
    return blot(plain(LINES, WIDTH), LINE, COLUMN)


@pytest.fixture
def roll(tmp_path: Path) -> Path:
    """256 lines in four frames, one defect in the second."""
    return write_frames(tmp_path / "roll", defective(), 64)


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def closed(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in of_type(events, "region") if event["phase"] == "close" and event["merged_into"] is None]


def lies_on(region: dict[str, Any], line: int, column: int, size: int = SIZE, near: int = NEAR) -> bool:
    return bool(
        line - near <= region["first_line"] <= line <= region["last_line"] <= line + size + near
        and column - near <= region["first_column"] <= column <= region["last_column"] <= column + size + near
    )


def is_red(picture: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray((picture == (0, 0, 255)).all(2))


# ------------------------------------------------------------------------------------------------ events.jsonl


def test_a_trained_model_finds_a_defect_in_the_weave(tmp_path: Path, tiny_bundle: Path) -> None:
    web = blot(weave(192, seed=9), 80, 40, 16)
    footage = write_frames(tmp_path / "weave", web, 64)
    assert replay(footage, "--model", tiny_bundle, "--output", tmp_path / "out", "--quiet") == 0
    events = events_of(tmp_path / "out")
    # the SSIM window, the smoothing and a patch that the defect disturbs as a whole reach beyond it
    assert any(lies_on(region, 80, 40, 16, 16) for region in closed(events))
    end = events[-1]
    assert (end["lines"], end["inspected_up_to"], end["lines_in_gaps"]) == (192, 192, 0)


def test_every_event_has_its_fields(roll: Path, toy: Path, tmp_path: Path) -> None:
    (roll / "0003.png").write_bytes(b"no image")
    assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    events = events_of(tmp_path / "out")
    kinds = [event["type"] for event in events]
    assert kinds[0] == "roll_start"
    assert kinds[-1] == "roll_end"
    assert set(kinds[1:-1]) == {"region", "gap"}
    assert all((event["camera"], event["roll"]) == ("footage", "roll") for event in events)
    start, end, gap = events[0], events[-1], of_type(events, "gap")[0]
    assert start["recipe"] == "toy"
    assert start["settings"]["execution"] == {"device": "cpu", "precision": "float32", "batch": 8, "threads": 1}
    assert start["settings"]["inspection"]["threshold"] == 0.01
    assert end.keys() >= {"lines", "inspected_up_to", "lines_inspected", "lines_in_gaps"}
    assert gap.keys() >= {"first_line", "last_line", "cause", "estimated"}
    for region in of_type(events, "region"):
        assert region.keys() >= {
            "phase", "id", "part", "merged_into", "first_line", "last_line", "first_column", "last_column", "area_px",
            "peak", "mean", "lanes",
        }  # fmt: skip
        assert region["phase"] in ("open", "update", "close")
    assert of_type(events, "region")[0]["phase"] == "open"


def test_a_recipe_in_mm_is_replayed_as_the_line_had_it(
    roll: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, line = tmp_path / "mm.toml", tmp_path / "line.toml"
    recipe.write_text(
        f'[model]\nfile = "{toy}"\n[[lanes]]\nname = "near"\nfrom_mm = 50.0\nto_mm = 90.0\n'
        '[[classes]]\nname = "blot"\nseverity = 2\nmin_length_mm = 0.5\n'
    )
    line.write_text(
        f'recipe = "{recipe}"\n[web]\ncounts_per_mm = 8.0\ntop_speed_mm_s = 500.0\n[[cameras]]\nname = "left"\n'
        'producer = "none.cti"\nserial = "1"\nmax_line_rate_hz = 500.0\nencoder = { counts_per_line = 4 }\n'
        "mm_per_column = 0.5\nx_offset_mm = 50.0\n"
    )
    arguments = (roll, "--recipe", recipe, "--output", tmp_path / "out", "--quiet")
    assert replay(*arguments) == 2
    assert "lane 'near': is in mm, which needs a line's camera with mm_per_column" in capsys.readouterr().err
    assert replay(*arguments, "--line", line) == 0
    regions = of_type(events_of(tmp_path / "out"), "region")
    assert regions
    for one in regions:
        assert (one["lanes"], one["category"], one["severity"]) == (["near"], "blot", 2)
        assert one["across_mm"] == [50 + one["first_column"] / 2, 50 + (one["last_column"] + 1) / 2]
        assert one["along_mm"] == [one["first_line"] / 2, (one["last_line"] + 1) / 2]


def test_the_region_lies_on_the_defect_and_nowhere_else(roll: Path, toy: Path, tmp_path: Path) -> None:
    assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    events = events_of(tmp_path / "out")
    regions = closed(events)
    assert regions
    for region in regions:
        assert lies_on(region, LINE, COLUMN)
        assert region["peak"] > region["mean"] > 0.01
        assert SIZE < region["area_px"] <= (SIZE + 2 * NEAR) ** 2
    assert events[-1]["inspected_up_to"] == events[-1]["lines"] == events[-1]["lines_inspected"] == LINES


def test_the_heights_of_the_frames_do_not_show(tmp_path: Path, toy: Path) -> None:
    seen: list[tuple[bytes, bytes, bytes]] = []
    for heights in (7, 64, LINES, (1, 30, 100)):
        folder = write_frames(tmp_path / str(len(seen)) / "roll", defective(), heights)
        out = tmp_path / str(len(seen)) / "out"
        assert replay(folder, "--model", toy, "--output", out, "--residuals", "--quiet") == 0
        files = ("events.jsonl", "web.png", "residual.tiff")
        seen.append((*((out / name).read_bytes() for name in files),))  # type: ignore[arg-type]
    assert seen.count(seen[0]) == 4


def test_the_summary_and_the_events_are_printed(roll: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (roll / "0002.png").write_bytes(b"")
    assert replay(roll, "--model", toy) == 0
    out = capsys.readouterr().out
    assert "defect  lines 9" in out
    assert "gap     lines 128–191: unreadable" in out
    assert "256 lines = 192 inspected + 64 in gaps; 1 defects" in out


# ------------------------------------------------------------------------------------------------ pictures


def test_web_png_shows_the_web_with_the_defect_outlined_in_red(roll: Path, toy: Path, tmp_path: Path) -> None:
    assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    picture = read_image(tmp_path / "out/web.png")
    assert picture.shape == (LINES, WIDTH, 3)
    lines, columns = np.nonzero(is_red(picture))
    margin = NEAR + 4
    assert LINE - margin < lines.min() < LINE
    assert LINE + SIZE <= lines.max() < LINE + SIZE + margin
    assert COLUMN - margin < columns.min() < COLUMN
    assert COLUMN + SIZE <= columns.max() < COLUMN + SIZE + margin
    untouched = ~is_red(picture)
    assert np.array_equal(picture[untouched][:, 0], defective()[untouched])


def test_gaps_are_tinted_in_web_png(roll: Path, toy: Path, tmp_path: Path) -> None:
    (roll / "0002.png").write_bytes((roll / "0002.png").read_bytes()[:60])
    assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    picture = read_image(tmp_path / "out/web.png").astype(int)
    tinted = (picture[..., 0] > picture[..., 2]).all(1)
    assert np.flatnonzero(tinted).tolist() == list(range(128, 192))


def test_residual_tiff_has_the_score_of_every_line(roll: Path, toy: Path, tmp_path: Path) -> None:
    (roll / "0002.png").write_bytes((roll / "0002.png").read_bytes()[:60])
    out = tmp_path / "out"
    assert replay(roll, "--model", toy, "--output", out, "--residuals", "--columns", "4:60", "--quiet") == 0
    with tifffile.TiffFile(out / "residual.tiff") as tiff:
        assert tiff.is_bigtiff
        score = tiff.asarray()
    assert (score.dtype, score.shape) == (np.dtype(np.float32), (LINES, WIDTH))
    missing = np.isnan(score)
    assert missing[:, :4].all()
    assert missing[:, 60:].all()
    assert missing[128:192].all()
    assert not missing[:128, 4:60].any()
    assert not missing[192:, 4:60].any()
    above = np.argwhere(np.nan_to_num(score) > 0.01)
    assert len(above)
    assert (np.abs(above - (LINE + SIZE / 2, COLUMN + SIZE / 2)) < SIZE / 2 + NEAR).all()


def test_a_scaled_bundle_answers_in_pixels_of_the_camera(tmp_path: Path) -> None:
    half = toy_bundle(tmp_path / "half.pt", scale=2)
    web = blot(plain(201, 75), 120, 40, 16)
    out = tmp_path / "out"
    folder = write_frames(tmp_path / "roll", web, 33)
    assert replay(folder, "--model", half, "--output", out, "--residuals", "--quiet") == 0
    events = events_of(out)
    assert events[-1]["inspected_up_to"] == 201
    assert closed(events)
    assert all(
        108 <= region["first_line"] <= 120 and 136 <= region["last_line"] + 1 <= 148 for region in closed(events)
    )
    score = tifffile.imread(out / "residual.tiff")
    assert score.shape == (201, 75)
    assert np.isfinite(score).all()
    assert read_image(out / "web.png").shape == (201, 75, 3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    portions=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    shrink=st.integers(1, 3),
    mean=st.booleans(),
    seed=st.integers(0, 9),
)
def test_rows_shrink_alike_however_they_come(portions: list[int], shrink: int, mean: bool, seed: int) -> None:
    lines = np.random.default_rng(seed).integers(0, 256, (sum(portions), 5), np.uint8)
    with patch.object(pictures, "MAX_ROWS", 16), patch.object(pictures, "BLOCK", 4):
        whole, parts = ShrinkingRows(shrink, 5, mean), ShrinkingRows(shrink, 5, mean)
        whole.add(lines)
        for part in np.split(lines, np.cumsum(portions)[:-1]):
            parts.add(part)
        first, second = whole.picture(), parts.picture()
    assert (whole.lines, whole.shrink) == (parts.lines, parts.shrink)
    assert np.array_equal(first, second)
    assert first.shape == (-(-len(lines) // whole.shrink), -(-5 // whole.shrink))
    assert len(first) < 2 * 16
    blocks = [lines[i : i + whole.shrink] for i in range(0, len(lines), whole.shrink)]
    if mean:
        assert all(
            block.min() <= row.min() and row.max() <= block.max() for block, row in zip(blocks, first, strict=True)
        )
    else:
        assert [int(row.max()) for row in first] == [int(block.max()) for block in blocks]


@pytest.mark.parametrize("lines", [1, 1023, 1024, 5000])
def test_lines_of_one_value_are_drawn_a_piece_at_a_time(lines: int) -> None:
    padded, added = (ShrinkingRows(1, 5, mean=False) for _ in range(2))
    biggest = 0
    add = ShrinkingRows.add

    def watched(self: ShrinkingRows, rows: NDArray[np.uint8]) -> None:
        nonlocal biggest
        biggest = max(biggest, len(rows))
        add(self, rows)

    with patch.object(ShrinkingRows, "add", watched):
        padded.pad(lines, 7)
    added.add(np.full((lines, 5), 7, np.uint8))
    assert padded.lines == added.lines == lines
    assert np.array_equal(padded.picture(), added.picture())
    assert biggest <= pictures.PADDED


@pytest.mark.parametrize("heights", [LINES, 50])
def test_a_roll_too_long_for_its_picture_keeps_its_defects(tmp_path: Path, toy: Path, heights: int) -> None:
    folder = write_frames(tmp_path / "roll", defective()[:251], heights)
    with patch.object(pictures, "MAX_ROWS", 32), patch.object(pictures, "BLOCK", 8):
        assert replay(folder, "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    picture = read_image(tmp_path / "out/web.png")
    assert picture.shape == (-(-251 // 4), WIDTH // 4, 3)
    lines, columns = np.nonzero(is_red(picture))
    assert abs(lines.mean() - (LINE + SIZE / 2) / 4) < 2
    assert abs(columns.mean() - (COLUMN + SIZE / 2) / 4) < 2


# ------------------------------------------------------------------------------------------------ lines that are lost


def faulty_frame(folder: Path, name: str, how: str) -> None:
    path = folder / name
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:100] + b"\0" * 50 + path.read_bytes()[150:])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "narrower":
        write_image(path, plain(64, WIDTH - 1))
    elif how == "coloured":
        write_image(path, np.repeat(plain(64, WIDTH)[..., None], 3, 2) // np.array([1, 2, 3], np.uint8))
    elif how == "deeper":
        write_image(path, plain(64, WIDTH).astype(np.uint16) * 257)


@pytest.mark.parametrize("how", ["truncated", "damaged", "empty", "narrower", "coloured", "deeper"])
def test_a_frame_that_cannot_be_used_is_a_gap_and_the_rest_is_inspected(
    how: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_frames(tmp_path / "roll", blot(defective(), 220, 10), 64)
    faulty_frame(folder, "0002.png", how)
    assert replay(folder, "--model", toy, "--output", tmp_path / "out") == 0
    events = events_of(tmp_path / "out")
    gaps = [(gap["first_line"], gap["last_line"], gap["cause"]) for gap in of_type(events, "gap")]
    assert gaps == [(128, 191, "unreadable")]
    found = closed(events)
    assert any(lies_on(region, LINE, COLUMN) for region in found)
    assert any(lies_on(region, 220, 10) for region in found)
    assert len(found) == 2
    end = events[-1]
    assert (end["lines"], end["inspected_up_to"], end["lines_inspected"], end["lines_in_gaps"]) == (256, 256, 192, 64)
    assert "gap     lines 128–191: unreadable" in capsys.readouterr().out


def test_a_dark_stretch_is_a_gap(tmp_path: Path, toy: Path) -> None:
    web = defective()
    web[150:190] = 3
    assert replay(write_frames(tmp_path / "roll", web, 64), "--model", toy, "--output", tmp_path / "out") == 0
    events = events_of(tmp_path / "out")
    gaps = of_type(events, "gap")
    assert {gap["cause"] for gap in gaps} == {"invalid-image"}
    dark = [line for gap in gaps for line in range(gap["first_line"], gap["last_line"] + 1)]
    assert dark == list(range(150, 190))
    assert any(lies_on(region, LINE, COLUMN) for region in closed(events))
    assert (events[-1]["lines_in_gaps"], events[-1]["inspected_up_to"]) == (40, LINES)


def test_where_the_model_computes_nonsense_is_a_gap(tmp_path: Path) -> None:
    model = toy_bundle(tmp_path / "nan.pt", NanWhereBright())
    web = defective()
    web[160:200] = 230
    out = tmp_path / "out"
    folder = write_frames(tmp_path / "roll", web, 64)
    assert replay(folder, "--model", model, "--output", out, "--residuals", "--quiet") == 0
    events = events_of(out)
    gaps = of_type(events, "gap")
    assert {gap["cause"] for gap in gaps} == {"model-fault"}
    lost = [line for gap in gaps for line in range(gap["first_line"], gap["last_line"] + 1)]
    assert len(set(lost)) == len(lost) == events[-1]["lines_in_gaps"]
    assert set(range(168, 192)) <= set(lost) <= set(range(140, 220))
    assert np.isnan(tifffile.imread(out / "residual.tiff")).all(1).nonzero()[0].tolist() == sorted(lost)
    assert any(lies_on(region, LINE, COLUMN) for region in closed(events))
    assert events[-1]["inspected_up_to"] == LINES


# ------------------------------------------------------------------------------------------------ ways to run it


def test_separate_images_are_rolls_of_their_own(roll: Path, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert replay(roll, "--model", toy, "--output", out, "--separate", "--residuals", "--quiet") == 0
    events = events_of(out)
    names = ["0000", "0001", "0002", "0003"]
    assert [event["roll"] for event in of_type(events, "roll_start")] == names
    assert [(event["roll"], event["lines"]) for event in of_type(events, "roll_end")] == [(name, 64) for name in names]
    assert {region["roll"] for region in of_type(events, "region")} == {"0001"}
    assert all(lies_on(region, LINE - 64, COLUMN) for region in closed(events))
    for name in names:
        assert read_image(out / f"web-{name}.png").shape == (64, WIDTH, 3)
        assert tifffile.imread(out / f"residual-{name}.tiff").shape == (64, WIDTH)


def test_separate_pages_and_like_named_images_keep_their_own_files(tmp_path: Path, toy: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([plain(32, WIDTH, seed) for seed in range(3)]), photometric=1)
    assert replay(tmp_path / "stack.tif", "--model", toy, "--output", tmp_path / "a", "--separate", "--quiet") == 0
    assert sorted(path.name for path in (tmp_path / "a").glob("web*")) == [f"web-stack-{i}.png" for i in range(3)]
    folder = write_frames(tmp_path / "b", plain(32, WIDTH), 32)
    (folder / "0000.bmp").write_bytes(_bmp(plain(32, WIDTH)))
    assert replay(folder, "--model", toy, "--output", tmp_path / "c", "--separate", "--quiet") == 0
    rolls = [event["roll"] for event in of_type(events_of(tmp_path / "c"), "roll_start")]
    assert len(set(rolls)) == 2
    assert sorted(path.name for path in (tmp_path / "c").glob("web*")) == sorted(f"web-{name}.png" for name in rolls)


def _bmp(image: NDArray[Any]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".bmp", image)[1].tobytes())


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("0007.png", "0007"),
        ("roll.tif#12", "roll-12"),
        ("a#b.png", "a#b"),
        ("film.avi#0", "film-0"),
        ("x.y.png", "x.y"),
    ],
)
def test_what_files_about_a_frame_are_called(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_only_the_columns_asked_for_are_inspected(tmp_path: Path, toy: Path) -> None:
    web = blot(defective(), LINE, 2)
    folder = write_frames(tmp_path / "roll", web, 64)
    for text, first in (("16:64", 16), ("16:", 16)):
        assert replay(folder, "--model", toy, "--output", tmp_path / "out", "--columns", text, "--quiet") == 0
        regions = closed(events_of(tmp_path / "out"))
        assert regions
        assert all(lies_on(region, LINE, COLUMN) and region["first_column"] >= first for region in regions)
    assert replay(folder, "--model", toy, "--output", tmp_path / "out", "--columns", ":20", "--quiet") == 0
    assert all(region["last_column"] < 20 for region in closed(events_of(tmp_path / "out")))
    assert closed(events_of(tmp_path / "out"))


def test_deeper_pixels_are_scaled_to_what_the_model_knows(roll: Path, toy: Path, tmp_path: Path) -> None:
    assert replay(roll, "--model", toy, "--output", tmp_path / "8", "--quiet") == 0
    deep = write_frames(tmp_path / "deep" / "roll", defective().astype(np.uint16) * 257, 64)
    assert replay(deep, "--model", toy, "--output", tmp_path / "16", "--quiet") == 0
    assert events_of(tmp_path / "16") == events_of(tmp_path / "8")
    assert (tmp_path / "16/web.png").read_bytes() == (tmp_path / "8/web.png").read_bytes()
    twelve = write_frames(tmp_path / "twelve" / "roll", (defective() / 255 * 4095).astype(np.uint16), 64)
    assert replay(twelve, "--model", toy, "--output", tmp_path / "12", "--bit-depth", 12, "--quiet") == 0
    assert all(lies_on(region, LINE, COLUMN) for region in closed(events_of(tmp_path / "12")))
    assert closed(events_of(tmp_path / "12"))


def test_a_colour_model_inspects_colour(tmp_path: Path) -> None:
    model = toy_bundle(tmp_path / "rgb.pt", channels=3)
    web = np.stack([defective(), plain(LINES, WIDTH, 1), plain(LINES, WIDTH, 2)], 2)  # the defect is only red
    folder = write_frames(tmp_path / "roll", web, 64)
    assert replay(folder, "--model", model, "--threshold", 0.004, "--output", tmp_path / "out", "--quiet") == 0
    regions = closed(events_of(tmp_path / "out"))
    assert regions
    assert all(lies_on(region, LINE, COLUMN) for region in regions)


def test_speed_holds_the_footage_back(roll: Path, toy: Path) -> None:
    start = time.monotonic()
    assert replay(roll, "--model", toy, "--speed", 400, "--quiet") == 0
    assert time.monotonic() - start >= LINES / 400


def test_a_gap_takes_as_long_as_lines_do(roll: Path, toy: Path) -> None:
    for name in ("0001.png", "0002.png", "0003.png"):
        (roll / name).write_bytes(b"")
    start = time.monotonic()
    assert replay(roll, "--model", toy, "--speed", 400, "--quiet") == 0
    assert time.monotonic() - start >= LINES / 400


# ------------------------------------------------------------------------------------------------ refusals


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = replay(*arguments)
    error = capsys.readouterr().err
    assert error.startswith("linescan-replay: error: ")
    assert error.count("\n") == 1
    return code, error


def test_colour_footage_for_a_grey_model(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web = np.random.default_rng(0).integers(90, 150, (64, WIDTH, 3), np.uint8)
    code, error = refused(
        capsys, write_frames(tmp_path / "roll", web, 64), "--model", toy, "--output", tmp_path / "out"
    )
    assert code == 65
    assert "the footage has 3 channels" in error
    assert "was trained on 1" in error
    assert not (tmp_path / "out").exists()


def test_footage_that_is_none(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    write_image(tmp_path / "0.png", plain(8))
    (tmp_path / "0.png").write_bytes(b"damaged")
    for place in ("empty", "missing", "text.txt", "*.jpg", "0.png"):
        code, error = refused(capsys, tmp_path / place, "--model", toy)
        assert code == 65
        assert place in error


def test_a_bundle_that_is_none(tmp_path: Path, roll: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, roll, "--model", tmp_path / "none.pt")[0] == 65
    (tmp_path / "M.pt").write_bytes(b"hello")
    code, error = refused(capsys, roll, "--model", tmp_path / "M.pt")
    assert code == 65
    assert f"{tmp_path / 'M.pt'}: not a model bundle" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stride", "0"), "stride = 0"),
        (("--stride", "999"), "stride 999"),
        (("--speed", "abc"), "--speed abc"),
        (("--speed", "0"), "--speed 0"),
        (("--speed", "-5"), "--speed -5"),
        (("--speed", "nan"), "--speed nan"),
        (("--speed", "inf"), "--speed inf"),
        (("--residuals",), "--residuals needs --output"),
        (("--threshold", "nan"), "threshold = nan"),
        (("--columns", "10:200"), "columns 10:200 are asked for, the footage has 64"),
        (("--columns", "70:"), "70:64"),
        (("--batch", "0"), "batch 0"),
        (("--threads", "-1"), "threads -1"),
        (("--output", "/proc/nowhere"), "/proc/nowhere"),
    ],
)
def test_arguments_that_cannot_be(
    roll: Path, toy: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code = main([str(roll), "--model", str(toy), *RUN, *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("--columns", "9"), ("--columns", "5:5"), ("--columns", "a:b"), ("--precision", "int4"), ("--device", "tpu")],
)
def test_arguments_that_the_parser_refuses(
    roll: Path, toy: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(roll), "--model", str(toy), *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_no_model(roll: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, roll) == (2, "linescan-replay: error: a model is needed: --model M.pt, or --recipe R.toml "
                                        "that names one\n")  # fmt: skip


def test_a_blind_model_inspects_nothing(roll: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = toy_bundle(tmp_path / "blind.pt", Blind())
    code, error = refused(capsys, roll, "--model", model, "--output", tmp_path / "out")
    assert code == 70
    assert "self-check" in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(roll: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert refused(capsys, roll, "--model", toy, "--output", tmp_path / "out")[0] == 2
    assert (tmp_path / "out").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ several rolls


def recorded(roll: str, number: int, pixels: NDArray[Any]) -> messages.Frame:
    height, width = pixels.shape
    return messages.Frame("cam0", 1, roll, number * height, height, width, "Mono8", None, number, number)


def test_a_recording_of_several_rolls(toy: Path, tmp_path: Path) -> None:
    with McapWriter(tmp_path / "line.mcap", "cam0") as writer:
        for roll in ("monday", "tuesday/../x"):
            for number, pixels in enumerate(np.split(defective(), 4)):
                writer.write(recorded(roll, number, pixels), pixels)
    out = tmp_path / "out"
    assert replay(tmp_path / "line.mcap", "--model", toy, "--output", out, "--residuals", "--quiet") == 0
    events = events_of(out)
    assert [event["roll"] for event in of_type(events, "roll_start")] == ["monday", "tuesday/../x"]
    assert [event["inspected_up_to"] for event in of_type(events, "roll_end")] == [LINES, LINES]
    assert [lies_on(region, LINE, COLUMN) for region in closed(events)] == [True, True]
    names = sorted(path.name for path in out.iterdir())
    assert names == ["events.jsonl", "residual-2.tiff", "residual.tiff", "web-2.png", "web.png"]
    assert (out / "web.png").read_bytes() == (out / "web-2.png").read_bytes()


def test_lines_lost_in_a_recording_do_not_end_its_roll(toy: Path, tmp_path: Path) -> None:
    """Where a chunk of an MCAP file is damaged, a frame without header stands for its lines."""
    with McapWriter(tmp_path / "line.mcap", "cam0", chunk_bytes=0) as writer:
        for number, pixels in enumerate(np.split(defective(), 4)):
            writer.write(recorded("monday", number, pixels), pixels)
    data = bytearray((tmp_path / "line.mcap").read_bytes())
    place = data.find(plain(LINES, WIDTH)[128:].tobytes()[:64])
    assert place > 0
    data[place + 8] ^= 1
    (tmp_path / "line.mcap").write_bytes(data)
    assert replay(tmp_path / "line.mcap", "--model", toy, "--output", tmp_path / "out", "--quiet") == 0
    events = events_of(tmp_path / "out")
    assert [event["roll"] for event in of_type(events, "roll_start")] == ["monday"]
    assert [(gap["first_line"], gap["last_line"]) for gap in of_type(events, "gap")] == [(128, 191)]
    assert events[-1]["inspected_up_to"] == LINES


# ------------------------------------------------------------------------------------------------ broken off


def test_a_full_disk_leaves_no_half_output(
    roll: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert replay(roll, "--model", toy, "--output", out, "--residuals", "--quiet") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    real, count = ResidualFile.add_band, 0

    def full(self: ResidualFile, final: FinalBand) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(28, "No space left on device")
        real(self, final)

    with patch.object(ResidualFile, "add_band", full):
        code, error = refused(
            capsys, roll, "--model", toy, "--threshold", 0.02, "--output", out, "--residuals", "--quiet"
        )
    assert code == 70
    assert "No space left on device" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def interrupted_after(forwards: int, times: int = 1) -> Any:
    """Ctrl-C in the middle of a forward, when the engine is within a frame."""
    real, count = Runner.reconstruct, 0

    def call(self: Runner, *work: Any) -> None:
        nonlocal count
        count += 1
        if count == forwards:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        real(self, *work)

    return patch.object(Runner, "reconstruct", call)


def test_ctrl_c_within_a_frame_ends_the_roll_after_it(
    roll: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with interrupted_after(3):
        assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--residuals", "--quiet") == 130
    events = events_of(tmp_path / "out")
    end = events[-1]
    assert end["type"] == "roll_end"
    assert end["lines"] in (64, 128)
    assert end["inspected_up_to"] == end["lines"] == end["lines_inspected"]
    assert read_image(tmp_path / "out/web.png").shape == (end["lines"], WIDTH, 3)
    assert tifffile.imread(tmp_path / "out/residual.tiff").shape == (end["lines"], WIDTH)
    assert "interrupted" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_separate_rolls_too(roll: Path, toy: Path, tmp_path: Path) -> None:
    with interrupted_after(4):
        assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--separate", "--quiet") == 130
    ends = of_type(events_of(tmp_path / "out"), "roll_end")
    assert 0 < len(ends) < 4
    assert all(end["inspected_up_to"] == end["lines"] == 64 for end in ends)


def test_a_second_ctrl_c_breaks_off_and_leaves_nothing_half(
    roll: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with interrupted_after(3, times=2):
        assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--residuals", "--quiet") == 130
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == "linescan-replay: interrupted\n"


def test_ctrl_c_before_the_first_line_is_no_roll(roll: Path, toy: Path, tmp_path: Path) -> None:
    with interrupted_after(1):  # the self-check
        assert replay(roll, "--model", toy, "--output", tmp_path / "out", "--residuals", "--quiet") == 130
    assert events_of(tmp_path / "out") == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["events.jsonl"]


def test_sigint_to_the_process_while_it_waits_for_the_line(toy: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "roll", blot(plain(4000, WIDTH), 20, COLUMN), 20)
    command = [sys.executable, "-u", "-m", "linescan.cli.replay", str(folder), "--model", str(toy), *RUN]
    running = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out"), "--speed", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    watchdog = threading.Timer(120, running.kill)
    watchdog.start()
    assert running.stdout is not None
    with running, running.stdout:
        assert "defect" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    watchdog.cancel()
    assert running.returncode == 130
    assert "interrupted" in rest
    events = events_of(tmp_path / "out")
    end = events[-1]
    assert end["type"] == "roll_end"
    assert 20 <= end["lines"] < 4000
    assert end["lines"] % 20 == 0
    assert end["inspected_up_to"] == end["lines"]
    assert len(closed(events)) == 1
    assert leftovers(tmp_path / "out") == []
    assert read_image(tmp_path / "out/web.png").shape == (end["lines"], WIDTH, 3)


def test_the_folder_of_good_footage_is_what_the_tests_think(good_footage: Path) -> None:
    with open_footage(good_footage) as footage:
        assert (footage.columns, footage.channels, footage.total_lines) == (COLUMNS, 1, 640)
