"""A web inspected with the encoder run patch by patch and once for all, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from linescan.config import Blend, InspectionSettings
from linescan.models.autoencoder import Autoencoder
from linescan.training.metrics import PixelScores
from overlap.passes import CPU, Patches, blended, residual_of, smoothed
from overlap.sets import Web, WebSet
from overlap.shared_encoder import CONTEXT, REDUCTION, Padding, patch_codes, shared_codes, surrounded
from overlap.weights import BATCH, autoencoder_of

PASSES: tuple[tuple[int, Blend], ...] = ((32, "mean"), (64, "hann"), (112, "hann"))
WAYS = ("patch by patch", "shared")
RINGS = (0, 2, 4, 8, 16, 32, 48, 64)  # distances from the patch's border, pixels
FINEST = 16


@dataclass
class Judge:
    """A model over the webs of a set; what was seen of each way of encoding."""

    source: WebSet | None
    limit: int | None = None
    model: Autoencoder = field(init=False)
    settings: InspectionSettings = field(init=False)
    webs: list[Web] = field(init=False)
    padding: Padding = "zeros"

    def __post_init__(self) -> None:
        self.codes: list[float] = []  # relative difference of the codes of a web's patches
        self.rings: dict[str, list[np.ndarray]] = {}
        self.scores: dict[tuple[str, int, str, float], list[tuple[np.ndarray, np.ndarray]]] = {}
        if self.source is None:
            return
        self.model = autoencoder_of(self.source.setup.bundle)
        self.settings = self.source.setup.settings
        self.webs = list(self.source.scored())[: self.limit]

    @property
    def sigmas(self) -> Sequence[float]:
        return sorted({0.0, self.settings.smoothing_sigma})


def compare_web(judge: Judge, web: Web) -> None:
    """Adds one web, cropped to multiples of 16, to what the judge has seen."""
    height, width = (side // REDUCTION * REDUCTION for side in web.pixels.shape[-2:])
    pixels, defect = web.pixels[:, :height, :width], web.defect[:height, :width]
    for stride, blend in PASSES:
        own = _patches(judge, pixels, stride, shared=False)
        shared = _patches(judge, pixels, stride, shared=True)
        if stride == 64:
            _add_differences(judge, pixels, own, shared)
        kept = defect[: own.height, : own.width]
        for way, patches in zip(WAYS, (own, shared), strict=True):
            part = pixels[:, : own.height, : own.width]
            residual = residual_of(part, blended(patches, 1, blend), judge.settings)
            for sigma in judge.sigmas:
                score = np.asarray(smoothed(residual, sigma).numpy(), np.float32)
                judge.scores.setdefault((way, stride, blend, sigma), []).append((score, kept))


def _patches(judge: Judge, web: Tensor, stride: int, shared: bool) -> Patches:
    """Patches at multiples of the stride; the web is cropped to what they cover: a clamped one would be off phase."""
    size = judge.settings.patch_size
    lines, columns = (list(range(0, side - size + 1, stride)) for side in web.shape[-2:])
    web = web[:, : lines[-1] + size, : columns[-1] + size]
    with torch.inference_mode():
        if shared:
            codes = shared_codes(judge.model, web, stride, judge.padding).contiguous()
        else:
            codes = _one_by_one(judge, web, lines, columns)
        decoded = [judge.model.decoder(part[:, :, None, None]) for part in codes.flatten(0, 1).split(BATCH)]
    shape = (len(lines), len(columns))
    reconstructions = torch.cat(decoded).contiguous().unflatten(0, shape)
    return Patches(*web.shape[-2:], size, stride, lines, columns, codes.float(), reconstructions)


def _one_by_one(judge: Judge, web: Tensor, lines: list[int], columns: list[int]) -> Tensor:
    size = judge.settings.patch_size
    if judge.padding == "context":
        web, size = surrounded(web), size + 2 * CONTEXT  # an anchor's crop then begins where the anchor was
    dtype = next(judge.model.parameters()).dtype
    crops = [web[:, line : line + size, column : column + size] for line in lines for column in columns]
    batches = [torch.stack(crops[first : first + BATCH]) for first in range(0, len(crops), BATCH)]
    codes = [
        patch_codes(judge.model, batch.to(dtype).contiguous(memory_format=torch.channels_last), judge.padding)
        for batch in batches
    ]
    return torch.cat(codes).flatten(1).unflatten(0, (len(lines), len(columns)))


def _add_differences(judge: Judge, web: Tensor, own: Patches, shared: Patches) -> None:
    difference = (own.codes - shared.codes).norm(dim=-1) / (own.codes - own.codes.mean((0, 1))).norm(dim=-1)
    judge.codes.append(float(difference.mean()))
    size = own.size
    true = torch.stack([
        torch.stack([web[:, y : y + size, x : x + size] for x in own.columns]) for y in own.lines
    ])  # fmt: skip
    inside = slice(1, -1)  # patches at the web's border have zeros there either way
    a, b = own.reconstructions[inside, inside].float(), shared.reconstructions[inside, inside].float()
    true = true[inside, inside]
    if not a.numel():
        a, b, true = own.reconstructions.float(), shared.reconstructions.float(), true.new_tensor(true)
    ramp = torch.arange(size, device=CPU)
    axis = torch.minimum(ramp, size - 1 - ramp)
    distance = torch.minimum(axis[:, None], axis[None, :])
    for name, values in (
        ("shared − patch by patch", a - b), ("web − patch by patch", a - true), ("web − shared", b - true),
    ):  # fmt: skip
        squares = (values**2).mean((0, 1, 2))
        rings = [float(squares[(distance >= low) & (distance < high)].mean()) ** 0.5 for low, high in pairwise(RINGS)]
        judge.rings.setdefault(name, []).append(np.array(rings))


def judged_table(judge: Judge) -> str:
    lines = [f"codes differ by {np.mean(judge.codes):.3f} of their spread (stride 64)", ""]
    names = [f"{low}–{high - 1}" for low, high in pairwise(RINGS)]
    lines += ["| root mean square, by distance from the patch's border (px) | " + " | ".join(names) + " |"]
    lines += ["|---" * (len(names) + 1) + "|"]
    for name, values in judge.rings.items():
        lines.append(f"| {name} | " + " | ".join(f"{one:.4f}" for one in np.mean(values, 0)) + " |")
    lines += ["", "| stride, blend, σ | encoder | AUROC | PRO | mean residual of good web |", "|---|---|---|---|---|"]
    for stride, blend in PASSES:
        for sigma in judge.sigmas:
            for way in WAYS:
                auroc, pro, level = _metrics(judge.scores[way, stride, blend, sigma])
                lines.append(f"| {stride}, {blend}, {sigma:g} | {way} | {auroc:.4f} | {pro:.4f} | {level:.4f} |")
    return "\n".join(lines)


def _metrics(scores: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    with PixelScores() as pixels:
        for score, defect in scores:
            pixels.add(np.round(score, 4), defect)
        level = np.concatenate([score[~defect] for score, defect in scores]).mean()
        return pixels.auroc(), pixels.pro(), float(level)
