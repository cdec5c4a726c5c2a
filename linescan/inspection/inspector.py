"""The inspection of one roll of one camera: raw lines in, regions and gaps out, and how far it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import torch

from linescan.config import InspectionSettings
from linescan.errors import InspectionError
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.flatfield import FlatField
from linescan.inspection.gate import LineGate, Stretch
from linescan.inspection.lines import Pixels, channels_first, to_unit
from linescan.inspection.placement import Footprint, Placement, labeller_settings
from linescan.inspection.regions import Labeller
from linescan.inspection.scaling import LineScaler
from linescan.inspection.segment import Band, Reconstruct, Segment, first_row_needed
from linescan.inspection.strips import strips_of
from linescan.messages import Gap, GapCause, Region

SNAPSHOT_VERSION = 1
Finding = Region | Gap


@dataclass(frozen=True)
class FinalBand:
    """A band with its place on the web: scaled row i covers raw lines first_line + i·n … (its last row maybe fewer)."""

    first_line: int
    end_line: int
    band: Band


@dataclass
class _Running:
    """The segment that runs."""

    place: Placement
    segment: Segment
    labeller: Labeller
    scaler: LineScaler
    lines: int = 0  # raw lines that went in


class Inspector:
    """Finds what does not belong, in lines pushed in any portions: the portions do not show in the result.

    Args:
        settings: what decides the result.
        footprint: columns, depth and names.
        reconstruct: the model, N×C×P×P float32 in [0, 1] → the same shape, each patch for itself.
        calibration: residual statistics per inspected scaled column, or None.
        flatfield: what is taken off the lines before anything looks at them, or None.
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
        calibration: ColumnCalibration | None = None,
        flatfield: FlatField | None = None,
        on_band: Callable[[FinalBand], None] | None = None,
        snapshot: bytes | None = None,
    ) -> None:
        self.settings = settings
        self.footprint = footprint
        self._reconstruct = reconstruct
        self._device = device or torch.device("cpu")
        self._calibration = calibration
        self.flatfield = flatfield
        self._on_band = on_band
        first, end = settings.columns or (0, footprint.columns)
        if end > footprint.columns:
            raise InspectionError(f"columns {first}:{end} asked, the footage has {footprint.columns}")
        self._columns = slice(first, end)
        self._width = -(-(end - first) // settings.scale)  # scaled
        self._strips = strips_of(settings, self._columns)
        if calibration is not None and len(calibration.mean) != self._width:
            raise InspectionError(
                f"the column calibration has {len(calibration.mean)} columns, {self._width} are inspected"
            )
        if flatfield is not None:
            flatfield.check(footprint.columns, settings.channels, footprint.bit_depth)
        self._gate = LineGate(settings.band, footprint.bit_depth, self._columns, selvage=settings.selvage)
        self._running: _Running | None = None
        self._finished_up_to = 0  # everything before it is final or in an announced gap, outside the running segment
        self.lines_in_gaps = 0
        if snapshot is not None:
            self._restore(snapshot)

    # ------------------------------------------------------------------------------------------ how far it is

    @property
    def lines_scanned(self) -> int:
        """Lines of the roll so far, those of announced gaps included."""
        return max(self._gate.line, self.inspected_up_to)  # a resumed run is fed again what was scanned before

    @property
    def inspected_up_to(self) -> int:
        """First line that is neither final nor in an announced gap; it never goes back."""
        if self._running is None:
            return self._finished_up_to
        return self._running.place.raw_line(self._running.labeller.decided_up_to)

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
        running = self._running
        if running is None:
            return self._finished_up_to
        row = first_row_needed(self.settings, running.segment.done)
        return running.place.first_line + row * self.settings.scale

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
        if first_line is not None and first_line > self._gate.line:
            findings += self.push_gap(first_line - 1, "incomplete")
        known = 0 if first_line is None else self._gate.line - first_line
        raw = channels_first(pixels)[:, max(known, 0) :]
        if raw.shape[1]:
            raw = raw if self.flatfield is None else self.flatfield.apply(raw)
            for stretch in self._gate.push(raw):
                findings += self._take(stretch)
        return findings

    def push_gap(self, last_line: int, cause: GapCause, estimated: bool = False) -> list[Finding]:
        """The lines up to and with `last_line` are lost: ends the segment; the next lines begin a new one.

        Lines that were inspected before are never part of the gap, even where a resumed run misses them.
        """
        findings = self._flush()
        if last_line >= self._finished_up_to:
            findings.append(self._gap(self._finished_up_to, last_line, cause, estimated))
        if self._gate.line != self._finished_up_to:
            self._gate.skip_to(self._finished_up_to)
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
        findings: list[Finding] = []
        for stretch in self._gate.flush():
            findings += self._take(stretch)
        return findings + self._end_segment()

    def _take(self, stretch: Stretch) -> list[Finding]:
        if stretch.lines is None:
            findings = self._end_segment()
            findings.append(
                self._gap(stretch.first_line, stretch.first_line + stretch.count - 1, "invalid-image", False)
            )
            return findings
        running = self._running or self._begin_segment(stretch.first_line)
        unit = to_unit(stretch.lines[..., self._columns].to(self._device), self.footprint.bit_depth)
        running.lines += stretch.count
        return self._tell(running, running.segment.push(running.scaler.push(unit)))

    # ------------------------------------------------------------------------------------------ segments

    def _begin_segment(self, first_line: int, resume_row: int = 0) -> _Running:
        self._running = _Running(
            Placement(self.settings, self.footprint, self._columns, first_line),
            Segment(
                self.settings, self._width, self._reconstruct, self._device, self._calibration, resume_row, self._strips
            ),
            Labeller(self._width, labeller_settings(self.settings, self._columns), resume_row),
            LineScaler(self.settings.scale),
        )
        return self._running

    def _end_segment(self) -> list[Finding]:
        running = self._running
        if running is None:
            return []
        rest = running.scaler.finish()
        bands = [] if rest is None else running.segment.push(rest)
        # a resumed segment may end before it was fed up to where the first run was
        running.place.height = max(running.lines, running.segment.done * self.settings.scale)
        findings = self._tell(running, bands + running.segment.finish())
        findings += [running.place.region(item) for item in running.labeller.finish()]
        self._finished_up_to = running.place.raw_line(running.segment.done)
        self._running = None
        fed = running.place.first_line + running.lines
        if fed > self._finished_up_to:
            findings.append(self._gap(self._finished_up_to, fed - 1, "worker-lost"))
        return findings

    def _tell(self, running: _Running, bands: list[Band]) -> list[Finding]:
        findings: list[Finding] = []
        for band in bands:
            findings += self._faulty_lines(running, band)
            opened, score = band.opened.cpu().numpy(), band.score.cpu().numpy()
            findings += [running.place.region(item) for item in running.labeller.push(opened, score)]
            if self._on_band is not None:
                first = running.place.raw_line(band.row)
                self._on_band(FinalBand(first, running.place.raw_line(band.row + len(score)), band))
        return findings

    def _faulty_lines(self, running: _Running, band: Band) -> list[Finding]:
        if not bool(band.faulty.any()):
            return []
        flags = torch.nn.functional.pad(band.faulty.to(torch.int8), (1, 1))
        edges = torch.nonzero(flags.diff()).flatten().tolist()
        return [
            self._gap(
                running.place.raw_line(band.row + first), running.place.raw_line(band.row + end) - 1, "model-fault"
            )
            for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]

    # ------------------------------------------------------------------------------------------ events

    def _gap(self, first: int, last: int, cause: GapCause, estimated: bool = False) -> Gap:
        self.lines_in_gaps += last - first + 1
        if self._running is None:
            self._finished_up_to = last + 1
        return Gap(self.footprint.camera, self.footprint.roll, first, last, cause, estimated)

    # ------------------------------------------------------------------------------------------ stop and go on

    def snapshot(self) -> bytes:
        """Versioned bytes from which another Inspector goes on with the same events, fed from `resume_from`."""
        running = self._running
        state: dict[str, Any] = {
            "version": SNAPSHOT_VERSION,
            "settings": self._fingerprint(),
            "finished_up_to": self._finished_up_to,
            "in_gaps": self.lines_in_gaps,
            "valid": self._gate.valid,
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
        self._finished_up_to, self.lines_in_gaps = state["finished_up_to"], state["in_gaps"]
        if state["segment"] is not None:
            labeller = state["segment"]["labeller"]
            running = self._begin_segment(state["segment"]["first_line"], labeller["row"])
            running.labeller.restore(labeller)
            running.lines = self.resume_from - running.place.first_line
        self._gate.skip_to(self.resume_from, state["valid"])

    def _fingerprint(self) -> bytes:
        """Stands for all that decides the events, except the model."""
        digest = hashlib.sha256(f"{self.settings.model_dump_json()} {self.footprint}".encode())
        if self._calibration is not None:
            digest.update(self._calibration.mean.tobytes() + self._calibration.deviation.tobytes())
        if self.flatfield is not None:
            digest.update(self.flatfield.fingerprint)
        return digest.digest()[:16]
