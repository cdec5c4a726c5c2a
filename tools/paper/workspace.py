"""Trained models and evaluations, kept in the output folder by their settings and used again."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from linescan.config import SsimSettings, TrainingSettings, checked
from linescan.errors import TrainingError
from linescan.files import make_folder, write_atomically
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import Setup, load_setup
from linescan.training.calibrate import FalseAlarms
from linescan.training.dataset import load_good_images
from linescan.training.evaluate import evaluate
from linescan.training.features import load_features
from linescan.training.produce import PRESETS, produce
from linescan.training.train import Epoch, Trainer
from paper.sets import ImageSet

RATES = (0.1, 10.0, 1e3, 1e5, 1e7)  # false alarms per megapixel, for the bundle's own threshold
PAPER_EPOCHS, PAPER_PATCHES, PAPER_LEARNING_RATE = 200, 10_000, 2e-4


@dataclass(frozen=True)
class Trained:
    """A bundle, what its training took, and the recipe with a column calibration where the preset made one."""

    bundle: Path
    recipe: Path | None
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """What `linescan evaluate` measured, and the seconds it took."""

    metrics: dict[str, Any]
    curves: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Workspace:
    """What was asked for on the command line; everything is computed at most once for the same answer."""

    data: Path
    out: Path
    epochs: int
    patches: int
    batch: int
    learning_rate: float
    schedule: str
    seed: int
    device: torch.device
    precision: str
    features: str | None
    kl_weight: float
    ssim: SsimSettings
    limit: int | None
    command: str

    @property
    def reduced(self) -> str:
        """How this falls short of the paper's schedule; empty where it does not."""
        short = [f"{self.epochs} epochs instead of {PAPER_EPOCHS}"] if self.epochs < PAPER_EPOCHS else []
        short += [f"{self.patches} patches instead of {PAPER_PATCHES}"] if self.patches < PAPER_PATCHES else []
        if self.learning_rate != PAPER_LEARNING_RATE or self.schedule != "constant":
            short += [f"learning rate {self.learning_rate:g}, {self.schedule}, instead of {PAPER_LEARNING_RATE:g}"]
        short += [f"only the first {self.limit} test images of each set"] if self.limit is not None else []
        return ", ".join(short)

    def trained(self, web: ImageSet, method: str, preset: str = "paper", **changes: Any) -> Trained:
        """A bundle of the method for the set, from the folder of models or trained now.

        `changes` are fields of TrainingSettings. Raises what training raises.
        """
        features, name = None, ""
        if method == "fm":
            features, name = load_features(self.features, changes.get("patch_size", 128))
        settings = self._settings(web, method, name, changes)
        path = self._place(web, settings, preset)
        checkpoint = self._place(web, settings).with_suffix(".checkpoint")  # every preset uses the same training
        log = path.with_suffix(".json")
        if not (path.exists() and log.exists() and "produced" in json.loads(log.read_text())):
            self._train(web, settings, preset, path, checkpoint, features)
        known = json.loads(log.read_text())
        recipe = path.with_suffix(".toml") if known["recipe"] else None
        return Trained(path, recipe, known["seconds"])

    def evaluated(self, web: ImageSet, trained: Trained, recipe: bool = False) -> Evaluated:
        """All test images of the set through the engine, at the bundle's stride."""
        web = web.limited(self.limit)
        setup = self.setup(trained, recipe)
        limit = "" if self.limit is None else f"-first{self.limit}"
        folder = self.out / "evaluations" / f"{trained.bundle.stem}{'-columns' if recipe else ''}{limit}"
        done = folder / "took.json"
        if not done.exists() or json.loads(done.read_text())["sha256"] != setup.bundle.sha256:
            print(f"  evaluating {folder.name}", flush=True)
            start = time.perf_counter()
            test, good = ([str(path) for path in part] for part in (web.test, web.good))
            evaluate(test, web.masks, good, setup, self.runner(setup), folder)
            took = {"sha256": setup.bundle.sha256, "seconds": time.perf_counter() - start}
            write_atomically(done, json.dumps(took).encode())
        metrics, curves = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "curves"))
        return Evaluated(metrics, curves, json.loads(done.read_text())["seconds"])

    def setup(self, trained: Trained, recipe: bool = False) -> Setup:
        return load_setup(None, trained.recipe) if recipe else load_setup(trained.bundle)

    def runner(self, setup: Setup) -> Runner:
        return Runner(setup.bundle, choose_execution(setup.bundle, self.device.type))

    def _settings(self, web: ImageSet, method: str, features: str, changes: dict[str, Any]) -> TrainingSettings:
        usual: dict[str, Any] = {
            "method": method, "latent_dim": web.latent_dim, "scale": web.scale, "columns": web.columns,
            "epochs": self.epochs, "patches": self.patches, "batch": self.batch, "seed": self.seed,
            "learning_rate": self.learning_rate, "schedule": self.schedule,
            "precision": self.precision, "ssim": self.ssim, "features": features, "kl_weight": self.kl_weight,
        }  # fmt: skip
        return checked(TrainingSettings, "reproduce_paper", **{**usual, **changes})

    def _place(self, web: ImageSet, settings: TrainingSettings, preset: str = "") -> Path:
        wanted = f"{web.name} {settings.model_dump_json()} {[path.name for path in web.train]}"
        name = f"{web.name}-{settings.method}-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"
        name += f"-{preset}" if preset else ""
        return self.out / "models" / f"{name}.pt"

    def _train(
        self,
        web: ImageSet,
        settings: TrainingSettings,
        preset: str,
        path: Path,
        checkpoint: Path,
        features: torch.nn.Module | None,
    ) -> None:
        make_folder(path.parent)
        images = load_good_images([str(p) for p in web.train], settings.columns, settings.scale, settings.patch_size)
        trainer = Trainer(images, settings, self.device, checkpoint, features)
        clock = _Clock(checkpoint.with_suffix(".seconds.json"))
        with tqdm(total=settings.epochs, initial=len(trainer.history), desc=f"  {path.stem}", unit="epoch") as bar:

            def after_epoch(epoch: Epoch) -> None:
                clock.lap()
                bar.set_postfix_str(f"loss {epoch.loss:.4f}", refresh=False)
                bar.update()

            trainer.fit(on_epoch=after_epoch)
        for rate in RATES:  # a weak model finds its own reference defect only where false alarms are many
            try:
                produced = produce(trainer, images, PRESETS[preset], FalseAlarms(rate), path, web.terms)
                break
            except TrainingError:
                if rate == RATES[-1]:
                    raise
        recipe = produced.recipe is not None
        known = {"seconds": clock.seconds, "produced": True, "false_alarms_per_megapixel": rate, "recipe": recipe}
        write_atomically(path.with_suffix(".json"), json.dumps(known).encode())


class _Clock:
    """Seconds of training over all runs that it took, in a file beside the checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self.seconds = float(known.get("seconds", 0))
        self._since = time.perf_counter()

    def lap(self) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        write_atomically(self._path, json.dumps({"seconds": self.seconds}).encode())
