"""Results with where they come from: a Markdown fragment for docs/results.md, and the numbers as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linescan.files import make_folder, write_atomically
from linescan.training.metrics import OverlapQuantiles, RocCurve
from paper.workspace import Workspace


def write_report(
    workspace: Workspace,
    name: str,
    title: str,
    lines: Sequence[str],
    numbers: Any,
    pictures: Sequence[str] = (),
    seconds: float | None = None,
) -> None:
    """Writes NAME.md and NAME.json beside the pictures, and says so.

    `seconds` is what training and evaluation took, those of earlier runs included; None where there was none.
    """
    make_folder(workspace.out)
    text = [f"### {title}", "", "```", workspace.command, "```", ""]
    if workspace.reduced and seconds is not None:
        text += [f"**Not the paper's schedule:** {workspace.reduced}.", ""]
    took = "" if seconds is None else f" Training and evaluation took {duration(seconds)}."
    text += [f"Seed {workspace.seed}; {machine(workspace.device)}.{took}", "", *lines, ""]
    text += [f"![{title}]({picture})" for picture in pictures]
    write_atomically(workspace.out / f"{name}.md", ("\n".join(text).rstrip() + "\n").encode())
    about = {
        "command": workspace.command, "seed": workspace.seed, "machine": machine(workspace.device),
        "reduced": workspace.reduced, "seconds": seconds, "results": numbers,
    }  # fmt: skip
    write_atomically(workspace.out / f"{name}.json", json.dumps(about, indent=1).encode())
    print(f"  written: {workspace.out / name}.md", flush=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table as lines."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def machine(device: torch.device) -> str:
    """Processor or GPU, and torch's version."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{_processor()}, {_threads()}"
    return f"{name}, torch {torch.__version__}"


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count != 1)}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def roc_of(curves: dict[str, Any]) -> RocCurve:
    return RocCurve(*(np.array(curves["roc"][key]) for key in ("fpr", "tpr", "thresholds")))


def overlap_of(curves: dict[str, Any]) -> OverlapQuantiles:
    stored = curves["overlap"]
    fpr, thresholds, quantiles, overlap = (
        np.array(stored[key]) for key in ("fpr", "thresholds", "quantiles", "overlap")
    )
    return OverlapQuantiles(fpr, thresholds, quantiles, overlap, stored["regions"])
