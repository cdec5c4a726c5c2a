"""Good images as patches: what is trained on, what is held out, and which pixels these were."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from linescan.config import ImageBand
from linescan.errors import FootageError
from linescan.flatfield_file import StoredFlatField
from linescan.footage import FootageFrame, open_footage
from linescan.inspection.flatfield import FlatField
from linescan.inspection.gate import LineStatistics, line_statistics
from linescan.inspection.lines import Pixels, area_average, channels_first, to_unit
from linescan.pixels import format_of

ENOUGH_IMAGES = 10  # with so many images or more, whole ones are held out
HELD_OUT_EVERY = 6  # … every sixth
HELD_OUT_SHARE = 0.15  # with fewer, this share of each image's lines, at its end


@dataclass(frozen=True)
class GoodImages:
    """Good web in memory, split into training and held-out lines; the columns asked for only.

    `training` and `held_out` are scaled C×H×W float32 in [0, 1]; `held_out_lines` the same held-out web as raw pixels.
    """

    training: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]
    held_out_lines: tuple[Pixels, ...]
    fingerprint: str
    bit_depth: int
    band: ImageBand


def load_good_images(
    paths: Sequence[str],
    columns: tuple[int, int] | None,
    scale: int,
    patch_size: int,
    flatfield: StoredFlatField | None = None,
) -> GoodImages:
    """Reads good footage, each image for itself, corrected where there is a flat-field.

    Raises FootageError where an image cannot be read or is under a patch, ConfigError for another camera's flat-field.
    """
    digest = hashlib.sha256()
    images: list[Pixels] = []
    statistics: list[LineStatistics] = []
    with open_footage(list(paths)) as footage:
        if flatfield is not None:
            flatfield.check(footage.path, None, footage.columns, format_of(footage.channels, footage.bit_depth))
        field = None if flatfield is None else flatfield.field()
        for frame in footage:
            pixels = _usable(frame, columns, scale, patch_size, field)
            digest.update(f"{Path(frame.name).name} {pixels.shape} {pixels.dtype}".encode())
            digest.update(pixels.tobytes())
            statistics.append(line_statistics(channels_first(pixels), frame.bit_depth))
            images.append(pixels)
        depth = footage.bit_depth
    training, held_out = _split(images, patch_size * scale)

    def scaled(pixels: Pixels) -> Tensor:
        return area_average(to_unit(channels_first(pixels), depth), scale)

    return GoodImages(
        tuple(scaled(image) for image in training),
        tuple(scaled(image) for image in held_out),
        tuple(held_out),
        digest.hexdigest(),
        depth,
        _wide_band(statistics),
    )


def _usable(
    frame: FootageFrame, columns: tuple[int, int] | None, scale: int, patch_size: int, field: FlatField | None
) -> Pixels:
    if frame.pixels is None:
        raise FootageError(f"{frame.name} {frame.error}: it cannot be trained on")
    pixels = frame.pixels if field is None else field.correct(frame.pixels)
    if columns is not None:
        if not 0 <= columns[0] < columns[1] <= pixels.shape[1]:
            raise FootageError(f"{frame.name} has {pixels.shape[1]} columns, {columns[0]}:{columns[1]} were asked for")
        pixels = pixels[:, columns[0] : columns[1]]
    if min(pixels.shape[:2]) < patch_size * scale:
        raise FootageError(
            f"{frame.name} is {pixels.shape[1]}×{pixels.shape[0]} pixels: training at scale 1/{scale} needs at least "
            f"{patch_size * scale}×{patch_size * scale}"
        )
    return pixels


def _wide_band(statistics: list[LineStatistics]) -> ImageBand:
    """Far outside what good lines show: half way to black and to white, and a third of the lowest contrast."""
    mean, contrast = (torch.cat(values) for values in zip(*statistics, strict=True))
    return ImageBand(
        mean_low=float(mean.min()) / 2,
        mean_high=(float(mean.max()) + 1) / 2,
        contrast_low=float(contrast.min()) / 3,
    )


def _split(images: list[Pixels], shortest: int) -> tuple[list[Pixels], list[Pixels]]:
    """Training and held-out images or parts of images, none under `shortest` lines."""
    if len(images) >= ENOUGH_IMAGES:
        chosen = range(HELD_OUT_EVERY - 1, len(images), HELD_OUT_EVERY)
        return [image for i, image in enumerate(images) if i not in chosen], [images[i] for i in chosen]
    training: list[Pixels] = []
    held_out: list[Pixels] = []
    for image in images:
        kept = len(image) - max(round(len(image) * HELD_OUT_SHARE), shortest)
        if kept < shortest:  # too short to cut: the image is trained on whole
            training.append(image)
            continue
        training.append(image[:kept])
        held_out.append(image[kept:])
    if not held_out:
        if len(training) == 1:
            raise FootageError(
                f"one image of {len(images[0])} lines is too short to hold lines out for the threshold: at least "
                f"{2 * shortest} lines or a second image are needed"
            )
        held_out = [training.pop()]
    return training, held_out


class PatchSampler:
    """Cuts P×P patches at chosen places out of images kept as one flat tensor on the training device."""

    def __init__(self, images: Sequence[Tensor], patch_size: int, device: torch.device) -> None:
        self.patch_size = patch_size
        self.channels = images[0].shape[0]
        self._sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        self._flat = torch.cat([image.reshape(self.channels, -1) for image in images], 1).to(device)
        starts = torch.tensor([0, *(h * w for h, w in self._sizes)]).cumsum(0)[:-1]
        self._starts = starts.to(device)
        self._widths = torch.tensor([w for _, w in self._sizes], device=device)
        self._span = torch.arange(patch_size, device=device)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` random places, count×3 (image, line, column), each image as likely as its number of places."""
        p = self.patch_size
        places = torch.tensor([(h - p + 1) * (w - p + 1) for h, w in self._sizes], dtype=torch.float64)
        image = torch.multinomial(places, count, replacement=True, generator=generator)
        heights = torch.tensor([h - p + 1 for h, _ in self._sizes])[image]
        widths = torch.tensor([w - p + 1 for _, w in self._sizes])[image]
        lines = (torch.rand(count, generator=generator, dtype=torch.float64) * heights).long()
        columns = (torch.rand(count, generator=generator, dtype=torch.float64) * widths).long()
        return torch.stack([image, lines, columns], 1)

    def cut(self, places: Tensor) -> Tensor:
        """The patches at N×3 places: N×C×P×P."""
        image, line, column = places.to(self._flat.device).unbind(1)
        width = self._widths[image].view(-1, 1, 1)
        corner = (self._starts[image] + line * self._widths[image] + column).view(-1, 1, 1)
        index = corner + self._span.view(1, -1, 1) * width + self._span.view(1, 1, -1)
        return self._flat[:, index].transpose(0, 1)
