"""tools/score.py counts as docs/acceptance.md says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("score", ROOT / "tools/score.py")
assert _spec is not None
assert _spec.loader is not None
score = importlib.util.module_from_spec(_spec)
sys.modules["score"] = score  # its dataclasses look for their module there
_spec.loader.exec_module(score)

Box = score.Box
LINES, COLUMNS = 1000, 500


def region(name: str, lines: tuple[int, int], columns: tuple[int, int], **fields: Any) -> dict[str, Any]:
    return {
        "type": "region", "id": name, "phase": "close", "part": 0, "merged_into": None, "first_line": lines[0],
        "last_line": lines[1], "first_column": columns[0], "last_column": columns[1], **fields,
    }  # fmt: skip


def defect(lines: tuple[int, int], columns: tuple[int, int], **fields: Any) -> dict[str, Any]:
    return {
        "kind": "cut", "first_line": lines[0], "last_line": lines[1], "first_column": columns[0],
        "last_column": columns[1], "area_px": 100, "crosses_frames": False, **fields,
    }  # fmt: skip


def end(lines: int = LINES, **fields: Any) -> dict[str, Any]:
    counts = {"inspected_up_to": lines, "lines_inspected": lines, "lines_in_gaps": 0}
    return {"type": "roll_end", "lines": lines, **counts, **fields}


def counted(events: list[dict[str, Any]], defects: list[dict[str, Any]]) -> Any:
    return score.score([*events, end()], defects, COLUMNS)


HOLE = defect((100, 109), (50, 59))  # grown: lines 92–117, columns 42–67, 26 × 26

# ------------------------------------------------------------------------------------------------ what belongs


@pytest.mark.parametrize(
    ("lines", "columns", "found"),
    [
        ((100, 109), (50, 59), True),
        ((80, 92), (50, 59), True),  # shares the first line of the grown box
        ((80, 91), (50, 59), False),
        ((117, 125), (67, 70), True),  # shares its last corner
        ((118, 125), (50, 59), False),
        ((100, 109), (30, 42), True),
        ((100, 109), (30, 41), False),
        ((100, 109), (68, 90), False),
    ],
)
def test_a_region_belongs_where_it_shares_a_pixel_with_the_grown_box(
    lines: tuple[int, int], columns: tuple[int, int], found: bool
) -> None:
    result = counted([region("a", lines, columns)], [HOLE])
    assert result.found == {"cut": int(found)}
    assert result.planted == {"cut": 1}
    assert len(result.false) == int(not found)
    assert result.missed == ([] if found else [HOLE])


def test_a_blanket_finds_nothing() -> None:
    most = 4 * 26 * 26
    fits, too_large = region("a", (100, 151), (50, 101)), region("b", (100, 151), (50, 102))
    assert Box.of(fits).area == most
    assert counted([fits], [HOLE]).found == {"cut": 1}
    result = counted([too_large], [HOLE])
    assert (result.found, len(result.false)) == ({"cut": 0}, 1)
    assert len(counted([region("c", (0, LINES - 1), (0, COLUMNS - 1))], [HOLE]).false) == 1


def test_the_grown_box_is_cut_at_the_edges_of_the_web() -> None:
    assert Box.of(defect((0, 3), (495, 499))).grown(LINES, COLUMNS) == Box(0, 11, 487, 499)
    assert Box.of(defect((996, 999), (2, 6))).grown(LINES, COLUMNS) == Box(988, 999, 0, 14)
    # cut, it is 12 × 13 pixels: a region of 4 times that may belong, a larger one not
    corner = defect((0, 3), (495, 499))
    assert counted([region("a", (0, 47), (487, 499))], [corner]).found == {"cut": 1}
    assert counted([region("a", (0, 48), (487, 499))], [corner]).found == {"cut": 0}


def test_several_regions_on_one_defect_count_as_one_and_none_is_false() -> None:
    result = counted([region("a", (100, 103), (50, 53)), region("b", (106, 109), (56, 59))], [HOLE])
    assert (result.found, len(result.false)) == ({"cut": 1}, 0)


def test_one_region_may_find_two_neighbours() -> None:
    beside = defect((100, 109), (70, 79), kind="roughened")
    result = counted([region("a", (100, 109), (55, 75))], [HOLE, beside])
    assert result.found == {"cut": 1, "roughened": 1}
    assert result.false == []


# ------------------------------------------------------------------------------------------------ what is reported


def test_only_closed_regions_count() -> None:
    events = [region("a", (100, 109), (50, 59), phase=phase) for phase in ("open", "update")]
    assert counted(events, [HOLE]).found == {"cut": 0}


def test_parts_of_one_id_are_one_region() -> None:
    parts = [region("a", (100 + 20 * i, 119 + 20 * i), (50, 52), part=i) for i in range(3)]
    assert score.reported([*parts, end()]) == [Box(100, 159, 50, 52)]
    far = [region("a", (500, 509), (50, 59)), region("a", (520, 529), (50, 59), part=1)]
    assert len(counted(far, [HOLE]).false) == 1
    # united it is a blanket, though each part alone would belong
    many = [region("a", (100 + 20 * i, 119 + 20 * i), (20, 80), part=i) for i in range(3)]
    assert counted(many, [HOLE]).found == {"cut": 0}
    assert counted(many[:1], [HOLE]).found == {"cut": 1}


def test_merged_regions_are_part_of_the_one_they_merged_into() -> None:
    events = [
        region("c", (104, 106), (56, 57), merged_into="b"),
        region("b", (103, 107), (55, 58), merged_into="a"),
        region("a", (110, 112), (50, 51)),
    ]
    assert score.reported(events) == [Box(103, 112, 50, 58)]
    assert score.reported(events[::-1]) == [Box(103, 112, 50, 58)]
    far = [region("b", (500, 503), (1, 2), merged_into="a"), region("a", (504, 506), (1, 5))]
    assert len(counted(far, [HOLE]).false) == 1


def test_gaps_and_starts_are_no_regions() -> None:
    events = [{"type": "roll_start"}, {"type": "gap", "first_line": 100, "last_line": 109}]
    assert counted(events, [HOLE]).found == {"cut": 0}
    assert counted(events, []).false == []


# ------------------------------------------------------------------------------------------------ what is counted


def test_tiny_defects_are_counted_apart() -> None:
    tiny = [defect((300, 303), (50, 53), area_px=59), defect((400, 403), (50, 53), area_px=59)]
    regular = defect((500, 503), (50, 53), area_px=60)
    events = [region("a", (300, 303), (50, 53)), region("b", (500, 503), (50, 53))]
    result = counted(events, [*tiny, regular])
    assert (result.tiny_found, result.tiny_planted) == (1, 2)
    assert (result.found, result.planted) == ({"cut": 1}, {"cut": 1})
    assert result.false == []
    assert result.missed == [tiny[1]]


def test_false_regions_per_megapixel_of_the_whole_roll() -> None:
    events = [region("a", (0, 0), (0, 5)), region("b", (999, 999), (499, 499)), region("c", (100, 109), (50, 59))]
    result = counted(events, [HOLE])
    assert result.false == [Box(0, 0, 0, 5), Box(999, 999, 499, 499)]
    assert result.megapixels == 0.5
    assert result.false_per_megapixel == 4.0


# ------------------------------------------------------------------------------------------------ what is demanded

KINDS = (("cut", 5), ("metal_pin", 4), ("contamination", 4), ("missing_yarn", 4), ("broken_yarn", 4), ("roughened", 4))


def demo() -> list[dict[str, Any]]:
    """25 regular defects, as many of each kind as in the demo, and 3 tiny ones; none in lines 1300–1799."""
    kinds = [kind for kind, count in KINDS for _ in range(count)] + ["contamination"] * 3
    lines = [50 + 45 * i if i < 26 else 2000 + 45 * (i - 26) for i in range(28)]
    return [
        defect((line, line + 9), (50, 59), kind=kind, area_px=100 if i < 25 else 30, crosses_frames=i == 3)
        for i, (kind, line) in enumerate(zip(kinds, lines, strict=True))
    ]


def shortfalls(found: list[int], extra: list[dict[str, Any]] | None = None, **ending: Any) -> list[str]:
    defects = demo()
    events = [
        region(str(i), (defects[i]["first_line"], defects[i]["last_line"]), (50, 59)) for i in found
    ]  # fmt: skip
    result = score.score([*events, *(extra or []), end(3072, **ending)], defects, 640)
    return list(score.shortfalls(result))


ALL = list(range(28))


def but(*left_out: int) -> list[int]:
    return [i for i in ALL if i not in left_out]


def test_all_that_is_demanded() -> None:
    assert shortfalls(ALL) == []
    assert shortfalls(but(26, 27)) == []  # one tiny one is enough
    assert shortfalls(but(20)) == []  # one broken yarn may be missed
    assert shortfalls(but(24)) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (but(0), ["cut: 4 found, 5 demanded"]),
        (but(5), ["metal_pin: 3 found, 4 demanded"]),
        (but(9), ["contamination: 3 found, 4 demanded"]),
        (but(13), ["missing_yarn: 3 found, 4 demanded"]),
        (but(17, 18), ["broken_yarn: 2 found, 3 demanded", "regular: 23 found, 24 demanded"]),
        (but(17, 21), ["regular: 23 found, 24 demanded"]),
        (but(25, 26, 27), ["tiny: 0 found, 1 demanded"]),
        (but(3), ["cut: 4 found, 5 demanded", "a defect across a frame seam was missed"]),
    ],
)
def test_what_is_missed_is_named(found: list[int], said: list[str]) -> None:
    assert shortfalls(found) == said


def test_false_regions_beyond_one_per_megapixel() -> None:
    false = [region(f"f{i}", (1900 + 30 * i, 1905 + 30 * i), (300, 310)) for i in range(2)]
    assert shortfalls(ALL, false[:1]) == []  # 0.51 per megapixel
    assert shortfalls(ALL, false) == ["1.02 false regions per megapixel, 1.0 allowed"]


@pytest.mark.parametrize(("lines", "allowed"), [((1290, 1299), True), ((1290, 1300), False), ((1799, 1810), False)])
def test_nothing_may_be_reported_where_nothing_is_planted(lines: tuple[int, int], allowed: bool) -> None:
    said = shortfalls(ALL, [region("f", lines, (300, 310))])
    assert said == ([] if allowed else ["a region in lines 1300–1799"])


def test_a_region_of_a_defect_may_not_reach_into_the_clean_stretch_either() -> None:
    defects = [defect((1280, 1295), (50, 59))]
    result = score.score([region("a", (1285, 1302), (50, 59)), end(3072)], defects, 640)
    assert result.false == []
    assert "a region in lines 1300–1799" in score.shortfalls(result)


def test_gaps_and_an_early_end() -> None:
    assert shortfalls(ALL, lines_in_gaps=64, lines_inspected=3008) == ["64 lines in gaps, none allowed"]
    assert shortfalls(ALL, inspected_up_to=3000) == ["inspected up to line 3000, 3072 demanded"]


def run(tmp_path: Path, events: list[dict[str, Any]], *arguments: str) -> int:
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "defects.json").write_text(json.dumps(demo()))
    files = [str(tmp_path / "events.jsonl"), str(tmp_path / "defects.json")]
    with patch.object(sys, "argv", ["score.py", *files, "--columns", "640", *arguments]):
        return int(score.main())


def test_the_exit_code_says_whether_the_acceptance_was_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [region(str(i), (d["first_line"], d["last_line"]), (50, 59)) for i, d in enumerate(demo())]
    assert run(tmp_path, [*found, end(3072)], "--demand") == 0
    assert "acceptance: reached" in capsys.readouterr().out
    assert run(tmp_path, [*found[1:], end(3072)], "--demand") == 1
    out = capsys.readouterr().out
    assert "acceptance: missed: cut: 4 found, 5 demanded" in out
    assert "missed: cut at lines 50–59, columns 50–59, 100 px" in out
    assert run(tmp_path, [*found[1:], end(3072)]) == 0
