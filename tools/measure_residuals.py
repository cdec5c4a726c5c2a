"""What other residuals would find with the same model: averaged residuals, ensembles of strides, windows, scales.

    python tools/measure_residuals.py SETS.toml [--only NAME] [--sigmas S …] [--limit N]

AUROC and PRO over all pixels of each set's images, for each σ (default: 0 and the bundle's). SETS.toml:
tools/overlap/sets.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from overlap.residuals import Judged, runner_of  # noqa: E402
from overlap.sets import load_sets  # noqa: E402

from linescan.cli.common import guarded  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", type=Path, metavar="SETS.toml")
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--sigmas", type=float, nargs="+", metavar="S")
    parser.add_argument("--limit", type=int, metavar="N", help="webs of each set; default: all")
    options = parser.parse_args(arguments)
    return guarded("measure_residuals", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    for webs in load_sets(options.sets, options.only):
        settings = webs.setup.settings
        judged = Judged(settings, options.sigmas or sorted({0.0, settings.smoothing_sigma}))
        runner = runner_of(webs)
        for web in islice(webs.scored(), options.limit):
            judged.add(web, runner)
        print(f"\n### {webs.name}\n\n{judged.table()}", flush=True)
        judged.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
