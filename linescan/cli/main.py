"""linescan: the commands of a line, dispatched; each loads only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from linescan import __version__
from linescan.cli.common import Help, guarded

# command → its module and what it does
COMMANDS = {
    "train": ("train", "trains a model bundle on images of good web, and calibrates its threshold"),
    "evaluate": ("evaluate", "measures a bundle on images with defect masks"),
    "calibrate": ("calibrate", "makes a recipe: threshold and column calibration from good footage"),
    "calibrate flatfield": ("flatfield", "makes a camera's flat-field from dark and white footage"),
    "quantise": ("quantise", "measures with which ranges a bundle runs in int8 (OpenVINO)"),
    "check": ("check", "validates a bundle, a recipe or a line"),
    "info": ("info", "describes a bundle"),
    "bench": ("bench", "measures what this machine does with a bundle"),
    "run": ("run", "a whole line, supervised, for a desk or a demo"),
    "acquire": ("stage", "one stage of a line: a camera's lines to its worker"),
    "worker": ("stage", "one stage of a line: a camera's frames through the engine"),
    "publisher": ("stage", "one stage of a line: what is found into the journal and to the world"),
    "record": ("record", "records a camera's frames beside its worker"),
    "opcua": ("opcua", "serves the line's state and events to plant IT: OPC UA"),
    "mqtt": ("mqtt", "tells the line's events and states to plant IT: MQTT"),
    "events": ("events", "prints the events of a running line, each once and in order"),
    "roll": ("roll", "begins or ends a roll on a running line, or says which one runs"),
    "rejects": ("rejects", "which rejects a line would have sent for a recording, and when"),
    "operate": ("operate", "bypass, splice marks, test rejects, acknowledgements and verdicts on a running line"),
    "keys": ("keys", "makes keys for TCP endpoints"),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _joined(sys.argv[1:] if argv is None else list(argv))
    asked = next((argument for argument in arguments if argument in COMMANDS), None)
    return guarded(f"linescan {asked}", lambda: _run(arguments, asked))


def _joined(arguments: list[str]) -> list[str]:
    """The arguments, a command of two words as one."""
    two = " ".join(arguments[:2])
    return [two, *arguments[2:]] if two in COMMANDS else arguments


def _run(arguments: Sequence[str], asked: str | None) -> int:
    parser = argparse.ArgumentParser(prog="linescan", description=__doc__)
    parser.add_argument("--version", action="version", version=f"linescan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=Help)
        if name == asked:
            import_module(f"linescan.cli.{module}").add_arguments(command)
    args = parser.parse_args(arguments)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
