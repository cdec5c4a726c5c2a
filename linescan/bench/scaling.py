"""How speed and memory change with the web's width, stride, batch, number of cameras and length of the roll."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from linescan.bench.machine import peak_mib, resident_mib
from linescan.bench.scaling_plots import plot_scaling
from linescan.bench.web import Web
from linescan.bench.whole import inspect, inspector_for
from linescan.errors import PeerError
from linescan.files import make_folder, write_atomically
from linescan.models.runner import Execution, Runner, filled_batch, side_by_side
from linescan.recipe import Setup, patches_a_row

ROUNDS = 3
CHUNKS = 20  # of the long roll, each timed
PATIENCE_S = 600.0
USUAL, LONG = Web(2048, 2048), Web(512, 131072)

Figures = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Plan:
    """What is measured; where one thing varies, the others are as in `usual`."""

    usual: Web = USUAL
    widths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    strides: tuple[int, ...] = (16, 30, 45, 64, 90, 112, 128)
    batches: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128)
    cameras: tuple[int, ...] = (1, 2, 3, 4)
    roll: Web = LONG


def scaling(setup: Setup, execution: Execution, folder: Path, plan: Plan | None = None) -> dict[str, Any]:
    """Measures everything, prints it, and writes `scaling.json` and the plots into `folder`."""
    plan = plan or _plan_for(setup)
    make_folder(folder)
    figures: Figures = {}
    for name, measure in _MEASURES.items():
        figures[name] = measure(setup, execution, plan)
        for row in figures[name]:
            print(f"{name}: " + "  ".join(f"{key} {value:g}" for key, value in row.items()), flush=True)
    result = {"execution": execution.as_dict(), "stride": setup.settings.stride, "scaling": figures}
    write_atomically(folder / "scaling.json", json.dumps(result, indent=1).encode())
    plot_scaling(figures, folder, f"stride {setup.settings.stride}, {execution.precision}, {execution.threads} threads")
    return result


def _plan_for(setup: Setup) -> Plan:
    """A stride cannot be more than the patch."""
    plan = Plan()
    strides = tuple(stride for stride in plan.strides if stride <= setup.settings.patch_size)
    return replace(plan, strides=strides or (setup.settings.patch_size,))


# ------------------------------------------------------------------------------------------------ speed


def _by_width(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    """The same number of pixels at each width, each with a batch that its rows fill."""
    webs = {width: replace(plan.usual, columns=width, lines=plan.usual.pixels // width) for width in plan.widths}
    return _in_turns("columns", {width: _filled(setup, execution, None, one) for width, one in webs.items()})


def _by_stride(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    return _in_turns("stride", {stride: _filled(setup, execution, stride, plan.usual) for stride in plan.strides})


def _by_batch(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    runners = {batch: Runner(setup.bundle, replace(execution, batch=batch)) for batch in plan.batches}
    stride = setup.settings.stride
    return _in_turns("batch", {batch: _speed(setup, one, stride, plan.usual) for batch, one in runners.items()})


def _filled(setup: Setup, execution: Execution, stride: int | None, asked: Web) -> Callable[[], float]:
    """On a CPU with a batch that rows of this grid fill."""
    stride = stride or setup.settings.stride
    if execution.device != "cuda":
        settings = setup.settings.model_copy(update={"stride": stride, "columns": None})
        forwards = side_by_side(execution.device, execution.threads)
        execution = replace(execution, batch=filled_batch(patches_a_row(settings, asked.columns), forwards))
    return _speed(setup, Runner(setup.bundle, execution), stride, asked)


def _speed(setup: Setup, runner: Runner, stride: int, asked: Web) -> Callable[[], float]:
    def megapixels_per_second() -> float:
        return asked.pixels / inspect(setup, runner, stride, asked).seconds / 1e6

    return megapixels_per_second


def _in_turns(name: str, ways: Mapping[int, Callable[[], float]]) -> list[dict[str, float]]:
    rates: dict[int, list[float]] = {value: [] for value in ways}
    for way in ways.values():  # once, not counted
        way()
    for _ in range(ROUNDS):
        for value, way in ways.items():
            rates[value].append(way())
    return [{name: value, "mpix_per_s": round(statistics.median(those), 3)} for value, those in rates.items()]


# ------------------------------------------------------------------------------------------------ cameras


def _by_cameras(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    """A process for each camera, as a line has them; they share the threads, one each where there are fewer."""
    rows = []
    for cameras in plan.cameras:
        threads = max(1, execution.threads // cameras)
        spans = _together(cameras, _camera, (setup, replace(execution, threads=threads), plan.usual))
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        rate = cameras * ROUNDS * plan.usual.pixels / seconds / 1e6
        rows.append({"cameras": cameras, "threads_each": threads, "mpix_per_s": round(rate, 3)})
    return rows


def _camera(setup: Setup, execution: Execution, asked: Web, ready: Barrier) -> tuple[float, float]:
    """Start and end on the clock that all processes share."""
    runner = Runner(setup.bundle, execution)
    inspect(setup, runner, setup.settings.stride, replace(asked, lines=min(asked.lines, 2 * asked.frame_lines)))
    ready.wait(PATIENCE_S)
    start = time.monotonic()
    for _ in range(ROUNDS):
        inspect(setup, runner, setup.settings.stride, asked)
    return start, time.monotonic()


# ------------------------------------------------------------------------------------------------ memory and length


def _memory_by_width(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    """A process for each width, since a peak stays."""
    rows = []
    for width in plan.widths:
        asked = replace(plan.usual, columns=width, lines=min(plan.usual.lines, 8 * plan.usual.frame_lines))
        ((loaded, peak),) = _together(1, _peak, (setup, execution, asked))
        rows.append({"columns": width, "loaded_mib": loaded, "peak_mib": peak})
    return rows


def _peak(setup: Setup, execution: Execution, asked: Web, ready: Barrier) -> tuple[float, float]:
    runner = Runner(setup.bundle, execution)
    loaded = peak_mib()
    inspect(setup, runner, setup.settings.stride, asked)
    return loaded, peak_mib()


def _by_roll_length(setup: Setup, execution: Execution, plan: Plan) -> list[dict[str, float]]:
    """One long roll: what a line cost, in time and in the time of all cores, and memory, chunk by chunk."""
    rows: list[dict[str, float]] = _together(1, _long_roll, (setup, execution, plan.roll))[0]
    return rows


def _long_roll(setup: Setup, execution: Execution, asked: Web, ready: Barrier) -> list[dict[str, float]]:
    runner = Runner(setup.bundle, execution)
    inspector = inspector_for(setup, runner, setup.settings.stride, asked.columns)
    rows: list[dict[str, float]] = []
    chunk = max(1, asked.lines // CHUNKS // asked.frame_lines) * asked.frame_lines
    lines, since, seconds, core_seconds = 0, 0, 0.0, 0.0
    for frame in asked.frames(setup.bundle):
        start, core_start = time.perf_counter(), time.process_time()
        inspector.push(frame)
        seconds += time.perf_counter() - start
        core_seconds += time.process_time() - core_start
        lines += len(frame)
        if lines - since >= chunk:
            cost, core_cost = (round(one / (lines - since) * 1e6, 2) for one in (seconds, core_seconds))
            memory = {"resident_mib": resident_mib(), "peak_mib": peak_mib()}
            rows.append({"lines": lines, "us_per_line": cost, "core_us_per_line": core_cost, **memory})
            since, seconds, core_seconds = lines, 0.0, 0.0
    inspector.finish()
    return rows


# ------------------------------------------------------------------------------------------------ processes


def _together(count: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """What `count` fresh processes return that do the same; raises PeerError where one ends without a word."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=_report, args=(work, (*arguments, ready), sender)) for _, sender in pipes]
    try:
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()  # so that its end is seen when the process is gone
        return [_answer(receiver) for receiver, _ in pipes]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _report(work: Callable[..., Any], arguments: Iterable[Any], sender: Connection) -> None:
    sender.send(work(*arguments))


def _answer(receiver: Connection) -> Any:
    try:
        if receiver.poll(PATIENCE_S):
            return receiver.recv()
    except EOFError:
        pass
    raise PeerError(f"a process that was to be measured ended or said nothing in {PATIENCE_S:g} s")


_MEASURES: dict[str, Callable[[Setup, Execution, Plan], list[dict[str, float]]]] = {
    "width": _by_width,
    "stride": _by_stride,
    "batch": _by_batch,
    "cameras": _by_cameras,
    "memory": _memory_by_width,
    "roll": _by_roll_length,
}
