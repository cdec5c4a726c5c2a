"""The self-check: a known defect must be found, or nothing that the engine says can be trusted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from linescan.config import ImageBand, InspectionSettings
from linescan.inspection.inspector import Inspector
from linescan.inspection.placement import Footprint
from linescan.inspection.reconstruction import Reconstruct
from linescan.messages import Gap, Region

Place = tuple[int, int, int, int]


def finds_reference_defect(
    settings: InspectionSettings,
    reconstruct: Reconstruct,
    reference: NDArray[np.uint8],
    place: Place,
    device: torch.device | None = None,
) -> bool:
    """Inspects a reference patch as a short roll: True where a region lies on its planted defect.

    `place` is (first line, last line, first column, last column), inclusive. The settings' threshold holds, without
    lanes, masks, selvage, columns and calibration, which belong to the web and not to the patch.
    """
    plain = settings.model_copy(
        update={
            "columns": None, "selvage": None, "lanes": (), "masks": (), "band": ImageBand(), "min_area_px": 1,
            "min_length_px": 1,
        }
    )  # fmt: skip
    inspector = Inspector(plain, Footprint(reference.shape[1]), reconstruct, device=device)
    found = [*inspector.push(reference), *inspector.finish()]
    if any(isinstance(item, Gap) for item in found):
        return False
    return any(isinstance(item, Region) and _overlaps(item, place) for item in found)


def _overlaps(region: Region, place: Place) -> bool:
    first_line, last_line, first_column, last_column = place
    return (
        region.first_line <= last_line
        and first_line <= region.last_line
        and region.first_column <= last_column
        and first_column <= region.last_column
    )
