"""`linescan bench --live`: that it measures what it says, in small; its figures are nobody's here."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from linescan.live_bench.desk import CAMERA, bench_line
from linescan.live_bench.processes import cpu_by_thread, quantile, resident_mib
from linescan.live_bench.simulated import SERIAL, outcomes_of
from linescan.live_bench.transport import transport_ratio


def test_frames_go_through_both_ways() -> None:
    ratio = transport_ratio(1 << 18, rounds=1, round_bytes=1 << 23)
    assert ratio.frame_bytes == 1 << 18
    assert ratio.bare_mb_per_s > 0
    assert ratio.ratio == pytest.approx(ratio.line_mb_per_s / ratio.bare_mb_per_s, rel=0.01)


def test_a_line_of_its_own() -> None:
    camera = {"producer": "a.cti", "serial": "1", "max_line_rate_hz": 5.0}
    with bench_line(camera, features={"Width": 64, "A[B]": True}, tables={"metrics": {"port": 9000}}) as line:
        assert line.camera(CAMERA).features == {"Width": 64, "A[B]": True}
        assert line.settings.metrics is not None
        folder = line.path.parent
    assert not folder.exists()


def test_quantiles_are_read_off_as_prometheus_does() -> None:
    buckets = [(0.1, 0.0), (0.2, 50.0), (0.5, 100.0), (float("inf"), 100.0)]
    assert quantile(buckets, 0.5) == pytest.approx(0.2)
    assert quantile(buckets, 0.25) == pytest.approx(0.15)
    assert quantile(buckets, 0.99) == pytest.approx(0.494)
    assert quantile([(0.1, 0.0), (float("inf"), 4.0)], 0.5) == 0.1
    assert quantile([(0.1, 0.0), (float("inf"), 0.0)], 0.5) is None
    assert quantile([], 0.5) is None


def test_outcomes_of_the_simulators_log(tmp_path: Path) -> None:
    log = "# began\n0 0 64 delivered 0 1\n1 64 64 overrun 4 2\n2 128 64 delivered 8 3\n-1 192 10 unattended 9 4\n"
    (tmp_path / f"{SERIAL}.log").write_text(log)
    assert outcomes_of(tmp_path) == Counter(delivered=128, overrun=64, unattended=10)


def test_this_process_from_outside() -> None:
    assert cpu_by_thread(os.getpid())["main"] > 0
    assert resident_mib(os.getpid()) > 10
