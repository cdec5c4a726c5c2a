"""Measures what the machine at hand does with a bundle: the bare model, and the whole inspection beside it."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linescan import __version__
from linescan.inspection import Footprint, Inspector
from linescan.models.runner import BATCHES, Execution, Precision, Runner, patches_per_second, timed_forwards
from linescan.recipe import Setup

FRAME_LINES = 256
ROUNDS = 5
BARE_SECONDS = 0.1  # for each batch, between two frames


@dataclass(frozen=True)
class EndToEnd:
    """The whole inspection at one stride; `ratio` is its patches/s over the best bare forward of the same rounds.

    The bare forward is that of `bare_batch`, the batch that it is fastest with, chosen or not.
    """

    stride: int
    bare_batch: int
    megapixels_per_second: float
    patches_per_second: float
    bare_patches_per_second: float
    ratio: float


def bare_table(setup: Setup, device: str, threads: Sequence[int], precisions: Sequence[Precision]) -> dict[str, Any]:
    """Patches/s of the bare forward for each batch, precision and number of threads."""
    table: dict[str, float] = {}
    for precision in precisions:
        for count in threads:
            for batch in (1, *BATCHES, 128):
                execution = Execution(device, precision, batch, count)
                table[_name(execution)] = round(patches_per_second(setup.bundle, execution, 0.4), 1)
    return table


def end_to_end(setup: Setup, execution: Execution, stride: int, columns: int, lines: int) -> EndToEnd:
    """Inspects a web made of the bundle's reference patch, in turn with the bare forward, so that both see one machine.

    Medians over ROUNDS; the pixels are raw 8-bit ones of the camera.
    """
    batches = {execution.batch, *(BATCHES if execution.device == "cpu" else ())}
    runners = {batch: Runner(setup.bundle, replace(execution, batch=batch)) for batch in sorted(batches)}
    rounds = [_round(setup, runners, execution.batch, stride, columns, lines) for _ in range(ROUNDS)]
    best = max(runners, key=lambda batch: statistics.median(one.bare[batch] for one in rounds))
    return EndToEnd(
        stride,
        best,
        round(statistics.median(lines * columns / one.seconds for one in rounds) / 1e6, 3),
        round(statistics.median(one.patches / one.seconds for one in rounds), 1),
        round(statistics.median(one.bare[best] for one in rounds), 1),
        round(statistics.median(one.patches / one.seconds / one.bare[best] for one in rounds), 3),
    )


@dataclass(frozen=True)
class _Round:
    """One roll inspected: its patches and seconds, and the bare forward's patches/s with each batch meanwhile."""

    patches: int
    seconds: float
    bare: dict[int, float]


def _round(setup: Setup, runners: dict[int, Runner], chosen: int, stride: int, columns: int, lines: int) -> _Round:
    """A roll, with the bare forwards after each frame: a busy machine changes within the second."""
    runner, inspector = runners[chosen], _inspector(setup, runners[chosen], stride, columns)
    before, seconds = runner.patches, 0.0
    count, bare_seconds = dict.fromkeys(runners, 0), dict.fromkeys(runners, 0.0)
    for frame in _web(setup.bundle.reference, columns, lines):
        start = time.perf_counter()
        inspector.push(frame)
        seconds += time.perf_counter() - start
        for batch, other in runners.items():
            forwards, spent = timed_forwards(other, BARE_SECONDS)
            count[batch] += forwards * batch
            bare_seconds[batch] += spent
    start = time.perf_counter()
    inspector.finish()
    seconds += time.perf_counter() - start
    return _Round(runner.patches - before, seconds, {batch: count[batch] / bare_seconds[batch] for batch in runners})


def peak_memory(setup: Setup, execution: Execution, columns: int, lines: int) -> dict[str, float]:
    """Peak resident memory of this process, MiB, after loading the model and after a roll of `lines` lines."""
    runner = Runner(setup.bundle, execution)
    inspector = _inspector(setup, runner, setup.settings.stride, columns)
    loaded = _peak_mib()
    for frame in _web(setup.bundle.reference, columns, lines):
        inspector.push(frame)
    inspector.finish()
    return {"lines": lines, "loaded_mib": loaded, "peak_mib": _peak_mib()}


def machine() -> dict[str, str]:
    """What a figure must be read with."""
    return {
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
        "cores": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "linescan": __version__,
    }


def _inspector(setup: Setup, runner: Runner, stride: int, columns: int) -> Inspector:
    settings = setup.settings.model_copy(update={"stride": stride, "columns": None, "selvage": None, "lanes": ()})
    return Inspector(settings, Footprint(columns), runner, device=runner.device)


def _web(reference: NDArray[np.uint8], columns: int, lines: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of the reference patch, mirrored so that its copies join; about a tenth of it is defect."""
    tile = np.concatenate([reference, reference[::-1]])
    tile = np.concatenate([tile, tile[:, ::-1]], 1)
    down, across = -(-FRAME_LINES // tile.shape[0]), -(-columns // tile.shape[1])
    repeats = (down, across, 1)[: tile.ndim]
    frame = np.ascontiguousarray(np.tile(tile, repeats)[:FRAME_LINES, :columns])
    for first in range(0, lines, FRAME_LINES):
        yield frame[: min(FRAME_LINES, lines - first)]


def _name(execution: Execution) -> str:
    return f"{execution.precision}, batch {execution.batch}, {execution.threads} threads"


def _peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
