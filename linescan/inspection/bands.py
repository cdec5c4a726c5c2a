"""A band of final rows, and its masks as they travel from a device: 8 pixels a byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """Final rows of a segment: C×rows×W web and reconstruction, rows×W score and masks, from scaled row `row` on.

    `opened` is what exceeds the threshold after opening; `inspected` is False beyond the selvage and in masked columns;
    `faulty` marks rows that the model could not judge.
    """

    row: int
    web: Tensor
    reconstruction: Tensor
    score: Tensor
    opened: Tensor
    inspected: Tensor
    faulty: Tensor

    def part(self, first: int, end: int) -> Band:
        """Rows first…end−1 of this band."""
        maps = (self.web, self.reconstruction, self.score, self.opened, self.inspected)
        web, reconstruction, score, opened, inspected = (part[..., first:end, :] for part in maps)
        return Band(self.row + first, web, reconstruction, score, opened, inspected, self.faulty[first:end])


def packed(bands: list[Band], device: torch.device) -> Tensor:
    """Opened masks of bands, one below the other: rows×(⌈W/8⌉ + 1) bytes, the last one of a row 1 where it is faulty.

    The leftmost of 8 pixels is a byte's highest bit, as numpy.unpackbits has it.
    """
    if not bands:
        return torch.zeros(0, 1, dtype=torch.uint8, device=device)
    opened = torch.cat([band.opened for band in bands]).view(torch.uint8)
    faulty = torch.cat([band.faulty for band in bands]).view(torch.uint8)
    rows, columns = opened.shape
    eights = torch.nn.functional.pad(opened, (0, -columns % 8)).reshape(rows, -(-columns // 8), 8)
    summed = eights[..., 0] << 7
    for bit in range(1, 8):
        summed |= eights[..., bit] << (7 - bit)
    return torch.cat([summed, faulty[:, None]], 1)


def unpacked(rows: NDArray[np.uint8], columns: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Opened mask, rows×W, and faulty rows."""
    masks, faulty = rows[:, :-1], rows[:, -1].astype(bool)
    if not masks.any():
        return np.zeros((len(rows), columns), bool), faulty
    return np.unpackbits(masks, axis=1, count=columns).view(bool), faulty
