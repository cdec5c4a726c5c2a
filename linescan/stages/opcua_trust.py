"""Certificates of the OPC UA server, and which clients it trusts.

A folder made by `linescan keys --opcua` holds `server.der` (for the clients to trust), its key `opcua.key_secret`
(PEM; a systemd credential of that name goes before it), and two folders of clients' certificates (.der or .pem):
`readers` may read and subscribe, `operators` may also call methods. They are looked at with every connection.
"""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import USER_TYPES, PermissionRuleset, User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from linescan.errors import ConfigError
from linescan.files import find_secret, make_folder

SERVER, KEY = "server.der", "opcua.key_secret"
READERS, OPERATORS = "readers", "operators"
VALID_DAYS = 10 * 365
KEY_BITS = 2048  # what Basic256Sha256 is sure to take
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


def make_certificate(folder: Path, hosts: Sequence[str] = ()) -> list[Path]:
    """Makes key and self-signed certificate for this machine and `hosts`; raises ConfigError if there are any."""
    for name in (READERS, OPERATORS):
        make_folder(folder / name)
    for path in (folder / KEY, folder / SERVER):
        if path.exists():
            raise ConfigError(f"{path}: is there already; nothing was changed")
    host = socket.gethostname()
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    made = self_signed(key, f"linescan on {host}", f"urn:{host}:linescan", [host, "localhost", *hosts])
    (folder / SERVER).write_bytes(made.public_bytes(DER))
    return [folder / KEY, folder / SERVER]


def self_signed(key: rsa.RSAPrivateKey, name: str, uri: str, hosts: Sequence[str]) -> x509.Certificate:
    """An application instance certificate as OPC 10000-6 §6.2.2 wants it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(True, True, True, True, False, True, False, False, False)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.UniformResourceIdentifier(uri), *(x509.DNSName(host) for host in dict.fromkeys(hosts))]
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks in a plant differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True)
class ServerIdentity:
    """The server's certificate and key, DER and PEM, and the application's URI that the certificate names."""

    certificate: bytes
    key: bytes
    uri: str


def load_identity(folder: Path) -> ServerIdentity:
    """Raises ConfigError for what is missing, no certificate, or no longer valid."""
    path = folder / SERVER
    certificate = _load(path)
    uris = _uris(certificate)
    if len(uris) != 1:
        raise ConfigError(f"{path}: names {len(uris)} application URIs, 1 expected")
    if not _valid_now(certificate):
        raise ConfigError(
            f"{path}: is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"
        )
    found = find_secret(folder / KEY)
    if found is None:
        raise ConfigError(f"{folder / KEY}: is missing; `linescan keys --opcua` makes it")
    try:
        key = serialization.load_pem_private_key(found.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{found}: not a private key: {error}") from error
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{found}: is not the key of {path}")
    return ServerIdentity(certificate.public_bytes(DER), found.read_bytes(), uris[0])


class Trust(UserManager):  # type: ignore[misc]
    """Who a client is, by the certificate of its channel; asked again whenever one connects.

    Without a folder everybody is a reader: there is no security then.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def role(self, certificate: bytes | None) -> UserRole | None:
        """None: not to be let in."""
        if self._folder is None:
            return UserRole.User
        if certificate is None:
            return None
        for name, role in ((OPERATORS, UserRole.Admin), (READERS, UserRole.User)):
            if certificate in _certificates(self._folder / name):
                return role
        return None

    def get_user(
        self, iserver: InternalServer, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        """What the server asks at the begin of a session; the certificate is the one that the channel proved."""
        role = self.role(certificate)
        return None if role is None else User(role)

    async def validate(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        """What the server asks first, so that a client hears why; raises ServiceError."""
        if self._folder is None:
            return
        if self.role(certificate.public_bytes(DER)) is None:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        if not _valid_now(certificate):
            raise ServiceError(ua.StatusCodes.BadCertificateTimeInvalid)
        if application.ApplicationUri not in _uris(certificate):
            raise ServiceError(ua.StatusCodes.BadCertificateUriInvalid)


class Permissions(PermissionRuleset):  # type: ignore[misc]
    """Readers read, operators call methods too; nobody writes."""

    _CALL = ua.NodeId(ua.ObjectIds.CallRequest_Encoding_DefaultBinary)
    _READ = frozenset(map(ua.NodeId, USER_TYPES)) - {
        _CALL,
        ua.NodeId(ua.ObjectIds.WriteRequest_Encoding_DefaultBinary),
    }

    def check_validity(self, user: User, action_type: ua.NodeId, body: object) -> bool:
        return action_type in self._READ or (action_type == self._CALL and user.role is UserRole.Admin)


class Sessions(InternalServer):  # type: ignore[misc]
    """asyncua's server, but a session stays on the channel that began it.

    asyncua 2.1 lets another channel take a session over before it has checked whose it is, and numbers sessions in a
    row: a stranger could go on with an operator's. A client that lost its connection begins a new session.
    """

    def lookup_external_session(self, auth_token: ua.NodeId) -> InternalSession | None:
        return None


def _certificates(folder: Path) -> Iterator[bytes]:
    """Of the files that hold one; another file in the folder must not shut everybody out."""
    for path in sorted(folder.glob("*")):
        try:
            certificate = _load(path)
        except ConfigError:
            continue
        if _valid_now(certificate):
            yield certificate.public_bytes(DER)


def _load(path: Path) -> x509.Certificate:
    try:
        data = path.read_bytes()
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; `linescan keys --opcua` makes it") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a certificate: {error}") from error


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(names.get_values_for_type(x509.UniformResourceIdentifier))


def _valid_now(certificate: x509.Certificate) -> bool:
    now = datetime.datetime.now(datetime.timezone.utc)
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
