"""Fig. 1, 5, 6, 7 and 8: what the systems see, and how well they separate good from defective pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from linescan.errors import ConfigError, InputError, TrainingError
from linescan.files import make_folder
from linescan.footage import open_footage
from linescan.training.evaluate import read_mask, shown_columns
from linescan.training.inspected import ImageResult, Mask, inspect_images
from linescan.training.panels import Panel, residual_panel, write_panels
from linescan.training.plots import plot_overlap, plot_roc
from paper import sets
from paper.report import number, overlap_of, roc_of, table, write_report
from paper.sets import ImageSet
from paper.workspace import Evaluated, Trained, Workspace

SYSTEMS = {"l2": "ℓ2", "vae": "VAE", "fm": "feature matching", "ssim": "SSIM"}
PAPER_AUROC = {"l2": 0.688, "ssim": 0.966}  # on NanoTWICE, as far as its text says
SEGMENTED_AT_FPR = 0.05  # at which the figures draw their segmentations
RING_PX = 7  # around a defect: the web that it is compared with
LEAST_DEFECT_PX = 50


def fig1(workspace: Workspace) -> None:
    """The NanoTWICE image of median defect area."""
    web = sets.nanotwice(workspace.data).limited(workspace.limit)
    by_area = sorted(web.test, key=lambda path: int(_mask(web, path).sum()))
    chosen = by_area[len(by_area) // 2]
    trained = [workspace.trained(web, method) for method in ("l2", "ssim")]
    rows, seconds = _side_by_side(workspace, web, trained, [chosen])
    make_folder(workspace.out)
    write_panels(workspace.out / "fig1.png", rows)
    lines = [f"{chosen.name}, the test image of median defect area. Defects outlined in red; segmented at "
             f"{SEGMENTED_AT_FPR:.0%} false positives over the set in green."]  # fmt: skip
    write_report(workspace, "fig1", "Fig. 1: NanoTWICE, ℓ2 and SSIM", lines, {"image": chosen.name},
                 ["fig1.png"], seconds)  # fmt: skip


def fig5(workspace: Workspace) -> None:
    """Two images of each texture: those of the largest and of the median defect."""
    rows: list[list[Panel]] = []
    named: dict[str, list[str]] = {}
    seconds = 0.0
    for whole in (sets.grid(workspace.data, 256), sets.aitex(workspace.data)):
        web = whole.limited(workspace.limit)
        by_area = sorted(web.test, key=lambda path, web=web: int(_mask(web, path).sum()))  # type: ignore[misc]
        chosen = list(dict.fromkeys([by_area[-1], by_area[len(by_area) // 2]]))
        trained = [workspace.trained(web, method) for method in ("l2", "ssim")]
        more, spent = _side_by_side(workspace, web, trained, chosen)
        rows += more
        seconds += spent
        named[web.name] = [path.name for path in chosen]
    make_folder(workspace.out)
    write_panels(workspace.out / "fig5.png", rows)
    lines = [
        "The paper's two woven fabrics could not be obtained; MVTec AD grid and AITEX fabric 02 stand in. Of each the "
        "images with the largest and the median defect area, segmented at "
        f"{SEGMENTED_AT_FPR:.0%} false positives over the set.",
    ]
    write_report(workspace, "fig5", "Fig. 5: two textures, ℓ2 and SSIM", lines, named, ["fig5.png"], seconds)


def fig6a(workspace: Workspace) -> None:
    _roc_of_systems(workspace, "fig6a", sets.nanotwice(workspace.data))


def fig6b(workspace: Workspace) -> None:
    _roc_of_systems(workspace, "fig6b", sets.grid(workspace.data, 256))


def fig6c(workspace: Workspace) -> None:
    _roc_of_systems(workspace, "fig6c", sets.grid(workspace.data, 512))


def fig7(workspace: Workspace) -> None:
    web = sets.nanotwice(workspace.data)
    trained = workspace.trained(web, "ssim")
    scored = workspace.evaluated(web, trained)
    make_folder(workspace.out)
    plot_overlap(workspace.out / "fig7.png", overlap_of(scored.curves["opened"]))
    quantiles = scored.metrics["overlap_opened"]
    rows = [[f"{float(fpr):.1%}", *(number(at[q]) for q in ("q25", "q50", "q75"))] for fpr, at in quantiles.items()]
    lines = [
        *table(["false positive rate", "25 % quantile", "median", "75 % quantile"], rows),
        "",
        f"Median overlap at 5 % false positives: {number(quantiles['0.05']['q50'])}; the paper: more than 0.91.",
    ]
    seconds = trained.seconds + scored.seconds
    write_report(workspace, "fig7", "Fig. 7: overlap of each defect, NanoTWICE, SSIM", lines, quantiles, ["fig7.png"],
                 seconds)  # fmt: skip


def fig8(workspace: Workspace) -> None:
    """The defects of grid that differ most and least from the web around them in grey."""
    web = sets.grid(workspace.data, 256).limited(workspace.limit)
    contrasts = sorted(_contrasts(web))
    if not contrasts:
        raise InputError(f"{web.masks}: no defect of {LEAST_DEFECT_PX} pixels or more among the test images")
    chosen = list(dict.fromkeys([contrasts[-1], contrasts[0]]))
    trained = {method: workspace.trained(web, method) for method in ("l2", "ssim")}
    rows, seconds = _side_by_side(workspace, web, list(trained.values()), [path for _, path in chosen])
    make_folder(workspace.out)
    write_panels(workspace.out / "fig8.png", rows)
    lines = [
        "MVTec AD grid stands in for the paper's fabric. Chosen by the ground truth alone: the images whose defects "
        "differ most and least in mean grey from the web around them, in its standard deviations: "
        + ", ".join(f"{path.name} ({contrast:.2f})" for contrast, path in chosen)
        + f". Segmented at {SEGMENTED_AT_FPR:.0%} false positives over the set.",
    ]
    numbers = {path.name: contrast for contrast, path in chosen}
    write_report(workspace, "fig8", "Fig. 8: high and low contrast, ℓ2 and SSIM", lines, numbers, ["fig8.png"], seconds)


def _roc_of_systems(workspace: Workspace, name: str, web: ImageSet) -> None:
    scored: dict[str, Evaluated] = {}
    rows: list[list[str]] = []
    missing: dict[str, str] = {}
    seconds = 0.0
    for method, label in SYSTEMS.items():
        try:
            trained = workspace.trained(web, method)
        except (TrainingError, ConfigError) as error:  # the other systems are worth showing without it
            missing[method] = str(error)
            rows.append([label, "not measured", *[""] * 4])
            print(f"  {label}: not measured: {error}", flush=True)
            continue
        scored[method] = workspace.evaluated(web, trained)
        seconds += trained.seconds + scored[method].seconds
        rows.append([label, *_numbers(scored[method]), number(PAPER_AUROC.get(method)) if name == "fig6a" else ""])
    make_folder(workspace.out)
    pictures = []
    if scored:
        curves = {
            SYSTEMS[method]: (roc_of(found.curves["opened"]), found.metrics["auroc_opened"])
            for method, found in scored.items()
        }
        plot_roc(workspace.out / f"{name}.png", curves)
        pictures = [f"{name}.png"]
    heads = [
        "system",
        "AUROC",
        "AUROC, opened",
        "PRO, opened",
        "median overlap at 5 % FPR, opened",
        "the paper's AUROC",
    ]
    lines = table(heads, rows)
    lines += ["", *(f"{SYSTEMS[method]} was not measured: {said}." for method, said in missing.items())]
    lines += [f"{web.note[0].upper()}{web.note[1:]}."] if web.note else []
    features = {SYSTEMS["fm"]: "untrained (random) features"} if workspace.features == "random" else {}
    lines += [f"{label}: {said}, an experiment and not the paper's system." for label, said in features.items()]
    numbers: dict[str, Any] = {method: found.metrics for method, found in scored.items()}
    title = f"Fig. 6{name[-1]}: ROC of the four systems, {web.title}"
    write_report(workspace, name, title, lines, {**numbers, "missing": missing}, pictures, seconds)


def _numbers(scored: Evaluated) -> list[str]:
    metrics = scored.metrics
    overlap = metrics["overlap_opened"]["0.05"]["q50"]
    return [number(value) for value in (metrics["auroc"], metrics["auroc_opened"], metrics["pro_opened"], overlap)]


def _side_by_side(
    workspace: Workspace, web: ImageSet, systems: Sequence[Trained], chosen: Sequence[Path]
) -> tuple[list[list[Panel]], float]:
    """Rows of input, reconstruction, residual and segmentation, image by image and system by system; the seconds."""
    rows: dict[tuple[int, int], list[Panel]] = {}
    seconds = 0.0
    for system, trained in enumerate(systems):
        scored = workspace.evaluated(web, trained)
        seconds += trained.seconds + scored.seconds
        setup = workspace.setup(trained)
        label = SYSTEMS[setup.settings.method]
        threshold = _threshold_at(scored, SEGMENTED_AT_FPR)
        places = {path.name: image for image, path in enumerate(chosen)}  # images are read in the order of their names
        for result in inspect_images([str(path) for path in chosen], setup, workspace.runner(setup)):
            image = places.pop(result.name)
            rows[image, system] = list(_panels(result, _mask(web, chosen[image]), label, threshold))
        assert not places
    return [rows[place] for place in sorted(rows)], seconds


def _panels(result: ImageResult, defect: Mask, label: str, threshold: float) -> Iterator[Panel]:
    part = shown_columns(defect)
    pixels = result.frame.pixels
    assert pixels is not None
    grey = pixels[:, part] / float(2**result.frame.bit_depth - 1)
    yield Panel(result.name, grey, defect=defect[:, part])
    yield Panel(f"{label}: reconstruction", result.reconstruction[:, part])
    yield residual_panel(f"{label}: residual", result.score[:, part])
    segmented = np.nan_to_num(result.opened_score, nan=-np.inf) > threshold
    yield Panel(f"{label}: segmentation", grey, segmented=segmented[:, part], defect=defect[:, part])


def _threshold_at(scored: Evaluated, fpr: float) -> float:
    overlap = overlap_of(scored.curves["opened"])
    return float(overlap.thresholds[np.abs(overlap.fpr - fpr).argmin()])


def _contrasts(web: ImageSet) -> Iterator[tuple[float, Path]]:
    with open_footage([str(path) for path in web.test]) as footage:
        for frame, path in zip(footage, web.test, strict=True):
            defect = _mask(web, path)
            if frame.pixels is None or defect.sum() < LEAST_DEFECT_PX:
                continue
            size = 2 * RING_PX + 1
            near = cv2.dilate(defect.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
            around = frame.pixels[near & ~defect]
            yield abs(float(frame.pixels[defect].mean() - around.mean())) / max(float(around.std()), 1e-6), path


def _mask(web: ImageSet, path: Path) -> Mask:
    for stem in (path.stem, f"{path.stem}_mask"):
        mask = web.masks / f"{stem}.png"
        if mask.exists():
            return read_mask(mask)
    raise InputError(f"{path.name} has no mask in {web.masks}")
