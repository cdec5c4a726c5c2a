"""Raw lines into the gate: uploaded, corrected and measured where the device is, judged by the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from linescan.inspection.flatfield import FlatField
from linescan.inspection.gate import LineGate, Stretch
from linescan.inspection.lines import Pixels, channels_first
from linescan.inspection.queues import Done, Finished, Queues
from linescan.inspection.staging import Staging


@dataclass(frozen=True)
class _Measured:
    """A portion that waits for its verdict."""

    count: int
    lines: Done[tuple[Tensor, Tensor]]  # corrected, and what the gate judges by
    measures: Done[Tensor]  # the latter on the host


class Intake:
    """Takes raw lines in portions, and gives them out in stretches of one verdict, in order."""

    def __init__(self, queues: Queues, gate: LineGate, flatfield: FlatField | None) -> None:
        self._queues, self._gate, self._flatfield = queues, gate, flatfield
        self._waiting: deque[_Measured] = deque()
        self._staging: Staging | None = None

    @property
    def line(self) -> int:
        """The next line that comes."""
        return self._gate.line + sum(portion.count for portion in self._waiting)

    @property
    def empty(self) -> bool:
        """Whether all that came has its verdict."""
        return not self._waiting

    def put(self, pixels: Pixels) -> Iterator[None]:
        """Takes lines×columns or lines×columns×C pixels, piece by piece; after the last one they may be overwritten."""
        if not self._queues.apart:
            self._wait_for_verdict(Finished(self._measured(channels_first(pixels))), len(pixels))
            yield
            return
        staging = self._staging = self._staging or Staging(self._queues, pixels.shape[1:], pixels.dtype)
        for first in range(0, len(pixels), staging.lines):
            piece = pixels[first : first + staging.lines]
            self._wait_for_verdict(staging.put(piece, self._measured), len(piece))
            yield

    def take(self, waiting: int = 0) -> Iterator[Stretch]:
        """Judges all portions that came but the last `waiting`; has the host wait for their measures."""
        while len(self._waiting) > waiting:
            portion = self._waiting.popleft()
            measures = portion.measures.wait()
            yield from self._gate.decide(portion.lines.value[0], measures)

    def _wait_for_verdict(self, lines: Done[tuple[Tensor, Tensor]], count: int) -> None:
        measures = self._queues.fetch(lambda: lines.value[1], (lines,))
        self._waiting.append(_Measured(count, lines, measures))

    def _measured(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        if self._flatfield is not None:
            raw = self._flatfield.apply(raw, look=not self._queues.apart)
        return raw, self._gate.measure(raw)
