"""The grid of overlapping patches and the mean of their reconstructions, anchored to the segment's first line."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from linescan.config import Blend


def anchors(length: int, patch_size: int, stride: int) -> list[int]:
    """First pixels of the patches along an axis: 0, s, 2s, … and the last one clamped to length − P."""
    last = max(length - patch_size, 0)
    regular = list(range(0, last + 1, stride))
    return regular if regular[-1] == last else [*regular, last]


def reflected(first: int, end: int, length: int) -> list[int]:
    """Indices first…end−1 reflected, as often as needed, into 0…length−1 without repeating the border."""
    if length == 1:
        return [0] * (end - first)
    period = 2 * (length - 1)
    folded = (i % period for i in range(first, end))
    return [i if i < length else period - i for i in folded]


def mirrored(first: int, end: int, length: int) -> list[int]:
    """Indices first…end−1 mirrored, as often as needed, into 0…length−1 with the border repeated."""
    folded = (i % (2 * length) for i in range(first, end))
    return [i if i < length else 2 * length - 1 - i for i in folded]


def take(maps: Tensor, dim: int, indices: list[int]) -> Tensor:
    """The chosen rows or columns; a plain view where they are consecutive."""
    first, count = indices[0], len(indices)
    if indices[-1] - first == count - 1 and indices == list(range(first, first + count)):
        return maps.narrow(dim, first, count)
    return maps.index_select(dim, _on_device(indices, maps.device))


def _on_device(indices: list[int], device: torch.device) -> Tensor:
    """A copy from pinned memory does not have the host wait."""
    places = torch.tensor(indices)
    return places.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else places


def reflect_sides(maps: Tensor, reach: int) -> Tensor:
    """...×W maps with `reach` columns reflected on each side."""
    columns = maps.shape[-1]
    if reach >= columns:  # more than once over
        return maps.index_select(-1, _sides(reach, columns, reflected, maps.device))
    return _framed(maps, maps.narrow(-1, 1, reach), maps.narrow(-1, columns - 1 - reach, reach)) if reach else maps


def mirror_sides(maps: Tensor, reach: int) -> Tensor:
    """...×W maps with `reach` columns mirrored on each side, the border repeated."""
    columns = maps.shape[-1]
    if reach > columns:  # more than once over
        return maps.index_select(-1, _sides(reach, columns, mirrored, maps.device))
    return _framed(maps, maps.narrow(-1, 0, reach), maps.narrow(-1, columns - reach, reach)) if reach else maps


def _framed(maps: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`maps` between the two turned round; several times as fast as the choice of columns one by one."""
    return torch.cat([left.flip(-1), maps, right.flip(-1)], -1)


@lru_cache(maxsize=32)
def _sides(reach: int, columns: int, fold: Callable[[int, int, int], list[int]], device: torch.device) -> Tensor:
    return _on_device(fold(-reach, columns + reach, columns), device)


@lru_cache(maxsize=16)
def blend_weights(blend: Blend, patch_size: int) -> Tensor:
    """Weight of each pixel of a patch, P×P: 1, or higher in the middle than at the border."""
    if blend == "mean":
        return torch.ones(patch_size, patch_size)
    window = torch.hann_window(patch_size + 2, periodic=False, dtype=torch.float64)[1:-1]
    return (torch.outer(window, window) + 0.001).to(torch.float32)


@lru_cache(maxsize=16)
def _weights_on(blend: Blend, patch_size: int, device: torch.device) -> Tensor:
    """Copied once, not for each segment: the host waits for such a copy."""
    return blend_weights(blend, patch_size).to(device)


class PatchRow:
    """The patches of one line anchor: cut out of the web, and added back where they came from.

    Args:
        columns: W, the width of the web in scaled pixels; under P, the patches are filled by reflection.
    """

    def __init__(self, columns: int, patch_size: int, stride: int, blend: Blend, device: torch.device) -> None:
        self.patch_size = patch_size
        self.columns = columns
        self.width = max(columns, patch_size)
        self._fill = reflected(0, self.width, columns)
        self._stride = stride
        self.anchors = anchors(self.width, patch_size, stride)
        self._regular = (self.width - patch_size) // stride + 1  # anchors at multiples of the stride
        self._weights = _weights_on(blend, patch_size, device)
        self._weighted = blend != "mean"
        self.weight_sum = torch.zeros(patch_size, self.width, device=device)
        for column in self.anchors:
            self.weight_sum[:, column : column + patch_size] += self._weights

    def __len__(self) -> int:
        return len(self.anchors)

    def cut(self, rows: Tensor, place: Tensor, first: int = 0) -> None:
        """Copies patches first, first + 1, … of C×P×W rows into N×C×P×P `place`."""
        p = self.patch_size
        if self.width > self.columns:
            rows = take(rows, -1, self._fill)
        regular = rows.unfold(2, p, self._stride).permute(2, 0, 1, 3)[first : first + len(place)]
        place[: len(regular)].copy_(regular)
        if len(regular) < len(place):  # the clamped one
            place[-1].copy_(rows[..., self.width - p :])

    def weigh(self, reconstructions: Tensor) -> Tensor:
        """N×C×P×P reconstructions with the weights of the blend, in place."""
        return reconstructions.mul_(self._weights) if self._weighted else reconstructions

    def add(self, weighted: Tensor, total: Tensor, first: int = 0) -> None:
        """Adds N×C×P×P weighted reconstructions, of patches first, first + 1, …, into C×P×width `total` in order.

        Float addition has an order, and so has this, in two ways to the same bits.
        """
        if total.device.type == "cpu":
            for column, one in zip(self.anchors[first : first + len(weighted)], weighted.unbind(), strict=True):
                total[..., column : column + self.patch_size].add_(one)
        else:
            self._add_by_blocks(weighted, total, first)

    def _add_by_blocks(self, weighted: Tensor, total: Tensor, first: int) -> None:
        """In as many calls as a patch has blocks of `stride` columns, however many patches there are.

        A pixel's patches are `stride` columns apart, and it lies in a later block of an earlier patch: so the last
        block of all patches comes first.
        """
        p, s = self.patch_size, self._stride
        regular = weighted[: self._regular - first]
        span = (len(regular) - 1) * s
        for block in range((p - 1) // s * s, -1, -s) if len(regular) else ():
            width = min(s, p - block)
            column = first * s + block
            place = total[..., column : column + span + width].unfold(-1, width, s).permute(2, 0, 1, 3)
            place += regular[..., block : block + width]
        if len(regular) < len(weighted):  # the clamped one
            total[..., self.width - p :] += weighted[-1]
