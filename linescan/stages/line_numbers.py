"""Which lines of the roll a camera's buffers hold."""

from __future__ import annotations

from linescan.cameras.camera import Lines, LinesLost
from linescan.line import Encoder
from linescan.messages import GapCause


class LineNumbers:
    """Numbers the lines of a roll: by the encoder where the camera latches it, else by what it says it lost.

    Args:
        encoder: how counts become lines, or None.
        next_line: number of the next line of the roll.
        reference: an encoder count and the number of the line where it was, or None: the first lines say it.
    """

    def __init__(self, encoder: Encoder | None, next_line: int = 0, reference: tuple[int, int] | None = None) -> None:
        self._encoder = encoder
        self._reference = reference
        self.cause: GapCause = "overrun"
        self.next_line = next_line
        self._lost = 0  # since the last lines, by the camera's word
        self.backward = 0  # times that the encoder was behind what had come already

    def lost(self, lost: LinesLost) -> None:
        """The camera says that lines are lost; with an encoder the next lines say how many."""
        self.cause = lost.cause
        self._lost += lost.lines

    @property
    def end(self) -> int:
        """The line after what came and what is known to be lost."""
        return self.next_line + self._lost

    def place(self, lines: Lines) -> tuple[int, GapCause]:
        """First line of what came, and why there are lines missing before it, if there are."""
        first = max(self._first(lines), self.next_line)
        cause, self.cause = self.cause, "overrun"
        self._lost = 0
        self.next_line = first + len(lines.pixels)
        return first, cause

    def _first(self, lines: Lines) -> int:
        if self._encoder is None or lines.encoder_count is None:
            return self.end
        if self._reference is None:
            self._reference = (lines.encoder_count, self.end)
        count, line = self._reference
        span = 1 << self._encoder.bits
        # the counter wraps; between two buffers it moves by far less than half its range
        moved = (lines.encoder_count - count + span // 2) % span - span // 2
        at = line + round(moved / self._encoder.counts_per_line)
        if at < self.next_line:
            self.backward += 1  # jitter, or a web that runs back: what came is new lines to the camera
        self._reference = (lines.encoder_count, max(at, self.next_line))
        return at


def line_after_restart(encoder: Encoder, moved: int, up_to: int, most: int) -> int | None:
    """The line at which acquisition goes on, `moved` counts after line 0; None where the counter cannot be trusted.

    The counter may have wrapped meanwhile, so it is the first such line from `up_to` on. Lines beyond the `most` that
    can have passed say that the counter was reset.
    """
    span = 1 << encoder.bits
    counts = moved % span
    behind = up_to * encoder.counts_per_line - counts
    counts += max(0, -(-(behind - encoder.counts_per_line) // span)) * span
    line = max(round(counts / encoder.counts_per_line), up_to)
    return line if line - up_to <= most * 1.1 + 1024 else None
