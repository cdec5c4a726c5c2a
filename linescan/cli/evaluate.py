"""linescan evaluate: metrics and pictures of a model on images with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from linescan.cli.common import add_execution_arguments, add_model_arguments, closed
from linescan.footage import open_footage
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import load_setup
from linescan.training.evaluate import evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="images that each have a mask")
    parser.add_argument("--masks", required=True, type=Path, metavar="DIR", help="masks of the same names, 0 is good")
    parser.add_argument("--good", nargs="+", default=(), metavar="DIR", help="more images, without defects")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--components", action="store_true", help="also draw luminance, contrast and structure apart")
    add_model_arguments(parser)
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    with open_footage(args.images) as footage:
        width = footage.columns
    setup = load_setup(
        args.model, args.recipe, stride=args.stride, threshold=args.threshold, columns=closed(args.columns, width)
    )
    execution = choose_execution(setup.bundle, args.device, args.precision, args.batch, args.threads)
    runner = Runner(setup.bundle, execution)
    metrics = evaluate(args.images, args.masks, args.good, setup, runner, args.output, args.components)
    at = metrics["at_threshold"]
    print(
        f"{metrics['images']} images: AUROC {metrics['auroc']:.4f}, PRO {metrics['pro']:.4f}; opened "
        f"{metrics['auroc_opened']:.4f}, {metrics['pro_opened']:.4f}"
    )
    print(f"overlap at 5 % false positives: median {metrics['overlap']['0.05']['q50']:.3f}")
    print(
        f"at threshold {metrics['threshold']:.4g}: {at['found']} of {at['defects']} defects found, "
        f"{at['false_regions']} false regions ({at['false_regions_per_megapixel']:.3g} per megapixel)"
    )
    if at["lines_in_gaps"] or at["defects_not_inspected"]:
        print(
            f"not inspected, and in none of these figures: {at['lines_in_gaps']} lines, and "
            f"{at['defects_not_inspected']} defects outside of what was"
        )
    print(f"written: {args.output}")
    return 0
