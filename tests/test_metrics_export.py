"""What Prometheus gets: each step counts after a frame went through, each counter of a Status appears."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from linescan.cameras.camera import LinesLost
from linescan.errors import PeerError
from linescan.journal import Journal
from linescan.line import Line
from linescan.messages import Status
from linescan.metrics import BUCKETS_S, GAUGES, NO_METRICS, STEPS, StageMetrics, exported, port_of
from linescan.stages.acquire import Acquire
from linescan.stages.publisher import Publisher
from linescan.stages.worker import Worker
from tests.line_kit import ArrayCamera, FakeClock, MemoryNetwork, ToyEngine, web, write_line

DEADLINE_S = 60.0


def free_port(count: int = 3) -> int:
    """The first of `count` ports in a row that nobody listens at."""
    for port in range(20_000 + os.getpid() % 20_000, 65_000, count):
        if all(_free(one) for one in range(port, port + count)):
            return port
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def with_metrics(folder: Path, port: int) -> Line:
    line = write_line(folder)
    line.path.write_text(line.path.read_text() + f"\n[metrics]\nport = {port}\n")
    return Line(line.path)


def count(registry: CollectorRegistry, stage: str, camera: str, step: str) -> float | None:
    labels = {"stage": stage, "camera": camera, "step": step}
    return registry.get_sample_value("linescan_step_seconds_count", labels)


def fetched(port: int) -> dict[str, float]:
    """Samples by name; where there are several of a name, their sum."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples


def test_a_frame_counts_in_every_step_and_every_counter_appears(tmp_path: Path) -> None:
    line, network, clock = write_line(tmp_path), MemoryNetwork(), FakeClock()
    meters = {stage: StageMetrics(stage, "" if stage == "publisher" else "cam0") for stage in STEPS}
    camera = ArrayCamera(clock)
    world = network.subscription(line.events_endpoint, ["status"])
    times: dict[str, Any] = {"clock_ns": clock}
    with Journal(Path(line.settings.journal.file), line.settings.journal) as journal:
        publisher = Publisher(line, journal, network, utc_ns=clock, metrics=meters["publisher"], **times)
        acquire = Acquire(
            line, line.settings.cameras[0], camera, network, utc_ns=clock, metrics=meters["acquire"], **times
        )
        worker = Worker(
            line, "cam0", network, lambda recipe, stored: ToyEngine(stored), metrics=meters["worker"], **times
        )
        while not acquire.registered:
            publisher.turn()
        acquire.begin()
        pixels = web(400)
        for first in range(0, 400, 32):
            camera.deliver(pixels[first : first + 32])
        camera.queue.append(LinesLost(5, "incomplete"))
        camera.deliver(pixels[:32])
        for _ in range(60):
            clock.advance(0.1)
            acquire.turn()
            worker.turn()
            publisher.turn()
    for stage, steps in STEPS.items():
        for step in steps:
            counted = count(meters[stage].registry, stage, "" if stage == "publisher" else "cam0", step)
            assert counted, (stage, step)
            if step in ("copy", "hand-over", "wait", "inspect"):
                assert counted == 14
    seen: dict[str, Status] = {}
    while (received := world.receive()) is not None:
        assert isinstance(received.message, Status)
        seen[received.message.stage] = received.message
    assert set(seen) == set(STEPS)
    for stage, status in seen.items():
        labels = {"stage": stage, "camera": status.camera}
        for name in status.counters:
            exposed = f"linescan_{name}" + ("" if name in GAUGES else "_total")
            assert meters[stage].registry.get_sample_value(exposed, labels) is not None, exposed  # type: ignore[index]
        state = {**labels, "state": status.state}
        assert meters[stage].registry.get_sample_value("linescan_state", state) == 1  # type: ignore[index]
    for stage in ("acquire", "worker"):
        assert seen[stage].counters["gaps"] == 1
        assert seen[stage].counters["lines_in_gaps"] == 5
    assert seen["acquire"].counters["lines"] == 432


def test_a_step_falls_into_its_bucket() -> None:
    metrics = StageMetrics("publisher")
    metrics.step("commit", 4_000_000)
    labels = {"stage": "publisher", "camera": "", "step": "commit"}
    buckets = [
        metrics.registry.get_sample_value("linescan_step_seconds_bucket", {**labels, "le": str(float(bound))})
        for bound in BUCKETS_S
    ]
    assert buckets == [0.0] * 5 + [1.0] * 11
    assert BUCKETS_S[0] == 1e-4
    assert BUCKETS_S[-1] == 10


def test_faults_come_and_go() -> None:
    metrics = StageMetrics("publisher")
    labels = {"stage": "publisher", "camera": "", "fault": "disk-full"}
    metrics.status(Status("publisher", "", "publishing", ("disk-full",), {"last_sequence": 7}, 0))
    assert metrics.registry.get_sample_value("linescan_fault", labels) == 1
    metrics.status(Status("publisher", "", "publishing", (), {"last_sequence": 8}, 0))
    assert metrics.registry.get_sample_value("linescan_fault", labels) is None
    assert metrics.registry.get_sample_value("linescan_last_sequence", {"stage": "publisher", "camera": ""}) == 8


def test_off_unless_configured(tmp_path: Path) -> None:
    with exported(write_line(tmp_path), "publisher") as metrics:
        assert metrics is NO_METRICS
    code = "import sys, linescan.stages.acquire, linescan.cli.stage; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ports_of_a_line(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    ports = [port_of(line, stage, "cam0", 9000) for stage in ("publisher", "acquire", "worker")]
    assert ports == [9000, 9001, 9002]


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = with_metrics(tmp_path, port)
        with pytest.raises(PeerError, match=f"127.0.0.1:{port} cannot be served"), exported(line, "publisher"):
            pass


def test_served_as_long_as_it_is_used(tmp_path: Path) -> None:
    port = free_port()
    with exported(with_metrics(tmp_path, port), "worker", "cam0") as metrics:
        metrics.step("inspect", 1)
        assert fetched(port + 2)["linescan_step_seconds_count"] == 1
    with pytest.raises(OSError, match="refused"):
        fetched(port + 2)


@contextmanager
def publisher_process(line: Line) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "linescan.cli.main", "publisher", "--config", str(line.path)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_real_publisher_is_scraped(tmp_path: Path) -> None:
    port = free_port()
    with publisher_process(with_metrics(tmp_path, port)) as process:
        until = time.monotonic() + DEADLINE_S
        samples: dict[str, float] = {}
        while "linescan_last_sequence" not in samples:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
            try:
                samples = fetched(port)
            except OSError:
                continue  # it starts
    assert samples["linescan_last_sequence"] == 0
    assert samples["linescan_not_durable"] == 0
    assert samples["linescan_step_seconds_count"] == 0
    assert samples["process_resident_memory_bytes"] > 1 << 20
    assert np.isfinite(list(samples.values())).all()
