"""Plant IT over MQTT: every event once it is in the journal, and what each stage says of itself.

    PREFIX/events/TYPE               QoS 1; the object that `linescan events --json` prints
    PREFIX/status/STAGE[/CAMERA]     QoS 1, retained; the newest Status, with state "silent" where none comes any more
    PREFIX/status/mqtt               the same of this process
    PREFIX/availability              retained; online, offline (the last will)

A subscriber like any other: whatever the broker does, the line and the PLC do not notice.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from linescan.codec import to_dict, type_name
from linescan.errors import ConfigError, PeerError
from linescan.files import make_folder, write_atomically
from linescan.line import Line
from linescan.messages import Status
from linescan.stages.line_view import StageBook, stage_name
from linescan.stages.mqtt_broker import Broker
from linescan.subscriber import Event, Subscriber
from linescan.transport import Network

HELD = 1000  # events taken from the line before the broker had those before them; the journal keeps the rest
SAVE_S = 1.0
IDLE_S, BUSY_S = 0.05, 0.02


@dataclass(eq=False)
class _Outgoing:
    """An event on its way to the broker."""

    event: Event
    acknowledged: bool = False


class Bookmark:
    """The file that says which event of which journal the broker acknowledged last; one process at a time.

    Raises PeerError where another one has it, ConfigError where it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path.parent)
        self._lock = _locked(path.with_name(f"{path.name}.lock"))
        try:
            self.run, self.sequence = _read(path)
        except ConfigError:
            self._lock.close()
            raise
        self.fault = ""
        self._saved = (self.run, self.sequence)

    def save(self) -> None:
        """Where it cannot be saved events come twice after a restart, and `fault` says so now."""
        if (self.run, self.sequence) == self._saved or self.sequence is None:
            return
        try:
            write_atomically(self._path, json.dumps({"run": self.run, "sequence": self.sequence}).encode())
        except (OSError, ConfigError):
            self.fault = "bookmark-not-saved"
            return
        self.fault, self._saved = "", (self.run, self.sequence)

    def close(self) -> None:
        self.save()
        self._lock.close()


class MqttBridge:
    """One line's bridge: `turn()` again and again, from one thread; `close()` says goodbye and keeps its place."""

    def __init__(self, line: Line, network: Network, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        settings = line.settings.mqtt
        if settings is None:
            raise ConfigError(f"{line.path}: [mqtt] is missing: where the broker is")
        self._clock, self._status_s = clock_ns, line.settings.status_s
        self._prefix = settings.prefix or f"linescan/{line.settings.name}"
        self._stages = StageBook(line.settings.status_s, clock_ns, [camera.name for camera in line.settings.cameras])
        self._waiting: deque[_Outgoing] = deque()  # for room
        self._under_way: deque[_Outgoing] = deque()  # in the order in which they were sent first
        self._statuses: dict[str, dict[str, Any]] = {}  # topic → the newest that was not sent
        self._statuses_under_way: set[str] = set()
        self._said_silent: set[str] = set()
        self._saved_ns = self._reported_ns = -(1 << 62)
        self.counters: Counter[str] = Counter()
        self.broker = Broker(
            settings,
            settings.client or f"linescan-{line.settings.name}",
            f"{self._prefix}/availability",
            line.path.parent,
            acknowledged=self._acknowledged,
            lost=self._lost,
            clock_ns=clock_ns,
        )
        self._bookmark = Bookmark(line.file(settings.sent))
        self._events = Subscriber(
            network, line.events_endpoint, line.backfill_endpoint, self._bookmark.sequence, on_status=self._hear,
            clock_ns=clock_ns,
        )  # fmt: skip
        self._events.run = self._bookmark.run

    def turn(self) -> None:
        """One pass of the loop: what the line says, what the broker says, what there is room for."""
        pressed = len(self._waiting) > 0 and self.broker.connected
        self._take(0.0 if pressed else IDLE_S)
        self._send()
        self.broker.turn(BUSY_S if pressed else 0.0)
        self._look_after()

    def close(self) -> None:
        self.broker.close()
        self._move_bookmark()
        self._bookmark.close()
        self._events.close()

    @property
    def state(self) -> str:
        return "connected" if self.broker.connected else "no broker"

    @property
    def pending(self) -> int:
        """Events taken from the line that the broker has not acknowledged."""
        return len(self._waiting) + sum(not one.acknowledged for one in self._under_way)

    # ------------------------------------------------------------------------------------------ from the line

    def _take(self, wait_s: float) -> None:
        # where to begin is behind all that is ready at the very first start
        room = None if self._bookmark.sequence is None else max(HELD - len(self._waiting), 0)
        came = self._events.take(wait_s, room)
        if self._bookmark.sequence is None and self._events.run:  # the very first start: from here on
            numbers = [event.sequence for event in came if event.sequence is not None]
            self._bookmark.run = self._events.run
            self._bookmark.sequence = numbers[0] - 1 if numbers else self._events.last
            self._bookmark.save()
        self._waiting.extend(_Outgoing(event) for event in came)

    def _hear(self, status: Status) -> None:
        self._stages.hear(status)
        name = stage_name(status)
        self._said_silent.discard(name)
        self._statuses[self._topic(name)] = to_dict(status)

    # ------------------------------------------------------------------------------------------ to the broker

    def _send(self) -> None:
        """Statuses first: they are few, and each waits for the one before it."""
        for topic in [one for one in self._statuses if one not in self._statuses_under_way]:
            if self.broker.room > 0:
                payload = json.dumps({**self._statuses.pop(topic), "utc_ns": time.time_ns()})
                self._statuses_under_way.add(topic)
                self.broker.send(topic, payload.encode(), topic, retain=True)
        while self._waiting and self.broker.room > 0:
            outgoing = self._waiting.popleft()
            self._under_way.append(outgoing)
            topic = f"{self._prefix}/events/{type_name(outgoing.event.message)}"
            self.broker.send(topic, _payload(outgoing.event), outgoing)

    def _acknowledged(self, token: object) -> None:
        if isinstance(token, _Outgoing):
            token.acknowledged = True
            self.counters["events"] += 1
            self._move_bookmark()
        elif isinstance(token, str):
            self._statuses_under_way.discard(token)

    def _move_bookmark(self) -> None:
        """Up to the last event before which all are acknowledged."""
        while self._under_way and self._under_way[0].acknowledged:
            event = self._under_way.popleft().event
            if event.sequence is not None:
                self._bookmark.run, self._bookmark.sequence = event.run, event.sequence

    def _lost(self, tokens: list[Any]) -> None:
        """What the broker may or may not have is sent again, in the order in which it came."""
        again = [one for one in self._under_way if not one.acknowledged]
        self._move_bookmark()
        self._under_way.clear()
        self._waiting.extendleft(reversed(again))
        self.counters["sent_again"] += len(again)
        self._statuses_under_way.clear()
        self._retell()

    def _retell(self) -> None:
        """The newest of every stage, since the broker may have forgotten what it retained."""
        for name in self._stages.names:
            status = self._stages.last(name)
            if status is not None and name not in self._said_silent:
                self._statuses.setdefault(self._topic(name), to_dict(status))
        self._said_silent.clear()

    # ------------------------------------------------------------------------------------------ keeping it up

    def _look_after(self) -> None:
        now = self._clock()
        if now - self._saved_ns > SAVE_S * 1e9:
            self._saved_ns = now
            self._bookmark.save()
        if now - self._reported_ns > self._status_s * 1e9:
            self._reported_ns = now
            self._say_silent()
            self._statuses[f"{self._prefix}/status/mqtt"] = self.status()

    def _say_silent(self) -> None:
        """A retained Status is shown for ever: one of a stage that died, also before us, must not look alive."""
        for name in {*self._stages.silent, *self._stages.missing} - self._said_silent:
            self._said_silent.add(name)
            stage, _, camera = name.partition("@")
            silent = {"type": "status", "stage": stage, "camera": camera, "state": "silent", "faults": ["silent"]}
            self._statuses[self._topic(name)] = silent

    def status(self) -> dict[str, Any]:
        """What this process says of itself."""
        missed = self._events.counters["missed"]
        faults = [fault for fault in (self._bookmark.fault, "events-missed" if missed else "") if fault]
        counters = {
            **self.counters,
            "pending": self.pending,
            "missed": missed,
            "last_sequence": self._bookmark.sequence or 0,
            "connections": self.broker.connections,
        }
        return {"type": "status", "stage": "mqtt", "camera": "", "state": self.state, "faults": faults,
                "counters": counters, "monotonic_ns": self._clock()}  # fmt: skip

    def _topic(self, name: str) -> str:
        return f"{self._prefix}/status/{name.replace('@', '/')}"


def _payload(event: Event) -> bytes:
    about = {"sequence": event.sequence, "run": event.run, "utc_ns": event.utc_ns, "replayed": event.replayed}
    return json.dumps({**to_dict(event.message), **about}).encode()


def _read(path: Path) -> tuple[str, int | None]:
    try:
        kept = json.loads(path.read_bytes())
        run, sequence = kept["run"], kept["sequence"]
    except FileNotFoundError:
        return "", None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not what linescan mqtt keeps there ({error}); without it, events from now on"
        ) from error
    if not isinstance(run, str) or type(sequence) is not int or sequence < 0:
        raise ConfigError(f"{path}: a run and a number were expected, found {run!r:.40} and {sequence!r:.40}")
    return run, sequence


def _locked(path: Path) -> IO[str]:
    try:
        lock = path.open("w", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise PeerError(f"{path}: another linescan mqtt is at work") from None
    return lock
