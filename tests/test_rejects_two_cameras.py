"""Two cameras over three lanes: a defect at their border is one, and no lane passes what one of them has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from linescan.config import Geometry, Lane
from linescan.inspection import Footprint, Inspector
from linescan.journal.orders import OrderBook
from linescan.line import Line
from linescan.messages import Gap, Region, RollStart
from linescan.stages.acquire import Acquire
from linescan.stages.worker import Worker
from tests.inspection_kit import nothing
from tests.line_kit import COLUMNS, SETTINGS, ArrayCamera, Desk, ToyEngine
from tests.plc_kit import Plant, PlantLink

SECOND_MM, BEHIND_MM = 40, 10  # where the second camera is, across the web and along it
WIDTH = SECOND_MM + COLUMNS
LANES = {"left": (0, 30), "middle": (30, 58), "right": (58, WIDTH)}
DISTANCE, START = 400, 1280
LINE = f"""
recipe = "toy.toml"
rolls = "at-start"
[[cameras]]
name = "cam0"
producer = "none.cti"
serial = "1"
max_line_rate_hz = 1000.0
mm_per_column = 1.0
features = {{Width = {COLUMNS}}}
encoder = {{counts_per_line = 1}}
[[cameras]]
name = "cam1"
producer = "none.cti"
serial = "2"
max_line_rate_hz = 1000.0
mm_per_column = 1.0
x_offset_mm = {SECOND_MM}
y_offset_mm = {BEHIND_MM}
features = {{Width = {COLUMNS}}}
encoder = {{counts_per_line = 1}}
[transport]
directory = "FOLDER/run"
[journal]
file = "FOLDER/journal.sqlite"
commit_ms = 0
[web]
counts_per_mm = 1.0
top_speed_mm_s = 1000.0
[rejects]
lead_mm = 5
lag_mm = 3
gates = [
  {{lane = "left", output = 0, distance_mm = {DISTANCE}}},
  {{lane = "middle", output = 1, distance_mm = {DISTANCE}}},
  {{lane = "right", output = 2, distance_mm = {DISTANCE}}},
]
"""


class Strip(ToyEngine):
    """The toy of one camera, which knows its place across the web and its lanes."""

    def __init__(self, offset_mm: int, stored: dict[str, Any] | None) -> None:
        self._geometry = Geometry(mm_per_column=1.0, x_offset_mm=offset_mm, mm_per_line=1.0)
        edges = {name: (max(low - offset_mm, 0), min(high - offset_mm, COLUMNS)) for name, (low, high) in LANES.items()}
        lanes = [
            Lane(name=name, first_column=low, end_column=high) for name, (low, high) in edges.items() if low < high
        ]
        super().__init__(stored, settings=SETTINGS.model_copy(update={"lanes": tuple(lanes)}))

    def inspector(self, start: RollStart, progress: Any) -> Inspector:
        footprint = Footprint(start.settings["columns"], 8, start.camera, start.roll, self._geometry)
        return Inspector(self.settings, footprint, nothing, snapshot=progress.snapshot if progress else None)

    def announced(self, start: RollStart) -> RollStart:
        start = super().announced(start)
        return replace(start, settings={**start.settings, "inspection": self.settings.model_dump(mode="json")})


@dataclass
class Pair(Desk):
    """Two cameras above one web, and the gates behind them. A row of the web is where it is at the reference line."""

    folder: Path = field(kw_only=True)
    plant: Plant = field(init=False)
    books: list[OrderBook] = field(default_factory=list)
    acquires: dict[str, Acquire] = field(default_factory=dict)
    cameras: dict[str, ArrayCamera] = field(default_factory=dict)
    web: NDArray[np.uint8] = field(default_factory=lambda: np.full((BEHIND_MM, WIDTH), 75, np.uint8))  # from row −10 on

    def __post_init__(self) -> None:
        super().__post_init__()
        self.begun: set[str] = set()
        self.plant = Plant(self.clock, outputs=len(LANES))
        self.plant.passed, self.plant.rejected = [set() for _ in LANES], [set() for _ in LANES]

    def with_rejects(self) -> dict[str, Any]:
        self.books.append(OrderBook(self.folder / "orders.sqlite"))
        return {"book": self.books[-1], "link": PlantLink(self.plant)}

    def kill_publisher(self) -> None:
        super().kill_publisher()
        self.books[-1].close()

    def begin(self) -> None:
        self.start_publisher()
        for name in ("cam0", "cam1"):
            self.start_camera(name)
            self.start_worker_of(name)
        self.turn(5)
        self.plain(START)

    def start_camera(self, name: str) -> None:
        camera = self.cameras[name] = ArrayCamera(self.clock)
        settings = self.line.camera(name)
        clocks = {"clock_ns": self.clock, "utc_ns": self.clock}
        self.acquires[name] = Acquire(self.line, settings, camera, self.network, **clocks)

    def kill_camera(self, name: str) -> None:
        del self.acquires[name], self.cameras[name]
        self.begun.discard(name)
        self.network.servers.pop(self.line.frames_endpoint(name)).close()

    def start_worker_of(self, name: str) -> Worker:
        offset = SECOND_MM if name == "cam1" else 0
        made = Worker(
            self.line, name, self.network, lambda recipe, stored: Strip(offset, stored),
            name=f"{name}-{len(self.workers)}", clock_ns=self.clock, aside=self.aside,
        )  # fmt: skip
        self.workers.append(made)
        return made

    def turn(self, times: int = 1, seconds: float = 0.01) -> None:
        for _ in range(times):
            self.clock.advance(seconds)
            for name, acquire in self.acquires.items():
                if name in self.begun:
                    acquire.turn()
                elif acquire.registered:
                    acquire.begin()
                    self.begun.add(name)
            super().turn(1, 0.0)

    def run(self, rows: NDArray[np.uint8]) -> None:
        """The web moves on by these rows at the reference line, past the cameras that there are."""
        for first in range(0, len(rows), 32):
            self.web = np.concatenate([self.web, rows[first : first + 32]])
            at = len(self.web) - BEHIND_MM
            count = at - len(rows[first : first + 32])
            self.clock.advance((at - count) / 900)
            for name, camera in self.cameras.items():
                side, late = (SECOND_MM, BEHIND_MM) if name == "cam1" else (0, 0)
                seen = self.web[count + BEHIND_MM - late : at + BEHIND_MM - late, side : side + COLUMNS]
                camera.deliver(seen, count)
            self.plant.moves_to(at)
            self.turn(2, 0.0)

    @property
    def at(self) -> int:
        return len(self.web) - BEHIND_MM

    def plain(self, rows: int) -> None:
        self.run(np.full((rows, WIDTH), 75, np.uint8))

    def through(self, lane: str) -> set[int]:
        """Rows at the reference line that went through that lane's gate."""
        return {count - DISTANCE for count in self.plant.passed[list(LANES).index(lane)]}

    def check(self) -> None:
        for lane, (low, high) in LANES.items():
            defective = np.flatnonzero((self.web[BEHIND_MM:, low:high] == 255).any(1)).tolist()
            assert not self.through(lane) & set(defective), f"a defective row went through the {lane} lane"

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def faults(self) -> tuple[str, ...]:
        assert self.publisher is not None
        return self.publisher.faults


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    path = tmp_path / "line.toml"
    path.write_text(LINE.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    made = Pair(Line(path), folder=tmp_path)
    yield made
    if made.journal is not None:
        made.journal.close()
    for book in made.books:
        book.close()


def blot(*boxes: tuple[int, int, int, int], rows: int = 320) -> NDArray[np.uint8]:
    """Grey web with bright boxes: first and last row, first and last column (the last ones not included)."""
    web = np.full((rows, WIDTH), 75, np.uint8)
    for top, end, left, right in boxes:
        web[top:end, left:right] = 255
    return web


def near(rows: set[int], first: int, end: int) -> set[int]:
    return rows & set(range(first, end))


def test_a_defect_across_the_border_is_one_and_rejected_in_all_its_lanes(pair: Pair) -> None:
    pair.begin()
    begun = pair.at
    pair.run(blot((100, 130, 20, 70)))  # under both cameras, in all lanes
    pair.run(blot((100, 130, 36, 52)))  # under both, in the middle
    pair.run(blot((100, 130, 4, 20), (200, 230, 64, 80)))  # under one
    pair.plain(2 * DISTANCE)
    assert pair.faults == ()
    closes = [region for region in pair.told(Region) if region.phase == "close"]
    merged = [region for region in closes if region.merged_into is not None]
    assert [region.camera for region in closes if region.merged_into is None] == ["cam0", "cam0", "cam0", "cam1"]
    ids = [region.id for region in closes if region.camera == "cam0"]
    assert [(region.camera, region.merged_into) for region in merged] == [
        ("cam1", f"cam0/{ids[0]}"), ("cam1", f"cam0/{ids[1]}")
    ]  # fmt: skip
    pair.check()
    wide, inner, left, right = begun + 100, begun + 420, begun + 740, begun + 840
    for lane in LANES:
        through, rejected = pair.through(lane), {"left": (wide, left), "middle": (wide, inner), "right": (wide, right)}
        for first in (wide, inner, left, right):
            assert bool(near(through, first, first + 30)) == (first not in rejected[lane])
        spans = sum(30 + 8 for _ in rejected[lane])
        assert len(near(through, begun, begun + 960)) == 960 - spans


@pytest.mark.parametrize("seed", range(3))
def test_wherever_the_defects_are_none_goes_through(pair: Pair, seed: int) -> None:
    pair.begin()
    generator = np.random.default_rng(seed)
    for _ in range(4):
        boxes = []
        for _ in range(6):
            top, left = generator.integers(0, 290), generator.integers(0, WIDTH - 8)
            boxes.append((top, top + generator.integers(6, 30), left, left + generator.integers(8, 40)))
        pair.run(blot(*boxes))
    pair.plain(2 * DISTANCE)
    assert pair.faults == ()
    pair.check()
    assert all(len(pair.through(lane)) > 1000 for lane in LANES)


def test_a_lane_passes_only_what_both_its_cameras_have_inspected(pair: Pair) -> None:
    pair.begin()
    (behind,) = [worker for worker in pair.workers if worker._camera == "cam1"]
    seen = pair.at
    pair.freeze_worker(behind)
    pair.run(blot((100, 130, 36, 52), (200, 230, 60, 80), rows=960))
    left, middle, right = pair.plant.limits[:3]
    assert left is not None
    assert middle is not None
    assert middle == right <= seen + DISTANCE < seen + 800 + DISTANCE < left
    assert max(pair.through("left")) > seen + 400
    assert max(pair.through("middle") | pair.through("right")) < seen
    pair.check()
    pair.workers.append(behind)
    pair.plain(2 * DISTANCE)
    left, middle, right = pair.plant.limits[:3]
    assert middle is not None
    assert middle > seen + 1600 + DISTANCE - 100
    assert max(pair.through("right")) > seen + 1300
    pair.check()


@pytest.mark.parametrize("name", ["cam0", "cam1"])
def test_a_camera_that_is_gone_stops_its_lanes_then_all_and_comes_back(pair: Pair, name: str) -> None:
    pair.begin()
    seen = pair.at
    pair.kill_camera(name)
    alone, dead = ("left", ("middle", "right")) if name == "cam1" else ("right", ("left", "middle"))
    pair.run(blot((100, 130, 20, 70), rows=960))
    assert max(pair.through(alone)) > seen + 300
    assert all(max(pair.through(lane)) < seen for lane in dead)
    pair.plain(5000)  # until the heartbeat has stopped
    begun = pair.at
    pair.plain(960)
    assert all(not near(pair.through(lane), begun - DISTANCE, begun + 960) for lane in LANES), (
        "it says that it is alive"
    )
    pair.check()
    pair.start_camera(name)
    pair.turn(80, 0.15)  # until a worker has the lease
    back = pair.at
    pair.plain(3 * DISTANCE)
    assert [gap.cause for gap in pair.told(Gap) if gap.camera == name] == ["acquire-lost"]
    for lane in LANES:
        assert near(pair.through(lane), back + 200, back + 700), f"good web passes the {lane} lane again"
    for lane in dead:
        assert not near(pair.through(lane), seen, back - BEHIND_MM)
    pair.check()
