"""linescan run: the stages of a line as processes, started, watched and stopped in order."""

from __future__ import annotations

import argparse

from linescan import log
from linescan.cli.stage import add_line_argument
from linescan.line import Line
from linescan.supervisor import Supervisor, stage_commands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.add_argument(
        "--without-cameras", action="store_true", help="start no acquire: footage is played in by linescan-replay"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    log.configure("run")
    commands = stage_commands(Line(args.config))
    if args.without_cameras:
        commands = [command for command in commands if not command.name.startswith("acquire")]
    return Supervisor(commands).run()
