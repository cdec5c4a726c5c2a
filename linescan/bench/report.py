"""The tables of `linescan bench` as text."""

from __future__ import annotations

from collections.abc import Sequence

from linescan.bench.ceilings import Ceilings
from linescan.bench.compare import Rival
from linescan.bench.steps import Step
from linescan.bench.whole import EndToEnd
from linescan.models.runner import Execution


def of_end_to_end(result: EndToEnd, execution: Execution) -> str:
    return (
        f"end to end, stride {result.stride}, {execution.precision}, batch {execution.batch}: "
        f"{result.megapixels_per_second:.2f} MPix/s, {result.patches_per_second:.0f} patches/s = "
        f"{result.ratio:.2f} of the bare forward's {result.bare_patches_per_second:.0f} (batch {result.bare_batch}); "
        f"frames of {result.frame_lines} lines, {result.region_percent:g} % of the web in regions"
    )


def of_ceilings(ceilings: Ceilings, execution: Execution) -> str:
    where = "one thread" if execution.threads == 1 else f"{execution.threads} threads"
    if execution.device == "cuda":
        where = "the GPU"
    return (
        f"ceilings, {where}: matrix product {ceilings.model_flop_per_second / 1e9:.0f} GFLOP/s in "
        f"{execution.precision}, {ceilings.float32_flop_per_second / 1e9:.0f} in float32; "
        f"copy {ceilings.bytes_per_second / 1e9:.1f} GB/s"
    )


def of_steps(stride: int, steps: Sequence[Step]) -> str:
    """A step a row; the last column is the least time for its counted work over the time that it took."""
    rows = [
        f"stride {stride}, one thread".ljust(31) + f" {'ms':>9} {'share':>7} {'GFLOP/s':>9} {'GB/s':>8} {'roof':>6}"
    ]
    for step in steps:
        counted = " " * 25
        if step.roof is not None:
            counted = f"{step.gflop_per_second:9.1f} {step.gbyte_per_second:8.2f} {step.roof:6.2f}"
        rows.append(f"  {step.name:<29} {step.seconds * 1e3:9.1f} {step.share:7.1%} {counted}".rstrip())
    return "\n".join(rows)


def of_rivals(rivals: Sequence[Rival]) -> str:
    rows, job = [], ""
    for rival in rivals:
        if rival.job != job:
            job = rival.job
            rows.append(f"{job:<40} {'MPix/s':>9} {'linescan is':>12}")
        if rival.megapixels_per_second is None:
            rows.append(f"  {rival.name:<38} {rival.missing}")
        else:
            rows.append(f"  {rival.name:<38} {rival.megapixels_per_second:9.3g} {rival.ours:10.2f} ×")
    return "\n".join(rows)
