"""linescan calibrate: threshold and column calibration from good footage of one camera."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from linescan.cli.common import add_execution_arguments, add_model_arguments, closed
from linescan.errors import ConfigError, FootageError, InputError
from linescan.flatfield_file import StoredFlatField, load_flatfield
from linescan.footage import Footage, open_footage
from linescan.inspection.lines import Pixels
from linescan.messages import Gap
from linescan.models.runner import Runner, choose_execution
from linescan.pixels import format_of
from linescan.recipe import check_footage, load_setup, save_calibration
from linescan.training.calibrate import FalseAlarms, choose_threshold, column_calibration, good_scores
from linescan.training.produce import write_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="good footage of this camera")
    parser.add_argument("--output", required=True, type=Path, metavar="R.toml", help="the recipe to write")
    parser.add_argument("--separate", action="store_true", help="each image is a roll of its own")
    parser.add_argument("--no-columns", action="store_true", help="the threshold only, no column calibration")
    parser.add_argument("--false-alarms", type=float, default=0.1, metavar="R", help="wanted per m², or per megapixel")
    parser.add_argument("--pixel-size-mm", type=float, metavar="MM", help="makes the rate one per m²")
    parser.add_argument("--flatfield", type=Path, metavar="F.npz", help="the camera's, where line.toml names one")
    add_model_arguments(parser, makes_recipe=True)
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    asked = FalseAlarms(args.false_alarms, args.pixel_size_mm)
    if not args.output.parent.is_dir():
        raise ConfigError(f"--output {args.output}: the folder {args.output.parent} does not exist")
    gaps: list[Gap] = []
    with open_footage(args.images) as footage:
        bounds = closed(args.columns, footage.columns)
        flatfield = load_flatfield(args.flatfield) if args.flatfield else None
        setup = load_setup(args.model, stride=args.stride, columns=bounds)
        check_footage(setup, footage.columns, footage.channels)
        bundle = setup.bundle
        runner = Runner(bundle, choose_execution(bundle, args.device, args.precision, args.batch, args.threads))
        rolls = [[pixels] for pixels in _lines(footage, flatfield)] if args.separate else [_lines(footage, flatfield)]
        maps = good_scores(rolls, setup.settings, runner, footage.bit_depth, runner.device, on_gap=gaps.append)
    _say(gaps, sum(map(len, maps)) * setup.settings.scale)
    calibration = None if args.no_columns else column_calibration(maps)
    if calibration is not None:
        maps = [calibration.apply(torch.from_numpy(score)).numpy() for score in maps]
    threshold, basis = choose_threshold(maps, setup.settings.scale, asked)
    columns_file = None
    if (
        calibration is not None
    ):  # beside its threshold: what was there before is left as it was where that took too long
        columns_file = args.output.with_suffix(".columns.npz")
        save_calibration(columns_file, calibration, bundle.sha256, sum(map(len, maps)))
    write_recipe(args.output, bundle, threshold, columns_file, setup.settings)
    note = " (extrapolated: this much good web cannot show so low a rate)" if basis.extrapolated else ""
    print(
        f"threshold {threshold:.4f} for {basis.false_alarms:g} per {basis.per} on {basis.calibration_megapixels} "
        f"megapixels{note}"
    )
    print(f"written: {args.output}" + (f", {columns_file}" if columns_file else ""))
    return 0


def _say(gaps: list[Gap], inspected: int) -> None:
    """What was left out; raises InputError where it is most of it."""
    left_out = sum(gap.last_line - gap.first_line + 1 for gap in gaps)
    if not left_out:
        return
    causes = ", ".join(sorted({gap.cause for gap in gaps}))
    said = f"{left_out} of {left_out + inspected} lines of the good footage could not be inspected ({causes})"
    if left_out > inspected:
        raise InputError(f"{said}: it is no good web, or not this bundle's")
    print(f"{said}; the rest is what the recipe rests on")


def _lines(footage: Footage, flatfield: StoredFlatField | None) -> Iterator[Pixels]:
    field = None
    if flatfield is not None:
        flatfield.check(footage.path, None, footage.columns, format_of(footage.channels, footage.bit_depth))
        field = flatfield.field()
    for frame in footage:
        if frame.pixels is None:
            raise FootageError(f"{frame.name} {frame.error}: good web to calibrate on must be readable")
        yield frame.pixels if field is None else field.correct(frame.pixels)
