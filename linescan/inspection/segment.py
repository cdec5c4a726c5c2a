"""One segment: scaled lines in, bands of final score and opened mask out.

Every stage keeps the rows that the next one still needs and no more, so memory depends on the width alone:

    web ──patches──▶ reconstruction ──K×K──▶ residual ──σ──▶ smoothed ──calibration──▶ score ──opening──▶ mask
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection import opening
from linescan.inspection.bands import Band
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.patches import PatchRow, mirror_sides, mirrored, reflected, take
from linescan.inspection.residual import reconstructed_maps, residual, residual_reach, smoothed, smoothing_reach
from linescan.inspection.rows import Rows
from linescan.inspection.selvage import web_mask
from linescan.inspection.strips import Strips
from linescan.inspection.threads import InTurn

Reconstruct = Callable[[Tensor], Tensor]
Fill = Callable[[int, Tensor], None]
Take = Callable[[int, Tensor, Tensor], None]
Through = Callable[[int, Fill, Take], None]

# Beyond this a reconstruction of a [0, 1] web is a fault of the model, and its square may leave float32.
ABSURD = 1e4
PATCHES_AT_ONCE = 1024  # grid rows of up to this many patches go through the stages together
NO_STRIPS = Strips()
DEVICE_PATCHES_AT_ONCE = 8192  # … on a device, where each call is a launch, whatever its size
PLAIN_PIECE = 256  # patches of one call of a model that is a plain function, if it does not take more at once


class Segment:
    """Inspects a stretch of lines without a gap.

    Args:
        settings: what decides the result.
        columns: W, scaled columns that are inspected.
        reconstruct: N×C×P×P float32 patches in [0, 1] → their reconstructions (for method vae mean and variance of
            the samples, N×2C×P×P); each patch for itself. Where it has a `reconstruct` as `Runner` has,
            patches are gathered and added on its threads, in its `dtype`.
        resume_row: rows before it were final in an earlier run; `first_row_needed` says from where to feed again.
        strips: thresholds and masks by column.
        look: whether a value may be looked at to save work, which has the host wait for a device.
    """

    def __init__(
        self,
        settings: InspectionSettings,
        columns: int,
        reconstruct: Reconstruct,
        device: torch.device,
        calibration: ColumnCalibration | None = None,
        resume_row: int = 0,
        strips: Strips = NO_STRIPS,
        look: bool = True,
    ) -> None:
        self._settings = settings
        self._calibration = calibration
        self._strips = strips.to(device)
        self._threshold = settings.threshold if self._strips.thresholds is None else self._strips.thresholds
        self._reach = residual_reach(settings)
        self._smoothing = smoothing_reach(settings.smoothing_sigma)
        self._halo = self._reach + self._smoothing + opening.REACH
        self._grid = PatchRow(columns, settings.patch_size, settings.stride, settings.blend, device)
        self._columns = columns
        self._device = device
        self._look = look
        self._maps = reconstructed_maps(settings)
        most = PATCHES_AT_ONCE if device.type == "cpu" else DEVICE_PATCHES_AT_ONCE
        self._rows_at_once = max(1, most // len(self._grid))
        self._reconstruct = reconstruct
        self._dtype: torch.dtype = getattr(reconstruct, "dtype", torch.float32)
        at_once: int = getattr(reconstruct, "at_once", 1)
        self._piece = max(1, PLAIN_PIECE // at_once) * at_once

        first = first_row_needed(settings, resume_row)
        self._grid_row = first // settings.stride
        self._done = resume_row  # rows before it were handed out
        self._scored = max(0, resume_row - opening.REACH)
        self._residual_done = max(0, self._scored - self._smoothing)
        self._final = 0 if first == 0 else self._residual_done - self._reach  # reconstruction rows before it are final
        self._broken_off = False
        self._web = Rows(first)
        self._total = Rows(first)  # weighted sums of reconstructions, C×rows×width
        self._weight = Rows(first)
        self._mean = Rows(self._final)  # of the reconstructions that are final, maps×rows×W
        self._residual = Rows(self._residual_done)
        self._score = Rows(self._scored)
        self._faults = Rows(first)  # rows×1: whether something that the model could not judge reaches a row

    @property
    def done(self) -> int:
        """First scaled row that is not final yet."""
        return self._done

    def push(self, rows: Tensor) -> list[Band]:
        """Takes C×n×W scaled rows; returns one band for each row of the patch grid that they complete."""
        if self._broken_off:
            raise InspectionError("an error broke this segment off in the middle of its sums: it cannot go on")
        self._broken_off = True
        self._web.append(rows)
        p, s = self._settings.patch_size, self._settings.stride
        bands: list[Band] = []
        while self._grid_row * s + p <= self._web.end:
            complete = (self._web.end - p) // s - self._grid_row + 1
            # in even portions, so that a small last one does not leave most of a batch empty
            portion = -(-complete // -(-complete // self._rows_at_once))
            lines = [(self._grid_row + i) * s for i in range(portion)]
            self._add_grid_rows(lines)
            self._grid_row += portion
            # a later clamped anchor of the segment's end can cover no row before the last of them
            self._final = max(self._final, lines[-1])
            bands += self._advance([line - self._halo for line in lines])
        self._trim()
        self._broken_off = False
        return bands

    def finish(self) -> list[Band]:
        """The segment has ended: its last rows become final with the clamped anchor and reflected borders.

        A resumed segment that ends before it was where the first run stopped lacks what its last rows depend on; they
        stay undone then.
        """
        height = self._web.end
        p, s = self._settings.patch_size, self._settings.stride
        caught_up = not self._done or self._final >= self._done + self._halo
        if not height or not caught_up:
            return []
        last = max(height - p, 0)
        if last % s or height < p:
            self._add_grid_rows([last])
        self._final = height
        return self._advance([height], ended=True)

    def _add_grid_rows(self, lines: list[int]) -> None:
        """Reconstructs the patches of some line anchors and adds them in (line, column) order."""
        self._make_room(lines)
        # in the model's precision already: a pixel goes into many patches
        first, end = lines[0] - self._web.first, lines[-1] + self._settings.patch_size - self._web.first
        web = self._web.all()[..., first:end, :].to(self._dtype)
        rows = [take(web, -2, self._patch_rows(line, lines[0])) for line in lines]
        totals = [self._covered(self._total, line) for line in lines]
        adding = InTurn()

        def fill(first: int, place: Tensor) -> None:
            for i, column, part in self._spans(first, len(place)):
                self._grid.cut(rows[i], place[part], column)

        def take_in(first: int, patches: Tensor, reconstructions: Tensor) -> None:
            weighted, sound = self._weighted(patches, reconstructions)
            adding.bring(first, len(patches), partial(add, first, weighted, sound))

        def add(first: int, weighted: Tensor, sound: Tensor | None) -> None:
            for i, column, part in self._spans(first, len(weighted)):
                if sound is not None:
                    self._mark(lines[i], ~sound[part].all())
                self._grid.add(weighted[part], totals[i], column)

        through: Through = getattr(self._reconstruct, "reconstruct", self._plainly)
        through(len(lines) * len(self._grid), fill, take_in)

    def _spans(self, first: int, count: int) -> Iterator[tuple[int, int, slice]]:
        """Of some patches in a row: number of their line anchor, of the first on it, and their place among them."""
        row, end = len(self._grid), first + count
        for i in range(first // row, -(-end // row)):
            low, high = max(i * row, first), min((i + 1) * row, end)
            yield i, low - i * row, slice(low - first, high - first)

    def _plainly(self, count: int, fill: Fill, take_in: Take) -> None:
        """`Runner.reconstruct` with a model that is a plain function."""
        settings = self._settings
        for first in range(0, count, self._piece):
            size = min(self._piece, count - first), settings.channels, settings.patch_size, settings.patch_size
            patches = torch.empty(size, dtype=self._dtype, device=self._device)
            fill(first, patches)
            take_in(first, patches, self._reconstruct(patches))

    def _mark(self, line: int, faulty: Tensor) -> None:
        """Rows that a patch of this line anchor reaches are as faulty as the patch."""
        low = max(line - self._halo, self._faults.first)
        reached = self._faults.all().narrow(-2, low - self._faults.first, self._reached(line) - low)
        reached.logical_or_(faulty)

    def _reached(self, line: int) -> int:
        """End of the rows that a patch of this line anchor reaches."""
        return line + self._settings.patch_size + self._halo

    def _weighted(self, patches: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor | None]:
        """The patches' reconstructions as they are added, and which of them are sound (None: all).

        Where the model cannot reconstruct a patch it is the web itself.
        """
        if reconstructions.shape != (len(patches), self._maps, *patches.shape[2:]):
            raise InspectionError(
                f"the model returned {tuple(reconstructions.shape)} for patches of {tuple(patches.shape)}"
            )
        whole = torch.empty(reconstructions.shape, device=self._device).copy_(reconstructions)
        sound = self._sound(whole.flatten(1))
        if sound is not None:
            # the web in place of the fault keeps it from spreading; its lines are a gap all the same
            without_fault = patches
            if self._maps > self._settings.channels:
                without_fault = torch.cat([patches, torch.zeros_like(patches)], 1)
            whole = torch.where(sound[:, None, None, None], whole, without_fault.float())
        return self._grid.weigh(whole), sound

    def _sound(self, flat: Tensor) -> Tensor | None:
        """Which reconstructions are numbers, and none absurd; None where all are."""
        # the norm is one pass, and no pixel is larger; what is not a number compares as False
        if self._look and bool((torch.linalg.vector_norm(flat, dim=1) <= ABSURD).all()):
            return None
        sound = (flat.amin(1) >= -ABSURD) & (flat.amax(1) <= ABSURD)
        return None if self._look and bool(sound.all()) else sound

    def _patch_rows(self, line: int, first: int) -> list[int]:
        """Where the rows of patches at this line anchor are among rows that begin with `first`."""
        return [row - first for row in reflected(line, line + self._settings.patch_size, max(self._web.end, 1))]

    def _make_room(self, lines: list[int]) -> None:
        """Sums and marks for the rows that patches at these line anchors reach; their weights are added already."""
        missing = lines[-1] + self._settings.patch_size - self._total.end
        if missing > 0:
            self._total.append(torch.zeros(self._maps, missing, self._grid.width, device=self._device))
            self._weight.append(torch.zeros(missing, self._grid.width, device=self._device))
        unmarked = self._reached(lines[-1]) - self._faults.end
        if unmarked > 0:
            self._faults.append(torch.zeros(unmarked, 1, dtype=torch.bool, device=self._device))
            self._faults.all()  # in one piece now: those who mark are in inference mode, what they make stays in it
        for line in lines:
            self._covered(self._weight, line).add_(self._grid.weight_sum)

    def _covered(self, sums: Rows, line: int) -> Tensor:
        """The rows that patches at this line anchor cover."""
        return sums.all().narrow(-2, line - sums.first, self._settings.patch_size)

    def _advance(self, ends: list[int], ended: bool = False) -> list[Band]:
        """Takes the rows whose reconstruction became final through the stages; hands out bands up to each of `ends`.

        All rows go through a stage at once, for fewer and larger calls and fewer rows computed twice around a band.
        """
        height = self._web.end
        if self._final > self._mean.end:
            self._take_mean()
        residual_end = height if ended else self._final - self._reach
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

    def _take_mean(self) -> None:
        """The mean over the patches that cover a pixel, of the rows that became final."""
        place = slice(self._mean.end - self._total.first, self._final - self._total.first)
        total, weight = self._total.all()[:, place, : self._columns], self._weight.all()[place, : self._columns]
        self._mean.append(total / weight)

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
        next_anchor = self._grid_row * self._settings.stride  # far behind the others where a resumed run catches up
        needed = min(self._residual_done - self._reach, self._done - opening.REACH - self._reach)
        # the segment may end at any line: its clamped anchor would then start P before
        self._web.drop_before(min(needed, next_anchor, self._web.end - self._settings.patch_size))
        self._mean.drop_before(needed)
        self._total.drop_before(min(self._final, next_anchor))
        self._weight.drop_before(min(self._final, next_anchor))
        self._residual.drop_before(self._scored - self._smoothing)
        self._score.drop_before(self._done - opening.REACH)
        self._faults.drop_before(self._done)


def first_row_needed(settings: InspectionSettings, resume_row: int) -> int:
    """First scaled row of the segment that a new run needs so that rows from `resume_row` on come out the same."""
    halo = residual_reach(settings) + smoothing_reach(settings.smoothing_sigma) + opening.REACH
    earliest = max(0, resume_row - halo)
    # the first grid row whose patches still reach the earliest row
    return -(-max(0, earliest - settings.patch_size + 1) // settings.stride) * settings.stride
