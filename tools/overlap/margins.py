"""What a margin of a coarse score costs and misses, and where it was fixed against where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from linescan.errors import InputError
from overlap.passes import Map

LEARNED = "learned from the others"
LEARNED_QUANTILE = 0.95  # of what a cell's fine score may be, given its coarse ones
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """One coarse score over one set: on patches that only the fine pass has, in fine regions, at some good pixels."""

    patches: Values
    regions: Values
    sample: Values
    coarse: int
    fpr: float
    on_defect: NDArray[np.bool_]

    def missed(self, margin: float) -> float:
        """Share of the fine regions without a pixel at or above the margin."""
        return float(np.mean(self.regions < margin)) if len(self.regions) else 0.0

    def speed_up(self, margin: float) -> float:
        """Patches of the full grid over those of the coarse pass and of the refined areas, halo included."""
        refined = int(np.count_nonzero(self.patches >= margin))
        return (self.coarse + len(self.patches)) / (self.coarse + refined)

    def margin(self, missed: float) -> float:
        """The highest margin that misses no more than this share of the regions."""
        if not len(self.regions):
            return float("inf")
        return float(np.sort(self.regions)[int(missed * len(self.regions))])

    def defect_margin(self) -> float:
        """The highest margin that misses none of the regions that lie on a defect."""
        on_defect = self.regions[self.on_defect]
        return float(on_defect.min()) if len(on_defect) else float("inf")

    def as_share(self, margin: float) -> float:
        """The share of the good web that has the margin or more."""
        return float(np.mean(self.sample >= margin))

    def from_share(self, share: float) -> float:
        return float(np.quantile(self.sample, 1 - share))

    def as_height(self, margin: float) -> float:
        """0 at the good web's median, 1 at what the share `fpr` of it exceeds."""
        middle, top = np.quantile(self.sample, [0.5, 1 - self.fpr])
        return float((margin - middle) / max(top - middle, 1e-12))

    def from_height(self, height: float) -> float:
        middle, top = np.quantile(self.sample, [0.5, 1 - self.fpr])
        return float(middle + height * (top - middle))


@dataclass(frozen=True)
class Stored:
    """One file of `gather`."""

    path: Path
    fields: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Stored:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(path, dict(arrays))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not what `measure_refinement.py gather` writes: {error}") from error

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.fields["names"]]

    def oracle(self, number: int) -> float:
        """Speed-up of a coarse score that knows the fine regions."""
        coarse, patches = int(self.fields["coarse"]), len(self.fields["patches"])
        return (coarse + patches) / (coarse + int(self.fields["needed"][number]))

    def score(self, name: str, number: int, fpr: float) -> Score:
        column = self.names.index(name)
        regions = self.fields[f"regions{number}"][:, column]
        return self._judged(self.fields["patches"][:, column], regions, self.fields["sample"][:, column], number, fpr)

    def of_cells(self, values: Map, number: int, fpr: float) -> Score:
        """A score of which there is one value for each cell of the web."""
        pairs = self.fields[f"region_cells{number}"]
        regions = np.full(len(self.fields[f"on_defect{number}"]), -np.inf, np.float32)
        np.maximum.at(regions, pairs[:, 0], values[pairs[:, 1]])
        patches = np.array([
            max(values[first + i * across : first + i * across + wide].max() for i in range(tall))
            for first, tall, wide, across in self.fields["patch_cells"]
        ])  # fmt: skip
        return self._judged(patches, regions, values, number, fpr)

    def _judged(self, patches: Values, regions: Values, sample: Values, number: int, fpr: float) -> Score:
        on_defect = self.fields[f"on_defect{number}"]
        return Score(patches, regions, sample, int(self.fields["coarse"]), fpr, on_defect)

    def standardised(self) -> Values:
        """Features of the cells, each in interquartile ranges above its median over this set's web."""
        cells = self.fields["cells"]
        low, middle, high = np.quantile(cells, [0.25, 0.5, 0.75], axis=0)
        return np.asarray((cells - middle) / np.maximum(high - low, 1e-9), np.float32)

    def relative_targets(self, number: int) -> Values:
        """What the fine pass finds in each cell: 0 at the median, 1 at the threshold."""
        targets, middle = self.fields["targets"], np.median(self.fields["targets"])
        return np.asarray((targets - middle) / (self.fields["thresholds"][number] - middle), np.float32)


def learned(teachers: list[Stored], pupil: Stored, number: int, fpr: float) -> Score:
    """A high quantile of the fine score in each cell, learned from the cells of other sets."""
    features = np.concatenate([one.standardised() for one in teachers])
    targets = np.concatenate([np.clip(one.relative_targets(number), -1, 2) for one in teachers])
    model = HistGradientBoostingRegressor(
        loss="quantile", quantile=LEARNED_QUANTILE, max_iter=100, min_samples_leaf=50, random_state=0
    )
    model.fit(features, targets)
    return pupil.of_cells(np.asarray(model.predict(pupil.standardised()), np.float32), number, fpr)
