"""linescan check: whether bundle, recipe and calibration fit together, and the model sees its reference defect."""

from __future__ import annotations

import argparse
from pathlib import Path

from linescan.cli.common import add_execution_arguments, add_model_arguments
from linescan.config import Recipe, load_toml
from linescan.errors import ConfigError
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import load_setup, self_check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_model_arguments(parser)
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.columns is not None and args.columns[1] is None:
        raise ConfigError("--columns A:B needs both ends here: there is no footage to take the last column from")
    setup = load_setup(args.model, args.recipe, stride=args.stride, threshold=args.threshold, columns=args.columns)
    execution = choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads)
    self_check(setup, Runner(setup.bundle, execution))
    bundle = Path(setup.bundle.path)
    product = load_toml(args.recipe, Recipe) if args.recipe else None
    pinned = "pinned" if product and product.model.sha256 else f"not pinned; its sha256 is {setup.bundle.sha256}"
    print(f"{bundle}: sound, {pinned}; it finds the defect of its reference patch")
    print(f"runs on {execution.device} in {execution.precision}, {execution.batch} patches a forward")
    return 0
