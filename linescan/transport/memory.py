"""The network within one process, for tests of the stages in lockstep: nothing is lost, delayed or reordered."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import count

from linescan.messages import Message, Stamp
from linescan.transport.network import Buffer, Link, Received, Sent
from linescan.transport.wire import parcel_from_parts, parcel_to_parts, to_parts

Parts = tuple[memoryview, ...]


class MemoryNetwork:
    """Every message is encoded and decoded as on the wire; ends may be made in any order."""

    def __init__(self) -> None:
        self.servers: dict[str, MemoryServer] = {}
        self.subscriptions: defaultdict[str, list[MemorySubscription]] = defaultdict(list)
        self._names = count(1)

    def server(self, endpoint: str, group: str = "") -> MemoryServer:
        assert endpoint not in self.servers, f"{endpoint} is served already"
        self.servers[endpoint] = MemoryServer(self, endpoint)
        return self.servers[endpoint]

    def client(self, endpoint: str) -> MemoryClient:
        return MemoryClient(self, endpoint)

    def publication(self, endpoint: str) -> MemoryPublication:
        return MemoryPublication(self, endpoint)

    def subscription(self, endpoint: str, topics: Iterable[str]) -> MemorySubscription:
        made = MemorySubscription(tuple(topics))
        self.subscriptions[endpoint].append(made)
        return made

    def wait(self, links: Iterable[Link], timeout_s: float) -> None:
        """Nothing to wait for: what was sent is there."""

    def close(self) -> None:
        self.servers.clear()

    def name(self) -> bytes:
        return b"peer-%d" % next(self._names)


class _Queue:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.queue: deque[tuple[bytes, Parts]] = deque()
        self._rest: deque[Received] = deque()  # of several that came as one

    def receive(self) -> Received | None:
        while self.queue and not self._rest:
            peer, parts = self.queue.popleft()
            self._rest.extend(parcel_from_parts(parts, self.counters, peer))
        return self._rest.popleft() if self._rest else None


class MemoryServer(_Queue):
    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        super().__init__()
        self._network, self._endpoint = network, endpoint
        self.clients: dict[bytes, MemoryClient] = {}

    def send(self, peer: bytes, message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> Sent:
        client = self.clients.get(peer)
        if client is None:
            return Sent.GONE
        client.queue.append((b"", _copied(to_parts(message, stamp, pixels))))
        return Sent.YES

    def close(self) -> None:
        self._network.servers.pop(self._endpoint, None)


class MemoryClient(_Queue):
    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        super().__init__()
        self._network, self._endpoint, self.name = network, endpoint, network.name()

    def send(self, message: Message, stamp: Stamp | None = None) -> Sent:
        return self._send(to_parts(message, stamp))

    def send_all(self, letters: Sequence[tuple[Message, Stamp]]) -> Sent:
        return self._send(parcel_to_parts(letters))

    def _send(self, parts: list[Buffer]) -> Sent:
        server = self._network.servers.get(self._endpoint)
        if server is None:
            return Sent.FULL  # as a socket without a peer answers once its queue is full
        server.clients[self.name] = self
        server.queue.append((self.name, _copied(parts)))
        return Sent.YES

    def reconnect(self) -> None:
        self.close()
        self.queue.clear()
        self._rest.clear()
        self.name = self._network.name()

    def close(self) -> None:
        server = self._network.servers.get(self._endpoint)
        if server is not None:
            server.clients.pop(self.name, None)


class MemoryPublication:
    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        self._network, self._endpoint = network, endpoint

    def send(self, topic: str, message: Message) -> None:
        for subscription in self._network.subscriptions[self._endpoint]:
            if topic.startswith(subscription.topics):
                subscription.queue.append((b"", _copied(to_parts(message))))

    def close(self) -> None:
        pass


class MemorySubscription(_Queue):
    def __init__(self, topics: tuple[str, ...]) -> None:
        super().__init__()
        self.topics = topics

    def close(self) -> None:
        self.queue.clear()


def _copied(parts: list[Buffer]) -> Parts:
    """What the receiver gets does not change when the sender uses its memory again."""
    return tuple(memoryview(bytes(part)) for part in parts)
