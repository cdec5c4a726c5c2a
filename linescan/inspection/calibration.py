"""Residual per column on good web: optics and light make it differ across the web, and the score takes that out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_DEVIATION = 1e-6


@dataclass(frozen=True)
class ColumnCalibration:
    """Mean and deviation of the (smoothed) residual in each inspected scaled column; W float32 each."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.mean.tobytes() + self.deviation.tobytes()).hexdigest()

    def apply(self, rows: Tensor) -> Tensor:
        """(residual − mean) / deviation, column by column, of rows×W."""
        mean, deviation = self._on(rows.device)
        return (rows - mean) / deviation

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Copied to a device once: each copy has the host wait."""
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.mean).to(device), torch.from_numpy(self.deviation).to(device)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}


class ColumnStatistics:
    """Gathers residuals of good web, rows×W at a time, in float64."""

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self._sum = np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(self, rows: NDArray[np.float32]) -> None:
        self.rows += len(rows)
        wide = rows.astype(np.float64)
        self._sum += wide.sum(0)
        self._squares += (wide * wide).sum(0)

    def mean(self, smoothing: int = 1) -> NDArray[np.float64]:
        """Mean of each column over `smoothing` neighbours (an odd number)."""
        return _box(self._sum / max(self.rows, 1), smoothing)

    def calibration(self, smoothing: int) -> ColumnCalibration:
        """The calibration; `smoothing` columns share their statistics, since few lines make noisy ones."""
        mean = self.mean(smoothing)
        variance = _box(self._squares / max(self.rows, 1), smoothing) - mean * mean
        deviation = np.sqrt(np.maximum(variance, MIN_DEVIATION**2))
        return ColumnCalibration(mean.astype(np.float32), deviation.astype(np.float32))


def _box(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Mean over `size` neighbours; at the ends over those that there are."""
    kernel = np.ones(min(size, len(values) - 1 + len(values) % 2))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
