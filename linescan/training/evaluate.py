"""Scores a model on images with ground truth, through the same engine as the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from linescan.errors import InputError
from linescan.files import make_folder, write_atomically
from linescan.messages import Region
from linescan.models.runner import Runner
from linescan.recipe import Setup
from linescan.replay.roll import stem_of
from linescan.training.components import COMPONENTS
from linescan.training.contact_sheet import SheetRow, contact_sheet
from linescan.training.inspected import ImageResult, Mask, inspect_images
from linescan.training.metrics import PixelScores
from linescan.training.panels import Panel, residual_panel, write_panels
from linescan.training.plots import Picture, plot_overlap, plot_roc, report_page

FPRS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
CURVE_FPRS = tuple(float(fpr) for fpr in np.geomspace(0.001, 0.3, 40))
SHEET_ROWS = 8


@dataclass
class DefectCount:
    """What a person would count at the threshold: defects found, and regions on good web."""

    defects: int = 0
    found: int = 0
    false_regions: int = 0
    megapixels: float = 0.0
    not_inspected: int = 0  # defects
    lines_in_gaps: int = 0
    overlap: list[float] = field(default_factory=list)

    def add(self, result: ImageResult, defect: Mask, inspected: Mask) -> None:
        """Counts one image: a defect is found where any opened pixel lies on it; a region is false that is on none."""
        count, labels = cv2.connectedComponents((defect & inspected).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            share = float(result.opened[labels == label].mean())
            self.defects += 1
            self.found += share > 0
            self.overlap.append(share)
        whole, labels = cv2.connectedComponents(defect.astype(np.uint8), connectivity=8)
        self.not_inspected += whole - len(np.union1d(labels[inspected], [0]))
        self.lines_in_gaps += result.lines_in_gaps
        self.false_regions += sum(not _touches(region, defect) for region in result.regions)
        self.megapixels += float(inspected.sum()) / 1e6

    def as_dict(self) -> dict[str, float]:
        rate = self.false_regions / self.megapixels if self.megapixels else 0.0
        return {
            "defects": self.defects,
            "found": self.found,
            "false_regions": self.false_regions,
            "false_regions_per_megapixel": round(rate, 4),
            "defects_not_inspected": self.not_inspected,
            "lines_in_gaps": self.lines_in_gaps,
        }


def evaluate(
    images: Sequence[str],
    masks: Path,
    good: Sequence[str],
    setup: Setup,
    runner: Runner,
    output: Path,
    components: bool = False,
) -> dict[str, Any]:
    """Writes metrics.json, curves.json, the plots, the contact sheet and index.html; returns the metrics.

    Args:
        images: images that each have a mask of the same name in `masks` (the ending may differ).
        good: more images, without defects.
        output: the folder to write to.
        components: also write components.png, luminance, contrast and structure apart.

    Raises:
        InputError: an image without a mask or one of another size, or masks without any defect.
    """
    known = _masks(masks)
    _require_defects(known.values(), masks)
    if output.exists():
        make_folder(output)  # before an hour of inspection, not after it
    counts = DefectCount()
    rows: list[SheetRow] = []
    panels: list[list[Panel]] = []
    images_seen = 0
    with PixelScores() as raw, PixelScores() as opened:
        for paths, has_mask in ((images, True), (good, False)):
            if not paths:
                continue
            for result in inspect_images(paths, setup, runner, components and has_mask):
                defect = _mask(known, result) if has_mask else np.zeros(result.score.shape, bool)
                inspected = np.isfinite(result.score)
                raw.add(np.where(inspected, result.score, 0), defect, ~inspected)
                opened.add(np.where(inspected, result.opened_score, 0), defect, ~inspected)
                counts.add(result, defect, inspected)
                images_seen += 1
                if len(rows) < SHEET_ROWS and defect.any():
                    rows.append(_row(result, defect, inspected))
                    panels += [_component_panels(result, defect)] if components else []
        metrics = _metrics(raw, opened, counts, setup, images_seen)
        make_folder(output)
        _write(output, metrics, raw, opened, rows, panels)
    return metrics


def _metrics(raw: PixelScores, opened: PixelScores, counts: DefectCount, setup: Setup, images: int) -> dict[str, Any]:
    """`…_opened` is of the grey-opened score, which is the paper's order: thresholded, then opened."""
    return {
        "auroc": raw.auroc(),
        "auroc_opened": opened.auroc(),
        "pro": raw.pro(),
        "pro_opened": opened.pro(),
        "overlap": _overlap(raw),
        "overlap_opened": _overlap(opened),
        "threshold": setup.settings.threshold,
        "at_threshold": counts.as_dict(),
        "images": images,
        "model": setup.bundle.path,
        "model_sha256": setup.bundle.sha256,
        "settings": setup.settings.model_dump(mode="json"),
    }


def _overlap(pixels: PixelScores) -> dict[str, dict[str, float]]:
    """Quartiles of the overlap for each of FPRS."""
    overlap = pixels.overlap_quantiles(FPRS)
    return {
        f"{fpr:g}": dict(zip(("q25", "q50", "q75"), map(float, column), strict=True))
        for fpr, column in zip(FPRS, overlap.overlap.T, strict=True)
    }


def _curves(pixels: PixelScores) -> dict[str, Any]:
    """What a figure of several models needs of one: ROC curve and overlap quantiles as lists."""
    roc, overlap = pixels.roc(), pixels.overlap_quantiles(CURVE_FPRS)
    return {
        "roc": {"fpr": roc.fpr.tolist(), "tpr": roc.tpr.tolist(), "thresholds": roc.thresholds.tolist()},
        "overlap": {
            "fpr": overlap.fpr.tolist(),
            "thresholds": overlap.thresholds.tolist(),
            "quantiles": overlap.quantiles.tolist(),
            "overlap": overlap.overlap.tolist(),
            "regions": overlap.regions,
        },
    }


def _write(
    output: Path,
    metrics: dict[str, Any],
    raw: PixelScores,
    opened: PixelScores,
    rows: Sequence[SheetRow],
    panels: Sequence[Sequence[Panel]],
) -> None:
    name = Path(metrics["model"]).stem
    plot_roc(
        output / "roc.png",
        {name: (raw.roc(), metrics["auroc"]), f"{name}, opened": (opened.roc(), metrics["auroc_opened"])},
    )
    plot_overlap(output / "overlap.png", raw.overlap_quantiles(CURVE_FPRS))
    write_atomically(output / "curves.json", json.dumps({"score": _curves(raw), "opened": _curves(opened)}).encode())
    pictures = [
        Picture(output / "roc.png", "ROC over all pixels of the set (paper, Fig. 6)."),
        Picture(output / "overlap.png", "Overlap of each defect with the segmentation (paper, Fig. 7)."),
    ]
    if rows:
        contact_sheet(output / "contact.png", rows)
        caption = "Input, reconstruction, score and segmentation; the ground truth is outlined in red (paper, Fig. 5)."
        pictures.append(Picture(output / "contact.png", caption))
    if panels:
        write_panels(output / "components.png", panels)
        caption = "1 − luminance, contrast, structure and SSIM, each in its own range (paper, Fig. 3)."
        pictures.append(Picture(output / "components.png", caption))
    shown = {key: value for key, value in metrics.items() if not key.startswith("overlap") and key != "settings"}
    report_page(output / "index.html", shown, pictures, title=f"Evaluation of {name}")
    # last, so that a metrics.json says that everything beside it is complete
    write_atomically(output / "metrics.json", json.dumps(metrics, indent=1).encode())


def shown_columns(defect: Mask) -> slice:
    """All columns of an image, or 512 of a long strip around its defects."""
    width = defect.shape[1]
    if width <= 2 * defect.shape[0]:
        return slice(0, width)
    middle = int(np.nonzero(defect.any(0))[0].mean())
    first = min(max(middle - 256, 0), max(width - 512, 0))
    return slice(first, first + 512)


def _component_panels(result: ImageResult, defect: Mask) -> list[Panel]:
    part = shown_columns(defect)
    image = result.frame.pixels
    assert image is not None
    grey = (image if image.ndim == 2 else image.mean(2))[:, part] / float(2**result.frame.bit_depth - 1)
    maps = [residual_panel(f"1 − {name}", result.components[name][:, part], defect[:, part]) for name in COMPONENTS]
    return [Panel(result.name, grey), Panel("reconstruction", result.reconstruction[:, part]), *maps]


def _row(result: ImageResult, defect: Mask, inspected: Mask) -> SheetRow:
    assert result.frame.pixels is not None
    part = shown_columns(defect)
    return SheetRow(
        result.name,
        result.frame.pixels[:, part],
        np.nan_to_num(result.reconstruction[:, part]),
        result.score[:, part],
        result.opened[:, part],
        defect[:, part],
        ~inspected[:, part],
    )


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: a folder of masks was expected")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")}


def _mask(known: dict[str, Path], result: ImageResult) -> Mask:
    stem = stem_of(result.name)
    path = known.get(stem) or known.get(f"{stem}_mask")
    if path is None:
        raise InputError(f"{result.name} has no mask: a file named {stem}.* was expected beside the other masks")
    mask = read_mask(path)
    if mask.shape != result.score.shape:
        raise InputError(
            f"{path}: the mask is {mask.shape[1]}×{mask.shape[0]}, its image {result.score.shape[1]}×"
            f"{result.score.shape[0]}"
        )
    return mask


def read_mask(path: Path) -> Mask:
    """H×W, True where the mask is not 0; raises InputError."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if mask is None:
        raise InputError(f"{path}: the mask cannot be read")
    return np.asarray(mask > 0)


def _require_defects(masks: Iterable[Path], folder: Path) -> None:
    """Before an hour of inspection, not after it."""
    if not any(read_mask(path).any() for path in masks):
        raise InputError(f"{folder}: no mask in it has a defect (a pixel above 0): there is nothing to measure against")


def _touches(region: Region, defect: Mask) -> bool:
    box = defect[region.first_line : region.last_line + 1, region.first_column : region.last_column + 1]
    return bool(box.any())
