"""A line of real processes with a PLC behind it: a simulated camera whose web goes on past two gates.

What went through the gates is in the PLC's log of them, which defects there are in the strip, and what the camera
delivered in its log. The daemon is asked for one thing: which lines it says are in gaps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linescan.messages import Done, Gap, Notice, Order, Refused, Region, Reject, RollCommand
from tests.line_rig import COLUMNS, COUNTS_PER_LINE, MARGIN, SERIAL, LineRig
from tests.plc_rig import PlcProcess, encoder, free_port

LANES = {"left": (MARGIN, 80), "right": (80, COLUMNS)}  # columns; the n-th lane has output n
COUNTS_PER_MM = 40
RATE = 500  # lines a second
DISTANCE = 750  # lines from the camera to the gates
WATCHDOG_S = 0.06
LEAD, LAG = 40, 8  # lines; the lead covers what a gate that moves at the PLC's scans lets through too late
WRAP = 1 << 32
STRIP = 1501  # lines, a prime
WRAP_LINE = 2 * STRIP + 1050  # at the camera when its counter wraps; DISTANCE lines before it there is a defect as well


class Planted(NamedTuple):
    """Lines first … end − 1 and columns of a defect."""

    first: int
    end: int
    columns: tuple[int, int]


DEFECTS = (
    Planted(60, 66, (40, 46)),
    Planted(130, 142, (76, 86)),  # in both lanes
    Planted(210, 400, (50, 55)),  # at the gate when the counter wraps
    Planted(330, 336, (100, 107)),
    Planted(600, 608, (90, 98)),
    Planted(640, 648, (90, 98)),  # nearer to it than the lead
    Planted(780, 792, (60, 66)),
    Planted(950, 1150, (110, 115)),  # at the camera when the counter wraps
    Planted(1300, 1305, (60, 65)),
    Planted(1492, 1498, (84, 92)),
)


def planted() -> NDArray[np.uint8]:
    """Grey web with the defects, bright and dark."""
    strip = np.random.default_rng(5).normal(120, 2, (STRIP, COLUMNS)).clip(0, 255).astype(np.uint8)
    for number, defect in enumerate(DEFECTS):
        strip[defect.first : defect.end, slice(*defect.columns)] = 255 if number % 2 else 0
    return strip


def defective(lane: str, around: tuple[int, int] = (0, 0)) -> NDArray[np.bool_]:
    """Lines of the strip with a defect in that lane, and so many before and behind it."""
    first, end = LANES[lane]
    found = np.zeros(STRIP, bool)
    for defect in DEFECTS:
        if defect.columns[0] < end and first < defect.columns[1]:
            found[np.arange(defect.first - around[0], defect.end + around[1]) % STRIP] = True
    return found


class GateRig(LineRig):
    """A line, and the PLC that counts with its camera."""

    def __init__(self, folder: Path, producer: Path, **settings: dict[str, object]) -> None:
        self.encoder_start = WRAP - WRAP_LINE * COUNTS_PER_LINE
        gates = [
            {"lane": lane, "output": output, "distance_mm": DISTANCE * COUNTS_PER_LINE / COUNTS_PER_MM}
            for output, lane in enumerate(LANES)
        ]
        lead, lag = (lines * COUNTS_PER_LINE / COUNTS_PER_MM for lines in (LEAD, LAG))
        port = free_port()
        super().__init__(
            folder, producer, strip=planted(), rate=RATE, camera={"encoder_start": self.encoder_start},
            web={"counts_per_mm": float(COUNTS_PER_MM), "top_speed_mm_s": 300.0, "tolerance_mm": 2.0},
            rejects={"lead_mm": lead, "lag_mm": lag, "gates": gates}, plc={"host": "127.0.0.1", "port": port},
            **settings,
        )  # fmt: skip
        self.encoder_of_plc = encoder.Simulator(self.simulator.folder, SERIAL)
        self.plc = PlcProcess(
            folder, "--simulator", str(self.simulator.folder / SERIAL), "--outputs", str(len(LANES)), "--depth", "4",
            "--back-counts", str(DISTANCE * COUNTS_PER_LINE), "--watchdog-s", str(WATCHDOG_S), port=port,
        )  # fmt: skip

    def _write_recipe(self) -> None:
        super()._write_recipe()
        lanes = "".join(
            f'[[lanes]]\nname = "{lane}"\nfirst_column = {first}\nend_column = {end}\n'
            for lane, (first, end) in LANES.items()
        )
        with (self.folder / "recipe.toml").open("a") as file:
            file.write(lanes)

    def begin(self) -> None:
        """Everything runs and passes; the web stood still until it could be inspected."""
        self.start("publisher", "acquire", "worker")
        self.wait(lambda: self.processes["acquire"].ready, "the camera")
        self.simulator.send(SERIAL, "stop")
        self.wait(lambda: self.processes["worker"].ready, "the worker")
        self.change_roll()
        self.simulator.send(SERIAL, "go")
        self.wait(lambda: self.progress.get(self.roll), f"frames of {self.roll}")

    def close(self) -> None:
        super().close()
        self.plc.kill()

    # ------------------------------------------------------------------------------------------ the PLC

    def power_off(self) -> None:
        """Its gates reject, and it forgets everything."""
        self.plc.kill()
        with self.plc.log.open("a") as log:
            for output in range(len(LANES)):
                log.write(f"{output} {self.count() % WRAP} {time.monotonic_ns()} reject power-off\n")

    def count(self) -> int:
        """The encoder's, not wrapped."""
        return int(self.encoder_of_plc.count(time.monotonic_ns()))

    def line_at_gate(self) -> int:
        return self.line_at(self.count())

    def line_at(self, count: int) -> int:
        """The web's line at the gates at that count."""
        return (count - self.encoder_start) // COUNTS_PER_LINE - DISTANCE

    @property
    def faults(self) -> tuple[str, ...]:
        status = self.statuses.get("publisher")
        return status.faults if status else ("no status",)

    def wait_fault(self, fault: str) -> None:
        self.wait(lambda: fault in self.faults, f"the fault {fault}")

    def operate(self, action: Any, lane: str = "") -> Done:
        """As `linescan operate`."""
        self._control.send(Order(action, lane, "", ""))
        answers: list[Any] = []
        self.wait(lambda: answers.extend(filter(None, [self._control.receive()])) or answers, f"an answer to {action}")
        assert isinstance(answers[0].message, Done), answers[0].message
        return answers[0].message

    def ask_for_roll(self, recipe: str) -> Refused:
        """The refusal of a roll with that recipe."""
        self._control.send(RollCommand("start", "", recipe))
        answers: list[Any] = []

        def refused() -> bool:
            answers.extend(filter(None, [self._control.receive()]))
            return any(isinstance(one.message, Refused) for one in answers)

        self.wait(refused, f"recipe {recipe} to be refused")
        found = answers[-1].message
        assert isinstance(found, Refused)
        return found

    def notices(self) -> list[Notice]:
        return [event.message for event in self.events if isinstance(event.message, Notice)]

    def rejects(self) -> list[Reject]:
        return [event.message for event in self.events if isinstance(event.message, Reject)]

    def regions(self, roll: str) -> list[Region]:
        return [message for message in self.messages(roll) if isinstance(message, Region)]

    def gaps(self, roll: str) -> set[str]:
        """Causes of the gaps in that roll."""
        return {message.cause for message in self.messages(roll) if isinstance(message, Gap)}

    # ------------------------------------------------------------------------------------------ what went through

    def spans(self, output: int) -> list[tuple[int, int, str]]:
        """First and end count of each stretch that the gate let through, and why it ended; counts do not wrap."""
        near, opened, spans = self.encoder_start, None, []
        for change in self.plc.changes():
            near += (change.count - near + WRAP // 2) % WRAP - WRAP // 2
            if change.output != output:
                continue
            if change.passes:
                opened = near
            elif opened is not None:
                spans.append((opened, near, change.why))
                opened = None
        if opened is not None:
            spans.append((opened, self.count(), ""))
        return spans

    def passed(self, output: int) -> NDArray[np.bool_]:
        """Of each line of the web, whether it went through that gate, if only in part."""
        through = np.zeros(max(self.line_at_gate(), 0) + 1, bool)
        for first, end, _ in self.spans(output):
            assert self.line_at(first) >= 0, "web that the camera never saw went through"
            through[self.line_at(first) : self.line_at(end) + 1] = True
        return through

    def wait_passing(self, lines: int = 250) -> None:
        """So many lines more go through each gate."""
        since = self.line_at_gate()
        outputs = range(len(LANES))
        self.wait(lambda: all(self.passed(one)[since:].sum() >= lines for one in outputs), "good web to pass")

    def wait_shut(self, *whys: str) -> None:
        """The PLC's program rejects at all gates, for one of these reasons."""
        self.wait(lambda: all(gate[1] in whys for gate in self.plc.status()["gates"]), f"the gates to shut: {whys}")

    def inspected(self, lines: int) -> NDArray[np.bool_]:
        """Of each line of the web: delivered by the camera's log, in a roll, inspected and in no gap by the events."""
        found = np.zeros(lines, bool)
        for roll, offsets in self.watcher.offsets.items():
            (offset,) = offsets
            end = self.end_of(roll)
            found[offset : offset + (end.lines if end else self.progress.get(roll, 0))] = True
            for gap in self.messages(roll):
                if isinstance(gap, Gap):
                    found[offset + gap.first_line : offset + gap.last_line + 1] = False
        for entry in self.simulator.log(SERIAL):
            if entry.outcome != "delivered":
                found[entry.first_line : entry.end_line] = False
        return found

    def judge(self, since: int, until: int | None = None) -> str:
        """Nothing defective and nothing uninspected went through from that line of the web on; what did, in words."""
        self.pause(0.5)  # events of what went through just now
        said = []
        for output, lane in enumerate(LANES):
            through = self.passed(output)
            stretch = slice(since, until)
            bad = np.resize(defective(lane), len(through))
            unseen = ~self.inspected(len(through))
            for what, where in (("defective", bad), ("uninspected", unseen)):
                lines = np.flatnonzero(through[stretch] & where[stretch]) + since
                assert not lines.size, f"{what} lines went through {lane}: {_runs(lines)}\n{self.account()}"
            good = ~np.resize(defective(lane, (2 * LEAD, 2 * LAG)), len(through))
            said.append(f"{lane} {(through & good)[stretch].sum()} of {good[stretch].sum()} good lines")
        return ", ".join(said)


def _runs(lines: Iterable[int]) -> str:
    """Line numbers as stretches."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(f"{first}…{last}" for first, last in runs)
