"""The method written down plainly: a segment whole in memory, one patch and one pixel row after another.

It shares with the engine neither the streaming nor the code of grid, opening and labelling. With `exact=True` SSIM and
Gaussian come from `linescan.inspection.ssim`, since only the same additions in the same order give the same bits; with
`exact=False` they are computed here, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from linescan.config import InspectionSettings, Selvage, SsimSettings
from linescan.inspection import residual as engine
from linescan.inspection.calibration import ColumnCalibration

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Model = Callable[[torch.Tensor], torch.Tensor]

DISC = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
ABSURD = 1e4
OPENING_REACH = 3


@dataclass(frozen=True)
class Whole:
    """All of a segment: score, opened mask and rows that the model could not judge, in scaled pixels."""

    reconstruction: Floats
    score: Floats
    opened: Mask
    faulty: NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """One connected region, in pixels of the camera and lines of the roll; `key` is its first pixel."""

    key: tuple[int, int]
    bounds: tuple[int, int, int, int]  # first line, last line, first column, last column
    area_px: int
    peak: float
    mean: float


# ------------------------------------------------------------------------------------------------ lines and scale


def to_unit(raw: NDArray[np.integer], bit_depth: int) -> Floats:
    """Lines×columns[×C] integers as C×H×W in [0, 1]."""
    unit = raw.astype(np.float32) / np.float32(2**bit_depth - 1)
    return unit[None] if unit.ndim == 2 else np.ascontiguousarray(unit.transpose(2, 0, 1))


def area_average(unit: Floats, n: int) -> Floats:
    """Rows n by n, then columns n by n; the last ones average what there is. float32 sums in order."""
    return _average_columns(_average_columns(unit.swapaxes(1, 2), n).swapaxes(1, 2), n)


def _average_columns(unit: Floats, n: int) -> Floats:
    means = []
    for first in range(0, unit.shape[2], n):
        columns = [unit[:, :, i] for i in range(first, min(first + n, unit.shape[2]))]
        total = columns[0]
        for column in columns[1:]:
            total = total + column
        means.append(total / np.float32(len(columns)))
    return np.stack(means, 2)


# ------------------------------------------------------------------------------------------------ reconstruction


def mirror(i: int, length: int) -> int:
    """Index i bounced off both ends until it lies inside; the ends themselves are not repeated."""
    if length == 1:
        return 0
    while not 0 <= i < length:
        i = -i if i < 0 else 2 * (length - 1) - i
    return i


def padded(maps: Floats, top: int, bottom: int, left: int, right: int) -> Floats:
    """...×H×W with mirrored rows and columns around."""
    height, width = maps.shape[-2:]
    rows = [mirror(i, height) for i in range(-top, height + bottom)]
    columns = [mirror(i, width) for i in range(-left, width + right)]
    return maps[..., rows, :][..., columns]


def anchors(length: int, patch: int, stride: int) -> list[int]:
    """0, s, 2s, … as long as a patch fits, and one more that ends with the axis."""
    found, anchor = [], 0
    while anchor + patch <= length:
        found.append(anchor)
        anchor += stride
    if found[-1] + patch < length:
        found.append(length - patch)
    return found


def patch_weights(settings: InspectionSettings) -> Floats:
    p = settings.patch_size
    if settings.blend == "mean":
        return np.ones((p, p), np.float32)
    window = np.hanning(p + 2)[1:-1]
    return (np.outer(window, window) + 0.001).astype(np.float32)


def reconstruct(web: Floats, settings: InspectionSettings, model: Model) -> tuple[Floats, list[tuple[int, int]]]:
    """Weighted mean over all patches that cover a pixel; and the rows of patches that the model failed on."""
    p, (height, width) = settings.patch_size, web.shape[1:]
    image = padded(web, 0, max(p - height, 0), 0, max(p - width, 0))
    weights = patch_weights(settings)
    columns = anchors(image.shape[2], p, settings.stride)
    total = np.zeros_like(image)
    weight = np.zeros(image.shape[1:], np.float32)
    faults = []
    # the weights of one line of patches are summed before they are added; for `mean` any order is exact
    of_one_line = np.zeros((p, image.shape[2]), np.float32)
    for x in columns:
        of_one_line[:, x : x + p] += weights
    for y in anchors(image.shape[1], p, settings.stride):
        weight[y : y + p] += of_one_line
        for x in columns:
            patch = np.ascontiguousarray(image[:, y : y + p, x : x + p])
            result = model(torch.from_numpy(patch)[None])[0].numpy()
            if not (np.isfinite(result) & (np.abs(result) <= ABSURD)).all():
                faults.append((y, y + p))
                result = patch
            total[:, y : y + p, x : x + p] += result * weights
    return (total / weight)[:, :height, :width], faults


# ------------------------------------------------------------------------------------------------ residual and score


def halo(settings: InspectionSettings) -> int:
    """Rows on each side that an opened row's score and mask depend on."""
    return ssim_reach(settings) + smoothing_radius(settings) + OPENING_REACH


def ssim_reach(settings: InspectionSettings) -> int:
    return settings.ssim.window // 2 if settings.method == "ssim" else 0


def smoothing_radius(settings: InspectionSettings) -> int:
    return int(np.ceil(3 * settings.smoothing_sigma))


def residual(web: Floats, mean: Floats, settings: InspectionSettings, exact: bool) -> Floats:
    r = ssim_reach(settings)
    if exact and settings.method == "ssim":
        x, y = padded(web, r, r, 0, 0), padded(mean, r, r, 0, 0)
        values: Floats = engine.residual(torch.from_numpy(x), torch.from_numpy(y), settings, reflecting=True).numpy()
        return values
    x, y = padded(web, r, r, r, r), padded(mean, r, r, r, r)
    if settings.method == "l2":
        return ((torch.from_numpy(x) - torch.from_numpy(y)) ** 2).mean(0).numpy()
    return (1 - np.mean([similarity(*pair, settings.ssim) for pair in zip(x, y, strict=True)], 0)).astype(np.float32)


def similarity(x: Floats, y: Floats, ssim: SsimSettings) -> NDArray[np.float64]:
    """Eq. 4 to 7 of the paper in float64, over the windows that fit in H×W."""
    weights = _window(ssim)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        windows = np.lib.stride_tricks.sliding_window_view(values, weights.shape)
        return np.einsum("hwij,ij->hw", windows, weights)

    a, b = x.astype(np.float64), y.astype(np.float64)
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = (np.maximum(mean(v * v) - m * m, 0) for v, m in ((a, mu_a), (b, mu_b)))
    covariance, both = mean(a * b) - mu_a * mu_b, np.sqrt(var_a * var_b)
    luminance = (2 * mu_a * mu_b + ssim.c1) / (mu_a**2 + mu_b**2 + ssim.c1)
    contrast = (2 * both + ssim.c2) / (var_a + var_b + ssim.c2)
    structure = (2 * covariance + ssim.c2) / (2 * both + ssim.c2)
    powers = [
        np.sign(part) * np.abs(part) ** exponent
        for part, exponent in ((luminance, ssim.alpha), (contrast, ssim.beta), (structure, ssim.gamma))
    ]
    product: NDArray[np.float64] = powers[0] * powers[1] * powers[2]
    return product


def _window(ssim: SsimSettings) -> NDArray[np.float64]:
    if ssim.kind == "uniform":
        return np.full((ssim.window, ssim.window), 1 / ssim.window**2)
    x = np.arange(ssim.window) - ssim.window // 2
    weights = np.exp(-0.5 * (x / ssim.sigma) ** 2)
    return np.outer(weights, weights) / weights.sum() ** 2


def smoothed(values: Floats, settings: InspectionSettings, exact: bool) -> Floats:
    radius, sigma = smoothing_radius(settings), settings.smoothing_sigma
    if not radius:
        return values
    if exact:
        tall = torch.from_numpy(padded(values, radius, radius, 0, 0))
        result: Floats = engine.smoothed(tall, sigma, reflecting=True).numpy()
        return result
    # scipy's "mirror" is the reflection that does not repeat the border
    return ndimage.gaussian_filter(values.astype(np.float64), sigma, mode="mirror", radius=radius).astype(np.float32)


# ------------------------------------------------------------------------------------------------ mask and regions


def opened(mask: Mask) -> Mask:
    """Opening with the disc; outside, the web is mirrored with its border repeated."""
    wide = np.pad(mask, 4, mode="symmetric")
    eroded = ndimage.binary_erosion(wide, DISC, border_value=1)
    result: Mask = ndimage.binary_dilation(eroded, DISC)[4:-4, 4:-4]
    return result


def on_web(web: Floats, selvage: Selvage | None, reach: int) -> Mask:
    """Pixels at least `reach` inside the web's edges, in their own row and in the `reach` rows around it."""
    _, height, width = web.shape
    if selvage is None:
        return np.ones((height, width), bool)
    edges = [_edges(row, selvage) for row in torch.from_numpy(web).mean(0).numpy()]
    inside = np.zeros((height, width), bool)
    for y in range(height):
        near = edges[max(y - reach, 0) : y + reach + 1]
        left, right = max(edge[0] for edge in near) + reach, min(edge[1] for edge in near) - reach
        inside[y, left : max(right, left)] = True
    return inside


def _edges(row: Floats, selvage: Selvage) -> tuple[int, int]:
    """First and end column of the runs of web that are long enough; (W, 0) without any."""
    level = np.float32(selvage.level)
    web = row > level if selvage.backdrop == "dark" else row < level
    runs, count = ndimage.label(web)
    least = min(selvage.hold_px, len(row))
    long_runs = [np.flatnonzero(runs == i) for i in range(1, count + 1) if (runs == i).sum() >= least]
    return (int(long_runs[0][0]), int(long_runs[-1][-1]) + 1) if long_runs else (len(row), 0)


def blocks(settings: InspectionSettings, first: int, end: int) -> list[range]:
    """The camera's columns in each scaled one."""
    return [range(left, min(left + settings.scale, end)) for left in range(first, end, settings.scale)]


def thresholds(settings: InspectionSettings, first: int, end: int) -> Floats:
    """Of each scaled column: the lowest that holds in one of its columns."""

    def of_column(column: int) -> float:
        for lane in settings.lanes:
            if lane.first_column <= column < lane.end_column and lane.threshold is not None:
                return lane.threshold
        return settings.threshold

    return np.array([min(map(of_column, block)) for block in blocks(settings, first, end)], np.float32)


def masked(settings: InspectionSettings, first: int, end: int) -> NDArray[np.bool_]:
    """Scaled columns whose window, with none of its columns missing, has a masked column."""
    hit = [any(low <= column < high for low, high in settings.masks for column in block)
           for block in blocks(settings, first, end)]  # fmt: skip
    return np.asarray(ndimage.binary_dilation(hit, np.ones(2 * ssim_reach(settings) + 1, bool)), bool)


def inspect(
    raw: NDArray[np.integer],
    settings: InspectionSettings,
    model: Model,
    *,
    bit_depth: int = 8,
    calibration: ColumnCalibration | None = None,
    exact: bool = True,
) -> Whole:
    """A whole segment of lines×columns[×C] camera pixels."""
    first, end = settings.columns or (0, raw.shape[1])
    web = area_average(to_unit(raw[:, first:end], bit_depth), settings.scale)
    mean, faults = reconstruct(web, settings, model)
    score = smoothed(residual(web, mean, settings, exact), settings, exact)
    if calibration is not None:
        score = (score - calibration.mean) / calibration.deviation
    faulty = np.zeros(len(score), bool)
    for low, high in faults:
        faulty[max(low - halo(settings), 0) : high + halo(settings)] = True
    inside = on_web(web, settings.selvage, ssim_reach(settings)) & ~masked(settings, first, end)
    mask = opened(~(score <= thresholds(settings, first, end)) & inside)
    return Whole(mean, score, mask & inside & ~faulty[:, None], faulty)


def regions(whole: Whole, settings: InspectionSettings, first_line: int, lines: int, columns: int) -> list[Found]:
    """All 8-connected regions of a segment that began at `first_line`, in camera pixels, by their keys."""
    labels, count = ndimage.label(whole.opened, np.ones((3, 3)))
    n = settings.scale
    left, right = settings.columns or (0, columns)
    found = []
    for i in range(1, count + 1):
        rows, places = np.nonzero(labels == i)
        scores = whole.score[rows, places].astype(np.float64)
        longer_side = max(np.ptp(rows), np.ptp(places)) + 1
        if len(rows) * n**2 < settings.min_area_px or longer_side * n < settings.min_length_px:
            continue
        bounds = (
            first_line + int(rows.min()) * n,
            first_line + min((int(rows.max()) + 1) * n, lines) - 1,
            left + int(places.min()) * n,
            min(left + (int(places.max()) + 1) * n, right) - 1,
        )
        key = (first_line + int(rows[0]) * n, left + int(places[0]) * n)
        found.append(Found(key, bounds, len(rows) * n**2, float(scores.max()), float(scores.mean())))
    return sorted(found, key=lambda region: region.key)
