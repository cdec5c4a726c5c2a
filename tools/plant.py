"""The demo's plant: the reference PLC over the simulated camera's web, and what its gates did to planted defects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from linescan.line import Line  # noqa: E402


@contextmanager
def running(config: Path, state: Path, serial: str, log: Path) -> Iterator[None]:
    """The PLC as a process, its encoder that of the simulated camera; `log` gets each change of a gate."""
    line = Line(config)
    plc, web, rejects = line.settings.plc, line.settings.web, line.settings.rejects
    assert plc is not None
    assert web is not None
    assert rejects is not None
    back = round(max(gate.distance_mm for gate in rejects.gates) * web.counts_per_mm)
    options = ["--host", plc.host, "--port", plc.port, "--simulator", state / serial, "--log", log,
               "--outputs", len(rejects.gates), "--back-counts", back]  # fmt: skip
    command = [sys.executable, str(ROOT / "tools" / "plc" / "plc.py"), *map(str, options)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "listening\n":
            raise SystemExit(f"the PLC does not listen at {plc.host}:{plc.port}; is the port taken?")
        yield
    finally:
        process.terminate()
        process.communicate()


@dataclass(frozen=True)
class Rejected:
    """Counts first…end − 1 at a gate that it took out, and why at the start."""

    first: int
    end: int
    why: str


def rejected(log: Path, output: int) -> list[Rejected]:
    """What a gate took out, from the PLC's log: a gate rejects until it is told otherwise."""
    spans: list[Rejected] = []
    first, why = 0, "from the start"
    rejecting = True
    for line in log.read_text().splitlines():
        number, count, _, verdict, *words = line.split()
        if int(number) != output:
            continue
        if verdict == "pass" and rejecting:
            spans.append(Rejected(first, int(count), why))
        elif verdict == "reject" and not rejecting:
            first, why = int(count), " ".join(words)
        rejecting = verdict == "reject"
    return [*spans, Rejected(first, 1 << 62, why)] if rejecting else spans


def report(config: Path, defects: Sequence[dict[str, Any]], log: Path) -> list[dict[str, Any]]:
    """Prints for each planted defect its span, the gate's, and the margins; returns those that went through."""
    line = Line(config)
    web, rejects, camera = line.settings.web, line.settings.rejects, line.settings.cameras[0]
    assert web is not None
    assert rejects is not None
    assert camera.encoder is not None
    per_mm, per_line = web.counts_per_mm, camera.encoder.counts_per_line
    lanes = line_lanes(line)
    through: list[dict[str, Any]] = []
    distances = " and ".join(f"{gate.distance_mm:g}" for gate in rejects.gates)
    print(
        f"mm along the web as the PLC counts: line 0 is at the gates at {distances} mm, their distance from the camera."
    )
    print("An open gate rejects; the margin is how long it was open before the defect + behind it.")
    print(f"{'defect':<14} {'lane':<6} {'at the gate, mm':>18} {'gate open, mm':>18} {'margin, mm':>14}")
    for defect in sorted(defects, key=lambda one: one["first_line"]):
        for gate in rejects.gates:
            low, end = lanes[gate.lane]
            if defect["first_column"] >= end or defect["last_column"] < low:
                continue
            shift = gate.distance_mm * per_mm
            first, last = defect["first_line"] * per_line + shift, (defect["last_line"] + 1) * per_line + shift
            covering = [one for one in rejected(log, gate.output) if one.first <= first and last <= one.end]
            span = f"{first / per_mm:.1f}–{last / per_mm:.1f}"
            if covering:
                one = covering[0]
                opened, margin = (f"{one.first / per_mm:.1f}–{one.end / per_mm:.1f}",
                                  f"{(first - one.first) / per_mm:.1f} + {(one.end - last) / per_mm:.1f}")  # fmt: skip
            else:
                through += [] if defect in through else [defect]
                opened, margin = "WENT THROUGH", ""
            print(f"{defect['kind']:<14} {gate.lane:<6} {span:>18} {opened:>18} {margin:>14}")
    return through


def line_lanes(line: Line) -> dict[str, tuple[int, int]]:
    """The recipe's lanes in columns."""
    from linescan.config import Recipe, load_toml

    recipe = load_toml(line.file(line.settings.recipe), Recipe)
    lanes = {}
    for lane in recipe.lanes:
        low, end = lane.edges
        lanes[lane.name] = int(low), int(end)
    return lanes
