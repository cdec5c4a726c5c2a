"""The plots of `linescan bench --scaling`; matplotlib by its objects only: no pyplot, no display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linescan.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]
# measure → its horizontal quantity, the axis's label, and whether it is logarithmic
_SPEED = {
    "width": ("columns", "columns of the web", True),
    "stride": ("stride", "stride of the patches, pixels", False),
    "batch": ("batch", "patches of a forward", True),
    "cameras": ("cameras", "cameras, a process each", False),
}


def plot_scaling(figures: Mapping[str, Rows], folder: Path, title: str) -> None:
    """Writes speed.png (width, stride, batch, cameras) and flat.png (memory by width, cost and memory by length)."""
    speed = _Page(2, 2, title)
    for place, (name, (quantity, label, logarithmic)) in enumerate(_SPEED.items()):
        axes = speed.axes(place, label, "MPix/s, end to end")
        _curve(axes, figures[name], quantity, "mpix_per_s")
        if logarithmic:
            axes.set_xscale("log", base=2)
        values = [row[quantity] for row in figures[name]]
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    speed.save(folder / "speed.png")
    flat = _Page(1, 3, title)
    axes = flat.axes(0, "columns of the web", "memory, MiB")
    _curve(axes, figures["memory"], "columns", "peak_mib", "peak")
    _curve(axes, figures["memory"], "columns", "loaded_mib", "with the model loaded")
    axes.legend()
    axes = flat.axes(1, "lines of the roll so far", "cost of a line, µs")
    _curve(axes, figures["roll"], "lines", "us_per_line", "time")
    _curve(axes, figures["roll"], "lines", "core_us_per_line", "time of all cores")
    axes.legend()
    _curve(flat.axes(2, "lines of the roll so far", "resident MiB"), figures["roll"], "lines", "resident_mib")
    flat.save(folder / "flat.png")


class _Page:
    """Axes beside and below one another."""

    def __init__(self, down: int, across: int, title: str) -> None:
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(4.6 * across, 3.4 * down), layout="constrained")
        self._figure.suptitle(title)
        self._shape = down, across

    def axes(self, place: int, x: str, y: str) -> Axes:
        axes = self._figure.add_subplot(*self._shape, place + 1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color="0.9")
        return axes

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", dpi=100)
        write_atomically(path, buffer.getvalue())


def _curve(axes: Axes, rows: Rows, x: str, y: str, label: str | None = None) -> None:
    """From zero up, so that what is flat looks flat."""
    values = [row[y] for row in rows]
    axes.plot([row[x] for row in rows], values, marker="o", label=label)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.1 * max(values)))
