"""linescan bench: what the machine at hand does with a bundle, or with --live as a line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from linescan.bench import bare_table, end_to_end, machine, peak_memory
from linescan.cli.common import add_execution_arguments, add_model_arguments
from linescan.errors import ConfigError
from linescan.files import write_atomically
from linescan.models.runner import Precision, available_threads, choose_execution, has_fast_bfloat16
from linescan.recipe import load_setup, patches_a_row

PAPER_STRIDE = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_model_arguments(parser)
    add_execution_arguments(parser)
    parser.add_argument("--width", type=int, default=2048, metavar="W", help="columns of the web (default: 2048)")
    parser.add_argument("--lines", type=int, default=2048, metavar="N", help="lines of the web (default: 2048)")
    parser.add_argument("--memory", action="store_true", help="only the peak memory over a roll of --lines lines")
    parser.add_argument("--live", action="store_true", help="the line instead: transport, full speed, memory over time")
    parser.add_argument("--simulator", type=Path, metavar="CTI", help="with --live: the simulated camera")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="N", help="with --live: of full speed (default: 20)"
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, metavar="N", help="with --live: of memory over time (default: 2)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    for name in ("width", "lines"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: at least 1 expected")
    if args.live:
        return run_live(args)
    setup = load_setup(args.model, args.recipe, stride=args.stride, threshold=args.threshold)
    chosen = choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads)
    figures: dict[str, Any] = {"machine": machine(), "execution": chosen.as_dict()}
    print("  ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    if args.memory:
        figures["memory"] = peak_memory(setup, chosen, args.width, args.lines)
        print(
            f"{args.lines} lines of {args.width} columns: peak {figures['memory']['peak_mib']} MiB, "
            f"{figures['memory']['loaded_mib']} MiB with the model loaded"
        )
    else:
        precisions: list[Precision] = ["float32", "bfloat16"] if has_fast_bfloat16() else ["float32"]
        threads = sorted({1, available_threads()})
        figures["bare_patches_per_second"] = bare_table(setup, chosen.device, threads, precisions)
        for name, rate in figures["bare_patches_per_second"].items():
            print(f"bare forward, {name}: {rate:.0f} patches/s")
        own, patch_size = setup.settings.stride, setup.settings.patch_size
        strides = [own] if args.stride or patch_size < PAPER_STRIDE else sorted({PAPER_STRIDE, own})
        figures["end_to_end"] = []
        for stride in strides:
            a_row = patches_a_row(setup.settings.model_copy(update={"stride": stride, "columns": None}), args.width)
            chosen = choose_execution(
                setup.bundle, chosen.device, chosen.precision, args.batch, chosen.threads, patches_a_row=a_row
            )
            result = end_to_end(setup, chosen, stride, args.width, args.lines)
            figures["end_to_end"].append(vars(result))
            print(
                f"end to end, stride {stride}, {chosen.precision}, batch {chosen.batch}: "
                f"{result.megapixels_per_second:.2f} MPix/s, {result.patches_per_second:.0f} patches/s = "
                f"{result.ratio:.2f} of the bare forward's {result.bare_patches_per_second:.0f} "
                f"(batch {result.bare_batch})"
            )
    _write(args.json, figures)
    return 0


def run_live(args: argparse.Namespace) -> int:
    from linescan.live_bench.report import live

    if not (0 < args.seconds <= 3600 and 0 < args.minutes <= 60):
        raise ConfigError(f"--seconds {args.seconds:g} --minutes {args.minutes:g}: up to 3600 s and 60 min expected")
    figures: dict[str, Any] = {"machine": machine()}
    print("  ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    setup = None
    if args.model is not None or args.recipe is not None:
        setup = load_setup(args.model, args.recipe, stride=args.stride, threshold=args.threshold)
    figures |= live(setup, args.simulator, args.seconds, args.minutes)
    _write(args.json, figures)
    return 0


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(path, json.dumps(figures, indent=1).encode())
