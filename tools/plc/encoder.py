"""Where the web is: the encoder behind the reference PLC's counter, real counts that do not wrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path


class Moving:
    """A web at a speed that can be set; `script` sets it in turn: (for so many seconds, counts a second)."""

    def __init__(self, now_ns: int, start: float, counts_per_s: float, script: Sequence[tuple[float, float]] = ()):
        self._since_ns = now_ns
        self._start = start
        self._counts_per_s = counts_per_s
        self._script = [
            (now_ns + int(1e9 * sum(s for s, _ in script[:n])), speed) for n, (_, speed) in enumerate(script)
        ]
        self._script.append((now_ns + int(1e9 * sum(s for s, _ in script)), counts_per_s))

    def count(self, now_ns: int) -> int:
        while self._script and self._script[0][0] <= now_ns:
            self.speed(*self._script.pop(0))
        return math.floor(self._at(now_ns))

    def speed(self, now_ns: int, counts_per_s: float) -> None:
        self._start, self._since_ns, self._counts_per_s = self._at(now_ns), now_ns, counts_per_s

    def jump(self, now_ns: int, count: float) -> None:
        self._start, self._since_ns = count, now_ns

    def _at(self, now_ns: int) -> float:
        return self._start + self._counts_per_s * (now_ns - self._since_ns) / 1e9


class Simulator:
    """The encoder of a simulated camera (tools/simulator), from its state folder, so that both count the same pulses.

    SERIAL.t0 says where the web was when and how fast it is, on CLOCK_MONOTONIC, and is written anew whenever that
    changes; sim.conf has the counts of a line and of web line 0. Before the first acquisition the web stands at line 0.
    """

    def __init__(self, folder: Path, serial: str) -> None:
        self._file = folder / f"{serial}.t0"
        keys = read_conf(folder / "sim.conf", serial)
        self._counts_per_line = int(keys.get("encoder_counts_per_line", "4"))
        self._start = int(keys.get("encoder_start", "0"))
        self._end_line = int(keys.get("max_lines", "0")) or math.inf
        if keys.get("loop") == "no" and "strip" in keys:
            self._end_line = min(self._end_line, strip_lines(folder / keys["strip"]))
        self._seen: tuple[int, int] | None = None
        self._web: dict[str, float] = {}

    def count(self, now_ns: int) -> int:
        self._read()
        if not self._web:
            return self._start
        since_s = max(0.0, now_ns - self._web["t0_ns"]) / 1e9
        line = min(self._web["line"] + since_s * self._web["rate"], self._web["stop_line"], self._end_line)
        return int(line * self._counts_per_line) + self._start - int(self._web["encoder_offset"])

    def _read(self) -> None:
        try:
            status = self._file.stat()
            if self._seen == (status.st_ino, status.st_mtime_ns):
                return
            rows = [line.split() for line in self._file.read_text().splitlines()]
        except FileNotFoundError:
            return
        self._seen = (status.st_ino, status.st_mtime_ns)
        self._web = {row[0]: float(row[1]) if row[0] == "rate" else int(row[1]) for row in rows}


def read_conf(path: Path, serial: str) -> dict[str, str]:
    """The keys of sim.conf that hold for this camera."""
    keys: dict[str, str] = {}
    section = serial
    for line in path.read_text().splitlines() if path.exists() else ():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            section = text.strip("[]")
        elif "=" in text and section == serial:
            name, _, value = text.partition("=")
            keys[name.strip()] = value.strip()
    return keys


def strip_lines(path: Path) -> int:
    """Of a binary PGM: the second number of its header."""
    with path.open("rb") as file:
        header = file.read(4096)
    numbers = [word for line in header.split(b"\n")[:16] for word in line.partition(b"#")[0].split()]
    return int(numbers[2])
