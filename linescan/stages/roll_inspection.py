"""What a worker does with its camera's frames: the engine of each roll's recipe, what it finds to the outbox."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from linescan.errors import FootageError, MessageError
from linescan.inspection import Finding, Inspector
from linescan.messages import Frame, Gap, Prepare, Prepared, Resumed, RollEnd, RollStart, StreamEnd
from linescan.metrics import NO_METRICS, Meter
from linescan.pixels import FORMATS, pixels_of
from linescan.stages.engine import Engine, end_of, progress_of
from linescan.stages.next_engine import Aside, MakeEngine, NextEngine, in_thread
from linescan.stages.outbox import Outbox

PIXELS_A_PUSH = 1 << 20  # between two looks at the sockets: a second or so on a slow CPU
PIXELS_AHEAD = 1 << 24  # … where a device works while the host goes on


class RollInspection:
    """One camera's rolls, one after the other; between them, and before the first, nothing is under inspection.

    Args:
        make_engine: of a recipe (empty: the one that line.toml names) from the settings of the roll that goes on or
            was before (None: none); also called aside.
        aside: runs a function beside the loop that calls: the next recipe is loaded while this one inspects.
        between: called between the portions of a long frame; may `drop` the roll.
        alive: called after each portion.
        brightness_drift: of the web from what the flat-field reference makes of it, tolerated share.
    """

    def __init__(
        self,
        camera: str,
        make_engine: MakeEngine,
        outbox: Outbox,
        *,
        brightness_drift: float,
        between: Callable[[], object] = lambda: None,
        alive: Callable[[], object] = lambda: None,
        aside: Aside = in_thread,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        metrics: Meter = NO_METRICS,
    ) -> None:
        self._camera, self._make_engine, self._outbox = camera, make_engine, outbox
        self._between, self._alive, self._clock, self._metrics = between, alive, clock_ns, metrics
        self._brightness_drift = brightness_drift
        self._engine: Engine | None = None
        self._next = NextEngine(make_engine, aside)
        self._seen: dict[str, Any] = {}  # settings of the last roll's start: what the camera sends
        self._inspector: Inspector | None = None
        self._needed_ns = 0  # of the last frame
        self.lines = 0
        self.counters: Counter[str] = Counter()
        self.frame_since_ns: int | None = None  # since when a frame is being inspected

    @property
    def ready(self) -> bool:
        """Whether the model is loaded, warm and sees its reference defect."""
        return self._engine is not None

    # ------------------------------------------------------------------------------------------ recipes

    def load(self, last: RollStart | None) -> None:
        """Makes the engine of the roll that goes on or will, whose start is given, or of line.toml's recipe."""
        self._engine = self._make_engine(last.recipe if last else "", last.settings if last else None)

    def prepare(self, prepare: Prepare) -> Prepared | None:
        """Has the next recipe made; what to say when that is done, or could not be."""
        present = self._engine
        if present is None:
            return None
        self._next.ask(prepare, self._like(present, self._seen))
        made = self._next.made(prepare.number)
        if made is None or not prepare.recipe:
            return None
        engine, reason = made
        going_on = self._inspector is not None or not self._outbox.empty
        if engine is not None and engine.recipe == present.recipe and going_on and engine.identity != present.identity:
            # a worker that takes over in the last lines of the roll could not read their recipe any more
            reason = (
                f"recipe {engine.recipe} was changed since it was loaded, and a roll runs with it; end that roll "
                "first, or give the changed recipe another name"
            )
        return Prepared(self._camera, prepare.recipe, prepare.number, reason)

    def check(self) -> None:
        """The model's self-check, where it is due and no frame waits for it."""
        if self._engine is not None and self.frame_since_ns is None:
            self._engine.check()

    def shrink(self) -> None:
        """The device has no memory for this batch: it is halved, and the roll must be taken up anew."""
        self._inspector = None
        assert self._engine is not None
        self._engine.shrink()

    def _engine_of(self, start: RollStart) -> Engine:
        """The engine for that roll; where it is another recipe's and was not prepared, made here and now."""
        assert self._engine is not None
        if start.recipe in ("", self._engine.recipe):
            return self._engine
        prepared = self._next.take(start.recipe)
        return prepared or self._make_engine(start.recipe, self._like(self._engine, start.settings))

    @staticmethod
    def _like(engine: Engine, settings: dict[str, Any]) -> dict[str, Any]:
        """A roll's settings with the way in which this engine runs: measuring beside an inspection would mislead."""
        return {**settings, "execution": engine.execution.as_dict()}

    # ------------------------------------------------------------------------------------------ rolls

    def start(self, start: RollStart) -> None:
        if self._inspector is not None and self._inspector.footprint.roll == start.roll:
            return
        engine = self._next.take(start.recipe) or self._engine_of(start)
        self._engine, self._seen = engine, start.settings
        self._inspector = engine.inspector(start, None)
        self._outbox.put(engine.announced(start))

    def restore(self, resumed: Resumed) -> None:
        """Takes the roll up where the journal has it."""
        start = resumed.roll
        if start is None or resumed.ended:
            return
        self._engine = engine = self._engine_of(start)
        self._seen = start.settings
        self._inspector = engine.inspector(start, resumed.progress)
        announced = engine.announced(start)
        if announced.settings["execution"] != start.settings.get("execution"):
            # another batch or device moves the last bits of a score: the segment ends, and it is said
            self._outbox.put(announced)
            self._tell(self._inspector.push_gap(self._inspector.inspected_up_to - 1, "worker-lost"), 0)

    def drop(self) -> None:
        """Leaves the roll where it is; `restore` takes it up."""
        self._inspector = None

    def take(self, message: Gap | RollEnd | StreamEnd, needed_ns: int) -> None:
        inspector = self._inspector
        if inspector is None or inspector.footprint.roll != message.roll:
            self.counters["of_no_roll"] += 1
            return
        if isinstance(message, Gap):
            self._tell(inspector.push_gap(message.last_line, message.cause, message.estimated), needed_ns)
        elif isinstance(message, StreamEnd):  # a gap of no lines: what was scanned is finished
            self._tell(inspector.push_gap(inspector.inspected_up_to - 1, "shutdown"), needed_ns)
        else:
            findings = []
            if message.lines > inspector.lines_scanned:
                findings = inspector.push_gap(message.lines - 1, "incomplete")
            self._tell(findings + inspector.finish(), needed_ns)
            self._outbox.put(end_of(inspector), needed_ns)
            self._inspector = None

    # ------------------------------------------------------------------------------------------ frames

    def inspect(self, frame: Frame, data: memoryview | None, needed_ns: int) -> None:
        """Raises FootageError where the camera sends something else than when the roll began."""
        inspector = self._inspector
        if inspector is None or inspector.footprint.roll != frame.roll:
            self.counters["of_no_roll"] += 1
            return
        try:
            pixels = pixels_of(frame, data or b"")
        except MessageError:
            self.counters["garbage"] += 1  # its lines will be missing before the next, and a gap
            return
        if (
            frame.columns != inspector.footprint.columns
            or FORMATS[frame.pixel_format].bits != inspector.footprint.bit_depth
        ):
            raise FootageError(
                f"camera {frame.camera} sends {frame.columns} columns of {frame.pixel_format}, roll {frame.roll} was "
                f"begun with {inspector.footprint.columns} columns of {inspector.footprint.bit_depth} bits"
            )
        self._push(inspector, frame, pixels, needed_ns)

    def _push(self, inspector: Inspector, frame: Frame, pixels: NDArray[Any], needed_ns: int) -> None:
        """In portions, so that the sockets are served meanwhile; the portions do not show in the result."""
        self.frame_since_ns = began_ns = self._clock()
        self._metrics.step("wait", began_ns - needed_ns)
        self._needed_ns = needed_ns
        rows = max(1, (PIXELS_AHEAD if inspector.apart else PIXELS_A_PUSH) // frame.columns)
        try:
            for first in range(0, frame.lines, rows):
                findings = inspector.push(pixels[first : first + rows], frame.first_line + first)
                self._tell(findings, needed_ns, first + rows >= frame.lines)
                self._between()
                self.frame_since_ns = self._clock()  # a portion is done: slow is not hung
                self._alive()
                if self._inspector is not inspector:
                    break  # shut out meanwhile
        finally:
            self.frame_since_ns = None
        self.lines += frame.lines
        self._metrics.step("inspect", self._clock() - began_ns)

    def settle(self) -> None:
        """No frame is there: what the device still works on is waited for, rather than told with the next one."""
        inspector = self._inspector
        if inspector is None or inspector.settled:
            return
        self.frame_since_ns = self._clock()
        try:
            self._tell(inspector.settle(), self._needed_ns)
        finally:
            self.frame_since_ns = None

    def _tell(self, findings: list[Finding], needed_ns: int, progress: bool = True) -> None:
        for finding in findings:
            self._outbox.put(finding, needed_ns)
            if needed_ns:
                self._metrics.step("event", self._clock() - needed_ns)
            if isinstance(finding, Gap):
                self.counters["gaps"] += 1
                self.counters["lines_in_gaps"] += finding.last_line - finding.first_line + 1
        if progress and self._inspector is not None:
            self._outbox.put(progress_of(self._inspector), needed_ns)

    def brightness(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """Counters and faults of how bright the web is beside what the flat-field reference makes of it."""
        inspector = self._inspector
        if inspector is None or inspector.brightness is None:
            return {}, ()
        counters = {"brightness_permille": round(1000 * inspector.brightness)}
        field = inspector.flatfield
        if field is None:
            return counters, ()
        counters["brightness_wanted_permille"] = round(1000 * field.level)
        drifted = field.drifted(inspector.brightness, self._brightness_drift)
        return counters, ("brightness-drift",) if drifted else ()
