"""Acquire: a camera's lines, numbered and kept, to the worker; one process a camera."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from linescan.cameras.camera import Camera, Lines, LinesLost
from linescan.errors import CameraLostError, ConfigError, PeerError
from linescan.line import CameraSettings, Line
from linescan.messages import (
    Frame,
    Gap,
    GapCause,
    Latched,
    Leaving,
    Origin,
    Registered,
    RollEnd,
    RollStart,
    Status,
    StreamEnd,
)
from linescan.metrics import NO_METRICS, Meter
from linescan.pixels import FORMATS
from linescan.stages.frame_server import FrameServer
from linescan.stages.line_numbers import LineNumbers, line_after_restart
from linescan.stages.registration import Registration, boot_id
from linescan.stages.retention import Item, Retention
from linescan.transport import Network
from linescan.web import Counter as EncoderCounter

READS_A_TURN = 16  # before the worker and the publisher are served again
IDLE_S, MOST_IDLE_S = 0.002, 0.01  # a wait between looks at the camera: a quarter of a frame's time, within these
LATE_S = 2.0  # how long a line may have been on its way from the sensor to here
LATCH_S = 0.1  # between looks at the count of the last sync pulse
CHECK_S = 1.0  # how often a camera that delivers nothing is asked whether it is there


class Moment(NamedTuple):
    """A time on the boot with that id."""

    monotonic_ns: int
    utc_ns: int
    boot: str


class Acquire:
    """One camera's acquisition: `turn()` again and again, from one thread.

    Args:
        camera: started by `begin()`.
        replay: name of the roll to make of a recording; empty for a live camera.
    """

    def __init__(
        self,
        line: Line,
        settings: CameraSettings,
        camera: Camera,
        network: Network,
        *,
        replay: str = "",
        clock_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
        metrics: Meter = NO_METRICS,
    ) -> None:
        self._settings, self._camera, self._network = settings, camera, network
        self._clock, self._utc, self._metrics = clock_ns, utc_ns, metrics
        self._transport, self._status_s = line.settings.transport, line.settings.status_s
        self._replay = replay
        self._name = settings.name
        frame_s = camera.frame_lines / (camera.line_rate_hz or settings.max_line_rate_hz)
        self._idle_s = min(max(frame_s / 4, IDLE_S), MOST_IDLE_S)
        self._frames = network.server(line.frames_endpoint(settings.name))
        link = network.client(line.stages_endpoint)
        self._links = (self._frames, link)
        self._publisher = Registration(link, settings.name, replay, clock_ns)
        self._retention = Retention(self._transport.retain_mib << 20)
        self._server: FrameServer | None = None
        self._roll, self._recipe = "", ""
        self._origin_owed = False
        self._rejoins: Registered | None = None
        self._numbers = LineNumbers(settings.encoder)
        self._up_to = 0  # line after the last that is in the stream
        self._heard_ns = self._reported_ns = self._looked_ns = clock_ns()
        self._latched: int | None = None
        self._pulses = 0
        self._came_ns = 0  # when the last lines came
        self._state = "starting"
        self.lines = 0  # acquired since the start
        self.outside = 0  # lines that came while no roll ran
        self.counters: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ beginning

    @property
    def registered(self) -> bool:
        """Whether the publisher has said which roll runs; raises PeerError where it refuses."""
        self._publisher.turn()
        if self._publisher.refused is not None:
            raise PeerError(f"the publisher refuses camera {self._name}: {self._publisher.refused.reason}")
        return self._publisher.answer is not None

    def begin(self) -> None:
        """Starts the camera under the roll that runs; what was lost since the acquire before becomes a gap."""
        answer = self._publisher.answer
        assert answer is not None
        self._server = FrameServer(
            self._frames,
            self._name,
            self._retention,
            generation=answer.generation,
            lease_s=self._transport.lease_s,
            clock_ns=self._clock,
            metrics=self._metrics,
        )
        if answer.unfinished:  # the roll ended while nobody acquired
            self._end_unfinished(answer)
        self._camera.start()
        self._state = "acquiring"
        if answer.roll:
            self._continue(answer)

    def _continue(self, answer: Registered) -> None:
        self._roll, self._recipe = answer.roll, answer.recipe
        began = answer.origin is not None and answer.origin.roll == answer.roll
        reached = 0 if answer.unfinished else answer.inspected_up_to
        self._origin_owed = not began and not reached
        if not answer.started:
            self._add(self._roll_start())
        if self._origin_owed:
            return  # nothing of this roll came from this camera before
        self._up_to = reached
        self._rejoins = answer

    def _end_unfinished(self, answer: Registered) -> None:
        """A roll ended while nobody acquired, or before the journal had its last lines: those are a gap."""
        end, origin = answer.inspected_up_to, answer.origin
        until, since = self._now(), _last_heard(answer, answer.unfinished)
        in_order = bool(answer.left) and answer.lines_scanned == end
        if origin is not None and origin.roll == answer.roll:  # its successor's first line had come
            until, in_order = Moment(origin.monotonic_ns, origin.utc_ns, origin.boot), False
        if since is not None and not in_order:
            first = max(end, answer.lines_scanned) + _most_lines(since, until, self._settings.max_line_rate_hz)
            cause: GapCause = answer.left or "acquire-lost"
            self._add(Gap(self._name, answer.unfinished, end, first - 1, cause, True))
            end = first
        self._add(RollEnd(self._name, answer.unfinished, end, 0, 0, 0))

    def _rejoin(self, answer: Registered, lines: Lines | None) -> None:
        """What passed since the journal's progress is a gap, up to the first lines (None: the roll ends before any)."""
        self._rejoins = None
        encoder, origin = self._settings.encoder, answer.origin
        count = lines.encoder_count if lines is not None else None
        until = Moment(lines.monotonic_ns, lines.utc_ns, boot_id()) if lines is not None else self._now()
        since = _last_heard(answer, self._roll)
        assert since is not None
        most = _most_lines(since, until, self._settings.max_line_rate_hz)
        scanned = self._up_to if answer.unfinished else max(self._up_to, answer.lines_scanned)
        first = None
        if encoder is not None and origin is not None and origin.encoder_count is not None and count is not None:
            late = math.ceil(LATE_S * self._settings.max_line_rate_hz)
            first = line_after_restart(encoder, count - origin.encoder_count, scanned, most + late)
        estimated = first is None
        first = scanned + most if first is None else first
        if first > self._up_to:
            cause: GapCause = answer.left or "acquire-lost"
            self._add(Gap(self._name, self._roll, self._up_to, first - 1, cause, estimated))
        reference = None if count is None else (count, first)
        if not estimated and origin is not None and origin.encoder_count is not None:
            reference = origin.encoder_count, 0  # as before: a number is tied to its count for the whole roll
        self._numbers = LineNumbers(encoder, first, reference)
        self._up_to = first

    def _now(self) -> Moment:
        return Moment(self._clock(), self._utc(), boot_id())

    # ------------------------------------------------------------------------------------------ running

    def turn(self) -> None:
        """One pass of the loop: reads the camera, serves the worker and the publisher, waits where nothing came.

        Raises CameraLostError; then `drain()` hands over what is kept.
        """
        came = self._read()
        self._serve()
        if not came:
            self._network.wait(self._links, self._idle_s)

    def _read(self) -> bool:
        for _ in range(READS_A_TURN):
            self._follow_roll()  # between two buffers, or where the web stands still: after what came so far
            began_ns = self._clock()
            got = self._camera.read()
            if got is None:
                break
            self._heard_ns = self._clock()
            if isinstance(got, LinesLost):
                self._numbers.lost(got)
            else:
                self._take(got)
                self._metrics.step("copy", self._clock() - began_ns)
        else:
            return True
        if self._clock() - self._heard_ns > CHECK_S * 1e9:
            self._camera.check()
            self._heard_ns = self._clock()
        return False

    def _serve(self) -> None:
        assert self._server is not None
        # lines of which only this process knows where they are could be taken for others after it
        self._server.held_roll = self._roll if self._publisher.owes_origin else ""
        self._server.turn()
        self._publisher.turn()
        now = self._clock()
        if now - self._looked_ns > LATCH_S * 1e9 and self._state == "acquiring":
            self._looked_ns = now
            self._look_at_latch()
        if now - self._reported_ns > self._status_s * 1e9:
            self._reported_ns = now
            status = self.status()
            self._publisher.report(status)
            self._metrics.status(status)

    def _look_at_latch(self) -> None:
        """Tells the publisher of a sync pulse; what stood there at the start may be older than this process."""
        count = self._camera.latched()
        if count is not None and count != self._latched:
            if self._latched is not None:
                self._pulses += 1
                self._publisher.report(Latched(self._name, self._pulses, count, self._looked_ns, boot_id()))
            self._latched = count

    def _take(self, lines: Lines) -> None:
        count = len(lines.pixels)
        self.lines += count
        self._came_ns = self._clock()
        if not self._roll:
            self.outside += count
            return
        if self._rejoins is not None:
            self._rejoin(self._rejoins, lines)
        first, again, cause = self._numbers.place(lines)
        self.counters["lines_again"] += again
        if again == count:
            return
        if self._origin_owed:
            self._begin_roll(lines, first)
        if first > self._up_to:
            self._add(Gap(self._name, self._roll, self._up_to, first - 1, cause))
        encoder, encoder_count, pixels = self._settings.encoder, lines.encoder_count, lines.pixels[again:]
        if again and encoder is not None and encoder_count is not None:  # lines come again only by their counts
            encoder_count = EncoderCounter(encoder.bits).wrap(encoder_count + again * encoder.counts_per_line)
        frame = Frame(
            self._name, 0, self._roll, first, len(pixels), pixels.shape[1], self._camera.pixel_format,
            encoder_count, lines.monotonic_ns, lines.utc_ns,
        )  # fmt: skip
        self._up_to = first + len(pixels)
        self._add(frame, pixels.data.cast("B"))

    def _begin_roll(self, lines: Lines, first: int) -> None:
        """Tells where line 0 was: `first` lines before these."""
        encoder, count = self._settings.encoder, lines.encoder_count
        if encoder is not None and count is not None:
            count -= first * encoder.counts_per_line
        before_ns = int(first / self._settings.max_line_rate_hz * 1e9)
        times = lines.monotonic_ns - before_ns, lines.utc_ns - before_ns
        self._publisher.keep_origin(Origin(self._name, self._roll, count, *times, boot_id()))
        self._origin_owed = False

    def _follow_roll(self) -> None:
        """Ends the roll and starts another where the publisher says so: here, at a definite line."""
        wanted = self._publisher.wanted
        if wanted is None or wanted.roll == self._roll:
            return
        if self._rejoins is not None:
            self._rejoin(self._rejoins, None)
        self._end_roll()
        if wanted.action == "start":
            self._roll, self._recipe = wanted.roll, wanted.recipe
            self._numbers = LineNumbers(self._settings.encoder)
            self._up_to = 0
            self._origin_owed, self._rejoins = True, None
            self._add(self._roll_start())

    def _end_roll(self) -> None:
        if not self._roll:
            return
        self._close_stream()
        self._add(RollEnd(self._name, self._roll, self._up_to, 0, 0, 0))
        self._roll = ""

    def _close_stream(self) -> None:
        end = self._numbers.end
        if end > self._up_to and self._rejoins is None:  # lost lines that no others followed
            self._add(Gap(self._name, self._roll, self._up_to, end - 1, self._numbers.cause))
            self._up_to = end

    def _roll_start(self) -> RollStart:
        settings: dict[str, Any] = {"columns": self._camera.columns, "pixel_format": self._camera.pixel_format}
        if self._replay:
            settings["replayed"] = True
        return RollStart(self._name, self._roll, self._recipe, 0, settings)

    def _add(self, message: Frame | Gap | RollStart | RollEnd | StreamEnd, pixels: memoryview | None = None) -> None:
        assert self._server is not None
        if isinstance(message, Gap):
            self.counters["gaps"] += 1
            self.counters["lines_in_gaps"] += message.last_line - message.first_line + 1
        self._server.add(Item(message, pixels, self._came_ns))

    # ------------------------------------------------------------------------------------------ ending

    def end_replay(self) -> None:
        """The recording is over: its roll ends here."""
        roll = self._roll
        self._end_roll()
        self._publisher.end_replay(roll)

    def drain(
        self, cause: Literal["shutdown", "camera-lost"], until_ns: int, alive: Callable[[], object] = lambda: None
    ) -> bool:
        """Stops the camera and hands over what is kept; whether all of it was journaled in time."""
        assert self._server is not None
        self._state = "draining"
        if cause == "shutdown":
            self._stop_camera(until_ns)
        self._camera.close()
        if self._roll:
            self._close_stream()
            self._add(StreamEnd(self._name, self._roll))
        if not self._replay:
            self._publisher.leave(Leaving(self._name, cause))
        while self._clock() < until_ns:
            self._serve()
            if self.drained and not self._publisher.owes:
                return True
            self._network.wait(self._links, IDLE_S)
            alive()
        return False

    def _stop_camera(self, until_ns: int) -> None:
        """Takes in what the camera had delivered: those lines were scanned, and can still be inspected."""
        with contextlib.suppress(CameraLostError):  # it is closed next, and what is missing becomes a gap
            self._camera.stop()
            while self._read() and self._clock() < until_ns:
                pass

    @property
    def holds_back(self) -> bool:
        """Whether the roll's frames wait until its origin is in the journal."""
        return self._publisher.owes_origin

    @property
    def behind(self) -> bool:
        """Whether half of what may be kept waits for a worker: a recording is better held back than dropped."""
        return self._retention.size > self._transport.retain_mib << 19

    @property
    def has_worker(self) -> bool:
        """Whether a worker has the lease of its frames."""
        return self._server is not None and self._server.has_worker

    @property
    def drained(self) -> bool:
        """Whether nothing is kept that the journal still lacks."""
        return all(isinstance(item.message, StreamEnd) for item in self._retention)

    def close(self) -> None:
        self._camera.close()

    def status(self) -> Status:
        server = self._server
        counters = {
            "lines": self.lines,
            "lines_outside_rolls": self.outside,
            "encoder_backward": self._numbers.backward,
            "lines_behind": self._numbers.behind,
            "retained_bytes": self._retention.size,
            "leased": int(self.has_worker),
            **self.counters,
            **(server.counters if server else {}),
            **{f"dropped_{name}": count for name, count in self._frames.counters.items()},
        }
        faults: tuple[str, ...] = ()
        if server is not None and not server.has_worker and self._retention.size:
            faults += ("no-worker",)
        if self._numbers.behind:  # what comes was inspected before: the web ran back, or the encoder was reset
            faults += ("web-behind",)
        return Status("acquire", self._name, self._state, faults, counters, self._clock())


def _last_heard(answer: Registered, roll: str) -> Moment | None:
    """When the last known line of the roll had come: that of its journaled progress, else its line 0."""
    if answer.progress_utc_ns and roll == (answer.unfinished or answer.roll):
        return Moment(answer.progress_monotonic_ns, answer.progress_utc_ns, answer.boot)
    origin = answer.origin
    if origin is None or origin.roll != roll:
        return None
    return Moment(origin.monotonic_ns, origin.utc_ns, origin.boot)


def _most_lines(since: Moment, until: Moment, rate_hz: float) -> int:
    """The most lines that can have come meanwhile; by UTC where the machine was started in between."""
    same = since.boot == until.boot
    passed_ns = until.monotonic_ns - since.monotonic_ns if same else until.utc_ns - since.utc_ns
    return max(1, math.ceil(max(passed_ns, 0) / 1e9 * rate_hz))


def wait_registered(acquire: Acquire, stop: Callable[[], bool], patience_s: float = 30.0) -> bool:
    """Waits for the publisher's answer; False where a stop came first; raises PeerError after `patience_s`."""
    end = time.monotonic() + patience_s
    while not acquire.registered:
        if stop():
            return False
        if time.monotonic() > end:
            raise PeerError(f"the publisher has not answered for {patience_s:g} s; is it running?")
        time.sleep(0.02)
    return True


def check_camera(line: Line, camera: Camera) -> None:
    """Raises ConfigError where one frame is larger than what may be kept of all."""
    pixel = FORMATS[camera.pixel_format]
    size = camera.columns * camera.frame_lines * pixel.channels * np.dtype(pixel.dtype).itemsize
    if size > line.settings.transport.retain_mib << 20:
        raise ConfigError(
            f"{line.path}: transport.retain_mib = {line.settings.transport.retain_mib}: a single frame of camera "
            f"{camera.name} has {size >> 20} MiB"
        )
