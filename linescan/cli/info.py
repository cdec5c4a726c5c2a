"""linescan info: what a bundle is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from linescan.models.bundle import load_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    bundle = parser.add_mutually_exclusive_group(required=True)
    bundle.add_argument("model", type=Path, nargs="?", metavar="M.pt", help="the model bundle")
    bundle.add_argument("--model", type=Path, dest="named", metavar="M.pt", help="the same, as other commands have it")


def run(args: argparse.Namespace) -> int:
    path = args.model or args.named
    bundle = load_bundle(path)
    about = {"file": str(path), "sha256": bundle.sha256, **bundle.metadata.model_dump(mode="json")}
    print(json.dumps(about, indent=1))
    return 0
