"""A whole line for minutes: resident memory of its processes, second by second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import numpy as np
from numpy.typing import NDArray

from linescan.errors import PeerError
from linescan.live_bench.desk import toml
from linescan.live_bench.processes import free_ports, quantile, resident_mib, scrape, stage
from linescan.live_bench.simulated import STEADY_STRIP, simulated_line
from linescan.recipe import Setup

STAGES = ("publisher", "worker", "acquire")
OFFSETS = {"publisher": 0, "worker": 2, "acquire": 1}  # of the ports of metrics
SETTLE_S = 10.0  # what came while the worker loaded its model is inspected first
STEPS = (("worker", "inspect"), ("worker", "event"), ("publisher", "commit"), ("publisher", "publish"))


@dataclass(frozen=True)
class Curve:
    """MiB of each process at the start, a quarter, half, three quarters and the end of the run, and the most."""

    minutes: float
    lines: int
    """that the worker inspected"""
    behind: int
    """lines that acquire had and the worker had not, by their last Status"""
    lines_in_gaps: int
    events: int
    mib: dict[str, tuple[float, ...]]
    most_mib: dict[str, float]
    steps_ms: dict[str, tuple[float, float]]
    """p50 and p99"""


def memory_curve(
    setup: Setup, producer: Path, minutes: float, columns: int = 512, frame_lines: int = 256, rate_hz: float = 1000.0
) -> Curve:
    """Runs publisher, worker and acquire on a simulated camera whose web is the bundle's reference patch, mirrored."""
    port = free_ports(3)
    strip = _web(setup.bundle.reference, columns)
    with (
        simulated_line(producer, columns, frame_lines, rate_hz, strip=strip, tables={"metrics": {"port": port}}) as (
            line,
            environ,
        ),
        ExitStack() as running,
    ):
        _write_recipe(setup, line.file(line.settings.recipe))
        processes = {name: running.enter_context(stage(name, line.path, environ)) for name in STAGES}
        scrape(port + OFFSETS["acquire"])
        _wait_for_lines(port + OFFSETS["worker"], processes["worker"])
        time.sleep(SETTLE_S)
        before = {name: scrape(port + offset) for name, offset in OFFSETS.items()}
        curve = _sample(processes, minutes * 60)
        seen = {name: scrape(port + offset) for name, offset in OFFSETS.items()}
    steps = {}
    for name, step in STEPS:
        times = [quantile(seen[name].buckets(step, before[name]), share) or 0.0 for share in (0.5, 0.99)]
        steps[step] = (round(times[0] * 1e3, 1), round(times[1] * 1e3, 1))
    lines = seen["worker"].counter("lines")
    return Curve(
        minutes,
        lines,
        max(seen["acquire"].counter("lines") - lines, 0),
        seen["acquire"].counter("lines_in_gaps") + seen["acquire"].counter("lines_dropped"),
        seen["publisher"].counter("events"),
        {
            name: tuple(values[round(share * (len(values) - 1) / 4)] for share in range(5))
            for name, values in curve.items()
        },
        {name: max(values) for name, values in curve.items()},
        steps,
    )


def _wait_for_lines(port: int, worker: Popen[bytes], patience_s: float = 180.0) -> None:
    """Until the worker inspects: its model is loaded and its batch is measured."""
    until = time.monotonic() + patience_s
    while not scrape(port).counter("lines"):
        if worker.poll() is not None or time.monotonic() > until:
            raise PeerError(f"the worker does not inspect (exit code {worker.returncode})")
        time.sleep(0.5)


def _sample(processes: Mapping[str, Popen[bytes]], seconds: float) -> dict[str, list[float]]:
    curve: dict[str, list[float]] = {name: [] for name in processes}
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        for name, process in processes.items():
            if process.poll() is not None:
                raise PeerError(f"the {name} ended with exit code {process.returncode}")
            curve[name].append(resident_mib(process.pid))
        time.sleep(1.0)
    return curve


def _write_recipe(setup: Setup, path: Path) -> None:
    model = {"file": str(Path(setup.bundle.path).absolute()), "sha256": setup.bundle.sha256}
    asked = {"stride": setup.settings.stride, "threshold": setup.settings.threshold}
    path.write_text(f"[model]\n{toml(model)}[inspection]\n{toml(asked)}", encoding="utf-8")


def _web(reference: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """The patch mirrored so that its copies join; about a tenth of it is defect."""
    grey = reference if reference.ndim == 2 else reference[..., 0]
    tile = np.concatenate([grey, grey[::-1]])
    tile = np.concatenate([tile, tile[:, ::-1]], 1)
    across = -(-columns // tile.shape[1])
    return np.ascontiguousarray(np.tile(tile, (STEADY_STRIP, across))[:, :columns])
