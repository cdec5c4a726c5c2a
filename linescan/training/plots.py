"""Pictures and the page of an evaluation: ROC (paper, Fig. 6), overlap (Fig. 7), contact sheet (Fig. 5), index.html.

matplotlib is imported where it is used, and only by its objects: no pyplot, no global state, no display.
"""

from __future__ import annotations

import html
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from linescan.errors import InputError
from linescan.files import write_atomically
from linescan.training.metrics import OverlapQuantiles, RocCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What the figures mean to a reader who did not write the program; a caller adds his own.
EXPLANATIONS = {
    "auroc": "Probability that a defective pixel scores higher than a good one: 0.5 is chance, 1 is perfect.",
    "pro": "Per-region overlap averaged over false positive rates up to the limit: each defect counts the same.",
    "pro_fpr_limit": "Up to this false positive rate the per-region overlap was averaged.",
    "threshold": "A pixel is segmented where its score is above this.",
    "fpr": "False positive rate: the share of good pixels that are segmented.",
    "tpr": "True positive rate: the share of defective pixels that are segmented.",
    "images": "Images that were inspected.",
    "regions": "Connected defects in the ground truth.",
    "good_pixels": "Pixels that count and are good in the ground truth.",
    "defect_pixels": "Pixels that count and are defective in the ground truth.",
    "quantiles": "For each level the share of a region that is segmented, at each false positive rate.",
    "overlap": "The share of a ground-truth region that is segmented.",
}

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}th,td{padding:.3rem .8rem;border-bottom:1px solid #ccc;text-align:left}
td.value{font-variant-numeric:tabular-nums;white-space:nowrap}th{vertical-align:top;font-weight:600}
figure{margin:2rem 0}img{max-width:100%;height:auto;border:1px solid #ccc}figcaption{color:#555}"""


@dataclass(frozen=True)
class Picture:
    """A written picture file and the sentence under it."""

    path: Path
    caption: str


def plot_roc(path: Path, curves: Mapping[str, tuple[RocCurve, float]]) -> None:
    """Write the ROC curves of one or more methods as PNG, 840×720 (paper, Fig. 6).

    Args:
        path: of the PNG.
        curves: for each name in the legend the curve and its AUROC.
    """
    figure, axes = _square_axes("false positive rate", "true positive rate")
    for name, (curve, auroc) in curves.items():
        shown = name.replace("$", r"\$")  # two dollars would set a formula
        axes.plot(curve.fpr, curve.tpr, label=f"AUROC {auroc:.4f}  {shown}")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="AUROC 0.5000  chance")
    axes.set_xlim(-0.01, 1.01)
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_overlap(path: Path, overlap: OverlapQuantiles) -> None:
    """Write the quantiles of the per-region overlap over the false positive rate as PNG, 840×720 (paper, Fig. 7)."""
    figure, axes = _square_axes("false positive rate", "share of a region that is segmented")
    order = np.argsort(overlap.fpr)
    for level, shares in sorted(zip(overlap.quantiles.tolist(), overlap.overlap, strict=True), reverse=True):
        label = "median region" if level == 0.5 else f"{level:.0%} quantile of the regions"
        axes.plot(overlap.fpr[order], shares[order], marker=".", label=label)
    axes.set_title(f"{overlap.regions} regions")
    axes.legend(loc="lower right")
    _save(figure, path)


def report_page(
    path: Path,
    metrics: Mapping[str, object],
    pictures: Sequence[Picture],
    title: str = "Evaluation",
    explanations: Mapping[str, str] | None = None,
) -> None:
    """Write one HTML page that needs nothing from elsewhere: a table of the metrics, then the pictures.

    Args:
        path: of the page.
        metrics: name → number, text, list or a mapping of such, shown as name.inner; long lists are shortened.
        pictures: linked relatively to the page's folder; they must be written already.
        title: of the page.
        explanations: name, or its last or first part, → a sentence; goes before EXPLANATIONS.

    Raises:
        InputError: a picture is missing.
    """
    for picture in pictures:
        if not picture.path.is_file():
            raise InputError(f"the page {path} shows {picture.path}, which is no file")
    sentences = {**EXPLANATIONS, **(explanations or {})}
    rows = "\n".join(_table_row(name, value, sentences) for name, value in _flat(metrics))
    figures = "\n".join(_figure(picture, path.parent) for picture in pictures)
    heading = html.escape(title)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{heading}</h1>
<table>
{rows}
</table>
{figures}
</body>
</html>
"""
    write_atomically(path, page.encode("utf-8", "replace"))  # a file name need not be valid Unicode


def _square_axes(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def _flat(metrics: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _table_row(name: str, value: object, sentences: Mapping[str, str]) -> str:
    known = (name, name.rpartition(".")[2], name.partition(".")[0])
    sentence = next((sentences[part] for part in known if part in sentences), "")
    return (
        f'<tr><th scope="row">{html.escape(name)}</th><td class="value">{html.escape(_text(value))}</td>'
        f"<td>{html.escape(sentence)}</td></tr>"
    )


def _text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) > 8:
            return f"{_text(value[0])} … {_text(value[-1])} ({len(value)} values)"
        return ", ".join(_text(item) for item in value)
    return "–" if value is None else str(value)


def _figure(picture: Picture, folder: Path) -> str:
    link = quote(Path(os.path.relpath(picture.path, folder)).as_posix().encode("utf-8", "surrogateescape"))
    caption = html.escape(picture.caption)
    return f'<figure><img src="{link}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
