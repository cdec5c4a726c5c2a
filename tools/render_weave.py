"""Render footage of a woven web with planted defects; the same arguments always give the same files.

    python tools/render_weave.py --preset demo --output tools/demo/plain
    python tools/render_weave.py --preset train --weave twill --output tools/demo/train-twill

DIR/NNNN.png are the frames of one roll. Where the preset has defects, DIR/masks/NNNN.png marks their pixels and
DIR/defects.json lists them. DIR/README.txt states seed and parameters.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weave import recording
from weave.presets import PRESETS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=["train", "demo", "tests"], required=True)
    parser.add_argument("--weave", choices=["plain", "twill"], default="plain", help="default: plain")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="made where it is missing")
    parser.add_argument("--seed", type=int, help="another roll of the same product")
    parser.add_argument("--columns", type=int, help="another width; defects outside are left out")
    parser.add_argument("--lines", type=int, help="another length; defects outside are left out")
    options = parser.parse_args(arguments)
    asked: dict[str, int | None] = {"seed": options.seed, "columns": options.columns, "lines": options.lines}
    changes = {name: value for name, value in asked.items() if value is not None}
    if any(value < 1 for value in changes.values()):
        parser.error("seed, columns and lines are at least 1")
    preset = PRESETS[options.weave, options.preset]
    preset = replace(
        preset,
        seed=changes.get("seed", preset.seed),
        columns=changes.get("columns", preset.columns),
        lines=changes.get("lines", preset.lines),
    )
    recording.write(preset, options.output, _command(options.weave, options.preset, changes))
    return 0


def _command(weave: str, preset: str, changes: dict[str, int]) -> str:
    """The command that renders this again, whatever directory it was written to."""
    words = ["python", "tools/render_weave.py", "--preset", preset, "--weave", weave]
    for name, value in changes.items():
        words += [f"--{name}", str(value)]
    return shlex.join(words) + " --output DIR"


if __name__ == "__main__":
    sys.exit(main())
