"""One set of forwards for several inspections of the same web that differ in nothing before the residual."""

from __future__ import annotations

import torch
from torch import Tensor

from linescan.errors import InspectionError
from linescan.models.runner import Runner

KEPT_BYTES = 1 << 30


class Remembered:
    """A runner that keeps its reconstructions: after `again()` it gives them out in the same order.

    The same web, patch size, stride and device ask for the same patches in the same order, whatever the smoothing,
    the threshold and the blend. What does not fit into `kept_bytes` is reconstructed again, to the same bits.

    Raises InspectionError where other patches are asked for than the first time.
    """

    def __init__(self, runner: Runner, kept_bytes: int = KEPT_BYTES) -> None:
        self.at_once = runner.at_once
        self.device: torch.device = runner.device
        self._runner = runner
        self._left = kept_bytes
        self._kept: list[Tensor] = []
        self._next = 0

    def again(self) -> None:
        """From the first patch of the web on."""
        self._next = 0

    def __call__(self, patches: Tensor) -> Tensor:
        number, self._next = self._next, self._next + 1
        if number < len(self._kept):
            kept = self._kept[number]
            if len(kept) != len(patches):
                raise InspectionError(
                    f"call {number} of a repeated inspection asks for {len(patches)} patches, the first asked for "
                    f"{len(kept)}: it is not the same web or grid"
                )
            return kept
        result = self._runner(patches)
        if number == len(self._kept) and result.nbytes <= self._left:
            self._left -= result.nbytes
            self._kept.append(result)
        return result
