"""The bare model beside the whole inspection, in turns: both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count as counted
from typing import Any

from linescan.bench.machine import peak_mib
from linescan.bench.web import Web
from linescan.inspection import Footprint, Inspector
from linescan.messages import Region
from linescan.models.runner import BATCHES, Execution, Precision, Runner, patches_per_second, timed_forwards
from linescan.recipe import Setup

ROUNDS = 5
BARE_SECONDS = 0.4  # for each batch, each time
TURN_FRAMES = 4  # a frame begins while the one before is scored, which ends at each turn


@dataclass(frozen=True)
class EndToEnd:
    """The whole inspection at one stride; `ratio` is its patches/s over the best bare forward of the same rounds.

    The bare forward is that of `bare_batch`, the batch that it is fastest with, chosen or not. `region_percent` is how
    much of the web lay in regions.
    """

    stride: int
    frame_lines: int
    bare_batch: int
    megapixels_per_second: float
    patches_per_second: float
    bare_patches_per_second: float
    ratio: float
    region_percent: float


def bare_table(setup: Setup, device: str, threads: Sequence[int], precisions: Sequence[Precision]) -> dict[str, Any]:
    """Patches/s of the bare forward for each batch, precision and number of threads."""
    table: dict[str, float] = {}
    for precision in precisions:
        for count in threads:
            for batch in (1, *BATCHES, 128):
                execution = Execution(device, precision, batch, count)
                table[_name(execution)] = round(patches_per_second(setup.bundle, execution, 0.4), 1)
    return table


def end_to_end(setup: Setup, execution: Execution, stride: int, asked: Web) -> EndToEnd:
    """Inspects the web, in turn with the bare forward, so that both see one machine.

    Medians over ROUNDS; the pixels are raw 8-bit ones of the camera.
    """
    batches = {execution.batch, *(BATCHES if execution.device != "cuda" else ())}
    runners = {batch: Runner(setup.bundle, replace(execution, batch=batch)) for batch in sorted(batches)}
    rounds = [_round(setup, runners, execution.batch, stride, asked) for _ in range(ROUNDS)]
    best = max(runners, key=lambda batch: statistics.median(one.bare[batch] for one in rounds))
    return EndToEnd(
        stride,
        asked.frame_lines,
        best,
        round(statistics.median(asked.pixels / one.seconds for one in rounds) / 1e6, 3),
        round(statistics.median(one.patches / one.seconds for one in rounds), 1),
        round(statistics.median(one.bare[best] for one in rounds), 1),
        round(statistics.median(one.patches / one.seconds / one.bare[best] for one in rounds), 3),
        round(100 * rounds[0].region_pixels / asked.pixels, 2),
    )


@dataclass(frozen=True)
class Roll:
    """One roll inspected: its seconds, patches, and the pixels of its regions."""

    seconds: float
    patches: int
    region_pixels: int


@dataclass(frozen=True)
class _Round(Roll):
    """With the bare forward's patches/s meanwhile, by batch."""

    bare: dict[int, float]


def inspect(setup: Setup, runner: Runner, stride: int, asked: Web, between: Sequence[_Bare] = ()) -> Roll:
    """A roll from raw frames to regions; making the frames does not count, nor what runs `between` some of them."""
    inspector, before = inspector_for(setup, runner, stride, asked.columns), runner.patches
    seconds, pixels = 0.0, 0
    frames = asked.frames(setup.bundle)
    for number in counted(1):
        frame = next(frames, None)
        turn = between if frame is None or number % TURN_FRAMES == 0 else ()
        start = time.perf_counter()
        findings = inspector.finish() if frame is None else inspector.push(frame)
        if turn:  # what is under way would run beside them
            findings += inspector.settle()
        seconds += time.perf_counter() - start
        pixels += sum(one.area_px for one in findings if isinstance(one, Region) and one.phase == "close")
        for bare in turn:
            bare.run()
        if frame is None:
            break
    return Roll(seconds, runner.patches - before, pixels)


def inspector_for(setup: Setup, runner: Runner, stride: int, columns: int) -> Inspector:
    """All columns of the web, without what belongs to one camera: lanes, selvage, calibration."""
    changed = {"stride": stride, "columns": None, "selvage": None, "lanes": (), "masks": ()}
    settings = setup.settings.model_copy(update=changed)
    return Inspector(settings, Footprint(columns), runner, queues=runner.queues)


class _Bare:
    """Bare forwards of one batch, a little at a time."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._forwards, self._seconds = 0, 0.0

    def run(self) -> None:
        forwards, seconds = timed_forwards(self._runner, BARE_SECONDS)
        self._forwards += forwards
        self._seconds += seconds

    @property
    def rate(self) -> float:
        return self._forwards * self._runner.batch / self._seconds


def _round(setup: Setup, runners: dict[int, Runner], chosen: int, stride: int, asked: Web) -> _Round:
    """A roll, with the bare forwards every few frames: a busy machine changes within the second."""
    bare = {batch: _Bare(runner) for batch, runner in runners.items()}
    roll = inspect(setup, runners[chosen], stride, asked, tuple(bare.values()))
    return _Round(roll.seconds, roll.patches, roll.region_pixels, {batch: one.rate for batch, one in bare.items()})


def peak_memory(setup: Setup, execution: Execution, asked: Web) -> dict[str, float]:
    """Peak resident memory of this process, MiB, after loading the model and after a roll."""
    runner = Runner(setup.bundle, execution)
    loaded = peak_mib()
    inspect(setup, runner, setup.settings.stride, asked)
    return {"lines": asked.lines, "loaded_mib": loaded, "peak_mib": peak_mib()}


def _name(execution: Execution) -> str:
    return f"{execution.precision}, batch {execution.batch}, {execution.threads} threads"
