"""linescan bench: what the machine at hand does with a bundle, or with --live as a line."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from linescan.bench.ceilings import measure_ceilings
from linescan.bench.compare import compare
from linescan.bench.machine import machine
from linescan.bench.report import of_ceilings, of_end_to_end, of_rivals, of_steps
from linescan.bench.steps import measure_steps
from linescan.bench.web import Web
from linescan.bench.whole import bare_table, end_to_end, peak_memory
from linescan.cli.common import add_execution_arguments, add_model_arguments
from linescan.errors import ConfigError
from linescan.files import write_atomically
from linescan.models.processor import has_bfloat16
from linescan.models.runner import Execution, Precision, available_threads, choose_execution
from linescan.recipe import Setup, load_setup, patches_a_row

PAPER_STRIDE = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_model_arguments(parser)
    add_execution_arguments(parser)
    parser.add_argument("--width", type=int, default=2048, metavar="W", help="columns of the web (default: 2048)")
    parser.add_argument("--lines", type=int, default=2048, metavar="N", help="lines of the web (default: 2048)")
    parser.add_argument("--frame-lines", type=int, default=256, metavar="N", help="lines of a frame (default: 256)")
    parser.add_argument(
        "--defects", type=float, default=1.0, metavar="PERCENT", help="how much of the web is defect (default: about 1)"
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="PATH",
        help="8-bit footage to measure with, instead of the bundle's reference patch with defects",
    )  # fmt: skip
    parser.add_argument("--no-compare", action="store_true", help="without what one would take instead of linescan")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--memory", action="store_true", help="only the peak memory over a roll of --lines lines")
    kind.add_argument(
        "--scaling", type=Path, metavar="DIR", help="only how speed and memory scale; plots and figures go to DIR"
    )
    kind.add_argument("--live", action="store_true", help="only the line: transport, full speed, memory over time")
    kind.add_argument("--all", action="store_true", help="the inspection first, then the line")
    parser.add_argument("--simulator", type=Path, metavar="CTI", help="with --live or --all: the simulated camera")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="N", help="with --live or --all: of full speed (default: 20)"
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, metavar="N", help="with --live or --all: of memory over time (default: 2)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    _check(args)
    figures: dict[str, Any] = {"machine": machine()}
    setup = None
    if not args.live or args.model is not None or args.recipe is not None:
        setup = load_setup(args.model, args.recipe, stride=args.stride, threshold=args.threshold)
    print("  ".join(f"{key} {value}" for key, value in figures["machine"].items()), flush=True)
    if setup is not None and not args.live:
        figures |= _inspection(args, setup)
    if args.live or args.all:
        from linescan.live_bench.report import live

        figures |= live(setup, args.simulator, args.seconds, args.minutes)
    if args.json is not None:
        write_atomically(args.json, json.dumps(figures, indent=1).encode())
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("width", "lines", "frame_lines"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1 expected")
    if not 0 < args.defects <= 10:
        raise ConfigError(f"--defects {args.defects:g}: more than 0 and at most 10 percent expected")
    if not (0 < args.seconds <= 3600 and 0 < args.minutes <= 60):
        raise ConfigError(f"--seconds {args.seconds:g} --minutes {args.minutes:g}: up to 3600 s and 60 min expected")


def _inspection(args: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    chosen = choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads)
    asked = Web(args.width, args.lines, args.frame_lines, args.defects, tuple(map(str, args.images or ())))
    if asked.images:
        next(asked.frames(setup.bundle))  # what cannot be read is said at once
    if args.memory:
        return _memory(setup, chosen, asked)
    if args.scaling is not None:
        from linescan.bench.scaling import scaling

        return scaling(setup, chosen, args.scaling)
    return _speed(args, setup, chosen, asked)


def _memory(setup: Setup, chosen: Execution, asked: Web) -> dict[str, Any]:
    memory = peak_memory(setup, chosen, asked)
    print(
        f"{asked.lines} lines of {asked.columns} columns: peak {memory['peak_mib']} MiB, "
        f"{memory['loaded_mib']} MiB with the model loaded"
    )
    return {"execution": chosen.as_dict(), "memory": memory}


def _speed(args: argparse.Namespace, setup: Setup, chosen: Execution, asked: Web) -> dict[str, Any]:
    precisions: list[Precision] = ["float32", "bfloat16"] if has_bfloat16() else ["float32"]
    bare = bare_table(setup, chosen.device, sorted({1, available_threads()}), precisions)
    for name, rate in bare.items():
        print(f"bare forward, {name}: {rate:.0f} patches/s", flush=True)
    alone = replace(chosen, threads=1)  # as the steps are measured
    ceilings = measure_ceilings(alone)
    print(of_ceilings(ceilings, alone), flush=True)
    figures: dict[str, Any] = {
        "execution": chosen.as_dict(), "bare_patches_per_second": bare,
        "ceilings": {"threads": alone.threads, **vars(ceilings)},
        "web": vars(asked), "end_to_end": [], "steps": {}, "compared": [],
    }  # fmt: skip
    own, patch_size = setup.settings.stride, setup.settings.patch_size
    strides = [own] if args.stride or patch_size < PAPER_STRIDE else sorted({PAPER_STRIDE, own})
    for stride in strides:
        a_row = patches_a_row(setup.settings.model_copy(update={"stride": stride, "columns": None}), args.width)
        chosen = choose_execution(
            setup.bundle, chosen.device, chosen.precision, args.batch, chosen.threads, patches_a_row=a_row
        )
        result = end_to_end(setup, chosen, stride, asked)
        figures["end_to_end"].append({**vars(result), "execution": chosen.as_dict()})
        print(of_end_to_end(result, chosen), flush=True)
        if chosen.device != "cuda":
            steps = measure_steps(setup, chosen, stride, asked, ceilings)
            figures["steps"][str(stride)] = [vars(step) for step in steps]
            print(of_steps(stride, steps), flush=True)
        if not args.no_compare:
            rivals = compare(setup, chosen, stride, asked, others=stride == strides[-1])
            figures["compared"] += [vars(rival) for rival in rivals]
            print(of_rivals(rivals), flush=True)
    return figures
