"""Scores a model on images with ground truth, through the same engine as the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from linescan.errors import FootageError, InputError
from linescan.files import make_folder, write_atomically
from linescan.footage import FootageFrame, open_footage
from linescan.inspection import FinalBand, Footprint, Inspector
from linescan.messages import Region
from linescan.models.runner import Runner
from linescan.recipe import Setup, check_footage
from linescan.replay.roll import inspect_roll, is_final, stem_of
from linescan.training.contact_sheet import SheetRow, contact_sheet
from linescan.training.metrics import PixelScores
from linescan.training.plots import Picture, plot_overlap, plot_roc, report_page

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]
FPRS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
SHEET_ROWS = 8


@dataclass(frozen=True)
class ImageResult:
    """One image after inspection; maps cover all of it, in pixels of the image, NaN where it was not inspected."""

    name: str
    frame: FootageFrame
    score: Map
    opened: Mask
    reconstruction: Map
    regions: tuple[Region, ...]


@dataclass
class DefectCount:
    """What a person would count at the threshold: defects found, and regions on good web."""

    defects: int = 0
    found: int = 0
    false_regions: int = 0
    megapixels: float = 0.0
    overlap: list[float] = field(default_factory=list)

    def add(self, result: ImageResult, defect: Mask, inspected: Mask) -> None:
        """Counts one image: a defect is found where any opened pixel lies on it; a region is false that is on none."""
        count, labels = cv2.connectedComponents((defect & inspected).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            share = float(result.opened[labels == label].mean())
            self.defects += 1
            self.found += share > 0
            self.overlap.append(share)
        self.false_regions += sum(not _touches(region, defect) for region in result.regions)
        self.megapixels += float(inspected.sum()) / 1e6

    def as_dict(self) -> dict[str, float]:
        rate = self.false_regions / self.megapixels if self.megapixels else 0.0
        return {
            "defects": self.defects,
            "found": self.found,
            "false_regions": self.false_regions,
            "false_regions_per_megapixel": round(rate, 4),
        }


def inspect_images(paths: Sequence[str], setup: Setup, runner: Runner) -> Iterator[ImageResult]:
    """Inspects each image as a short roll of its own; raises FootageError where one cannot be read."""
    with open_footage(list(paths)) as footage:
        check_footage(setup, footage.columns, footage.channels)
        for frame in footage:
            if frame.pixels is None:
                raise FootageError(f"{frame.name} {frame.error}: it cannot be evaluated")
            yield _inspect(frame, setup, runner)


def _inspect(frame: FootageFrame, setup: Setup, runner: Runner) -> ImageResult:
    assert frame.pixels is not None
    height, width = frame.pixels.shape[:2]
    n = setup.settings.scale
    first_column = setup.settings.columns[0] if setup.settings.columns else 0
    score = np.full((height, width), np.nan, np.float32)
    reconstruction = np.full((height, width), np.nan, np.float32)
    opened = np.zeros((height, width), bool)

    def on_band(final: FinalBand) -> None:
        band, lines = final.band, slice(final.first_line, final.end_line)
        inspected = (band.inspected & ~band.faulty[:, None]).cpu().numpy()
        for whole, part in (
            (score, np.where(inspected, band.score.cpu().numpy(), np.nan)),
            (reconstruction, band.reconstruction.mean(0).cpu().numpy()),
            (opened, band.opened.cpu().numpy()),
        ):
            wide = part.repeat(n, 0)[: final.end_line - final.first_line].repeat(n, 1)
            place = whole[lines, first_column : first_column + wide.shape[1]]
            place[:] = wide[:, : place.shape[1]]

    inspector = Inspector(
        setup.settings,
        Footprint(width, frame.bit_depth, "evaluate", stem_of(frame.name)),
        runner,
        device=runner.device,
        calibration=setup.calibration,
        on_band=on_band,
    )
    regions: list[Region] = []
    inspect_roll(
        inspector,
        [frame],
        lambda finding: regions.append(finding) if isinstance(finding, Region) and is_final(finding) else None,
    )
    return ImageResult(Path(frame.name).name, frame, score, opened, reconstruction, tuple(regions))


def evaluate(
    images: Sequence[str], masks: Path, good: Sequence[str], setup: Setup, runner: Runner, output: Path
) -> dict[str, Any]:
    """Writes metrics.json, the plots, the contact sheet and index.html to `output`; returns the metrics.

    Args:
        images: images that each have a mask of the same name in `masks` (the ending may differ).
        good: more images, without defects.
    """
    known = _masks(masks)
    counts = DefectCount()
    rows: list[SheetRow] = []
    images_seen = 0
    with PixelScores() as pixels:
        for paths, has_mask in ((images, True), (good, False)):
            if not paths:
                continue
            for result in inspect_images(paths, setup, runner):
                defect = _mask(known, result) if has_mask else np.zeros(result.score.shape, bool)
                inspected = np.isfinite(result.score)
                pixels.add(np.where(inspected, result.score, 0), defect, ~inspected)
                counts.add(result, defect, inspected)
                images_seen += 1
                if len(rows) < SHEET_ROWS and defect.any():
                    rows.append(_row(result, defect, inspected))
        metrics = _metrics(pixels, counts, setup, images_seen)
        make_folder(output)
        _write(output, metrics, pixels, rows)
    return metrics


def _metrics(pixels: PixelScores, counts: DefectCount, setup: Setup, images: int) -> dict[str, Any]:
    overlap = pixels.overlap_quantiles(FPRS)
    at_fpr = {
        f"{fpr:g}": dict(zip(("q25", "q50", "q75"), map(float, column), strict=True))
        for fpr, column in zip(FPRS, overlap.overlap.T, strict=True)
    }
    return {
        "auroc": pixels.auroc(),
        "pro": pixels.pro(),
        "overlap": at_fpr,
        "threshold": setup.settings.threshold,
        "at_threshold": counts.as_dict(),
        "images": images,
        "model": setup.bundle.path,
        "model_sha256": setup.bundle.sha256,
        "settings": setup.settings.model_dump(mode="json"),
    }


def _write(output: Path, metrics: dict[str, Any], pixels: PixelScores, rows: Sequence[SheetRow]) -> None:
    name = Path(metrics["model"]).stem
    plot_roc(output / "roc.png", {name: (pixels.roc(), metrics["auroc"])})
    plot_overlap(output / "overlap.png", pixels.overlap_quantiles(tuple(np.geomspace(0.001, 0.3, 40))))
    pictures = [
        Picture(output / "roc.png", "ROC over all pixels of the set (paper, Fig. 6)."),
        Picture(output / "overlap.png", "Overlap of each defect with the segmentation (paper, Fig. 7)."),
    ]
    if rows:
        contact_sheet(output / "contact.png", rows)
        caption = "Input, reconstruction, score and segmentation; the ground truth is outlined in red (paper, Fig. 5)."
        pictures.append(Picture(output / "contact.png", caption))
    shown = {key: value for key, value in metrics.items() if key not in ("overlap", "settings")}
    report_page(output / "index.html", shown, pictures, title=f"Evaluation of {name}")
    # last, so that a metrics.json says that everything beside it is complete
    write_atomically(output / "metrics.json", json.dumps(metrics, indent=1).encode())


def _row(result: ImageResult, defect: Mask, inspected: Mask) -> SheetRow:
    """The image, or 512 columns of a long strip around its first defect."""
    assert result.frame.pixels is not None
    width = defect.shape[1]
    middle = int(np.nonzero(defect.any(0))[0].mean())
    first = 0 if width <= 2 * defect.shape[0] else min(max(middle - 256, 0), max(width - 512, 0))
    part = slice(first, width if width <= 2 * defect.shape[0] else first + 512)
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
    data = np.frombuffer(path.read_bytes(), np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if mask is None:
        raise InputError(f"{path}: the mask cannot be read")
    if mask.shape != result.score.shape:
        raise InputError(
            f"{path}: the mask is {mask.shape[1]}×{mask.shape[0]}, its image {result.score.shape[1]}×"
            f"{result.score.shape[0]}"
        )
    return np.asarray(mask > 0)


def _touches(region: Region, defect: Mask) -> bool:
    box = defect[region.first_line : region.last_line + 1, region.first_column : region.last_column + 1]
    return bool(box.any())
