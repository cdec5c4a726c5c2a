"""Trains an autoencoder on good patches: resumable, reproducible by seed, and loud when it goes wrong."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linescan.config import TrainingSettings
from linescan.errors import InputError, TrainingError
from linescan.files import write_atomically
from linescan.models.autoencoder import Model, VariationalAutoencoder, initialise, model_for
from linescan.models.memory import keep_freed_memory
from linescan.training.agreement import agreement
from linescan.training.augmentation import augment, spoilt
from linescan.training.dataset import GoodImages, PatchSampler
from linescan.training.gradients import channels_last
from linescan.training.losses import Objective

CHECKPOINT_FORMAT = 2  # since 2 the losses are sums over a patch, and Adam's moments with them
VALIDATION_PATCHES = 256
DEAD_START_STEPS = 600  # a start that reconstructs nothing after so many steps will not move (docs/decisions/002)
DEAD_CORRELATION = 0.1
STANDING = 0.98  # of the epoch's before: a held-out loss that falls faster is that of a start that is slow, not dead
COLLAPSED_VARIATION = 0.02  # of the web's: the reconstruction is the same, whatever goes in
LOSSES_TOGETHER = 32  # steps whose losses are read at once from a GPU, which stands still for it
MIN_NOISE_VARIANCE = 1e-6  # under the noise of 8-bit grey, 1/12 of a grey level squared
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed; all but the losses compare the reconstructions of held-out patches with these.

    The names are those of `Agreement`.
    """

    number: int
    loss: float
    validation_loss: float
    correlation: float
    contrast: float
    brightness: float = 1.0
    variation: float | None = None
    latent_used: float = 0.0


class Trainer:
    """One training run over good images.

    Args:
        images: from `load_good_images`, scaled.
        settings: what to train; the seed decides places, order and initial weights.
        checkpoint: file written after each epoch, atomically, and resumed from where it exists; None for neither.
        features: of method fm, from `load_features`.
    """

    def __init__(
        self,
        images: GoodImages,
        settings: TrainingSettings,
        device: torch.device,
        checkpoint: Path | None = None,
        features: nn.Module | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.settings = settings
        self.device = device
        self.checkpoint = checkpoint
        self.history: list[Epoch] = []
        self.losses_together = 1 if device.type == "cpu" else LOSSES_TOGETHER
        self._objective = Objective(settings, device, features)
        self._fingerprint = images.fingerprint
        generator = torch.Generator().manual_seed(settings.seed)
        self._sampler = PatchSampler(images.training, settings.patch_size, device)
        self._places = self._sampler.draw(settings.patches, generator).to(device)
        held_out = PatchSampler(images.held_out, settings.patch_size, device)
        self._validation = held_out.cut(held_out.draw(VALIDATION_PATCHES, generator))
        mean_grey = float(torch.cat([image.flatten() for image in images.training]).mean())
        self.model: Model = model_for(settings, self._sampler.channels)
        initialise(self.model, mean_grey, generator)
        self.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def fit(self, on_step: OnStep | None = None, on_epoch: Callable[[Epoch], None] | None = None) -> None:
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

    def noise_variance(self) -> float:
        """Variance of held-out pixels about single samples of a VAE, the estimate of greatest likelihood for σ₀²."""
        assert isinstance(self.model, VariationalAutoencoder)
        self.model.eval()
        squares = 0.0
        with torch.inference_mode():
            for part in torch.split(self._validation, 64):
                mean, variance = self.model.moments(channels_last(part)).chunk(2, 1)
                squares += float(((part - mean) ** 2 + variance).sum())
        return max(squares / self._validation.numel(), MIN_NOISE_VARIANCE)

    def _train_epoch(self, number: int, on_step: OnStep | None) -> float:
        # one generator an epoch, so that a resumed run continues in the order of an unbroken one
        generator, chance = self._generators(number)
        order = torch.randperm(len(self._places), generator=generator).to(self.device)
        batches = torch.split(order, self.settings.batch)
        losses = _Losses(number, len(batches), self.losses_together, on_step)
        self.model.train()
        for step, chosen in enumerate(batches):
            self._set_learning_rate((number - 1) * len(batches) + step, self.settings.epochs * len(batches))
            self._set_kl_weight(number - 1 + step / len(batches))
            patches = augment(self._sampler.cut(self._places[chosen]), self.settings.augment, chance)
            shown = spoilt(patches, chance) if "defects" in self.settings.augment else patches
            loss = self._objective(self.model, shown, chance, patches)
            losses.add(loss.detach())
            self._optimiser.zero_grad(set_to_none=True)
            # The losses of the paper are sums over pixels. To Adam only the proportion to the weight decay matters:
            # beside a mean it would be as many times stronger, and empty the network on a plateau (decisions/002).
            (loss * patches[0, 0].numel()).backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
        return losses.mean([len(chosen) for chosen in batches])

    def _generators(self, number: int) -> tuple[torch.Generator, torch.Generator]:
        """Of the order of the patches, the same on every device, and of what is drawn on the device."""
        seed = self.settings.seed * 1_000_003 + number
        generator = torch.Generator().manual_seed(seed)
        if self.device.type == "cpu":
            return generator, generator
        return generator, torch.Generator(self.device).manual_seed(seed)

    def _set_learning_rate(self, step: int, steps: int) -> None:
        factor = 1.0 if self.settings.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def _set_kl_weight(self, epochs: float) -> None:
        """A decoder that has learnt nothing yet gives no reason to keep what the divergence takes away.

        However small its weight: Adam scales the gradients, and alone it would empty the latent dimensions.
        """
        warmup = self.settings.kl_warmup_epochs
        share = 2 * epochs / warmup - 1 if warmup else 1.0
        self._objective.kl_weight = self.settings.kl_weight * min(1.0, max(0.0, share))

    def _validate(self, number: int, loss: float) -> Epoch:
        self.model.eval()
        self._objective.kl_weight = self.settings.kl_weight
        _, chance = self._generators(0)  # the same sample of a VAE in every epoch
        parts = torch.split(self._validation, 64)
        with torch.inference_mode():
            losses = [float(self._objective(self.model, part, chance)) * len(part) for part in parts]
            reconstruction = torch.cat([self._objective.reconstruct(self.model, part) for part in parts])
            codes = torch.cat([self.model.codes(part) for part in parts])
            seen = agreement(self.model, self._validation, reconstruction, codes)
        return Epoch(number, loss, sum(losses) / len(self._validation), **vars(seen))

    def _refuse_bad_optimum(self, epoch: Epoch) -> None:
        if not math.isfinite(epoch.validation_loss + epoch.correlation):
            raise TrainingError(_diverged(f"the held-out loss is {epoch.validation_loss}", epoch.number))
        steps = epoch.number * math.ceil(len(self._places) / self.settings.batch)
        self._refuse_collapse(epoch, steps)
        # early on the correlation may be negative by chance; in the optimum the mean is negative too (decisions/002)
        if epoch.correlation < -DEAD_CORRELATION and epoch.brightness < 0:
            raise TrainingError(
                f"epoch {epoch.number}: the reconstruction is the negative of the web (correlation "
                f"{epoch.correlation:.2f}): the mirrored optimum of SSIM, where the loss looks good and no defect "
                "shows. Train again with another --seed"
            )
        # after one epoch nobody knows whether it stands; after the last one there is no time left to learn
        falls = not self.history or epoch.validation_loss < STANDING * self.history[-1].validation_loss
        learns = falls and epoch.number < self.settings.epochs
        if steps >= DEAD_START_STEPS and epoch.correlation < DEAD_CORRELATION and not learns:
            raise TrainingError(
                f"epoch {epoch.number}: after {steps} steps the reconstruction still has nothing of the web "
                f"(correlation {epoch.correlation:.2f}, contrast {epoch.contrast:.2f} of the web's): a dead start. "
                "Train again with another --seed or --learning-rate (squared errors want a smaller one), or a larger "
                "--latent"
            )

    def _refuse_collapse(self, epoch: Epoch, steps: int) -> None:
        if steps < DEAD_START_STEPS or epoch.variation is None:
            return
        if self.settings.method == "vae" and not epoch.latent_used:
            raise TrainingError(
                f"epoch {epoch.number}: the latent dimension has collapsed: after {steps} steps none of its "
                f"{self.settings.latent_dim} dimensions tells one patch from another, the posterior is the prior. "
                "Train again with a smaller --kl-weight or another --learning-rate"
            )
        if epoch.correlation >= DEAD_CORRELATION and epoch.variation < COLLAPSED_VARIATION:
            raise TrainingError(
                f"epoch {epoch.number}: the latent dimension has collapsed: after {steps} steps the reconstruction is "
                f"the same whatever goes in (its patches differ by {epoch.variation:.2%} of what the web's do). "
                "Train again with another --seed or --learning-rate (squared errors want a smaller one), or a larger "
                "--latent"
            )

    def _save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "fingerprint": self._fingerprint,
            "settings": self.settings.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
        }
        buffer = io.BytesIO()  # torch hides what the system refuses, like room on the disk
        torch.save(state, buffer)
        write_atomically(path, buffer.getvalue())

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
        usual = TrainingSettings().model_dump(mode="json")  # of what an older checkpoint does not say
        found = {**usual, "epochs": asked["epochs"], **state["settings"]}
        if self.settings.schedule == "constant":
            found["epochs"] = asked["epochs"]
        differing = [key for key in asked if found.get(key) != asked[key]]
        if state.get("format") != CHECKPOINT_FORMAT:
            differing.append("the version of linescan that wrote it")
        return differing if state["fingerprint"] == self._fingerprint else [*differing, "the images"]


@dataclass
class _Losses:
    """The losses of an epoch, kept on the device and read so many together; raises TrainingError at one that is none.

    On a GPU the steps run ahead of Python: reading each loss would have it wait for Python and Python for it.
    """

    epoch: int
    steps: int
    together: int
    on_step: OnStep | None
    values: list[float] = field(default_factory=list)
    unread: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor) -> None:
        self.unread.append(loss)
        if len(self.unread) == self.together or len(self.values) + len(self.unread) == self.steps:
            self._read()

    def mean(self, sizes: list[int]) -> float:
        """Over the patches of batches of these sizes."""
        return sum(value * size for value, size in zip(self.values, sizes, strict=True)) / sum(sizes)

    def _read(self) -> None:
        losses: list[float] = torch.stack(self.unread).tolist()
        self.unread.clear()
        for value in losses:
            self.values.append(value)
            if not math.isfinite(value):
                where = f"the loss is {value} in epoch {self.epoch}, step {len(self.values)}"
                raise TrainingError(_diverged(where, self.epoch))
            if self.on_step is not None:
                self.on_step(len(self.values), self.steps, value)


def _diverged(what: str, number: int) -> str:
    kept = f"the checkpoint holds epoch {number - 1}" if number > 1 else "nothing was kept of it"
    return f"{what}: training diverged; {kept}. Try a smaller --learning-rate or --precision float32"
