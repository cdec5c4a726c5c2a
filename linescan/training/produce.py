"""From a trained autoencoder to a bundle that can be used: threshold, column calibration, reference patch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from linescan import __version__
from linescan.config import Blend, InspectionSettings, VaeSettings
from linescan.errors import TrainingError
from linescan.files import write_atomically
from linescan.inspection.reference import finds_reference_defect
from linescan.models.bundle import Bundle, BundleMetadata, Reference, load_bundle, save_bundle
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import inspection_settings, save_calibration
from linescan.training.calibrate import (
    UNREACHABLE,
    FalseAlarms,
    Map,
    choose_threshold,
    column_calibration,
    column_profile_is_real,
    good_scores,
    opened_map,
    rate_at,
)
from linescan.training.dataset import GoodImages
from linescan.training.smoothing import choose_smoothing
from linescan.training.stride import StrideChoice, choose_stride, strides_for
from linescan.training.synthetic import reference_candidates
from linescan.training.train import Trainer
from linescan.training.trial import Trial


@dataclass(frozen=True)
class Recommendation:
    """How the trained model is to be used on the web; `--preset paper` or `default`."""

    stride: int | None  # None: measured with defects pasted into good web
    blend: Blend
    smoothing_sigma: float | None  # None: chosen by the same defects
    calibrate_columns: bool


PRESETS = {
    "paper": Recommendation(stride=30, blend="mean", smoothing_sigma=0.0, calibrate_columns=False),
    "default": Recommendation(stride=None, blend="hann", smoothing_sigma=None, calibrate_columns=True),
}


@dataclass(frozen=True)
class Produced:
    """What `produce` wrote, and how it came to the stride where it measured that."""

    bundle: Bundle
    recipe: Path | None
    stride: StrideChoice | None


def produce(
    trainer: Trainer, images: GoodImages, use: Recommendation, asked: FalseAlarms, output: Path, terms: str = ""
) -> Produced:
    """Calibrates on the held-out lines and writes the bundle, and a recipe where the web needs a column calibration."""
    metadata = _metadata(trainer, images, use, terms)
    # the threshold is found with the very file format and runner that will inspect
    bundle = _draft(trainer, metadata)
    runner = Runner(bundle, choose_execution(bundle, trainer.device.type))
    settings = inspection_settings(bundle, {}, str(output)).model_copy(update={"columns": None})
    settings, metrics, choice = _measured(images, settings, use, runner, asked)
    metadata = metadata.model_copy(
        update={
            "smoothing_sigma": settings.smoothing_sigma,
            "stride": settings.stride,
            "metrics": {**metadata.metrics, **metrics},
        }
    )
    rolls = [[lines] for lines in images.held_out_lines]
    maps = good_scores(rolls, settings, runner, images.bit_depth, runner.device)
    threshold, basis = choose_threshold(maps, metadata.scale, asked)
    settings = settings.model_copy(update={"threshold": threshold})
    patch, place = _reference(images, settings, runner, maps, asked)
    metadata = metadata.model_copy(update={"threshold": threshold, "threshold_basis": basis, "reference": place})
    save_bundle(output, trainer.model, metadata, patch)
    bundle = load_bundle(output)
    recipe = None
    if use.calibrate_columns and column_profile_is_real(maps):
        calibration = column_calibration(maps)
        scores = [calibration.apply(torch.from_numpy(score)).numpy() for score in maps]
        threshold, _ = choose_threshold(scores, metadata.scale, asked)
        columns = output.with_suffix(".columns.npz")
        save_calibration(columns, calibration, bundle.sha256, sum(map(len, maps)))
        settings = inspection_settings(bundle, {}, str(output))
        recipe = write_recipe(output.with_suffix(".toml"), bundle, threshold, columns, settings)
    return Produced(bundle, recipe, choice)


def _measured(
    images: GoodImages, settings: InspectionSettings, use: Recommendation, runner: Runner, asked: FalseAlarms
) -> tuple[InspectionSettings, dict[str, float], StrideChoice | None]:
    """The settings with σ and stride as well where these were left open, what was measured for it, and the strides.

    σ comes first, at the paper's stride or the one that was asked for: docs/decisions/013.
    """
    metrics: dict[str, float] = {}
    choice = None
    if use.smoothing_sigma is None or use.stride is None:
        trial = Trial(images, settings)
    if use.smoothing_sigma is None:
        sigma, metrics["pasted_defects_found"] = choose_smoothing(trial, settings, runner, asked)
        settings = settings.model_copy(update={"smoothing_sigma": sigma})
    if use.stride is None:
        choice = choose_stride(trial, settings, runner, use.calibrate_columns)
        metrics |= choice.metrics
        settings = settings.model_copy(update={"stride": choice.stride})
    return settings, metrics, choice


def _draft(trainer: Trainer, metadata: BundleMetadata) -> Bundle:
    """The bundle as it will be, but for what is still to be found."""
    side = metadata.patch_size * metadata.scale
    blank = np.zeros((side, side) if metadata.channels == 1 else (side, side, metadata.channels), np.uint8)
    with tempfile.TemporaryDirectory(prefix="linescan-") as folder:
        path = Path(folder) / "draft.pt"
        save_bundle(path, trainer.model, metadata, blank)
        return load_bundle(path)


def write_recipe(
    path: Path, bundle: Bundle, threshold: float, calibration: Path | None, settings: InspectionSettings
) -> Path:
    """Writes a recipe that pins the bundle; both files are named relative to it."""
    text = f'[model]\nfile = {_relative(Path(bundle.path), path)}\nsha256 = "{bundle.sha256}"\n\n'
    text += f"[inspection]\nthreshold = {threshold!r}\nstride = {settings.stride}\n"
    if settings.columns is not None:
        text += f"columns = [{settings.columns[0]}, {settings.columns[1]}]\n"
    if calibration is not None:
        text += f"\n[calibration]\nfile = {_relative(calibration, path)}\n"
    write_atomically(path, text.encode())
    return path


def _relative(path: Path, recipe: Path) -> str:
    """The path from the recipe's folder, so that both can move together, as a TOML string.

    What JSON escapes and DEL are escaped, the rest stands for itself.
    """
    shown = Path(os.path.relpath(path.resolve(), recipe.resolve().parent)).as_posix()
    return json.dumps(shown, ensure_ascii=False).replace("\x7f", "\\u007f")


def _metadata(trainer: Trainer, images: GoodImages, use: Recommendation, terms: str) -> BundleMetadata:
    settings, last = trainer.settings, trainer.history[-1]
    return BundleMetadata(
        method=settings.method,
        channels=1 if trainer.model.channels == 1 else 3,
        patch_size=settings.patch_size,
        latent_dim=settings.latent_dim,
        scale=settings.scale,
        stride=use.stride or strides_for(settings.patch_size)[0],
        threshold=UNREACHABLE,
        blend=use.blend,
        smoothing_sigma=use.smoothing_sigma or 0.0,
        ssim=settings.ssim,
        vae=_vae(trainer),
        band=images.band,
        columns=settings.columns,
        reference=Reference(first_line=0, last_line=0, first_column=0, last_column=0),
        training=settings,
        training_sha256=images.fingerprint,
        metrics={
            "epochs": last.number,
            "loss": last.loss,
            "validation_loss": last.validation_loss,
            "correlation": last.correlation,
            "contrast": last.contrast,
            "latent_used": last.latent_used,
        },
        terms=terms,
        version=__version__,
    )


def _vae(trainer: Trainer) -> VaeSettings | None:
    if trainer.settings.method != "vae":
        return None
    return VaeSettings(samples=trainer.settings.samples, noise_variance=trainer.noise_variance())


def _reference(
    images: GoodImages, settings: InspectionSettings, runner: Runner, maps: Sequence[Map], asked: FalseAlarms
) -> tuple[NDArray[np.uint8], Reference]:
    """A patch of good web with a pasted defect that the model finds at the settings' threshold."""
    side = settings.patch_size * settings.scale
    peak = 0.0
    for patch, place in reference_candidates(images.held_out_lines[0], images.bit_depth, side):
        where = (place.first_line, place.last_line, place.first_column, place.last_column)
        if finds_reference_defect(settings, runner, patch, where, runner.device):
            return patch, place
        score = opened_map(good_scores([[patch]], settings, runner, 8, runner.device)[0])
        inside = score[where[0] // settings.scale : where[1] // settings.scale + 1]
        peak = max(peak, float(inside[:, where[2] // settings.scale : where[3] // settings.scale + 1].max()))
    possible = rate_at(maps, settings.scale, peak * 0.98, asked)
    reach = f"at {possible:.3g} per {asked.unit}" if possible else f"at {peak * 0.98:.3f}, above all of this good web,"
    raise TrainingError(
        f"at threshold {settings.threshold:.3f}, for {asked.rate:g} false alarms per {asked.unit}, the model sees none "
        f"of the defects pasted into good web; {reach} it would. The checkpoint is kept: "
        "ask for a higher --false-alarms rate, train longer, or calibrate on more good web"
    )
