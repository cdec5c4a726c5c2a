"""Table 2, the run times, and the defects found on aitex_f02."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from linescan.errors import TrainingError
from linescan.models.runner import Execution, Runner, timed_forwards
from linescan.training.evaluate import read_mask
from linescan.training.inspected import ImageResult, inspect_images
from paper import sets
from paper.report import number, table, write_report
from paper.sets import ImageSet
from paper.workspace import Trained, Workspace

LATENT = {50: 0.848, 100: 0.935, 200: 0.961, 500: 0.966, 1000: 0.962}  # the paper's AUROC
WINDOW = {3: 0.889, 7: 0.965, 11: 0.966, 15: 0.960, 19: 0.952}
PATCH = {32: 0.949, 64: 0.959, 128: 0.966}
PAPER_FORWARD_MS, PAPER_IMAGE_S = 2.23, 3.61  # on a Tesla V100
TIMED_IMAGES = 5
TIMED_SECONDS = 2.0


def table2(workspace: Workspace) -> None:
    """One setting varied at a time about d = 500, K = 11, P = 128."""
    web = sets.nanotwice(workspace.data)
    rows: list[list[str]] = []
    numbers: dict[str, dict[str, float | str]] = {}
    seconds: dict[str, float] = {}
    varied: list[tuple[str, int, dict[str, Any], dict[int, float]]] = [
        *(("d", value, {"latent_dim": value}, LATENT) for value in LATENT),
        *(("K", value, {"ssim": workspace.ssim.model_copy(update={"window": value})}, WINDOW) for value in WINDOW),
        *(("P", value, {"patch_size": value}, PATCH) for value in PATCH),
    ]
    for name, value, changes, papers in varied:
        key = f"{name} = {value}"
        try:
            trained = workspace.trained(web, "ssim", **changes)
        except TrainingError as error:  # the other rows are worth having without it
            print(f"  {key}: not measured: {error}", flush=True)
            rows.append([key, "not measured", "", "", number(papers[value])])
            numbers[key] = {"missing": str(error)}
            continue
        scored = workspace.evaluated(web, trained)
        seconds[trained.bundle.stem] = trained.seconds + scored.seconds  # the middle setting appears three times
        found = {key: scored.metrics[key] for key in ("auroc", "auroc_opened", "pro_opened")}
        rows.append([key, *(number(part) for part in found.values()), number(papers[value])])
        numbers[key] = found
    lines = table(["setting", "AUROC", "AUROC, opened", "PRO, opened", "the paper's AUROC"], rows)
    lines += ["", *(f"{key} was not measured: {found['missing']}." for key, found in numbers.items()
                    if "missing" in found)]  # fmt: skip
    title = "Table 2: latent dimension, window and patch size, NanoTWICE, SSIM"
    write_report(workspace, "table2", title, lines, numbers, seconds=sum(seconds.values()))


# ------------------------------------------------------------------------------------------------ aitex_f02


@dataclass(frozen=True)
class Found:
    """At the lowest threshold without a region on the good test strips."""

    threshold: float
    defects: int
    found: int
    false_regions: int


def aitex(workspace: Workspace) -> None:
    """ℓ2 and SSIM as in the paper, and SSIM with the default preset, which may calibrate the columns."""
    web = sets.aitex(workspace.data)
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    seconds = 0.0
    for method, preset in (("l2", "paper"), ("ssim", "paper"), ("ssim", "default")):
        trained = workspace.trained(web, method, preset)
        seconds += trained.seconds
        for recipe in (False, True) if trained.recipe is not None else (False,):
            scored = workspace.evaluated(web, trained, recipe)
            seconds += scored.seconds
            found = _found(workspace, web, trained, recipe)
            label = f"{method}, {preset} preset{', column calibration' if recipe else ''}"
            metrics = {key: scored.metrics[key] for key in ("auroc", "auroc_opened", "pro_opened")}
            rows.append([label, *(number(value) for value in metrics.values()), f"{found.found} of {found.defects}",
                         str(found.false_regions)])  # fmt: skip
            numbers[label] = {**metrics, **vars(found)}
    heads = ["system", "AUROC", "AUROC, opened", "PRO, opened", "strips with the defect found", "false regions in them"]
    good = len(web.limited(workspace.limit).good)
    lines = table(heads, rows)
    lines += ["", f"{web.note[0].upper()}{web.note[1:]}.", "Found at the lowest threshold that leaves no region on the "
              f"{good} good test strips."]  # fmt: skip
    write_report(workspace, "aitex", "AITEX fabric 02: defects found", lines, numbers, seconds=seconds)


def _found(workspace: Workspace, web: ImageSet, trained: Trained, recipe: bool) -> Found:
    web = web.limited(workspace.limit)
    setup = workspace.setup(trained, recipe)
    runner = workspace.runner(setup)
    good = inspect_images([str(path) for path in web.good], setup, runner)
    threshold = max(float(np.nanmax(result.opened_score)) for result in good)
    defects = found = false_regions = 0
    results = inspect_images([str(path) for path in web.test], setup, runner)
    for path, result in zip(web.test, results, strict=True):
        mask = read_mask(web.masks / path.name)
        defects += 1
        hit, false = _regions(result, mask, threshold)
        found += hit > 0
        false_regions += false
    return Found(threshold, defects, found, false_regions)


def _regions(result: ImageResult, mask: np.ndarray[Any, np.dtype[np.bool_]], threshold: float) -> tuple[int, int]:
    """Regions above the threshold that touch the defect, and those that do not."""
    segmented = np.nan_to_num(result.opened_score, nan=-np.inf) > threshold
    count, labels = cv2.connectedComponents(segmented.astype(np.uint8), connectivity=8)
    touching = len(np.unique(labels[mask & segmented]))
    return touching, count - 1 - touching


# ------------------------------------------------------------------------------------------------ run times


def runtime(workspace: Workspace) -> None:
    """One patch, full batches, and a whole image at stride 30, with the paper's d = 500, K = 11 and P = 128."""
    web = sets.nanotwice(workspace.data)
    setup = workspace.setup(workspace.trained(web, "ssim"))
    execution = workspace.runner(setup).execution
    numbers: dict[str, Any] = {}
    # the last one made sets the threads of all else
    for name, how in (
        ("one patch", Execution(execution.device, execution.precision, 1, 1)),
        ("full batches", execution),
    ):
        usual = Runner(setup.bundle, how)
        count, spent = timed_forwards(usual, TIMED_SECONDS)
        numbers[name] = {"batch": how.batch, "ms_a_forward": 1000 * spent / count * (usual.at_once // usual.batch),
                         "patches_per_s": count * how.batch / spent}  # fmt: skip
    paths = [str(path) for path in web.test[: min(TIMED_IMAGES, workspace.limit or TIMED_IMAGES)]]
    numbers["image_s"] = statistics.median(_image_seconds(paths, setup, usual))
    numbers["execution"] = execution.as_dict()
    rows = [
        ["forward pass of one patch", f"{numbers['one patch']['ms_a_forward']:.2f} ms", f"{PAPER_FORWARD_MS} ms"],
        [f"forward pass of {usual.batch} patches", f"{numbers['full batches']['ms_a_forward']:.2f} ms", ""],
        ["patches per second in full batches", f"{numbers['full batches']['patches_per_s']:.0f}", ""],
        ["a NanoTWICE image at stride 30", f"{numbers['image_s']:.3f} s", f"{PAPER_IMAGE_S} s"],
    ]
    lines = [
        *table(["", f"here, {execution.precision}", "the paper, Tesla V100"], rows),
        "",
        f"The image's time is the median of {len(paths)}: reading the file, patches, SSIM, opening and regions.",
    ]
    write_report(workspace, "runtime", "Run times", lines, numbers)


def _image_seconds(paths: Sequence[str], setup: Any, runner: Runner) -> list[float]:
    """Seconds of each image but a first one, which warms up."""
    taken: list[float] = []
    for path in [paths[0], *paths]:
        results = inspect_images([path], setup, runner)
        start = time.perf_counter()
        for _ in results:
            if runner.device.type == "cuda":
                torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken[1:]
