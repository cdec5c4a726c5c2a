"""Patches flipped, brightened and spoilt at random: more web than there is, and defects to be left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRIDS = (4, 8, 16, 32)  # cells a side of the noise that shapes the blots: large ones to small ones
SPOILT = 0.5  # share of the patches
COVERED = 1.0  # deviations of the noise above which a pixel is spoilt: about a tenth of a patch


def augment(patches: Tensor, kinds: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """N×C×P×P patches flipped or brightened at random, by the kinds asked for; the generator is on their device."""

    def drawn() -> Tensor:
        return torch.rand(len(patches), 1, 1, 1, generator=generator, device=generator.device)

    for kind, dim in (("flip-lines", -2), ("flip-columns", -1)):
        if kind in kinds:
            patches = torch.where(drawn() < 0.5, patches.flip(dim), patches)
    if "brightness" in kinds:
        patches = (patches * (0.9 + 0.2 * drawn())).clamp(0, 1)
    return patches


def spoilt(patches: Tensor, generator: torch.Generator) -> Tensor:
    """N×C×P×P patches, half of them with blots: of another patch turned by 90°, of one grey, or darker and lighter.

    A model that is shown these and is to return the patch as it was learns to leave out what does not belong. The blots
    are drawn from the generator, on the patches' device.
    """
    count, side = len(patches), patches.shape[-1]

    def drawn() -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)

    sizes = [len(part) for part in torch.arange(count).tensor_split(len(GRIDS))]
    noise = [
        nn.functional.interpolate(
            torch.randn(size, 1, grid, grid, generator=generator, device=generator.device), (side, side), mode="bicubic"
        )
        for grid, size in zip(GRIDS, sizes, strict=True)
        if size
    ]
    shape = torch.cat(noise) > COVERED
    kind = drawn()
    other = patches.roll(1, 0).transpose(-1, -2)
    content = torch.where(kind < 1 / 3, other, torch.where(kind < 2 / 3, drawn(), patches * (0.4 + 1.2 * drawn())))
    seen = 0.3 + 0.7 * drawn()  # how little of the web shows through
    blots = shape & (drawn() < SPOILT)
    return torch.where(blots, patches + seen * (content - patches), patches).clamp(0, 1)
