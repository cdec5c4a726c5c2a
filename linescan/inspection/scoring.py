"""The back half of a segment: the web and its reconstruction in, bands of final score and opened mask out.

web, reconstruction ──K×K──▶ residual ──σ──▶ smoothed ──calibration──▶ score ──opening──▶ mask
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.inspection import opening
from linescan.inspection.bands import Band
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.patches import mirror_sides, mirrored, take
from linescan.inspection.reconstruction import Reconstructed
from linescan.inspection.residual import residual, residual_reach, smoothed, smoothing_reach
from linescan.inspection.rows import Rows
from linescan.inspection.selvage import web_mask
from linescan.inspection.strips import Strips


class Scoring:
    """Scores a stretch of lines without a gap.

    All rows that it is given go through a stage at once, for fewer and larger calls and fewer rows computed twice
    around a band.

    Args:
        settings: what decides the result.
        columns: W, scaled columns that are inspected.
        resume_row: first row of the first band.
        look: whether a value may be looked at to save work, which has the host wait for a device.
    """

    def __init__(
        self,
        settings: InspectionSettings,
        columns: int,
        device: torch.device,
        calibration: ColumnCalibration | None,
        resume_row: int,
        strips: Strips,
        look: bool,
    ) -> None:
        self._settings = settings
        self._calibration = calibration
        self._strips = strips
        self._threshold = settings.threshold if self._strips.thresholds is None else self._strips.thresholds
        self._reach = residual_reach(settings)
        self._smoothing = smoothing_reach(settings.smoothing_sigma)
        self._columns = columns
        self._device = device
        self._look = look

        self._done = resume_row  # rows before it were handed out
        self._scored = max(0, resume_row - opening.REACH)
        self._residual_done = max(0, self._scored - self._smoothing)
        self.first = max(0, self._residual_done - self._reach)
        """first row that it needs"""
        self._web = Rows(self.first)
        self._mean = Rows(self.first)  # of the reconstructions, maps×rows×W
        self._residual = Rows(self._residual_done)
        self._score = Rows(self._scored)
        self._faults = Rows(resume_row)

    def push(self, rows: Reconstructed) -> list[Band]:
        """Takes the next rows; returns one band for each of the ends that lies behind the bands before."""
        self._web.append(rows.web)
        self._mean.append(rows.mean)
        self._faults.append(rows.faulty)
        bands = self._advance(rows.ends, rows.ended)
        self._trim()
        return bands

    def _advance(self, ends: list[int], ended: bool) -> list[Band]:
        height = self._web.end
        residual_end = height if ended else height - self._reach
        if residual_end > self._residual_done:
            self._residual.append(self._residual_rows(self._residual_done, residual_end))
            self._residual_done = residual_end
        score_end = height if ended else self._residual_done - self._smoothing
        if score_end > self._scored:
            self._score.append(self._score_rows(self._scored, score_end))
            self._scored = score_end
        first, ends = self._done, [end for end in ends if end > self._done]
        if not ends:
            return []
        self._done = ends[-1]
        whole = self._band(first, ends[-1])
        return [whole.part(start - first, end - first) for start, end in pairwise([first, *ends])]

    def _residual_rows(self, first: int, end: int) -> Tensor:
        reach = self._reach
        web, mean = (maps.get(first - reach, end + reach) for maps in (self._web, self._mean))
        return residual(web, mean, self._settings, reflecting=True)

    def _score_rows(self, first: int, end: int) -> Tensor:
        reach = self._smoothing
        rows = self._residual.get(first - reach, end + reach)
        if reach:
            rows = smoothed(rows, self._settings.smoothing_sigma, reflecting=True)
        if self._calibration is not None:
            rows = self._calibration.apply(rows)
        return rows.contiguous()

    def _band(self, first: int, end: int) -> Band:
        web, faulty = self._web.get(first, end), self._faults.get(first, end)[:, 0]
        score = self._score.get(first, end)
        reach = opening.REACH
        low, high = max(0, first - reach), min(self._scored, end + reach)
        inspected = web_mask(self._web, low, high, self._reach, self._settings.selvage, self._columns, self._device)
        if self._strips.inspected is not None:
            inspected &= self._strips.inspected
        # Written so that a score that is not a number does not pass. Scores near a fault are opened like the others:
        # its rows end REACH beyond the last score that it could touch, and what lies outside must not see its edge.
        beyond = ~(self._score.get(low, high) <= self._threshold)
        beyond &= inspected
        if high < end + reach or first < reach:  # at the segment's borders
            height = self._scored if high < end + reach else high
            beyond = take(beyond, -2, [i - low for i in mirrored(first - reach, end + reach, height)])
        opened = opening.opening(mirror_sides(beyond, reach))
        inspected = inspected[first - low : end - low]
        opened &= inspected
        if not self._look or bool(faulty.any()):
            opened &= ~faulty[:, None]
        mean = self._mean.get(first, end)[: self._settings.channels]
        return Band(first, web, mean, score, opened, inspected, faulty)

    def _trim(self) -> None:
        """Drops what no later row depends on."""
        needed = min(self._residual_done - self._reach, self._done - opening.REACH - self._reach)
        self._web.drop_before(needed)
        self._mean.drop_before(needed)
        self._residual.drop_before(self._scored - self._smoothing)
        self._score.drop_before(self._done - opening.REACH)
        self._faults.drop_before(self._done)
