"""Events in words."""

from __future__ import annotations

from linescan.messages import Gap, Message, Notice, Region, Reject, RollEnd, RollStart


def describe(message: Message, all_phases: bool = False) -> str | None:
    """A line for a person; None for what he need not read: a region's phases before its end, rejects in time."""
    if isinstance(message, Region):
        return _region(message, all_phases)
    if isinstance(message, Reject):
        return _reject(message) if all_phases or not message.in_time else None
    if isinstance(message, Notice):
        return _notice(message)
    return _of_the_roll(message)


def _of_the_roll(message: Message) -> str | None:
    if isinstance(message, Gap):
        estimated = " (estimated)" if message.estimated else ""
        return f"gap     lines {message.first_line}–{message.last_line}: {message.cause}{estimated}"
    if isinstance(message, RollStart):
        return f"roll    {message.roll} begins, recipe {message.recipe}"
    if isinstance(message, RollEnd):
        return (
            f"roll    {message.roll} ends: {message.lines} lines = {message.lines_inspected} inspected + "
            f"{message.lines_in_gaps} in gaps"
        )
    return None


def _reject(reject: Reject) -> str:
    late = "" if reject.in_time else ", TOO LATE"
    span = f"counts {reject.first_count}–{reject.end_count - 1}"
    return f"reject  lane {reject.lane}, {span}: {reject.cause}, {reject.source}{late}"


def _notice(notice: Notice) -> str:
    words = [notice.kind, f"lane {notice.lane}" if notice.lane else "", notice.about, notice.text]
    return "notice  " + ", ".join(filter(None, words))


def _region(region: Region, all_phases: bool) -> str | None:
    final = region.phase == "close" and region.merged_into is None
    if not final and not all_phases:
        return None
    part = f", part {region.part}" if region.part else ""
    phase = "" if final else f" {region.phase}"
    return (
        f"defect{phase}  lines {region.first_line}–{region.last_line}, columns {region.first_column}–"
        f"{region.last_column}, {region.area_px} px, peak {region.peak:.3g}{part}"
    )
