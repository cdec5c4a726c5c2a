"""Which lines of the roll a camera's buffers hold."""

from __future__ import annotations

from typing import NamedTuple

from linescan.cameras.camera import Lines, LinesLost
from linescan.line import Encoder
from linescan.messages import GapCause
from linescan.web import Counter


class Placed(NamedTuple):
    """Where lines that came belong: `first` is the number of the first new one, after `again` that had come before."""

    first: int
    again: int
    cause: GapCause  # why there are lines missing before `first`, if there are


class LineNumbers:
    """Numbers the lines of a roll: by the encoder where the camera latches it, else by what it says it lost.

    With an encoder a number is tied to a count for the whole roll. What the encoder says and what is expected may
    differ by less than a line (jitter, or counts divided in another phase): then lines follow one another. Where it is
    a line or more ahead, lines are missing. Where it is as much behind, the web had run back, and lines below the
    highest number so far do not count again. Only the count of a buffer's first line is known: that the others follow
    it is true of a camera that scans new positions alone (SFNC: EncoderOutputMode = PositionUp).

    Args:
        encoder: how counts become lines, or None.
        next_line: number of the next line of the roll.
        reference: an encoder count and the number of the line where it was, or None: the first lines say it.
    """

    def __init__(self, encoder: Encoder | None, next_line: int = 0, reference: tuple[int, int] | None = None) -> None:
        self._encoder = encoder
        self._line_0: int | None = None  # its count, unwrapped
        self._count = 0  # the last one, unwrapped
        if encoder is not None and reference is not None:
            self._line_0 = reference[0] - reference[1] * encoder.counts_per_line
            self._count = self._line_0 + next_line * encoder.counts_per_line
        self.cause: GapCause = "overrun"
        self.next_line = next_line
        self._lost = 0  # since the last lines, by the camera's word
        self.backward = 0  # times that the encoder was behind what had come already
        self.again = 0  # lines that had come before
        self.behind = 0  # lines by which the last ones end below the highest number

    def lost(self, lost: LinesLost) -> None:
        """The camera says that lines are lost; with an encoder the next lines say how many."""
        self.cause = lost.cause
        self._lost += lost.lines

    @property
    def end(self) -> int:
        """The line after what came and what is known to be lost."""
        return self.next_line + self._lost

    def place(self, lines: Lines) -> Placed:
        """Which of the lines that came are new, and their numbers."""
        at, count = self._first(lines), len(lines.pixels)
        again = min(max(self.next_line - at, 0), count)
        self.backward += at < self.next_line
        self.again += again
        self.behind = max(self.next_line - (at + count), 0)
        first = max(at, self.next_line)
        cause, self.cause = self.cause, "overrun"
        self._lost = 0
        self.next_line = first + count - again
        return Placed(first, again, cause)

    def _first(self, lines: Lines) -> int:
        if self._encoder is None or lines.encoder_count is None:
            return self.end
        per_line = self._encoder.counts_per_line
        if self._line_0 is None:
            self._count = lines.encoder_count
            self._line_0 = lines.encoder_count - self.end * per_line
        # the counter wraps; between two buffers it moves by far less than half its range
        self._count = Counter(self._encoder.bits).unwrap(lines.encoder_count, self._count)
        moved = self._count - self._line_0
        for expected in (self.end, self.next_line):
            if abs(moved - expected * per_line) < per_line:
                return expected
        return round(moved / per_line)


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
