"""Where the cameras of a line see the same web, by its line.toml."""

from __future__ import annotations

import math

from linescan.border_gate import BorderGate
from linescan.line import Line
from linescan.neighbours import View


def views_of(line: Line) -> dict[str, View]:
    """What each camera of a line sees of the web, as far as it says where they are."""
    views = {}
    for camera in line.settings.cameras:
        width, per_column = line.width(camera.name), camera.mm_per_column
        if per_column is not None:  # of unknown width it may see everything
            end = math.inf if width is None else camera.x_offset_mm + width * per_column
            views[camera.name] = View(camera.x_offset_mm, end)
        else:
            views[camera.name] = View(math.nan, math.nan)  # near to nothing
    return views


def border_of(line: Line) -> BorderGate:
    """What the cameras of a line see together; each is alone where it is not said where they are."""
    web, views = line.settings.web, views_of(line)
    if web is None:
        return BorderGate(views, counts_per_mm=1.0, margin_mm=0.0, hold_s=0.0)
    return BorderGate(views, counts_per_mm=web.counts_per_mm, margin_mm=web.border_mm, hold_s=web.border_hold_s)
