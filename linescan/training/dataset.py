"""Good images as patches: what is trained on, what is held out, and which pixels these were."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from linescan.errors import FootageError
from linescan.footage import FootageFrame, open_footage
from linescan.inspection.lines import area_average, channels_first, to_unit

HELD_OUT_EVERY = 10  # with this many images or more, every tenth is held out whole
HELD_OUT_SHARE = 0.15  # with fewer, this share of each image's lines, at its end


@dataclass(frozen=True)
class GoodImages:
    """Good web in memory, scaled: C×H×W float32 tensors in [0, 1], split into training and held-out lines."""

    training: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]
    fingerprint: str
    bit_depth: int


def load_good_images(paths: Sequence[str], columns: tuple[int, int] | None, scale: int, patch_size: int) -> GoodImages:
    """Reads good footage, each image for itself; raises FootageError where one cannot be read or is under a patch."""
    digest = hashlib.sha256()
    images: list[Tensor] = []
    with open_footage(list(paths)) as footage:
        for frame in footage:
            images.append(_scaled(frame, columns, scale, patch_size, digest))
        bit_depth = footage.bit_depth
    training, held_out = _split(images, patch_size)
    return GoodImages(tuple(training), tuple(held_out), digest.hexdigest(), bit_depth)


def _scaled(
    frame: FootageFrame, columns: tuple[int, int] | None, scale: int, patch_size: int, digest: hashlib._Hash
) -> Tensor:
    if frame.pixels is None:
        raise FootageError(f"{frame.name}: cannot be trained on: {frame.error}")
    pixels = frame.pixels
    if columns is not None:
        if not 0 <= columns[0] < columns[1] <= pixels.shape[1]:
            raise FootageError(f"{frame.name}: has {pixels.shape[1]} columns, columns {columns[0]}:{columns[1]} asked")
        pixels = pixels[:, columns[0] : columns[1]]
    digest.update(f"{Path(frame.name).name} {pixels.shape} {pixels.dtype}".encode())
    digest.update(pixels.tobytes())
    image = area_average(to_unit(channels_first(pixels), frame.bit_depth), scale)
    if min(image.shape[-2:]) < patch_size:
        height, width = image.shape[-2:]
        raise FootageError(
            f"{frame.name}: is {width}×{height} pixels after scaling by 1/{scale}; training needs at least "
            f"{patch_size}×{patch_size}"
        )
    return image


def _split(images: list[Tensor], patch_size: int) -> tuple[list[Tensor], list[Tensor]]:
    if len(images) >= HELD_OUT_EVERY:
        held_out = images[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        chosen = {id(image) for image in held_out}
        return [image for image in images if id(image) not in chosen], held_out
    training, held_out = [], []
    for image in images:
        height = image.shape[-2]
        lines = max(round(height * HELD_OUT_SHARE), patch_size)
        if height - lines >= patch_size:
            training.append(image[:, : height - lines])
            held_out.append(image[:, height - lines :])
        else:  # too short to cut: the image is trained on, and the others are held out in part
            training.append(image)
    if not held_out:
        if len(training) < 2:
            raise FootageError(
                f"one image of {images[0].shape[-2]} lines: too short to hold a part out for the threshold; "
                f"at least {2 * patch_size} lines after scaling, or a second image, are needed"
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
