"""The three stages in one process, in lockstep, over the network in memory; with a camera of arrays and a toy model."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linescan.cameras.camera import Lines, LinesLost
from linescan.config import ImageBand, InspectionSettings
from linescan.errors import CameraLostError
from linescan.inspection import Finding, Footprint, Inspector
from linescan.journal import Journal
from linescan.line import Line
from linescan.messages import Event, Message, Published, RollStart, decode
from linescan.models.runner import Execution
from linescan.stages.acquire import Acquire
from linescan.stages.publisher import Publisher
from linescan.stages.worker import Worker
from linescan.transport.memory import MemoryNetwork
from tests.inspection_kit import nothing

COLUMNS = 48
SETTINGS = InspectionSettings(
    method="l2", patch_size=16, stride=8, threshold=0.5, band=ImageBand(mean_low=0.02, lines=8), max_region_lines=64
)


def web(lines: int, seed: int = 0, defects: int = 12) -> NDArray[np.uint8]:
    """Grey web with bright blots, some long enough to span frames; the toy model finds what is bright."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(60, 90, (lines, COLUMNS)).astype(np.uint8)
    for _ in range(defects):
        top, left = generator.integers(0, lines - 1), generator.integers(0, COLUMNS - 6)
        height, width = generator.integers(5, 60), generator.integers(5, 12)
        pixels[top : top + height, left : left + width] = 255
    return pixels


@dataclass
class FakeClock:
    """Monotonic time that moves when it is told to."""

    now: int = 10**9

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


class ArrayCamera:
    """Delivers what a test puts into its queue."""

    name = "array"
    columns = COLUMNS
    frame_lines = 32
    pixel_format = "Mono8"
    line_rate_hz = None

    def __init__(self, clock: FakeClock) -> None:
        self.queue: deque[Lines | LinesLost | Exception] = deque()
        self.closed = False
        self._clock = clock

    def start(self) -> None:
        pass

    def deliver(self, pixels: NDArray[Any], encoder_count: int | None = None) -> None:
        self.queue.append(Lines(np.ascontiguousarray(pixels), encoder_count, self._clock.now, self._clock.now))

    def read(self) -> Lines | LinesLost | None:
        if not self.queue:
            return None
        got = self.queue.popleft()
        if isinstance(got, Exception):
            raise got
        return got

    def check(self) -> None:
        if self.closed:
            raise CameraLostError("gone")

    def close(self) -> None:
        self.closed = True


class ToyEngine:
    """In the place of stages.engine.Engine: the same Inspector, without a bundle."""

    def __init__(self, stored: dict[str, Any] | None = None, settings: InspectionSettings = SETTINGS, batch: int = 16):
        self.settings = settings
        self.execution = Execution("cpu", "float32", batch, 1)
        self.stored = stored

    def check(self) -> None:
        pass

    def shrink(self) -> None:
        self.execution = Execution("cpu", "float32", self.execution.batch // 2, 1)

    def inspector(self, start: RollStart, progress: Any) -> Inspector:
        footprint = Footprint(start.settings["columns"], 8, start.camera, start.roll)
        return Inspector(self.settings, footprint, nothing, snapshot=progress.snapshot if progress else None)

    def announced(self, start: RollStart) -> RollStart:
        settings = {**start.settings, "execution": self.execution.as_dict()}
        return RollStart(start.camera, start.roll, "toy", start.first_line, settings)


def write_line(folder: Path, **transport: Any) -> Line:
    """A line.toml of one camera, small enough budgets given by name."""
    text = [
        'recipe = "toy.toml"',
        "[[cameras]]",
        'name = "cam0"',
        'producer = "none.cti"',
        'serial = "1"',
        "max_line_rate_hz = 1000.0",
        "[transport]",
        f'directory = "{folder}/run"',
        *(f"{key} = {value}" for key, value in transport.items()),
        "[journal]",
        f'file = "{folder}/journal.sqlite"',
        "commit_ms = 0",
    ]
    path = folder / "line.toml"
    path.write_text("\n".join(text), encoding="utf-8")
    return Line(path)


@dataclass
class Desk:
    """A line on a desk: every stage can be stopped, killed and begun anew at any turn."""

    line: Line
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    clock: FakeClock = field(default_factory=FakeClock)
    engine: Any = ToyEngine

    def __post_init__(self) -> None:
        self.world = self.network.subscription(self.line.events_endpoint, ["event"])
        self.published: list[Published] = []
        self.workers: list[Worker] = []
        self.acquire: Acquire | None = None
        self.journal: Journal | None = None
        self.publisher: Publisher | None = None

    # ---- stages come and go

    def start_publisher(self) -> None:
        self.journal = Journal(Path(self.line.settings.journal.file), self.line.settings.journal)
        self.publisher = Publisher(self.line, self.journal, self.network, clock_ns=self.clock, utc_ns=self.clock)

    def kill_publisher(self) -> None:
        """Without a last commit; what was in its sockets is gone."""
        assert self.journal is not None
        self.journal.close()
        self.publisher = None
        for endpoint in (self.line.stages_endpoint, self.line.backfill_endpoint, self.line.control_endpoint):
            self.network.servers.pop(endpoint).close()

    def start_acquire(self, replay: str = "") -> ArrayCamera:
        camera = ArrayCamera(self.clock)
        settings = self.line.settings.cameras[0]
        self.acquire = Acquire(
            self.line, settings, camera, self.network, replay=replay, clock_ns=self.clock, utc_ns=self.clock
        )
        self.registered = False
        return camera

    def kill_acquire(self) -> None:
        self.acquire = None
        self.network.servers.pop(self.line.frames_endpoint("cam0")).close()

    def start_worker(self) -> Worker:
        name = f"worker-{len(self.workers)}"
        worker = Worker(self.line, "cam0", self.network, self.engine, name=name, clock_ns=self.clock)
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: Worker) -> None:
        self.workers.remove(worker)
        for link in worker._links:  # noqa: SLF001 - what the system does to a process
            link.close()

    # ---- time passes

    def turn(self, times: int = 1, seconds: float = 0.01) -> None:
        for _ in range(times):
            self.clock.advance(seconds)
            if self.acquire is not None:
                self._turn_acquire()
            for worker in list(self.workers):
                worker.turn()
            if self.publisher is not None:
                self.publisher.turn()
            while (received := self.world.receive()) is not None:
                assert isinstance(received.message, Published)
                self.published.append(received.message)

    def _turn_acquire(self) -> None:
        assert self.acquire is not None
        if self.registered:
            self.acquire.turn()
        elif self.acquire.registered:
            self.acquire.begin()
            self.registered = True

    @property
    def events(self) -> list[Message]:
        return [decode(published.event) for published in self.published]


def undisturbed(pixels: NDArray[np.uint8], roll: str, settings: InspectionSettings = SETTINGS) -> list[Finding]:
    """What the engine finds in the roll by itself."""
    inspector = Inspector(settings, Footprint(COLUMNS, 8, "cam0", roll), nothing)
    return inspector.push(pixels) + inspector.finish()


def findings(events: list[Message]) -> list[Message]:
    return [event for event in events if type(event).__name__ in ("Region", "Gap")]


__all__ = ["COLUMNS", "Event", "threading", "torch"]
