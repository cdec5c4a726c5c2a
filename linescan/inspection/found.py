"""What comes back from a device: packed masks, and scores only where something was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.inspection.bands import Band, packed, unpacked
from linescan.inspection.queues import Queues
from linescan.inspection.reconstruction import Reconstructed

BandFound = tuple[Band, NDArray[np.bool_], NDArray[np.bool_], "Scores"]
"""a band with its opened mask, rows×W, its faulty rows, and its scores"""


class Scores(Protocol):
    """Scores of a band, asked for by a mask of its pixels, rows×W; they come in raster order."""

    def __getitem__(self, pixels: NDArray[np.bool_]) -> NDArray[np.float32]: ...


class ScoresOnDevice:
    """A band's scores that stay on the device; those that are asked for are fetched, past the work that is queued."""

    def __init__(self, queues: Queues, score: Tensor) -> None:
        self._queues, self._score = queues, score

    def __getitem__(self, pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
        places = np.flatnonzero(pixels)
        asked = self._queues.pinned(places.shape, torch.int64)
        np.copyto(asked.numpy(), places)
        found: NDArray[np.float32] = self._queues.fetch(lambda: self._picked(asked), ()).wait().numpy()
        return found

    def _picked(self, places: Tensor) -> Tensor:
        self._queues.hold(self._score)
        return self._score.flatten().index_select(0, places.to(self._score.device, non_blocking=True))


class Found:
    """The bands that a portion of lines completed, while they are being computed and when the host has them.

    Args:
        reconstruct, score: the two halves of a segment at work on that portion.
    """

    def __init__(
        self,
        queues: Queues,
        reconstruct: Callable[[], list[Reconstructed]],
        score: Callable[[list[Reconstructed]], list[Band]],
    ) -> None:
        def banded() -> tuple[list[Band], Tensor | None]:
            bands = score(reconstructed.value)
            # without a device between, the host has the masks already
            return bands, packed(bands, queues.device) if queues.apart else None

        self._queues = queues
        reconstructed = queues.submit("compute", reconstruct)
        self._bands = bands = queues.submit("score", banded, (reconstructed,))
        self._packed = queues.fetch(lambda: _present(bands.value[1]), (bands,)) if queues.apart else None

    def ready(self) -> bool:
        return (self._packed or self._bands).ready()

    def take(self) -> list[BandFound]:
        """Waits for the bands, in order."""
        if self._packed is None:
            return [
                (band, band.opened.cpu().numpy(), band.faulty.cpu().numpy(), band.score.cpu().numpy())
                for band in self._bands.wait()[0]
            ]
        rows = self._packed.wait().numpy()
        taken: list[BandFound] = []
        for band in self._bands.value[0]:
            count, columns = band.score.shape
            opened, faulty = unpacked(rows[:count], columns)
            taken.append((band, opened, faulty, ScoresOnDevice(self._queues, band.score)))
            rows = rows[count:]
        return taken


def _present(masks: Tensor | None) -> Tensor:
    assert masks is not None
    return masks
