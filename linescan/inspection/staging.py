"""Raw lines on their way to a device: copied into pinned memory, uploaded while the lines before are inspected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from linescan.inspection.lines import Pixels
from linescan.inspection.queues import Done, Queues

T = TypeVar("T")
STAGED_PIXELS = 1 << 22  # of a slot: enough work to hide a launch in, little enough to be late by


@dataclass
class _Slot:
    """One pinned buffer and its twin on the device."""

    host: Tensor
    device: Tensor
    uploaded: Done[Any] | None = None  # before, the host may not write
    read: Done[Any] | None = None  # before, an upload may not write


class Staging:
    """Two slots in turn: while the lines of one are uploaded, those of the other are read.

    Args:
        shape: of a line: columns, or columns and channels.
        dtype: uint8 or uint16 of the pixels.
    """

    def __init__(self, queues: Queues, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._queues = queues
        self.lines = max(1, STAGED_PIXELS // int(np.prod(shape)))
        """most lines that `put` takes"""
        # torch computes little with uint16: it travels as int16, of the same bits
        self._wide = dtype == np.uint16
        kind = torch.int16 if self._wide else torch.uint8
        whole = (self.lines, *shape)
        self._slots = [_Slot(queues.pinned(whole, kind), queues.shared(whole, kind)) for _ in range(2)]
        self._next = 0

    def put(self, pixels: Pixels, read: Callable[[Tensor], T]) -> Done[T]:
        """Uploads lines and has `read` work on them, C×N×W integers in memory of their own; `pixels` is free then."""
        slot = self._slots[self._next]
        self._next = 1 - self._next
        if slot.uploaded is not None:
            slot.uploaded.wait()
        count = len(pixels)
        np.copyto(slot.host.numpy()[:count], pixels.view(np.int16) if self._wide else pixels)
        slot.uploaded = self._queues.submit(
            "upload",
            lambda: slot.device[:count].copy_(slot.host[:count], non_blocking=True),
            () if slot.read is None else (slot.read,),
        )
        done = self._queues.submit("compute", lambda: read(self._integers(slot.device[:count])), (slot.uploaded,))
        slot.read = done
        return done

    def _integers(self, lines: Tensor) -> Tensor:
        """N×W or N×W×C of a slot, which is overwritten later, as C×N×W."""
        raw = lines.unsqueeze(0) if lines.ndim == 2 else lines.permute(2, 0, 1)
        if self._wide:
            return raw.to(torch.int32) & 0xFFFF
        return raw.clone(memory_format=torch.contiguous_format)
