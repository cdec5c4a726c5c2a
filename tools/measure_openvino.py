"""Measures torch and OpenVINO on one bundle in turns: the bare forward, and the whole inspection at some strides.

    linescan quantise --model M.pt --images GOOD
    python tools/measure_openvino.py --model M.pt [--strides 30 112] [--seconds 20]

Each round runs every way once; printed are the best, the median, and the median of the ratio to the fastest torch
bfloat16 of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from linescan.inspection import Footprint, Inspector
from linescan.models.runner import (
    BATCHES,
    Execution,
    Precision,
    Runner,
    available_threads,
    filled_batch,
    side_by_side,
    timed_forwards,
)
from linescan.recipe import Setup, load_setup, patches_a_row

WAYS: tuple[tuple[str, Precision], ...] = (
    ("cpu", "float32"), ("cpu", "bfloat16"), ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"),
)  # fmt: skip
FRAME_LINES = 256
FORWARD_SECONDS = 0.12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="M.pt", help="with M.int8.json beside it")
    parser.add_argument("--strides", type=int, nargs="*", default=[30, 112], metavar="N")
    parser.add_argument("--width", type=int, default=2048, metavar="W", help="columns of the web (default: 2048)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of each comparison (default: 20)")
    args = parser.parse_args()
    setup = load_setup(args.model)
    bare = {f"{device} {precision}, batch {batch}": _bare(setup, device, precision, batch)
            for device, precision in WAYS for batch in BATCHES}  # fmt: skip
    _in_turns("bare forward, patches/s", bare, args.seconds)
    for stride in args.strides:
        whole = {f"{device} {precision}": _whole(setup, device, precision, stride, args.width)
                 for device, precision in WAYS}  # fmt: skip
        _in_turns(f"whole inspection at stride {stride}, MPix/s", whole, args.seconds)


def _bare(setup: Setup, device: str, precision: Precision, batch: int) -> Callable[[], float]:
    runner = Runner(setup.bundle, Execution(device, precision, batch, available_threads()))

    def rate() -> float:
        forwards, seconds = timed_forwards(runner, FORWARD_SECONDS)
        return forwards * batch / seconds

    return rate


def _whole(setup: Setup, device: str, precision: Precision, stride: int, width: int) -> Callable[[], float]:
    settings = setup.settings.model_copy(update={"stride": stride, "columns": None, "selvage": None, "lanes": ()})
    batch = filled_batch(patches_a_row(settings, width), side_by_side(device, available_threads()))
    runner = Runner(setup.bundle, Execution(device, precision, batch, available_threads()))
    tile = np.concatenate([setup.bundle.reference, setup.bundle.reference[::-1]])
    tile = np.concatenate([tile, tile[:, ::-1]], 1)
    repeats = (-(-FRAME_LINES // tile.shape[0]), -(-width // tile.shape[1]), 1)
    frame = np.ascontiguousarray(np.tile(tile, repeats[: tile.ndim])[:FRAME_LINES, :width])
    frames = max(2, stride // 14)  # about as long at each stride

    def rate() -> float:
        inspector = Inspector(settings, Footprint(width), runner, device=runner.device)
        start = time.perf_counter()
        for _ in range(frames):
            inspector.push(frame)
        inspector.finish()
        return frames * FRAME_LINES * width / (time.perf_counter() - start) / 1e6

    return rate


def _in_turns(title: str, ways: Mapping[str, Callable[[], float]], seconds: float) -> None:
    rounds: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rounds) < 3:
        rounds.append({name: rate() for name, rate in ways.items()})
    print(f"{title}, {len(rounds)} rounds")
    for name in ways:
        rates = [one[name] for one in rounds]
        ratios = [one[name] / max(rate for other, rate in one.items() if "cpu bfloat16" in other) for one in rounds]
        print(
            f"  {name}: best {max(rates):.4g}, median {statistics.median(rates):.4g}; {statistics.median(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
