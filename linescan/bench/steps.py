"""Where the time of an inspection goes, step by step, and how near each step is to what the machine could do."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import CodeType, FrameType, TracebackType
from typing import Any

from linescan.bench.ceilings import Ceilings, number_type
from linescan.bench.web import Web
from linescan.bench.whole import inspect
from linescan.bench.work import Work, model_work, steps_work
from linescan.errors import ConfigError
from linescan.inspection.gate import line_statistics
from linescan.inspection.lines import to_unit
from linescan.inspection.opening import opening
from linescan.inspection.patches import PatchRow
from linescan.inspection.placement import Placement
from linescan.inspection.reconstruction import Reconstruction
from linescan.inspection.regions import Labeller
from linescan.inspection.residual import residual, smoothed
from linescan.inspection.scaling import LineScaler
from linescan.models.runner import Execution, Forward, Runner
from linescan.recipe import Setup

MODEL, REST = "model", "the rest"
# the step's name in the table, and the functions of the engine that are this step
STEPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "gate": (line_statistics,),
    "to [0, 1], scaling": (to_unit, LineScaler.push),
    "gathering patches": (PatchRow.cut,),
    MODEL: (Forward.__call__,),
    "adding patches": (Reconstruction._weighted, PatchRow.add),
    "residual": (residual,),
    "smoothing": (smoothed,),
    "opening": (opening,),
    "labelling": (Labeller.push, Labeller.finish, Placement.region),
}
ROUNDS = 3


@dataclass(frozen=True)
class Step:
    """One step over a roll: median seconds, its share of all, operations and bytes a second against the ceilings.

    `roof` is the least time that the machine could take for the counted work, over the time taken: 1 is perfect.
    None where no work is counted.
    """

    name: str
    seconds: float
    share: float
    gflop_per_second: float | None
    gbyte_per_second: float | None
    roof: float | None


class StepClock:
    """Within it, seconds that this thread spends in named functions; of nested ones the outermost counts."""

    def __init__(self, steps: Mapping[str, tuple[Callable[..., Any], ...]]) -> None:
        self.seconds = dict.fromkeys(steps, 0.0)
        self._names: dict[CodeType, str] = {one.__code__: name for name, those in steps.items() for one in those}
        self._running: FrameType | None = None
        self._start = 0.0

    def __enter__(self) -> StepClock:
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            if self._running is None and frame.f_code in self._names:
                self._running, self._start = frame, time.perf_counter()
        elif event == "return" and frame is self._running:
            self.seconds[self._names[frame.f_code]] += time.perf_counter() - self._start
            self._running = None


def measure_steps(setup: Setup, execution: Execution, stride: int, asked: Web, ceilings: Ceilings) -> list[Step]:
    """Medians over ROUNDS rolls after one to warm up, on one thread: on several the steps are done side by side.

    On a CPU, where a step ends when its call returns; raises ConfigError for another device.

    Args:
        ceilings: of one thread.
    """
    if execution.device == "cuda":
        raise ConfigError(
            f"device {execution.device!r}: steps are timed on a cpu, where calls return when they are done"
        )
    runner = Runner(setup.bundle, replace(execution, threads=1))
    inspect(setup, runner, stride, asked)
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        with StepClock(STEPS) as clock:
            roll = inspect(setup, runner, stride, asked)
        rounds.append({**clock.seconds, REST: roll.seconds - sum(clock.seconds.values())})
    settings = setup.settings.model_copy(update={"stride": stride})
    number_bytes = number_type(execution).itemsize
    work = steps_work(settings, asked.pixels, roll.patches, runner.dtype.itemsize)
    work[MODEL] = model_work(setup.bundle.metadata, roll.patches, -(-roll.patches // execution.batch), number_bytes)
    seconds = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    total = sum(seconds.values())
    return [_step(name, seconds[name], total, work.get(name), ceilings) for name in seconds if seconds[name]]


def _step(name: str, seconds: float, total: float, work: Work | None, ceilings: Ceilings) -> Step:
    share = round(seconds / total, 4)
    if work is None:
        return Step(name, round(seconds, 6), share, None, None, None)
    peak = ceilings.model_flop_per_second if name == MODEL else ceilings.float32_flop_per_second
    least = max(work.flop / peak, work.bytes / ceilings.bytes_per_second)
    return Step(
        name,
        round(seconds, 6),
        share,
        round(work.flop / seconds / 1e9, 2),
        round(work.bytes / seconds / 1e9, 3),
        round(least / seconds, 3),
    )
