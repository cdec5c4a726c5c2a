"""Regions that two ways of inspecting report on the same images: which are the same, and how far they differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
SPREAD = (0.1, 0.5, 0.9)  # quantiles that are reported


@dataclass
class Matched:
    """The regions of one way beside those of the reference, over all images.

    A region of the reference is *met* where a region of this way has a pixel in common with it; of several the one
    with most is its partner. Distances are between centroids, areas relative to the reference's.
    """

    regions: int = 0  # of this way
    new: int = 0  # of them, with no pixel in a region of the reference
    reference: int = 0
    met: int = 0
    iou: list[float] = field(default_factory=list)
    distance_px: list[float] = field(default_factory=list)
    area_ratio: list[float] = field(default_factory=list)

    def add(self, reference: Mask, opened: Mask, chosen: Mask) -> None:
        """Counts one image; partners are compared for regions of the reference with a pixel in `chosen`."""
        known, old, old_stats, old_middles = cv2.connectedComponentsWithStats(reference.astype(np.uint8))
        count, labels, stats, middles = cv2.connectedComponentsWithStats(opened.astype(np.uint8))
        both = (old > 0) & (labels > 0)
        common = np.bincount(old[both] * count + labels[both], minlength=known * count).reshape(known, count)
        self.regions += count - 1
        self.new += int((common[:, 1:].sum(0) == 0).sum())
        self.reference += known - 1
        compared = set(np.unique(old[chosen]).tolist())
        for label in range(1, known):
            partner = int(common[label].argmax())
            if common[label, partner] == 0:
                continue
            self.met += 1
            if label not in compared:
                continue
            areas = int(old_stats[label, cv2.CC_STAT_AREA]), int(stats[partner, cv2.CC_STAT_AREA])
            shared = int(common[label, partner])
            self.iou.append(shared / (sum(areas) - shared))
            self.distance_px.append(float(np.hypot(*(old_middles[label] - middles[partner]))))
            self.area_ratio.append(areas[1] / areas[0])

    def as_dict(self) -> dict[str, Any]:
        spread = {
            name: [round(float(value), 4) for value in np.quantile(values, SPREAD)] if values else None
            for name, values in (("iou", self.iou), ("distance_px", self.distance_px), ("area_ratio", self.area_ratio))
        }
        return {
            "regions": self.regions,
            "new": self.new,
            "reference": self.reference,
            "met": self.met,
            "compared": len(self.iou),
            **spread,
        }
