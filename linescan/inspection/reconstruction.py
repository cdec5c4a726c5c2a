"""The front half of a segment: scaled lines in, the web's reconstruction out, row by row as it becomes final.

web ──patches──▶ model ──▶ weighted sums of overlapping patches ──▶ their mean
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection.patches import PatchRow, reflected, take
from linescan.inspection.residual import reconstructed_maps
from linescan.inspection.rows import Rows
from linescan.inspection.threads import InTurn

Reconstruct = Callable[[Tensor], Tensor]
Fill = Callable[[int, Tensor], None]
Take = Callable[[int, Tensor, Tensor], None]
Through = Callable[[int, Fill, Take], None]

# Beyond this a reconstruction of a [0, 1] web is a fault of the model, and its square may leave float32.
ABSURD = 1e4
PATCHES_AT_ONCE = 1024  # grid rows of up to this many patches are reconstructed together
DEVICE_PATCHES_AT_ONCE = 8192  # … on a device, where each call is a launch, whatever its size
PLAIN_PIECE = 256  # patches of one call of a model that is a plain function, if it does not take more at once


@dataclass(frozen=True)
class Reconstructed:
    """Rows of which the reconstruction is final, those that follow the ones before.

    Args:
        web, mean: C×n×W web and maps×n×W reconstruction of the same rows.
        faulty: m×1, of the rows behind which no fault can reach any more.
        ends: rows before which all is known that decides a band.
        ended: whether these are the segment's last.
    """

    web: Tensor
    mean: Tensor
    faulty: Tensor
    ends: list[int]
    ended: bool = False


class Reconstruction:
    """Reconstructs a stretch of lines without a gap.

    Args:
        settings: what decides the result.
        columns: W, scaled columns that are inspected.
        reconstruct: as `Segment` has it.
        first: first row that it is fed.
        final: first row whose reconstruction is asked for.
        resume_row: first row whose faults are asked for.
        halo: rows beyond a patch that it reaches.
        look: whether a value may be looked at to save work, which has the host wait for a device.
    """

    def __init__(
        self,
        settings: InspectionSettings,
        columns: int,
        reconstruct: Reconstruct,
        device: torch.device,
        first: int,
        final: int,
        resume_row: int,
        halo: int,
        look: bool,
    ) -> None:
        self._settings = settings
        self._halo = halo
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

        self._grid_row = first // settings.stride
        self._caught_up = resume_row + halo if resume_row else 0  # from here on a finished segment has all it needs
        self._final = final  # reconstruction rows before it are final
        self._handed = final  # … and handed out
        self._known = resume_row  # rows before it had their faults handed out
        self._web = Rows(first)
        self._total = Rows(first)  # weighted sums of reconstructions, C×rows×width
        self._weight = Rows(first)
        self._faults = Rows(first)  # rows×1: whether something that the model could not judge reaches a row

    def push(self, rows: Tensor) -> list[Reconstructed]:
        """Takes C×n×W scaled rows; returns what they complete."""
        self._web.append(rows)
        p, s = self._settings.patch_size, self._settings.stride
        parts: list[Reconstructed] = []
        while self._grid_row * s + p <= self._web.end:
            complete = (self._web.end - p) // s - self._grid_row + 1
            # in even portions, so that a small last one does not leave most of a batch empty
            portion = -(-complete // -(-complete // self._rows_at_once))
            lines = [(self._grid_row + i) * s for i in range(portion)]
            self._add_grid_rows(lines)
            self._grid_row += portion
            # a later clamped anchor of the segment's end can cover no row before the last of them
            self._final = max(self._final, lines[-1])
            if self._final > self._handed:
                parts.append(self._hand_out([line - self._halo for line in lines], self._final - self._halo))
        self._trim()
        return parts

    def finish(self) -> list[Reconstructed]:
        """The segment has ended: its last rows become final with the clamped anchor.

        A resumed segment that ends before it was where the first run stopped lacks what its last rows depend on; they
        stay undone then.
        """
        height = self._web.end
        p, s = self._settings.patch_size, self._settings.stride
        if not height or self._final < self._caught_up:
            return []
        last = max(height - p, 0)
        if last % s or height < p:
            self._add_grid_rows([last])
        self._final = height
        return [self._hand_out([height], height, ended=True)]

    def _hand_out(self, ends: list[int], known: int, ended: bool = False) -> Reconstructed:
        """The rows that became final, with the mean over the patches that cover a pixel."""
        first, end = self._handed, self._final
        total, weight = (sums.get(first, end)[..., : self._columns] for sums in (self._total, self._weight))
        known = max(known, self._known)
        faulty = self._faults.get(self._known, known)
        web = self._web.get(first, end)
        self._handed, self._known = end, known
        return Reconstructed(web, total / weight, faulty, ends, ended)

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

    def _trim(self) -> None:
        """Drops what no later row depends on."""
        next_anchor = self._grid_row * self._settings.stride  # far behind the others where a resumed run catches up
        # the segment may end at any line: its clamped anchor would then start P before
        self._web.drop_before(min(self._handed, next_anchor, self._web.end - self._settings.patch_size))
        self._total.drop_before(min(self._handed, next_anchor))
        self._weight.drop_before(min(self._handed, next_anchor))
        self._faults.drop_before(self._known)
