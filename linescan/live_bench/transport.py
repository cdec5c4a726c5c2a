"""Frames from acquire to a worker, in turn with a bare loop of two pyzmq processes."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import zmq
from numpy.typing import NDArray

from linescan.cameras.camera import Lines
from linescan.errors import PeerError
from linescan.journal import Journal
from linescan.line import Line
from linescan.live_bench.consumer import PATIENCE_MS, Taken, serve
from linescan.live_bench.desk import CAMERA, bench_line
from linescan.messages import PixelFormat
from linescan.stages.acquire import Acquire
from linescan.stages.publisher import Publisher
from linescan.transport.zeromq import ZmqNetwork

SIZES = (1 << 18, 1 << 20, 4 << 20, 8 << 20)
COLUMNS = 8192
BUFFERS = 16
ROUND_BYTES = 1 << 28  # short rounds: on a shared machine the neighbours of a moment see the same of it
ROUNDS = 11


@dataclass(frozen=True)
class Ratio:
    """Medians over the rounds; `ratio` is the median of the rounds' ratios."""

    frame_bytes: int
    bare_mb_per_s: float
    line_mb_per_s: float
    ratio: float
    bare_cpu_s_per_gb: float
    """of the process that takes"""
    line_cpu_s_per_gb: float


class ArrayCamera:
    """Delivers the same few arrays again and again, `frames` times, as fast as they are taken."""

    name = CAMERA
    columns = COLUMNS
    pixel_format: PixelFormat = "Mono8"
    line_rate_hz: float | None = None

    def __init__(self, buffers: Sequence[NDArray[np.uint8]], frames: int) -> None:
        self._buffers, self.left = buffers, frames
        self.frame_lines = len(buffers[0])
        self.acquire: Acquire | None = None

    def start(self) -> None:
        pass

    def read(self) -> Lines | None:
        if not self.left or self.acquire is None or self.acquire.behind:
            return None
        self.left -= 1
        return Lines(self._buffers[self.left % len(self._buffers)], None, time.monotonic_ns(), time.time_ns())

    def stop(self) -> None:
        self.left = 0

    def latched(self) -> int | None:
        return None

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def transport_ratio(size: int, rounds: int = ROUNDS, round_bytes: int = ROUND_BYTES) -> Ratio:
    """Frames of `size` bytes through both, `rounds` times in turn."""
    buffers = [np.full((size // COLUMNS, COLUMNS), index, np.uint8) for index in range(BUFFERS)]
    frames = max(round_bytes // size, 16)
    bare: list[Taken] = []
    line: list[Taken] = []
    with consumer() as orders:
        for _ in range(rounds):
            bare.append(_bare_round(orders, buffers, frames))
            line.append(_line_round(orders, buffers, frames))
    rates = [[(one.frames - 1) * size / one.seconds / 1e6 for one in taken] for taken in (bare, line)]
    cpu = [[one.cpu_s / (one.frames * size) * 1e9 for one in taken] for taken in (bare, line)]
    return Ratio(
        size,
        round(statistics.median(rates[0]), 1),
        round(statistics.median(rates[1]), 1),
        round(statistics.median(ours / theirs for theirs, ours in zip(*rates, strict=True)), 3),
        round(statistics.median(cpu[0]), 3),
        round(statistics.median(cpu[1]), 3),
    )


@contextmanager
def consumer() -> Iterator[Connection]:
    """The process that takes; it lasts for all rounds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours
        ours.send(None)
        process.join(10)
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


def _bare_round(orders: Connection, buffers: Sequence[NDArray[np.uint8]], frames: int) -> Taken:
    with bench_line(_SETTINGS) as line, zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        endpoint = f"ipc://{line.path.parent}/bare"
        socket.bind(endpoint)
        orders.send(("bare", endpoint, frames))
        for number in range(frames):
            peer = socket.recv_multipart()[0]  # a credit
            socket.send(peer, zmq.SNDMORE)
            socket.send(buffers[number % len(buffers)].data, copy=False)
        return _answer(orders)


def _line_round(orders: Connection, buffers: Sequence[NDArray[np.uint8]], frames: int) -> Taken:
    camera = ArrayCamera(buffers, 1)
    retain_mib = max(2 * BUFFERS * buffers[0].nbytes >> 20, 1)
    with bench_line(_SETTINGS, transport={"retain_mib": retain_mib}) as line:
        network = ZmqNetwork()
        try:
            acquire = _acquire(line, camera, network)
            camera.left = frames - 1
            orders.send(("line", line.frames_endpoint(CAMERA), frames))
            until = time.monotonic() + PATIENCE_MS / 1000
            while camera.left or not orders.poll():
                acquire.turn()
                if time.monotonic() > until:
                    raise PeerError(f"{camera.left} of {frames} frames were not taken in {PATIENCE_MS / 1000:g} s")
            return _answer(orders)
        finally:
            network.close()


def _acquire(line: Line, camera: ArrayCamera, network: ZmqNetwork) -> Acquire:
    """Registered, and its roll begun with one frame: the publisher is not heard afterwards, nothing depends on it."""
    with Journal(line.file(line.settings.journal.file), line.settings.journal) as journal:
        publisher = Publisher(line, journal, network)
        acquire = Acquire(line, line.settings.cameras[0], camera, network)
        camera.acquire = acquire
        while not acquire.registered:
            publisher.turn()
        acquire.begin()
        acquire.turn()
        while acquire.holds_back:  # until the roll's origin is in the journal
            publisher.turn()
            acquire.turn()
    return acquire


def _answer(orders: Connection) -> Taken:
    taken = orders.recv()
    assert isinstance(taken, Taken)
    return taken


_SETTINGS = {"producer": "none.cti", "serial": "1", "max_line_rate_hz": 100_000.0}
