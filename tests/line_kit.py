"""The three stages in one process, in lockstep, over the network in memory; with a camera of arrays and a toy model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linescan.cameras.camera import Lines, LinesLost
from linescan.codec import decode
from linescan.config import ImageBand, InspectionSettings
from linescan.errors import CameraLostError, JournalFullError
from linescan.inspection import FinalBand, Finding, Footprint, Inspector
from linescan.journal import Journal
from linescan.line import Line
from linescan.messages import (
    Gap,
    Message,
    Preparing,
    Published,
    Refused,
    Region,
    RollCommand,
    RollEnd,
    RollStart,
    RollState,
    Status,
)
from linescan.models.runner import Execution
from linescan.stages.acquire import Acquire
from linescan.stages.ledger import key_of
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


def numbered(pixels: NDArray[np.uint8], first: int = 0) -> NDArray[np.uint8]:
    """The same web with each line's number written into its first two pixels, too dark to be found."""
    lines = np.arange(first, first + len(pixels))
    marked = pixels.copy()
    marked[:, 0], marked[:, 1] = 60 + lines % 64, 60 + lines // 64 % 64
    return marked


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
        self.latch: int | None = None  # the count that a sync pulse latched
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

    def stop(self) -> None:
        pass

    def latched(self) -> int | None:
        return self.latch

    def check(self) -> None:
        if self.closed:
            raise CameraLostError("gone")

    def close(self) -> None:
        self.closed = True


class ToyEngine:
    """In the place of stages.engine.Engine: the same Inspector, without a bundle."""

    def __init__(
        self,
        stored: dict[str, Any] | None = None,
        settings: InspectionSettings = SETTINGS,
        batch: int = 16,
        on_band: Callable[[FinalBand], None] | None = None,
        recipe: str = "toy",
    ) -> None:
        self.settings = settings
        self.recipe = recipe
        self.execution = Execution("cpu", "float32", batch, 1)
        self.stored = stored
        self._on_band = on_band

    @property
    def identity(self) -> bytes:
        return self.settings.model_dump_json().encode()

    def check(self) -> None:
        pass

    def shrink(self) -> None:
        self.execution = Execution("cpu", "float32", self.execution.batch // 2, 1)

    def inspector(self, start: RollStart, progress: Any) -> Inspector:
        footprint = Footprint(start.settings["columns"], 8, start.camera, start.roll)
        snapshot = progress.snapshot if progress else None
        return Inspector(self.settings, footprint, nothing, snapshot=snapshot, on_band=self._on_band)

    def announced(self, start: RollStart) -> RollStart:
        settings = {**start.settings, "execution": self.execution.as_dict()}
        return RollStart(start.camera, start.roll, self.recipe, start.first_line, settings)


def write_line(
    folder: Path, *, encoder: str = "", rolls: str = "at-start", camera: str = "", more: str = "", **transport: Any
) -> Line:
    """A line.toml of one camera, small enough budgets given by name; `camera` and `more` are TOML."""
    text = [
        'recipe = "toy.toml"',
        f'rolls = "{rolls}"',
        "[[cameras]]",
        'name = "cam0"',
        'producer = "none.cti"',
        'serial = "1"',
        "max_line_rate_hz = 1000.0",
        camera,
        *(["[cameras.encoder]", encoder] if encoder else []),
        "[transport]",
        f'directory = "{folder}/run"',
        *(f"{key} = {value}" for key, value in transport.items()),
        "[journal]",
        f'file = "{folder}/journal.sqlite"',
        "commit_ms = 0",
        more,
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
    engine: Any = lambda recipe, stored: ToyEngine(stored, recipe=recipe or "toy")
    aside: Any = lambda work: work()

    def __post_init__(self) -> None:
        self.world = self.network.subscription(self.line.events_endpoint, ["event"])
        self.published: list[Published] = []
        self.workers: list[Worker] = []
        self.acquire: Acquire | None = None
        self.journal: Journal | None = None
        self.publisher: Publisher | None = None
        self.control = self.network.client(self.line.control_endpoint)
        self.lines_seen: dict[int, int] = {}  # line of the roll → the number in its pixels, of all that was inspected

    # ---- stages come and go

    def start_publisher(self) -> None:
        self.journal = Journal(Path(self.line.settings.journal.file), self.line.settings.journal)
        self.publisher = Publisher(
            self.line, self.journal, self.network, clock_ns=self.clock, utc_ns=self.clock, **self.with_rejects()
        )

    def with_rejects(self) -> dict[str, Any]:
        """What a publisher needs besides where the line rejects."""
        return {}

    def stop_publisher(self) -> None:
        assert self.publisher is not None
        self.publisher.close()
        self.kill_publisher()

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

    def stop_acquire(self, cause: Literal["shutdown", "camera-lost"] = "shutdown", seconds: float = 20.0) -> bool:
        """In order; whether all that was kept went over in time."""
        acquire, self.acquire = self.acquire, None
        assert acquire is not None
        drained = acquire.drain(cause, self.clock.now + int(seconds * 1e9), self.turn)
        self.network.servers.pop(self.line.frames_endpoint("cam0")).close()
        return drained

    def freeze_worker(self, worker: Worker) -> None:
        """As SIGSTOP does: its connections stay, and it does nothing until it is among the workers again."""
        self.workers.remove(worker)

    def start_worker(self) -> Worker:
        name = f"worker-{len(self.workers)}"  # what the log says: nothing else depends on it
        worker = Worker(self.line, "cam0", self.network, self.engine, name=name, clock_ns=self.clock, aside=self.aside)
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: Worker) -> None:
        self.workers.remove(worker)
        for link in worker._links:  # what the system does to a process
            link.close()

    # ---- time passes

    def feed(self, camera: ArrayCamera, pixels: NDArray[Any], heights: int | Iterable[int] = 32, **paced: Any) -> None:
        """Delivers the lines in frames of those heights (the last one repeats), at less than the highest line rate.

        Args:
            paced: `encoder`: count of the first line; `turns`: of all stages after each frame.
        """
        cuts, height, first = iter([heights] if isinstance(heights, int) else heights), 32, 0
        count, turns = paced.get("encoder"), paced.get("turns", 2)
        while first < len(pixels):
            height = next(cuts, height)
            frame = pixels[first : first + height]
            self.clock.advance(len(frame) / 900)
            camera.deliver(frame, None if count is None else count + first)
            self.turn(turns, 0.0)
            first += len(frame)

    def command(
        self, action: Literal["start", "end", "status"], roll: str = "", recipe: str = ""
    ) -> RollState | Refused:
        """What an operator asks for, and the publisher's answer; with a recipe, when it has been prepared."""
        self.control.send(RollCommand(action, roll, recipe))
        self.turn()
        while (received := self.control.receive()) is not None:
            if isinstance(received.message, RollState | Refused):
                self.turn()
                return received.message
            assert isinstance(received.message, Preparing)
            self.turn(60)  # it is said again every half second
        raise AssertionError("no answer")

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
        """What the world was told."""
        return [decode(published.event) for published in self.published]

    @property
    def stored(self) -> list[Message]:
        """What is in the journal."""
        assert self.journal is not None
        return [decode(published.event) for published in self.journal.since(0, 10**6)]

    def watch(self, band: FinalBand) -> None:
        """For an engine's `on_band`: writes down which line of the web was inspected under which number."""
        web = (band.band.web[0, :, :2].numpy() * 255).round().astype(int)
        for line, (low, high) in enumerate(web - 60, start=band.first_line):
            self.lines_seen[line] = int(low + 64 * high)

    def counters(self) -> dict[str, int]:
        """Of all stages, by name."""
        found: dict[str, int] = dict(self.publisher.counters) if self.publisher is not None else {}
        for status in self._statuses():
            found.update(status.counters)
        return found

    def _statuses(self) -> list[Status]:
        stages = [self.acquire, *self.workers]
        return [stage.status() for stage in stages if stage is not None]


def undisturbed(pixels: NDArray[np.uint8], roll: str, settings: InspectionSettings = SETTINGS) -> list[Finding]:
    """What the engine finds in the roll by itself."""
    inspector = Inspector(settings, Footprint(COLUMNS, 8, "cam0", roll), nothing)
    return inspector.push(pixels) + inspector.finish()


def findings(events: list[Message]) -> list[Message]:
    return [event for event in events if isinstance(event, Region | Gap)]


def gaps(events: list[Message]) -> list[Gap]:
    return [event for event in events if isinstance(event, Gap)]


def check_account(events: list[Message], roll: str) -> RollEnd:
    """§1's equation from outside: each event once, gaps disjoint, and their sum with the inspected lines is all."""
    told = [event for event in events if getattr(event, "roll", "") == roll and not isinstance(event, RollStart)]
    keys = [key_of(event) for event in told]
    assert len(set(keys)) == len(keys), "an event was told twice"
    end = told[-1]
    assert isinstance(end, RollEnd)
    assert end.inspected_up_to == end.lines == end.lines_inspected + end.lines_in_gaps
    covered = [line for gap in gaps(told) for line in range(gap.first_line, gap.last_line + 1)]
    assert len(set(covered)) == len(covered) == end.lines_in_gaps
    assert max(covered, default=-1) < end.lines
    return end


class Full:
    """A disk without room: `journal.commit` and the others refuse while it is in their place."""

    def __init__(self, journal: Journal, *methods: str) -> None:
        self._journal, self._methods = journal, methods or ("commit",)

    def __enter__(self) -> Full:
        for name in self._methods:
            setattr(self._journal, name, self._refuse)
        return self

    def __exit__(self, *_error: object) -> None:
        for name in self._methods:
            delattr(self._journal, name)

    def _refuse(self, *_args: object, **_named: object) -> Any:
        raise JournalFullError("no room")
