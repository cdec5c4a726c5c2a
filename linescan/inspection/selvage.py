"""Where the web is, line by line: the columns beyond its edges are not inspected."""

from __future__ import annotations

import torch
from torch import Tensor

from linescan.config import Selvage
from linescan.inspection.rows import Rows


def web_mask(
    web: Rows, first: int, end: int, reach: int, selvage: Selvage | None, columns: int, device: torch.device
) -> Tensor:
    """True where rows first…end−1 of the segment show web at least `reach` pixels inside its edges; rows×W."""
    if selvage is None:
        return torch.ones(end - first, columns, dtype=torch.bool, device=device)
    low, high = max(first - reach, web.first, 0), min(end + reach, web.end)
    left, right = web_edges(web.get(low, high), selvage)
    # the window of a pixel must not touch the backdrop in any of its lines
    left = _worst(left, reach)[first - low :][: end - first] + reach
    right = -_worst(-right, reach)[first - low :][: end - first] - reach
    column = torch.arange(columns, device=device)
    return (column >= left[:, None]) & (column < right[:, None])


def web_edges(rows: Tensor, selvage: Selvage) -> tuple[Tensor, Tensor]:
    """First column and end column of the web in C×H×W rows; (W, 0) in a row without web."""
    grey = rows.mean(0)
    on_web = grey > selvage.level if selvage.backdrop == "dark" else grey < selvage.level
    hold = min(selvage.hold_px, on_web.shape[1])
    # a run of `hold` web pixels starts here; a single bright thread on the backdrop is no web
    starts = on_web.unfold(1, hold, 1).all(-1)
    width = starts.shape[1]
    column = torch.arange(width, device=rows.device)
    left = torch.where(starts, column, rows.shape[-1]).amin(1)
    right = torch.where(starts, column + hold, 0).amax(1)
    return left, right


def _worst(edge: Tensor, reach: int) -> Tensor:
    """Largest value within `reach` rows on each side; rows beyond the stretch do not count."""
    if reach == 0:
        return edge
    padded = torch.nn.functional.pad(edge, (reach, reach), value=-(2**31))
    return padded.unfold(0, 2 * reach + 1, 1).amax(-1)
