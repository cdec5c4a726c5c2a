"""Whether a coarse pass can say where a fine one is needed: missed regions against speed-up.

    python tools/measure_refinement.py gather SETS.toml OUT        # minutes a set; --only NAME for some of them
    python tools/measure_refinement.py tables OUT                  # Markdown to the terminal, OUT/tables.json

A coarse pass takes every 2nd, 3rd or 4th anchor of the fine grid, over everything. Where its score reaches a margin,
all fine anchors that decide about that pixel are added (those that touch it or its halo: SSIM, smoothing, opening), so
that the refined pixel is what the full pass makes of it. A region of the full pass is missed where none of its pixels
was refined. Speed-up is counted in patches. The fine pass is stride 30, once with the bundle's blend and smoothing and
the recipe's calibration, once with the paper's `mean` and no smoothing. SETS.toml: tools/overlap/sets.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from overlap.gathering import FACTORS, FPRS, gather  # noqa: E402
from overlap.margins import LEARNED, Score, Stored, learned  # noqa: E402
from overlap.sets import load_sets  # noqa: E402

from linescan.cli.common import guarded  # noqa: E402
from linescan.errors import InputError  # noqa: E402

ALLOWED = (0.0, 0.01, 0.05)  # share of the regions that a margin may miss where it is fixed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("gather", help="inspect the sets finely and coarsely")
    one.add_argument("sets", type=Path, metavar="SETS.toml")
    one.add_argument("output", type=Path, metavar="OUT", help="made where it is missing")
    one.add_argument("--only", action="append", metavar="NAME", help="a set of the file; again for more")
    one.add_argument("--stride", type=int, default=30, help="of the fine pass; default: 30")
    two = commands.add_parser("tables", help="what was gathered, as tables")
    two.add_argument("output", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    return guarded("measure_refinement", lambda: _gather(options) if options.command == "gather" else _tables(options))


def _gather(options: argparse.Namespace) -> int:
    options.output.mkdir(parents=True, exist_ok=True)
    for webs in load_sets(options.sets, options.only):
        gather(webs, options.stride, options.output)
    return 0


def _tables(options: argparse.Namespace) -> int:
    told = [path.name.split(".")[:2] for path in sorted(options.output.glob("*.*.json"))]
    if not told:
        raise InputError(f"{options.output}: nothing gathered: SET.FINE.json expected")
    result: dict[str, Any] = {}
    for fine in ("bundle", "paper"):
        names = [name for name, pass_ in told if pass_ == fine]
        for name in names:
            about = json.loads((options.output / f"{name}.{fine}.json").read_text())
            result[f"{name}, {fine}: coarse everywhere"] = about["rivals"]
            _print_rivals(f"{name}, {fine}", about["rivals"])
        for factor in FACTORS:
            stored = {name: Stored.load(options.output / f"{name}.{fine}.{factor}.npz") for name in names}
            result[f"{fine}, factor {factor}"] = rows = _rows(stored)
            _print_rows(f"{fine}, factor {factor}", rows)
    (options.output / "tables.json").write_text(json.dumps(result, indent=1))
    return 0


def _rows(stored: dict[str, Stored]) -> list[dict[str, Any]]:
    """One row for each set, rate and coarse score; `transferred` by the set on which the margin was fixed."""
    rows = []
    for number, fpr in enumerate(FPRS):
        scores = {name: _scores(stored, name, number, fpr) for name in stored}
        for name, one in stored.items():
            for predictor, score in scores[name].items():
                fixed = {f"{allowed:g}": score.speed_up(score.margin(allowed)) for allowed in ALLOWED}
                fixed["defects"] = score.speed_up(score.defect_margin())
                others = {
                    other: _transferred(scores[other][predictor], score)
                    for other in stored
                    if not _same_web(other, name) and predictor in scores[other]
                }
                rows.append({
                    "set": name, "fpr": fpr, "score": predictor, "regions": len(score.regions),
                    "all_coarse": (score.coarse + len(score.patches)) / score.coarse, "oracle": one.oracle(number),
                    "speed_up": fixed, "transferred": others,
                })  # fmt: skip
    return rows


def _scores(stored: dict[str, Stored], name: str, number: int, fpr: float) -> dict[str, Score]:
    one = stored[name]
    scores = {predictor: one.score(predictor, number, fpr) for predictor in one.names}
    teachers = [other for key, other in stored.items() if not _same_web(key, name)]
    if teachers:
        scores[LEARNED] = learned(teachers, one, number, fpr)
    return scores


def _same_web(one: str, other: str) -> bool:
    """Sets named SET and SET_… are the same images, scored otherwise."""
    return one.partition("_")[0] == other.partition("_")[0]


def _transferred(fixed_on: Score, used_on: Score) -> dict[str, list[float]]:
    """Missed share and speed-up with the margin that misses nothing where it was fixed, carried over in two ways."""
    margin = fixed_on.margin(0.0)
    by_share = used_on.from_share(min(fixed_on.as_share(margin), 1.0))
    by_height = used_on.from_height(fixed_on.as_height(margin))
    return {
        "share": [used_on.missed(by_share), used_on.speed_up(by_share)],
        "height": [used_on.missed(by_height), used_on.speed_up(by_height)],
    }


def _print_rivals(title: str, rivals: dict[str, Any]) -> None:
    print(f"\n### {title}: one pass\n")
    print("| pass | AUROC | PRO | " + " | ".join(f"defects, fine regions missed at {100 * f:g} %" for f in FPRS) + " |")
    print("|---" * (3 + len(FPRS)) + "|")
    for name, one in rivals.items():
        cells = [
            f"{r['found']} of {r['defects']}, {r['fine_regions_missed']} of {r['fine_regions']}" for r in one["at_fpr"]
        ]
        print(f"| {name} | {one['auroc']:.4f} | {one['pro']:.4f} | " + " | ".join(cells) + " |")


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n### {title}\n")
    head = ["set", "FPR", "regions", "coarse alone", "oracle", "score"]
    print("| " + " | ".join([*head, "none missed", "1 %", "5 %", "none on a defect", "margin of others"]) + " |")
    print("|---" * 11 + "|")
    for row in rows:
        place = [row["set"], f"{100 * row['fpr']:g} %", str(row["regions"])]
        speeds = [row["all_coarse"], row["oracle"], *row["speed_up"].values()]
        cells = [f"{value:.2f}" for value in speeds]
        others = [f"{name} {_told(by['height'])} ({_told(by['share'])})" for name, by in row["transferred"].items()]
        print("| " + " | ".join([*place, *cells[:2], row["score"], *cells[2:], "; ".join(others)]) + " |")


def _told(missed_and_speed_up: list[float]) -> str:
    missed, speed_up = missed_and_speed_up
    return f"{100 * missed:.1f} % {speed_up:.2f}×"


if __name__ == "__main__":
    raise SystemExit(main())
