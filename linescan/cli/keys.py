"""linescan keys: makes the CURVE keys that TCP beyond loopback needs, or key and certificate of the OPC UA server."""

from __future__ import annotations

import argparse
from pathlib import Path

from linescan.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="for transport.keys in line.toml")
    parser.add_argument(
        "--opcua", nargs="*", metavar="HOST", help="for opcua.certificates instead; other names of this machine"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.opcua is not None:
        return _make_certificate(args.folder, args.opcua)
    from linescan.transport.keys import make_keys

    for path in make_keys(args.folder):
        print(f"written: {path}")
    print(f"a further client: put its public key into {args.folder / 'allowed'}")
    return 0


def _make_certificate(folder: Path, hosts: list[str]) -> int:
    try:
        from linescan.stages.opcua_trust import OPERATORS, READERS, make_certificate
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("asyncua", "cryptography"):
            raise
        raise ConfigError("linescan keys --opcua needs asyncua: pip install 'linescan[opcua]'") from error
    for path in make_certificate(folder, hosts):
        print(f"written: {path}")
    print(
        f"clients: certificates of those that may read into {folder / READERS}, may command into {folder / OPERATORS}"
    )
    return 0
