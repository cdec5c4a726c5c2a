"""Where each yarn lies, how thick and how bright it is; nothing here knows of light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import noise
from .noise import Array, Integers, Mask
from .product import Product, Yarns

System = Literal["warp", "weft"]


@dataclass(frozen=True)
class YarnGap:
    """Yarn number `yarn` of a system is absent from position `first` to `last` along it, both inclusive."""

    system: System
    yarn: int
    first: int
    last: int


@dataclass(frozen=True)
class Nearest:
    """For each pixel the nearest yarn of one system; arrays are positions along the yarns × positions across."""

    yarn: Integers
    offset: Array
    """Distance from the yarn's axis in pixels, with sign."""
    half_width: Array
    grey: Array
    present: Array


class Layout:
    """The yarns of a roll: a function of the product and the seed alone."""

    def __init__(self, product: Product, seed: int) -> None:
        self.product = product
        self.seed = seed

    def yarns(self, system: System) -> Yarns:
        return self.product.warp if system == "warp" else self.product.weft

    def coordinates(self, lines: Integers, columns: Integers) -> tuple[Array, Array]:
        """Position of each pixel counted in warp yarns and in weft yarns, both H×W."""
        drift = self.product.variation.drift_px
        across = columns[None] + drift * noise.field(self.seed, "drift across", lines, columns, (700, 260))
        # The weft bows and leans more than the warp, which the loom holds under tension.
        onward = lines[:, None] + 2 * drift * noise.field(self.seed, "drift along", lines, columns, (420, 380))
        return across / self.product.warp.pitch_px, onward / self.product.weft.pitch_px

    def shift(self, system: System, yarns: Integers, position: Integers) -> Array:
        """Displacement of the yarns' axes from the regular grid in pixels, K×S."""
        variation = self.product.variation
        own = variation.spacing_px * noise.gaussian(self.seed, f"{system} spacing", yarns)
        return own[:, None] + variation.wander_px * noise.along(self.seed, f"{system} wander", yarns, position, 40)

    def half_width(self, system: System, yarns: Integers, position: Integers) -> Array:
        variation = self.product.variation
        relative = 1 + variation.thickness * noise.gaussian(self.seed, f"{system} thickness", yarns)[:, None]
        relative = relative + variation.thickness_along * noise.along(self.seed, f"{system} slub", yarns, position, 55)
        return self.yarns(system).half_width_px * relative

    def grey(self, system: System, yarns: Integers, position: Integers) -> Array:
        variation = self.product.variation
        relative = 1 + variation.grey * noise.gaussian(self.seed, f"{system} grey", yarns)[:, None]
        relative = relative + variation.grey_along * noise.along(self.seed, f"{system} shade", yarns, position, 90)
        return self.yarns(system).grey * relative

    def offset(self, system: System, yarn: int, lines: Integers, columns: Integers) -> Array:
        """Distance of each pixel from the axis of one yarn, H×W, with sign."""
        warps, wefts = self.coordinates(lines, columns)
        number, pitch = (warps, self.product.warp.pitch_px) if system == "warp" else (wefts, self.product.weft.pitch_px)
        position = lines if system == "warp" else columns
        shift = self.shift(system, np.asarray([yarn], np.int64), position)[0]
        result: Array = (number - yarn) * pitch - (shift[:, None] if system == "warp" else shift[None])
        return result

    def yarn_at(self, system: System, line: int, column: int) -> int:
        warps, wefts = self.coordinates(np.asarray([line], np.int64), np.asarray([column], np.int64))
        return round(float((warps if system == "warp" else wefts)[0, 0]))

    def nearest(self, system: System, number: Array, position: Integers, gaps: tuple[YarnGap, ...]) -> Nearest:
        """The nearest yarn at each pixel; `number` is S×C (along × across) as `coordinates` counts it."""
        low = np.floor(number).astype(np.int64)
        yarns = np.arange(low.min(), low.max() + 2)
        shift, half_width = self.shift(system, yarns, position), self.half_width(system, yarns, position)
        row, along = low - yarns[0], np.arange(position.size)[:, None]
        pitch = self.yarns(system).pitch_px
        before = (number - low) * pitch - shift[row, along]
        after = (number - low - 1) * pitch - shift[row + 1, along]
        second = np.abs(after) / half_width[row + 1, along] < np.abs(before) / half_width[row, along]
        row = row + second
        present = _presence(system, yarns, position, gaps)
        return Nearest(
            yarns[row],
            np.where(second, after, before),
            half_width[row, along],
            self.grey(system, yarns, position)[row, along],
            present[row, along],
        )

    def warp_is_up(self, warp: Integers, weft: Integers) -> Mask:
        """The weave: whether the warp yarn passes over the weft yarn."""
        result: Mask = (warp + weft) % 2 == 0 if self.product.weave == "plain" else (warp - weft) % 4 < 2
        return result


def _presence(system: System, yarns: Integers, position: Integers, gaps: tuple[YarnGap, ...]) -> Array:
    """1 where a yarn is, 0 in its gaps, with ends that thin out over 3 pixels; K×S."""
    present = np.ones((yarns.size, position.size))
    for gap in gaps:
        if gap.system == system and yarns[0] <= gap.yarn <= yarns[-1]:
            inside = np.minimum(position - gap.first, gap.last - position)
            present[gap.yarn - yarns[0]] *= np.clip(1 - (inside + 1) / 3, 0, 1)
    return present
