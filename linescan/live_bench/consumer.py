"""The process that only takes frames: over bare pyzmq, or as a worker does, with a lease and credits."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from operator import le

import zmq

from linescan.live_bench.desk import CAMERA
from linescan.messages import Credit, Frame, Gap, Grant, Hello, Message, Revoked
from linescan.pixels import pixels_of
from linescan.transport.network import Client
from linescan.transport.zeromq import ZmqNetwork

CREDITS = 4
PATIENCE_MS = 10_000


@dataclass(frozen=True)
class Taken:
    """What came, and the seconds from the first frame to the last one."""

    frames: int
    seconds: float
    cpu_s: float
    lines: int = 0
    lines_in_gaps: int = 0
    revoked: int = 0


def serve(orders: Connection) -> None:
    """Takes frames as ordered, (kind, endpoint, how many), until None; answers each order with Taken.

    Kinds: "bare" and "line" take so many frames, "lasting" takes them until the next word comes.
    """
    while (order := orders.recv()) is not None:
        kind, endpoint, frames = order
        if kind == "bare":
            orders.send(take_bare(endpoint, frames))
        elif kind == "line":
            orders.send(take_line(endpoint, partial(le, frames)))
        else:
            orders.send(take_line(endpoint, lambda _: orders.poll()))
            orders.recv()


def take_bare(endpoint: str, frames: int) -> Taken:
    """What ZeroMQ does by itself: receives without a copy, answers each frame with a credit."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        socket.connect(endpoint)
        for _ in range(CREDITS):
            socket.send(b"")
        socket.recv(copy=False)
        watch = _Watch()
        for _ in range(frames - 1):
            socket.send(b"")
            socket.recv(copy=False)
        return Taken(frames, *watch.read())


def take_line(endpoint: str, enough: Callable[[int], bool]) -> Taken:
    """As a worker takes them: decoded, checked, and journaled at once, as far as acquire is told."""
    network = ZmqNetwork()
    try:
        return _Taker(network, network.client(endpoint)).take(enough)
    finally:
        network.close()


class _Taker:
    def __init__(self, network: ZmqNetwork, client: Client) -> None:
        self._network, self._client = network, client
        self._watch: _Watch | None = None
        self._epoch = self._frames = self._lines = self._lines_in_gaps = self._revoked = 0

    def take(self, enough: Callable[[int], bool]) -> Taken:
        self._hello()
        while not enough(self._frames):
            received = self._client.receive()
            if received is None:
                self._network.wait((self._client,), 0.1)
                continue
            message = received.message
            if isinstance(message, Frame):
                pixels_of(message, received.pixels or b"")
                self._taken(message)
            else:
                self._told(message)
        seconds, cpu_s = self._watch.read() if self._watch else (0.0, 0.0)
        return Taken(self._frames, seconds, cpu_s, self._lines, self._lines_in_gaps, self._revoked)

    def _hello(self) -> None:
        self._client.send(Hello(CAMERA, "bench", "worker"))

    def _told(self, message: Message) -> None:
        if isinstance(message, Gap):
            self._lines_in_gaps += message.last_line - message.first_line + 1
        elif isinstance(message, Grant) and message.epoch != self._epoch:
            self._epoch = message.epoch
            self._client.send(Credit(CAMERA, self._epoch, CREDITS, "", 0, 0, False))
        elif isinstance(message, Revoked) and message.epoch == self._epoch:
            self._revoked += 1
            self._client.reconnect()
            self._hello()

    def _taken(self, frame: Frame) -> None:
        self._watch = self._watch or _Watch()
        self._frames += 1
        self._lines += frame.lines
        end = frame.first_line + frame.lines
        self._client.send(Credit(CAMERA, self._epoch, 1, frame.roll, end, end, False))


class _Watch:
    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), _cpu_s()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start, _cpu_s() - self._cpu


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
