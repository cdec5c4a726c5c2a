"""The six kinds of planted defects: what each does to the yarns, to the lit surface, and which pixels are its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from . import noise
from .noise import Array, Integers, Mask
from .shapes import Blob, Box, Curve, bent, hairs
from .yarns import Layout, System, YarnGap

Kind = Literal["cut", "roughened", "contamination", "metal_pin", "missing_yarn", "broken_yarn"]


@dataclass(frozen=True)
class Planted:
    """Where a defect is, its size and look; the angle is counted from the web's direction."""

    kind: Kind
    line: int
    column: int
    length_px: float
    width_px: float = 0.0
    angle_deg: float = 0.0
    look: str = ""
    """`warp` or `weft` of a yarn; `oil`, `lump` or `lint` of a contamination."""


class Defect:
    """One planted defect; all pixels that it changes, before the lens blurs them, lie in its box."""

    kind: ClassVar[Kind]
    box: Box
    yarn_gaps: tuple[YarnGap, ...] = ()

    def push(self, lines: Integers, columns: Integers) -> tuple[Array, Array]:
        """How far the yarns are displaced along and across the web, in pixels, both H×W."""
        still = np.zeros((lines.size, columns.size))
        return still, still

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        """The scene with what lies on the yarns or is torn out of them; H×W."""
        return scene

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        raise NotImplementedError


class Cut(Defect):
    """A slit through the cloth: the table shows, the lips are frayed and stand up a little."""

    kind: ClassVar[Kind] = "cut"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        self.seed, self.half_width, self.backdrop = seed, spec.width_px / 2, layout.product.backdrop
        bend = 0.24 * (noise.uniform(seed, "bend", [0])[0] - 0.5)
        self.curve = bent(spec.line, spec.column, spec.length_px, spec.angle_deg, bend=bend)
        self.box = self.curve.box(self.half_width + 4)

    def _opening(self, lines: Integers, columns: Integers) -> Array:
        """Distance from the lips in pixels, positive inside the slit."""
        distance, way = self.curve.near(lines, columns)
        tapered = self.half_width * (1 - np.abs(2 * way - 1) ** 3)
        ragged = noise.field(self.seed, "lips", lines, columns, (3, 3))
        return np.asarray(tapered * (1 + 0.2 * ragged) + 0.4 - np.abs(distance), np.float64)

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        opening = self._opening(lines, columns)
        threads = noise.uniform(self.seed, "threads", lines[:, None] // 2, columns[None] // 2) < 0.10
        through = np.clip(opening + 0.5, 0, 1) * np.where(threads, 0.55, 1.0)
        lip = np.clip(1 - np.abs(opening + 1.3) / 1.3, 0, 1)
        return scene * (1 + 0.14 * lip) * (1 - through) + 0.9 * self.backdrop * through

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        distance, way = self.curve.near(lines, columns)
        tapered = self.half_width * (1 - np.abs(2 * way - 1) ** 3)
        return np.asarray(np.abs(distance) <= tapered + 1.0, np.bool_)


class Roughened(Defect):
    """A rubbed place: yarns out of place, their relief worn down, fibres raised."""

    kind: ClassVar[Kind] = "roughened"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        self.seed = seed
        self.level = 0.86 * (layout.product.warp.grey + layout.product.weft.grey) / 2
        self.blob = Blob(spec.line, spec.column, spec.length_px / 2, spec.width_px / 2, seed)
        reach = (0.85 * spec.length_px / 2, 0.85 * spec.width_px / 2)
        count = int(spec.length_px * spec.width_px / 38)
        self.hairs = hairs(seed, "raised", count, middle=(spec.line, spec.column), reach=reach, length=9.0)
        self.box = self.blob.box(2)

    def _strength(self, lines: Integers, columns: Integers) -> Array:
        return np.clip(self.blob.depth(lines, columns) / 0.22, 0, 1)

    def push(self, lines: Integers, columns: Integers) -> tuple[Array, Array]:
        strength = 2.6 * self._strength(lines, columns)
        return (
            strength * noise.field(self.seed, "push along", lines, columns, (7, 9)),
            strength * noise.field(self.seed, "push across", lines, columns, (9, 7)),
        )

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        strength = self._strength(lines, columns)
        felt = self.level * (1 + 0.09 * noise.field(self.seed, "felt", lines, columns, (2, 2)))
        worn = scene + 0.65 * strength * (felt - scene)
        return _with_hairs(worn, self.hairs, lines, columns, 40 * strength)

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        return np.asarray(self.blob.depth(lines, columns) > 0.04, np.bool_)


class Contamination(Defect):
    """Something foreign on the web: a soaked-in spot of oil, an opaque lump, or a clump of lint."""

    kind: ClassVar[Kind] = "contamination"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        if spec.look not in ("oil", "lump", "lint"):
            raise ValueError(f"contamination looks like oil, lump or lint, not {spec.look!r}")
        self.seed, self.look, self.size = seed, spec.look, min(spec.length_px, spec.width_px)
        self.blob = Blob(spec.line, spec.column, spec.length_px / 2, spec.width_px / 2, seed, 0.16)
        reach = (0.5 * spec.length_px / 2, 0.5 * spec.width_px / 2)
        count = int(6 + spec.length_px * spec.width_px / 16) if spec.look == "lint" else 0
        self.hairs = hairs(seed, "lint", count, middle=(spec.line, spec.column), reach=reach, length=0.55 * self.size)
        self.box = self.blob.box(2)

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        depth = self.blob.depth(lines, columns)
        if self.look == "oil":  # soaked fibres scatter less; the weave still shows
            soaked = np.clip(depth / 0.25, 0, 1) * (1 + 0.08 * noise.field(self.seed, "soak", lines, columns, (8, 8)))
            return scene * (1 - 0.36 * soaked)
        if self.look == "lump":
            cover = np.clip(depth * self.size / 2 + 0.5, 0, 1)
            crumbs = noise.field(self.seed, "crumbs", lines, columns, (2, 2))
            return scene + cover * (62 + 14 * crumbs + 16 * np.clip(depth, 0, 1) - scene)
        veil = 0.25 * np.clip(depth / 0.4, 0, 1)
        inside = np.clip(depth * self.size / 2, 0, 1)
        return _with_hairs(scene + veil * (172 - scene), self.hairs, lines, columns, 75 * inside)

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        return np.asarray(self.blob.depth(lines, columns) > -0.5 / self.size, np.bool_)


class MetalPin(Defect):
    """A thin piece of metal on the web: dark flanks, a bright ridge, a shadow on the side away from the lamp."""

    kind: ClassVar[Kind] = "metal_pin"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        self.seed, self.half_width = seed, spec.width_px / 2
        self.curve = bent(spec.line, spec.column, spec.length_px, spec.angle_deg, bend=0.0, steps=1)
        self.box = self.curve.box(self.half_width + 4)

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        distance, _ = self.curve.near(lines - 1, columns - 1)  # the shadow falls behind and beside
        shade = np.clip(self.half_width + 1.2 - np.abs(distance), 0, 1)
        scene = scene * (1 - 0.30 * shade)
        distance, way = self.curve.near(lines, columns)
        across = distance / self.half_width
        spark = 0.8 + 0.2 * np.sin(9 * way + 6 * noise.uniform(self.seed, "spark", [0])[0])
        metal = 70 + 165 * spark * np.exp(-(((across - 0.2) / 0.45) ** 2))
        cover = np.clip(self.half_width - np.abs(distance) + 0.5, 0, 1)
        return np.asarray(scene + cover * (metal - scene), np.float64)

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        body, _ = self.curve.near(lines, columns)
        shadow, _ = self.curve.near(lines - 1, columns - 1)
        return np.asarray((np.abs(body) <= self.half_width + 0.5) | (np.abs(shadow) <= self.half_width + 0.7), np.bool_)


class MissingYarn(Defect):
    """A yarn that is not there for a stretch: the crossing yarns bridge a furrow."""

    kind: ClassVar[Kind] = "missing_yarn"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        self.system = _system(spec)
        self.layout, self.yarn = layout, layout.yarn_at(self.system, spec.line, spec.column)
        middle = spec.line if self.system == "warp" else spec.column
        self.first, self.last = middle - int(spec.length_px) // 2, middle + int(spec.length_px) // 2
        self.yarn_gaps = (YarnGap(self.system, self.yarn, self.first, self.last),)
        self.box = _strip(layout, self.system, (spec.line, spec.column), self.first, self.last)

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        position = lines[:, None] if self.system == "warp" else columns[None]
        offset = np.abs(self.layout.offset(self.system, self.yarn, lines, columns))
        missing = offset <= self.layout.yarns(self.system).half_width_px * 1.15
        return np.asarray(missing & (position >= self.first) & (position <= self.last), np.bool_)


class BrokenYarn(MissingYarn):
    """A yarn that broke: a short furrow, and the two ends lying loose on the cloth."""

    kind: ClassVar[Kind] = "broken_yarn"

    def __init__(self, spec: Planted, seed: int, layout: Layout) -> None:
        super().__init__(spec, seed, layout)
        self.grey = layout.yarns(self.system).grey
        self.half_width = 0.62 * layout.yarns(self.system).half_width_px
        self.ends = [self._loose(spec, seed, end) for end in (0, 1)]
        boxes = [end.box(self.half_width + 3) for end in self.ends] + [self.box]
        self.box = Box(
            min(b.first_line for b in boxes),
            max(b.last_line for b in boxes),
            min(b.first_column for b in boxes),
            max(b.last_column for b in boxes),
        )

    def _loose(self, spec: Planted, seed: int, end: int) -> Curve:
        """A yarn end that leaves its place where the gap begins or ends and lies aslant over its neighbours."""
        start = self.first + 1 if end == 0 else self.last - 1
        regular = spec.column if self.system == "warp" else spec.line
        lines, columns = (start, regular) if self.system == "warp" else (regular, start)
        offset = self.layout.offset(self.system, self.yarn, np.asarray([lines]), np.asarray([columns]))[0, 0]
        draws = noise.uniform(seed, "loose", [end, end + 2, end + 4])
        way = np.linspace(0, 1, 9)
        onward = (1 if end == 0 else -1) * (6 + 10 * draws[1]) * np.sin(2.2 * way)
        aside = (-1 if draws[0] < 0.5 else 1) * (9 + 11 * draws[2]) * way**1.5
        along, across = start + onward, regular - offset + aside
        return Curve(np.stack([along, across] if self.system == "warp" else [across, along], 1))

    def paint(self, scene: Array, lines: Integers, columns: Integers) -> Array:
        for end in self.ends:
            shadow, _ = end.near(lines - 1, columns - 1)
            scene = scene * (1 - 0.25 * np.clip(self.half_width + 1 - np.abs(shadow), 0, 1))
            distance, way = end.near(lines, columns)
            radius = self.half_width * (1 - 0.45 * way**2)
            across = np.clip(distance / radius, -1, 1)
            light = self.grey * (0.72 + 0.40 * np.sqrt(1 - across**2) + 0.06 * np.sin(2 * np.pi * (way * 4 + across)))
            cover = np.clip(radius - np.abs(distance) + 0.5, 0, 1)
            scene = scene + cover * (light - scene)
        return scene

    def mask(self, lines: Integers, columns: Integers) -> Mask:
        result = super().mask(lines, columns)
        for end in self.ends:
            result |= np.abs(end.near(lines, columns)[0]) <= self.half_width + 0.5
            result |= np.abs(end.near(lines - 1, columns - 1)[0]) <= self.half_width + 0.5
        return result


def _system(spec: Planted) -> System:
    if spec.look == "warp":
        return "warp"
    if spec.look == "weft":
        return "weft"
    raise ValueError(f"a yarn is of the warp or of the weft, not {spec.look!r}")


def _strip(layout: Layout, system: System, place: tuple[int, int], first: int, last: int) -> Box:
    """Box around a stretch of yarn; the margin is for the yarn's wander and the slow drift of the weave."""
    margin = round(2 * layout.yarns(system).pitch_px + 8 * layout.product.variation.drift_px)
    if system == "warp":
        return Box(first, last, place[1] - margin, place[1] + margin)
    return Box(place[0] - margin, place[0] + margin, first, last)


def _with_hairs(scene: Array, curves: list[Curve], lines: Integers, columns: Integers, brighter: Array) -> Array:
    """Thin bright fibres on the scene, each dimmer toward its ends."""
    light = np.zeros_like(scene)
    for curve in curves:
        rows, across = curve.box(2).inside(lines, columns)
        if rows.size:
            top, left = rows[0] - lines[0], across[0] - columns[0]
            part = light[top : top + rows.size, left : left + across.size]
            distance, way = curve.near(rows, across)
            part[:] = np.maximum(part, np.clip(1.1 - np.abs(distance), 0, 1) * (1 - 0.5 * np.abs(2 * way - 1)))
    return scene + brighter * light


_KINDS: dict[Kind, Callable[[Planted, int, Layout], Defect]] = {
    "cut": Cut,
    "roughened": Roughened,
    "contamination": Contamination,
    "metal_pin": MetalPin,
    "missing_yarn": MissingYarn,
    "broken_yarn": BrokenYarn,
}


def plant(spec: Planted, layout: Layout) -> Defect:
    """The defect on the yarns of this roll; its own randomness follows from the roll's seed and its place."""
    return _KINDS[spec.kind](spec, (layout.seed * 1_000_003 + spec.line) * 4_099 + spec.column, layout)
