"""linescan check: whether a line, its recipe, bundle and calibration fit together, and the model sees its defect."""

from __future__ import annotations

import argparse
from pathlib import Path

from linescan.cameras.layout import PACKED
from linescan.cli.check_distances import check_distances
from linescan.cli.check_recipes import check_others, load_recipe
from linescan.cli.common import add_execution_arguments, add_model_arguments
from linescan.config import Recipe, load_toml
from linescan.errors import ConfigError
from linescan.flatfield_file import flatfield_of
from linescan.line import CameraSettings, Line
from linescan.models.runner import Execution, Runner, choose_execution, patches_per_second
from linescan.recipe import Setup, load_setup, patches_a_row, self_check
from linescan.transport.keys import load_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_model_arguments(parser)
    add_execution_arguments(parser)
    parser.add_argument("--config", type=Path, metavar="line.toml", help="a line, with the recipe that it names")


def run(args: argparse.Namespace) -> int:
    if args.config is not None:
        return _check_line(args)
    if args.columns is not None and args.columns[1] is None:
        raise ConfigError("--columns A:B needs both ends here: there is no footage to take the last column from")
    setup = load_setup(args.model, args.recipe, stride=args.stride, threshold=args.threshold, columns=args.columns)
    execution = choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads)
    self_check(setup, Runner(setup.bundle, execution))
    _report(args, setup, execution)
    return 0


def _check_line(args: argparse.Namespace) -> int:
    """Everything that a live stage would refuse, before it meets the line; the camera itself is not opened."""
    given = [name for name in ("model", "recipe", "stride", "threshold", "columns") if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"--{given[0]} cannot go with --config: the line names its recipe, and the recipe the rest")
    line = Line(args.config)
    for camera in line.settings.cameras:
        producer = line.file(camera.producer)
        if not producer.is_file():
            raise ConfigError(f"{args.config}: cameras.{camera.name}.producer: {producer} does not exist")
        _check_flatfield(line, camera)
    if line.settings.transport.keys is not None:
        load_keys(line.file(line.settings.transport.keys))
    asked = line.settings.worker
    setups = load_recipe(line, line.recipe)
    distances = check_distances(line, setups)
    setup = next(iter(setups.values()))
    execution = choose_execution(setup.bundle, asked.device, asked.precision, asked.batch, asked.threads)
    for one in setups.values():
        self_check(one, Runner(one.bundle, execution))
    args.recipe = line.recipe_file(line.recipe)
    _report(args, setup, execution)
    _check_speed(line, setup, patches_per_second(setup.bundle, execution))
    for said in (*distances, *check_others(line, execution)):
        print(said)
    return 0


def _check_flatfield(line: Line, camera: CameraSettings) -> None:
    """Raises ConfigError where the camera's flat-field is not of the camera as line.toml sets it."""
    flatfield = flatfield_of(line, camera.name)
    if flatfield is None:
        return
    width, pixel_format = (camera.features.get(name) for name in ("Width", "PixelFormat"))
    flatfield.check(
        f"camera {camera.name} in {line.path}",
        camera.serial,
        width if isinstance(width, int) else None,
        PACKED.get(pixel_format, pixel_format) if isinstance(pixel_format, str) else None,
    )
    print(f"{flatfield.path}: made {flatfield.about.made_utc}, {len(flatfield.dead)} dead columns")


def _check_speed(line: Line, setup: Setup, speed: float) -> None:
    """Compares the patches that the cameras ask for at their top speed with what the bare model does here."""
    settings = setup.settings
    for camera in line.settings.cameras:
        width = camera.features.get("Width")
        if not isinstance(width, int):
            print(f"{camera.name}: its width is not known here, so neither is whether this machine keeps up")
            continue
        needed = patches_a_row(settings, width) * camera.max_line_rate_hz / settings.scale / settings.stride
        share = needed * len(line.settings.cameras) / speed
        print(
            f"{camera.name}: {needed:.0f} patches/s at {camera.max_line_rate_hz:g} lines/s; with all cameras running "
            f"that is {share:.0%} of what the bare model does here"
        )
        if share > 1:
            print(f"{camera.name}: too slow: frames beyond transport.retain_mib would become gaps")


def _report(args: argparse.Namespace, setup: Setup, execution: Execution) -> None:
    bundle = Path(setup.bundle.path)
    product = load_toml(args.recipe, Recipe) if args.recipe else None
    pinned = "pinned" if product and product.model.sha256 else f"not pinned; its sha256 is {setup.bundle.sha256}"
    print(f"{bundle}: sound, {pinned}; it finds the defect of its reference patch")
    print(f"runs on {execution.device} in {execution.precision}, {execution.batch} patches a forward")
