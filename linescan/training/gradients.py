"""A training step's gradients on a CPU, where those of autograd pass through memory more often than they must.

On other devices, and where there are exponents, autograd does it; both ways agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from linescan.config import SsimSettings
from linescan.inspection.ssim import is_plain, window_weights
from linescan.inspection.threads import shared_out

Floats = NDArray[np.floating[Any]]
TOGETHER = 2  # patches of which all maps stay in a core's cache


class QuickGradients(TorchFunctionMode):
    """While it is entered transposed convolutions and leaky ReLUs are differentiated as below; CPU only."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv_transpose2d:
            patches, weight, bias, stride, padding, *_ = args
            return _TransposedConvolution.apply(patches, weight, bias, tuple(stride), tuple(padding))  # type: ignore[no-untyped-call]
        if func is functional.leaky_relu:  # its gradient needs its output's sign alone
            return torch._C._nn.leaky_relu_(args[0], kwargs["negative_slope"])
        return func(*args, **kwargs)


class _TransposedConvolution(torch.autograd.Function):
    """Its gradients are those of the convolution that it transposes, for which oneDNN takes a third of the time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        x, weight = x.to(dtype), weight.to(dtype).contiguous(memory_format=torch.channels_last)
        bias = bias.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        if _is_a_product(x, padding):
            out = torch.empty((len(x), *weight.shape[1:]), dtype=dtype, memory_format=torch.channels_last)
            torch.mm(x.flatten(1), _by_pixels(weight), out=out.permute(0, 2, 3, 1).view(len(x), -1))
            return out.add_(bias.view(-1, 1, 1))
        if stride == (1, 1):
            turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            reach = [size - 1 - edge for size, edge in zip(weight.shape[2:], padding, strict=True)]
            return torch.conv2d(x, turned, bias, stride, reach)
        return torch.conv_transpose2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        of_bias = gradient.sum((0, 2, 3)).float()
        if _is_a_product(x, ctx.padding):
            pixels = gradient.permute(0, 2, 3, 1).reshape(len(x), -1)
            of_x = (pixels @ _by_pixels(weight).T)[:, :, None, None]
            rows, columns = weight.shape[2:]
            of_weight = (x.flatten(1).T @ pixels).view(len(weight), rows, columns, -1).permute(0, 3, 1, 2)
            return of_x, of_weight.float(), of_bias, None, None
        of_x = torch.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        of_weight = torch.ops.aten.convolution_backward(
            x, gradient, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (False, True, False)
        )[1]
        return of_x, of_weight.float(), of_bias, None, None


def channels_last(maps: Tensor) -> Tensor:
    """The same N×C×H×W in that layout by its strides too, which with one channel could be either and are taken for
    the other: what is computed from it would come in that one, and be turned over and over.
    """
    maps = maps.contiguous(memory_format=torch.channels_last)
    channels, height, width = maps.shape[1:]
    return maps.as_strided(maps.shape, (channels * height * width, 1, width * channels, channels))


def _is_a_product(x: Tensor, padding: tuple[int, int]) -> bool:
    """Whether it makes of each latent vector a patch of the kernel's size."""
    return tuple(x.shape[2:]) == (1, 1) and padding == (0, 0)


def _by_pixels(weight: Tensor) -> Tensor:
    """d×C×P×P weights of the latent vector's layer as d×PPC."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def can_differentiate(made: Tensor, ssim: SsimSettings) -> bool:
    """Whether `mean_dissimilarity` is for these reconstructions."""
    return made.device.type == "cpu" and is_plain(ssim)


def mean_dissimilarity(wanted: Tensor, made: Tensor, ssim: SsimSettings) -> Tensor:
    """Mean of 1 − SSIM (eq. 8) at every pixel of N×C×P×P patches, reflected at their borders; a scalar.

    Its gradient is for `made` alone, and is found with the value, two patches at a time.
    """
    mean: Tensor = _MeanDissimilarity.apply(wanted, made, ssim)  # type: ignore[no-untyped-call]
    return mean


class _MeanDissimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wanted: Tensor, made: Tensor, ssim: SsimSettings) -> Tensor:
        x, y = (maps.detach().contiguous().flatten(0, 1).numpy() for maps in (wanted, made))
        gradient = np.empty_like(y) if ctx.needs_input_grad[1] else None

        def one(first: int) -> float:
            part = slice(first, first + TOGETHER)
            value, of_part = _sum_and_gradient(x[part], y[part], ssim, gradient is not None)
            if gradient is not None:
                gradient[part] = of_part
            return value

        pieces = range(0, len(x), TOGETHER)
        total = sum(shared_out(one, pieces, min(torch.get_num_threads(), len(pieces))))
        if gradient is not None:
            ctx.gradient = torch.from_numpy(gradient).view_as(made).div_(made.numel())
        return made.new_tensor(total / made.numel())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.gradient * gradient, None


def _sum_and_gradient(x: Floats, y: Floats, ssim: SsimSettings, wants_gradient: bool) -> tuple[float, Floats | None]:
    """Of 1 − SSIM over N×P×P maps: its sum, and that sum's gradient by y.

    With s = x + y and d = x − y as in `dissimilarity`: half of it is (u w + v b) / ((u + b) (v + w)), where u and b are
    the squares of the means of s and d, v and w their variances, u and v with the constants added.
    """
    s, d = x + y, x - y
    mean_s, mean_d, mean_ss, mean_dd = (_window_means(maps, ssim) for maps in (s, d, s * s, d * d))
    u, b = mean_s * mean_s, mean_d * mean_d
    v, w = mean_ss - u, mean_dd - b
    varies_s, varies_d = v > 0, w > 0  # elsewhere rounding alone, and no gradient
    u += 2 * ssim.c1
    v *= varies_s
    v += 2 * ssim.c2
    w *= varies_d
    means, variances = u + b, v + w
    share = 1 / (means * variances)
    above = u * w + v * b
    halves = above * share
    value = 2 * float(halves.sum(dtype=np.float64))
    if not wants_gradient:
        return value, None
    by_means, by_variances = halves / means, halves / variances
    of_v = (b * share - by_variances) * varies_s
    of_w = (u * share - by_variances) * varies_d
    of_mean_s = (w * share - by_means - of_v) * mean_s
    of_mean_d = (v * share - by_means - of_w) * mean_d
    # y is in s with the one sign and in d with the other; the factors 2 are of the squares and of the halves
    gradient = _spread(of_mean_s - of_mean_d, ssim)
    gradient += s * _spread(of_v, ssim)
    gradient -= d * _spread(of_w, ssim)
    gradient *= 4
    return value, gradient


def _window_means(maps: Floats, ssim: SsimSettings) -> Floats:
    out = np.empty_like(maps)
    for image, place in zip(maps, out, strict=True):
        if ssim.kind == "uniform":
            cv2.blur(image, (ssim.window, ssim.window), dst=place, borderType=cv2.BORDER_REFLECT_101)
        else:
            kernel = np.array(window_weights(ssim), maps.dtype)
            cv2.sepFilter2D(image, -1, kernel, kernel, dst=place, borderType=cv2.BORDER_REFLECT_101)
    return out


def _spread(maps: Floats, ssim: SsimSettings) -> Floats:
    """The transpose of `_window_means`.

    A reflected image is periodic and even, and the window symmetric: it is the window itself where each pixel counts as
    often as it occurs in a period, those of the border once and the others twice.
    """
    times = _times_in_a_period(*maps.shape[-2:]).astype(maps.dtype)
    return times * _window_means(maps / times, ssim)


@lru_cache(maxsize=16)
def _times_in_a_period(height: int, width: int) -> Floats:
    rows, columns = (np.where((np.arange(size) % (size - 1)) > 0, 2.0, 1.0) for size in (height, width))
    return rows[:, None] * columns
