"""A camera at full speed into acquire: what is lost, what acquire's own threads take, how long frames wait."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.live_bench.consumer import Taken
from linescan.live_bench.desk import CAMERA, bench_line
from linescan.live_bench.processes import cpu_by_thread, free_ports, quantile, scrape, stage
from linescan.live_bench.transport import consumer

SERIAL = "SIM0001"
WARM_UP_S = 3.0
SIMULATOR_THREAD = "linescan_sim"
STEADY_STRIP = 8  # copies of the web in the strip that passes again and again


@dataclass(frozen=True)
class FullSpeed:
    """Lines are of the whole run, CPU in shares of one core and times in ms of the seconds after the warm-up."""

    columns: int
    frame_lines: int
    line_rate_hz: float
    seconds: float
    mb_per_s: float
    lines: int
    lines_in_gaps: int
    """lost between camera and worker"""
    lines_overrun: int
    """by the simulator's log: it had no buffer to put them into"""
    acquire_cpu: float
    """its main thread, its exporter and pyzmq's"""
    zeromq_cpu: float
    """ZeroMQ's thread in acquire: the copy into the socket"""
    simulator_cpu: float
    """the simulated camera's thread, which a real camera has not"""
    copy_ms: tuple[float, float]
    """p50 and p99"""
    hand_over_ms: tuple[float, float]


def full_speed(
    producer: Path, columns: int = 8192, frame_lines: int = 1024, rate_hz: float = 80_000.0, seconds: float = 20.0
) -> FullSpeed:
    """Runs `linescan acquire` on the simulated camera, with a publisher and a process that only takes the frames."""
    port = free_ports(3)
    with (
        simulated_line(producer, columns, frame_lines, rate_hz, tables={"metrics": {"port": port}}) as (line, environ),
        stage("publisher", line.path),
        consumer() as orders,
    ):
        orders.send(("lasting", line.frames_endpoint(CAMERA), 0))
        with stage("acquire", line.path, environ) as acquire:
            scrape(port + 1)
            time.sleep(WARM_UP_S)
            before, cpu, start = scrape(port + 1), cpu_by_thread(acquire.pid), time.monotonic()
            time.sleep(seconds)
            after, cpu_after, spent = scrape(port + 1), cpu_by_thread(acquire.pid), time.monotonic() - start
            if acquire.poll() is not None:
                raise PeerError(f"acquire ended: {line.path.with_name('acquire.log').read_text()[-500:]}")
            orders.send(None)
            taken: Taken = orders.recv()
        outcomes = outcomes_of(Path(environ["LINESCAN_SIM_DIR"]))
    shares = {name: (cpu_after[name] - cpu.get(name, 0.0)) / spent for name in cpu_after}
    zeromq = sum(share for name, share in shares.items() if name.startswith("ZMQ"))
    simulator = shares.get(SIMULATOR_THREAD, 0.0)
    lines = after.counter("lines") - before.counter("lines")
    copied, handed = after.buckets("copy", before), after.buckets("hand-over", before)
    return FullSpeed(
        columns,
        frame_lines,
        rate_hz,
        round(spent, 1),
        round(lines * columns / spent / 1e6, 1),
        taken.lines,
        after.counter("lines_in_gaps") + after.counter("lines_dropped"),
        outcomes["overrun"],
        round(sum(shares.values()) - zeromq - simulator, 3),
        round(zeromq, 3),
        round(simulator, 3),
        _milliseconds(copied),
        _milliseconds(handed),
    )


@contextmanager
def simulated_line(
    producer: Path,
    columns: int,
    frame_lines: int,
    rate_hz: float,
    *,
    strip: NDArray[np.uint8] | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[tuple[Line, dict[str, str]]]:
    """A line with the simulated camera, and the environment in which acquire finds it; it shows the strip if any."""
    if not producer.is_file():
        raise ConfigError(f"--simulator {producer}: no such file; tools/simulator/build.sh makes it")
    camera = {"producer": str(producer.absolute()), "serial": SERIAL, "max_line_rate_hz": rate_hz, "buffer_s": 0.5}
    features = {
        "Width": columns,
        "Height": frame_lines,
        "PixelFormat": "Mono8",
        "AcquisitionLineRateEnable": True,
        "AcquisitionLineRate": rate_hz,
    }
    with (
        tempfile.TemporaryDirectory(prefix="linescan-camera-") as name,
        bench_line(camera, features=features, transport={"retain_mib": 512}, tables=tables) as line,
    ):
        conf = f"columns = {columns}\nline_rate = {rate_hz:g}\n"
        if strip is not None:
            Path(name, "web.pgm").write_bytes(b"P5 %d %d 255\n" % strip.shape[::-1] + strip.tobytes())
            conf += "strip = web.pgm\n"
        Path(name, "sim.conf").write_text(conf, encoding="utf-8")
        yield line, {"LINESCAN_SIM_DIR": name}


def outcomes_of(folder: Path) -> Counter[str]:
    """Lines by what the simulator says became of them."""
    counts: Counter[str] = Counter()
    for line in (folder / f"{SERIAL}.log").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            _, _, lines, outcome, *_ = line.split()
            counts[outcome] += int(lines)
    return counts


def _milliseconds(buckets: list[tuple[float, float]]) -> tuple[float, float]:
    p50, p99 = (quantile(buckets, share) for share in (0.5, 0.99))
    return round((p50 or 0.0) * 1e3, 3), round((p99 or 0.0) * 1e3, 3)
