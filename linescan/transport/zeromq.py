"""The network over ZeroMQ: the only user of zmq besides the keys.

Marks and heartbeats are set before a socket binds or connects; nothing here waits without a bound.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import zmq
import zmq.auth.thread

from linescan.codec import MAX_BYTES
from linescan.errors import ConfigError, PeerError
from linescan.messages import Message, Refused, Stamp
from linescan.transport.keys import Keys
from linescan.transport.network import Buffer, Link, Received, Sent
from linescan.transport.operators import may_speak
from linescan.transport.wire import from_parts, parcel_from_parts, parcel_to_parts, to_parts

LINGER_MS = 500
DROPPED_AT_ONCE = 100  # what is not ours, in one look: who sends nothing else does not keep the caller
QUEUE = 1000  # messages; frames are held to far fewer by credits
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 5000
KEEPALIVE_IDLE_S, KEEPALIVE_PROBE_S, KEEPALIVE_PROBES = 5, 2, 3
MAX_CONTROL = 16 * MAX_BYTES  # ZeroMQ cuts the connection of a peer that sends more in one part; decode() takes less
MAX_FRAME = 1 << 31
COPY_BELOW = 65536  # bytes; beneath, keeping a reference costs more than the copy
# as numbers: the library's flags are enumerations, and combining those costs as much as a small message
NOW, NOW_AND_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


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
        self._pollers: dict[tuple[zmq.Socket[bytes], ...], zmq.Poller] = {}

    def server(self, endpoint: str, group: str = "") -> ZmqServer:
        with self._made(zmq.ROUTER, endpoint, serves=True) as socket:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            # over tcp the peer is known by its key
            checked = group if endpoint.startswith("ipc://") else ""
            return self._kept(ZmqServer(socket, _bind(socket, endpoint), checked))

    def client(self, endpoint: str) -> ZmqClient:
        return self._kept(ZmqClient(lambda: self._connected(zmq.DEALER, endpoint)))

    def publication(self, endpoint: str) -> ZmqPublication:
        with self._made(zmq.PUB, endpoint, serves=True) as socket:
            return self._kept(ZmqPublication(socket, _bind(socket, endpoint)))

    def subscription(self, endpoint: str, topics: Iterable[str]) -> ZmqSubscription:
        with self._made(zmq.SUB, endpoint, serves=False) as socket:
            for topic in topics:
                socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            _connect(socket, endpoint)
            return self._kept(ZmqSubscription(socket))

    def wait(self, links: Iterable[Link], timeout_s: float) -> None:
        ends = [link for link in links if isinstance(link, _Link)]
        if not any(link.rest for link in ends):
            self._poller([link.socket for link in ends]).poll(max(1, round(timeout_s * 1000)))

    def close(self) -> None:
        for link in self._links:
            link.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()

    def _poller(self, sockets: list[zmq.Socket[bytes]]) -> zmq.Poller:
        """Made once for the same sockets; a client that reconnects has a new one."""
        key = tuple(sockets)
        if key not in self._pollers:
            self._pollers = {kept: poller for kept, poller in self._pollers.items() if not any(s.closed for s in kept)}
            self._pollers[key] = zmq.Poller()
            for socket in sockets:
                self._pollers[key].register(socket, zmq.POLLIN)
        return self._pollers[key]

    def _kept(self, link: L) -> L:
        self._links.append(link)
        return link

    def _connected(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        with self._made(kind, endpoint, serves=False) as socket:
            _connect(socket, endpoint)
            return socket

    @contextmanager
    def _made(self, kind: int, endpoint: str, serves: bool) -> Iterator[zmq.Socket[bytes]]:
        """A socket with its options, closed again where it comes to nothing: the context could not end with it."""
        socket = self._context.socket(kind)
        try:
            self._set_up(socket, kind, endpoint, serves)
            yield socket
        except BaseException:
            socket.close(linger=0)
            raise

    def _set_up(self, socket: zmq.Socket[bytes], kind: int, endpoint: str, serves: bool) -> None:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.RCVHWM, QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_CONTROL if serves else MAX_FRAME)
        if kind in (zmq.PUB, zmq.SUB):
            # A subscriber whose queue is full hears no heartbeat, and libzmq 4.3.5 ends its process for that
            # (libzmq#3937): the system looks after these connections.
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
            socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_PROBE_S)
            socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
        else:
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)  # what a camera makes meanwhile is kept
        if self._keys is not None and endpoint.startswith("tcp://"):
            self._secure(socket, self._keys, serves)

    def _secure(self, socket: zmq.Socket[bytes], keys: Keys, serves: bool) -> None:
        if not serves:
            socket.curve_serverkey = keys.server_public
            socket.curve_publickey, socket.curve_secretkey = keys.client_public, keys.client_secret
            return
        if keys.server_secret is None:
            raise ConfigError(f"{keys.allowed.parent / 'server.key_secret'}: is missing, a server needs it")
        if not keys.allowed.is_dir():  # the authenticator would say so in a log, and let nobody in
            raise ConfigError(f"{keys.allowed}: is missing, the folder of the clients' public keys")
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
        self.rest: deque[Received] = deque()  # of several that came as one
        self._lock = lock

    def close(self) -> None:
        self.socket.close()
        if self._lock is not None:
            self._lock.close()

    def _some(self) -> Iterator[list[zmq.Frame]]:
        """What waits, whole messages, up to so many that are not ours."""
        for _ in range(DROPPED_AT_ONCE):
            if (frames := self._frames()) is None:
                return
            yield frames

    def _frames(self) -> list[zmq.Frame] | None:
        # asking costs a third of the exception that receiving in vain would be
        if not zmq.zmq_poll([(self.socket, zmq.POLLIN)], 0):
            return None
        try:
            part = self.socket.recv(NOW, copy=False)
        except zmq.Again:
            return None
        frames = [part]
        while part.more:  # the rest of a message comes with its beginning
            part = self.socket.recv(NOW, copy=False)
            frames.append(part)
        return frames

    def _send(self, parts: list[Buffer]) -> None:
        """Raises Again or another ZMQError at the first part, which then is none of a message's."""
        for part in parts[:-1]:
            self.socket.send(part, NOW_AND_MORE)
        self.socket.send(parts[-1], NOW, copy=len(parts[-1]) < COPY_BELOW)


class ZmqServer(_Link):
    def __init__(self, socket: zmq.Socket[bytes], lock: IO[str] | None, group: str) -> None:
        super().__init__(socket, lock)
        self._group = group

    def send(self, peer: bytes, message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> Sent:
        try:
            self._send([peer, *to_parts(message, stamp, pixels)])
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.YES

    def receive(self) -> Received | None:
        if self.rest:
            return self.rest.popleft()
        for frames in self._some():
            parts = [frame.buffer for frame in frames]
            letters = parcel_from_parts(parts[1:], self.counters, bytes(parts[0]))
            if letters and self._may_speak(frames[-1], letters[0].peer):
                self.rest.extend(letters[1:])
                return letters[0]
        return None

    def _may_speak(self, frame: zmq.Frame, peer: bytes) -> bool:
        if not self._group or may_speak(str(frame.get("Peer-Address")), self._group):
            return True
        self.counters["not_allowed"] += 1
        self.send(peer, Refused("", f"only members of the group {self._group} may ask this", None))
        return False


class ZmqClient(_Link):
    def __init__(self, connect: Any) -> None:
        self._connect = connect
        super().__init__(connect())

    def send(self, message: Message, stamp: Stamp | None = None) -> Sent:
        return self._try(to_parts(message, stamp))

    def send_all(self, letters: Sequence[tuple[Message, Stamp]]) -> Sent:
        return self._try(parcel_to_parts(letters))

    def _try(self, parts: list[Buffer]) -> Sent:
        try:
            self._send(parts)
        except zmq.Again:
            return Sent.FULL
        return Sent.YES

    def receive(self) -> Received | None:
        for frames in self._some():
            if received := from_parts([frame.buffer for frame in frames], self.counters):
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
        for frames in self._some():
            if received := from_parts([frame.buffer for frame in frames[1:]], self.counters):
                return received
        return None


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> IO[str] | None:
    """Binds; on an ipc path only with its lock, since a second bind there would silently take the traffic over."""
    path = _path_of(endpoint)
    lock = _locked(path) if path is not None else None
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if lock is not None:
            lock.close()
        raise PeerError(f"{endpoint}: cannot be bound: {error}") from error
    return lock


def _connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    _path_of(endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"{endpoint}: cannot be connected to: {error}") from error


def _path_of(endpoint: str) -> Path | None:
    """The file of an ipc socket; raises ConfigError for one that the system has no room for."""
    if not endpoint.startswith("ipc://"):
        return None
    path = Path(endpoint.removeprefix("ipc://"))
    if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
        raise ConfigError(f"{path}: a socket's path may have {zmq.IPC_PATH_MAX_LEN} bytes at most")
    return path


def _locked(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # for this user alone: who may read the socket's folder could hold the lock otherwise
        lock = open(os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise PeerError(f"{path.parent}: no socket can be made there: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise PeerError(f"{path}: another process serves it") from None
    return lock
