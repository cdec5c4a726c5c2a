"""The contact sheet of an evaluation, as the paper's Fig. 5: one row an image, from the input to the segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from linescan.errors import InputError
from linescan.files import write_atomically

Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]

PANELS = ("input", "reconstruction", "residual", "segmentation")
GAP_PX = 8  # around every panel
TEXT_PX = 24  # a line of text
RED, GREEN, GREY, WHITE = (255, 0, 0), (0, 200, 0), (128, 128, 128), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One image of a contact sheet; all arrays have its H×W.

    title: over the row. image, reconstruction: H×W grey or H×W×3 RGB, uint8 or float in [0, 1] (clipped).
    residual: float, higher is more defective; what is not finite is shown grey. segmentation: bool.
    defect: bool, the ground truth; None where there is none. ignore: bool, shown darker in the segmentation.
    """

    title: str
    image: npt.NDArray[Any]
    reconstruction: npt.NDArray[Any]
    residual: npt.NDArray[np.floating[Any]]
    segmentation: Mask
    defect: Mask | None = None
    ignore: Mask | None = None


def contact_sheet(
    path: Path,
    rows: Sequence[SheetRow],
    residual_range: tuple[float, float] | None = None,
    panel_px: int = 400,
) -> None:
    """Write a PNG with a row for each image: input | reconstruction | residual | segmentation (paper, Fig. 5).

    The residual goes from dark blue to yellow (viridis). In the segmentation, segmented pixels are green, and the
    ground truth is outlined in red. Cut long strips before: a panel keeps its aspect ratio.

    Args:
        path: of the PNG.
        rows: at least one.
        residual_range: the residuals at the colour map's ends, the same for all rows; None takes the 0.1 % and
            99.9 % quantiles of what is shown.
        panel_px: longer images are shrunk to this; masks then keep every pixel that holds any of them.

    Raises:
        InputError: no rows, or arrays of a row that do not fit its image.
    """
    if not rows:
        raise InputError("a contact sheet needs at least one image")
    for row in rows:
        _check_row(row)
    residuals = [_shrunk(row.residual.astype(np.float32), panel_px) for row in rows]
    low, high = residual_range or _shown_range(residuals)
    width = max(residual.shape[1] for residual in residuals)
    strips = [_heading(width, low, high)]
    for row, residual in zip(rows, residuals, strict=True):
        panels = [
            _rgb(_shrunk(_unit(row.image), panel_px)),
            _rgb(_shrunk(_unit(row.reconstruction), panel_px)),
            _coloured(residual, low, high),
            _segmented(row, panel_px),
        ]
        strips.append(_strip(row.title, panels, width))
    encoded, content = cv2.imencode(".png", np.vstack(strips)[..., ::-1])  # OpenCV writes BGR
    if not encoded:
        raise InputError(f"a contact sheet of {len(rows)} rows of {panel_px} px cannot be encoded as PNG")
    write_atomically(path, content.tobytes())


def outline(mask: Mask) -> Mask:
    """The line of two pixels along the border of a mask, one on each side; also along the image's border. H×W bool."""
    pixels = mask.astype(np.uint8)
    element = np.ones((3, 3), np.uint8)
    outer = cv2.dilate(pixels, element, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    inner = cv2.erode(pixels, element, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    line: Mask = (outer > 0) & (inner == 0)
    return line


def _check_row(row: SheetRow) -> None:
    size = row.image.shape[:2]
    for name in ("image", "reconstruction"):
        array = getattr(row, name)
        if array.shape[:2] != size or array.shape[2:] not in ((), (3,)) or not array.size:
            raise InputError(f"{row.title}: {name} must be H×W or H×W×3 with H×W = {size}, got {array.shape}")
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"{row.title}: {name} must be uint8 or float in [0, 1], got {array.dtype}")
    for name in ("residual", "segmentation", "defect", "ignore"):
        array = getattr(row, name)
        if array is not None and array.shape != size:
            raise InputError(f"{row.title}: {name} must have the image's shape {size}, got {array.shape}")


def _unit(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Float in [0, 1], whatever it was."""
    unit = image.astype(np.float32)
    return unit / np.float32(255) if image.dtype == np.uint8 else np.clip(unit, 0, 1)


def _shrunk(array: npt.NDArray[np.float32], panel_px: int) -> npt.NDArray[np.float32]:
    height, width = array.shape[:2]
    if max(height, width) <= panel_px:
        return array
    factor = panel_px / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)


def _shown_range(residuals: Sequence[npt.NDArray[np.float32]]) -> tuple[float, float]:
    finite = np.concatenate([residual[np.isfinite(residual)] for residual in residuals])
    if not finite.size:
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.001, 0.999])
    return float(low), float(high)


def _rgb(unit: npt.NDArray[np.float32]) -> Rgb:
    pixels = np.rint(np.nan_to_num(unit) * 255).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _coloured(residual: npt.NDArray[np.float32], low: float, high: float) -> Rgb:
    finite = np.isfinite(residual)
    share = np.clip((np.where(finite, residual, low) - low) / ((high - low) or 1.0), 0, 1)
    colours = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1].astype(np.uint8)
    colours[~finite] = GREY
    return colours


def _segmented(row: SheetRow, panel_px: int) -> Rgb:
    def shown(mask: Mask) -> Mask:
        return _shrunk(mask.astype(np.float32), panel_px) > 0

    panel = _rgb(_shrunk(_unit(row.image), panel_px))
    if row.ignore is not None:
        panel[shown(row.ignore)] //= 3
    segmented = shown(row.segmentation)
    panel[segmented] = (0.4 * panel[segmented] + 0.6 * np.array(GREEN)).astype(np.uint8)
    if row.defect is not None:
        panel[outline(shown(row.defect))] = RED
    return panel


def _heading(width: int, low: float, high: float) -> Rgb:
    strip = np.full((TEXT_PX + GAP_PX, 4 * width + 5 * GAP_PX, 3), WHITE, np.uint8)
    texts = [*PANELS[:2], f"{PANELS[2]} {low:.3g} - {high:.3g}", PANELS[3]]
    for column, text in enumerate(texts):
        _write(strip, text, GAP_PX + column * (width + GAP_PX), width)
    return strip


def _strip(title: str, panels: Sequence[Rgb], width: int) -> Rgb:
    height = panels[0].shape[0]
    strip = np.full((TEXT_PX + height + GAP_PX, 4 * width + 5 * GAP_PX, 3), WHITE, np.uint8)
    _write(strip, title, GAP_PX, strip.shape[1] - 2 * GAP_PX)
    for column, panel in enumerate(panels):
        left = GAP_PX + column * (width + GAP_PX)
        strip[TEXT_PX : TEXT_PX + height, left : left + panel.shape[1]] = panel
    return strip


def _write(strip: Rgb, text: str, left: int, width: int) -> None:
    """Write a line of text at the top of a strip, cut off after `width` pixels."""
    line = np.full((TEXT_PX, width, 3), WHITE, np.uint8)
    cv2.putText(line, text, (0, TEXT_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    strip[:TEXT_PX, left : left + width] = line
