"""linescan-replay: inspects recorded footage and writes what it found."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from linescan.cli.common import (
    INTERRUPTED,
    Help,
    add_execution_arguments,
    add_model_arguments,
    closed,
    guarded,
    mute,
    stopped_by_interrupt,
)
from linescan.cli.describe import describe
from linescan.config import Geometry
from linescan.errors import ConfigError
from linescan.flatfield_file import load_flatfield
from linescan.footage import open_footage
from linescan.line import Line
from linescan.messages import Gap, Message, Region
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import load_setup, patches_a_row
from linescan.replay import Replay, RollResult
from linescan.replay.session import ReplayOptions


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return guarded("linescan-replay", lambda: run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linescan-replay", description="Inspect recorded footage.", formatter_class=Help
    )
    parser.add_argument(
        "footage", nargs="+", metavar="FOOTAGE", help="a folder or glob of images, a video, a TIFF stack, an MCAP file"
    )
    add_model_arguments(parser)
    add_execution_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write events.jsonl and web.png there")
    parser.add_argument("--residuals", action="store_true", help="also write residual.tiff, float32, every line")
    parser.add_argument("--separate", action="store_true", help="each image is a roll of its own")
    parser.add_argument("--speed", default="max", metavar="N|max", help="lines per second (default: max)")
    parser.add_argument("--camera", metavar="NAME", help="which camera of an MCAP recording, or of the line")
    parser.add_argument("--bit-depth", type=int, choices=(10, 12, 16), help="of 16-bit images (default: 16)")
    parser.add_argument(
        "--config", type=Path, metavar="line.toml", help="play the footage into that running line, as its camera"
    )
    parser.add_argument(
        "--line",
        type=Path,
        metavar="line.toml",
        help="where the camera lies on the web: for a recipe with mm, mm in events",
    )
    parser.add_argument("--flatfield", type=Path, metavar="F.npz", help="as the line had it when this was recorded")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no events, only the summary")
    return parser


def run(args: argparse.Namespace) -> int:
    speed = _speed(args.speed)
    if args.config is not None:
        return _play(args, speed)
    if args.residuals and args.output is None:
        raise ConfigError("--residuals needs --output DIR to write to")
    with open_footage(args.footage, bit_depth=args.bit_depth, camera=args.camera) as footage:
        setup = load_setup(
            args.model,
            args.recipe,
            stride=args.stride,
            threshold=args.threshold,
            columns=closed(args.columns, footage.columns),
            flatfield=load_flatfield(args.flatfield) if args.flatfield else None,
            geometry=_geometry(args.line, args.camera or footage.camera) if args.line else None,
        )
        a_row = patches_a_row(setup.settings, footage.columns)
        runner = Runner(
            setup.bundle, choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads, a_row)
        )
        options = ReplayOptions(args.output, args.residuals, args.separate, speed, roll=_roll_name(args.footage))
        start = time.perf_counter()
        with (
            stopped_by_interrupt() as stop,
            tqdm(total=footage.total_lines, unit="line", unit_scale=True, disable=args.quiet or None) as bar,
        ):
            told = (lambda _message: None) if args.quiet else _print_event
            results = Replay(setup, runner, options, told, bar.update, _print_note, stop).run(footage)
        if stop.is_set():
            print("interrupted: what follows is what was read until then")
        _print_summary(results, footage.columns, time.perf_counter() - start, args.output)
    return INTERRUPTED if stop.is_set() else 0


def _play(args: argparse.Namespace, speed: float) -> int:
    from linescan.cli.play import play

    names = ("model", "recipe", "stride", "threshold", "columns", "output", "flatfield", "line")
    given = [name for name in names if getattr(args, name)]
    if given:
        raise ConfigError(f"--{given[0]} cannot go with --config: the line has its own recipe and journal")
    with (
        open_footage(args.footage, bit_depth=args.bit_depth) as footage,
        stopped_by_interrupt() as stop,
        tqdm(total=footage.total_lines, unit="line", unit_scale=True, disable=args.quiet or None) as bar,
    ):
        lines = play(args, footage, _roll_name(args.footage), speed, stop, bar.update)
    print(f"{lines} lines played; `linescan events --config {args.config} --since 0` prints what was found")
    return INTERRUPTED if stop.is_set() else 0


def _geometry(path: Path, camera: str | None) -> Geometry:
    """Of the line's only camera, or the one of that name."""
    line = Line(path)
    return line.geometry(line.camera(None if len(line.settings.cameras) == 1 else camera).name)


def _speed(text: str) -> float:
    if text == "max":
        return 0.0
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 < speed < math.inf:
        raise ConfigError(f"--speed {text}: lines per second above 0, or max, expected")
    return speed


def _roll_name(paths: Sequence[str]) -> str:
    return Path(paths[0]).stem if len(paths) == 1 else "roll"


def _print_event(message: Message) -> None:
    text = describe(message)
    if text is not None and isinstance(message, Gap | Region):
        _say(text)


def _say(text: str) -> None:
    """A line on stdout; the inspection goes on where nobody reads it any more."""
    try:
        tqdm.write(text, file=sys.stdout)
    except BrokenPipeError:
        mute()


def _print_note(note: str) -> None:
    tqdm.write(f"note: {note}", file=sys.stderr)


def _print_summary(results: Sequence[RollResult], columns: int, seconds: float, output: Path | None) -> None:
    lines = sum(result.end.lines for result in results)
    inspected = sum(result.end.lines_inspected for result in results)
    in_gaps = sum(result.end.lines_in_gaps for result in results)
    regions = sum(result.regions for result in results)
    rolls = f"{len(results)} rolls, " if len(results) != 1 else ""
    print(f"{rolls}{lines} lines = {inspected} inspected + {in_gaps} in gaps; {regions} defects")
    print(f"{seconds:.1f} s, {lines * columns / 1e6 / max(seconds, 1e-9):.2f} MPix/s")
    if output is not None:
        print(f"written: {output}")


if __name__ == "__main__":
    sys.exit(main())
