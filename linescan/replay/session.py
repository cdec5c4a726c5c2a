"""A replay: footage, one roll or many, through the engine, with events and pictures in an output folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from linescan.codec import to_dict
from linescan.files import atomic_file, make_folder
from linescan.footage import Footage, FootageFrame
from linescan.inspection import FinalBand, Finding, Footprint, Inspector
from linescan.messages import Message, RollStart
from linescan.models.runner import Runner
from linescan.pixels import format_of
from linescan.recipe import Setup, check_footage, self_check
from linescan.replay.pictures import ResidualFile, WebPicture
from linescan.replay.roll import RollResult, inspect_roll, stem_of


@dataclass(frozen=True)
class ReplayOptions:
    """What to write and how fast: `lines_per_second` 0 is as fast as the machine can.

    `camera` and `roll` are the names in the events where the footage does not know them.
    """

    output: Path | None = None
    residuals: bool = False
    separate: bool = False
    lines_per_second: float = 0.0
    camera: str = "footage"
    roll: str = "roll"


class Replay:
    """Runs footage through the engine.

    Args:
        on_message: told every event, in order; `on_lines` of progress in lines; `on_note` why something was not read.
        stop: once it is set, the roll ends after the frame at hand, and what follows is not read.
    """

    def __init__(
        self,
        setup: Setup,
        runner: Runner,
        options: ReplayOptions,
        on_message: Callable[[Message], None] | None = None,
        on_lines: Callable[[int], object] | None = None,
        on_note: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._setup, self._runner, self._options = setup, runner, options
        self._on_message = on_message or (lambda _message: None)
        self._on_lines = on_lines or (lambda _count: None)
        self._on_note = on_note or (lambda _note: None)
        self._stop = stop or threading.Event()

    def run(self, footage: Footage) -> list[RollResult]:
        """Inspects all of the footage; raises InspectionError where the self-check finds the model blind."""
        check_before(self._setup, self._runner, footage)
        results: list[RollResult] = []
        with ExitStack() as stack:
            events = None
            if self._options.output is not None:
                make_folder(self._options.output)
                events = stack.enter_context(atomic_file(self._options.output / "events.jsonl"))
            for name, suffix, frames in self._rolls(footage):
                results.append(self._roll(name, suffix, frames, footage, events))
        if footage.truncated is not None:
            self._on_note(f"the footage ends early: {footage.truncated}")
        return results

    def _rolls(self, footage: Footage) -> Iterator[tuple[str, str, Iterable[FootageFrame]]]:
        """Name, suffix of the names of its files, and frames of each roll."""
        frames = self._paced(footage)
        if not self._options.separate:
            # a recording of a live line may hold several rolls, one after the other
            rolls = RollChanges()
            for number, part in groupby(frames, rolls.number_of):
                yield rolls.name or self._options.roll, f"-{number}" if number > 1 else "", part
            return
        taken: set[str] = set()
        for frame in frames:
            name = stem_of(frame.name)
            name = frame.name.replace("#", "-") if name in taken else name  # 7.png beside 7.jpg
            taken.add(name)
            yield name, f"-{name}", [frame]

    def _paced(self, footage: Footage) -> Iterator[FootageFrame]:
        """The frames, each when its last line would have been scanned, until the end is asked for."""
        rate, start, lines = self._options.lines_per_second, time.monotonic(), 0
        for frame in footage:
            lines += frame.lines
            if rate:
                self._stop.wait(max(start + lines / rate - time.monotonic(), 0))
            if self._stop.is_set():
                return
            yield frame

    def _roll(
        self, name: str, suffix: str, frames: Iterable[FootageFrame], footage: Footage, events: IO[bytes] | None
    ) -> RollResult:
        settings, options = self._setup.settings, self._options
        first_column = settings.columns[0] if settings.columns else 0
        picture = residuals = None
        if options.output is not None:
            picture = WebPicture(footage.columns, first_column, settings.scale)
            if options.residuals:
                residuals = ResidualFile(footage.columns, first_column, settings.scale, options.output)

        def on_band(final: FinalBand) -> None:
            for sink in (picture, residuals):
                if sink is not None:
                    sink.add_band(final)

        def on_frame(frame: FootageFrame, first: int) -> None:
            if frame.error is not None and frame.lines:
                self._on_note(f"{frame.name} {frame.error}: its {frame.lines} lines are a gap")
            if picture is not None:
                picture.add_lines(frame.pixels, frame.lines, first, frame.bit_depth)
            self._on_lines(frame.lines)

        inspector = inspector_of(self._setup, self._runner, footage, footage.camera or options.camera, name, on_band)
        self._tell(start_of(self._setup, self._runner, inspector.footprint), events)
        with residuals or nullcontext():
            result = inspect_roll(inspector, frames, lambda finding: self._tell(finding, events), on_frame)
            self._tell(result.end, events)
            if options.output is not None and picture is not None:
                picture.save(options.output / f"web{suffix}.png")
            if options.output is not None and residuals is not None:
                residuals.save(options.output / f"residual{suffix}.tiff", result.end.lines)
        return result

    def _tell(self, message: Message | Finding, events: IO[bytes] | None) -> None:
        if events is not None:
            events.write(json.dumps(to_dict(message)).encode() + b"\n")
        self._on_message(message)


def check_before(setup: Setup, runner: Runner, footage: Footage) -> None:
    """Raises what stands against inspecting that footage so: its size, its flat-field, a model that is blind."""
    check_footage(setup, footage.columns, footage.channels)
    if setup.flatfield is not None:
        setup.flatfield.check(footage.path, None, footage.columns, format_of(footage.channels, footage.bit_depth))
    self_check(setup, runner)


def inspector_of(
    setup: Setup,
    runner: Runner,
    footage: Footage,
    camera: str,
    roll: str,
    on_band: Callable[[FinalBand], None] | None = None,
) -> Inspector:
    """What a roll of that footage is inspected with."""
    return Inspector(
        setup.settings,
        Footprint(footage.columns, footage.bit_depth, camera, roll, setup.geometry),
        runner,
        queues=runner.queues,
        calibration=setup.calibration,
        flatfield=None if setup.flatfield is None else setup.flatfield.field(),
        on_band=on_band,
    )


def start_of(setup: Setup, runner: Runner, footprint: Footprint) -> RollStart:
    """The roll's start, with everything that decides its events."""
    running = {**setup.pinned, "execution": runner.execution.as_dict()}
    return RollStart(footprint.camera, footprint.roll, setup.recipe, 0, running)


class RollChanges:
    """Counts the rolls of a recording; lines that were lost belong to the roll that was running."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._number = 1

    def number_of(self, frame: FootageFrame) -> int:
        roll = self.name if frame.roll is None else frame.roll
        if self.name is not None and roll != self.name:
            self._number += 1
        self.name = roll
        return self._number
