"""How well a score map finds annotated defects: ROC (paper, Fig. 6), overlap per region (Fig. 7) and PRO.

Everywhere here a pixel counts as segmented where score > threshold, as in inspection. The false positive rate
(FPR) is the share of good pixels that are segmented, the true positive rate (TPR) that of defective pixels, over
all images together. A *region* is an 8-connected component of one image's ground truth. Ignored pixels count
nowhere; a region that they cut apart stays one region, and one that they cover is none.

To measure what is left after the opening, add the grey-scale opening of the score by the same element: for every
threshold its segmentation is the opened segmentation of the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from linescan.errors import ConfigError, InputError, InspectionError
from linescan.training.spill import BYTES_PER_TALLY, SortedTallies, Spool, keys_of, scores_of

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

QUANTILES = (0.25, 0.5, 0.75)  # Fig. 7

_REGION_PIXEL = np.dtype([("key", "<u4"), ("region", "<u4")])
_BYTES_PER_REGION_PIXEL = 64  # peak while they are read back and counted


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve from (0, 0) to (1, 1), each with the threshold at which score > threshold gives it.

    Three float64 arrays of equal length; fpr and tpr never fall, thresholds (score units) fall strictly.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats


@dataclass(frozen=True)
class OverlapQuantiles:
    """Quantiles over all ground-truth regions of the share of a region that is segmented (paper, Fig. 7).

    fpr: F false positive rates asked for. thresholds: F, where they are reached. quantiles: Q, in 0…1.
    overlap: Q×F, in 0…1. regions: how many regions there are.
    """

    fpr: Floats
    thresholds: Floats
    quantiles: Floats
    overlap: Floats
    regions: int


class PixelScores:
    """Scores and ground truth of any number of images, and the exact metrics over all their pixels.

    Memory is at most `memory_bytes`, whatever the number of pixels, plus about 50 bytes a pixel of the image being
    added, 8 bytes a region and, for overlaps, 24 bytes a region and rate. The rest lies in temporary files that
    close() removes: at most 28 bytes a pixel (less where scores repeat) and 8 more a defective pixel.

    Args:
        memory_bytes: the bound above, at least 1 MiB to be worth it.
        folder: of the temporary file; None is the system's, which may be a file system in memory.
    """

    def __init__(self, memory_bytes: int = 256 << 20, folder: Path | None = None) -> None:
        self._tallies = SortedTallies(max(2, memory_bytes // BYTES_PER_TALLY), folder)
        self._chunk = max(1, memory_bytes // _BYTES_PER_REGION_PIXEL)
        self._region_pixels = Spool(_REGION_PIXEL, folder)
        self._region_sizes: list[npt.NDArray[np.int64]] = []
        self._closed = False
        self.regions = self.good_pixels = self.defect_pixels = 0

    def __enter__(self) -> PixelScores:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file; nothing can be added or asked afterwards."""
        self._closed = True
        self._tallies.close()
        self._region_pixels.close()

    @property
    def spilled_bytes(self) -> int:
        """What lies in the temporary files, in bytes."""
        return self._tallies.spilled_bytes + len(self._region_pixels) * _REGION_PIXEL.itemsize

    def add(self, score: npt.NDArray[np.float32], defect: Mask, ignore: Mask | None = None) -> None:
        """Count the pixels of one image.

        Args:
            score: H×W, higher is more defective; must be finite where it is not ignored.
            defect: H×W, True where the ground truth has a defect.
            ignore: H×W, True where a pixel shall count nowhere (outside the inspected columns, in gaps).

        Raises:
            InputError: other types or shapes, or a score that is not finite. Nothing of that image was counted.
        """
        self._require_open()
        _check_image(score, defect, ignore)
        kept = np.ones(score.shape, np.bool_) if ignore is None else ~ignore
        finite = np.isfinite(score[kept])
        if not finite.all():
            raise InputError(f"scores must be finite: {np.count_nonzero(~finite)} of {finite.size} pixels are not")
        found = kept & defect
        good = score[kept & ~defect]
        self._tallies.add(keys_of(good), good=True)
        self.good_pixels += good.size
        if found.any():
            self._add_regions(keys_of(score[found]), defect, found)

    def auroc(self) -> float:
        """Area under the ROC curve over all pixels, a tie of good and defective counted half.

        Exact up to 4e18 pairs: they are counted in int64 and divided once. Equals sklearn.metrics.roc_auc_score.

        Raises:
            InputError: no good or no defective pixel.
        """
        self._require_both()
        twice = 0
        for _, good, defect, _ in self._points():
            twice += int(np.sum(np.diff(good) * (defect[1:] + defect[:-1])))
        return twice / (2 * self.good_pixels * self.defect_pixels)

    def roc(self, points: int = 1000) -> RocCurve:
        """ROC curve of at most `points` points, each of them exact.

        All distinct scores where they are that few; else points about evenly spaced in FPR + TPR, so that a straight
        line between two is off by at most 2 / (points − 1) and one score's step.

        Raises:
            InputError: no good or no defective pixel. ConfigError: points under 3.
        """
        if points < 3:
            raise ConfigError(f"a ROC curve needs at least 3 points, got {points}")
        self._require_both()
        kept: list[Floats] = []
        last = -1
        for scores, good, defect, _ in self._points():
            curve = np.stack([good / self.good_pixels, defect / self.defect_pixels, scores])
            # A block's last point comes again as the next one's first, or is the curve's end.
            cells = ((curve[0] + curve[1]) * (0.5 * (points - 1))).astype(np.int64)[:-1]
            new = np.diff(cells, prepend=last) > 0
            kept.append(curve[:, :-1][:, new | (self._tallies.most_distinct < points)])
            last, end = int(cells[-1]), curve[:, -1:]
        fpr, tpr, thresholds = np.concatenate([*kept, end], axis=1)
        return RocCurve(fpr, tpr, thresholds)

    def thresholds_at_fpr(self, fprs: Sequence[float] | Floats) -> Floats:
        """The lowest threshold at which at most the share fpr of the good pixels is segmented, for each fpr.

        A score that was seen, or the float32 below the lowest where everything may be segmented; float64 that are
        exact float32, same length as fprs. Needs no defective pixels.

        Raises:
            InputError: no good pixel. ConfigError: a rate outside 0…1.
        """
        wanted = np.asarray(fprs, np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ConfigError(f"a false positive rate lies in 0…1, got {list(fprs)}")
        self._require_good()
        thresholds = np.full(wanted.shape, np.nan)
        for scores, good, _, _ in self._points():
            # The rate as a quotient, as the caller computed his: 0.29 × 100 is less than 29.
            last = np.searchsorted(good / self.good_pixels, wanted, side="right") - 1
            thresholds = np.where(last >= 0, scores[last], thresholds)
        return thresholds

    def threshold_at_fpr(self, fpr: float) -> float:
        """thresholds_at_fpr for one rate."""
        return float(self.thresholds_at_fpr([fpr])[0])

    def pro(self, fpr_limit: float = 0.3) -> float:
        """Per-region overlap, averaged over the regions, integrated over FPR from 0 to fpr_limit, divided by fpr_limit.

        0…1. Every distinct score is a threshold: no quantiles, no fixed number of them. Straight lines between the
        points, the last one cut at fpr_limit. Exact but for rounding (about 1e-12). Unlike AUROC, a small region
        counts as much as a large one. Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021.

        Raises:
            InputError: no good or no defective pixel. ConfigError: fpr_limit not in 0 < … ≤ 1.
        """
        if not 0 < fpr_limit <= 1:
            raise ConfigError(f"fpr_limit must be above 0 and at most 1, got {fpr_limit}")
        self._require_both()
        area = 0.0
        for _, good, _, weight in self._points():
            rate, overlap = good / self.good_pixels, weight / self.regions
            width = np.diff(rate)
            inside = np.clip(fpr_limit - rate[:-1], 0, width)
            slope = np.diff(overlap) / np.where(width > 0, width, 1)
            area += float(np.sum(inside * (overlap[:-1] + 0.5 * inside * slope)))
        return min(area / fpr_limit, 1.0)

    def overlaps(self, thresholds: Sequence[float] | Floats) -> Floats:
        """The share of each region's pixels with score > threshold, float64 regions × thresholds.

        Regions in the order of their images. A threshold is rounded to float32, as NumPy compares a score with it.

        Raises:
            InputError: no good or no defective pixel. ConfigError: a threshold that is not a number.
        """
        if np.isnan(thresholds).any():
            raise ConfigError(f"a threshold must be a number, got {list(thresholds)}")
        self._require_both()
        limits = keys_of(np.asarray(thresholds, np.float32))
        ranks = np.argsort(limits, kind="stable")
        columns = len(limits) + 1
        counts = np.zeros(self.regions * columns, np.int64)
        for first in range(0, len(self._region_pixels), self._chunk):
            pixels = self._region_pixels.read(first, self._chunk)
            # Segmented is key < limit: from the first limit above the key on, at all further ones.
            cells = np.searchsorted(limits[ranks], pixels["key"], side="right")
            counts += np.bincount(pixels["region"].astype(np.int64) * columns + cells, minlength=counts.size)
        segmented = np.cumsum(counts.reshape(self.regions, columns)[:, :-1], axis=1)
        overlap = np.empty((self.regions, len(limits)))
        overlap[:, ranks] = segmented / np.concatenate(self._region_sizes)[:, None]
        return overlap

    def overlap_quantiles(
        self, fprs: Sequence[float] | Floats, quantiles: Sequence[float] | Floats = QUANTILES
    ) -> OverlapQuantiles:
        """Quantiles over the regions of overlaps() at the thresholds of thresholds_at_fpr() (paper, Fig. 7).

        Between two regions a quantile is interpolated linearly, as by numpy.quantile.

        Raises:
            InputError: no good or no defective pixel. ConfigError: a rate or quantile outside 0…1.
        """
        levels = np.asarray(quantiles, np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ConfigError(f"a quantile lies in 0…1, got {list(quantiles)}")
        self._require_both()
        thresholds = self.thresholds_at_fpr(fprs)
        overlap = np.quantile(self.overlaps(thresholds), levels, axis=0)
        return OverlapQuantiles(np.asarray(fprs, np.float64), thresholds, levels, overlap, self.regions)

    def _add_regions(self, keys: npt.NDArray[np.uint32], defect: Mask, found: Mask) -> None:
        # Labelled before what is ignored is taken away: a gap across a defect does not make two of it.
        labels = cv2.connectedComponents(defect.astype(np.uint8), connectivity=8)[1]
        present, region, sizes = np.unique(labels[found], return_inverse=True, return_counts=True)
        self._tallies.add(keys, good=False, weights=1.0 / sizes[region])
        pixels = np.empty(len(keys), _REGION_PIXEL)
        pixels["key"] = keys
        pixels["region"] = region + self.regions
        self._region_pixels.append(pixels)
        self._region_sizes.append(sizes)
        self.regions += len(present)
        self.defect_pixels += len(keys)

    def _points(self) -> Iterator[tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]]:
        """Yield (threshold, good, defective and weighted defective pixels above it) in blocks, threshold falling.

        A block's last point is the next one's first, so that each difference is in one block; only its threshold is
        not: in the earlier block it is the float32 just below that block's lowest score.
        """
        good, defect, weight = 0, 0, 0.0
        for block in self._tallies.blocks():
            scores = scores_of(block["key"])
            with np.errstate(over="ignore"):  # below the lowest float32 is −inf
                below = np.nextafter(scores[-1:], np.float32(-np.inf))
            goods = np.cumsum(np.concatenate([[good], block["good"]]))
            defects = np.cumsum(np.concatenate([[defect], block["defect"]]))
            weights = np.cumsum(np.concatenate([[weight], block["weight"]]))
            yield np.concatenate([scores, below]).astype(np.float64), goods, defects, weights
            good, defect, weight = int(goods[-1]), int(defects[-1]), float(weights[-1])

    def _require_open(self) -> None:
        if self._closed:
            raise InspectionError("these scores are closed")

    def _require_good(self) -> None:
        self._require_open()
        if not self.good_pixels:
            raise InputError(f"no good pixel among {self.defect_pixels} that count: no false positive rate")

    def _require_both(self) -> None:
        self._require_good()
        if not self.defect_pixels:
            raise InputError(f"no defective pixel among {self.good_pixels} that count: are the masks empty?")


def _check_image(score: npt.NDArray[np.float32], defect: Mask, ignore: Mask | None) -> None:
    if score.ndim != 2 or score.dtype != np.float32:
        raise InputError(f"a score is float32 H×W, got {score.dtype} of shape {score.shape}")
    for name, mask in (("defect", defect), ("ignore", ignore)):
        if mask is not None and (mask.shape != score.shape or mask.dtype != np.bool_):
            raise InputError(f"{name} is bool of the score's shape {score.shape}, got {mask.dtype} {mask.shape}")
