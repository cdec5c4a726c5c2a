"""All of `linescan bench --live`, printed as it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linescan.live_bench.memory import Curve, memory_curve
from linescan.live_bench.simulated import FullSpeed, full_speed
from linescan.live_bench.transport import SIZES, Ratio, transport_ratio
from linescan.recipe import Setup


def live(setup: Setup | None, simulator: Path | None, seconds: float, minutes: float) -> dict[str, Any]:
    """Without a simulator only the transport is measured; without a model the memory is not."""
    figures: dict[str, Any] = {"transport": []}
    print("frames from acquire to a process that takes them, beside a bare loop of two pyzmq processes")
    for size in SIZES:
        ratio = transport_ratio(size)
        figures["transport"].append(vars(ratio))
        print(_of_transport(ratio), flush=True)
    if simulator is None:
        print("no --simulator: full speed and memory over time are not measured (tools/simulator/build.sh makes it)")
        return figures
    speed = full_speed(simulator, seconds=seconds)
    figures["full_speed"] = vars(speed)
    print(_of_full_speed(speed), flush=True)
    if setup is None:
        print("no --model or --recipe: memory over time is not measured")
        return figures
    curve = memory_curve(setup, simulator, minutes)
    figures["memory_over_time"] = vars(curve)
    print(_of_memory(curve))
    return figures


def _of_transport(ratio: Ratio) -> str:
    return (
        f"{ratio.frame_bytes / (1 << 20):5.2f} MiB a frame: {ratio.line_mb_per_s:6.0f} MB/s, bare "
        f"{ratio.bare_mb_per_s:6.0f} MB/s, ratio {ratio.ratio:.2f}"
    )


def _of_full_speed(speed: FullSpeed) -> str:
    return (
        f"{speed.columns} columns × {speed.frame_lines} lines, {speed.line_rate_hz / 1e3:g} kHz, {speed.seconds:g} s: "
        f"{speed.mb_per_s:.0f} MB/s, {speed.lines} lines, {speed.lines_in_gaps} lost, {speed.lines_overrun} overrun in "
        f"the camera\n"
        f"  CPU of one core: acquire {speed.acquire_cpu:.1%}; ZeroMQ's thread {speed.zeromq_cpu:.1%}, the simulated "
        f"camera's {speed.simulator_cpu:.1%}\n"
        f"  ms, p50 and p99: copy {speed.copy_ms[0]:.2f} and {speed.copy_ms[1]:.2f}, hand-over "
        f"{speed.hand_over_ms[0]:.2f} and {speed.hand_over_ms[1]:.2f}"
    )


def _of_memory(curve: Curve) -> str:
    rows = [
        f"resident MiB over {curve.minutes:g} min: {curve.lines} lines inspected, {curve.behind} on their way, "
        f"{curve.lines_in_gaps} in gaps, {curve.events} events",
        f"{'':10} {'start':>8} {'1/4':>8} {'1/2':>8} {'3/4':>8} {'end':>8} {'most':>8}",
    ]
    for name, values in curve.mib.items():
        rows.append(f"{name:10} " + " ".join(f"{value:8.1f}" for value in (*values, curve.most_mib[name])))
    steps = ", ".join(f"{step} {times[0]:g} and {times[1]:g}" for step, times in curve.steps_ms.items())
    return "\n".join([*rows, f"  ms, p50 and p99: {steps}"])
