"""Trains an autoencoder on good patches: resumable, reproducible by seed, and loud when it goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linescan.config import TrainingSettings
from linescan.errors import InputError, TrainingError
from linescan.files import atomic_file
from linescan.models.autoencoder import Autoencoder, initialise
from linescan.training.dataset import GoodImages, PatchSampler
from linescan.training.losses import reconstruction_loss

VALIDATION_PATCHES = 256
DEAD_START_STEPS = 600  # a start that reconstructs nothing after so many steps will not move (docs/decisions/002)
DEAD_CORRELATION = 0.1


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed; the last three compare the reconstructions of held-out patches with these.

    `correlation` is the patches' mean one, `contrast` and `brightness` are shares of the web's.
    """

    number: int
    loss: float
    validation_loss: float
    correlation: float
    contrast: float
    brightness: float = 1.0


class Trainer:
    """One training run over good images.

    Args:
        images: from `load_good_images`, scaled.
        settings: what to train; the seed decides places, order and initial weights.
        checkpoint: file written after each epoch, atomically, and resumed from where it exists; None for neither.
    """

    def __init__(
        self, images: GoodImages, settings: TrainingSettings, device: torch.device, checkpoint: Path | None = None
    ) -> None:
        self.settings = settings
        self.device = device
        self.checkpoint = checkpoint
        self.history: list[Epoch] = []
        self._fingerprint = images.fingerprint
        generator = torch.Generator().manual_seed(settings.seed)
        self._sampler = PatchSampler(images.training, settings.patch_size, device)
        self._places = self._sampler.draw(settings.patches, generator)
        held_out = PatchSampler(images.held_out, settings.patch_size, device)
        self._validation = held_out.cut(held_out.draw(VALIDATION_PATCHES, generator))
        mean_grey = float(torch.cat([image.flatten() for image in images.training]).mean())
        self.model = Autoencoder(settings.latent_dim, self._sampler.channels, settings.patch_size)
        initialise(self.model, mean_grey, generator)
        self.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def fit(
        self, on_step: Callable[[int, int, float], None] | None = None, on_epoch: Callable[[Epoch], None] | None = None
    ) -> None:
        """Trains up to the settings' epochs; raises TrainingError where the run cannot lead anywhere."""
        for number in range(len(self.history) + 1, self.settings.epochs + 1):
            loss = self._train_epoch(number, on_step)
            epoch = self._validate(number, loss)
            self._refuse_bad_optimum(epoch)
            self.history.append(epoch)
            if self.checkpoint is not None:
                self._save(self.checkpoint)
            if on_epoch is not None:
                on_epoch(epoch)

    def _train_epoch(self, number: int, on_step: Callable[[int, int, float], None] | None) -> float:
        # one generator an epoch, so that a resumed run continues in the order of an unbroken one
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
        order = torch.randperm(len(self._places), generator=generator)
        batches = torch.split(order, self.settings.batch)
        total = 0.0
        self.model.train()
        for step, chosen in enumerate(batches):
            self._set_learning_rate((number - 1) * len(batches) + step, self.settings.epochs * len(batches))
            patches = augment(self._sampler.cut(self._places[chosen]), self.settings.augment, generator)
            loss = self._loss(patches, self._reconstruct(patches))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(_diverged(f"the loss is {value} in epoch {number}, step {step + 1}", number))
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            total += value * len(chosen)
            if on_step is not None:
                on_step(step + 1, len(batches), value)
        return total / len(self._places)

    def _reconstruct(self, patches: Tensor) -> Tensor:
        half = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            reconstruction: Tensor = self.model(patches.to(memory_format=torch.channels_last))
        return reconstruction.float().contiguous()

    def _loss(self, patches: Tensor, reconstruction: Tensor) -> Tensor:
        return reconstruction_loss(self.settings.method, patches, reconstruction, self.settings.ssim)

    def _set_learning_rate(self, step: int, steps: int) -> None:
        factor = 1.0 if self.settings.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def _validate(self, number: int, loss: float) -> Epoch:
        self.model.eval()
        with torch.inference_mode():
            reconstruction = torch.cat([self._reconstruct(part) for part in torch.split(self._validation, 64)])
            validation_loss = float(self._loss(self._validation, reconstruction))
        return Epoch(number, loss, validation_loss, *_agreement(self._validation, reconstruction))

    def _refuse_bad_optimum(self, epoch: Epoch) -> None:
        if not math.isfinite(epoch.validation_loss + epoch.correlation):
            raise TrainingError(_diverged(f"the held-out loss is {epoch.validation_loss}", epoch.number))
        steps = epoch.number * math.ceil(len(self._places) / self.settings.batch)
        # early on the correlation may be negative by chance; in the optimum the mean is negative too (decisions/002)
        if epoch.correlation < -DEAD_CORRELATION and epoch.brightness < 0:
            raise TrainingError(
                f"epoch {epoch.number}: the reconstruction is the negative of the web (correlation "
                f"{epoch.correlation:.2f}): the mirrored optimum of SSIM, where the loss looks good and no defect "
                "shows. Train again with another --seed"
            )
        if steps >= DEAD_START_STEPS and epoch.correlation < DEAD_CORRELATION:
            raise TrainingError(
                f"epoch {epoch.number}: after {steps} steps the reconstruction still has nothing of the web "
                f"(correlation {epoch.correlation:.2f}, contrast {epoch.contrast:.2f} of the web's): a dead start. "
                "Train again with another --seed, or a larger --learning-rate or --latent"
            )

    def _save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "settings": self.settings.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
        }
        with atomic_file(path) as file:
            torch.save(state, file)

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            differing = self._differing(state)
            history = [Epoch(**epoch) for epoch in state["history"]]
            if not differing:
                self.model.load_state_dict(state["model"])
                self._optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
            raise InputError(f"{path}: not a training checkpoint: {error}") from error
        if differing:
            raise InputError(
                f"{path}: belongs to another training run (differs in {', '.join(differing)}); remove it to start anew"
            )
        if len(history) > self.settings.epochs:
            raise InputError(
                f"{path}: holds {len(history)} epochs, {self.settings.epochs} are asked for; remove it to start anew"
            )
        self.history = history

    def _differing(self, state: dict[str, Any]) -> list[str]:
        """What the checkpoint's run was asked for otherwise; a run of constant learning rate may be made longer."""
        asked = self.settings.model_dump(mode="json")
        found = {"epochs": asked["epochs"], **state["settings"]}
        if self.settings.schedule == "constant":
            found["epochs"] = asked["epochs"]
        differing = [key for key in asked if found.get(key) != asked[key]]
        return differing if state["fingerprint"] == self._fingerprint else [*differing, "the images"]


def _diverged(what: str, number: int) -> str:
    kept = f"the checkpoint holds epoch {number - 1}" if number > 1 else "nothing was kept of it"
    return f"{what}: training diverged; {kept}. Try a smaller --learning-rate or --precision float32"


def augment(patches: Tensor, kinds: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """N×C×P×P patches flipped or brightened at random, by the kinds asked for."""
    for kind, dim in (("flip-lines", -2), ("flip-columns", -1)):
        if kind in kinds:
            chosen = (torch.rand(len(patches), 1, 1, 1, generator=generator) < 0.5).to(patches.device)
            patches = torch.where(chosen, patches.flip(dim), patches)
    if "brightness" in kinds:
        gain = 0.9 + 0.2 * torch.rand(len(patches), 1, 1, 1, generator=generator)
        patches = (patches * gain.to(patches.device)).clamp(0, 1)
    return patches


def _agreement(patches: Tensor, reconstruction: Tensor) -> tuple[float, float, float]:
    """Mean correlation of patches with their reconstructions, and these' shares of their contrast and mean grey."""
    x = patches.flatten(1) - patches.flatten(1).mean(1, keepdim=True)
    y = reconstruction.flatten(1) - reconstruction.flatten(1).mean(1, keepdim=True)
    norm_x, norm_y = x.norm(dim=1), y.norm(dim=1)
    correlation = (x * y).sum(1) / (norm_x * norm_y).clamp_min(1e-12)
    contrast = norm_y / norm_x.clamp_min(1e-12)
    brightness = reconstruction.mean() / patches.mean().clamp_min(1e-12)
    return float(correlation.mean()), float(contrast.mean()), float(brightness)
