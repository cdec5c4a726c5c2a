"""One recorded roll through one Inspector: the path that replay, evaluation and the reference runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from linescan.footage import FootageFrame
from linescan.inspection.inspector import Finding, Inspector
from linescan.messages import Gap, Region, RollEnd


@dataclass(frozen=True)
class RollResult:
    """How a roll ended; `regions` counts those that were closed and not merged into another, parts as one."""

    end: RollEnd
    regions: int
    gaps: tuple[Gap, ...]


def inspect_roll(
    inspector: Inspector,
    frames: Iterable[FootageFrame],
    on_finding: Callable[[Finding], None],
    on_frame: Callable[[FootageFrame, int], None] | None = None,
) -> RollResult:
    """Pushes frames to the roll's end; a frame that cannot be read, or that the live line lost, becomes a gap.

    `on_frame` is told each frame and its first line before the engine gets it.
    """
    ids: set[str] = set()
    gaps: list[Gap] = []

    def tell(findings: list[Finding]) -> None:
        for finding in findings:
            if isinstance(finding, Gap):
                gaps.append(finding)
            elif finding.phase == "close" and finding.merged_into is None:
                ids.add(finding.id)
            on_finding(finding)

    for frame in frames:
        first = inspector.lines_scanned if frame.first_line is None else frame.first_line
        if on_frame is not None:
            on_frame(frame, first)
        tell(_push(inspector, frame, first))
    tell(inspector.finish())
    return RollResult(_roll_end(inspector), len(ids), tuple(gaps))


def _push(inspector: Inspector, frame: FootageFrame, first: int) -> list[Finding]:
    if frame.pixels is not None:
        return inspector.push(frame.pixels, first)
    findings: list[Finding] = []
    if first > inspector.lines_scanned:
        findings += inspector.push_gap(first - 1, "incomplete")
    return findings + inspector.push_gap(first + frame.lines - 1, frame.cause, frame.estimated)


def _roll_end(inspector: Inspector) -> RollEnd:
    return RollEnd(
        camera=inspector.footprint.camera,
        roll=inspector.footprint.roll,
        lines=inspector.lines_scanned,
        inspected_up_to=inspector.inspected_up_to,
        lines_inspected=inspector.lines_inspected,
        lines_in_gaps=inspector.lines_in_gaps,
    )


def is_final(finding: Finding) -> bool:
    """A region that closed by itself: what a person wants to read about."""
    return isinstance(finding, Region) and finding.phase == "close" and finding.merged_into is None


def stem_of(frame_name: str) -> str:
    """A frame's name for files about it, without the ending: "0007" of "0007.png", "roll-12" of "roll.tif#12"."""
    file, _, page = frame_name.rpartition("#")
    return f"{Path(file).stem}-{page}" if file and page.isdigit() else Path(frame_name).stem
