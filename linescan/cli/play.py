"""linescan-replay --config: plays footage into a running line, in the place of a camera."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

from linescan.cameras.recorded import RecordedCamera
from linescan.cli.silence import Silence
from linescan.cli.stage import network_of
from linescan.errors import PeerError
from linescan.footage import Footage
from linescan.line import Line
from linescan.stages.acquire import Acquire, wait_registered


def play(
    args: argparse.Namespace,
    footage: Footage,
    roll: str,
    lines_per_second: float,
    stop: threading.Event,
    on_lines: Callable[[int], object],
) -> int:
    """Plays the footage to its end, or until `stop`; returns the lines played once all of them are in the journal.

    Raises PeerError where a camera or another replay holds the line, or no worker takes the frames.
    """
    line = Line(args.config)
    settings = line.camera(args.camera)
    with network_of(line) as network:
        acquire: Acquire
        camera = RecordedCamera(footage, lines_per_second, lambda: acquire.behind)
        acquire = Acquire(line, settings, camera, network, replay=roll)
        if not _registered(acquire, stop, line.stages_endpoint):
            return 0
        frames = line.frames_endpoint(settings.name)
        worker = Silence(f"no worker takes the frames at {frames}; waiting", "a worker takes the frames")
        acquire.begin()
        told = 0
        while not camera.ended and not stop.is_set():
            acquire.turn()
            worker.look(heard=acquire.has_worker)
            on_lines(acquire.lines - told)
            told = acquire.lines
        acquire.end_replay()
        # the worker may still be loading its model
        until = time.monotonic_ns() + int((line.settings.transport.drain_s + 30) * 1e9)
        if not acquire.drain("shutdown", until, lambda: worker.look(heard=acquire.has_worker)):
            raise PeerError(f"the line did not take the last of {acquire.lines} lines; is a worker running?")
        return acquire.lines


def _registered(acquire: Acquire, stop: threading.Event, endpoint: str) -> bool:
    """Waits for the publisher as wait_registered does, and says that it does."""
    publisher = Silence(f"nobody answers at {endpoint}; waiting (is the line running?)", f"{endpoint} answers")

    def looks() -> bool:
        publisher.look(heard=False)
        return stop.is_set()

    return wait_registered(acquire, looks)
