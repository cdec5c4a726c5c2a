"""Where a segment's scaled pixels lie on the camera's web, and its regions in those terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from linescan.config import NO_GEOMETRY, Geometry, InspectionSettings, SizeClass
from linescan.inspection.regions import LabellerSettings, RegionPhase
from linescan.messages import Region


@dataclass(frozen=True)
class Footprint:
    """What an Inspector looks at: the camera's columns, the depth and place of its pixels; names for the events."""

    columns: int
    bit_depth: int = 8
    camera: str = "camera"
    roll: str = "roll"
    geometry: Geometry = NO_GEOMETRY


@dataclass(frozen=True)
class Size:
    """Of a region: along the web, across it, and its area, in pixels of the camera."""

    length_px: int
    width_px: int
    area_px: int
    geometry: Geometry = NO_GEOMETRY

    def reaches(self, least: SizeClass) -> bool:
        """Whether it has every minimum of that class; one in mm only where the pixels' size is known."""
        across, along = self.geometry.mm_per_column, self.geometry.mm_per_line
        return (
            _reaches(self.length_px, 1, least.min_length_px)
            and _reaches(self.width_px, 1, least.min_width_px)
            and _reaches(self.area_px, 1, least.min_area_px)
            and _reaches(self.length_px, along, least.min_length_mm)
            and _reaches(self.width_px, across, least.min_width_mm)
            and _reaches(self.area_px, None if across is None or along is None else across * along, least.min_area_mm2)
        )


def classified(classes: Sequence[SizeClass], size: Size) -> SizeClass | None:
    """The last class that fits, or None."""
    return next((one for one in reversed(classes) if size.reaches(one)), None)


def _reaches(pixels: int, unit: float | None, least: float | None) -> bool:
    return least is None or (unit is not None and pixels * unit >= least)


class Placement:
    """One segment on the web; `height` is its number of raw lines once it has ended, for its last partial row."""

    def __init__(self, settings: InspectionSettings, footprint: Footprint, columns: slice, first_line: int) -> None:
        self.first_line = first_line
        self.height: int | None = None
        self._settings = settings
        self._footprint = footprint
        self._columns = columns
        self._narrow = self._is_padded(columns.stop - columns.start)

    def raw_line(self, row: int) -> int:
        """First raw line of a scaled row."""
        line = row * self._settings.scale
        return self.first_line + (line if self.height is None else min(line, self.height))

    def region(self, item: RegionPhase) -> Region:
        """The event for what the labeller told, in pixels of the camera."""
        region, n = item.region, self._settings.scale
        first_column = self._columns.start + region.first_column * n
        last_column = min(self._columns.start + (region.last_column + 1) * n, self._columns.stop) - 1
        first_line, end_line = self.raw_line(region.first_row), self.raw_line(region.last_row + 1)
        area, found = region.area * n**2, None
        if self._settings.classes:
            size = Size(end_line - first_line, last_column + 1 - first_column, area, self._footprint.geometry)
            found = classified(self._settings.classes, size)
        return Region(
            camera=self._footprint.camera,
            roll=self._footprint.roll,
            id=self._identify(region.key),
            phase=item.phase,
            part=region.part,
            merged_into=None if item.merged_into is None else self._identify(item.merged_into),
            first_line=first_line,
            last_line=end_line - 1,
            first_column=first_column,
            last_column=last_column,
            area_px=area,
            peak=region.peak,
            mean=region.score_sum / region.area,
            lanes=self._lanes(first_column, last_column) if self._settings.lanes else (),
            coalesced=region.coalesced,
            padded=self._padded(),
            category=found.name if found else "",
            severity=found.severity if found else 0,
            across_mm=self._across_mm(first_column, last_column + 1),
            along_mm=self._along_mm(first_line, end_line),
        )

    def _across_mm(self, first: int, end: int) -> tuple[float, float] | None:
        geometry = self._footprint.geometry
        if geometry.mm_per_column is None:
            return None
        offset, width = geometry.x_offset_mm, geometry.mm_per_column
        return offset + first * width, offset + end * width

    def _along_mm(self, first: int, end: int) -> tuple[float, float] | None:
        height = self._footprint.geometry.mm_per_line
        return None if height is None else (first * height, end * height)

    def _identify(self, key: tuple[int, int]) -> str:
        """The id: segment, and topmost-then-leftmost pixel."""
        column = self._columns.start + key[1] * self._settings.scale
        return f"s{self.first_line}-l{self.raw_line(key[0])}-c{column}"

    def _lanes(self, first_column: int, last_column: int) -> tuple[str, ...]:
        return tuple(
            lane.name
            for lane in self._settings.lanes
            if lane.first_column <= last_column and first_column < lane.end_column
        )

    def _padded(self) -> bool:
        return self._narrow or (self.height is not None and self._is_padded(self.height))

    def _is_padded(self, side: int) -> bool:
        return -(-side // self._settings.scale) < self._settings.patch_size


def labeller_settings(settings: InspectionSettings, columns: slice) -> LabellerSettings:
    """The labeller's limits and lanes in scaled pixels of the inspected columns."""
    n, width = settings.scale, -(-(columns.stop - columns.start) // settings.scale)
    lanes = [
        (max(lane.first_column - columns.start, 0) // n, max(-(-(lane.end_column - columns.start) // n), 0))
        for lane in settings.lanes
    ]
    return LabellerSettings(
        min_area=max(1, -(-settings.min_area_px // n**2)),
        min_length=max(1, -(-settings.min_length_px // n)),
        max_rows=max(1, settings.max_region_lines // n),
        max_regions=settings.max_regions,
        lanes=tuple(lanes) or ((0, width),),
    )
