"""Bundle, recipe and arguments brought together: what one inspection runs with."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linescan.config import NO_GEOMETRY, Geometry, InspectionSettings, Lane, Recipe, Strip, checked, load_toml
from linescan.errors import ConfigError, FootageError, InputError, InspectionError
from linescan.files import write_atomically
from linescan.flatfield_file import StoredFlatField
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.patches import anchors
from linescan.inspection.reference import finds_reference_defect
from linescan.inspection.strips import columns_of, strips_of
from linescan.models.bundle import Bundle, load_bundle
from linescan.models.runner import Runner


@dataclass(frozen=True)
class Setup:
    """What decides an inspection's result, apart from how the model is run."""

    bundle: Bundle
    settings: InspectionSettings
    calibration: ColumnCalibration | None
    recipe: str  # the recipe's name, for the events
    geometry: Geometry = NO_GEOMETRY
    flatfield: StoredFlatField | None = None

    @property
    def pinned(self) -> dict[str, Any]:
        """What a `roll_start` says of it."""
        return {
            "model_sha256": self.bundle.sha256,
            "inspection": self.settings.model_dump(mode="json"),
            "geometry": self.geometry.model_dump(mode="json"),
            **({} if self.flatfield is None else {"flatfield": self.flatfield.pinned}),
            **({} if self.calibration is None else {"calibration_sha256": self.calibration.sha256}),
        }


def load_setup(
    model: Path | None = None,
    recipe: Path | None = None,
    *,
    stride: int | None = None,
    threshold: float | None = None,
    columns: tuple[int, int] | None = None,
    pinned: bool = False,
    geometry: Geometry | None = None,
    flatfield: StoredFlatField | None = None,
) -> Setup:
    """Loads a bundle, by itself or through a recipe; arguments win over the recipe, the recipe over the bundle.

    A threshold given wins over those of the recipe's lanes too.
    `pinned` refuses a recipe that does not name the bundle's sha256: TorchScript is code. A recipe with sizes in mm
    needs the `geometry` of the camera.
    """
    product = load_toml(recipe, Recipe) if recipe is not None else None
    if pinned and (product is None or product.model.sha256 is None):
        raise ConfigError(f"{recipe}: model.sha256 is missing: a live line runs no bundle that is not pinned")
    bundle = _bundle(model, recipe, product)
    asked = product.inspection.model_dump(exclude_none=True) if product else {}
    given = {"stride": stride, "threshold": threshold, "columns": columns}
    asked.update({key: value for key, value in given.items() if value is not None})
    calibration = None
    if product and recipe and product.calibration:
        with _named_by(recipe, "calibration.file", product.calibration.file):
            calibration = load_calibration(recipe.parent / product.calibration.file, bundle)
        if "threshold" not in asked:
            raise ConfigError(
                f"{recipe}: inspection.threshold is missing: with a column calibration the score has another unit "
                "than the bundle's threshold"
            )
    if product and recipe:
        asked |= _placed(product, geometry or NO_GEOMETRY, recipe, own_thresholds=threshold is None)
    name = recipe.stem if recipe else Path(bundle.path).stem
    settings = inspection_settings(bundle, asked, str(recipe or bundle.path))
    return Setup(bundle, settings, calibration, name, geometry or NO_GEOMETRY, flatfield)


def _placed(product: Recipe, geometry: Geometry, recipe: Path, own_thresholds: bool) -> dict[str, Any]:
    """Selvage, lanes (with or without thresholds of their own), masks and classes as this camera has them.

    Raises ConfigError for what is in mm where the geometry does not say how large a pixel is.
    """

    def columns(strip: Strip, key: str) -> tuple[int, int] | None:
        try:
            return columns_of(strip, geometry)
        except ValueError as error:
            raise ConfigError(f"{recipe}: {key}: {error}") from error

    lanes = []
    for lane in product.lanes:
        place = columns(lane, f"lane {lane.name!r}")
        if place is not None:
            own = lane.threshold if own_thresholds else None
            lanes.append(Lane(name=lane.name, first_column=place[0], end_column=place[1], threshold=own))
    masks = [columns(mask, f"masks.{number}") for number, mask in enumerate(product.masks)]
    _check_classes(product, geometry, recipe)
    return {
        "selvage": product.selvage, "lanes": tuple(lanes), "masks": tuple(filter(None, masks)),
        "classes": product.classes,
    }  # fmt: skip


def _check_classes(product: Recipe, geometry: Geometry, recipe: Path) -> None:
    along, across = geometry.mm_per_line is not None, geometry.mm_per_column is not None
    known = {"min_length_mm": along, "min_width_mm": across, "min_area_mm2": along and across}
    for one in product.classes:
        for key, is_known in known.items():
            if getattr(one, key) is not None and not is_known:
                raise ConfigError(
                    f"{recipe}: class {one.name!r}: {key} needs a line whose camera has mm_per_column and an encoder, "
                    "with counts_per_mm in [web]; elsewhere sizes are in px"
                )


def check_footage(setup: Setup, columns: int, channels: int) -> None:
    """Raises FootageError or ConfigError where footage of so many columns and channels cannot be inspected so."""
    settings, name = setup.settings, setup.bundle.path
    if channels != settings.channels:
        raise FootageError(f"the footage has {channels} channels, {name} was trained on {settings.channels}")
    first, end = settings.columns or (0, columns)
    if end > columns:
        raise ConfigError(f"columns {first}:{end} are asked for, the footage has {columns}")
    width = -(-(end - first) // settings.scale)
    if setup.calibration is not None and len(setup.calibration.mean) != width:
        raise ConfigError(
            f"columns {first}:{end} are {width} after scaling, the recipe's column calibration is for "
            f"{len(setup.calibration.mean)}; run `linescan calibrate` again"
        )
    inspected = strips_of(settings, slice(first, end)).inspected
    if inspected is not None and not bool(inspected.any()):
        raise ConfigError(f"{setup.recipe}: masks: nothing of columns {first}:{end} is left to be inspected")


def patches_a_row(settings: InspectionSettings, columns: int) -> int:
    """Patches of one row of the grid over a web of so many columns."""
    first, end = settings.columns or (0, columns)
    width = max(-(-(end - first) // settings.scale), settings.patch_size)
    return len(anchors(width, settings.patch_size, settings.stride))


def self_check(setup: Setup, runner: Runner) -> None:
    """Raises InspectionError where the model does not find the planted defect of its reference patch."""
    bundle = setup.bundle
    place = bundle.metadata.reference
    where = (place.first_line, place.last_line, place.first_column, place.last_column)
    # a recipe's threshold may be in the calibrated score's unit, so the check uses the bundle's own where there is one
    threshold = max(setup.settings.thresholds) if setup.calibration is None else bundle.metadata.threshold
    settings = setup.settings.model_copy(update={"threshold": threshold})
    if not finds_reference_defect(settings, runner, bundle.reference, where, runner.device):
        raise InspectionError(
            f"self-check: {bundle.path} at threshold {settings.threshold:g} does not find the defect of its own "
            "reference patch; nothing that it passes can be trusted"
        )


def inspection_settings(bundle: Bundle, asked: dict[str, Any], origin: str) -> InspectionSettings:
    """The bundle's settings with what was asked for on top; raises ConfigError naming `origin`."""
    meta = bundle.metadata
    fixed = {
        "method": meta.method,
        "ssim": meta.ssim,
        **({} if meta.vae is None else {"noise_variance": meta.vae.noise_variance}),
        "channels": meta.channels,
        "patch_size": meta.patch_size,
        "scale": meta.scale,
        "blend": meta.blend,
        "smoothing_sigma": meta.smoothing_sigma,
        "band": meta.band,
    }
    chosen = {"stride": meta.stride, "threshold": meta.threshold, "columns": meta.columns}
    return checked(InspectionSettings, origin, **{**chosen, **asked, **fixed})


def _bundle(model: Path | None, recipe: Path | None, product: Recipe | None) -> Bundle:
    if product is None or recipe is None:
        if model is None:
            raise ConfigError("a model is needed: --model M.pt, or --recipe R.toml that names one")
        return load_bundle(model)
    if model is not None:  # it must still be the one that the recipe pins
        return load_bundle(model, product.model.sha256)
    with _named_by(recipe, "model.file", product.model.file):
        return load_bundle(recipe.parent / product.model.file, product.model.sha256)


@contextmanager
def _named_by(recipe: Path, key: str, name: str) -> Iterator[None]:
    """Where the file is not there: says what its path is relative to."""
    try:
        yield
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError) or Path(name).is_absolute():
            raise
        folder = recipe.parent.absolute()
        raise type(error)(f"{error} ({key} = {name!r} in {recipe.name} is relative to {folder})") from error.__cause__


def save_calibration(path: Path, calibration: ColumnCalibration, bundle_sha256: str, lines: int) -> None:
    """Writes the column calibration as .npz, with the bundle it belongs to."""
    about = json.dumps({"format": 1, "bundle_sha256": bundle_sha256, "lines": lines})
    buffer = io.BytesIO()
    np.savez(buffer, mean=calibration.mean, deviation=calibration.deviation, about=np.array(about))
    write_atomically(path, buffer.getvalue())


def load_calibration(path: Path, bundle: Bundle) -> ColumnCalibration:
    """Reads a column calibration; raises InputError where it is damaged or made with another bundle."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            made_with = json.loads(str(arrays["about"]))["bundle_sha256"]
            mean, deviation = arrays["mean"].astype(np.float32), arrays["deviation"].astype(np.float32)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a file that is not theirs
        raise InputError(f"{path}: not a column calibration: {error}") from error
    finite = bool(np.isfinite(mean).all() and np.isfinite(deviation).all())
    if mean.ndim != 1 or mean.shape != deviation.shape or not finite or not (deviation > 0).all():
        raise InputError(f"{path}: a mean and a positive deviation for each column were expected")
    if made_with != bundle.sha256:
        raise InputError(f"{path}: was made with another bundle than {bundle.path}; run `linescan calibrate` again")
    return ColumnCalibration(mean, deviation)
