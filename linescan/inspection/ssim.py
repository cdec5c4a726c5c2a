"""Structural similarity (Wang et al. 2004; Bergmann et al. 2018, eq. 4–8) over the K×K windows that fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import SsimSettings
from linescan.inspection.patches import reflected

WindowMean = Callable[[Tensor, SsimSettings], Tensor]
Array = TypeVar("Array", Tensor, NDArray[np.float32])


def window_weights(ssim: SsimSettings) -> tuple[float, ...]:
    """Weights of one axis of the window; they sum to 1 and the window is their outer product."""
    if ssim.kind == "uniform":
        return (1.0 / ssim.window,) * ssim.window
    return gaussian_weights(ssim.sigma, ssim.window // 2)


@lru_cache(maxsize=64)
def gaussian_weights(sigma: float, radius: int) -> tuple[float, ...]:
    """Samples of a Gaussian at −radius…radius, normalised to 1."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return tuple((weights / weights.sum()).tolist())


def window_mean(maps: Tensor, ssim: SsimSettings) -> Tensor:
    """Mean of ...×H×W maps in every K×K window that fits: ...×(H−K+1)×(W−K+1).

    Each output is the same sequence of float32 additions at every position, so that a pixel's value does not
    depend on where a band of lines was cut.
    """
    if ssim.kind == "uniform":
        summed = _running_sum(_running_sum(maps, ssim.window, -1), ssim.window, -2)
        return summed.mul_(1.0 / ssim.window**2)
    return smooth(maps, window_weights(ssim))


def smooth(maps: Tensor, weights: tuple[float, ...]) -> Tensor:
    """...×H×W maps under a symmetric separable filter where it fits: ...×(H−2r)×(W−2r) for 2r+1 weights."""
    return _symmetric(_symmetric(maps, weights, -1), weights, -2)


def _running_sum(maps: Tensor, window: int, dim: int) -> Tensor:
    """Sums of `window` neighbours along `dim`, by doubling: O(log window) additions a pixel."""
    length = maps.shape[dim] - window + 1
    total: Tensor | None = None
    own = False  # whether `total` is memory of its own, no part of `maps` or `block`
    block, size, offset = maps, 1, 0
    while True:
        if window & size:
            part = block.narrow(dim, offset, length)
            if total is None:
                total = part
            else:  # the first sum takes memory of its own, the others go on in it
                total = total.add_(part) if own else total + part
                own = True
            offset += size
        if size * 2 > window:
            break
        block = block.narrow(dim, 0, block.shape[dim] - size) + block.narrow(dim, size, block.shape[dim] - size)
        size *= 2
    assert total is not None
    return total if own else total.clone()


def _symmetric(maps: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    radius = len(weights) // 2
    length = maps.shape[dim] - 2 * radius
    out = maps.narrow(dim, radius, length) * weights[radius]
    # the same memory for each pair of taps stays in a CPU's cache; autograd takes no such memory
    place = None if out.requires_grad else torch.empty_like(out)
    for i in range(radius):
        pair = torch.add(maps.narrow(dim, i, length), maps.narrow(dim, 2 * radius - i, length), out=place)
        out.add_(pair.mul_(weights[i]))
    return out


def window_mean_reflected(maps: Tensor, ssim: SsimSettings) -> Tensor:
    """`window_mean` at every pixel of ...×H×W maps, reflected at their borders, for training: ...×H×W.

    As two matrix products it is six times as fast under autograd as by sums; equal up to rounding.
    """
    weights = window_weights(ssim)
    rows, columns = (_reflecting_matrix(weights, size).to(maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.mT


@lru_cache(maxsize=16)
def _reflecting_matrix(weights: tuple[float, ...], size: int) -> Tensor:
    reach = len(weights) // 2
    matrix = torch.zeros(size, size)
    for row in range(size):
        for weight, column in zip(weights, reflected(row - reach, row + reach + 1, size), strict=True):
            matrix[row, column] += weight
    return matrix


def similarity(x: Tensor, y: Tensor, ssim: SsimSettings, mean: WindowMean = window_mean) -> Tensor:
    """SSIM (eq. 4; eq. 8 where α = β = γ = 1) of ...×H×W images, at the places that `mean` covers."""
    return 1 - dissimilarity(x, y, ssim, mean)


def dissimilarity(x: Tensor, y: Tensor, ssim: SsimSettings, mean: WindowMean = window_mean) -> Tensor:
    """1 − SSIM, as `similarity`; exactly 0 where x = y and there are no exponents."""
    if not is_plain(ssim):
        luminance, contrast, structure = components(x, y, ssim, mean)
        return 1 - _power(luminance, ssim.alpha) * _power(contrast, ssim.beta) * _power(structure, ssim.gamma)
    s, d = x + y, x - y
    s, d, ss, dd = mean(torch.stack([s, d, s * s, d * d]), ssim).unbind()
    if not (x.requires_grad or y.requires_grad):
        return plain_in_place(s, d, ss, dd, ssim, lambda variance: variance.clamp_min_(0)).mul_(2)
    s, d = s * s, d * d
    ss, dd = (ss - s).clamp_min(0) + 2 * ssim.c2, (dd - d).clamp_min(0)
    s = s + 2 * ssim.c1
    return (s * dd + ss * d) / ((s + d) * (ss + dd)) * 2


def is_plain(ssim: SsimSettings) -> bool:
    """Whether it is eq. 8, without exponents."""
    return ssim.alpha == ssim.beta == ssim.gamma == 1


def plain_in_place(
    s: Array, d: Array, ss: Array, dd: Array, ssim: SsimSettings, clamp: Callable[[Array], Any]
) -> Array:
    """(1 − SSIM) / 2 by eq. 8 from the window means of s = x + y, d = x − y, s² and d², in their memory.

    With 4 μx μy = μs² − μd², 2 (μx² + μy²) = μs² + μd², and the same of covariance and variances, it takes four windows
    instead of five, and 1 − SSIM is no difference of nearly equal numbers. `clamp` raises to 0 in place. The operations
    are those of `dissimilarity` in their order, to the same bits.
    """
    s *= s
    d *= d
    ss -= s
    dd -= d
    clamp(ss)  # E[x²] − E[x]² in float32 may fall a rounding error below 0
    clamp(dd)
    ss += 2 * ssim.c2
    s += 2 * ssim.c1
    numerator = s * dd
    ss_d = ss * d
    numerator += ss_d
    s += d
    ss += dd
    s *= ss
    numerator /= s
    return numerator


def components(
    x: Tensor, y: Tensor, ssim: SsimSettings, mean: WindowMean = window_mean
) -> tuple[Tensor, Tensor, Tensor]:
    """Luminance, contrast and structure maps (eq. 5, 6, 7), at the places that `mean` covers."""
    mu_x, mu_y, var_x, var_y, covariance = _moments(x, y, ssim, mean)
    product = var_x * var_y
    # The derivative of √v is infinite at 0, where a flat window of the web would poison the training. Only there is it
    # rounded off: it would move a flat window's contrast and structure by 2e-3.
    sigma_xy = torch.sqrt(product + 1e-12 if product.requires_grad else product)
    luminance = (2 * mu_x * mu_y + ssim.c1) / (mu_x * mu_x + mu_y * mu_y + ssim.c1)
    contrast = (2 * sigma_xy + ssim.c2) / (var_x + var_y + ssim.c2)
    structure = (2 * covariance + ssim.c2) / (2 * sigma_xy + ssim.c2)
    return luminance, contrast, structure


def _moments(x: Tensor, y: Tensor, ssim: SsimSettings, mean: WindowMean) -> tuple[Tensor, ...]:
    mu_x, mu_y, mean_xx, mean_yy, mean_xy = mean(torch.stack([x, y, x * x, y * y, x * y]), ssim)
    # E[x²] − E[x]² in float32 may fall a rounding error below 0
    var_x = (mean_xx - mu_x * mu_x).clamp_min(0)
    var_y = (mean_yy - mu_y * mu_y).clamp_min(0)
    return mu_x, mu_y, var_x, var_y, mean_xy - mu_x * mu_y


def _power(base: Tensor, exponent: float) -> Tensor:
    if exponent == 1:
        return base
    # structure may be negative, where a real power is undefined: keep the sign (DESIGN of the method, eq. 4)
    magnitude = torch.clamp_min(base.abs(), 1e-12)
    # torch rounds pow differently in its vector loop and in that loop's scalar tail, and where the tail falls depends
    # on the band's size; strided memory takes the scalar loop throughout, so that a pixel's value is the same in all
    return torch.sign(base) * torch.stack([magnitude, magnitude], -1)[..., 0] ** exponent
