"""Rows of labelled pictures side by side: images, residuals and segmentations in one figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linescan.errors import InputError
from linescan.files import write_atomically
from linescan.training.contact_sheet import outline

Mask = npt.NDArray[np.bool_]

INCHES, DPI = 2.4, 120  # of a panel
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 0.8, 0.0)
SHOWN = (0.001, 0.999)  # quantiles of a map at the ends of its colours


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: an image in [0, 1] or a map of any range.

    title: over it. pixels: H×W; what is not finite stays white. limits: values at the ends of the grey or colour scale;
    None takes the 0.1 % and 99.9 % quantiles. colours: "gray" for images, "viridis" for residuals. segmented: shown
    green. defect: the ground truth, outlined in red.
    """

    title: str
    pixels: npt.NDArray[np.floating[Any]]
    limits: tuple[float, float] | None = (0.0, 1.0)
    colours: str = "gray"
    segmented: Mask | None = None
    defect: Mask | None = None


def residual_panel(title: str, residual: npt.NDArray[np.floating[Any]], defect: Mask | None = None) -> Panel:
    """A residual in its own range of colours, dark blue to yellow."""
    return Panel(title, residual, None, "viridis", defect=defect)


def write_panels(path: Path, rows: Sequence[Sequence[Panel]]) -> None:
    """Writes the rows as PNG; raises InputError where there are none, or where masks do not fit their picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise InputError(f"{path}: a figure needs at least one panel")
    figure = Figure(figsize=(INCHES * columns, 1.1 * INCHES * len(rows)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, places in zip(rows, axes, strict=True):
        for place in places:
            place.set_axis_off()
        for panel, place in zip(row, places, strict=False):
            place.imshow(_pixels(panel), interpolation="nearest")
            place.set_title(panel.title.replace("$", r"\$"), fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def _pixels(panel: Panel) -> npt.NDArray[np.float64]:
    """H×W×3 in [0, 1]."""
    from matplotlib import colormaps

    finite = np.isfinite(panel.pixels)
    known = panel.pixels[finite]
    low, high = panel.limits or (tuple(np.quantile(known, SHOWN)) if known.size else (0.0, 1.0))
    share = np.clip((np.where(finite, panel.pixels, high) - low) / ((high - low) or 1.0), 0, 1)
    rgb = np.array(colormaps[panel.colours](share), np.float64)[..., :3]
    rgb[~finite] = 1
    for mask, colour in ((panel.segmented, GREEN), (panel.defect, RED)):
        if mask is None:
            continue
        if mask.shape != panel.pixels.shape:
            raise InputError(f"{panel.title}: a mask of {mask.shape} on a picture of {panel.pixels.shape}")
        if mask is panel.segmented:
            rgb[mask] = 0.5 * rgb[mask] + 0.5 * np.array(colour)
        else:
            rgb[outline(mask)] = colour
    return rgb
