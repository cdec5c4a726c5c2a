"""What is woven and how it is filmed. Numbers only; lengths in pixels, greys in levels of 8 bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Weave = Literal["plain", "twill"]


@dataclass(frozen=True)
class Yarns:
    """One system of yarns, warp (along the web) or weft (across it)."""

    pitch_px: float
    half_width_px: float
    grey: float
    twist_px: float
    """Length of one turn of the twist."""


@dataclass(frozen=True)
class Variation:
    """What differs from yarn to yarn and along each yarn in good web (standard deviations)."""

    spacing_px: float = 0.30
    wander_px: float = 0.30
    thickness: float = 0.035
    """Per yarn, relative to the half width."""
    thickness_along: float = 0.05
    grey: float = 0.022
    """Per yarn, relative to its grey."""
    grey_along: float = 0.030
    fibre: float = 0.06
    twist: float = 0.05
    drift_px: float = 2.5
    """Slow distortion of the weave: the local pitch and the angle of the weft follow from it."""


@dataclass(frozen=True)
class Camera:
    """Lamp, lens and sensor."""

    blur_px: float = 0.62
    falloff: float = 0.05
    """Light lost from the middle of the web to its edges."""
    drift: float = 0.02
    """Slow change of brightness, along the web and across it (standard deviation, relative)."""
    gain: float = 0.007
    """Difference from column to column (standard deviation, relative)."""
    read_noise: float = 1.1
    photon_noise: float = 0.030
    """Variance per grey level."""


@dataclass(frozen=True)
class Product:
    """One product under one camera."""

    weave: Weave
    warp: Yarns
    weft: Yarns
    backdrop: float = 46.0
    """Grey of the table, seen between the yarns."""
    variation: Variation = field(default_factory=Variation)
    camera: Camera = field(default_factory=Camera)
