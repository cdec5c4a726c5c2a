"""linescan keys: makes the CURVE keys that TCP beyond loopback needs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="for transport.keys in line.toml")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from linescan.transport.keys import make_keys

    for path in make_keys(args.folder):
        print(f"written: {path}")
    print(f"a further client: put its public key into {args.folder / 'allowed'}")
    return 0
