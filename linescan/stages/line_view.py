"""The line as plant IT sees it: what its statuses, progress and events come to. No sockets, no files.

A stage that falls silent is a fault of its own: the last word of one that died would look as if it still worked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from linescan.messages import Gap, Message, Progress, Region, Reject, RollEnd, RollStart, RollState, Status

SILENT_BEATS, SILENT_LEAST_S = 5, 5.0  # heartbeats that fail to come before a stage counts as silent
TOLERABLE = frozenset(
    {"disk-full", "lines-missing", "brightness-drift"}
)  # the inspection goes on; all others are errors
INSPECTING = "inspecting"


class VisionState(Enum):
    """States of OPC 40100-1 (machine vision): first level and, within Operational, automatic mode.

    Halted is never said: who only listens cannot tell a line that was stopped from one that died, and says Error.
    SingleExecution is never said: a web is inspected continuously.
    """

    PREOPERATIONAL = ("Preoperational", "")
    ERROR = ("Error", "")
    INITIALIZED = ("Operational", "Initialized")
    READY = ("Operational", "Ready")
    CONTINUOUS = ("Operational", "ContinuousExecution")


class StageBook:
    """The last Status of every stage, which of them fell silent, and which of a line's `cameras` were never heard."""

    def __init__(
        self, status_s: float, clock_ns: Callable[[], int] = time.monotonic_ns, cameras: Iterable[str] = ()
    ) -> None:
        self._patience_ns = int(max(SILENT_BEATS * status_s, SILENT_LEAST_S) * 1e9)
        self._clock, self._since_ns = clock_ns, clock_ns()
        self._last: dict[str, tuple[Status, int]] = {}
        self.needed = ["publisher", *(f"{stage}@{camera}" for camera in cameras for stage in ("acquire", "worker"))]

    def hear(self, status: Status) -> None:
        self._last[stage_name(status)] = (status, self._clock())

    def last(self, name: str) -> Status | None:
        """What that stage said last, silent or not; None: never a word."""
        return self._last[name][0] if name in self._last else None

    @property
    def names(self) -> list[str]:
        """Of all stages that were ever heard."""
        return list(self._last)

    @property
    def silent(self) -> list[str]:
        """Stages that were heard of once, and no longer are."""
        now = self._clock()
        return [name for name, (_, heard_ns) in self._last.items() if now - heard_ns > self._patience_ns]

    @property
    def missing(self) -> list[str]:
        """Stages without which nothing is inspected, and of which nothing was heard since we listen."""
        waited = self._clock() - self._since_ns > self._patience_ns
        return [name for name in self.needed if name not in self._last] if waited else []

    @property
    def faults(self) -> list[tuple[str, str]]:
        """(stage, fault) of all, a silence among them."""
        silent = self.silent
        said = [
            (name, fault) for name, (status, _) in self._last.items() if name not in silent for fault in status.faults
        ]
        return [*said, *((name, "silent") for name in silent)]


def stage_name(status: Status) -> str:
    """As units and processes are called: publisher, worker@cam0."""
    return f"{status.stage}@{status.camera}" if status.camera else status.stage


@dataclass
class CameraView:
    """One camera in the roll that runs."""

    inspected_up_to: int = 0
    lines_scanned: int = 0
    lines_in_gaps: int = 0


@dataclass
class RollView:
    """A roll, and what was found in it since it began or since we listen; `started` are cameras heard to begin."""

    name: str = ""
    recipe: str = ""
    cameras: dict[str, CameraView] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)


class LineView:
    """What is known of a line; told of all that a subscriber hears, and now and then of the publisher's RollState."""

    def __init__(
        self, cameras: Iterable[str], status_s: float, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.cameras = tuple(cameras)
        self.stages = StageBook(status_s, clock_ns, self.cameras)
        self.roll = self._new_roll("", "")
        self._contradicted = ""  # the answer that last differed from what events say

    # ------------------------------------------------------------------------------------------ hearing

    def hear_progress(self, progress: Progress) -> None:
        view = self.roll.cameras.get(progress.camera)
        if view is not None and progress.roll == self.roll.name:
            view.inspected_up_to = max(view.inspected_up_to, progress.inspected_up_to)
            view.lines_scanned = max(view.lines_scanned, progress.lines_scanned)

    def hear_event(self, event: Message) -> None:
        if isinstance(event, RollStart):
            if event.roll != self.roll.name:
                self.roll = self._new_roll(event.roll, event.recipe)
            self.roll.started.add(event.camera)
        elif getattr(event, "roll", None) == self.roll.name:
            self._count(event)

    def hear_roll(self, state: RollState) -> None:
        """An answer to "status": it tells of a roll that began before us, and of one that ended.

        An event may be under way meanwhile: only what is answered twice goes before what events said.
        """
        answer = f"{state.roll} {state.recipe}"
        if state.roll != self.roll.name and answer == self._contradicted:
            self.roll = self._new_roll(state.roll, state.recipe)
        self._contradicted = answer if state.roll != self.roll.name else ""
        if state.roll and state.roll == self.roll.name:
            for camera, up_to in zip(state.cameras, state.inspected_up_to, strict=False):
                if camera in self.roll.cameras:
                    view = self.roll.cameras[camera]
                    view.inspected_up_to = max(view.inspected_up_to, up_to)

    def _count(self, event: Message) -> None:
        counts = self.roll.counts
        if isinstance(event, Gap):
            counts["gaps"] += 1
            if event.camera in self.roll.cameras:
                self.roll.cameras[event.camera].lines_in_gaps += event.last_line - event.first_line + 1
        elif isinstance(event, Region):
            counts["regions"] += event.phase == "close" and event.merged_into is None
        elif isinstance(event, Reject):
            counts["rejects"] += 1
            counts["rejects_late"] += not event.in_time
        elif isinstance(event, RollEnd) and event.camera in self.roll.cameras:
            view = self.roll.cameras[event.camera]
            view.lines_scanned, view.lines_in_gaps = event.lines, event.lines_in_gaps
            view.inspected_up_to = event.inspected_up_to

    def _new_roll(self, name: str, recipe: str) -> RollView:
        return RollView(name, recipe, {camera: CameraView() for camera in self.cameras})

    # ------------------------------------------------------------------------------------------ what it comes to

    @property
    def whole(self) -> bool:
        """Whether the counts are of the roll from its beginning."""
        return bool(self.roll.name) and self.roll.started.issuperset(self.cameras)

    @property
    def stale(self) -> bool:
        """Whether the publisher is silent: all that is shown is old then."""
        return self.stages.last("publisher") is None or "publisher" in self.stages.silent

    @property
    def faults(self) -> list[str]:
        """`stage: fault`; where the publisher is silent nothing of the others can be heard, and only that is said."""
        if "publisher" in self.stages.silent:
            return ["publisher: silent"]
        return [f"{name}: {fault}" for name, fault in self.stages.faults]

    @property
    def state(self) -> VisionState:
        if "publisher" in self.stages.silent:
            return VisionState.ERROR
        needed = self.stages.needed
        if any(fault not in TOLERABLE for name, fault in self.stages.faults if fault != "silent" or name in needed):
            return VisionState.ERROR
        said = {name: self.stages.last(name) for name in needed}
        if any(status is None for status in said.values()):
            return VisionState.PREOPERATIONAL
        if any(status.state != INSPECTING for status in said.values() if status and status.stage == "worker"):
            return VisionState.INITIALIZED
        return VisionState.CONTINUOUS if self.roll.name else VisionState.READY
