"""linescan operate: what an operator does at the rejects of a running line."""

from __future__ import annotations

import argparse

from linescan.cli.control import ask
from linescan.cli.stage import add_line_argument
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Done, Order

ACTIONS = {
    "status": "faults, the tie of the counters, what the PLC says, and how far each gate may pass",
    "bypass-on": "threading: defects are not rejected until bypass-off, and every status says so",
    "bypass-off": "rejects again",
    "splice": "marks a splice at the web's present position",
    "test-reject": "opens the gate of --lane (or all) once, to see that it works",
    "acknowledge": "faults were seen: late rejects, gates that did not answer, counters that did not agree",
    "verdict": "what the event numbered --event was in truth, for training: --defect or --false-alarm",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {name:<12} {what}" for name, what in ACTIONS.items())
    parser.add_argument("action", choices=tuple(ACTIONS), metavar="ACTION", help="one of those below")
    add_line_argument(parser)
    parser.add_argument("--lane", default="", metavar="NAME", help="one lane (default: all)")
    parser.add_argument("--event", type=int, metavar="SEQ", help="the event's number, as `linescan events` prints it")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--defect", dest="verdict", action="store_const", const="defect")
    verdict.add_argument("--false-alarm", dest="verdict", action="store_const", const="false-alarm")
    parser.add_argument("--note", default="", metavar="TEXT", help="a few words for the book")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    text, about = args.note, ""
    if args.action == "verdict":
        if args.event is None or args.verdict is None:
            raise ConfigError("verdict needs --event SEQ and --defect or --false-alarm")
        about, text = str(args.event), f"{args.verdict}: {args.note}" if args.note else args.verdict
    elif args.event is not None or args.verdict is not None:
        raise ConfigError(f"--event, --defect and --false-alarm go with verdict, not with {args.action}")
    answer = ask(Line(args.config), Order(args.action, args.lane, about, text))
    if not isinstance(answer, Done):
        raise PeerError(f"the publisher answered with a {type(answer).__name__}")
    print(answer.text)
    return 0
