"""A replay: footage, one roll or many, through the engine, with events and pictures in an output folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from linescan.errors import ConfigError, FootageError
from linescan.files import atomic_file
from linescan.footage import Footage, FootageFrame
from linescan.inspection.inspector import FinalBand, Finding, Footprint, Inspector
from linescan.messages import Message, RollStart, to_dict
from linescan.models.runner import Runner
from linescan.recipe import Setup, self_check
from linescan.replay.pictures import ResidualFile, WebPicture
from linescan.replay.roll import RollResult, inspect_roll


@dataclass(frozen=True)
class ReplayOptions:
    """What to write and how fast: `lines_per_second` 0 is as fast as the machine can."""

    output: Path | None = None
    residuals: bool = False
    separate: bool = False
    lines_per_second: float = 0.0
    camera: str = "footage"
    roll: str = "roll"


class Replay:
    """Runs footage through the engine.

    Args:
        on_message: told every event, in order; `on_lines` of progress in lines.
    """

    def __init__(
        self,
        setup: Setup,
        runner: Runner,
        options: ReplayOptions,
        on_message: Callable[[Message], None] | None = None,
        on_lines: Callable[[int], object] | None = None,
    ) -> None:
        self._setup, self._runner, self._options = setup, runner, options
        self._on_message = on_message or (lambda _message: None)
        self._on_lines = on_lines or (lambda _count: None)

    def run(self, footage: Footage) -> list[RollResult]:
        """Inspects all of the footage; raises InspectionError where the self-check finds the model blind."""
        self._check(footage)
        results: list[RollResult] = []
        with ExitStack() as stack:
            events = None
            if self._options.output is not None:
                self._options.output.mkdir(parents=True, exist_ok=True)
                events = stack.enter_context(atomic_file(self._options.output / "events.jsonl"))
            for name, frames in self._rolls(footage):
                results.append(self._roll(name, frames, footage, events))
                if results[-1].interrupted:
                    break
        return results

    def _check(self, footage: Footage) -> None:
        settings, bundle = self._setup.settings, self._setup.bundle
        if footage.channels != settings.channels:
            raise FootageError(
                f"the footage has {footage.channels} channels, {bundle.path} was trained on {settings.channels}"
            )
        if settings.columns and settings.columns[1] > footage.columns:
            first, end = settings.columns
            raise ConfigError(f"columns {first}:{end} are asked for, the footage has {footage.columns}")
        self_check(self._setup, self._runner)

    def _rolls(self, footage: Footage) -> Iterator[tuple[str, Iterable[FootageFrame]]]:
        if not self._options.separate:
            yield self._options.roll, footage
            return
        for frame in footage:
            yield Path(frame.name).stem, [frame]

    def _roll(
        self, name: str, frames: Iterable[FootageFrame], footage: Footage, events: IO[bytes] | None
    ) -> RollResult:
        settings, options = self._setup.settings, self._options
        first_column = settings.columns[0] if settings.columns else 0
        picture = residuals = None
        suffix = f"-{name}" if options.separate else ""
        if options.output is not None:
            picture = WebPicture(footage.columns, first_column, settings.scale)
            if options.residuals:
                residuals = ResidualFile(footage.columns, first_column, settings.scale, options.output)

        def on_band(final: FinalBand) -> None:
            for sink in (picture, residuals):
                if sink is not None:
                    sink.add_band(final)

        def on_frame(frame: FootageFrame, first: int) -> None:
            pace.wait(frame.lines)
            if picture is not None:
                picture.add_lines(frame.pixels, frame.lines, first, frame.bit_depth)
            self._on_lines(frame.lines)

        pace = _Pace(options.lines_per_second)
        inspector = Inspector(
            settings,
            Footprint(footage.columns, footage.bit_depth, options.camera, name),
            self._runner,
            device=self._runner.device,
            calibration=self._setup.calibration,
            on_band=on_band,
        )
        self._tell(self._start(name), events)
        result = inspect_roll(inspector, frames, lambda finding: self._tell(finding, events), on_frame)
        self._tell(result.end, events)
        if options.output is not None and picture is not None:
            picture.save(options.output / f"web{suffix}.png")
        if options.output is not None and residuals is not None:
            residuals.save(options.output / f"residual{suffix}.tiff", result.end.lines)
        return result

    def _start(self, name: str) -> RollStart:
        running = {**self._setup.pinned, "execution": self._runner.execution.as_dict()}
        return RollStart(self._options.camera, name, self._setup.recipe, 0, running)

    def _tell(self, message: Message | Finding, events: IO[bytes] | None) -> None:
        if events is not None:
            events.write(json.dumps(to_dict(message)).encode() + b"\n")
        self._on_message(message)


class _Pace:
    """Holds footage back to a line rate."""

    def __init__(self, lines_per_second: float) -> None:
        self._rate = lines_per_second
        self._start: float | None = None
        self._lines = 0

    def wait(self, lines: int) -> None:
        if not self._rate:
            return
        self._start = self._start if self._start is not None else time.monotonic()
        self._lines += lines
        ahead = self._start + self._lines / self._rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
