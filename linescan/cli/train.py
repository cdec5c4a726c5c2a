"""linescan train: from good footage to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from linescan.cli.common import closed, columns
from linescan.config import MAX_SMOOTHING_SIGMA, Augmentation, Method, SsimSettings, TrainingSettings, checked
from linescan.errors import ConfigError, TrainingError
from linescan.flatfield_file import load_flatfield
from linescan.footage import open_footage
from linescan.models.processor import has_fast_bfloat16
from linescan.training.calibrate import FalseAlarms
from linescan.training.course import PAPER, SHORT, course_for
from linescan.training.dataset import load_good_images
from linescan.training.features import RANDOM, load_features
from linescan.training.produce import PRESETS, Recommendation, produce
from linescan.training.train import Epoch, Trainer

CONSTANTS = {"wang": (0.01**2, 0.03**2), "paper": (0.01, 0.03)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    default = TrainingSettings()

    def usual(name: str) -> str:
        return f"{getattr(SHORT, name)}; with --preset paper or another method than ssim {getattr(PAPER, name)}"

    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="defect-free footage")
    parser.add_argument("--output", required=True, type=Path, metavar="M.pt", help="the bundle to write")
    parser.add_argument("--columns", type=columns, metavar="A:B", help="train on columns A…B−1 only")
    parser.add_argument("--flatfield", type=Path, metavar="F.npz", help="the camera's, where line.toml names one")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="default",
        help="the course of the training, and how the model is to be used",
    )
    parser.add_argument("--method", choices=get_args(Method), default="ssim", help="loss and residual")
    parser.add_argument("--latent", type=int, default=default.latent_dim, metavar="D", help="d of Table 1")
    parser.add_argument("--epochs", type=int, metavar="N", help=f"over the patches (default: {usual('epochs')})")
    parser.add_argument("--patches", type=int, default=default.patches, metavar="N", help="drawn from the footage")
    parser.add_argument("--patch-size", type=int, default=default.patch_size, metavar="P", help="lines and columns")
    parser.add_argument("--scale", type=int, default=default.scale, metavar="N", help="reduce the footage by 1/N")
    parser.add_argument("--batch", type=int, default=default.batch, metavar="N", help="patches a step")
    parser.add_argument("--learning-rate", type=float, metavar="R", help=f"of Adam (default: {usual('learning_rate')})")
    parser.add_argument("--weight-decay", type=float, default=default.weight_decay, metavar="R", help="of Adam")
    parser.add_argument(
        "--schedule", choices=("constant", "cosine"), help=f"of the learning rate (default: {usual('schedule')})"
    )
    parser.add_argument(
        "--augment",
        nargs="+",
        default=(),
        choices=get_args(Augmentation),
        help="what else good web may look like, and blots that the model learns to leave out (default: none)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="of weights, patches and noise")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 where the device is fast at it",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    ssim = parser.add_argument_group("SSIM (eq. 4–8)")
    ssim.add_argument("--window", type=int, default=default.ssim.window, metavar="K", help="odd, pixels")
    ssim.add_argument(
        "--window-kind", choices=("uniform", "gaussian"), default=default.ssim.kind, help="weights in the window"
    )
    ssim.add_argument(
        "--constants", choices=sorted(CONSTANTS), default="wang", help="c1, c2; wang: 0.01², 0.03², paper: 0.01, 0.03"
    )
    ssim.add_argument(
        "--exponents",
        nargs=3,
        type=float,
        default=(1.0, 1.0, 1.0),
        metavar=("α", "β", "γ"),
        help="of luminance, contrast and structure",
    )
    others = parser.add_argument_group("VAE and feature matching (§3.1.2, §3.1.3)")
    others.add_argument("--samples", type=int, default=default.samples, metavar="N", help="latent samples of a VAE")
    others.add_argument(
        "--kl-weight", type=float, default=default.kl_weight, metavar="W", help="of a VAE's divergence from the prior"
    )
    others.add_argument(
        "--kl-warmup-epochs",
        type=int,
        default=default.kl_warmup_epochs,
        metavar="N",
        help="the weight is 0 for half of them, then rises",
    )
    others.add_argument(
        "--features",
        metavar="FILE",
        help=f"torchvision's AlexNet for method fm, or {RANDOM!r} (default: from torch hub's folder)",
    )
    others.add_argument("--feature-weight", type=float, default=default.feature_weight, metavar="λ", help="of eq. 3")
    use = parser.add_argument_group("use of the model (default: the preset's)")
    use.add_argument("--stride", type=int, metavar="N", help="of the patches (default: measured)")
    use.add_argument("--smoothing-sigma", type=float, metavar="S", help="of the residual, scaled pixels; 0: none")
    use.add_argument("--false-alarms", type=float, default=0.1, metavar="R", help="wanted per m², or per megapixel")
    use.add_argument("--pixel-size-mm", type=float, metavar="MM", help="makes the rate one per m²")
    use.add_argument("--terms", default="", metavar="TEXT", help="terms of the training images, stored in the bundle")
    keep = parser.add_argument_group("checkpoints")
    keep.add_argument("--fresh", action="store_true", help="do not resume from M.pt.checkpoint")
    keep.add_argument("--bundle-every", type=int, metavar="N", help="also write M.epochNNN.pt every N epochs")


def run(args: argparse.Namespace) -> int:
    features, features_name = None, ""
    if args.method == "fm":
        features, features_name = load_features(args.features, args.patch_size)
    elif args.features is not None:
        raise ConfigError(f"--features {args.features}: only --method fm has features, not {args.method}")
    settings, use = _settings(args, features_name), _use(args)
    asked = FalseAlarms(args.false_alarms, args.pixel_size_mm)
    if not args.output.parent.is_dir():
        raise ConfigError(f"--output {args.output}: the folder {args.output.parent} does not exist")
    if args.output.is_dir():
        raise ConfigError(f"--output {args.output}: a file was expected, it is a folder")
    if args.bundle_every is not None and args.bundle_every < 1:
        raise ConfigError(f"--bundle-every {args.bundle_every}: 1 or more epochs expected")
    flatfield = load_flatfield(args.flatfield) if args.flatfield else None
    images = load_good_images(args.images, settings.columns, settings.scale, settings.patch_size, flatfield)
    checkpoint = args.output.with_name(args.output.name + ".checkpoint")
    if args.fresh:
        checkpoint.unlink(missing_ok=True)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = Trainer(images, settings, device, checkpoint, features)
    if trainer.history:
        print(f"resumed from {checkpoint} after epoch {trainer.history[-1].number}")

    def after_epoch(epoch: Epoch) -> None:
        bar.write(
            f"epoch {epoch.number}: loss {epoch.loss:.4f}, held-out {epoch.validation_loss:.4f}, correlation "
            f"{epoch.correlation:.3f}, contrast {epoch.contrast:.2f}, latent dimensions in use "
            f"{epoch.latent_used:.0f} of {settings.latent_dim}"
        )
        if args.bundle_every and epoch.number % args.bundle_every == 0 and epoch.number < settings.epochs:
            path = args.output.with_suffix(f".epoch{epoch.number:03d}.pt")
            try:
                produce(trainer, images, use, asked, path, args.terms)
            except TrainingError as error:  # it may become better yet
                bar.write(f"{path.name} was not written: {error}")

    steps = -(-settings.patches // settings.batch)
    with tqdm(total=steps * settings.epochs, initial=steps * len(trainer.history), unit="step") as bar:

        def after_step(_step: int, _steps: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()

        trainer.fit(after_step, after_epoch)
    produced = produce(trainer, images, use, asked, args.output, args.terms)
    if produced.stride is not None:
        print(produced.stride.table())
    _report(produced.bundle.metadata, produced.bundle.sha256, args.output, produced.recipe)
    return 0


def _settings(args: argparse.Namespace, features: str) -> TrainingSettings:
    c1, c2 = CONSTANTS[args.constants]
    alpha, beta, gamma = args.exponents
    ssim: dict[str, Any] = {"window": args.window, "kind": args.window_kind, "c1": c1, "c2": c2}
    course = course_for(args.preset, args.method)
    precision = args.precision
    if precision == "auto":
        precision = "bfloat16" if torch.cuda.is_available() or has_fast_bfloat16() else "float32"
    return checked(
        TrainingSettings,
        "linescan train",
        method=args.method,
        latent_dim=args.latent,
        patch_size=args.patch_size,
        scale=args.scale,
        columns=_columns(args),
        epochs=course.epochs if args.epochs is None else args.epochs,
        patches=args.patches,
        batch=args.batch,
        learning_rate=course.learning_rate if args.learning_rate is None else args.learning_rate,
        weight_decay=args.weight_decay,
        schedule=args.schedule or course.schedule,
        augment=tuple(args.augment),
        seed=args.seed,
        precision=precision,
        ssim=checked(SsimSettings, "linescan train", **ssim, alpha=alpha, beta=beta, gamma=gamma),
        samples=args.samples,
        kl_weight=args.kl_weight,
        kl_warmup_epochs=args.kl_warmup_epochs,
        features=features,
        feature_weight=args.feature_weight,
    )


def _columns(args: argparse.Namespace) -> tuple[int, int] | None:
    if args.columns is None or args.columns[1] is not None:
        return args.columns  # type: ignore[no-any-return]
    with open_footage(args.images) as footage:
        return closed(args.columns, footage.columns)


def _use(args: argparse.Namespace) -> Recommendation:
    preset = PRESETS[args.preset]
    usual = preset.stride if (preset.stride or 0) <= args.patch_size else args.patch_size // 2
    stride = args.stride if args.stride is not None else usual
    sigma = args.smoothing_sigma if args.smoothing_sigma is not None else preset.smoothing_sigma
    if stride is not None and not 1 <= stride <= args.patch_size:
        raise ConfigError(f"--stride {stride}: 1 to the patch size, {args.patch_size}, expected")
    if sigma is not None and not 0 <= sigma <= MAX_SMOOTHING_SIGMA:
        raise ConfigError(f"--smoothing-sigma {sigma:g}: 0 to {MAX_SMOOTHING_SIGMA} expected")
    return Recommendation(stride, preset.blend, sigma, preset.calibrate_columns)


def _report(metadata: Any, sha256: str, output: Path, recipe: Path | None) -> None:
    basis = metadata.threshold_basis
    rate = f"{basis.false_alarms:g} per {basis.per}"
    extrapolated = " (extrapolated beyond what this much good web can show)" if basis.extrapolated else ""
    print(f"threshold {metadata.threshold:.4f} for {rate} on {basis.calibration_megapixels} megapixels{extrapolated}")
    print(f"written: {output}\n  sha256 {sha256}")
    if recipe is not None:
        print(f"written: {recipe}, with a column calibration: the residual differs across this web")
