"""Reproduce the tables and figures of Bergmann et al. 2018 with linescan's own training and inspection.

    python tools/reproduce_paper.py fig6a --data DATA --out OUT --device cuda
    python tools/reproduce_paper.py all --data DATA --out OUT --device cuda --features alexnet-owt-7be5be79.pth

DATA holds nanotwice, mvtec_grid_512 and aitex_f02, each with train/good, test/… and ground_truth. For each item OUT
gets NAME.md (what docs/results.md wants: the table beside the paper's figures, command, seed, machine, time), NAME.json
and the pictures. Trained models and evaluations are kept in OUT by their settings and used again: a run that was
stopped goes on where it was. With fewer --epochs or --patches than the paper's,
another learning rate, or --limit, every result says so.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from paper import figures, tables, toys  # noqa: E402
from paper.workspace import Workspace  # noqa: E402

from linescan.cli.common import guarded  # noqa: E402
from linescan.config import SsimSettings, TrainingSettings, checked  # noqa: E402
from linescan.errors import ConfigError  # noqa: E402

ITEMS: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "fig1": (figures.fig1, "one NanoTWICE image, ℓ2 beside SSIM"),
    "fig2": (toys.fig2, "three pairs of patches of the same ℓ2 distance"),
    "fig3": (toys.fig3, "the checkerboard: ℓ2, luminance, contrast, structure, SSIM"),
    "fig5": (figures.fig5, "reconstruction, residual and segmentation on two textures, ℓ2 and SSIM"),
    "fig6a": (figures.fig6a, "ROC curves of the four systems on NanoTWICE"),
    "fig6b": (figures.fig6b, "ROC curves of the four systems on grid at 256 pixels"),
    "fig6c": (figures.fig6c, "ROC curves of the four systems on grid at 512 pixels"),
    "fig7": (figures.fig7, "overlap quantiles on NanoTWICE"),
    "fig8": (figures.fig8, "a defect of high contrast and one of low contrast, ℓ2 and SSIM"),
    "table2": (tables.table2, "latent dimension, window and patch size on NanoTWICE"),
    "aitex": (tables.aitex, "defects found on aitex_f02 without a false region on good strips"),
    "runtime": (tables.runtime, "a forward pass, and a whole image"),
}
CONSTANTS = {"wang": (0.01**2, 0.03**2), "paper": (0.01, 0.03)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:8}{about}" for name, (_, about) in ITEMS.items()),
    )  # fmt: skip
    parser.add_argument("items", nargs="+", choices=[*ITEMS, "all"], metavar="ITEM", help="of those below, or all")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the image sets lie")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="made where it is missing")
    parser.add_argument("--epochs", type=int, default=200, metavar="N")
    parser.add_argument("--patches", type=int, default=10_000, metavar="N")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="of the training; the paper does not say")
    parser.add_argument("--learning-rate", type=float, default=2e-4, metavar="R", help="the paper's: 2e-4")
    parser.add_argument("--schedule", choices=("constant", "cosine"), default="constant", help="of the learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="of the training")
    parser.add_argument("--features", metavar="FILE", help="AlexNet for feature matching, or 'random'")
    parser.add_argument("--kl-weight", type=float, default=1.0, metavar="W", help="of the VAE; 1 is the plain bound")
    parser.add_argument("--window-kind", choices=("uniform", "gaussian"), default="uniform")
    parser.add_argument("--constants", choices=sorted(CONSTANTS), default="wang", help="c1, c2 of SSIM")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N test images of each set, for a trial")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    return guarded("reproduce_paper", lambda: _run(options, shlex.join(["tools/reproduce_paper.py", *given])))


def _run(options: argparse.Namespace, command: str) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; --device cpu runs without one")
    asked = ("epochs", "patches", "batch", "kl_weight", "learning_rate", "schedule")
    checked(TrainingSettings, "reproduce_paper", **{name: getattr(options, name) for name in asked})
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: at least 1 image of each set expected")
    c1, c2 = CONSTANTS[options.constants]
    workspace = Workspace(
        data=options.data,
        out=options.out,
        epochs=options.epochs,
        patches=options.patches,
        batch=options.batch,
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        seed=options.seed,
        device=torch.device(options.device),
        precision=options.precision,
        features=options.features,
        kl_weight=options.kl_weight,
        ssim=checked(SsimSettings, "reproduce_paper", kind=options.window_kind, c1=c1, c2=c2),
        limit=options.limit,
        command=f"python {command}",
    )
    for name in ITEMS if "all" in options.items else dict.fromkeys(options.items):
        print(f"{name}: {ITEMS[name][1]}", flush=True)
        ITEMS[name][0](workspace)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
