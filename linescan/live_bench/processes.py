"""Processes from outside: started, their threads' CPU, their memory, what they tell Prometheus."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from linescan.errors import PeerError

TICKS = os.sysconf("SC_CLK_TCK")
START_S, STOP_S = 120.0, 40.0


@contextmanager
def stage(name: str, config: Path, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`linescan NAME --config CONFIG`, ended in order; what it logs goes to a file beside the configuration."""
    argv = [sys.executable, "-m", "linescan.cli.main", name, "--config", str(config)]
    with config.with_name(f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, env={**os.environ, **(environ or {})}, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_by_thread(pid: int) -> dict[str, float]:
    """CPU seconds of the process by the names of its threads; the first one is called "main"."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            before, _, after = (task / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        fields = after.split()  # from the third on: state, …; utime and stime are the 14th and 15th
        name = "main" if int(task.name) == pid else before.partition("(")[2]
        seconds[name] += (int(fields[11]) + int(fields[12])) / TICKS
    return dict(seconds)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


class Scraped:
    """One look at an exporter: samples by name and labels without stage and camera."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, sample.labels.get("step", ""), sample.labels.get("le", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def counter(self, name: str) -> int:
        return int(self.samples.get((f"linescan_{name}_total", "", ""), 0))

    def buckets(self, step: str, before: Scraped | None = None) -> list[tuple[float, float]]:
        """How often the step took at most so many seconds, since that look: (seconds, count), growing."""
        earlier = before.samples if before else {}
        name = "linescan_step_seconds_bucket"
        return sorted(
            (float(bound), count - earlier.get((name, step, bound), 0.0))
            for (found, of, bound), count in self.samples.items()
            if (found, of) == (name, step)
        )


def scrape(port: int) -> Scraped:
    """Asks until the exporter has a status to show."""
    until = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            text = ""
        if "linescan_state" in text:
            return Scraped(text)
        if time.monotonic() > until:
            raise PeerError(f"no metrics at port {port} after {START_S:g} s")
        time.sleep(0.2)


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Seconds that `share` of the steps took at most, as Prometheus reads it off: on a straight line in its bucket."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    below, least = 0.0, 0.0
    for bound, count in buckets:
        if count >= share * total:
            return (
                least if bound == float("inf") else least + (bound - least) * (share * total - below) / (count - below)
            )
        below, least = count, bound
    return None


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    for first in range(20_000 + os.getpid() % 20_000, 65_000, count):
        if not any(_taken(port) for port in range(first, first + count)):
            return first
    raise PeerError("no free ports")


def _taken(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
