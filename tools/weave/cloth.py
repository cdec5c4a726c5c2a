"""The lit surface of the web, and what the camera makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from . import noise
from .defects import Defect
from .noise import Array, Integers, Mask
from .yarns import Layout, System, YarnGap

Image = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

# The lamp is a line across the web, before the camera: its light leans along the web, hardly across it.
LIGHT_ACROSS, LIGHT_ALONG, LIGHT_UP = 0.14, 0.46, 0.877
CRIMP_PX = 1.5
"""How far a yarn rises above and falls below the middle of the cloth."""
HALO = 3
"""Lines and columns beyond the ones asked for that the blur of the lens needs."""


class Web:
    """A roll of web with its defects; any range of its lines renders alike, whichever way it is cut."""

    def __init__(self, layout: Layout, columns: int, defects: Sequence[Defect] = ()) -> None:
        self.layout = layout
        self.columns = columns
        self.defects = tuple(defects)

    def render(self, first_line: int, lines: int) -> Image:
        """What the camera records of the lines from `first_line` on: lines × columns."""
        rows = np.arange(first_line - HALO, first_line + lines + HALO)
        columns = np.arange(-HALO, self.columns + HALO)
        light = _blurred(self._scene(rows, columns), self.layout.product.camera.blur_px)
        return self._recorded(light, rows[HALO:-HALO], columns[HALO:-HALO])

    def mask(self, defect: Defect, first_line: int, lines: int) -> Mask:
        """The pixels of one defect in the lines from `first_line` on."""
        result = np.zeros((lines, self.columns), np.bool_)
        rows, columns = defect.box.inside(np.arange(first_line, first_line + lines), np.arange(self.columns))
        if rows.size:
            part = _part(result, rows, columns, first_line, 0)
            part[:] = defect.mask(rows, columns)
        return result

    def _scene(self, lines: Integers, columns: Integers) -> Array:
        layout, product = self.layout, self.layout.product
        near = [(defect, *defect.box.inside(lines, columns)) for defect in self.defects]
        near = [(defect, rows, across) for defect, rows, across in near if rows.size]
        gaps = tuple(gap for defect, _, _ in near for gap in defect.yarn_gaps)
        warps, wefts = layout.coordinates(lines, columns)
        for defect, rows, across in near:
            along, aside = defect.push(rows, across)
            _part(warps, rows, across, lines[0], columns[0])[:] += aside / product.warp.pitch_px
            _part(wefts, rows, across, lines[0], columns[0])[:] += along / product.weft.pitch_px
        warp = _Surface(layout, "warp", (warps, wefts), (lines, columns), gaps)
        weft = _Surface(layout, "weft", (wefts.T, warps.T), (columns, lines), gaps)
        scene = _woven(
            (warp.height, warp.cover, warp.light), (weft.height.T, weft.cover.T, weft.light.T), product.backdrop
        )
        for defect, rows, across in near:
            part = _part(scene, rows, across, lines[0], columns[0])
            part[:] = defect.paint(part, rows, across)
        return scene

    def _recorded(self, light: Array, lines: Integers, columns: Integers) -> Image:
        camera, seed = self.layout.product.camera, self.layout.seed
        from_middle = (columns + 0.5) / self.columns * 2 - 1
        gain = 1 - camera.falloff * from_middle**2 + camera.gain * noise.gaussian(seed, "gain", columns)
        drift = noise.field(seed, "lamp", lines, np.zeros(1), (900, 1)) + noise.field(
            seed, "brightness", lines, columns, (500, 350)
        )
        signal = light * gain[None] * (1 + camera.drift * drift)
        deviation = np.sqrt(camera.read_noise**2 + camera.photon_noise * np.maximum(signal, 0))
        signal = signal + deviation * noise.gaussian(seed, "sensor", lines[:, None], columns[None])
        image: Image = np.clip(np.rint(signal), 0, 255).astype(np.uint8)
        return image


class _Surface:
    """One system of yarns seen from above: height in pixels, cover 0..1, light sent to the camera; S×C."""

    def __init__(
        self,
        layout: Layout,
        system: System,
        numbers: tuple[Array, Array],
        positions: tuple[Integers, Integers],
        gaps: tuple[YarnGap, ...],
    ) -> None:
        """`numbers` and `positions` are those of this system and of the other, as `Layout.coordinates` counts."""
        (number, other), (position, other_position) = numbers, positions
        self.layout, self.system = layout, system
        self.near = near = layout.nearest(system, number, position, gaps)
        rise, slope = self._crimp(other, other_position, gaps)
        # A yarn is pressed flat where it lies on top.
        half_width = near.half_width * (1 + 0.06 * rise)
        self.across = np.clip(near.offset / half_width, -1, 1)
        round_top = np.sqrt(1 - self.across**2)
        self.height = CRIMP_PX * rise + 0.55 * half_width * round_top
        self.cover = np.clip(half_width - np.abs(near.offset) + 0.5, 0, 1) * near.present
        self.height = np.where(near.present > 0, self.height, -9.0)
        depth = np.clip((self.height + CRIMP_PX) / (2 * CRIMP_PX + 0.55 * half_width), 0, 1)
        # Light reaches the valleys of the cloth less than its crowns.
        self.light = near.grey * self._lambert(round_top, slope) * (0.50 + 0.50 * depth) * self._fibres(position)

    def _crimp(self, other: Array, other_position: Integers, gaps: tuple[YarnGap, ...]) -> tuple[Array, Array]:
        """Rise of the yarn, -1 below to 1 above, and its slope in pixels per pixel."""
        crossing = np.floor(other).astype(np.int64)
        way = other - crossing
        before, after = (self._rise(crossing + step, other_position, gaps) for step in (0, 1))
        pitch = self.layout.yarns("weft" if self.system == "warp" else "warp").pitch_px
        rise = before + (after - before) * (0.5 - 0.5 * np.cos(np.pi * way))
        return rise, CRIMP_PX * (after - before) * 0.5 * np.pi * np.sin(np.pi * way) / pitch

    def _rise(self, crossing: Integers, other_position: Integers, gaps: tuple[YarnGap, ...]) -> Array:
        """Rise at a crossing; where the crossing yarn is absent, the yarn bridges between its neighbours."""
        rise = self._up(crossing)
        for gap in gaps:
            if gap.system != self.system:
                bridged = (crossing == gap.yarn) & (other_position >= gap.first) & (other_position <= gap.last)
                rise = np.where(bridged, (self._up(crossing - 1) + self._up(crossing + 1)) / 2, rise)
        return rise

    def _up(self, crossing: Integers) -> Array:
        own = self.near.yarn
        is_warp = self.system == "warp"
        up = self.layout.warp_is_up(own, crossing) if is_warp else ~self.layout.warp_is_up(crossing, own)
        return np.where(up, 1.0, -1.0)

    def _lambert(self, round_top: Array, slope: Array) -> Array:
        is_warp = self.system == "warp"
        sideways, onward = (LIGHT_ACROSS, LIGHT_ALONG) if is_warp else (LIGHT_ALONG, LIGHT_ACROSS)
        steep = 1 / np.sqrt(1 + slope**2)
        # Yarn is no solid cylinder: light enters its flanks, hence the weight on the part that is always lit.
        direct = sideways * self.across + round_top * steep * (LIGHT_UP - onward * slope)
        return 0.42 + 0.62 * np.maximum(direct, 0)

    def _fibres(self, position: Integers) -> Array:
        seed, variation = self.layout.seed, self.layout.product.variation
        yarn, turn = self.near.yarn, self.layout.yarns(self.system).twist_px
        start = noise.uniform(seed, f"{self.system} turn", np.arange(yarn.min(), yarn.max() + 1))[yarn - yarn.min()]
        turns = position[:, None] / turn + 0.33 * self.across + start
        strand = np.floor(self.near.offset / 1.4).astype(np.int64)
        fibre = noise.gaussian(seed, f"{self.system} fibre", yarn, strand, position[:, None] // 3)
        texture: Array = 1 + variation.twist * np.sin(2 * np.pi * turns) + variation.fibre * fibre
        return texture


def _part(whole: npt.NDArray[Scalar], rows: Integers, across: Integers, line: int, column: int) -> npt.NDArray[Scalar]:
    """View of the given lines and columns of an image whose first ones are `line` and `column`."""
    top, left = int(rows[0]) - line, int(across[0]) - column
    return whole[top : top + rows.size, left : left + across.size]


def _woven(warp: tuple[Array, Array, Array], weft: tuple[Array, Array, Array], backdrop: float) -> Array:
    """Both systems (height, cover, light) over the backdrop; the higher one hides the lower."""
    # Softly within a fraction of a pixel: a hard edge would alias.
    warp_on_top = np.clip(0.5 + (warp[0] - weft[0]) / 0.8, 0, 1)
    warp_alone, weft_alone = (cover * light + (1 - cover) * backdrop for _, cover, light in (warp, weft))
    warp_first = warp[1] * warp[2] + (1 - warp[1]) * weft_alone
    weft_first = weft[1] * weft[2] + (1 - weft[1]) * warp_alone
    return warp_on_top * warp_first + (1 - warp_on_top) * weft_first


def _blurred(scene: Array, sigma: float) -> Array:
    """Gaussian of the lens, separable, radius HALO; the result is smaller by HALO at each side."""
    reach = np.arange(-HALO, HALO + 1)
    taps = np.exp(-0.5 * (reach / sigma) ** 2)
    taps /= taps.sum()
    height, width = scene.shape[0] - 2 * HALO, scene.shape[1] - 2 * HALO
    across: Array = sum((tap * scene[:, i : i + width] for i, tap in enumerate(taps)), np.zeros(()))
    both: Array = sum((tap * across[i : i + height] for i, tap in enumerate(taps)), np.zeros(()))
    return both
