"""Flat-field: what lamp, lens and sensor make of an even web is taken back, column by column, before anything else.

Corrected pixels are integers of the camera's depth again. Rounding costs at most half a grey value; the sums by which
the gate judges a line stay exact, and each pixel is corrected for itself: how lines are cut into frames cannot show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.errors import InputError, InspectionError
from linescan.inspection.lines import Pixels, channels_first

BLOCK_LINES = 16  # averaged before they are compared: what passes by spoils a few blocks, not the mean
MIN_LINES = 256
MAX_LINES = 16384  # more change nothing, and cost memory
NEIGHBOURS = 31  # columns whose median a column is compared with
FAR = 0.3  # a column whose response differs from its neighbours' by a larger share is dead
FEEBLE = 1 / 8  # … and so is one that responds with less than this share of the usual
MAX_DEAD_RUN = 4  # columns side by side that can be guessed from those beside them
MAX_DEAD_SHARE = 0.02
SATURATED_SHARE = 0.01  # of a column's white lines
MIN_RESPONSE = 0.1  # of full scale, from dark to white
MAX_GAIN = 8.0  # noise grows with it


@dataclass(frozen=True, eq=False)
class FlatField:
    """corrected = (raw − dark) · gain, rounded; dead columns lie on the line between their live neighbours.

    What is at full scale stays there: of a saturated pixel only this is known.
    """

    gain: NDArray[np.float32]
    """C×W"""
    dark: NDArray[np.float32]
    """C×W, grey values"""
    dead: tuple[int, ...]
    web: tuple[int, int]
    """columns first, end that were calibrated; the others stay as they are"""
    bit_depth: int
    level: float
    """mean brightness of corrected web at the calibration, in [0, 1]"""

    def check(self, columns: int, channels: int, bit_depth: int) -> None:
        """Raises InspectionError where it was made for other lines than those."""
        if (*self.gain.shape, self.bit_depth) != (channels, columns, bit_depth):
            raise InspectionError(
                f"the flat-field is of {self.gain.shape[1]} columns, {self.gain.shape[0]} channels and "
                f"{self.bit_depth} bits, the footage of {columns}, {channels} and {bit_depth}"
            )

    def drifted(self, brightness: float, share: float) -> bool:
        """Whether the brightness departs from the level at the calibration by more than that share of it."""
        return abs(brightness - self.level) > share * self.level

    @property
    def fingerprint(self) -> bytes:
        """Stands for all that decides what it does."""
        return self.gain.tobytes() + self.dark.tobytes() + repr((self.dead, self.web)).encode()

    def apply(self, raw: Tensor, look: bool = True) -> Tensor:
        """C×N×W raw integers, corrected: the same kind and range of integers, in memory of their own.

        Without `look` no value is looked at, which would have the host wait for a device.
        """
        full_scale = 2**self.bit_depth - 1
        terms = self._on(raw.device)
        gain, offset = terms.gain, terms.offset
        # multiplied and added one after the other: a fused operation would round otherwise in a vector's rest
        values = raw.to(torch.float32).mul_(gain).add_(offset).clamp_(0, full_scale + 0.5)
        if not look or (raw.numel() and int(raw.max()) >= full_scale):
            values.masked_fill_(raw >= full_scale, full_scale)
        if self.dead:
            values[..., terms.dead] = (
                values[..., terms.left] * (1 - terms.share) + values[..., terms.right] * terms.share
            )
        return values.to(raw.dtype)  # what is behind the point is dropped; the offset has the half

    def correct(self, pixels: Pixels) -> Pixels:
        """lines×columns or lines×columns×C pixels, corrected."""
        corrected = np.empty_like(pixels)
        corrected[...] = self.apply(channels_first(pixels)).permute(1, 2, 0).numpy().reshape(pixels.shape)
        return corrected

    def _on(self, device: torch.device) -> _Terms:
        """Copied to a device once: each copy has the host wait."""
        if device not in self._copies:
            self._copies[device] = _Terms(*(part.to(device) for part in (*self._scale, *self._bridges)))
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, _Terms]:
        return {}

    @property
    def _scale(self) -> tuple[Tensor, Tensor]:
        # laid out as a camera's colours are, pixel by pixel
        gain, dark = (torch.from_numpy(np.array(terms.T, order="C")).T[:, None] for terms in (self.gain, self.dark))
        return gain, 0.5 - dark * gain

    @property
    def _bridges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dead columns, the live ones to their left and right, and the share of the right one in the value."""
        dead = np.array(self.dead, np.int64)
        live = np.setdiff1d(np.arange(*self.web), dead)
        after = np.searchsorted(live, dead)
        left, right = live[np.maximum(after - 1, 0)], live[np.minimum(after, len(live) - 1)]
        left, right = np.where(after == 0, right, left), np.where(after == len(live), left, right)
        share = (dead - left) / np.maximum(right - left, 1)
        return (
            torch.from_numpy(dead),
            torch.from_numpy(left),
            torch.from_numpy(right),
            torch.from_numpy(share.astype(np.float32)),
        )


@dataclass(frozen=True, eq=False)
class _Terms:
    """What `FlatField.apply` computes with, on one device."""

    gain: Tensor
    offset: Tensor
    dead: Tensor
    left: Tensor
    right: Tensor
    share: Tensor


# ------------------------------------------------------------------------------------------ calibration


class Levels:
    """The level of each column over many lines, of which some may show dust that passes; `name` is for errors."""

    def __init__(self, columns: int, channels: int, bit_depth: int, name: str) -> None:
        self.name, self.bit_depth = name, bit_depth
        self._rest: NDArray[np.float32] = np.zeros((0, columns, channels), np.float32)
        self._blocks: list[NDArray[np.float32]] = []
        self._saturated = np.zeros((columns, channels), np.int64)
        self.lines = 0

    @property
    def full(self) -> bool:
        """Whether more lines would change nothing."""
        return self.lines >= MAX_LINES

    def add(self, pixels: Pixels) -> None:
        """Takes lines×columns or lines×columns×C raw pixels, those up to MAX_LINES."""
        shape = (len(pixels), *self._rest.shape[1:])
        wide = pixels.reshape(shape)[: MAX_LINES - self.lines]
        self.lines += len(wide)
        self._saturated += (wide >= 2**self.bit_depth - 1).sum(0)
        lines = np.concatenate([self._rest, wide.astype(np.float32)])  # 16 bits, sums of 16: exact in float32
        count = len(lines) // BLOCK_LINES
        blocks = lines[: count * BLOCK_LINES].reshape(count, BLOCK_LINES, *lines.shape[1:])
        self._blocks += list(blocks.mean(1))
        self._rest = lines[count * BLOCK_LINES :]

    def mean(self) -> NDArray[np.float64]:
        """C×W: the mean of those blocks that lie within three robust deviations of their median.

        Raises InputError where there are under MIN_LINES lines.
        """
        if self.lines < MIN_LINES:
            raise InputError(f"{self.name}: {self.lines} lines, at least {MIN_LINES} are needed")
        blocks = np.stack(self._blocks)
        distance = np.abs(blocks - np.median(blocks, 0))
        usual = distance <= 3 * 1.4826 * np.median(distance, 0)  # 1.4826: of a normal distribution
        return np.asarray((blocks * usual).sum(0, dtype=np.float64) / usual.sum(0)).T

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """W: columns that were at full scale too often to have a level."""
        return np.asarray((self._saturated > SATURATED_SHARE * max(self.lines, 1)).any(1))


def make_flatfield(
    dark: Levels, white: Levels, target: float | None = None, web: tuple[int, int] | None = None
) -> FlatField:
    """Gain and offset that make the white level even.

    Args:
        target: the level that white gets, of full scale; None: each channel keeps its mean.
        web: columns first, end that show the white; the others stay as they are.

    Raises InputError where the levels cannot be what they are said to be, or too many columns are dead.
    """
    black, bright = dark.mean(), white.mean()
    columns, full_scale = black.shape[1], float(2**white.bit_depth - 1)
    first, end = web or (0, columns)
    response = (bright - black)[:, first:end]
    _check_levels(response, white.saturated[first:end], full_scale, dark.name, white.name)
    dead = _dead(response) | white.saturated[first:end]
    _check_dead(dead, first)
    usual = response[:, ~dead].mean(1, keepdims=True)
    wanted = usual if target is None else np.full_like(usual, target * full_scale)
    gains = np.where(dead, 1.0, wanted / np.where(dead, 1.0, response))
    if gains.max() > MAX_GAIN:
        column = first + int(gains.max(0).argmax())
        raise InputError(
            f"{white.name}: column {column} would need a gain of {gains.max():.1f}, at most {MAX_GAIN:g} is sensible: "
            "more light or a lower target"
        )
    gain, offset = np.ones_like(black), np.zeros_like(black)
    gain[:, first:end], offset[:, first:end] = gains, np.where(dead, 0.0, black[:, first:end])
    return FlatField(
        gain.astype(np.float32), offset.astype(np.float32), tuple((first + np.flatnonzero(dead)).tolist()),
        (first, end), white.bit_depth, float(wanted.mean() / full_scale),
    )  # fmt: skip


def _check_levels(
    response: NDArray[np.float64], saturated: NDArray[np.bool_], full_scale: float, dark: str, white: str
) -> None:
    usual = float(np.median(response))
    if usual <= 0:
        raise InputError(f"{white}: the white is not brighter than the dark of {dark}; were they taken for each other?")
    if saturated.mean() > MAX_DEAD_SHARE:
        raise InputError(
            f"{white}: the white is saturated in {int(saturated.sum())} of {len(saturated)} columns; expose shorter"
        )
    if usual < MIN_RESPONSE * full_scale:
        raise InputError(
            f"{white}: the white is only {usual:.1f} grey values brighter than the dark of {dark}; at least "
            f"{MIN_RESPONSE * full_scale:.0f} are needed"
        )


def _dead(response: NDArray[np.float64]) -> NDArray[np.bool_]:
    """W: columns that answer to light otherwise than those around them, in any channel."""
    size = min(NEIGHBOURS, response.shape[1] - 1 + response.shape[1] % 2)
    around = np.pad(response, ((0, 0), (size // 2, size // 2)), "symmetric")
    local = np.median(np.lib.stride_tricks.sliding_window_view(around, size, 1), -1)
    far = np.abs(response - local) > FAR * np.abs(local)
    feeble = response < FEEBLE * np.median(response, 1, keepdims=True)
    return np.asarray((far | feeble).any(0))


def _check_dead(dead: NDArray[np.bool_], first: int) -> None:
    count = int(dead.sum())
    if count > max(1, MAX_DEAD_SHARE * len(dead)):
        raise InputError(
            f"{count} of {len(dead)} columns are dead, at most {MAX_DEAD_SHARE:.0%} can be interpolated; columns "
            "without web can be left out"
        )
    edges = np.flatnonzero(np.diff(np.pad(dead.astype(np.int8), 1)))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin > MAX_DEAD_RUN:
            raise InputError(
                f"columns {first + begin} to {first + end - 1} are dead; at most {MAX_DEAD_RUN} side by side can be "
                "interpolated"
            )
