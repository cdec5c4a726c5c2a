"""Which raw lines can be inspected at all: decided line by line, so that the camera's frames do not matter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from linescan.config import ImageBand, Selvage
from linescan.inspection.brightness import Brightness
from linescan.inspection.lines import to_unit
from linescan.inspection.selvage import web_edges

LineStatistics = tuple[Tensor, Tensor]
FLOAT32_WHOLE = 2**24  # up to which float32 has every whole number
TOGETHER = 256  # pixels of 8 bits whose squares sum to less than that: several times as fast as whole numbers


def line_statistics(raw: Tensor, bit_depth: int) -> LineStatistics:
    """Mean and contrast (standard deviation) in [0, 1] of each of C×N×W raw integer lines; N float64 each.

    Their sums are exact, so a line's figures cannot depend on how many lines come with it.
    """
    pixels = raw.permute(1, 0, 2).flatten(1)
    count, full_scale = pixels.shape[1], 2**bit_depth - 1
    if TOGETHER * full_scale**2 <= FLOAT32_WHOLE:
        pixels = pixels.to(torch.float32)
        total, squares = _sums(pixels), _sums(pixels * pixels)
    else:
        pixels = pixels.to(torch.int64)
        total, squares = pixels.sum(1).to(torch.float64), (pixels * pixels).sum(1).to(torch.float64)
    mean = total / count
    variance = squares / count - mean * mean
    return mean / full_scale, variance.clamp_min(0).sqrt() / full_scale


def _sums(numbers: Tensor) -> Tensor:
    """Sums of N rows of float32 in float64, TOGETHER neighbours at a time in float32."""
    parts = [part.sum(1) for part in torch.split(numbers, TOGETHER, 1)]
    return torch.stack(parts).to(torch.float64).sum(0)


@dataclass(frozen=True)
class Stretch:
    """Consecutive raw lines with one verdict: `lines` is C×N×W where they are to be inspected, None for a gap."""

    first_line: int
    count: int
    lines: Tensor | None


class LineGate:
    """Turns a stream of raw lines into stretches that are inspected and stretches that are gaps.

    The verdict changes only after `band.lines` lines in a row speak against it; until then those lines are held.

    Args:
        keeps: whether lines stay as they are, so that those that are held need not be copied.
    """

    def __init__(
        self,
        band: ImageBand,
        bit_depth: int,
        columns: slice,
        line: int = 0,
        valid: bool = True,
        selvage: Selvage | None = None,
        keeps: bool = False,
    ) -> None:
        self.valid = valid
        self.line = line  # the next line that comes
        self.brightness = Brightness()  # of the good lines
        self._band = band
        self._selvage = selvage
        self._bit_depth = bit_depth
        self._columns = columns
        self._keeps = keeps
        self._held: list[Tensor] = []
        self._held_count = 0
        self._gap_count = 0  # lines of the running gap not told yet

    def push(self, raw: Tensor) -> list[Stretch]:
        """Judges C×N×W raw integer lines; returns what is decided by now, in order."""
        return self.decide(raw, self.measure(raw))

    def measure(self, raw: Tensor) -> Tensor:
        """What C×N×W raw lines are judged by, where they are: mean, contrast and 1 where there is web, N×3 float64."""
        inspected = raw[..., self._columns]
        mean, contrast = line_statistics(inspected, self._bit_depth)
        shows_web = torch.ones_like(mean)
        if self._selvage is not None:
            left, right = web_edges(to_unit(inspected, self._bit_depth), self._selvage)
            shows_web = (right > left).to(mean.dtype)
        return torch.stack([mean, contrast, shows_web], 1)

    def decide(self, raw: Tensor, measures: Tensor) -> list[Stretch]:
        """`push` of lines that were measured; the measures are on the host, the lines need not be."""
        stretches: list[Stretch] = []
        for first, end, good in _runs(self._judge(measures)):
            self._take(raw[:, first:end], good, stretches)
        return stretches

    def flush(self) -> list[Stretch]:
        """Decides the lines that are held, too few to change the verdict: the stream ends or jumps here."""
        stretches: list[Stretch] = []
        self._release(stretches)
        self._tell_gap(stretches, everything=True)
        return stretches

    def skip_to(self, line: int, valid: bool = True) -> None:
        """Goes on at `line`, after a gap that came from outside."""
        self.line, self.valid = line, valid

    def _judge(self, measures: Tensor) -> list[bool]:
        mean, contrast, shows_web = measures.unbind(1)
        band = self._band
        good = (mean >= band.mean_low) & (mean <= band.mean_high) & (contrast >= band.contrast_low)
        good &= shows_web > 0  # a line that shows no web anywhere cannot be inspected anywhere
        self.brightness.add(mean[good])
        flags: list[bool] = good.tolist()
        return flags

    def _take(self, lines: Tensor, good: bool, stretches: list[Stretch]) -> None:
        count = lines.shape[1]
        if good != self.valid:
            self._hold(lines)
            self.line += count
            if self._held_count >= self._band.lines:
                self._turn(stretches)
            return
        self._release(stretches)
        if self.valid:
            stretches.append(Stretch(self.line, count, lines))
        else:
            self._gap_count += count
        self.line += count
        self._tell_gap(stretches)

    def _hold(self, lines: Tensor) -> None:
        self._held.append(lines if self._keeps else lines.clone())  # the caller may use its buffer again
        self._held_count += lines.shape[1]

    def _turn(self, stretches: list[Stretch]) -> None:
        """The lines that are held overturn the verdict, from the first of them on."""
        if not self.valid:
            self._tell_gap(stretches, everything=True)
        self.valid = not self.valid
        self._release(stretches)

    def _release(self, stretches: list[Stretch]) -> None:
        """What is held gets the present verdict."""
        if not self._held_count:
            return
        if self.valid:
            first = self.line - self._held_count
            for lines in self._held:
                stretches.append(Stretch(first, lines.shape[1], lines))
                first += lines.shape[1]
        else:
            self._gap_count += self._held_count
        self._held, self._held_count = [], 0
        self._tell_gap(stretches)

    def _tell_gap(self, stretches: list[Stretch], everything: bool = False) -> None:
        """A running gap is told in pieces of `band.lines`, however the camera's frames fall."""
        piece = self._band.lines
        while self._gap_count >= piece or (everything and self._gap_count):
            count = min(piece, self._gap_count)
            stretches.append(Stretch(self.line - self._held_count - self._gap_count, count, None))
            self._gap_count -= count


def _runs(flags: list[bool]) -> list[tuple[int, int, bool]]:
    """(first, end, flag) of equal flags in a row."""
    runs: list[tuple[int, int, bool]] = []
    first = 0
    for i in range(1, len(flags) + 1):
        if i == len(flags) or flags[i] != flags[first]:
            runs.append((first, i, flags[first]))
            first = i
    return runs
