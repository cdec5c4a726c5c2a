"""The connection to an MQTT broker: the only user of paho. One thread; only finding the broker has one of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from linescan.errors import ConfigError
from linescan.files import find_secret
from linescan.line import Mqtt

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
ANSWER_S = 10.0  # the broker's to a connection, and to a message
WINDOW = 20  # messages not yet acknowledged; Mosquitto's default, and a broker may want fewer
LEAVE_S = 1.0
ONLINE, OFFLINE = b"online", b"offline"


class Broker:
    """One broker, connected to again and again; `turn()` often, from one thread.

    MQTT 5: earlier versions acknowledge a message that the broker refuses to take. Whatever was not acknowledged when a
    connection ends is given to `lost`, in order, and the next one begins without it.

    Args:
        acknowledged: told each token whose message the broker has.
        lost: told the tokens of a connection that ended, the oldest first.
    """

    def __init__(
        self,
        settings: Mqtt,
        client_id: str,
        availability: str,
        folder: Path,
        *,
        acknowledged: Callable[[object], object],
        lost: Callable[[list[Any]], object],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._settings, self._client_id, self._availability = settings, client_id, availability
        self._acknowledged, self._lost, self._clock = acknowledged, lost, clock_ns
        self._ca = _readable(folder / settings.ca) if settings.ca is not None else None
        self._password = _password(folder / settings.password_file) if settings.password_file is not None else None
        self._client = self._made()
        self._thread: threading.Thread | None = None
        self._unacknowledged: dict[int, tuple[object, int]] = {}  # message id → token and when it was sent
        self._pause_s, self._next_ns = FIRST_PAUSE_S, clock_ns()
        self._since_ns: int | None = None  # of this try; None between two
        self._window = WINDOW
        self.connected = False
        self.reason = ""  # why there is no connection
        self.connections = 0

    def turn(self, wait_s: float) -> None:
        """Connects where it is time to, takes what the broker says; waits for it at most so long."""
        now = self._clock()
        if self._since_ns is None:
            if now >= self._next_ns:
                self._begin(now)
            return
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            if self.reason:
                self._give_up(self.reason)
                return
        code = self._client.loop(wait_s)
        oldest_ns = next(iter(self._unacknowledged.values()))[1] if self._unacknowledged else now
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._give_up(self.reason or f"connection lost: {code.name}")
        elif self.reason:
            self._give_up(self.reason)
        elif now - (oldest_ns if self.connected else self._since_ns) > ANSWER_S * 1e9:
            self._give_up(f"the broker does not answer for {ANSWER_S:g} s")

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        return self._window - len(self._unacknowledged) if self.connected else 0

    def send(self, topic: str, payload: bytes, token: object, retain: bool = False) -> None:
        """Sends with QoS 1; `acknowledged` or `lost` will be told the token."""
        sent: MQTTMessageInfo = self._client.publish(topic, payload, qos=1, retain=retain)
        self._unacknowledged[sent.mid] = (token, self._clock())

    def close(self) -> None:
        """Says that it leaves, and waits a moment for the broker to have that."""
        if self.connected:
            self.send(self._availability, OFFLINE, None, retain=True)
            until = self._clock() + int(LEAVE_S * 1e9)
            while self.connected and self._unacknowledged and self._clock() < until:
                self.turn(0.05)
        if self._thread is None:  # one that still looks for the broker dies with the process
            self._client.disconnect()

    # ------------------------------------------------------------------------------------------ connecting

    def _made(self) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, self._client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.will_set(self._availability, OFFLINE, qos=1, retain=True)
        client.max_inflight_messages_set(WINDOW)
        if self._ca is not None:
            client.tls_set(str(self._ca))
        if self._settings.user is not None:
            client.username_pw_set(self._settings.user, self._password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _begin(self, now: int) -> None:
        self._since_ns, self.reason = now, ""
        self._client = self._made()
        self._thread = threading.Thread(target=self._reach, daemon=True)  # looking a name up can take a minute
        self._thread.start()

    def _reach(self) -> None:
        settings = self._settings
        try:
            self._client.connect(settings.broker, settings.port, settings.keepalive_s, clean_start=True)
        except (OSError, ValueError) as error:  # also of TLS; ValueError: a name that is none
            self.reason = f"{settings.broker}:{settings.port}: {error}"

    def _give_up(self, reason: str) -> None:
        """The try or the connection is over; the next one comes after a pause."""
        self.connected, self.reason, self._since_ns = False, reason, None
        self._client.on_disconnect = self._client.on_publish = None
        socket = self._client.socket()
        if socket is not None:
            socket.close()  # without a goodbye, so that the broker tells the last will
        self._next_ns = self._clock() + int(self._pause_s * 1e9)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        tokens = [token for token, _ in self._unacknowledged.values()]
        self._unacknowledged.clear()
        self._lost(tokens)

    # ------------------------------------------------------------------------------------------ paho's callbacks

    def _on_connect(
        self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.reason = f"the broker refuses: {reason}"
            return
        self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self._pause_s = FIRST_PAUSE_S
        self.connected, self.reason = True, ""
        self.connections += 1
        self.send(self._availability, ONLINE, None, retain=True)

    def _on_disconnect(
        self, _client: Client, _data: object, _flags: DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        self.reason = self.reason or f"connection lost: {reason}"

    def _on_publish(self, _client: Client, _data: object, mid: int, reason: ReasonCode, _properties: object) -> None:
        if reason.is_failure:  # the message is still ours, and what was sent behind it has to wait for it
            self.reason = f"the broker refuses a message: {reason}"
        elif not self.reason and mid in self._unacknowledged:
            self._acknowledged(self._unacknowledged.pop(mid)[0])


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return path


def _password(path: Path) -> str:
    found = find_secret(path)
    if found is None:
        raise ConfigError(f"{path}: is missing, the password for the broker")
    return _readable(found).read_text(encoding="utf-8").strip("\r\n")
