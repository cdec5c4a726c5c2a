"""What the stages see of the transport, whatever carries it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from linescan.messages import Message, Stamp

Buffer = memoryview | bytes


class Sent(Enum):
    """What became of a message: a full queue may have room later, a peer that is gone will not come back."""

    YES = "sent"
    FULL = "full"
    GONE = "gone"


@dataclass(frozen=True, eq=False)
class Received:
    """A message that came; `peer` is whom a Server answers, empty elsewhere."""

    message: Message
    stamp: Stamp | None = None
    pixels: memoryview | None = None
    peer: bytes = b""


class Link(Protocol):
    """An end of the transport; `counters` counts what was dropped and why."""

    counters: Counter[str]

    def receive(self) -> Received | None:
        """The next message, at once; what is not a message of ours is counted and passed over.

        None too after so much of it that the caller had better look at something else.
        """
        ...

    def close(self) -> None: ...


def waiting(link: Link, most: int) -> Iterator[Received]:
    """What has come, at most so many: who speaks without end does not keep the caller from its other duties."""
    for _ in range(most):
        received = link.receive()
        if received is None:
            return
        yield received


class Server(Link, Protocol):
    """Binds; talks to many clients, each by its `peer`."""

    def send(self, peer: bytes, message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> Sent: ...


class Client(Link, Protocol):
    """Connects to one server, again and again until it is there."""

    def send(self, message: Message, stamp: Stamp | None = None) -> Sent: ...

    def send_all(self, letters: Sequence[tuple[Message, Stamp]]) -> Sent:
        """Sends them as one: if this process ends meanwhile, the server has all of them or none."""
        ...

    def reconnect(self) -> None:
        """Drops the connection and what waits in it, and makes a new one."""
        ...


class Publication(Protocol):
    """Binds; whoever subscribes gets what he keeps up with."""

    def send(self, topic: str, message: Message) -> None: ...

    def close(self) -> None: ...


class Subscription(Link, Protocol):
    """Connects to a publication."""


class Network(Protocol):
    """Makes the ends, and waits on them."""

    def server(self, endpoint: str, group: str = "") -> Server:
        """Where a group is named, what others than its members, this user and root send is refused."""
        ...

    def client(self, endpoint: str) -> Client: ...

    def publication(self, endpoint: str) -> Publication: ...

    def subscription(self, endpoint: str, topics: Iterable[str]) -> Subscription: ...

    def wait(self, links: Iterable[Link], timeout_s: float) -> None:
        """Returns when one of them has something, or after the time."""
        ...

    def close(self) -> None: ...
