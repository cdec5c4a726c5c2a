"""The demo's live line: a simulated camera, `linescan run`, and a subscriber that prints what is found as it happens.

python tools/live_demo.py [--without-camera]

Writes out/line. Ends the roll after the footage has passed once, stops the line, and sums up; exit code 1 where lines
do not add up. Without the camera (it needs a C compiler) linescan-replay plays the footage into the same line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "simulator")]

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
    def end(self) -> RollEnd | None:
        ends = [event.message for event in self.events if isinstance(event.message, RollEnd)]
        return ends[-1] if ends else None


def prepare(strip: NDArray[np.uint8]) -> simctl.Simulator:
    """The simulated camera's state folder, showing the strip once."""
    simulator = simctl.Simulator(OUTPUT / "camera")
    simctl.write_strip(simulator.folder / "web.pgm", strip)
    simulator.configure(**{SERIAL: {"strip": "web.pgm", "loop": False}})
    return simulator


def shipped_footage() -> NDArray[np.uint8]:
    frames = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(FOOTAGE.glob("*.png"))]
    return np.concatenate([frame for frame in frames if frame is not None]).astype(np.uint8)


def run_line(seen: Seen, simulator: simctl.Simulator | None, lines: int) -> float:
    """Runs the line until the web has passed and everything is inspected; seconds from its first line to its end."""
    options = [] if simulator else ["--without-cameras"]
    environment = {**os.environ, **(simulator.environment() if simulator else {})}
    process = subprocess.Popen([*LINESCAN, "run", "--config", CONFIG, *options], env=environment, cwd=ROOT)
    player = None
    try:
        with subscribe(CONFIG, 0, on_status=seen.status, on_progress=seen.progress) as events:
            if simulator is None:
                player = subprocess.Popen([*REPLAY, FOOTAGE, "--config", CONFIG, "--speed", "500", "--quiet"], cwd=ROOT)
            first = _wait(events, seen, process, lambda: seen.inspected_up_to > 0)
            if simulator is not None:  # a replay ends its roll by itself
                _wait(events, seen, process, lambda: seen.lines >= lines)
                subprocess.run([*LINESCAN, "roll", "end", "--config", CONFIG], check=True, cwd=ROOT)
            end = _wait(events, seen, process, lambda: seen.end is not None)
            if player is not None:
                player.wait(60)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        raise SystemExit(f"the line ended with exit code {code}")
    return end - first


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
    """Prints what came of it; whether every line that the camera emitted is accounted for."""
    end = seen.end
    assert end is not None
    scanned = sum(emitted.values())
    adds_up = end.lines == end.lines_inspected + end.lines_in_gaps and scanned == end.lines
    print(f"\ncamera emitted {scanned} lines ({', '.join(f'{count} {what}' for what, count in emitted.items())})")
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
    emitted = simulator.count(SERIAL) if simulator else Counter(played=len(strip))
    return 0 if sum_up(seen, emitted, strip.shape[1], seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
