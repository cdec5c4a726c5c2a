"""Faults of a line with a PLC, judged at its gates: nothing passes that is defective or was not inspected."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linescan.messages import RollCommand
from tests.gate_rig import (
    COUNTS_PER_LINE,
    DEFECTS,
    DISTANCE,
    LANES,
    LEAD,
    RATE,
    STRIP,
    WRAP,
    WRAP_LINE,
    GateRig,
    defective,
)
from tests.line_rig import HEIGHT, SERIAL
from tests.plc_rig import untouched


@pytest.fixture(scope="module")
def line(simulated_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateRig]:
    with GateRig(tmp_path_factory.mktemp("gates"), simulated_camera) as rig:
        rig.begin()
        yield rig


@pytest.fixture
def rig(line: GateRig) -> Iterator[GateRig]:
    """The line while it passes good web; afterwards it does so again, and all that went through is judged."""
    line.start("publisher", "acquire", "worker")
    line.wait_passing(100)
    since = line.line_at_gate()
    yield line
    line.wait_passing()
    print(f"\nlines {since}…{line.line_at_gate()} at the gates went through: {line.judge(since)}")


def test_a_counter_that_wraps_within_defects(line: GateRig) -> None:
    """In the middle of one at the camera and of another at the gate; before and after it good web passes."""
    line.wait_passing(100)
    assert line.count() < WRAP
    line.wait(lambda: line.line_at_gate() > WRAP_LINE, "what the camera saw when its counter wrapped at the gate")
    line.wait_passing()
    print(f"\n{line.judge(0)}")
    before = [span for span in line.spans(0) if span[1] < WRAP]
    assert sum(end - first for first, end, _ in before) > 100 * COUNTS_PER_LINE
    assert all(first > WRAP for first, *_ in line.spans(0)[len(before) :])
    assert [reject for reject in line.rejects() if reject.first_count < WRAP <= reject.end_count]


# ------------------------------------------------------------------------------------------------ the PLC


def test_the_plc_is_switched_off_and_on(rig: GateRig) -> None:
    """With a restart it has lost its windows, those of defects on their way to the gates too."""
    rig.power_off()
    rig.wait_fault("plc-unreachable")
    rig.inspect_lines(DISTANCE // 2)  # it blocks nobody
    rig.plc.start()
    rig.wait(lambda: rig.plc.status()["table"], "the windows to be given again")
    rig.wait(lambda: "plc-unreachable" not in rig.faults, "the fault to go")


def test_the_plc_freezes(rig: GateRig) -> None:
    """Its hardware watchdog lets the gates fall."""
    rig.plc.signal(signal.SIGSTOP)
    rig.wait_fault("plc-unreachable")
    rig.inspect_lines(DISTANCE)  # all that it had been told to pass is behind the gates
    rig.plc.signal(signal.SIGCONT)
    rig.wait(lambda: "plc-unreachable" not in rig.faults, "the fault to go")


def test_the_program_of_the_plc_stops(rig: GateRig) -> None:
    rig.plc.send("freeze")
    rig.wait_fault("plc-frozen")
    rig.wait_shut("stopped")
    rig.inspect_lines(DISTANCE)
    rig.plc.send("thaw")
    rig.wait(lambda: "plc-frozen" not in rig.faults, "the fault to go")


def test_the_table_and_the_fifo_are_full(rig: GateRig) -> None:
    rig.plc.send("table 0")
    rig.wait_fault("plc-fifo-full")
    rig.wait_shut("limit", "window")
    rig.inspect_lines(DISTANCE)
    rig.plc.send("table 256")
    rig.wait(lambda: "plc-fifo-full" not in rig.faults, "the fault to go")


@pytest.mark.slow
@pytest.mark.parametrize("option", [("--map-version", "9"), ("--base-register", "100")])
def test_another_map_is_refused_without_a_word(rig: GateRig, option: tuple[str, str]) -> None:
    rig.power_off()
    rig.plc.start(*option)
    rig.wait_fault("plc-registers")
    rig.inspect_lines(DISTANCE // 2)
    assert untouched(rig.plc)
    assert {gate[1] for gate in rig.plc.status()["gates"]} == {"no-session"}
    rig.power_off()
    rig.plc.start()
    rig.wait(lambda: "plc-registers" not in rig.faults, "the fault to go")


# ------------------------------------------------------------------------------------------------ the stages


def test_a_publisher_killed_before_the_plc_has_its_orders(rig: GateRig) -> None:
    """They are in the book alone then; the web stands until there is somebody again to tell them."""
    rig.power_off()
    rig.inspect_lines(DISTANCE // 2)
    rig.simulator.send(SERIAL, "stop")
    rig.pause(0.5)
    rig.kill("publisher")
    rig.plc.start()
    ordered = rig.rejects()[-1]
    rig.start("publisher")
    ends = {ordered.end_count % WRAP}
    rig.wait(lambda: ends & {end for _, _, end in rig.plc.status()["table"]}, "the PLC to be told")
    stands = rig.count()
    rig.simulator.send(SERIAL, "go")
    rig.wait(lambda: rig.line_at_gate() > rig.line_at(stands) + DISTANCE, "what was ordered to pass the gates")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_publisher_killed_again_and_again_forgets_no_order(rig: GateRig, seed: int) -> None:
    """At random moments, so that some are between an order's row in the book, the PLC and the journal."""
    chance = random.Random(seed)
    for _ in range(3):
        rig.pause(chance.uniform(0, 0.7))
        rig.kill("publisher")
        rig.start("publisher")
        rig.wait(lambda: rig.processes["publisher"].ready, "the publisher")
    in_time = [reject.id for reject in rig.rejects() if reject.in_time]
    assert len(set(in_time)) == len(in_time), "an order was made twice"


@pytest.mark.slow
def test_a_killed_worker_delays(rig: GateRig) -> None:
    rig.kill("worker")
    rig.wait_shut("heartbeat", "limit", "window")
    rig.start("worker")


def test_a_killed_acquire_leaves_a_gap_that_is_rejected(rig: GateRig) -> None:
    rig.kill("acquire")
    rig.wait_shut("heartbeat", "limit", "window")
    rig.start("acquire")
    rig.wait(lambda: "acquire-lost" in rig.gaps(rig.roll), "the gap")


@pytest.mark.slow
def test_a_camera_that_is_unplugged(rig: GateRig) -> None:
    rig.simulator.unplug(SERIAL)
    rig.wait_exit(rig.processes["acquire"])
    rig.wait_shut("heartbeat", "limit", "window")
    rig.simulator.replug(SERIAL)
    rig.start("acquire")
    rig.wait(lambda: "camera-lost" in rig.gaps(rig.roll), "the gap")


# ------------------------------------------------------------------------------------------------ the web


def test_the_web_stops_with_defects_between_camera_and_gate(rig: GateRig) -> None:
    rig.simulator.send(SERIAL, "stop")
    rig.pause(1.5)
    stands = rig.count()
    between = (np.arange(rig.line_at_gate(), rig.line_at_gate() + DISTANCE)) % STRIP
    assert all(defective(lane)[between].any() for lane in LANES)
    rig.pause(0.5)
    assert rig.count() == stands
    rig.simulator.send(SERIAL, "go")
    rig.wait(lambda: rig.line_at_gate() > rig.line_at(stands), "it to pass the gates")


@pytest.mark.slow
def test_the_speed_changes_tenfold(rig: GateRig) -> None:
    for rate in (RATE / 10, RATE, RATE / 10, RATE):
        rig.simulator.send(SERIAL, f"rate {rate:g}")
        rig.pause(1.5)


# ------------------------------------------------------------------------------------------------ rolls


@pytest.mark.slow
def test_a_recipe_whose_bundle_is_missing_is_refused(rig: GateRig) -> None:
    recipe = (rig.folder / "recipe.toml").read_text().replace("toy.pt", "missing.pt")
    (rig.folder / "missing.toml").write_text(recipe)
    running = rig.roll
    assert "missing.pt: cannot be read" in rig.ask_for_roll("missing").reason
    since = rig.line_at_gate()
    rig.inspect_lines(DISTANCE // 2)
    assert rig.command(RollCommand("status", "", "")).roll == running
    rig.wait(lambda: rig.line_at_gate() > since + 250, "web to pass")


@pytest.mark.slow
def test_a_roll_ends_within_a_defect(rig: GateRig) -> None:
    """The web stands with one under the camera: it is closed in one roll and goes on in the next."""
    long = [defect for defect in DEFECTS if defect.end - defect.first > 100]
    within = [range(defect.first + 10, defect.end - 2 * HEIGHT) for defect in long]
    rig.wait(lambda: any(rig.web_line() % STRIP in lines for lines in within), "a long defect")
    rig.simulator.send(SERIAL, "stop")
    rig.pause(0.5)
    ended, at = rig.roll, rig.web_line() % STRIP
    assert any(defect.first < at < defect.end for defect in long)
    rig.change_roll()
    rig.simulator.send(SERIAL, "go")
    rig.wait(lambda: rig.end_of(ended) is not None and rig.progress.get(rig.roll, 0) > 200, "the next roll")
    lines = rig.end_of(ended).lines  # type: ignore[union-attr]
    assert any(region.last_line == lines - 1 and region.phase == "close" for region in rig.regions(ended))
    assert any(region.first_line == 0 for region in rig.regions(rig.roll))
    rig.wait(lambda: rig.line_at_gate() % STRIP > at, "the boundary at the gates")


@pytest.mark.slow
def test_buttons_of_the_plc(rig: GateRig) -> None:
    before = rig.roll
    rig.plc.send("splice")
    rig.plc.send("ack")
    rig.plc.send("roll-end")
    rig.wait(lambda: rig.end_of(before) is not None, "the end of the roll")
    rig.pass_lines(200)  # of no roll
    rig.plc.send("roll-start coil-17")
    rig.roll = "coil-17"
    rig.wait(lambda: rig.progress.get("coil-17", 0) > 200, "the roll that the PLC named")
    told = [notice.kind for notice in rig.notices()]
    assert "splice" in told
    assert "acknowledged" in told
    assert "outside-roll" in {reject.cause for reject in rig.rejects()}


@pytest.mark.slow
def test_bypass_and_back(line: GateRig) -> None:
    """Everything passes while it is on, and only then."""
    line.wait_passing(100)
    since = line.line_at_gate()
    line.operate("bypass-on")
    line.wait(lambda: all(gate == [True, "bypass"] for gate in line.plc.status()["gates"]), "the gates")
    on = line.line_at_gate()
    line.wait_fault("bypass")
    line.wait(lambda: line.line_at_gate() > on + STRIP, "a turn of the strip")
    off = line.line_at_gate()
    line.operate("bypass-off")
    line.wait_passing()
    line.judge(since, on - 2 * LEAD)
    for output in range(len(LANES)):
        assert line.passed(output)[on:off].mean() > 0.9, "defects too"
    line.judge(off + 2 * LEAD)
