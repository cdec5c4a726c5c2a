"""Curves and blobs that defects are made of; points are (line, column), angles are counted from the web's direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import noise
from .noise import Array, Integers


@dataclass(frozen=True)
class Box:
    """Lines and columns, both inclusive."""

    first_line: int
    last_line: int
    first_column: int
    last_column: int

    def inside(self, lines: Integers, columns: Integers) -> tuple[Integers, Integers]:
        """Those of the lines and columns that lie in the box; both empty where it lies elsewhere."""
        rows = lines[(lines >= self.first_line) & (lines <= self.last_line)]
        across = columns[(columns >= self.first_column) & (columns <= self.last_column)]
        return (rows, across) if rows.size and across.size else (rows[:0], across[:0])


@dataclass(frozen=True)
class Curve:
    """A polyline, N×2."""

    points: Array

    @property
    def length(self) -> float:
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    def box(self, margin: float) -> Box:
        low, high = np.floor(self.points.min(0) - margin), np.ceil(self.points.max(0) + margin)
        return Box(int(low[0]), int(high[0]), int(low[1]), int(high[1]))

    def near(self, lines: Integers, columns: Integers) -> tuple[Array, Array]:
        """Distance of each pixel from the curve, its sign telling the side, and how far along it (0..1); H×W."""
        distance = np.full((lines.size, columns.size), np.inf)
        way = np.zeros_like(distance)
        steps = len(self.points) - 1
        for number, (start, end) in enumerate(zip(self.points[:-1], self.points[1:], strict=True)):
            direction = end - start
            line, column = lines[:, None] - start[0], columns[None] - start[1]
            part = np.clip((line * direction[0] + column * direction[1]) / (direction @ direction), 0, 1)
            away = np.hypot(line - part * direction[0], column - part * direction[1])
            side = np.where(line * direction[1] - column * direction[0] < 0, -1.0, 1.0)
            closer = away < np.abs(distance)
            distance = np.where(closer, away * side, distance)
            way = np.where(closer, (number + part) / steps, way)
        return distance, way


def bent(line: float, column: float, length: float, angle_deg: float, *, bend: float, steps: int = 12) -> Curve:
    """A bow of the given length around its middle; `bend` is its sag relative to the length."""
    direction = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    normal = np.array([-direction[1], direction[0]])
    way = np.linspace(-0.5, 0.5, steps + 1)[:, None]
    return Curve(np.array([line, column]) + length * (way * direction + bend * (0.5 - 2 * way**2) * normal))


def hairs(
    seed: int, name: str, count: int, *, middle: tuple[float, float], reach: tuple[float, float], length: float
) -> list[Curve]:
    """Loose fibres around a middle, in any direction."""
    draws = noise.uniform(seed, name, np.arange(count)[:, None], np.arange(5)[None])
    turn, radius = 2 * np.pi * draws[:, 0], np.sqrt(draws[:, 1])
    lines, columns = middle[0] + reach[0] * radius * np.cos(turn), middle[1] + reach[1] * radius * np.sin(turn)
    return [
        bent(
            lines[i], columns[i], length * (0.6 + 0.8 * draws[i, 2]), 360 * draws[i, 3], bend=draws[i, 4] - 0.5, steps=5
        )
        for i in range(count)
    ]


@dataclass(frozen=True)
class Blob:
    """A round shape with an uneven rim: without holes and in one piece."""

    line: float
    column: float
    half_length: float
    half_width: float
    seed: int
    unevenness: float = 0.12

    def box(self, margin: float) -> Box:
        # The five harmonics of `depth` add up to 2.64 times the unevenness at most.
        grow = 1 + 2.65 * self.unevenness
        middle, reach = np.array([self.line, self.column]), grow * np.array([self.half_length, self.half_width])
        return Curve(np.stack([middle - reach, middle + reach])).box(margin)

    def depth(self, lines: Integers, columns: Integers) -> Array:
        """1 in the middle, 0 at the rim, negative outside; H×W."""
        down, right = (lines[:, None] - self.line) / self.half_length, (columns[None] - self.column) / self.half_width
        turn = np.arctan2(right, down)
        rim = np.ones_like(turn)
        for harmonic in range(2, 7):
            size, start = noise.uniform(self.seed, "rim", np.asarray([harmonic, harmonic + 100]))
            height = self.unevenness * (0.4 + 0.6 * size) / np.sqrt(harmonic)
            rim += height * np.sin(harmonic * turn + 2 * np.pi * start)
        return np.asarray(1 - np.hypot(down, right) / rim, np.float64)
