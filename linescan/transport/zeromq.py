"""The network over ZeroMQ: the only user of zmq besides the keys.

Marks and heartbeats are set before a socket binds or connects; nothing here waits without a bound.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import zmq
import zmq.auth.thread

from linescan.errors import ConfigError, PeerError
from linescan.messages import MAX_BYTES, Message, Stamp
from linescan.transport.keys import Keys
from linescan.transport.network import Buffer, Link, Received, Sent
from linescan.transport.wire import from_parts, to_parts

LINGER_MS = 500
QUEUE = 1000  # messages; frames are held to far fewer by credits
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 5000
MAX_CONTROL = 16 * MAX_BYTES  # ZeroMQ cuts the connection of a peer that sends more in one part; decode() takes less
MAX_FRAME = 1 << 31
COPY_BELOW = 65536  # bytes; beneath, keeping a reference costs more than the copy


L = TypeVar("L", bound="_Link")


class ZmqNetwork:
    """ZeroMQ sockets of one process.

    Args:
        keys: CURVE for every tcp endpoint; None where all are ipc or loopback.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._keys = keys
        self._authenticator: zmq.auth.thread.ThreadAuthenticator | None = None
        self._links: list[_Link] = []

    def server(self, endpoint: str) -> ZmqServer:
        socket = self._socket(zmq.ROUTER, endpoint, serves=True)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        lock = _bind(socket, endpoint)
        return self._kept(ZmqServer(socket, lock))

    def client(self, endpoint: str) -> ZmqClient:
        return self._kept(ZmqClient(lambda: self._connected(zmq.DEALER, endpoint)))

    def publication(self, endpoint: str) -> ZmqPublication:
        socket = self._socket(zmq.PUB, endpoint, serves=True)
        return self._kept(ZmqPublication(socket, _bind(socket, endpoint)))

    def subscription(self, endpoint: str, topics: Iterable[str]) -> ZmqSubscription:
        socket = self._socket(zmq.SUB, endpoint, serves=False)
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.connect(endpoint)
        return self._kept(ZmqSubscription(socket))

    def wait(self, links: Iterable[Link], timeout_s: float) -> None:
        poller = zmq.Poller()
        for link in links:
            assert isinstance(link, _Link)
            poller.register(link.socket, zmq.POLLIN)
        poller.poll(max(1, round(timeout_s * 1000)))

    def close(self) -> None:
        for link in self._links:
            link.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()

    def _kept(self, link: L) -> L:
        self._links.append(link)
        return link

    def _connected(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._socket(kind, endpoint, serves=False)
        socket.connect(endpoint)
        return socket

    def _socket(self, kind: int, endpoint: str, serves: bool) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.RCVHWM, QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_CONTROL if serves else MAX_FRAME)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._keys is not None and endpoint.startswith("tcp://"):
            self._secure(socket, self._keys, serves)
        return socket

    def _secure(self, socket: zmq.Socket[bytes], keys: Keys, serves: bool) -> None:
        if not serves:
            socket.curve_serverkey = keys.server_public
            socket.curve_publickey, socket.curve_secretkey = keys.client_public, keys.client_secret
            return
        if keys.server_secret is None:
            raise ConfigError(f"{keys.allowed.parent / 'server.key_secret'}: is missing, a server needs it")
        if self._authenticator is None:  # without it CURVE lets any client in
            self._authenticator = zmq.auth.thread.ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve(domain="*", location=str(keys.allowed))
        socket.curve_server = True
        socket.curve_secretkey = keys.server_secret
        socket.curve_publickey = keys.server_public


class _Link:
    def __init__(self, socket: zmq.Socket[bytes], lock: IO[str] | None = None) -> None:
        self.socket = socket
        self.counters: Counter[str] = Counter()
        self._lock = lock

    def close(self) -> None:
        self.socket.close()
        if self._lock is not None:
            self._lock.close()

    def _parts(self) -> list[memoryview] | None:
        try:
            return [frame.buffer for frame in self.socket.recv_multipart(zmq.NOBLOCK, copy=False)]
        except zmq.Again:
            return None


class ZmqServer(_Link):
    def send(self, peer: bytes, message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> Sent:
        parts = [peer, *to_parts(message, stamp, pixels)]
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK, copy=pixels is None or len(pixels) < COPY_BELOW)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.YES

    def receive(self) -> Received | None:
        while (parts := self._parts()) is not None:
            if received := from_parts(parts[1:], self.counters, bytes(parts[0])):
                return received
        return None


class ZmqClient(_Link):
    def __init__(self, connect: Any) -> None:
        self._connect = connect
        super().__init__(connect())

    def send(self, message: Message, stamp: Stamp | None = None) -> Sent:
        try:
            self.socket.send_multipart(to_parts(message, stamp), zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        return Sent.YES

    def receive(self) -> Received | None:
        while (parts := self._parts()) is not None:
            if received := from_parts(parts, self.counters):
                return received
        return None

    def reconnect(self) -> None:
        self.socket.close(linger=0)
        self.socket = self._connect()


class ZmqPublication(_Link):
    def send(self, topic: str, message: Message) -> None:
        self.socket.send_multipart([topic.encode(), *to_parts(message)])


class ZmqSubscription(_Link):
    def receive(self) -> Received | None:
        while (parts := self._parts()) is not None:
            if received := from_parts(parts[1:], self.counters):
                return received
        return None


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> IO[str] | None:
    """Binds; on an ipc path only with its lock, since a second bind there would silently take the traffic over."""
    lock = None
    if endpoint.startswith("ipc://"):
        path = Path(endpoint.removeprefix("ipc://"))
        if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
            raise ConfigError(f"{path}: a socket's path may have {zmq.IPC_PATH_MAX_LEN} bytes at most")
        lock = _locked(path)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise PeerError(f"{endpoint}: cannot be bound: {error}") from error
    return lock


def _locked(path: Path) -> IO[str]:
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o750, parents=True)
    try:
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise PeerError(f"{path.parent}: no socket can be made there: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise PeerError(f"{path}: another process serves it") from None
    return lock
