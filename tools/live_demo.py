"""The demo's live line: simulated camera, `linescan run`, reference PLC, and a subscriber that prints what is found.

python tools/live_demo.py [--without-camera]

Writes out/line. Ends the roll after the footage has passed once, lets the web run on until all of it has passed the
gates, stops the line, and sums up; exit code 1 where lines do not add up, or a defect that was found went through a
gate. Without the camera (it needs a C compiler) linescan-replay plays the footage into the same line, without a PLC.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tools" / "simulator")]

import plant  # noqa: E402
import simctl  # noqa: E402

from linescan.cli.describe import describe  # noqa: E402
from linescan.codec import to_dict  # noqa: E402
from linescan.messages import Progress, Region, RollEnd, Status  # noqa: E402
from linescan.subscriber import Event, subscribe  # noqa: E402

OUTPUT = ROOT / "out" / "line"
CONFIG = ROOT / "config" / "line.toml"
FOOTAGE = ROOT / "tools" / "demo" / "plain"
SERIAL = "SIM0001"
LINESCAN = [sys.executable, "-m", "linescan.cli.main"]
REPLAY = [sys.executable, "-m", "linescan.cli.replay"]
DEFECTS = FOOTAGE / "defects.json"
GATES = OUTPUT / "gates.log"
CLEAN, AGAIN = (
    slice(1347, 1650),
    slice(1475, 1650),
)  # good lines of the footage that follow it, the second ones for ever:
# of all joints in that stretch its ends fit best; the first joint, at line 3072, is a splice and is found
AFTER = 2560  # lines that follow: those until the roll has ended, and those between camera and gate
PATIENCE_S = 120.0  # for the start: the model is loaded and measured


@dataclass
class Seen:
    """What the subscriber was told."""

    events: list[Event] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    inspected_up_to: int = 0
    lines: int = 0

    def progress(self, progress: Progress) -> None:
        self.inspected_up_to = progress.inspected_up_to

    def status(self, status: Status) -> None:
        if status.stage == "acquire":
            self.lines = status.counters.get("lines", 0)

    def take(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event.message, Region) and event.needed_ns:
                self.latencies_ms.append((time.monotonic_ns() - event.needed_ns) / 1e6)
            text = describe(event.message)
            if text is not None:
                print(f"{event.sequence:>5}  {text}", flush=True)

    @property
    def lines_of_roll(self) -> int:
        return self.end.lines if self.end is not None else 0

    @property
    def end(self) -> RollEnd | None:
        ends = [event.message for event in self.events if isinstance(event.message, RollEnd)]
        return ends[-1] if ends else None


def prepare(strip: NDArray[np.uint8]) -> simctl.Simulator:
    """The simulated camera's state folder, showing the strip once, and good web after it."""
    simulator = simctl.Simulator(OUTPUT / "camera")
    after = np.concatenate([strip[CLEAN]] + [strip[AGAIN]] * -(-AFTER // (AGAIN.stop - AGAIN.start)))[:AFTER]
    simctl.write_strip(simulator.folder / "web.pgm", np.concatenate([strip, after]))
    simulator.configure(**{SERIAL: {"strip": "web.pgm", "loop": False}})
    return simulator


@contextmanager
def config_for(simulator: simctl.Simulator | None) -> Iterator[Path]:
    """line.toml; without a camera it must have no PLC, for a recording must not open gates."""
    if simulator is not None:
        yield CONFIG
        return
    text = CONFIG.read_text(encoding="utf-8")
    without = CONFIG.with_name(".line-without-plc.toml")
    without.write_text(re.sub(r"(?ms)^\[plc\].*?\n\n", "", text), encoding="utf-8")
    try:
        yield without
    finally:
        without.unlink()


def shipped_footage() -> NDArray[np.uint8]:
    frames = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(FOOTAGE.glob("*.png"))]
    return np.concatenate([frame for frame in frames if frame is not None]).astype(np.uint8)


def run_line(seen: Seen, simulator: simctl.Simulator | None, lines: int) -> float:
    """Runs the line until the web has passed and everything is inspected; seconds from its first line to its end."""
    environment = {**os.environ, **(simulator.environment() if simulator else {})}
    with ExitStack() as stack:
        config = stack.enter_context(config_for(simulator))
        if simulator is not None:
            stack.enter_context(plant.running(config, simulator.folder, SERIAL, GATES))
        options = [] if simulator else ["--without-cameras"]
        process = subprocess.Popen([*LINESCAN, "run", "--config", config, *options], env=environment, cwd=ROOT)
        stack.callback(_stop, process)
        events = stack.enter_context(subscribe(config, 0, on_status=seen.status, on_progress=seen.progress))
        if simulator is None:
            return _play(events, seen, process, config)
        first = _wait(events, seen, process, lambda: seen.inspected_up_to > 0)
        _wait(events, seen, process, lambda: seen.lines >= lines)
        subprocess.run([*LINESCAN, "roll", "end", "--config", config], check=True, cwd=ROOT)
        end = _wait(events, seen, process, lambda: seen.end is not None)
        _wait(events, seen, process, lambda: seen.lines >= lines + AFTER)  # the web ends there
    return end - first


def _play(events: Any, seen: Seen, process: subprocess.Popen[bytes], config: Path) -> float:
    """A replay ends its roll by itself."""
    player = subprocess.Popen([*REPLAY, FOOTAGE, "--config", config, "--speed", "500", "--quiet"], cwd=ROOT)
    first = _wait(events, seen, process, lambda: seen.inspected_up_to > 0)
    end = _wait(events, seen, process, lambda: seen.end is not None)
    player.wait(60)
    return end - first


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    if code:
        raise SystemExit(f"the line ended with exit code {code}")


def _wait(events: Any, seen: Seen, process: subprocess.Popen[bytes], done: Any) -> float:
    until = time.monotonic() + PATIENCE_S
    while not done():
        seen.take(events.take(0.1))
        if process.poll() is not None:
            raise SystemExit(f"the line stopped with exit code {process.returncode}")
        if time.monotonic() > until:
            raise SystemExit(f"the line has not got further for {PATIENCE_S:g} s")
    return time.monotonic()


def sum_up(seen: Seen, emitted: Counter[str], columns: int, seconds: float) -> bool:
    """Prints what came of it; whether every line of the roll that the camera emitted is accounted for."""
    end = seen.end
    assert end is not None
    scanned = sum(emitted.values())
    adds_up = end.lines == end.lines_inspected + end.lines_in_gaps and scanned == end.lines
    print(f"\nin the roll the camera emitted {scanned} lines "
          f"({', '.join(f'{count} {what}' for what, count in emitted.items())})")  # fmt: skip
    print(f"{end.lines} lines scanned = {end.lines_inspected} inspected + {end.lines_in_gaps} in gaps", end="")
    print("" if adds_up else "  <- THIS DOES NOT ADD UP")
    latencies = np.array(seen.latencies_ms or [np.nan])
    print(
        f"latency from the last line needed to the event: median {np.median(latencies):.0f} ms, "
        f"p99 {np.percentile(latencies, 99):.0f} ms"
    )
    print(f"throughput {end.lines / seconds:.0f} lines/s, {end.lines * columns / seconds / 1e6:.2f} MPix/s")
    return adds_up


def main() -> int:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    strip = shipped_footage()
    simulator = None if "--without-camera" in sys.argv[1:] else prepare(strip)
    seen = Seen()
    seconds = run_line(seen, simulator, len(strip))
    with (OUTPUT / "events.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(to_dict(event.message)) + "\n" for event in seen.events)
    emitted = Counter(played=len(strip))
    if simulator is not None:
        emitted = Counter[str]()
        for entry in simulator.log(SERIAL):
            if entry.first_line < seen.lines_of_roll:
                emitted[entry.outcome] += entry.lines
    good = sum_up(seen, emitted, strip.shape[1], seconds)
    if simulator is not None:
        good &= gates(seen)
    return 0 if good else 1


def gates(seen: Seen) -> bool:
    """Prints what the gates did to each planted defect; whether they took out all that were found."""
    planted = json.loads(DEFECTS.read_text(encoding="utf-8"))
    found = [event.message for event in seen.events if isinstance(event.message, Region)]
    print("\nat the gates:")
    through = plant.report(CONFIG, planted, GATES)
    wrongly = [one for one in through if any(_meet(one, region) for region in found)]
    print(f"(behind line {len(shipped_footage())} the web is pieced together: its joints are found too)")
    print(f"{len(planted) - len(through)} of {len(planted)} planted defects were taken out; "
          f"{len(through) - len(wrongly)} were not found and went through")  # fmt: skip
    if wrongly:
        print(f"{len(wrongly)} WERE FOUND AND WENT THROUGH")
    return not wrongly


def _meet(defect: dict[str, Any], region: Region) -> bool:
    return (
        region.first_line <= defect["last_line"]
        and defect["first_line"] <= region.last_line
        and region.first_column <= defect["last_column"]
        and defect["first_column"] <= region.last_column
    )


if __name__ == "__main__":
    sys.exit(main())
