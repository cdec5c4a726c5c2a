"""What the worker inspects with: the recipe's setup, the model as it runs here, and one roll's Inspector at a time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from linescan.errors import ConfigError, InspectionError
from linescan.inspection import Footprint, Inspector
from linescan.line import Line
from linescan.messages import Progress, RollEnd, RollStart
from linescan.models.runner import Execution, Runner, choose_execution
from linescan.pixels import FORMATS
from linescan.recipe import Setup, check_footage, load_setup, patches_a_row, self_check

OutOfMemory = torch.cuda.OutOfMemoryError


class Engine:
    """The model, ready to run; `inspector()` makes what a roll is inspected with.

    Args:
        stored: how the model ran before in the roll that goes on, from its RollStart; None where there is none.

    Raises ConfigError, BundleError; InspectionError where the model does not see the defect of its reference patch.
    """

    def __init__(self, line: Line, camera: str, stored: dict[str, Any] | None) -> None:
        recipe = line.file(line.settings.recipe)
        self.setup: Setup = load_setup(recipe=recipe, pinned=True)
        asked = line.settings.worker
        before = _stored_execution(stored)
        width = line.camera(camera).features.get("Width")
        a_row = patches_a_row(self.setup.settings, width) if isinstance(width, int) else None
        self.execution = before or choose_execution(
            self.setup.bundle, asked.device, asked.precision, asked.batch, asked.threads, a_row
        )
        self.runner = self._make_runner()
        self._checked = time.monotonic()
        self._check_s = asked.self_check_s

    def _make_runner(self) -> Runner:
        while True:
            try:
                runner = Runner(self.setup.bundle, self.execution)
                self_check(self.setup, runner)
                return runner
            except OutOfMemory:
                self.execution = smaller(self.execution)

    def check(self) -> None:
        """Looks at the reference patch again when it is time to; raises InspectionError."""
        if time.monotonic() - self._checked > self._check_s:
            self._checked = time.monotonic()
            self_check(self.setup, self.runner)

    def shrink(self) -> None:
        """Smaller batches after the device ran out of memory; raises InspectionError where one patch does not fit."""
        self.execution = smaller(self.execution)
        torch.cuda.empty_cache()
        self.runner = self._make_runner()

    def inspector(self, start: RollStart, progress: Progress | None) -> Inspector:
        """An Inspector for that roll, from its beginning or from where `progress` stopped.

        Raises ConfigError where the roll was begun with other settings, FootageError where the model cannot take it.
        """
        footprint = _footprint(start)
        check_footage(self.setup, footprint.columns, FORMATS[start.settings["pixel_format"]].channels)
        try:
            return Inspector(
                self.setup.settings,
                footprint,
                self.runner,
                device=self.runner.device,
                calibration=self.setup.calibration,
                snapshot=progress.snapshot if progress else None,
            )
        except InspectionError as error:
            raise ConfigError(
                f"roll {start.roll}, which runs, cannot go on: {error}; put the recipe back as it was, or end the "
                "roll (`linescan roll end`)"
            ) from error

    def announced(self, start: RollStart) -> RollStart:
        """The roll's start with everything that decides its events."""
        settings = {**start.settings, **self.setup.pinned, "execution": self.execution.as_dict()}
        return replace(start, recipe=self.setup.recipe, settings=settings)


def smaller(execution: Execution) -> Execution:
    """Half the batch; raises InspectionError where it is 1 already."""
    if execution.batch == 1:
        raise InspectionError("the device has no memory for a single patch")
    return replace(execution, batch=execution.batch // 2)


def progress_of(inspector: Inspector) -> Progress:
    footprint = inspector.footprint
    return Progress(
        footprint.camera,
        footprint.roll,
        inspector.inspected_up_to,
        inspector.resume_from,
        inspector.snapshot(),
        inspector.lines_scanned,
    )


def end_of(inspector: Inspector) -> RollEnd:
    footprint = inspector.footprint
    return RollEnd(
        footprint.camera,
        footprint.roll,
        inspector.lines_scanned,
        inspector.inspected_up_to,
        inspector.lines_inspected,
        inspector.lines_in_gaps,
    )


def _footprint(start: RollStart) -> Footprint:
    columns, pixel_format = start.settings.get("columns"), start.settings.get("pixel_format")
    if not isinstance(columns, int) or pixel_format not in FORMATS:
        raise InspectionError(f"roll {start.roll} was announced without its columns and pixel format")
    return Footprint(columns, FORMATS[pixel_format].bits, start.camera, start.roll)


def _stored_execution(stored: dict[str, Any] | None) -> Execution | None:
    """How the roll's model ran, if this machine can do so again."""
    fields = (stored or {}).get("execution")
    if not isinstance(fields, dict):
        return None
    try:
        execution = Execution(**fields)
    except TypeError:
        return None
    if execution.device == "cuda" and not torch.cuda.is_available():
        return None
    return execution
