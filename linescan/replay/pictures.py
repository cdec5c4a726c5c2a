"""Pictures of a roll of any length in bounded memory: web.png, and residual.tiff with every line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from linescan.files import atomic_path, write_atomically
from linescan.inspection.inspector import FinalBand
from linescan.inspection.lines import Pixels

MAX_ROWS = 8192  # of web.png before its resolution is halved
MAX_COLUMNS = 4096
BLOCK = 64
PADDED = 1024  # lines of a gap at a time
RED, BLUE = (0, 0, 255), (255, 160, 0)  # BGR


class ShrinkingRows:
    """Rows in any number, kept at a resolution at which they fit: whenever they grow past it, it is halved."""

    def __init__(self, shrink: int, columns: int, mean: bool) -> None:
        self.shrink = shrink
        self.lines = 0
        self._columns = columns
        self._mean = mean
        self._rows: list[NDArray[np.uint8]] = []
        self._count = 0
        self._pending: list[NDArray[np.uint8]] = []

    def add(self, lines: NDArray[np.uint8]) -> None:
        self.lines += len(lines)
        self._pending.append(lines)
        if sum(map(len, self._pending)) < BLOCK * self.shrink:
            return
        joined = np.concatenate(self._pending)
        # block by block: where the resolution is halved must not depend on the portions
        while len(joined) >= BLOCK * self.shrink:
            whole = BLOCK * self.shrink
            self._keep(_reduced(joined[:whole], self.shrink, self._mean))
            joined = joined[whole:]
        self._pending = [joined.copy()]

    def pad(self, lines: int, value: int) -> None:
        """So many lines of one value."""
        for first in range(0, lines, PADDED):
            self.add(np.full((min(PADDED, lines - first), self._columns), value, np.uint8))

    def _keep(self, rows: NDArray[np.uint8]) -> None:
        self._rows.append(rows)
        self._count += len(rows)
        while self._count >= 2 * MAX_ROWS:
            self._rows = [_reduced(np.concatenate(self._rows), 2, self._mean)]
            self._count //= 2
            self.shrink *= 2

    def picture(self) -> NDArray[np.uint8]:
        joined = np.concatenate(self._pending) if self._pending else np.zeros((0, self._columns), np.uint8)
        if len(joined):
            self._keep(_reduced(joined, self.shrink, self._mean))
            self._pending = []
        return np.concatenate(self._rows) if self._rows else joined


def _reduced(lines: NDArray[np.uint8], n: int, mean: bool) -> NDArray[np.uint8]:
    if n == 1:
        return lines
    height, width = -(-len(lines) // n), -(-lines.shape[1] // n)
    padded = np.pad(lines, ((0, height * n - len(lines)), (0, width * n - lines.shape[1])), mode="edge")
    blocks = padded.reshape(height, n, width, n)
    if not mean:
        return np.asarray(blocks.max((1, 3)), np.uint8)
    return np.asarray(blocks.mean((1, 3)).round(), np.uint8)


class WebPicture:
    """web.png: the web as it came, defects outlined in red, gaps tinted blue.

    Args:
        columns: of the footage; first_column and scale place the engine's masks on it.
    """

    def __init__(self, columns: int, first_column: int, scale: int) -> None:
        shrink = -(-columns // MAX_COLUMNS)
        self._web = ShrinkingRows(shrink, columns, mean=True)
        self._marks = ShrinkingRows(shrink, columns, mean=False)  # 1 defect, 2 gap
        self._columns, self._first_column, self._scale = columns, first_column, scale

    def add_lines(self, pixels: Pixels | None, lines: int, first_line: int, bit_depth: int) -> None:
        """Lines as they come from the footage; None where there are no pixels. What was skipped stays black."""
        if first_line > self._web.lines:
            self._web.pad(first_line - self._web.lines, 0)
        if pixels is None:
            self._web.pad(lines, 0)
            return
        grey = pixels if pixels.ndim == 2 else pixels.mean(2)
        self._web.add((grey[max(0, self._web.lines - first_line) :] / 2 ** (bit_depth - 8)).astype(np.uint8))

    def add_band(self, final: FinalBand) -> None:
        self._pad_to(final.first_line)
        count = final.end_line - final.first_line
        opened = final.band.opened.cpu().numpy().astype(np.uint8)
        opened[final.band.faulty.cpu().numpy()] = 2
        wide = opened.repeat(self._scale, 0)[:count].repeat(self._scale, 1)
        marks = np.zeros((count, self._columns), np.uint8)
        end = min(self._first_column + wide.shape[1], self._columns)
        marks[:, self._first_column : end] = wide[:, : end - self._first_column]
        self._marks.add(marks)

    def _pad_to(self, line: int) -> None:
        if line > self._marks.lines:
            self._marks.pad(line - self._marks.lines, 2)

    def save(self, path: Path) -> None:
        if not self._web.lines:
            return
        self._pad_to(self._web.lines)
        web, marks = self._web.picture(), self._marks.picture()
        rows = min(len(web), len(marks))
        picture = cv2.cvtColor(web[:rows], cv2.COLOR_GRAY2BGR)
        gaps = marks[:rows] == 2
        picture[gaps] = (picture[gaps] * 0.5 + np.array(BLUE) * 0.5).astype(np.uint8)
        defects = (marks[:rows] == 1).astype(np.uint8)
        # the line goes around the defect, not over it
        around = cv2.dilate(defects, np.ones((7, 7), np.uint8))
        contours, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, RED, 1)
        ok, png = cv2.imencode(".png", picture)
        assert ok
        write_atomically(path, png.tobytes())


class ResidualFile:
    """residual.tiff: the score that is thresholded, float32, every line and column of the footage, NaN elsewhere.

    The lines go to a temporary file as they become final; the TIFF is made of it at the end.
    """

    def __init__(self, columns: int, first_column: int, scale: int, folder: Path) -> None:
        self._columns, self._first_column, self._scale = columns, first_column, scale
        self._spill: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._lines = 0

    def add_band(self, final: FinalBand) -> None:
        self.pad_to(final.first_line)
        band, count = final.band, final.end_line - final.first_line
        score = band.score.cpu().numpy().copy()
        score[~band.inspected.cpu().numpy() | band.faulty.cpu().numpy()[:, None]] = np.nan
        wide = score.repeat(self._scale, 0)[:count].repeat(self._scale, 1)
        lines = np.full((count, self._columns), np.nan, np.float32)
        end = min(self._first_column + wide.shape[1], self._columns)
        lines[:, self._first_column : end] = wide[:, : end - self._first_column]
        self._write(lines)

    def pad_to(self, line: int) -> None:
        while self._lines < line:
            count = min(1024, line - self._lines)
            self._write(np.full((count, self._columns), np.nan, np.float32))

    def _write(self, lines: NDArray[np.float32]) -> None:
        self._spill.write(lines.tobytes())
        self._lines += len(lines)

    def save(self, path: Path, lines: int) -> None:
        if not lines:
            return
        self.pad_to(lines)
        self._spill.flush()
        with atomic_path(path) as temporary:
            shape = (self._lines, self._columns)
            whole = np.memmap(self._spill, np.float32, "r", shape=shape)
            strips = (np.asarray(whole[first : first + 256]) for first in range(0, self._lines, 256))
            tifffile.imwrite(temporary, strips, shape=shape, dtype=np.float32, rowsperstrip=256, bigtiff=True)

    def __enter__(self) -> ResidualFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._spill.close()
