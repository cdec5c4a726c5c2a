"""linescan roll: begins and ends rolls on a running line, and says which one runs."""

from __future__ import annotations

import argparse
import time

from linescan.cli.stage import add_line_argument, network_of
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Message, Preparing, Refused, RollCommand, RollState
from linescan.transport import Client, Network

PATIENCE_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "end", "status"))
    add_line_argument(parser)
    parser.add_argument("--id", default="", metavar="NAME", help="of the roll (default: numbered by the journal)")
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="of the roll to start: a file NAME.toml beside the line's own recipe (default: that one)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.recipe and args.action != "start":
        raise ConfigError(f"--recipe {args.recipe} goes with start alone: a roll keeps the recipe it began with")
    line = Line(args.config)
    with network_of(line) as network:
        link = network.client(line.control_endpoint)
        link.send(RollCommand(args.action, args.id, args.recipe))
        answer = _answer(network, link, line.control_endpoint)
    if isinstance(answer, Refused):
        raise ConfigError(answer.reason)
    assert isinstance(answer, RollState)
    if args.action == "end":
        print("ended; no roll is running")
        return 0
    print(f"roll {answer.roll}, recipe {answer.recipe}" if answer.roll else "no roll is running")
    for camera, line_number in zip(answer.cameras, answer.inspected_up_to, strict=True):
        print(f"  {camera}: inspected up to line {line_number}")
    return 0


def _answer(network: Network, link: Client, endpoint: str) -> Message:
    """The publisher's; while a recipe is being prepared it says so again and again, and so do we once."""
    said, end = "", time.monotonic() + PATIENCE_S
    while True:
        received = link.receive()
        if received is None:
            if time.monotonic() > end:
                raise PeerError(f"{endpoint}: no publisher answers")
            network.wait((link,), 0.1)
        elif isinstance(received.message, Preparing):
            text = f"preparing recipe {received.message.recipe} for {', '.join(received.message.cameras)} …"
            if text != said:
                print(text, flush=True)
            said, end = text, time.monotonic() + PATIENCE_S
        else:
            return received.message
