"""linescan events: subscribes to a line and prints what it finds."""

from __future__ import annotations

import argparse
import json

from linescan.cli.describe import describe
from linescan.cli.silence import Silence
from linescan.cli.stage import add_line_argument, stopped_by_signal
from linescan.codec import to_dict
from linescan.errors import PeerError
from linescan.line import Line
from linescan.messages import RollEnd, Status
from linescan.subscriber import Event, subscribe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.add_argument("--since", type=int, metavar="SEQ", help="those after that number too (0: all in the journal)")
    parser.add_argument("--json", action="store_true", help="one object a line, every phase")
    parser.add_argument("--until-roll-end", action="store_true", help="stop after the next end of a roll")
    parser.add_argument("--patience", type=float, metavar="S", help="give up where the line is silent so long")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    silent_s = 0.0
    heard = False

    def hear(_status: Status) -> None:
        nonlocal heard
        heard = True

    endpoint = Line(args.config).events_endpoint
    silence = Silence(f"nobody answers at {endpoint}; waiting (is the line running?)", f"{endpoint} answers")
    with stopped_by_signal() as stop, subscribe(args.config, args.since, on_status=hear) as events:
        while not stop.is_set():
            came = events.take()
            for event in came:
                _print(event, args.json)
                if args.until_roll_end and isinstance(event.message, RollEnd):
                    return 0
            silence.look(heard=bool(came) or heard)
            silent_s = 0.0 if came or heard else silent_s + 0.2
            heard = False
            if args.patience is not None and silent_s > args.patience:
                raise PeerError(f"{args.config}: nothing heard from the line for {args.patience:g} s")
    return 0


def _print(event: Event, as_json: bool) -> None:
    if as_json:
        about = {"sequence": event.sequence, "run": event.run, "utc_ns": event.utc_ns, "replayed": event.replayed}
        print(json.dumps({**to_dict(event.message), **about}), flush=True)
        return
    text = describe(event.message)
    if text is not None:
        number = "  (not stored)" if event.sequence is None else f"{event.sequence:>6}"
        print(f"{number}  {text}{'  (replayed)' if event.replayed else ''}", flush=True)
