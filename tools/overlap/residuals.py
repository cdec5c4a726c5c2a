"""Other residuals from the same kind of forwards, beside the engine's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import InspectionSettings
from linescan.models.runner import Execution, Runner
from linescan.training.metrics import PixelScores
from overlap.passes import Patches, all_patches, blended, residual_of, smoothed, weighted_mean
from overlap.sets import Web, WebSet

OWN = "reconstructions averaged, stride 64"
STRIDE, OTHERS = 64, (90, 112)  # the two of the ensemble together do five sixths of the work of the first
BATCH = 32
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def runner_of(webs: WebSet, precision: str | None = None) -> Runner:
    """In bfloat16, as the figures are, unless another precision is asked for."""
    return Runner(webs.setup.bundle, Execution("cpu", precision or "bfloat16", BATCH, torch.get_num_threads()))  # type: ignore[arg-type]


def residuals(web: Tensor, settings: InspectionSettings, runner: Runner) -> Iterator[tuple[str, Tensor]]:
    """1×H×W web → each way's name and residual, H×W, not smoothed yet."""

    def forward(patches: Tensor) -> tuple[Tensor, Tensor]:
        return patches.new_zeros(len(patches), 1), runner(patches)

    patches = all_patches(web, settings.patch_size, STRIDE, forward)
    mean = blended(patches, 1, "hann")
    own = residual_of(web, mean, settings)
    yield OWN, own
    yield "residuals averaged instead of reconstructions", averaged(web, patches, settings)
    others = []
    for stride in OTHERS:
        apart = all_patches(web, settings.patch_size, stride, forward)
        others.append(residual_of(web, blended(apart, 1, "hann"), settings))
        yield f"stride {stride}", others[-1]
    names = " and ".join(map(str, OTHERS))
    yield f"mean of strides {names}", torch.stack(others).mean(0)
    yield f"lower of strides {names}", torch.stack(others).amin(0)
    yield "Gaussian window of 11", residual_of(web, mean, _windowed(settings, kind="gaussian", window=11))
    for window in (7, 21):
        yield f"uniform window of {window}", residual_of(web, mean, _windowed(settings, kind="uniform", window=window))
    half = _enlarged(residual_of(_halved(web), _halved(mean), settings), web)
    yield "at half the size", half
    yield "mean of both sizes", (own + half) / 2
    yield "times the absolute error", own * (web - mean)[0].abs()


def averaged(web: Tensor, patches: Patches, settings: InspectionSettings) -> Tensor:
    """Each patch's own residual, windows reflected at its borders, blended as reconstructions are: H×W."""

    def own(line: int, reconstructions: Tensor) -> Tensor:
        band = web[:, line : line + patches.size]
        pairs = zip(patches.columns, reconstructions.float(), strict=True)
        return torch.stack(
            [residual_of(band[..., column : column + patches.size], one, settings)[None] for column, one in pairs]
        )

    rows = (own(*row) for row in zip(patches.lines, patches.reconstructions, strict=True))
    return weighted_mean(patches, 1, "hann", rows)[0]


class Judged:
    """AUROC and PRO of every way and σ over the webs of a set; without column calibration."""

    def __init__(self, settings: InspectionSettings, sigmas: list[float]) -> None:
        self._settings, self._sigmas = settings, sigmas
        self._pixels: dict[tuple[str, float], PixelScores] = {}

    def add(self, web: Web, runner: Runner) -> None:
        for name, residual in residuals(web.pixels, self._settings, runner):
            for sigma in self._sigmas:
                score: NDArray[np.float32] = smoothed(residual, sigma).numpy()
                self._pixels.setdefault((name, sigma), PixelScores()).add(score, web.defect)

    def table(self) -> str:
        lines = ["| way | " + " | ".join(f"σ = {sigma:g}" for sigma in self._sigmas) + " |"]
        lines.append("|---" * (1 + len(self._sigmas)) + "|")
        for name in dict.fromkeys(name for name, _ in self._pixels):
            ways = [self._pixels[name, sigma] for sigma in self._sigmas]
            cells = [f"{one.auroc():.4f}, {one.pro():.4f}" for one in ways]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        for one in self._pixels.values():
            one.close()


def _windowed(settings: InspectionSettings, **changes: object) -> InspectionSettings:
    return settings.model_copy(update={"ssim": settings.ssim.model_copy(update=changes)})


def _halved(maps: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(maps[None], 2, ceil_mode=True)[0]


def _enlarged(residual: Tensor, web: Tensor) -> Tensor:
    doubled = torch.nn.functional.interpolate(residual[None, None], scale_factor=2, mode="bilinear")[0, 0]
    return doubled[: web.shape[-2], : web.shape[-1]]
