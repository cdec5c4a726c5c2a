"""Patches flipped and brightened at random, so that a model sees more web than there is."""

from __future__ import annotations

import torch
from torch import Tensor


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
