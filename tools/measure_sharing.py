"""What overlapping patches could share of the autoencoder's work, and what that does to the result.

    python tools/measure_sharing.py count                                # operations, and the most that could be saved
    python tools/measure_sharing.py compare SETS.toml [--only NAME]      # a trained model with the encoder run once
    python tools/measure_sharing.py time MODEL.pt                        # seconds of encoder, decoder and both ways
    python tools/measure_sharing.py train --padding context OUT.pt       # a model whose encoder can be shared
    python tools/measure_sharing.py judge OUT.pt                         # … and what it finds, both ways

The last two train on tools/demo/train and judge on tools/demo/plain. SETS.toml: tools/overlap/sets.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from overlap.judging import Judge, compare_web, judged_table  # noqa: E402
from overlap.sets import load_sets  # noqa: E402
from overlap.shared_encoder import encoder_layers, savings, shared_codes  # noqa: E402
from overlap.training import judge_file, train  # noqa: E402
from overlap.weights import autoencoder_of  # noqa: E402

from linescan.cli.common import guarded  # noqa: E402
from linescan.models.bundle import load_bundle  # noqa: E402
from linescan.models.memory import keep_freed_memory  # noqa: E402

STRIDES = (16, 32, 64, 112)
TIMED_WEB = (128 + 16 * 28, 2048)  # lines and columns: a few rows of the grid at every stride
TIMED_PATCHES = 256
ROUNDS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    count = commands.add_parser("count")
    count.add_argument("--latent", type=int, default=100)
    compare = commands.add_parser("compare")
    compare.add_argument("sets", type=Path, metavar="SETS.toml")
    compare.add_argument("--only", action="append", metavar="NAME")
    compare.add_argument("--limit", type=int, metavar="N", help="webs of each set; default: all")
    timed = commands.add_parser("time")
    timed.add_argument("model", type=Path)
    trained = commands.add_parser("train")
    trained.add_argument("--padding", choices=("zeros", "reflect", "context"), required=True)
    trained.add_argument("--epochs", type=int, default=5)
    trained.add_argument("--patches", type=int, default=10_000)
    trained.add_argument("--seed", type=int, default=0)
    trained.add_argument("--start", type=Path, metavar="M.pt", help="go on from this bundle's weights")
    trained.add_argument("output", type=Path)
    judged = commands.add_parser("judge")
    judged.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    return guarded("measure_sharing", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.command == "count":
        _count(options.latent)
    elif options.command == "compare":
        for webs in load_sets(options.sets, options.only):
            _compare(webs.name, Judge(webs, options.limit))
    elif options.command == "time":
        _time(options.model)
    elif options.command == "train":
        train(options.output, options.padding, options.epochs, options.patches, options.seed, options.start)
    else:
        judge_file(options.model)
    return 0


def _count(latent_dim: int) -> None:
    layers = encoder_layers(128, latent_dim)
    total = 2 * sum(layer.flop for layer in layers)
    print("| layer | MFLOP a patch | output | outputs that no padding reaches |\n|---|---|---|---|")
    for layer in layers:
        print(f"| {layer.name} | {layer.flop / 1e6:.1f} | {layer.side}² | {layer.sharable:.0%} |")
    print(f"\nencoder {total / 2e6:.1f} MFLOP, the decoder as much\n")
    print("| stride | most saved exactly | most saved with shared features |\n|---|---|---|")
    for stride in (*STRIDES[:-1], 96, 112):
        exact, features = savings(layers, stride, 128)
        print(f"| {stride} | {exact:.1%} | {features:.1%} |")


def _compare(name: str, judge: Judge) -> None:
    print(f"\n### {name}\n")
    for web in judge.webs:
        compare_web(judge, web)
    print(judged_table(judge))


def _time(path: Path) -> None:
    keep_freed_memory()
    model = autoencoder_of(load_bundle(path))
    web = torch.rand(1, *TIMED_WEB)
    print(
        "| stride | patches | encoder a patch | decoder a patch | shared encoder a patch | forward, shared / patches |"
    )
    print("|---|---|---|---|---|---|")
    for stride in STRIDES:
        _time_stride(model, web, stride)


def _time_stride(model: torch.nn.Module, web: torch.Tensor, stride: int) -> None:
    patches = web.unfold(1, 128, stride).unfold(2, 128, stride).flatten(1, 2).permute(1, 0, 2, 3)[:TIMED_PATCHES]
    patches = patches.bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        codes = model.encoder(patches)
        all_codes = shared_codes(model, web, stride, "zeros").flatten(0, 1)[: len(patches), :, None, None]
        count = len(all_codes)
        steps: dict[str, Callable[[], object]] = {
            "encoder": lambda: [model.encoder(part) for part in patches.split(64)],
            "decoder": lambda: [model.decoder(part) for part in codes.split(64)],
            "shared": lambda: shared_codes(model, web, stride, "zeros"),
        }
        spent = {key: [_seconds(step)] for key, step in steps.items()}
        for _ in range(ROUNDS):  # in turns, since other work comes and goes
            for key, step in steps.items():
                spent[key].append(_seconds(step))
    grid = ((web.shape[1] - 128) // stride + 1) * ((web.shape[2] - 128) // stride + 1)
    encoder, decoder = (statistics.median(spent[key][1:]) / count for key in ("encoder", "decoder"))
    shared = statistics.median(spent["shared"][1:]) / grid
    print(
        f"| {stride} | {grid} | {encoder * 1e6:.0f} µs | {decoder * 1e6:.0f} µs | {shared * 1e6:.0f} µs "
        f"| {(shared + decoder) / (encoder + decoder):.2f} |",
        flush=True,
    )


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
