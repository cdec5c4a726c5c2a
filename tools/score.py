"""Counts what a replay found against the defects that were planted, by the rules of docs/acceptance.md.

python tools/score.py OUT/events.jsonl tools/demo/plain/defects.json --columns 640 [--demand]

With --demand the exit code is 1 where the demo's acceptance is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROWTH_PX = 8  # one yarn
LARGEST = 4  # a region's box may be so many times as large as the grown box
TINY_PX = 60
DEMO_LINES = 3072
CLEAN_STRETCH = (1300, 1799)  # of tools/demo/plain, lines without anything planted
DEMANDED = {"cut": 5, "metal_pin": 4, "contamination": 4, "missing_yarn": 4, "broken_yarn": 3, "roughened": 3}
DEMANDED_REGULAR, DEMANDED_TINY, ALLOWED_FALSE_PER_MEGAPIXEL = 24, 1, 1.0


@dataclass(frozen=True)
class Box:
    """Inclusive bounds in pixels."""

    first_line: int
    last_line: int
    first_column: int
    last_column: int

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Box:
        return cls(fields["first_line"], fields["last_line"], fields["first_column"], fields["last_column"])

    @property
    def area(self) -> int:
        return (self.last_line - self.first_line + 1) * (self.last_column - self.first_column + 1)

    def union(self, other: Box) -> Box:
        return Box(
            min(self.first_line, other.first_line),
            max(self.last_line, other.last_line),
            min(self.first_column, other.first_column),
            max(self.last_column, other.last_column),
        )

    def grown(self, lines: int, columns: int) -> Box:
        return Box(
            max(self.first_line - GROWTH_PX, 0),
            min(self.last_line + GROWTH_PX, lines - 1),
            max(self.first_column - GROWTH_PX, 0),
            min(self.last_column + GROWTH_PX, columns - 1),
        )

    def meets(self, other: Box) -> bool:
        return (
            self.first_line <= other.last_line
            and other.first_line <= self.last_line
            and self.first_column <= other.last_column
            and other.first_column <= self.last_column
        )


@dataclass(frozen=True)
class Score:
    """Found and planted per kind, tiny ones apart, and the boxes of all regions and of the false ones."""

    found: dict[str, int]
    planted: dict[str, int]
    tiny_found: int
    tiny_planted: int
    missed: list[dict[str, Any]]
    regions: list[Box]
    false: list[Box]
    megapixels: float
    inspected_up_to: int
    lines_inspected: int
    lines_in_gaps: int

    @property
    def false_per_megapixel(self) -> float:
        return len(self.false) / self.megapixels


def reported(events: list[dict[str, Any]]) -> list[Box]:
    """Boxes of the regions as they closed: parts of one id united, merged ones within the one they merged into."""
    boxes: dict[str, Box] = {}
    merged: dict[str, str] = {}
    for event in events:
        if event["type"] != "region" or event["phase"] != "close":
            continue
        if event["merged_into"] is not None:
            merged[event["id"]] = event["merged_into"]
        box = Box.of(event)
        boxes[event["id"]] = boxes[event["id"]].union(box) if event["id"] in boxes else box
    for younger in merged:
        older = younger
        while older in merged:
            older = merged[older]
        if older in boxes and younger in boxes:
            boxes[older] = boxes[older].union(boxes[younger])
    return [box for name, box in boxes.items() if name not in merged]


def score(events: list[dict[str, Any]], defects: list[dict[str, Any]], columns: int) -> Score:
    end = next(event for event in events if event["type"] == "roll_end")
    regions = reported(events)
    belongs = set()
    found: dict[str, int] = defaultdict(int)
    planted: dict[str, int] = defaultdict(int)
    tiny, missed = [0, 0], []
    for defect in defects:
        grown = Box.of(defect).grown(end["lines"], columns)
        hits = {i for i, box in enumerate(regions) if box.meets(grown) and box.area <= LARGEST * grown.area}
        belongs |= hits
        if not hits:
            missed.append(defect)
        if defect["area_px"] < TINY_PX:
            tiny[0] += bool(hits)
            tiny[1] += 1
        else:
            found[defect["kind"]] += bool(hits)
            planted[defect["kind"]] += 1
    false = [box for i, box in enumerate(regions) if i not in belongs]
    return Score(
        dict(found),
        dict(planted),
        *tiny,
        missed,
        regions,
        false,
        end["lines"] * columns / 1e6,
        end["inspected_up_to"],
        end["lines_inspected"],
        end["lines_in_gaps"],
    )


def shortfalls(result: Score) -> list[str]:
    """What docs/acceptance.md demands of tools/demo/plain and was missed."""
    short = [
        f"{kind}: {result.found.get(kind, 0)} found, {least} demanded"
        for kind, least in DEMANDED.items()
        if result.found.get(kind, 0) < least
    ]
    if sum(result.found.values()) < DEMANDED_REGULAR:
        short.append(f"regular: {sum(result.found.values())} found, {DEMANDED_REGULAR} demanded")
    if result.tiny_found < DEMANDED_TINY:
        short.append(f"tiny: {result.tiny_found} found, {DEMANDED_TINY} demanded")
    if result.false_per_megapixel > ALLOWED_FALSE_PER_MEGAPIXEL:
        short.append(
            f"{result.false_per_megapixel:.2f} false regions per megapixel, {ALLOWED_FALSE_PER_MEGAPIXEL} allowed"
        )
    if any(b.first_line <= CLEAN_STRETCH[1] and CLEAN_STRETCH[0] <= b.last_line for b in result.regions):
        short.append(f"a region in lines {CLEAN_STRETCH[0]}–{CLEAN_STRETCH[1]}")
    if any(defect["crosses_frames"] for defect in result.missed):
        short.append("a defect across a frame seam was missed")
    if result.inspected_up_to != DEMO_LINES:
        short.append(f"inspected up to line {result.inspected_up_to}, {DEMO_LINES} demanded")
    if result.lines_in_gaps:
        short.append(f"{result.lines_in_gaps} lines in gaps, none allowed")
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("defects", type=Path)
    parser.add_argument("--columns", type=int, required=True, help="of the footage")
    parser.add_argument("--demand", action="store_true", help="exit 1 where the demo's acceptance is missed")
    args = parser.parse_args()
    events = [json.loads(line) for line in args.events.read_text().splitlines()]
    result = score(events, json.loads(args.defects.read_text()), args.columns)
    print(f"lines inspected {result.lines_inspected}, in gaps {result.lines_in_gaps}")
    for kind, count in sorted(result.planted.items()):
        print(f"  {kind:14} {result.found.get(kind, 0)} of {count} found")
    print(f"  {'tiny':14} {result.tiny_found} of {result.tiny_planted} found (under {TINY_PX} px)")
    for defect in result.missed:
        box = Box.of(defect)
        print(
            f"  missed: {defect['kind']} at lines {box.first_line}–{box.last_line}, columns {box.first_column}–"
            f"{box.last_column}, {defect['area_px']} px"
        )
    print(f"  {len(result.false)} false regions, {result.false_per_megapixel:.2f} per megapixel")
    for box in result.false:
        print(f"  false: lines {box.first_line}–{box.last_line}, columns {box.first_column}–{box.last_column}")
    if not args.demand:
        return 0
    short = shortfalls(result)
    print("acceptance: " + ("reached" if not short else "missed: " + "; ".join(short)))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
