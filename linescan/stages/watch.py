"""What an engineer wants to be told of beside single defects: rejects that crowd, defects that repeat."""

from __future__ import annotations

from linescan.alarms import RejectAlarm
from linescan.line import Rejects
from linescan.messages import Notice, Region
from linescan.repeats import Repeats
from linescan.schedule import Window


class Watch:
    """Says it once for each episode, in Notices; counts are the PLC's, millimetres the roll's."""

    def __init__(self, rejects: Rejects, counts_per_mm: float) -> None:
        self._settings, self._counts_per_mm = rejects, counts_per_mm
        self._roll = ""
        self._repeats = self._new_repeats()
        self._alarm: RejectAlarm | None = None
        self.counts_anew()

    def _new_repeats(self) -> Repeats | None:
        return None if self._settings.repeat_mm is None else Repeats(*self._settings.repeat_mm)

    def counts_anew(self) -> None:
        """The PLC's counter was reset: what was counted before means nothing any more."""
        rejects = self._settings.alarm_rejects
        if rejects is not None:
            self._alarm = RejectAlarm(rejects, round(self._settings.alarm_mm * self._counts_per_mm))

    def window(self, roll: str, window: Window) -> Notice | None:
        """A window that was ordered for a defect."""
        alarm = self._alarm and self._alarm.rejects(window.lane, window.first, window.end)
        if not alarm:
            return None
        over_mm = (alarm.last_count - alarm.first_count) / self._counts_per_mm
        text = f"{alarm.rejects} rejects within {over_mm:.0f} mm"
        return Notice(roll, "alarm", alarm.lane, alarm.last_count, window.source, text)

    def region(self, region: Region) -> Notice | None:
        """A region in any phase; its close counts where it is a defect of its own."""
        if region.roll != self._roll:
            self._roll, self._repeats = region.roll, self._new_repeats()
        if self._repeats is None or region.phase != "close" or region.merged_into is not None:
            return None
        if region.along_mm is None or region.across_mm is None:
            return None
        repeat = self._repeats.add(sum(region.along_mm) / 2, sum(region.across_mm) / 2)
        if repeat is None:
            return None
        text = (
            f"every {repeat.period_mm:.1f} mm at {repeat.across_mm:.1f} mm across, {repeat.count} times from "
            f"{repeat.first_mm:.0f} to {repeat.last_mm:.0f} mm: a damaged roller?"
        )
        return Notice(region.roll, "repeating", "", None, f"{region.camera}/{region.id}", text)
