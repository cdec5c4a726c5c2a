"""linescan run: the stages of a line as processes, started, watched and stopped in order."""

from __future__ import annotations

import argparse

from linescan import log
from linescan.cli.stage import add_line_argument
from linescan.line import Line
from linescan.supervisor import run_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    log.configure("run")
    return run_line(Line(args.config))
