"""Random numbers that are functions of (seed, name, position), not of the order in which they are drawn.

That is what makes any range of lines render alike however the roll is cut.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _hashed(seed: int, name: str, keys: tuple[npt.ArrayLike, ...]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant here
        state = _mix(np.asarray([seed], np.uint64) * _GOLDEN + np.uint64(zlib.crc32(name.encode())))
        for key in keys:
            state = _mix((state + _GOLDEN) ^ np.asarray(key, np.int64).astype(np.uint64))
    return state


def uniform(seed: int, name: str, *keys: npt.ArrayLike) -> Array:
    """Uniform in [0, 1), one number for each broadcast combination of the integer keys."""
    result: Array = (_hashed(seed, name, keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


def gaussian(seed: int, name: str, *keys: npt.ArrayLike) -> Array:
    """Close to normal(0, 1): four 16-bit uniforms added, so that no libm rounding decides a pixel; ends at ±3.46."""
    bits = _hashed(seed, name, keys)
    total = np.zeros(bits.shape, np.uint64)
    for shift in (0, 16, 32, 48):
        total += (bits >> np.uint64(shift)) & np.uint64(0xFFFF)
    normal: Array = (total.astype(np.float64) / 65536.0 - 2.0) * 3.0**0.5
    return normal


def _cells(position: npt.ArrayLike, spacing: float) -> tuple[Integers, Array]:
    scaled = np.asarray(position, np.float64) / spacing
    cell = np.floor(scaled)
    fraction = scaled - cell
    return cell.astype(np.int64), fraction * fraction * (3.0 - 2.0 * fraction)


def along(seed: int, name: str, yarns: npt.ArrayLike, position: npt.ArrayLike, spacing: float) -> Array:
    """Smooth noise along each yarn: yarns (K), position (S) -> K×S, a new value about every `spacing` pixels."""
    cell, weight = _cells(position, spacing)
    yarn = np.asarray(yarns, np.int64)[:, None]
    here, there = gaussian(seed, name, yarn, cell[None]), gaussian(seed, name, yarn, cell[None] + 1)
    result: Array = here + weight[None] * (there - here)
    return result


def field(seed: int, name: str, lines: npt.ArrayLike, columns: npt.ArrayLike, spacing: tuple[float, float]) -> Array:
    """Smooth noise in the plane: lines (H), columns (W) -> H×W, `spacing` in pixels along and across the web."""
    line_cell, line_weight = _cells(lines, spacing[0])
    column_cell, column_weight = _cells(columns, spacing[1])
    rows = np.arange(line_cell.min(), line_cell.max() + 2)
    across = np.arange(column_cell.min(), column_cell.max() + 2)
    knots = gaussian(seed, name, rows[:, None], across[None])
    column = column_cell - across[0]
    spread = knots[:, column] + column_weight[None] * (knots[:, column + 1] - knots[:, column])
    row = line_cell - rows[0]
    result: Array = spread[row] + line_weight[:, None] * (spread[row + 1] - spread[row])
    return result
