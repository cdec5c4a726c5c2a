"""MQTT for plant IT: every event over a broker's and the bridge's deaths, and no state that looks alive and is not."""

from __future__ import annotations

import datetime
import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed (pip install 'linescan[mqtt]')")
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from linescan.codec import to_dict
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Notice
from linescan.stages import mqtt, mqtt_broker
from linescan.stages.mqtt import Bookmark, MqttBridge
from linescan.transport.memory import MemoryNetwork
from linescan.transport.zeromq import ZmqNetwork
from tests.line_kit import FakeClock
from tests.plant_kit import ROOT, Command, StandIn, free_port, gap, wait_for, write_line
from tests.test_subscriber import Source

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
brokered = pytest.mark.skipif(MOSQUITTO is None, reason="no MQTT broker (Debian: apt-get install mosquitto)")


class Mosquitto:
    """A real broker, killed and started again on the same port."""

    def __init__(self, folder: Path, *settings: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        kept = "max_queued_messages 0"  # for a listener that is slower than the bridge
        lines = [
            "user root",
            "persistence false",
            kept,
            f"listener {self.port} 127.0.0.1",
            *(settings or ["allow_anonymous true"]),
        ]
        self._config.write_text("\n".join(lines) + "\n")
        self._log = folder / "mosquitto.log"
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        with self._log.open("ab") as log:
            self.popen = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=log, stderr=log)
        wait_for(lambda: self._log.read_text().count("running") or self.popen.poll(), "the broker")
        assert self.popen.poll() is None, self._log.read_text()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


class Listener:
    """Somebody in the plant who hears everything."""

    def __init__(self, port: int) -> None:
        self.heard: list[MQTTMessage] = []
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self._client.on_message = lambda _client, _data, message: self.heard.append(message)
        self._client.on_disconnect = lambda *_: setattr(self, "subscribed", False)
        self._client.reconnect_delay_set(1, 1)
        self.subscribed = False
        wait_for(lambda: self._reached(port), "the broker")
        self._client.loop_start()
        wait_for(lambda: self.subscribed, "the subscription")

    def _reached(self, port: int) -> bool:
        try:
            self._client.connect("127.0.0.1", port)
        except ConnectionError:
            return False
        return True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in list(self.heard) if "/events/" in one.topic]

    @property
    def numbers(self) -> list[int]:
        return [event["first_line"] for event in self.events]

    def last(self, topic: str) -> Any:
        """What a newcomer would be told of that topic."""
        payloads = [one.payload for one in list(self.heard) if one.topic == topic]
        if not payloads:
            return None
        return payloads[-1].decode() if topic.endswith("availability") else json.loads(payloads[-1])

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if MOSQUITTO is None:
        pytest.skip("no MQTT broker (Debian: apt-get install mosquitto)")
    running = Mosquitto(tmp_path)
    yield running
    running.kill()


def line_to(folder: Path, port: int, *more: str) -> Line:
    return write_line(folder / "line", "[mqtt]", f"port = {port}", f'sent = "{folder}/line/sent.json"', *more)


def in_order(numbers: list[int]) -> list[int]:
    """The first of each; those sent twice are allowed to QoS 1, another order is not."""
    firsts = list(dict.fromkeys(numbers))
    assert firsts == sorted(firsts)
    return firsts


class Loop:
    """The bridge in this process, turned until something is so."""

    def __init__(self, line: Line) -> None:
        self.network = ZmqNetwork()
        try:
            self.bridge = MqttBridge(line, self.network)
        except BaseException:
            self.network.close()
            raise

    def until(self, condition: Any, what: str, patience_s: float = 30.0) -> None:
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, f"waited for {what}: {self.bridge.status()}, {self.bridge.broker.reason}"
            self.bridge.turn()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_error: object) -> None:
        self.bridge.close()
        self.network.close()


# ------------------------------------------------------------------------------------------------ what is told


def test_events_statuses_and_availability(tmp_path: Path, broker: Mosquitto) -> None:
    line, listener = line_to(tmp_path, broker.port, 'prefix = "plant/web"'), Listener(broker.port)
    notice = Notice("r1", "splice", "", 17, "", "a splice")
    with StandIn(line) as publisher, Command(line, "mqtt") as bridge:
        bridge.wait_until_said('"connected"')
        wait_for(lambda: (listener.last("plant/web/status/mqtt") or {}).get("state") == "connected", "its status")
        wait_for((tmp_path / "line/sent.json").exists, "its place in the journal")
        publisher.publish(gap(1), notice)
        wait_for(lambda: len(listener.events) == 2, "two events")
        assert [one.topic for one in listener.heard if "/events/" in one.topic] == [
            "plant/web/events/gap", "plant/web/events/notice"
        ]  # fmt: skip
        about = {"sequence": 2, "run": "run-1", "utc_ns": 5, "replayed": False}
        assert listener.events[1] == {**to_dict(notice), **about}
        wait_for(lambda: listener.last("plant/web/status/worker/cam0") is not None, "the worker's status")
        newcomer = Listener(broker.port)
        wait_for(lambda: len(newcomer.heard) >= 5, "what is retained")
        retained = {one.topic.removeprefix("plant/web/"): one for one in newcomer.heard if one.retain}
        assert set(retained) == {
            "availability", "status/mqtt", "status/publisher", "status/acquire/cam0", "status/worker/cam0"
        }  # fmt: skip
        assert json.loads(retained["status/worker/cam0"].payload)["state"] == "inspecting"
        assert retained["availability"].payload == b"online"
        newcomer.close()
        assert bridge.end(signal.SIGTERM) == 0
        wait_for(lambda: listener.last("plant/web/availability") == "offline", "its goodbye")
    listener.close()


def test_a_stage_that_died_is_said_to_be_silent(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linescan.stages.line_view.SILENT_LEAST_S", 1.0)
    line, listener = line_to(tmp_path, broker.port), Listener(broker.port)

    def state(stage: str) -> str:
        return (listener.last(f"linescan/line/status/{stage}") or {}).get("state", "")

    with StandIn(line) as publisher, Loop(line) as loop:
        del publisher.states["acquire@cam0"]  # never heard by this bridge; what one before it retained is old
        loop.until(lambda: state("worker/cam0") == "inspecting", "the worker")
        loop.until(lambda: state("acquire/cam0") == "silent", "the silence of acquire")
        del publisher.states["worker@cam0"]
        loop.until(lambda: state("worker/cam0") == "silent", "the silence of the worker")
        assert listener.last("linescan/line/status/worker/cam0")["faults"] == ["silent"]
        assert state("publisher") == "publishing"
        publisher.states["worker@cam0"] = "inspecting"
        loop.until(lambda: state("worker/cam0") == "inspecting", "the worker again")
    listener.close()


# ------------------------------------------------------------------------------------------------ what fails


def test_a_broker_that_dies_misses_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    line, listener = line_to(tmp_path, broker.port), Listener(broker.port)
    with StandIn(line) as publisher, Command(line, "mqtt") as bridge:
        bridge.wait_until_said('"connected"')
        wait_for((tmp_path / "line/sent.json").exists, "its place in the journal")
        publisher.publish(*map(gap, range(50)))
        wait_for(lambda: len(listener.numbers) >= 50, "the events before")
        broker.kill()
        bridge.wait_until_said('"no broker"')
        publisher.publish(*map(gap, range(50, 3000)))
        bridge.popen.send_signal(signal.SIGSTOP)  # so that the one who hears is there before the one who speaks
        broker.start()
        wait_for(lambda: listener.subscribed, "the listener")
        bridge.popen.send_signal(signal.SIGCONT)
        wait_for(lambda: 2999 in listener.numbers, "the events after")
        assert in_order(listener.numbers) == list(range(3000))
    listener.close()


def test_a_bridge_that_is_killed_goes_on_where_it_was(tmp_path: Path, broker: Mosquitto) -> None:
    line, listener = line_to(tmp_path, broker.port), Listener(broker.port)
    with StandIn(line) as publisher:
        with Command(line, "mqtt") as bridge:
            bridge.wait_until_said('"connected"')
            wait_for((tmp_path / "line/sent.json").exists, "its place in the journal")
            for number in range(400):
                publisher.publish(gap(number))
                if number == 200:
                    wait_for(lambda: len(listener.numbers) > 100, "the first events")
                    assert bridge.end(signal.SIGKILL) == -signal.SIGKILL
        wait_for(lambda: listener.last("linescan/line/availability") == "offline", "its last will")
        kept = json.loads((tmp_path / "line/sent.json").read_text())["sequence"]
        with Command(line, "mqtt", name="second"):
            wait_for(lambda: 399 in listener.numbers, "the events after")
        assert in_order(listener.numbers) == list(range(400))
        again = [number for number in set(listener.numbers) if listener.numbers.count(number) > 1]
        assert all(number >= kept for number in again)  # of sequence kept + 1 and later
    listener.close()


def test_an_orderly_stop_doubles_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    line, listener = line_to(tmp_path, broker.port), Listener(broker.port)
    with StandIn(line) as publisher:
        for first in (0, 100, 200):
            with Loop(line) as loop:
                loop.until(lambda: loop.bridge._bookmark.sequence is not None, "its place")
                publisher.publish(*map(gap, range(first, first + 100)))
                loop.until(lambda first=first: loop.bridge.counters["events"] == 100, "a hundred acknowledged")  # type: ignore[misc]
        wait_for(lambda: len(listener.numbers) >= 300, "all events")
        assert listener.numbers == list(range(300))
    listener.close()


def test_a_frozen_broker_is_left_and_memory_is_bounded(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_broker, "ANSWER_S", 1.0)
    line, listener = line_to(tmp_path, broker.port), Listener(broker.port)
    with StandIn(line) as publisher, Loop(line) as loop:
        loop.until(lambda: loop.bridge._bookmark.sequence is not None and loop.bridge.broker.connected, "its place")
        broker.popen.send_signal(signal.SIGSTOP)
        for number in range(6000):
            publisher.publish(gap(number))
        wait_for(lambda: publisher.has_said_all, "the events, more than the bridge may hold, at once")
        loop.until(lambda: "does not answer" in loop.bridge.broker.reason, "the end of patience")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            loop.bridge.turn()
            assert loop.bridge.pending <= mqtt.HELD + mqtt_broker.WINDOW
        assert loop.bridge.state == "no broker"
        broker.popen.send_signal(signal.SIGCONT)
        loop.until(lambda: loop.bridge.counters["events"] >= 6000 and not loop.bridge.pending, "all acknowledged")
        wait_for(lambda: 5999 in listener.numbers, "the last event")
        assert in_order(listener.numbers) == list(range(6000))
    listener.close()


@brokered
def test_a_message_that_the_broker_refuses_is_not_taken_for_sent(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\ntopic write linescan/line/status/#\ntopic write linescan/line/availability\n")
    running = Mosquitto(tmp_path, "allow_anonymous true", f"acl_file {acl}")
    line, listener = line_to(tmp_path, running.port), Listener(running.port)
    try:
        with StandIn(line) as publisher, Loop(line) as loop:
            loop.until(lambda: loop.bridge._bookmark.sequence is not None and loop.bridge.broker.connected, "its place")
            publisher.publish(gap(0))
            loop.until(lambda: "refuses a message" in loop.bridge.broker.reason, "the refusal")
            assert loop.bridge.counters["events"] == 0
            assert loop.bridge.pending == 1
            acl.write_text("topic readwrite #\n")
            running.popen.send_signal(signal.SIGHUP)
            loop.until(lambda: loop.bridge.counters["events"] == 1, "the event")
            wait_for(lambda: listener.numbers == [0], "the event at the listener")
    finally:
        listener.close()
        running.kill()


def certificate(folder: Path) -> Path:
    """A self-signed one for this machine, and its key beside it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    return folder


@brokered
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves its socket open
@pytest.mark.parametrize(
    ("password", "ca", "reason"),
    [
        ("right", "broker", ""),
        ("wrong", "broker", "the broker refuses"),
        ("right", "other", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_tls_and_passwords(tmp_path: Path, password: str, ca: str, reason: str) -> None:
    served = certificate(tmp_path / "broker")
    certificate(tmp_path / "other")
    subprocess.run(["mosquitto_passwd", "-b", "-c", tmp_path / "users", "line", "right"], check=True)
    tls = [f"cafile {served}/cert.pem", f"certfile {served}/cert.pem", f"keyfile {served}/key.pem"]
    running = Mosquitto(tmp_path, *tls, "allow_anonymous false", f"password_file {tmp_path}/users")
    line = line_to(
        tmp_path, running.port, 'broker = "localhost"', f'ca = "{tmp_path}/{ca}/cert.pem"', 'user = "line"',
        'password_file = "mqtt.password"',
    )  # fmt: skip
    (tmp_path / "line/mqtt.password").write_text(password + "\n")
    (tmp_path / "line/mqtt.password").chmod(0o600)
    try:
        with StandIn(line) as publisher, Loop(line) as loop:
            if reason:
                loop.until(lambda: reason in loop.bridge.broker.reason, reason)
                assert not loop.bridge.broker.connections
            else:
                loop.until(lambda: loop.bridge._bookmark.sequence is not None, "its place")
                publisher.publish(gap(0))
                loop.until(lambda: loop.bridge.counters["events"] == 1, "the event")
    finally:
        running.kill()


def test_what_the_journal_no_longer_has_is_said(tmp_path: Path, broker: Mosquitto) -> None:
    line = line_to(tmp_path, broker.port)
    (tmp_path / "line/sent.json").write_text('{"run": "run-1", "sequence": 2}')
    with StandIn(line) as publisher, Loop(line) as loop:
        publisher.oldest = 6
        publisher.publish(*map(gap, range(8)), heard=False)
        loop.until(lambda: loop.bridge.counters["events"] == 3, "what is left")
        status = loop.bridge.status()
        assert status["faults"] == ["events-missed"]
        assert status["counters"]["missed"] == 3


# ------------------------------------------------------------------------------------------------ its place


class Scripted:
    """In the broker's place: takes, acknowledges and loses as it is told."""

    def __init__(self, *_args: object, acknowledged: Any, lost: Any, **_more: object) -> None:
        self._acknowledged, self._lost = acknowledged, lost
        self.sent: deque[Any] = deque()
        self.stored: list[Any] = []
        self.connected, self.reason, self.connections, self.room = True, "", 1, 0

    def send(self, _topic: str, payload: bytes, token: Any, retain: bool = False) -> None:
        assert self.room > 0
        self.room -= 1
        self.sent.append((payload, token, retain))

    def acknowledge(self, place: int) -> None:
        if self.sent:
            payload, token, retain = self.sent[place % len(self.sent)]
            del self.sent[place % len(self.sent)]
            if not retain:
                self.stored.append(json.loads(payload)["sequence"])
            self._acknowledged(token)

    def lose(self) -> None:
        tokens = [token for _, token, _ in self.sent]
        self.sent.clear()
        self._lost(tokens)

    def turn(self, _wait_s: float) -> None: ...

    def close(self) -> None: ...


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 5)),
        st.tuples(st.just("room"), st.integers(1, 8)),
        st.tuples(st.just("acknowledge"), st.integers(0, 20)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_its_place_is_never_beyond_what_the_broker_has(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("place")
    line, network, clock = line_to(folder, 1883), MemoryNetwork(), FakeClock()
    source = Source(network, line.events_endpoint, line.backfill_endpoint)
    stored: list[int] = []
    made: list[Scripted] = []

    def scripted(*args: Any, **more: Any) -> Scripted:
        made.append(Scripted(*args, **more))
        made[-1].stored = stored
        return made[-1]

    def turn(bridge: MqttBridge, times: int = 1) -> None:
        for _ in range(times):
            clock.advance(0.6)
            bridge.turn()
            source.answer()
            source.report()
            place = bridge._bookmark.sequence or 0
            assert set(range(1, place + 1)) <= set(stored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mqtt, "Broker", scripted)
        bridge = MqttBridge(line, network, clock_ns=clock)
        turn(bridge, 3)
        for step, number in steps:
            if step == "publish":
                for _ in range(number):
                    source.publish(len(source.rows))
            elif step == "restart":  # killed: what was not saved is forgotten
                bridge._bookmark._lock.close()
                bridge = MqttBridge(line, network, clock_ns=clock)
            elif step == "room":
                made[-1].room = number
            elif step == "acknowledge":
                made[-1].acknowledge(number)
            else:
                made[-1].lose()
            turn(bridge)
        for _ in range(300):
            if len(set(stored)) == len(source.rows):
                break
            made[-1].room = 20
            turn(bridge)
            while made[-1].sent:
                made[-1].acknowledge(0)
        bridge.close()
    assert set(stored) == set(range(1, len(source.rows) + 1))


def test_a_place_that_cannot_be_saved_is_a_fault_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bookmark = Bookmark(tmp_path / "sent.json")
    bookmark.run, bookmark.sequence = "r", 3

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mqtt, "write_atomically", full)
        bookmark.save()
        assert bookmark.fault == "bookmark-not-saved"
    bookmark.save()
    assert bookmark.fault == ""
    bookmark.close()
    again = Bookmark(tmp_path / "sent.json")
    assert (again.run, again.sequence) == ("r", 3)
    with pytest.raises(PeerError, match="another linescan mqtt"):
        Bookmark(tmp_path / "sent.json")
    again.close()


@pytest.mark.parametrize("text", ["", "7", '{"run": "r"}', '{"run": "r", "sequence": -1}', '{"run": 1, "sequence": 1}'])
def test_a_place_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sent.json").write_text(text)
    with pytest.raises(ConfigError, match=r"sent\.json: "):
        Bookmark(tmp_path / "sent.json")


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['broker = "10.0.0.1"', 'user = "u"', 'password_file = "p"'], "needs ca"),
        (['password_file = "p"'], "needs user"),
        (['prefix = "a/+/b"'], "prefix"),
        (['ca = "missing.pem"'], "missing.pem: cannot be read"),
        (['user = "u"', 'password_file = "none"'], "none: is missing"),
        (['user = "u"', 'password_file = "line.toml"'], "others may read"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, lines: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        MqttBridge(line_to(tmp_path, 1883, *lines), MemoryNetwork())


def test_without_its_section_or_its_package(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    with Command(line, "mqtt") as command:
        assert command.popen.wait(60) == 2
        assert "[mqtt] is missing" in command.said
    code = "import sys; sys.modules['paho'] = None; from linescan.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "mqtt", "--config", line.path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'linescan[mqtt]'" in done.stderr
