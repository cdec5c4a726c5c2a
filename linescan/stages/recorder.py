"""Recorder: a camera's frames beside its worker, into files; what it cannot take is missing there, and is counted."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from linescan.errors import ConfigError, MessageError
from linescan.line import Line
from linescan.messages import Credit, Frame, Gap, Hello, Region, Revoked, RollEnd, RollStart, Status, StreamEnd
from linescan.pixels import pixels_of
from linescan.stages.recording_book import Lines, RecordingBook
from linescan.stages.recording_keeper import Keeper, prepared_folder
from linescan.stages.recording_tape import Tape
from linescan.subscriber import Subscriber
from linescan.transport import Network, Received, waiting

MIB = 1 << 20
SILENCE_S = 0.25  # without a word from acquire: it may be another one, that knows nothing of us
IDLE_S = 0.05
RETRY_S = 1.0  # between looks at a full disk
CATCH_UP_S = 60.0  # at most, before files are deleted: regions found meanwhile are asked from the journal
SAVE_S = 30.0  # of regions, that the journal has too
FRAMES_A_TURN, MESSAGES_A_TURN = 8, 500
FIRST_CREDITS = 32  # until it is known how large a frame is; acquire may show 16 before it hears of more
WINDOW_BYTES = 128 * MIB  # of frames on their way here: what bridges a disk that hesitates
WINDOW_FRAMES = (8, 64)
REMEMBERED = 256  # gaps, and rolls that ended: acquire tells an observer that connects again what it still keeps


class Recorder:
    """One camera's recording: `turn()` again and again, from one thread; `close()` completes the file.

    Raises ConfigError where the line records nothing, PeerError where the folder cannot be written to.
    """

    def __init__(
        self,
        line: Line,
        camera: str,
        network: Network,
        *,
        name: str = "recorder",
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        settings = line.settings.recording
        if settings is None:
            raise ConfigError(f"{line.path}: [recording] is missing: at least `directory = …` is needed to record")
        self._camera, self._name, self._network, self._clock = camera, name, network, clock_ns
        self._status_s = line.settings.status_s
        folder = line.file(settings.directory) / camera
        self._lock = prepared_folder(folder, settings)
        self._acquire = network.client(line.frames_endpoint(camera))
        self._publisher = network.client(line.stages_endpoint)
        self._book = RecordingBook(folder / "recording.json", settings.around_lines)
        sizes = {"keep_bytes": settings.keep_mib * MIB, "regions_bytes": settings.keep_regions_mib * MIB}
        self._keeper = Keeper(folder, camera, self._book, **sizes, compression=settings.compression)
        number = self._keeper.next_number
        self._tape = Tape(folder, camera, number, settings.file_mib * MIB, settings.compression, self._file_done)
        # without a book all that the journal still has, where there are files that it can be of
        since = self._book.sequence if self._book.sequence is not None or number == 1 else 0
        self._events = _subscriber(line, network, since, self._hear_publisher, clock_ns)
        self._events.run = self._book.run
        self._tidies_from_ns = clock_ns() + int(CATCH_UP_S * 1e9)
        self._roll = ""
        self._next: int | None = None  # line after the last that was shown; None: none of the roll was
        self._told: deque[tuple[Gap | StreamEnd, int | None]] = deque(maxlen=REMEMBERED)  # of the roll, and where
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._window = FIRST_CREDITS
        self._owed_credits = 0
        self._heard_ns = self._asked_ns = self._retried_ns = self._saved_ns = self._reported_ns = -(1 << 62)
        self._missing_told = 0
        self.counters: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ the loop

    def turn(self) -> None:
        """One pass of the loop: a few frames, the events that came, a portion of tidying up."""
        came = self._hear()
        self._ask()
        self._follow_events()
        tidied = self._clock() >= self._tidies_from_ns and self._keeper.turn(self._roll, self._tape.size)
        self._look_after()
        if not came and not tidied:
            self._network.wait((self._acquire,), IDLE_S)

    def close(self) -> None:
        """Takes what is there already, completes the file and remembers the regions."""
        until = self._clock() + int(1e9)
        while self._hear() and self._clock() < until:
            pass
        self._tape.finish()
        self._follow_events()
        self._book.save()
        self._events.close()
        self._lock.close()

    @property
    def state(self) -> str:
        if self._tape.fault:
            return "stopped by the disk"
        return "recording" if self._roll else "waiting for a roll"

    @property
    def reason(self) -> str:
        """What the disk said, where it refuses."""
        return self._tape.reason

    @property
    def lines_missing(self) -> int:
        """Lines of the rolls recorded that came while it listened, or should have, and are in no file."""
        return self.counters["lines_not_shown"] + self._tape.lines_lost

    # ------------------------------------------------------------------------------------------ acquire

    def _ask(self) -> None:
        """Hello where acquire is silent: it may have been started anew. Credits for what was taken."""
        now = self._clock()
        if now - max(self._heard_ns, self._asked_ns) > SILENCE_S * 1e9:
            self._hello()
        elif self._owed_credits > 0 and not self._tape.fault:
            self._grant(self._owed_credits)

    def _hello(self) -> None:
        self._asked_ns = self._clock()
        self._acquire.send(Hello(self._camera, self._name, "observer"))
        if not self._tape.fault:  # else nothing need be sent that cannot be kept
            self._grant(self._window)

    def _grant(self, frames: int) -> None:
        self._acquire.send(Credit(self._camera, 0, frames, "", 0, 0, False))
        self._owed_credits = 0

    def _hear(self) -> bool:
        """Takes messages, up to a few frames; whether anything came."""
        frames = came = 0
        for received in waiting(self._acquire, MESSAGES_A_TURN):
            came += 1
            if received.stamp is not None:
                self._heard_ns = self._clock()
                frames += isinstance(received.message, Frame)
                self._take(received)
            elif isinstance(received.message, Revoked):  # acquire does not know us
                self._heard_ns = -(1 << 62)
            if frames == FRAMES_A_TURN:
                break
        return came > 0

    def _take(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Frame):
            self._owed_credits += 1
            self._take_frame(message, received.pixels or memoryview(b""))
        elif isinstance(message, RollStart):
            if message.roll != self._roll and message.roll not in self._ended:
                # the first roll that is heard of may have begun long ago
                self._begin(message.roll, message, 0 if self._roll or self._ended else None)
        elif not isinstance(message, Gap | StreamEnd | RollEnd) or message.roll in self._ended:
            self.counters["repeated"] += 1
        elif isinstance(message, RollEnd):
            self._end(message)
        else:
            self._take_event(message)

    def _begin(self, roll: str, start: RollStart | None, first: int | None) -> None:
        if self._roll:
            self._ended.append(self._roll)
        self._roll, self._next = roll, first
        self._told.clear()
        self._tape.begin_roll(start)

    def _take_frame(self, frame: Frame, data: memoryview) -> None:
        end = frame.first_line + frame.lines
        if frame.roll in self._ended or (frame.roll == self._roll and self._next is not None and end <= self._next):
            self.counters["repeated"] += 1
            return
        try:
            pixels = pixels_of(frame, data)
        except MessageError:
            self.counters["garbage"] += 1  # its lines will be missing before the next
            return
        self._reach(frame.roll, frame.first_line, end)
        self._fit_window(len(data))
        could = not self._tape.fault
        self._tape.write(frame, pixels)
        if not self._tape.fault:
            self.counters["frames"] += 1
            self.counters["lines"] += frame.lines
            self.counters["bytes"] += len(data)
        elif could:
            self._reported_ns = -(1 << 62)  # said at once
            self._retried_ns = self._clock()

    def _take_event(self, event: Gap | StreamEnd) -> None:
        told = (event, self._next if isinstance(event, StreamEnd) else None)
        if told in self._told:
            self.counters["repeated"] += 1
            return
        if isinstance(event, Gap):
            self._reach(event.roll, event.first_line, event.last_line + 1)
        if event.roll == self._roll:
            self._tape.write_event(event)
            self._told.append(told)

    def _end(self, end: RollEnd) -> None:
        if end.roll == self._roll:
            self._reach(end.roll, end.lines, end.lines)
            self._tape.write_event(end)
            self._tape.finish()
            self._roll = ""
        self._ended.append(end.roll)

    def _reach(self, roll: str, first: int, end: int) -> None:
        """Lines first…end − 1 are next; those before them that did not come are missing."""
        if roll != self._roll:
            self._begin(roll, None, None)
        if self._next is not None:
            self.counters["lines_not_shown"] += max(first - self._next, 0)
        self._next = max(end, self._next or 0)

    def _fit_window(self, frame_bytes: int) -> None:
        """Credits for as many frames as fit into what may be on its way."""
        least, most = WINDOW_FRAMES
        window = min(max(WINDOW_BYTES // max(frame_bytes, 1), least), most)
        self._owed_credits += window - self._window
        self._window = window

    # ------------------------------------------------------------------------------------------ the line's events

    def _follow_events(self) -> None:
        for event in self._events.take():
            region = event.message
            if isinstance(region, Region) and region.camera == self._camera:
                self._book.add_region(region.roll, region.first_line, region.last_line)
        self._book.reached(self._events.run, self._events.last)

    def _hear_publisher(self, status: Status) -> None:
        """Files may go as soon as all regions that the journal has are in the book."""
        last = status.counters.get("last_sequence") if status.stage == "publisher" else None
        if last is not None and self._events.run and self._events.last >= last:
            self._tidies_from_ns = 0

    def _file_done(self, path: Path, lines: Lines, size: int) -> None:
        self._book.add_file(path.name, lines)
        self._keeper.add(path, size)

    # ------------------------------------------------------------------------------------------ keeping it up

    def _look_after(self) -> None:
        now = self._clock()
        if self._tape.fault and now - self._retried_ns > RETRY_S * 1e9:
            self._retried_ns = now
            if self._tape.retry():
                self._hello()
        if now - self._saved_ns > SAVE_S * 1e9:
            self._saved_ns = now
            self._book.save()
        if now - self._reported_ns > self._status_s * 1e9:
            self._reported_ns = now
            self._publisher.send(self.status())
            self._missing_told = self.lines_missing

    def status(self) -> Status:
        """The heartbeat; `lines-missing` where some went missing since the one before."""
        missing = "lines-missing" if self.lines_missing > self._missing_told else ""
        faults = tuple(filter(None, (self._tape.fault, missing)))
        counters = {
            "lines": 0,
            **self.counters,
            **self._keeper.counters,
            "files": self._tape.files,
            "lines_missing": self.lines_missing,
            **{f"dropped_{name}": count for name, count in self._acquire.counters.items()},
        }
        return Status("recorder", self._camera, self.state, faults, counters, self._clock())


def _subscriber(
    line: Line, network: Network, since: int | None, on_status: Callable[[Status], object], clock_ns: Callable[[], int]
) -> Subscriber:
    events, backfill = line.events_endpoint, line.backfill_endpoint
    return Subscriber(network, events, backfill, since, on_status=on_status, clock_ns=clock_ns)
