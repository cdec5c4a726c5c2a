"""The whole way from a camera's lines to the gates: nothing passes that was found, or that nobody inspected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.cameras.camera import LinesLost
from linescan.config import Lane
from linescan.journal.orders import OrderBook
from linescan.messages import Done, Gap, Notice, Order, Refused, Region, Reject, RollStart, RollState
from linescan.plc.link import COUNTS, SEQUENCES
from linescan.plc.orders import Orders
from linescan.schedule import Window
from linescan.stages import order_desk
from linescan.stages.order_desk import NO_GRADE, OrderDesk
from tests.line_kit import COLUMNS, SETTINGS, ArrayCamera, Desk, ToyEngine, write_line
from tests.plc_kit import Plant, PlantLink

DISTANCE, LEAD, LAG = 400, 5, 3
START = 1280  # lines until the line is known to be alive and its counters to agree: before, nothing passes
LANES = (Lane(name="left", first_column=0, end_column=24), Lane(name="right", first_column=24, end_column=COLUMNS))
REJECTS = f"""
[web]
counts_per_mm = 1.0
top_speed_mm_s = 1000.0
[rejects]
lead_mm = {LEAD}
lag_mm = {LAG}
gates = [
  {{lane = "left", output = 0, distance_mm = {DISTANCE}}},
  {{lane = "right", output = 1, distance_mm = {DISTANCE}}},
]
"""


@dataclass
class Mill(Desk):
    """A line above a plant: what the camera has seen passes the gates DISTANCE further on."""

    folder: Path = field(kw_only=True)
    plant: Plant = field(init=False)
    books: list[OrderBook] = field(default_factory=list)
    at: int = 0  # count of the next line
    shift: int = 0  # of the camera's counter
    true: list[NDArray[np.uint8]] = field(default_factory=list)  # every line that there was
    origins: dict[str, int] = field(default_factory=dict)  # of rolls, the count of line 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.plant = Plant(self.clock)
        lanes = SETTINGS.model_copy(update={"lanes": LANES})
        self.engine = lambda recipe, stored: ToyEngine(stored, settings=lanes)

    def with_rejects(self) -> dict[str, Any]:
        self.books.append(OrderBook(self.folder / "orders.sqlite"))
        return {"book": self.books[-1], "link": PlantLink(self.plant)}

    def kill_publisher(self) -> None:
        super().kill_publisher()
        self.books[-1].close()

    def start(self) -> ArrayCamera:
        self.start_publisher()
        camera = self.start_acquire()
        self.start_worker()
        self.turn(5)
        return camera

    def run(self, camera: ArrayCamera | None, pixels: NDArray[np.uint8], lost: bool = False) -> None:
        """The web moves on by these lines, past a camera that sees them, or not."""
        for first in range(0, len(pixels), 32):
            frame = pixels[first : first + 32]
            self.clock.advance(len(frame) / 900)
            if camera is not None and lost:
                camera.queue.append(LinesLost(len(frame), "incomplete"))
            elif camera is not None:
                camera.deliver(frame, self.at + self.shift)
            self.true.append(frame)
            self.at += len(frame)
            self.plant.moves_to(self.at)
            self.turn(2, 0.0)

    def plain(self, camera: ArrayCamera | None, lines: int) -> None:
        self.run(camera, np.full((lines, COLUMNS), 75, np.uint8))

    def ask(self, order: Order) -> Done | Refused:
        self.control.send(order)
        self.turn()
        received = self.control.receive()
        assert received is not None
        assert isinstance(received.message, Done | Refused)
        return received.message

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    # ---- what is true of the web

    def went_through(self, output: int) -> set[int]:
        """Counts of the web at the camera, of what passed that gate."""
        return {count - DISTANCE for count in self.plant.passed[output]}

    def defective(self, output: int) -> set[int]:
        """Lines with a blot in that lane."""
        lane = LANES[output]
        pixels = np.concatenate(self.true)[:, lane.first_column : lane.end_column]
        return set(np.flatnonzero((pixels == 255).any(1)).tolist())

    def check(self) -> None:
        """Nothing that the engine must find went through, and nothing beyond what was inspected."""
        for output in range(len(LANES)):
            through = self.went_through(output)
            for gap in self.told(Gap):
                origin = self.origins[gap.roll]
                assert not through & set(range(origin + gap.first_line, origin + gap.last_line + 1))
            assert not through & self.defective(output), "a defective line went through"

    def turn(self, times: int = 1, seconds: float = 0.01) -> None:
        super().turn(times, seconds)
        if self.publisher is not None and self.journal is not None:
            origin = self.journal.camera("cam0").origin
            if origin is not None and origin.encoder_count is not None:
                self.origins[origin.roll] = origin.encoder_count


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    made = make(tmp_path)
    yield made
    close(made)


def make(folder: Path, rejects: str = REJECTS) -> Mill:
    line = write_line(
        folder, encoder="counts_per_line = 1", camera="mm_per_column = 1.0", more=rejects
    )  # fmt: skip
    return Mill(line, folder=folder)


def close(mill: Mill) -> None:
    if mill.journal is not None:
        mill.journal.close()
    for book in mill.books:
        book.close()


def blots(lines: int, seed: int, defects: int = 10) -> NDArray[np.uint8]:
    """Grey web with bright blots that lie in it whole, none too small to be found."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(60, 90, (lines, COLUMNS)).astype(np.uint8)
    for _ in range(defects):
        height, width = generator.integers(6, 30), generator.integers(6, 14)
        top, left = generator.integers(0, lines - height + 1), generator.integers(0, COLUMNS - width + 1)
        pixels[top : top + height, left : left + width] = 255
    return pixels


class WaitingLink:
    """A PlcLink whose orders can be looked at."""

    def __init__(self) -> None:
        self.orders = Orders()
        self.order, self.forget = self.orders.order, self.orders.forget


# ------------------------------------------------------------------------------------------------ undisturbed


def test_defects_are_rejected_and_the_rest_passes(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.run(camera, blots(1500, 3))
    mill.plain(camera, 2 * DISTANCE)
    mill.check()
    assert mill.told(Reject)
    assert all(reject.in_time for reject in mill.told(Reject))
    assert mill.publisher is not None
    assert mill.publisher.faults == ()
    for output, lane in enumerate(LANES):
        rejected = {count - DISTANCE for count in mill.plant.rejected[output]}
        near = {
            count
            for region in mill.told(Region)
            if lane.name in region.lanes
            for count in range(region.first_line - LEAD, region.last_line + 1 + LAG)
        }
        begun = range(START - DISTANCE, mill.at - DISTANCE)
        assert {count for count in rejected if count in begun} == {count for count in near if count in begun}


def test_lost_lines_and_the_web_between_rolls_are_rejected(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.run(camera, np.full((96, COLUMNS), 75, np.uint8), lost=True)
    mill.plain(camera, 320)
    mill.command("end")
    mill.plain(camera, 160)  # of no roll
    outside = range(mill.at - 160, mill.at - 32)
    mill.command("start")
    mill.plain(camera, 3 * DISTANCE)
    mill.check()
    for output in range(2):
        through = mill.went_through(output)
        assert not through & set(outside)
        assert set(range(mill.at - 2 * DISTANCE, mill.at - DISTANCE - 10)) <= through
    causes = {reject.cause for reject in mill.told(Reject)}
    assert {"gap", "outside-roll"} <= causes


def test_a_long_defect_is_rejected_while_it_still_runs(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, 320)
    pixels = np.full((3 * DISTANCE, COLUMNS), 75, np.uint8)
    pixels[:, 4:12] = 255
    mill.run(camera, pixels)
    ordered = max(reject.end_count for reject in mill.told(Reject) if reject.lane == "left")
    assert ordered > mill.at - 150 + DISTANCE  # its windows grow with it
    mill.check()


# ------------------------------------------------------------------------------------------------ disturbed

ACTIONS = ("worker", "publisher", "stop publisher", "acquire", "plc away", "plc back", "end", "start", "lose", "none")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)  # fmt: skip
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 6)), max_size=10), st.integers(0, 1000))
def test_whatever_dies_nothing_uninspected_passes(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int]], seed: int
) -> None:
    mill = make(tmp_path_factory.mktemp("mill"))
    try:
        disturb(mill, script, seed)
        mill.check()
        assert len(mill.plant.passed[0]) > 50, "in the end good web passes again"
    finally:
        close(mill)


def disturb(mill: Mill, script: list[tuple[str, int]], seed: int) -> None:
    camera: ArrayCamera | None = mill.start()
    mill.plain(camera, 320)
    for number, (action, frames) in enumerate(script):
        if action == "worker":
            mill.kill_worker(mill.workers[0])
            mill.start_worker()
        elif "publisher" in action:
            (mill.kill_publisher if action == "publisher" else mill.stop_publisher)()
            mill.run(camera, blots(64, seed + number, 2))
            mill.start_publisher()
        elif action == "acquire":
            mill.kill_acquire()
            mill.run(None, blots(64, seed + number, 2))
            camera = mill.start_acquire()
            mill.turn(5)
        elif action in ("plc away", "plc back"):
            mill.plant.away = action == "plc away"
        elif action in ("end", "start"):
            mill.command(action)  # type: ignore[arg-type]
        elif action == "lose":
            mill.run(camera, blots(32, seed + number, 1), lost=True)
        mill.run(camera, blots(64 + 32 * frames, seed + 100 + number, 2))
    mill.plant.away = False
    mill.turn(40, 0.15)
    mill.command("start")
    mill.plain(camera, 3 * DISTANCE)
    mill.turn(40, 0.15)
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 2 * DISTANCE)


def test_a_publisher_that_starts_above_a_standing_web_goes_on(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.kill_publisher()
    mill.start_publisher()
    mill.turn(40, 0.05)  # no line comes
    assert mill.publisher is not None
    assert mill.publisher.faults == ()
    assert mill.plant.flags.ready
    mill.plain(camera, 2 * DISTANCE)
    assert set(range(START - DISTANCE, START + DISTANCE - 40)) <= mill.went_through(0)


# ------------------------------------------------------------------------------------------------ operators


def test_orders_of_an_operator(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    assert isinstance(mill.ask(Order("test-reject", "middle", "", "")), Refused)
    passed = set(mill.plant.passed[0])
    assert isinstance(mill.ask(Order("test-reject", "left", "", "")), Done)
    mill.plain(camera, 640)
    new = range(START + 1, START + 400)
    assert not set(new) <= mill.plant.passed[0] - passed
    assert set(new) <= mill.plant.passed[1]
    assert isinstance(mill.ask(Order("bypass-on", "", "", "")), Done)
    mill.turn(200)
    assert "bypass" in mill.publisher.faults if mill.publisher else False
    assert mill.plant.flags.bypass
    mill.ask(Order("bypass-off", "", "", ""))
    mill.turn(2)
    assert not mill.plant.flags.bypass
    assert isinstance(mill.ask(Order("splice", "", "", "by hand")), Done)
    assert isinstance(mill.ask(Order("verdict", "", "1", "false-alarm")), Done)
    assert isinstance(mill.ask(Order("verdict", "", "100000", "defect")), Refused)
    mill.turn(5)
    kinds = [notice.kind for notice in mill.told(Notice)]
    assert kinds == ["trusted", "test-reject", "bypass-on", "bypass-off", "splice", "verdict"]


def test_buttons_of_the_plc(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, 320)
    mill.plant.roll_end += 1
    mill.plain(camera, 64)
    mill.plant.roll_start += 1
    mill.plant.splice += 1
    mill.plain(camera, 64)
    mill.turn(40, 0.15)
    assert len({start.roll for start in mill.told(RollStart)}) == 2
    assert "splice" in [notice.kind for notice in mill.told(Notice)]
    for text in ("4711", "4712/denim", "4711"):  # the last one was there before
        mill.plant.roll_id = text
        mill.plant.roll_start += 1
        mill.plain(camera, 64)
        mill.turn(40, 0.15)
    assert [start.roll for start in mill.told(RollStart)][-2:] == ["4711", "4712"]
    state = mill.command("status")
    assert isinstance(state, RollState)
    assert (state.roll, state.recipe) == ("4712", "denim")
    (refused,) = [notice for notice in mill.told(Notice) if notice.kind == "refused"]
    assert "4711" in refused.text


def test_a_gate_that_the_inspection_does_not_reach_is_told(tmp_path: Path) -> None:
    mill = make(tmp_path, REJECTS.replace("lead_mm", 'uninspected = "stop"\nlead_mm'))
    camera = mill.start()
    mill.plain(camera, START)
    assert mill.publisher is not None
    assert mill.publisher.faults == ()
    mill.freeze_worker(mill.workers[0])
    for _ in range(60):
        mill.clock.advance(0.1)  # a slow web, so that it lasts
        mill.plain(camera, 32)
    assert "gate-held" in mill.publisher.faults
    assert mill.plant.flags.stop_line
    close(mill)


def test_a_counter_of_the_plc_that_is_reset_rejects_everything_until_acknowledged(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.run(camera, blots(320, 2, 3))
    mill.plant.restarts()
    mill.plant.offset = -mill.plant.position
    at = mill.at
    mill.plain(camera, 2 * DISTANCE)
    assert not mill.went_through(0) & set(range(at - DISTANCE + 40, mill.at))
    assert mill.publisher is not None
    assert "untrusted" in mill.publisher.faults
    assert mill.plant.flags.untrusted
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 2 * DISTANCE)
    assert "untrusted" in mill.publisher.faults  # the counters still do not agree
    mill.plant.offset = 0  # as line.toml says
    mill.plain(camera, 64)
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 3 * DISTANCE)
    assert mill.publisher.faults == ()
    assert mill.at - 2 * DISTANCE in mill.went_through(0)
    mill.check()


def test_behind_a_gap_of_estimated_length_everything_is_rejected_until_the_next_roll(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, START)
    mill.kill_acquire()
    mill.run(None, np.full((64, COLUMNS), 75, np.uint8))
    at = mill.at
    mill.shift = 1 << 20  # the camera's counter was reset
    camera = mill.start_acquire()
    mill.turn(5)
    mill.plain(camera, 64)
    mill.turn(40, 0.15)  # the worker notices by its next credit
    mill.plain(camera, START)
    assert [gap.estimated for gap in mill.told(Gap)] == [True]
    assert not mill.went_through(0) & set(range(at - 64, mill.at))
    mill.command("start")
    mill.shift = 0
    mill.plain(camera, 320)
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 3 * DISTANCE)
    assert mill.at - 2 * DISTANCE in mill.went_through(0)
    mill.check()


def test_an_order_that_the_plc_gets_too_late_is_told_until_acknowledged(mill: Mill) -> None:
    camera = mill.start()
    mill.plain(camera, 640)
    mill.plant.away = True
    mill.run(camera, blots(320, 5, 4))
    mill.plain(camera, 2 * DISTANCE)
    mill.plant.away = False
    mill.plain(camera, 320)
    assert mill.publisher is not None
    assert "reject-late" in mill.publisher.faults
    assert mill.plant.flags.late
    late = [reject for reject in mill.told(Reject) if not reject.in_time]
    assert late
    mill.check()  # the PLC had no limit to pass it
    assert isinstance(mill.ask(Order("acknowledge", "", "", "")), Done)
    mill.turn(5)
    assert "reject-late" not in mill.publisher.faults


def test_a_plc_that_is_away_for_long_costs_no_more_than_it_may(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered for it is thrown away, loudly: until an operator says so nothing passes."""
    monkeypatch.setattr(order_desk, "MOST_PENDING", 40)
    camera = mill.start()
    mill.plain(camera, START)
    mill.plant.away = True
    at, most = mill.at, 0
    assert mill.publisher is not None
    for seed in range(30):
        mill.run(camera, blots(320, seed, 12))
        most = max(most, mill.publisher._rejector.counters["orders_pending"])
    assert 0 < most <= 40
    assert [notice for notice in mill.told(Notice) if "too many orders waited" in notice.text]
    mill.plant.away = False
    mill.plain(camera, 2 * DISTANCE)
    assert mill.plant.flags.untrusted
    assert not mill.went_through(0) & set(range(at, mill.at))
    mill.ask(Order("acknowledge", "", "", ""))
    mill.plain(camera, 3 * DISTANCE)
    assert mill.at - 2 * DISTANCE in mill.went_through(0)
    mill.check()


def test_an_order_that_waited_for_a_quarter_of_the_plc_s_counter_is_not_given_to_it(tmp_path: Path) -> None:
    book, link = OrderBook(tmp_path / "orders.sqlite"), WaitingLink()
    desk = OrderDesk(book, link, {"left": 0}, lambda _: None)
    assert not desk.overflows(1 << 40)
    for number in range(3):
        first = 10**6 * number
        desk.order("r", Window("left", "region", f"cam0/{number}", first, first + 50, first - 10, True), NO_GRADE)
    assert not desk.overflows(None)
    assert not desk.overflows(50 + COUNTS // 4)
    assert desk.overflows(51 + COUNTS // 4)
    desk.forget({"left": 100})
    assert not desk.overflows(51 + COUNTS // 4)
    book.close()


def test_more_orders_than_the_plc_has_sequences_are_each_given_again(tmp_path: Path) -> None:
    book, link = OrderBook(tmp_path / "orders.sqlite"), WaitingLink()
    desk = OrderDesk(book, link, {"left": 0}, lambda _: None)
    count = SEQUENCES + 9
    with patch.object(book, "add"), patch.object(book, "forget"):  # which is tested elsewhere, and slow
        for number in range(count):
            first = 100 * number
            desk.order("r", Window("left", "region", f"cam0/{number}", first, first + 50, first - 10, True), NO_GRADE)
        while link.orders.take(64).waiting:
            link.orders.done()
        desk.forget({"left": 100 * (count - 10)})
    link.orders.again()
    again = link.orders.take(64).orders
    assert [one.first for one in again] == [100 * number for number in range(count - 10, count)]
    book.close()


def test_a_line_without_rejects_refuses_their_orders(tmp_path: Path) -> None:
    desk = Desk(write_line(tmp_path))
    desk.start_publisher()
    desk.control.send(Order("bypass-on", "", "", ""))
    desk.turn(2)
    received = desk.control.receive()
    assert received is not None
    assert isinstance(received.message, Refused)
    assert desk.journal is not None
    desk.journal.close()
