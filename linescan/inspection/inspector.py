"""The inspection of one roll of one camera: raw lines in, regions and gaps out, and how far it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgpack
import torch

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.cuda import queues_of
from linescan.inspection.flatfield import FlatField
from linescan.inspection.gate import LineGate, Stretch
from linescan.inspection.intake import Intake
from linescan.inspection.lines import Pixels
from linescan.inspection.placement import Footprint, Placement, labeller_settings
from linescan.inspection.queues import Queues
from linescan.inspection.reconstruction import Reconstruct
from linescan.inspection.regions import Labeller
from linescan.inspection.running import Raw, Running
from linescan.inspection.segment import Segment
from linescan.inspection.strips import strips_of
from linescan.inspection.telling import FinalBand, Finding, Telling
from linescan.messages import GapCause

__all__ = ["FinalBand", "Finding", "Inspector"]
SNAPSHOT_VERSION = 1


class Inspector:
    """Finds what does not belong, in lines pushed in any portions: the portions do not show in the result.

    Where `queues` work ahead, as a device's do, a portion may still be under way when `push` returns: what it found is
    told by a later call.

    Args:
        settings: what decides the result.
        footprint: columns, depth and names.
        reconstruct: the model, N×C×P×P float32 in [0, 1] → the same shape, each patch for itself.
        calibration: residual statistics per inspected scaled column, or None.
        flatfield: what is taken off the lines before anything looks at them, or None.
        queues: where it computes; in place of `device`.
        on_band: told of every final band, for pictures, residual files and statistics.
        snapshot: from an earlier Inspector's `snapshot()`; then push lines from `resume_from` on.
    """

    def __init__(
        self,
        settings: InspectionSettings,
        footprint: Footprint,
        reconstruct: Reconstruct,
        *,
        device: torch.device | None = None,
        queues: Queues | None = None,
        calibration: ColumnCalibration | None = None,
        flatfield: FlatField | None = None,
        on_band: Callable[[FinalBand], None] | None = None,
        snapshot: bytes | None = None,
    ) -> None:
        self.settings = settings
        self.footprint = footprint
        self._reconstruct = reconstruct
        self._queues = queues or queues_of(device or torch.device("cpu"))
        self._calibration = calibration
        self.flatfield = flatfield
        first, end = settings.columns or (0, footprint.columns)
        if end > footprint.columns:
            raise InspectionError(f"columns {first}:{end} asked, the footage has {footprint.columns}")
        self._columns = slice(first, end)
        self._width = -(-(end - first) // settings.scale)  # scaled
        self._strips = strips_of(settings, self._columns).to(self._queues.device)
        if calibration is not None and len(calibration.mean) != self._width:
            raise InspectionError(
                f"the column calibration has {len(calibration.mean)} columns, {self._width} are inspected"
            )
        if flatfield is not None:
            flatfield.check(footprint.columns, settings.channels, footprint.bit_depth)
        self._gate = LineGate(
            settings.band, footprint.bit_depth, self._columns, selvage=settings.selvage, keeps=self._queues.apart
        )
        self._intake = Intake(self._queues, self._gate, flatfield)
        self._fed: Running | None = None  # the segment that lines go into
        self._told = Telling(settings, footprint, on_band)
        if snapshot is not None:
            self._restore(snapshot)

    # ------------------------------------------------------------------------------------------ how far it is

    @property
    def lines_scanned(self) -> int:
        """Lines of the roll so far, those of announced gaps included."""
        return max(self._intake.line, self.inspected_up_to)  # a resumed run is fed again what was scanned before

    @property
    def inspected_up_to(self) -> int:
        """First line that is neither final nor in an announced gap; it never goes back."""
        return self._told.inspected_up_to

    @property
    def lines_in_gaps(self) -> int:
        """Lines of announced gaps."""
        return self._told.lines_in_gaps

    @property
    def lines_inspected(self) -> int:
        """Lines that are final; with those in gaps and pending ones they are all lines scanned."""
        return self.inspected_up_to - self.lines_in_gaps

    @property
    def lines_pending(self) -> int:
        return self.lines_scanned - self.inspected_up_to

    @property
    def resume_from(self) -> int:
        """First raw line that an Inspector made from `snapshot()` needs."""
        return self._told.resume_from

    @property
    def _running(self) -> Running | None:
        return self._told.running

    @property
    def brightness(self) -> float | None:
        """Slow mean, in [0, 1], of the corrected lines that can be inspected; None until enough of them came."""
        return self._gate.brightness.mean

    # ------------------------------------------------------------------------------------------ lines in

    def push(self, pixels: Pixels, first_line: int | None = None) -> list[Finding]:
        """Takes the next lines, lines×columns or lines×columns×C; returns what became certain by them.

        Lines that were pushed before are passed over; lines that are missing before `first_line` become a gap.
        """
        self._check(pixels)
        findings: list[Finding] = []
        if first_line is not None and first_line > self._intake.line:
            findings += self.push_gap(first_line - 1, "incomplete")
        known = 0 if first_line is None else max(self._intake.line - first_line, 0)
        if known < len(pixels):
            for _ in self._intake.put(pixels[known:]):
                self._feed(waiting=self._queues.ahead if self._queues.apart else 0)
                findings += self._told.tell(waiting=self._queues.ahead)
        return findings

    @property
    def apart(self) -> bool:
        """Whether a device computes, so that `push` of many lines takes the host no time."""
        return self._queues.apart

    @property
    def settled(self) -> bool:
        """Whether nothing is under way."""
        return self._intake.empty and self._told.empty

    def settle(self) -> list[Finding]:
        """Waits for what is under way and tells it: for when no lines are there to be pushed."""
        self._feed()
        return self._told.tell()

    def push_gap(self, last_line: int, cause: GapCause, estimated: bool = False) -> list[Finding]:
        """The lines up to and with `last_line` are lost: ends the segment; the next lines begin a new one.

        Lines that were inspected before are never part of the gap, even where a resumed run misses them.
        """
        findings = self._flush()
        told = self._told
        if last_line >= told.finished_up_to:
            findings.append(told.gap(told.finished_up_to, last_line, cause, estimated))
        if self._gate.line != told.finished_up_to:
            self._gate.skip_to(told.finished_up_to)
        told.valid = self._gate.valid
        return findings

    def finish(self) -> list[Finding]:
        """The roll has ended: nothing is pending afterwards."""
        return self._flush()

    def _check(self, pixels: Pixels) -> None:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if pixels.shape[1] != self.footprint.columns or channels != self.settings.channels:
            raise InspectionError(
                f"lines of {pixels.shape[1]} columns and {channels} channels, expected {self.footprint.columns} and "
                f"{self.settings.channels}"
            )

    def _flush(self) -> list[Finding]:
        self._feed()
        for stretch in self._gate.flush():
            self._take(stretch)
        self._end_segment()
        return self._told.tell()

    def _feed(self, waiting: int = 0) -> None:
        """Puts the lines that have their verdict into the segment; all portions but so many get theirs."""
        for stretch in self._intake.take(waiting):
            self._take(stretch)

    def _take(self, stretch: Stretch) -> None:
        if stretch.lines is None:
            self._end_segment()
            self._told.invalid(stretch)
        else:
            running = self._fed or self._begin_segment(stretch.first_line)
            self._told.bands(running, running.push(stretch.lines))

    # ------------------------------------------------------------------------------------------ segments

    def _begin_segment(self, first_line: int, resume_row: int = 0) -> Running:
        running = self._fed = Running(
            self._queues,
            Raw(self._columns, self.footprint.bit_depth, self.settings.scale),
            Placement(self.settings, self.footprint, self._columns, first_line),
            Labeller(self._width, labeller_settings(self.settings, self._columns), resume_row),
            lambda: Segment(
                self.settings, self._width, self._reconstruct, self._queues.device, self._calibration, resume_row,
                self._strips, look=not self._queues.apart,
            ),
        )  # fmt: skip
        self._told.begin(running)
        return running

    def _end_segment(self) -> None:
        running, self._fed = self._fed, None
        if running is not None:
            self._told.end(running, running.end())

    # ------------------------------------------------------------------------------------------ stop and go on

    def snapshot(self) -> bytes:
        """Versioned bytes from which another Inspector goes on with the same events, fed from `resume_from`."""
        running = self._told.running
        state: dict[str, Any] = {
            "version": SNAPSHOT_VERSION,
            "settings": self._fingerprint(),
            "finished_up_to": self._told.finished_up_to,
            "in_gaps": self.lines_in_gaps,
            "valid": self._told.valid,
            "segment": running and {"first_line": running.place.first_line, "labeller": running.labeller.state()},
        }
        packed: bytes = msgpack.packb(state)
        return packed

    def _restore(self, snapshot: bytes) -> None:
        try:
            self._go_on_from(msgpack.unpackb(snapshot))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, msgpack.UnpackException) as error:
            raise InspectionError(f"not a snapshot: {error!r}") from error

    def _go_on_from(self, state: dict[str, Any]) -> None:
        if state["version"] != SNAPSHOT_VERSION:
            raise InspectionError(f"snapshot of version {state['version']}, {SNAPSHOT_VERSION} expected")
        if state["settings"] != self._fingerprint():
            raise InspectionError("the snapshot was made with other settings, calibration, flat-field, camera or roll")
        self._told.finished_up_to, self._told.lines_in_gaps = state["finished_up_to"], state["in_gaps"]
        if state["segment"] is not None:
            labeller = state["segment"]["labeller"]
            running = self._begin_segment(state["segment"]["first_line"], labeller["row"])
            self._told.tell()
            running.labeller.restore(labeller)
            running.lines = self.resume_from - running.place.first_line
        self._told.valid = state["valid"]
        self._gate.skip_to(self.resume_from, self._told.valid)

    def _fingerprint(self) -> bytes:
        """Stands for all that decides the events, except the model."""
        digest = hashlib.sha256(f"{self.settings.model_dump_json()} {self.footprint}".encode())
        if self._calibration is not None:
            digest.update(self._calibration.mean.tobytes() + self._calibration.deviation.tobytes())
        if self.flatfield is not None:
            digest.update(self.flatfield.fingerprint)
        return digest.digest()[:16]
