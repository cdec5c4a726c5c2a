"""linescan quantise: the ranges with which a bundle runs in int8, measured on good web and written beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from linescan.cli.common import columns
from linescan.errors import ConfigError
from linescan.flatfield_file import load_flatfield
from linescan.footage import open_footage
from linescan.models.bundle import Bundle, load_bundle
from linescan.models.openvino import check_openvino
from linescan.models.openvino_int8 import measure_ranges, save_ranges
from linescan.models.runner import Execution, Precision, Runner, available_threads
from linescan.training.dataset import GoodImages, PatchSampler, load_good_images

COMPARED = 256  # patches of held-out web
COMPARED_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--model", required=True, type=Path, metavar="M.pt", help="the bundle; M.int8.json is written")
    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="good footage, as in training")
    parser.add_argument("--columns", type=columns, metavar="A:B", help="of these columns (default: the bundle's)")
    parser.add_argument("--flatfield", type=Path, metavar="F.npz", help="the camera's, where line.toml names one")
    parser.add_argument("--patches", type=int, default=1024, metavar="N", help="to measure on (default: 1024)")
    parser.add_argument("--seed", type=int, default=0, help="of the places that they are cut at")


def run(args: argparse.Namespace) -> int:
    if args.patches < 1:
        raise ConfigError(f"--patches {args.patches}: at least 1 expected")
    bundle = load_bundle(args.model)
    check_openvino(bundle)
    images = _good_images(args, bundle)
    chance = torch.Generator().manual_seed(args.seed)
    good, held_out = (
        _cut(web, bundle.metadata.patch_size, count, chance)
        for web, count in ((images.training, args.patches), (images.held_out, COMPARED))
    )
    path = save_ranges(bundle, measure_ranges(bundle, good, images.fingerprint))
    print(_compared(bundle, held_out))
    print(f"written: {path}; its threshold may lie elsewhere: `linescan calibrate --device openvino --precision int8`")
    return 0


def _good_images(args: argparse.Namespace, bundle: Bundle) -> GoodImages:
    meta = bundle.metadata
    bounds = meta.columns
    if args.columns is not None:
        with open_footage(args.images) as footage:
            bounds = (args.columns[0], args.columns[1] or footage.columns)
    flatfield = load_flatfield(args.flatfield) if args.flatfield else None
    images = load_good_images(args.images, bounds, meta.scale, meta.patch_size, flatfield)
    channels = len(images.training[0])
    if channels != meta.channels:
        raise ConfigError(f"the footage has {channels} channels, {bundle.path} takes {meta.channels}")
    return images


def _cut(web: tuple[Tensor, ...], patch_size: int, count: int, chance: torch.Generator) -> Tensor:
    sampler = PatchSampler(web, patch_size, torch.device("cpu"))
    return sampler.cut(sampler.draw(count, chance))


def _compared(bundle: Bundle, patches: Tensor) -> str:
    """How far int8 and bfloat16 are from float32 on web that the ranges have not seen; RMS, greys in [0, 1]."""

    def runner(device: str, precision: Precision) -> Callable[[Tensor], Tensor]:
        return Runner(bundle, Execution(device, precision, COMPARED_BATCH, available_threads()))

    def rms(difference: Tensor) -> float:
        return float(difference.square().mean().sqrt())

    exact = runner("cpu", "float32")(patches)
    int8, bfloat16 = (rms(runner(*how)(patches) - exact) for how in (("openvino", "int8"), ("cpu", "bfloat16")))
    return (
        f"reconstructions of {len(patches)} held-out patches differ from float32's by {int8:.4f} (RMS) in int8, by "
        f"{bfloat16:.4f} in bfloat16; from the web by {rms(exact - patches):.4f}"
    )
