"""What a larger stride costs: a bundle on images with ground truth, per stride, blend and σ, beside a reference.

    python tools/measure_stride.py --model M.pt --images DEFECTIVE… --masks DIR --calibrate-on GOOD… --output OUT

Every way of inspecting gets the threshold (and with --column-calibration yes the column calibration) that `linescan
calibrate` would give it on the good images, then inspects the others as `linescan evaluate` does. The regions are
compared with those of the reference: the first of --strides with the first of --blends, all else alike. One set of
forwards a stride serves all its ways. OUT gets stride.json and stride.md, written anew after each stride.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from linescan.cli.common import add_execution_arguments, closed, columns, guarded  # noqa: E402
from linescan.errors import ConfigError, InputError  # noqa: E402
from linescan.files import make_folder, write_atomically  # noqa: E402
from linescan.footage import open_footage  # noqa: E402
from linescan.models.runner import Runner, choose_execution  # noqa: E402
from linescan.recipe import Setup, load_setup  # noqa: E402
from linescan.training.calibrate import FalseAlarms, Map, choose_threshold, column_calibration, good_scores  # noqa: E402
from linescan.training.evaluate import DefectCount, read_mask  # noqa: E402
from linescan.training.inspected import ImageResult, inspect_images  # noqa: E402
from linescan.training.matched import Matched  # noqa: E402
from linescan.training.metrics import PixelScores  # noqa: E402
from linescan.training.remembered import Remembered  # noqa: E402

Mask = NDArray[np.bool_]
METRICS_MEMORY = 64 << 20


class Way:
    """One stride, blend, σ and kind of score, with its threshold, and what came of it."""

    def __init__(self, setup: Setup, maps: list[Map], asked: FalseAlarms, calibrate_columns: bool) -> None:
        settings = setup.settings
        calibration = column_calibration(maps) if calibrate_columns else None
        if calibration is not None:
            maps = [(score - calibration.mean) / calibration.deviation for score in maps]
        threshold, self.basis = choose_threshold(maps, settings.scale, asked)
        settings = settings.model_copy(update={"threshold": threshold})
        self.setup = replace(setup, settings=settings, calibration=calibration)
        self.pixels = PixelScores(METRICS_MEMORY)
        self.defects, self.good = DefectCount(), DefectCount()
        self.against = Matched()
        self.opened: list[NDArray[np.uint8]] = []  # packed, image by image
        self.found: list[bool] = []  # defect by defect
        self._images = 0

    @property
    def compared_by(self) -> tuple[float, bool]:
        """What it has in common with its reference."""
        return self.setup.settings.smoothing_sigma, self.setup.calibration is not None

    def add(self, result: ImageResult, defect: Mask, reference: Way) -> None:
        inspected = np.isfinite(result.score)
        self.pixels.add(np.where(inspected, result.score, 0), defect, ~inspected)
        self.defects.add(result, defect, inspected)
        self.found = [share > 0 for share in self.defects.overlap]
        if reference is self:
            self.opened.append(np.packbits(result.opened))
        bits = np.unpackbits(reference.opened[self._images], count=result.opened.size).astype(bool)
        self.against.add(bits.reshape(result.opened.shape), result.opened, defect)
        self._images += 1

    def add_good(self, result: ImageResult) -> None:
        self.good.add(result, np.zeros(result.score.shape, bool), np.isfinite(result.score))

    def as_dict(self, reference: Way) -> dict[str, Any]:
        settings = self.setup.settings
        pairs = list(zip(reference.found, self.found, strict=True))
        return {
            "stride": settings.stride,
            "blend": settings.blend,
            "sigma": settings.smoothing_sigma,
            "column_calibration": self.setup.calibration is not None,
            "threshold": settings.threshold,
            "extrapolated": self.basis.extrapolated,
            "auroc": self.pixels.auroc(),
            "pro": self.pixels.pro(),
            **self.defects.as_dict(),
            "lost": sum(old and not new for old, new in pairs),
            "gained": sum(new and not old for old, new in pairs),
            "good_megapixels": round(self.good.megapixels, 3),
            "false_regions_on_good": self.good.false_regions,
            "against_reference": self.against.as_dict(),
        }


class Measurement:
    """The images once for all ways of one stride after the other."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        with open_footage(args.images) as footage:
            width = footage.columns
        self._setup = load_setup(args.model, columns=closed(args.columns, width))
        self._asked = FalseAlarms(args.false_alarms)
        bundle = self._setup.bundle
        self._sigmas = args.sigmas or sorted({0.0, bundle.metadata.smoothing_sigma})
        self._runner = Runner(bundle, choose_execution(bundle, args.device, args.precision, args.batch, args.threads))
        known = {path.stem.removesuffix("_mask"): path for path in sorted(args.masks.iterdir())}
        missing = [path for path in args.images if Path(path).stem not in known]
        if missing:
            raise ConfigError(f"--masks {args.masks}: no mask for {missing[0]}")
        self._masks = [known[Path(path).stem] for path in args.images]
        self._references: dict[tuple[float, bool], Way] = {}
        self.rows: list[dict[str, Any]] = []

    @property
    def about(self) -> dict[str, Any]:
        bundle = self._setup.bundle
        return {
            "model": Path(bundle.path).name,
            "model_sha256": bundle.sha256,
            "epochs": bundle.metadata.metrics.get("epochs"),
            "columns": self._setup.settings.columns,
            "false_alarms_per_megapixel": self._asked.rate,
            "images": len(self._args.images),
            "execution": self._runner.execution.as_dict(),
        }

    def measure(self, stride: int) -> None:
        """Adds a row for every blend and σ."""
        ways = self._ways(stride)
        with ExitStack() as temporary_files:
            for way in ways:
                temporary_files.enter_context(way.pixels)
            self._inspect(ways)
        print(f"stride {stride}: measured", flush=True)

    def _inspect(self, ways: list[Way]) -> None:
        before, pixels = self._runner.patches, 0
        for way in ways:
            self._references.setdefault(way.compared_by, way)
        for path, place in zip(self._args.images, self._masks, strict=True):
            mask = read_mask(place)
            for way, result in self._results(path, ways):
                if mask.shape != result.score.shape:
                    raise InputError(f"{place}: the mask is {mask.shape}, its image {result.score.shape}")
                way.add(result, mask, self._references[way.compared_by])
            pixels += int(np.isfinite(result.score).sum())
        patches = self._runner.patches - before
        for path in self._args.good:
            for way, result in self._results(path, ways):
                way.add_good(result)
        for way in ways:
            row = way.as_dict(self._references[way.compared_by])
            row["patches_per_megapixel"] = round(patches / (pixels / 1e6), 1)
            self.rows.append(row)

    def _ways(self, stride: int) -> list[Way]:
        settings = [
            self._setup.settings.model_copy(update={"stride": stride, "blend": blend, "smoothing_sigma": sigma})
            for blend in self._args.blends
            for sigma in self._sigmas
        ]
        maps: list[list[Map]] = [[] for _ in settings]
        with open_footage(self._args.calibrate_on) as footage:
            for frame in footage:
                if frame.pixels is None:
                    raise ConfigError(f"--calibrate-on: {frame.name} {frame.error}")
                shared = Remembered(self._runner)
                for one, kept in zip(settings, maps, strict=True):
                    shared.again()
                    kept.extend(good_scores([[frame.pixels]], one, shared, frame.bit_depth, shared.device))
        return [
            Way(replace(self._setup, settings=one), kept, self._asked, calibrated == "yes")
            for one, kept in zip(settings, maps, strict=True)
            for calibrated in self._args.column_calibration
        ]

    def _results(self, path: str, ways: list[Way]) -> Iterator[tuple[Way, ImageResult]]:
        shared = Remembered(self._runner)
        for way in ways:
            shared.again()
            yield way, next(inspect_images([path], way.setup, shared))


COLUMNS = (
    *("σ", "columns", "blend", "stride", "work", "AUROC", "PRO", "defects found (lost, gained)", "false regions"),
    *("on good images", "regions met (of the reference's)", "new", "IoU", "centroid moved by, px", "area"),
)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; IoU, distance and area as 10 % / median / 90 % over the reference's regions on defects."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in sorted(rows, key=lambda row: (row["column_calibration"], row["sigma"])):
        against = row["against_reference"]
        spread = [
            " / ".join(f"{value:.{digits}f}" for value in against[name]) if against[name] else "–"
            for name, digits in (("iou", 2), ("distance_px", 1), ("area_ratio", 2))
        ]
        lines.append((
            f"{row['sigma']:g}",
            "calibrated" if row["column_calibration"] else "",
            row["blend"],
            str(row["stride"]),
            f"{row['patches_per_megapixel'] / rows[0]['patches_per_megapixel']:.3f}",
            f"{row['auroc']:.4f}",
            f"{row['pro']:.4f}",
            f"{row['found']} of {row['defects']} (−{row['lost']}, +{row['gained']})",
            str(row["false_regions"]),
            str(row["false_regions_on_good"]) if row["good_megapixels"] else "–",
            f"{against['met']} of {against['reference']}",
            str(against["new"]),
            *spread,
        ))  # fmt: skip
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="M.pt")
    parser.add_argument("--images", nargs="+", required=True, metavar="IMAGE", help="image files that have a mask each")
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR")
    parser.add_argument("--good", nargs="+", default=[], metavar="IMAGE", help="more images, without defects")
    parser.add_argument("--calibrate-on", nargs="+", required=True, metavar="DIR", help="good web for the thresholds")
    parser.add_argument("--column-calibration", nargs="+", default=["no"], choices=["no", "yes"])
    parser.add_argument("--columns", type=columns, metavar="A:B")
    parser.add_argument("--false-alarms", type=float, default=1.0, metavar="R", help="per megapixel")
    parser.add_argument("--strides", type=int, nargs="+", default=[30, 45, 64, 90, 100, 112], metavar="N")
    parser.add_argument("--blends", nargs="+", default=["mean", "hann"], choices=["mean", "hann"])
    parser.add_argument("--sigmas", type=float, nargs="+", metavar="S", help="default: 0 and the bundle's")
    add_execution_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(arguments)
    return guarded("measure_stride", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    make_folder(args.output)
    measurement = Measurement(args)
    for stride in args.strides:
        measurement.measure(stride)
        found = {**measurement.about, "rows": measurement.rows}
        write_atomically(args.output / "stride.json", json.dumps(found, indent=1).encode())
        write_atomically(args.output / "stride.md", table(measurement.rows).encode())
    print(table(measurement.rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
