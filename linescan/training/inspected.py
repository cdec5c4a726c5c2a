"""Images through the engine, each as a short roll: scores, segmentation and reconstruction in pixels of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linescan.errors import FootageError
from linescan.footage import FootageFrame, open_footage
from linescan.inspection import FinalBand, Footprint, Inspector
from linescan.messages import Region
from linescan.models.runner import Runner
from linescan.recipe import Setup, check_footage
from linescan.replay.roll import inspect_roll, is_final, stem_of
from linescan.training.calibrate import opened_map
from linescan.training.components import component_residuals

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class ImageResult:
    """One image after inspection; maps cover all of it, in pixels of the image, NaN where it was not inspected.

    `opened_score` is the grey opening of the score: above a threshold it is what `opened` is at that threshold.
    `components` holds 1 − luminance, contrast, structure and SSIM by name, where they were asked for.
    """

    name: str
    frame: FootageFrame
    score: Map
    opened_score: Map
    opened: Mask
    reconstruction: Map
    regions: tuple[Region, ...]
    lines_in_gaps: int = 0
    components: dict[str, Map] = field(default_factory=dict)


def inspect_images(
    paths: Sequence[str], setup: Setup, runner: Runner, components: bool = False
) -> Iterator[ImageResult]:
    """Inspects each image as a short roll of its own; raises FootageError where one cannot be read.

    With `components` the parts of SSIM come too, whatever the method's own residual.
    """
    with open_footage(list(paths)) as footage:
        check_footage(setup, footage.columns, footage.channels)
        for frame in footage:
            if frame.pixels is None:
                raise FootageError(f"{frame.name} {frame.error}: it cannot be evaluated")
            yield _inspect(frame, setup, runner, components)


def _inspect(frame: FootageFrame, setup: Setup, runner: Runner, components: bool) -> ImageResult:
    assert frame.pixels is not None
    height, width = frame.pixels.shape[:2]
    canvas = _Canvas(height, width, setup)
    inspector = Inspector(
        setup.settings,
        Footprint(width, frame.bit_depth, "evaluate", stem_of(frame.name)),
        runner,
        device=runner.device,
        calibration=setup.calibration,
        on_band=canvas.add,
    )
    regions: list[Region] = []
    result = inspect_roll(
        inspector,
        [frame],
        lambda finding: regions.append(finding) if isinstance(finding, Region) and is_final(finding) else None,
    )
    return ImageResult(
        Path(frame.name).name,
        frame,
        canvas.score,
        canvas.opened_score(),
        canvas.opened,
        canvas.reconstruction,
        tuple(regions),
        result.end.lines_in_gaps,
        canvas.component_maps() if components else {},
    )


class _Canvas:
    """The maps of one image, put together from final bands."""

    def __init__(self, height: int, width: int, setup: Setup) -> None:
        self._settings = setup.settings
        self._first_column = setup.settings.columns[0] if setup.settings.columns else 0
        self.score = np.full((height, width), np.nan, np.float32)
        self.reconstruction = np.full((height, width), np.nan, np.float32)
        self.opened = np.zeros((height, width), bool)
        self._segments: list[list[FinalBand]] = []  # for what looks over the borders of bands

    def add(self, final: FinalBand) -> None:
        band = final.band
        for whole, part in (
            (self.score, _score_of(final)),
            (self.reconstruction, band.reconstruction.mean(0).cpu().numpy()),
            (self.opened, band.opened.cpu().numpy()),
        ):
            self._paste(whole, part, final.first_line, final.end_line)
        if band.row == 0:
            self._segments.append([])
        self._segments[-1].append(final)

    def opened_score(self) -> Map:
        """Opened in scaled pixels and segment by segment, as the engine opens."""
        whole = np.full_like(self.score, np.nan)
        for finals in self._segments:
            score = np.concatenate([_score_of(final) for final in finals])
            if np.isfinite(score).any():
                self._paste(whole, opened_map(score), finals[0].first_line, finals[-1].end_line)
        return whole

    def component_maps(self) -> dict[str, Map]:
        maps: dict[str, Map] = {}
        for finals in self._segments:
            web = torch.cat([final.band.web for final in finals], 1)
            mean = torch.cat([final.band.reconstruction for final in finals], 1)
            for name, part in component_residuals(web, mean, self._settings.ssim).items():
                whole = maps.setdefault(name, np.full_like(self.score, np.nan))
                self._paste(whole, part, finals[0].first_line, finals[-1].end_line)
        return maps

    def _paste(self, whole: NDArray[Any], part: NDArray[Any], first_line: int, end_line: int) -> None:
        n = self._settings.scale
        wide = part.repeat(n, 0)[: end_line - first_line].repeat(n, 1)
        place = whole[first_line:end_line, self._first_column : self._first_column + wide.shape[1]]
        place[:] = wide[:, : place.shape[1]]


def _score_of(final: FinalBand) -> Map:
    """NaN where the band was not inspected."""
    band = final.band
    inspected = (band.inspected & ~band.faulty[:, None]).cpu().numpy()
    return np.where(inspected, band.score.cpu().numpy(), np.float32(np.nan))
