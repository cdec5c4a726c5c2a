"""The demo's live line: a simulated camera, `linescan run`, and a subscriber that prints what is found as it happens.

python tools/live_demo.py [OUTPUT]      default out/line

Ends the roll after the footage has passed once, stops the line, and sums up. Exit code 1 where lines do not add up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "simulator")]

import simctl  # noqa: E402

from linescan.cli.describe import describe  # noqa: E402
from linescan.line import Line  # noqa: E402
from linescan.messages import Progress, Region, RollEnd, Status, to_dict  # noqa: E402
from linescan.subscriber import Event, subscribe  # noqa: E402

CONFIG = ROOT / "config" / "line.toml"
FOOTAGE = ROOT / "tools" / "demo" / "plain"
SERIAL = "SIM0001"
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


def prepare(folder: Path) -> tuple[simctl.Simulator, int, int]:
    """The simulated camera's state folder, showing the shipped footage once; its lines and columns."""
    shutil.rmtree(folder, ignore_errors=True)
    simulator = simctl.Simulator(folder / "camera")
    frames = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(FOOTAGE.glob("*.png"))]
    strip = np.concatenate([frame for frame in frames if frame is not None])
    simctl.write_strip(simulator.folder / "web.pgm", strip)
    simulator.configure(**{SERIAL: {"strip": "web.pgm", "loop": False}})
    return simulator, *strip.shape


def run_line(seen: Seen, simulator: simctl.Simulator, lines: int) -> float:
    """Runs the line until the web has passed and everything is inspected; the seconds that the web took to pass."""
    command = [sys.executable, "-m", "linescan.cli.main", "run", "--config", str(CONFIG)]
    process = subprocess.Popen(command, env={**os.environ, **simulator.environment()}, cwd=ROOT)
    try:
        with subscribe(CONFIG, 0, on_status=seen.status, on_progress=seen.progress) as events:
            first = _wait(events, seen, process, lambda: seen.inspected_up_to > 0)
            last = _wait(events, seen, process, lambda: seen.lines >= lines)
            subprocess.run([*command[:3], "roll", "end", "--config", str(CONFIG)], check=True, cwd=ROOT,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            end = _wait(events, seen, process, lambda: seen.end is not None)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        raise SystemExit(f"the line ended with exit code {code}")
    del last
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


def sum_up(seen: Seen, simulator: simctl.Simulator, columns: int, seconds: float) -> bool:
    """Prints what came of it; whether every line that the camera emitted is accounted for."""
    end = seen.end
    assert end is not None
    emitted = simulator.count(SERIAL)
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
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "line"
    if Path(Line(CONFIG).settings.transport.directory).name and folder.resolve() != (ROOT / "out" / "line").resolve():
        raise SystemExit("config/line.toml puts its sockets and journal under out/line")
    simulator, lines, columns = prepare(folder)
    seen = Seen()
    seconds = run_line(seen, simulator, lines)
    with (folder / "events.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(to_dict(event.message)) + "\n" for event in seen.events)
    return 0 if sum_up(seen, simulator, columns, seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
