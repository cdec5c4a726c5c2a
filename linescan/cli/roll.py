"""linescan roll: begins and ends rolls on a running line, and says which one runs."""

from __future__ import annotations

import argparse
import time

from linescan.cli.stage import add_line_argument, network_of
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Refused, RollCommand, RollState

PATIENCE_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "end", "status"))
    add_line_argument(parser)
    parser.add_argument("--id", default="", metavar="NAME", help="of the roll (default: numbered by the journal)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    line = Line(args.config)
    with network_of(line) as network:
        link = network.client(line.control_endpoint)
        link.send(RollCommand(args.action, args.id, ""))
        end = time.monotonic() + PATIENCE_S
        while (received := link.receive()) is None:
            if time.monotonic() > end:
                raise PeerError(f"{line.control_endpoint}: no publisher answers")
            network.wait((link,), 0.1)
    answer = received.message
    if isinstance(answer, Refused):
        raise ConfigError(answer.reason)
    assert isinstance(answer, RollState)
    print(f"roll {answer.roll}, recipe {answer.recipe}" if answer.roll else "no roll is running")
    for camera, line_number in zip(answer.cameras, answer.inspected_up_to, strict=True):
        print(f"  {camera}: inspected up to line {line_number}")
    return 0
