"""Shipped footage through the shipped model, held against stored events.

`pytest tests/test_replay_references.py --update-references` stores them anew; look at the difference before committing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linescan.cli.replay import main

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "tests/references/tests-footage.jsonl"

# What other CPUs may change in the last bits of a score can move a region's border by a pixel, not its place.
TOLERANCE_PX = 2
TOLERANCE_AREA = 0.1
TOLERANCE_SCORE = 0.01


def closed_regions(events: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return [line for line in lines if line["type"] == "region" and line["phase"] == "close"]


def run(output: Path) -> Path:
    arguments = [str(ROOT / "tests/footage"), "--recipe", str(ROOT / "config/recipes/weave.toml"), "--quiet"]
    fixed = ["--device", "cpu", "--precision", "float32", "--batch", "16", "--threads", "1"]
    assert main([*arguments, *fixed, "--output", str(output)]) == 0
    return output / "events.jsonl"


def test_shipped_footage_gives_the_stored_events(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    events = run(tmp_path / "out")
    if request.config.getoption("--update-references"):
        REFERENCE.parent.mkdir(exist_ok=True)
        kept = [line for line in events.read_text().splitlines() if '"roll_start"' not in line]
        REFERENCE.write_text("\n".join(kept) + "\n")
        pytest.skip(f"stored {REFERENCE.relative_to(ROOT)}")
    found, stored = closed_regions(events), closed_regions(REFERENCE)
    assert len(found) == len(stored)
    for region, expected in zip(found, stored, strict=True):
        for key in ("first_line", "last_line", "first_column", "last_column"):
            assert abs(region[key] - expected[key]) <= TOLERANCE_PX, (key, region, expected)
        assert region["area_px"] == pytest.approx(expected["area_px"], rel=TOLERANCE_AREA, abs=12)
        assert region["peak"] == pytest.approx(expected["peak"], abs=TOLERANCE_SCORE)


def test_every_line_of_the_shipped_footage_is_accounted_for(tmp_path: Path) -> None:
    end = json.loads(run(tmp_path / "out").read_text().splitlines()[-1])
    assert end["type"] == "roll_end"
    assert (end["lines"], end["inspected_up_to"], end["lines_inspected"], end["lines_in_gaps"]) == (1024, 1024, 1024, 0)
