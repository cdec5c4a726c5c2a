"""linescan info: what a bundle is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from linescan.models.bundle import load_bundle

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("info", help="describe a model bundle")
    parser.set_defaults(run=run)
    parser.add_argument("model", type=Path, metavar="M.pt")


def run(args: argparse.Namespace) -> int:
    bundle = load_bundle(args.model)
    print(
        json.dumps(
            {"file": str(args.model), "sha256": bundle.sha256, **bundle.metadata.model_dump(mode="json")}, indent=1
        )
    )
    return 0
