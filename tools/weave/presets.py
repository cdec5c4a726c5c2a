"""The footage that is rendered: seeds, yarns, cameras and the planted defects.

The presets of one weave are rolls of one product: pitch, thickness, brightness and noise differ as they do from one
day of production to the next, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cloth import Web
from .defects import Planted, plant
from .product import Camera, Product, Weave, Yarns
from .yarns import Layout

Name = Literal["train", "demo", "tests"]


@dataclass(frozen=True)
class Preset:
    """One roll."""

    product: Product
    seed: int
    columns: int
    lines: int
    defects: tuple[Planted, ...] = ()

    def web(self) -> Web:
        """The roll; a defect that does not lie wholly within it is left out."""
        layout = Layout(self.product, self.seed)
        defects = [plant(planted, layout) for planted in self.defects]
        return Web(
            layout,
            self.columns,
            [
                defect
                for defect in defects
                if defect.box.first_line >= 0
                and defect.box.last_line < self.lines
                and defect.box.first_column >= 0
                and defect.box.last_column < self.columns
            ],
        )


_DEMO = (
    Planted("cut", 110, 150, 90, 5, 35),
    Planted("contamination", 140, 430, 44, 34, look="oil"),
    Planted("missing_yarn", 300, 540, 150, look="warp"),
    Planted("metal_pin", 330, 90, 56, 4, -25),
    Planted("roughened", 420, 330, 58, 46),
    Planted("broken_yarn", 505, 180, 26, look="weft"),
    Planted("contamination", 600, 480, 7, 6, look="lump"),
    Planted("cut", 770, 300, 60, 4, 15),
    Planted("metal_pin", 860, 560, 26, 3, 75),
    Planted("missing_yarn", 930, 200, 220, look="weft"),
    Planted("roughened", 1024, 450, 44, 36),
    Planted("broken_yarn", 1110, 110, 34, look="warp"),
    Planted("contamination", 1180, 330, 24, 28, look="lint"),
    Planted("cut", 1240, 560, 22, 3, 95),
    # Lines 1300 to 1800 stay without a defect.
    Planted("contamination", 1850, 90, 5, 5, look="lump"),
    Planted("broken_yarn", 1930, 260, 16, look="warp"),
    Planted("metal_pin", 2045, 420, 70, 5, 5),
    Planted("missing_yarn", 2170, 160, 70, look="warp"),
    Planted("roughened", 2225, 520, 36, 32),
    Planted("contamination", 2300, 300, 90, 26, look="oil"),
    Planted("cut", 2430, 120, 130, 6, -60),
    Planted("broken_yarn", 2500, 500, 40, look="weft"),
    Planted("missing_yarn", 2610, 360, 90, look="weft"),
    Planted("metal_pin", 2690, 240, 20, 3, 40),
    Planted("contamination", 2760, 600, 16, 20, look="lump"),
    Planted("roughened", 2870, 130, 70, 60),
    Planted("contamination", 2935, 400, 5, 4, look="lump"),
    Planted("cut", 2990, 540, 40, 3, 5),
)

_TESTS = (
    Planted("cut", 120, 90, 50, 4, 30),
    Planted("contamination", 256, 215, 44, 34, look="oil"),
    Planted("missing_yarn", 420, 120, 90, look="warp"),
    Planted("metal_pin", 570, 230, 44, 4, -30),
    Planted("roughened", 700, 110, 46, 42),
    Planted("broken_yarn", 850, 230, 28, look="warp"),
    Planted("contamination", 940, 80, 7, 6, look="lump"),
)

_DEMO_TWILL = (
    Planted("roughened", 120, 360, 54, 46),
    Planted("metal_pin", 180, 110, 48, 4, 60),
    Planted("missing_yarn", 256, 250, 110, look="warp"),
    Planted("contamination", 370, 410, 36, 44, look="oil"),
    Planted("broken_yarn", 450, 130, 34, look="warp"),
    # Lines 520 to 840 stay without a defect.
    Planted("cut", 890, 200, 70, 5, -40),
    Planted("contamination", 1000, 380, 8, 7, look="lump"),
    Planted("missing_yarn", 1080, 150, 120, look="weft"),
    Planted("cut", 1190, 400, 34, 3, 10),
    Planted("broken_yarn", 1280, 240, 30, look="weft"),
    Planted("metal_pin", 1350, 420, 30, 3, -10),
    Planted("contamination", 1380, 100, 26, 22, look="lint"),
    Planted("roughened", 1465, 290, 40, 36),
)


def _woven(
    weave: Weave,
    pitches: tuple[float, float],
    half_widths: tuple[float, float],
    greys: tuple[float, float],
    camera: Camera,
) -> Product:
    """Pairs are warp, weft."""
    turns = (5.0, 5.5) if weave == "plain" else (4.6, 5.0)
    warp, weft = (Yarns(*numbers) for numbers in zip(pitches, half_widths, greys, turns, strict=True))
    return Product(weave, warp, weft, camera=camera)


PRESETS: dict[tuple[Weave, Name], Preset] = {
    ("plain", "train"): Preset(_woven("plain", (8.0, 8.8), (3.70, 3.90), (178, 168), Camera()), 11, 768, 4096),
    ("plain", "demo"): Preset(
        _woven("plain", (8.06, 8.70), (3.74, 3.87), (174, 166), Camera(read_noise=1.2, photon_noise=0.033)),
        23,
        640,
        3072,
        _DEMO,
    ),
    ("plain", "tests"): Preset(
        _woven("plain", (7.95, 8.86), (3.66, 3.93), (181, 169), Camera(read_noise=1.0, photon_noise=0.028)),
        37,
        320,
        1024,
        _TESTS,
    ),
    ("twill", "train"): Preset(_woven("twill", (6.6, 7.6), (3.05, 3.30), (178, 160), Camera()), 41, 512, 2048),
    ("twill", "demo"): Preset(
        _woven("twill", (6.55, 7.68), (3.03, 3.34), (175, 161), Camera(read_noise=1.2, photon_noise=0.033)),
        53,
        512,
        1536,
        _DEMO_TWILL,
    ),
    ("twill", "tests"): Preset(
        _woven("twill", (6.65, 7.55), (3.08, 3.27), (180, 158), Camera(read_noise=1.0, photon_noise=0.028)),
        67,
        320,
        1024,
        _TESTS,
    ),
}
