"""linescan info: what a bundle is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from linescan.models.bundle import load_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
