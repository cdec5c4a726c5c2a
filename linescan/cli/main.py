"""linescan: the commands of a line, dispatched."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from linescan import __version__
from linescan.cli import bench, calibrate, check, evaluate, info, train
from linescan.cli.common import guarded

COMMANDS = (train, evaluate, calibrate, check, info, bench)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="linescan", description=__doc__)
    parser.add_argument("--version", action="version", version=f"linescan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(argv)
    return guarded(f"linescan {args.command}", lambda: int(args.run(args)))


if __name__ == "__main__":
    sys.exit(main())
