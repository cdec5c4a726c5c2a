"""How many lines the inspection is behind the newest one."""

from __future__ import annotations

from linescan.config import InspectionSettings
from linescan.inspection import opening
from linescan.inspection.residual import residual_reach, smoothing_reach


def context_lines(settings: InspectionSettings) -> int:
    """Raw lines that may have to come after a line until it is final, at most; a flood of regions apart.

    In scaled rows: the patch that waits for its last line, the stride to it, what residual, smoothing and opening reach
    beyond, and a candidate region that is still too small to be told (8-connected, so no longer than its area; or too
    short). In raw lines: the rest of a scaled row, and lines whose verdict the image band holds back, twice over where
    a piece of a gap comes before them.
    """
    n, reach = settings.scale, residual_reach(settings) + smoothing_reach(settings.smoothing_sigma) + opening.REACH
    least = max(-(-settings.min_area_px // n**2), -(-settings.min_length_px // n))
    rows = settings.patch_size + settings.stride - 1 + reach + least - 1
    return rows * n + n - 1 + 2 * (settings.band.lines - 1)
