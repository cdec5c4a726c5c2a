"""CURVE keys: made with mode 0600, read from a folder or from systemd's credentials."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import zmq.auth

from linescan.errors import ConfigError
from linescan.files import find_secret, make_folder

ALLOWED = "allowed"


@dataclass(frozen=True)
class Keys:
    """Key pairs of the servers and of this client, and the folder of client keys that servers let in."""

    server_public: bytes
    server_secret: bytes | None
    client_public: bytes
    client_secret: bytes
    allowed: Path


def make_keys(folder: Path) -> list[Path]:
    """Makes the pairs `server` and `client` in `folder` and lets the client in; raises ConfigError if there are any."""
    make_folder(folder / ALLOWED)
    existing = [path for path in folder.iterdir() if path.name.endswith((".key", ".key_secret"))]
    if existing:
        raise ConfigError(f"{existing[0]}: there is a key already; nothing was changed")
    before = os.umask(0o077)  # the library's own files would be readable for everybody
    try:
        made = [Path(path) for name in ("server", "client") for path in zmq.auth.create_certificates(folder, name)]
    finally:
        os.umask(before)
    allowed = folder / ALLOWED / "client.key"
    allowed.write_bytes((folder / "client.key").read_bytes())
    return [*made, allowed]


def load_keys(folder: Path) -> Keys:
    """Reads the keys; a secret in $CREDENTIALS_DIRECTORY goes before one in the folder; raises ConfigError."""
    server_public, _ = _load(folder / "server.key")
    secret = _secret(folder, "server")
    client_public, client_secret = _load(_required(folder, "client"))
    if client_secret is None:
        raise ConfigError(f"{folder / 'client.key_secret'}: holds no secret key")
    return Keys(
        server_public, _load(secret)[1] if secret is not None else None, client_public, client_secret, folder / ALLOWED
    )


def _required(folder: Path, name: str) -> Path:
    path = _secret(folder, name)
    if path is None:
        raise ConfigError(f"{folder / name}.key_secret: is missing; `linescan keys` makes keys")
    return path


def _secret(folder: Path, name: str) -> Path | None:
    return find_secret(folder / f"{name}.key_secret")


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a CURVE key: {error}") from error
    return public, secret
