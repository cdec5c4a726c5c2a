"""What the worker inspects with: a recipe's setup, the model as it runs here, and one roll's Inspector at a time."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from typing import Any

import torch

from linescan.errors import ConfigError, InspectionError
from linescan.flatfield_file import flatfield_of
from linescan.inspection import Footprint, Inspector
from linescan.line import Line
from linescan.messages import Progress, RollEnd, RollStart
from linescan.models.device import OutOfMemory
from linescan.models.openvino import openvino_installed
from linescan.models.runner import Execution, Runner, choose_execution, in_precision
from linescan.pixels import FORMATS
from linescan.recipe import Setup, check_footage, load_setup, patches_a_row, self_check


class Engine:
    """The model, ready to run; `inspector()` makes what a roll is inspected with.

    Args:
        recipe: its name; empty: the one that line.toml names.
        stored: the settings of the roll that goes on or was before, as its RollStart has them: how the model ran,
            what the camera sends; None where there is none.

    Raises ConfigError, BundleError; FootageError where the camera sends something else than the model takes;
    InspectionError where the model does not see the defect of its reference patch.
    """

    def __init__(self, line: Line, camera: str, recipe: str, stored: dict[str, Any] | None) -> None:
        file = line.recipe_file(recipe or line.recipe)
        self.setup: Setup = load_setup(
            recipe=file, pinned=True, geometry=line.geometry(camera), flatfield=flatfield_of(line, camera)
        )
        asked = line.settings.worker
        before = _stored_execution(stored)
        columns, channels = _seen(stored)
        width = columns or line.width(camera)
        if width is not None:  # what the roll's start would refuse is better refused before
            check_footage(self.setup, width, channels or self.setup.settings.channels)
        a_row = None if width is None else patches_a_row(self.setup.settings, width)
        self.execution = (before and in_precision(self.setup.bundle, before)) or choose_execution(
            self.setup.bundle, asked.device, asked.precision, asked.batch, asked.threads, a_row
        )
        self.runner = self._make_runner()
        self._checked = time.monotonic()
        self._check_s = asked.self_check_s

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.setup.recipe

    @property
    def identity(self) -> bytes:
        """Of two engines of one recipe: equal where they find the same."""
        return hashlib.sha256(json.dumps(self.setup.pinned, sort_keys=True).encode()).digest()

    def _make_runner(self) -> Runner:
        while (runner := self._runner_that_fits()) is None:
            self.execution = smaller(self.execution)
            torch.cuda.empty_cache()
        return runner

    def _runner_that_fits(self) -> Runner | None:
        """None where the device has no memory for it; what was taken is free again then."""
        try:
            runner = Runner(self.setup.bundle, self.execution)
            self_check(self.setup, runner)
            return runner
        except OutOfMemory:
            return None

    def check(self) -> None:
        """Looks at the reference patch again when it is time to; raises InspectionError."""
        if time.monotonic() - self._checked > self._check_s:
            self._checked = time.monotonic()
            self_check(self.setup, self.runner)

    def shrink(self) -> None:
        """Smaller batches after the device ran out of memory; raises InspectionError where one patch does not fit."""
        self.execution = smaller(self.execution)
        del self.runner  # its memory is needed
        torch.cuda.empty_cache()
        self.runner = self._make_runner()

    def inspector(self, start: RollStart, progress: Progress | None) -> Inspector:
        """An Inspector for that roll, from its beginning or from where `progress` stopped.

        Raises ConfigError where the roll was begun with other settings, FootageError where the model cannot take it.
        """
        footprint = replace(_footprint(start), geometry=self.setup.geometry)
        check_footage(self.setup, footprint.columns, FORMATS[start.settings["pixel_format"]].channels)
        stored = self.setup.flatfield
        if stored is not None:
            stored.check(f"camera {start.camera}", None, footprint.columns, start.settings["pixel_format"])
        try:
            return Inspector(
                self.setup.settings,
                footprint,
                self.runner,
                queues=self.runner.queues,
                calibration=self.setup.calibration,
                flatfield=None if stored is None else stored.field(),
                snapshot=progress.snapshot if progress else None,
            )
        except InspectionError as error:
            raise ConfigError(
                f"roll {start.roll}, which runs, cannot go on: {error}; put recipe and flat-field back as they "
                "were, or end the roll (`linescan roll end`)"
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


def _seen(stored: dict[str, Any] | None) -> tuple[int | None, int | None]:
    """Columns and channels that the camera sends, as far as a roll's start has told."""
    columns, pixel_format = (stored or {}).get("columns"), (stored or {}).get("pixel_format")
    channels = FORMATS[pixel_format].channels if pixel_format in FORMATS else None
    return columns if isinstance(columns, int) else None, channels


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
    if execution.device == "openvino" and not openvino_installed():
        return None
    return execution
