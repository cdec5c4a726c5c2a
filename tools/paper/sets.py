"""The image sets: what is trained on, what is tested on, and how they are looked at."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from linescan.errors import InputError

FABRIC_COLUMNS = 512, 4096  # of AITEX's strips: table and selvage lie before
NATURAL = (".png", ".jpg", ".tif", ".bmp")


@dataclass(frozen=True)
class ImageSet:
    """One set on disk; all paths exist. `good` are test images without a defect."""

    name: str
    title: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    good: tuple[Path, ...]
    masks: Path
    latent_dim: int = 100
    scale: int = 1
    columns: tuple[int, int] | None = None
    terms: str = ""
    note: str = ""

    def limited(self, count: int | None) -> ImageSet:
        """With only the first `count` defective and good test images."""
        return self if count is None else replace(self, test=self.test[:count], good=self.good[:count])


def nanotwice(data: Path) -> ImageSet:
    """The paper's own set, with its d = 500."""
    root = data / "nanotwice"
    return ImageSet(
        "nanotwice", "NanoTWICE", images(root / "train/good"), images(root / "test/defect"), (), root / "ground_truth",
        latent_dim=500, terms="trained on NanoTWICE (Carrera et al. 2017): research use, cite the paper",
    )  # fmt: skip


def grid(data: Path, size: int) -> ImageSet:
    """MVTec AD grid in place of the paper's woven fabrics, at 256 (scaled down as in §4.2) or 512 pixels."""
    root = data / "mvtec_grid_512"
    return ImageSet(
        f"grid{size}", f"MVTec AD grid at {size}", images(root / "train/good"), images(root / "test/defect"),
        images(root / "test/good"), root / "ground_truth", scale=512 // size,
        terms="trained on MVTec AD grid: CC BY-NC-SA 4.0, not for commercial use",
        note="its good test images are former training images of MVTec AD, none of which was trained on here",
    )  # fmt: skip


def aitex(data: Path) -> ImageSet:
    """Columns of pure fabric; the defect strips with a white backdrop, since the others show another texture."""
    root = data / "aitex_f02"
    with _opened(root / "defects.csv") as file:
        white = {row["image"] for row in csv.DictReader(file) if row["backdrop"] == "white"}
    strips = tuple(path for path in images(root / "test/defect") if path.stem in white)
    return ImageSet(
        "aitex", "AITEX fabric 02", images(root / "train/good"), strips, images(root / "test/good"),
        root / "ground_truth", columns=FABRIC_COLUMNS, terms="trained on AITEX AFID: no licence stated, research use",
        note=f"from column {FABRIC_COLUMNS[0]} on, the {len(strips)} defect strips with a white backdrop",
    )  # fmt: skip


def images(folder: Path) -> tuple[Path, ...]:
    """Image files of a folder in name order; raises InputError where there are none."""
    found = tuple(sorted(path for path in folder.glob("*") if path.suffix.lower() in NATURAL))
    if not found:
        raise InputError(f"{folder}: images were expected there (is --data the folder of the sets?)")
    return found


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
