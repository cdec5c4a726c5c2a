"""A line-scan camera behind a GenTL producer (GigE Vision, USB3 Vision, CoaXPress, Camera Link …)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from linescan.cameras.camera import BufferPool, Lines, LinesLost
from linescan.cameras.exposure_time import ExposureTime
from linescan.cameras.features import entries, integers_near, readable, set_features
from linescan.cameras.frame_ids import FrameIds
from linescan.cameras.layout import NAMES, Layout
from linescan.cameras.producer import GENICAM_ERRORS, Chunks, Device, brief, genapi, gentl
from linescan.errors import CameraError, CameraLostError
from linescan.line import CameraSettings

MIN_BUFFERS = 4


class GenicamCamera:
    """Implements Camera; `producer` is the .cti that the settings name, its path resolved.

    Raises CameraError where the camera is not there or refuses. `start` and `read` belong to one thread.
    """

    def __init__(self, settings: CameraSettings, producer: Path, pool: BufferPool) -> None:
        self.name = settings.name
        self._settings = settings
        self._pool = pool
        self._held: Lines | None = None  # came after lines that were lost, which are told first
        self._counted = False  # whether a frame has carried the encoder's count
        self._gone: CameraLostError | None = None
        try:
            self._device = Device(producer, settings.serial, settings.model)
        except CameraError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        self.serial: str | None = self._device.serial
        """as the producer names it, where it does"""
        try:
            set_features(self.name, self._device.nodes, settings.features)
            self._read_geometry()
            self._encoder = self._encoder_node()
            self._latch = self._latch_node()
        except GENICAM_ERRORS as error:
            self._device.close()
            raise self._refused(brief(error)) from error
        except BaseException:
            self._device.close()
            raise
        self._chunks = Chunks(self._device) if self._encoder is not None else None
        self._ids = FrameIds(skips_zero=self._device.transport == "GEV")
        self._time = ExposureTime(self.line_rate_hz or settings.max_line_rate_hz)

    def _read_geometry(self) -> None:
        nodes = self._device.nodes
        self.columns = int(self._value("Width"))
        self.frame_lines = int(self._value("Height"))
        self._layout = Layout(str(self._value("PixelFormat")), self.columns)
        if self._layout.name not in NAMES:
            raise self._refused(f"PixelFormat is {self._layout.name}, one of {', '.join(NAMES)} expected")
        self.pixel_format = self._layout.pixel_format
        rate = readable(nodes, "AcquisitionLineRate")
        self.line_rate_hz = None if rate is None else float(rate.value)
        mode = readable(nodes, "AcquisitionMode")
        if mode is not None and mode.value != "Continuous":
            raise self._refused(f"AcquisitionMode is {mode.value}, Continuous expected")
        payload, image = self._device.payload_bytes(), self._layout.image_bytes(self.frame_lines)
        if payload < image:
            raise self._refused(
                f"its buffers have {payload} bytes, {self.frame_lines} lines of {self.columns} {self._layout.name} "
                f"pixels need {image}"
            )
        self._health = readable(nodes, "DeviceTemperature") or nodes.get_node("Width")

    def _encoder_node(self) -> Any | None:
        """The node of the encoder's chunk, checked as far as can be before there is a frame."""
        if self._settings.encoder is None:
            return None
        nodes, chunk = self._device.nodes, self._settings.encoder.chunk
        if not nodes.has_node(chunk):
            raise self._refused(f"it has no {chunk} (encoder.chunk)")
        switches = [readable(nodes, "ChunkModeActive")]
        selector, kind = readable(nodes, "ChunkSelector"), chunk.removeprefix("Chunk")
        if selector is not None and kind in entries(selector):
            selector.value = kind
            switches.append(readable(nodes, "ChunkEnable"))
        if any(switch is not None and not switch.value for switch in switches):
            raise self._refused(f"it does not send {chunk}: {self._how_to_enable(chunk)}")
        return nodes.get_node(chunk)

    def _latch_node(self) -> Any | None:
        name = None if self._settings.encoder is None else self._settings.encoder.latch
        if name is None:
            return None
        node = readable(self._device.nodes, name)
        if not isinstance(node, genapi.IInteger):
            near = ", ".join(integers_near(self._device.nodes, name)) or "none"
            raise self._refused(f"it has no integer {name} that can be read (encoder.latch); near it: {near}")
        return node

    def start(self) -> None:
        frames = self._settings.buffer_s * self._settings.max_line_rate_hz / self.frame_lines
        try:
            self._device.start(max(MIN_BUFFERS, math.ceil(frames) + 1))
        except (*GENICAM_ERRORS, MemoryError) as error:
            raise self._refused(f"it does not start: {brief(error)}") from error

    def read(self) -> Lines | LinesLost | None:
        """The next thing that came, at once; lines lost between frames come before the lines that follow.

        Lines lost before the first frame, and behind the last one, are not known here. Raises CameraError where
        the first frame lacks what the settings need.
        """
        if self._gone is not None:
            raise self._gone
        if self._held is not None:
            held, self._held = self._held, None
            return held
        try:
            return self._fetch()
        except GENICAM_ERRORS as error:
            raise self._lost(brief(error)) from error

    def _fetch(self) -> Lines | LinesLost | None:
        buffer, incomplete = self._device.fetch()
        if incomplete:
            self._ids.announce(incomplete)
            return LinesLost(incomplete * self.frame_lines, "incomplete")
        if buffer is None:
            return None
        try:
            frame_id = _info(buffer, "frame_id")
            lines = self._lines(buffer)
        finally:
            self._device.queue(buffer)
        if frame_id is None:
            raise self._refused("its frames have no ids: lost ones would not be noticed")
        try:
            missing = self._ids.missing(frame_id)
        except CameraLostError as error:
            raise self._lost(str(error)) from error
        if missing:
            self._held = lines
            return LinesLost(missing * self.frame_lines, "overrun")
        return lines

    def _lines(self, buffer: Any) -> Lines:
        height = _info(buffer, "delivered_image_height") or _info(buffer, "height") or self.frame_lines
        count = min(height, self.frame_lines)
        monotonic_ns, utc_ns = self._time.of_first_line(_info(buffer, "timestamp_ns"), count)
        return Lines(self._pixels(buffer, count), self._encoder_count(buffer), monotonic_ns, utc_ns)

    def _pixels(self, buffer: Any, lines: int) -> NDArray[Any]:
        raw, offset, padding = buffer.raw_buffer, _info(buffer, "image_offset") or 0, _info(buffer, "padding_x") or 0
        end = offset + self._layout.image_bytes(lines, padding)
        columns = _info(buffer, "width")
        if end > len(raw) or columns not in (None, self.columns):
            raise self._lost(
                f"a buffer of {len(raw)} bytes for {lines} lines of {columns} columns; {self.columns} columns set, "
                f"{end} bytes needed"
            )
        return self._layout.copy(raw, offset, lines, padding, self._pool)

    def _encoder_count(self, buffer: Any) -> int | None:
        """As the camera latched it; None where this one buffer carries none."""
        if self._chunks is None or self._encoder is None or self._settings.encoder is None:
            return None
        try:
            self._chunks.attach(buffer)
            count = int(self._encoder.value)
        except GENICAM_ERRORS as error:
            if self._counted:
                return None
            chunk = self._settings.encoder.chunk
            raise self._refused(f"its frames carry no {chunk}: {self._how_to_enable(chunk)}") from error
        self._counted = True
        return self._forward(count)

    def _forward(self, count: int) -> int:
        """The count of a counter that grows while the web runs forward, as all others here do."""
        assert self._settings.encoder is not None
        bits = self._settings.encoder.bits
        return (count if self._settings.encoder.direction == "up" else -count) % (1 << bits)

    def stop(self) -> None:
        try:
            self._device.stop()
        except GENICAM_ERRORS as error:
            raise self._lost(brief(error)) from error

    def latched(self) -> int | None:
        if self._latch is None:
            return None
        try:
            return self._forward(int(self._latch.get_value(ignore_cache=True)))
        except GENICAM_ERRORS as error:
            raise self._lost(brief(error)) from error

    def check(self) -> None:
        if self._gone is not None:
            raise self._gone
        try:
            self._health.get_value(ignore_cache=True)
        except GENICAM_ERRORS as error:
            raise self._lost(brief(error)) from error

    def close(self) -> None:
        """Takes the camera down, in bounded time where its producer's calls are bounded; never raises."""
        self._held = None
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None
        self._device.close()

    def _value(self, name: str) -> Any:
        node = readable(self._device.nodes, name)
        if node is None:
            raise self._refused(f"it has no {name} that can be read")
        return node.value

    @staticmethod
    def _how_to_enable(chunk: str) -> str:
        kind = chunk.removeprefix("Chunk")
        return f'write "ChunkModeActive" = true and "ChunkEnable[{kind}]" = true under its features'

    def _refused(self, why: str) -> CameraError:
        return CameraError(f"camera {self.name}: {why}")

    def _lost(self, why: str) -> CameraLostError:
        self._gone = self._gone or CameraLostError(f"camera {self.name}: {why}")
        return self._gone


def _info(buffer: Any, name: str) -> int | None:
    """What the producer says about a buffer; None where it does not say, which it may."""
    try:
        return int(getattr(buffer, name))
    except (gentl.NotAvailableException, gentl.NotImplementedException, gentl.InvalidParameterException):
        return None
