"""Two counters that a sync pulse ties: nothing passes before the first, and nothing when they no longer agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from linescan.messages import Done, Latched, Notice, Order
from linescan.stages.registration import boot_id
from tests.line_kit import ArrayCamera, write_line
from tests.test_rejects_lockstep import DISTANCE, REJECTS, Mill, blots, close

TOLERANCE = 6
PULSED = REJECTS.replace("[web]", f'[web]\ntie = "pulse"\ntolerance_mm = {TOLERANCE}')
ENCODER = 'counts_per_line = 1\nlatch = "EncoderLatchedValue"'
LAP = 1152  # lines from pulse to pulse, of more than a second


@dataclass
class PulsedMill(Mill):
    """A mill whose counters began anywhere: the camera's `base` behind the web, the PLC's `plant.offset` ahead."""

    base: int = 0
    bases: dict[str, int] = field(default_factory=dict)  # by roll
    camera: ArrayCamera | None = None

    def start_acquire(self, replay: str = "") -> ArrayCamera:
        camera = super().start_acquire(replay)
        camera.latch = self.camera.latch if self.camera is not None and not self.was_reset else 0
        deliver, base = camera.deliver, self.base
        camera.deliver = lambda pixels, count: deliver(pixels, (count - base) % 2**32)  # type: ignore[assignment]
        self.camera = camera
        return camera

    @property
    def was_reset(self) -> bool:
        return bool(self.bases) and self.base not in self.bases.values()

    def pulse(self, at_camera: bool = True, at_plc: bool = True) -> None:
        """A sync pulse, and time for both to tell."""
        assert self.camera is not None
        if at_camera:
            self.camera.latch = (self.at - self.base) % 2**32
        if at_plc:
            self.plant.pulse()
        self.plain(self.camera, 160)

    def lap(self, lines: int = LAP - 160) -> None:
        self.plain(self.camera, lines)
        self.pulse()

    def turn(self, times: int = 1, seconds: float = 0.01) -> None:
        super().turn(times, seconds)
        for roll in self.origins:
            self.bases.setdefault(roll, self.base)

    def check(self) -> None:
        wrapped = self.origins
        self.origins = {roll: (count + self.bases[roll]) % 2**32 for roll, count in wrapped.items()}
        super().check()
        self.origins = wrapped

    @property
    def faults(self) -> tuple[str, ...]:
        assert self.publisher is not None
        return self.publisher.faults

    @property
    def passed(self) -> int:
        """How much has gone through one of the gates."""
        return len(self.plant.passed[0])

    def acknowledge(self) -> None:
        assert isinstance(self.ask(Order("acknowledge", "", "", "")), Done)

    def said(self) -> list[tuple[str, str]]:
        return [(one.kind, one.text) for one in self.told(Notice) if one.kind in ("trusted", "untrusted")]


def make(folder: Path, base: int = 0, offset: int = 70_000) -> PulsedMill:
    line = write_line(folder, encoder=ENCODER, camera="mm_per_column = 1.0", more=PULSED)
    made = PulsedMill(line, folder=folder, base=base)
    made.plant.offset = offset
    return made


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[PulsedMill]:
    made = make(tmp_path)
    yield made
    close(made)


def tied(mill: PulsedMill) -> PulsedMill:
    """After its first pulse, with good web at the gates."""
    mill.plain(mill.start(), 320)
    mill.pulse()
    mill.lap(LAP + DISTANCE)
    assert mill.faults == ()
    assert mill.passed > 400
    return mill


@pytest.mark.parametrize(("base", "offset"), [(0, 70_000), (2000 - 2**32, -5), (77, 2**32 - 3000)])
def test_nothing_passes_before_the_first_pulse_and_then_what_is_good(tmp_path: Path, base: int, offset: int) -> None:
    mill = make(tmp_path, base, offset)
    camera = mill.start()
    mill.run(camera, blots(1600, 1))
    mill.pulse(at_plc=False)  # one counter alone says nothing
    mill.run(camera, blots(1600, 2))
    mill.turn(200)
    assert mill.faults == ("untrusted",)
    assert mill.plant.flags.untrusted
    assert not mill.plant.flags.ready
    assert mill.passed == 0
    mill.pulse()
    seen = mill.at
    mill.run(camera, blots(1600, 3))
    mill.plain(camera, 2 * DISTANCE)
    assert mill.faults == ()
    assert [kind for kind, _ in mill.said()] == ["trusted"]
    through = mill.went_through(0)
    assert min(through) >= seen - 160, "what was scanned before the counters were tied went through"
    assert len(through) > 1000
    mill.check()
    close(mill)


def test_counters_that_drift_are_checked_at_each_pulse(mill: PulsedMill) -> None:
    tied(mill)
    for slip in (1, 2):  # within what is allowed, and the lag covers it
        mill.plant.offset += slip
        mill.run(mill.camera, blots(LAP, 10 + slip))
        mill.pulse()
        assert mill.faults == ()
    mill.check()
    mill.plant.offset += 4
    mill.lap()
    assert mill.faults == ("untrusted",)
    ((_, text),) = [said for said in mill.said() if said[0] == "untrusted"]
    assert f"drifted apart by 7 counts, {TOLERANCE} are allowed" in text
    passed = mill.passed
    mill.lap()
    mill.lap()
    assert mill.faults == ("untrusted",), "the counters agree again, but nobody has said what was the matter"
    mill.acknowledge()
    assert mill.faults == ()
    assert mill.passed == passed
    seen = mill.at
    mill.run(mill.camera, blots(LAP, 20))
    mill.lap(2 * DISTANCE)
    assert mill.passed > passed + 400
    mill.check()
    assert min(mill.went_through(0) - set(range(seen - DISTANCE))) >= seen - 64


def test_an_acknowledgement_alone_ties_nothing(mill: PulsedMill) -> None:
    tied(mill)
    mill.plant.offset += TOLERANCE + 1
    mill.lap()
    mill.acknowledge()
    passed = mill.passed
    mill.plain(mill.camera, LAP)
    assert mill.faults == ("untrusted",)
    assert mill.passed == passed
    mill.pulse()
    assert mill.faults == ()
    mill.plain(mill.camera, 2 * DISTANCE)
    assert mill.passed > passed
    mill.check()


def test_pulses_of_one_counter_alone_are_soon_a_fault(mill: PulsedMill) -> None:
    tied(mill)
    for _ in range(2):
        mill.plain(mill.camera, LAP - 160)
        mill.pulse(at_camera=False)
        mill.turn(60)
        assert mill.faults == ()
    mill.plain(mill.camera, LAP - 160)
    mill.pulse(at_camera=False)
    mill.turn(60)
    assert mill.faults == ("untrusted",)
    passed = mill.passed
    mill.plain(mill.camera, 2 * DISTANCE)
    assert mill.passed == passed


def test_a_web_that_stands_drifts_nowhere(mill: PulsedMill) -> None:
    tied(mill)
    assert mill.camera is not None
    for _ in range(8):  # of pulses that come by the clock
        mill.turn(200)
        mill.camera.latch = mill.at
        mill.plant.pulse()
    assert mill.faults == ()
    mill.lap()
    assert mill.faults == ()


# ------------------------------------------------------------------------------------------------ who dies


def test_a_publisher_goes_on_with_the_offset_that_it_knew(mill: PulsedMill) -> None:
    tied(mill)
    mill.kill_publisher()
    mill.run(mill.camera, blots(256, 30, 2))
    mill.start_publisher()
    passed = mill.passed
    mill.run(mill.camera, blots(640, 31, 3))
    mill.plain(mill.camera, 2 * DISTANCE)
    assert mill.faults == ()
    assert mill.passed > passed + 200
    mill.lap()
    assert mill.faults == ()
    mill.check()


def test_a_pulse_from_before_a_publisher_began_is_no_pair(mill: PulsedMill) -> None:
    """Acquire told it long ago, and it waited in a socket; meanwhile the PLC latched another one."""
    mill.start()
    mill.plain(mill.camera, 640)
    assert mill.acquire is not None
    link = mill.acquire._publisher
    late = Latched("cam0", 1, mill.at, mill.clock(), boot_id())
    mill.plain(mill.camera, LAP)
    mill.kill_publisher()
    mill.start_publisher()
    mill.turn(3)
    mill.plant.pulse()
    link.report(late)
    mill.turn(3)
    assert mill.faults == ("untrusted",)
    assert mill.publisher is not None
    assert mill.publisher.counters["pulses_late"] == 1
    mill.turn(100)
    mill.lap()
    assert mill.faults == ()


def test_a_tie_that_was_lost_is_not_found_by_beginning_anew(mill: PulsedMill) -> None:
    tied(mill)
    mill.plant.offset += TOLERANCE + 1
    mill.lap()
    assert mill.faults == ("untrusted",)
    mill.plain(mill.camera, 320)
    mill.stop_publisher()
    mill.start_publisher()
    passed = mill.passed
    mill.plain(mill.camera, 3 * DISTANCE)
    assert mill.faults == ("untrusted",)
    assert mill.passed == passed
    mill.pulse()
    mill.plain(mill.camera, 2 * DISTANCE)
    assert mill.faults == ()
    assert mill.passed > passed
    mill.check()


def test_a_camera_that_comes_back_keeps_its_counter_and_its_pulses_count(mill: PulsedMill) -> None:
    tied(mill)
    for number in range(3):
        mill.kill_acquire()
        mill.run(None, blots(128, 40 + number, 2))
        mill.start_acquire()
        mill.turn(80, 0.15)  # until a worker has the lease
        mill.run(mill.camera, blots(LAP, 50 + number))
        assert "untrusted" not in mill.faults, "the count that stood there was no pulse"
        mill.acknowledge()  # what was found late, while nobody inspected
        before = mill.passed
        mill.pulse()  # each acquire's first
        mill.plain(mill.camera, LAP)
        assert mill.faults == ()
        assert mill.passed > before
    mill.check()
    assert mill.publisher is not None
    mill.plant.offset += TOLERANCE + 1
    mill.lap()
    assert mill.faults == ("untrusted",), "the pulses are compared"


@pytest.mark.parametrize("moved", [900_000, -900_000, 3000])
def test_a_counter_that_was_reset_places_no_line(mill: PulsedMill, moved: int) -> None:
    """The camera was without power: from where it counts now nobody knows until the next pulse."""
    tied(mill)
    mill.command("end")
    mill.kill_acquire()
    mill.run(None, blots(64, 60, 2))
    mill.base += moved
    mill.start_acquire()
    mill.turn(80, 0.15)  # until a worker has the lease
    mill.command("start")
    seen = mill.at
    mill.run(mill.camera, blots(640, 61))
    mill.run(mill.camera, blots(640, 62))
    assert max(mill.went_through(0)) < seen
    mill.check()
    assert "untrusted" in mill.faults
    mill.lap()
    mill.acknowledge()
    passed = mill.passed
    mill.plain(mill.camera, 3 * DISTANCE)
    assert mill.faults == ()
    assert mill.passed > passed + 400
    mill.check()
