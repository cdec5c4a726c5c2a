"""What one would take instead, measured in turns with linescan's own over the same pixels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from linescan.bench import libraries
from linescan.bench.naive import naive_inspection
from linescan.bench.web import Web
from linescan.bench.whole import inspect
from linescan.config import InspectionSettings, SsimSettings
from linescan.inspection.residual import residual
from linescan.inspection.ssim import gaussian_weights, smooth
from linescan.models.runner import Execution, Runner
from linescan.recipe import Setup

ROUNDS = 3
LINES = 512  # of the web that is compared: the naive loop takes seconds for it
HOW_TO_INSTALL = "pip install 'linescan[bench]'"
HOW_TO_INSTALL_ANOMALIB = "pip install anomalib, with a torchvision built for this torch"


@dataclass(frozen=True)
class Rival:
    """One way of doing a job: `megapixels_per_second` as median, None with the reason in `missing`.

    `ours` is how many times as fast linescan was in the same rounds.
    """

    job: str
    name: str
    megapixels_per_second: float | None
    ours: float | None
    missing: str = ""


# Gives what is to be timed; raises libraries.NotInstalledError.
Make = Callable[[], Callable[[], object]]


def compare(setup: Setup, execution: Execution, stride: int, asked: Web, others: bool = True) -> list[Rival]:
    """The whole inspection beside the naive loop; with `others` also SSIM maps of libraries, and anomalib's models.

    Of the web only the first LINES lines. Where the web is less than a tile of anomalib's it is left out.
    """
    asked = replace(asked, lines=min(asked.lines, LINES))
    raw = np.concatenate(list(asked.frames(setup.bundle)))
    runner = Runner(setup.bundle, execution)
    inspection: tuple[str, Make] = ("linescan, whole", partial(partial, inspect, setup, runner, stride, asked))
    settings = setup.settings.model_copy(update={"stride": stride, "columns": None})
    grey = torch.from_numpy(np.ascontiguousarray(raw if raw.ndim == 2 else raw[..., 0])).float() / 255
    naive: Make = partial(partial, naive_inspection, setup.bundle.module(), raw, settings)
    result = _in_turns(
        f"inspection at stride {stride}", asked.pixels, inspection, [("one patch at a time, float32", naive, "")]
    )
    if not others:
        return result
    result += _ssim_maps(grey)
    if min(grey.shape) >= libraries.TILE:
        anomalib: list[tuple[str, Make, str]] = [
            ("anomalib PaDiM, ResNet-18, float32", partial(libraries.padim, grey), HOW_TO_INSTALL_ANOMALIB),
            ("anomalib EfficientAD small, float32", partial(libraries.efficient_ad, grey), HOW_TO_INSTALL_ANOMALIB),
        ]
        result += _in_turns("another model over the same pixels", asked.pixels, inspection, anomalib)
    return result


def _ssim_maps(grey: Tensor) -> list[Rival]:
    """SSIM maps of the web and a smoothed copy of it, which stands for the reconstruction."""
    weights = gaussian_weights(2.0, 6)
    blurred = smooth(torch.nn.functional.pad(grey[None], [6] * 4, mode="reflect"), weights)[0]
    result = []
    for gaussian in (False, True):
        ssim = SsimSettings(kind="gaussian" if gaussian else "uniform")
        own: tuple[str, Make] = ("linescan", partial(partial, _own_map, grey, blurred, ssim))
        rivals: list[tuple[str, Make, str]] = [
            ("scikit-image", partial(libraries.skimage_ssim, grey, blurred, gaussian), HOW_TO_INSTALL)
        ]
        if gaussian:
            rivals += [
                ("pytorch-msssim", partial(libraries.msssim_ssim, grey, blurred), HOW_TO_INSTALL),
                ("kornia", partial(libraries.kornia_ssim, grey, blurred), HOW_TO_INSTALL),
            ]
        result += _in_turns(f"SSIM map, 11×11 {ssim.kind}", grey.numel(), own, rivals)
    return result


def _own_map(web: Tensor, reconstruction: Tensor, ssim: SsimSettings) -> Tensor:
    """As the engine computes it, at every pixel of H×W images."""
    reach = ssim.window // 2
    x, y = (torch.nn.functional.pad(one[None], [0, 0, reach, reach], mode="reflect") for one in (web, reconstruction))
    return residual(x, y, InspectionSettings(ssim=ssim, threshold=0), reflecting=True)


def _in_turns(job: str, pixels: int, own: tuple[str, Make], rivals: list[tuple[str, Make, str]]) -> list[Rival]:
    ways: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    for name, make, how in [(own[0], own[1], ""), *rivals]:
        try:
            ways[name] = make()
        except libraries.NotInstalledError as error:
            missing[name] = f"{error}: {how}"
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():  # what they make at their first call is not measured
        run()
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return list(_rated(job, pixels, own[0], [own[0], *(name for name, _, _ in rivals)], seconds, missing))


def _rated(
    job: str, pixels: int, own: str, names: list[str], seconds: dict[str, list[float]], missing: dict[str, str]
) -> Iterator[Rival]:
    for name in names:
        if name in missing:
            yield Rival(job, name, None, None, missing[name])
            continue
        rate = pixels / statistics.median(seconds[name]) / 1e6
        times = statistics.median(theirs / ours for theirs, ours in zip(seconds[name], seconds[own], strict=True))
        yield Rival(job, name, round(rate, 3), round(times, 2))
