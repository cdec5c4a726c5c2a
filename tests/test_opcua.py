"""OPC UA for plant IT: who is let in, what is shown, what is told, and what a method does; and the line's states."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asyncua", reason="asyncua is not installed (pip install 'linescan[opcua]')")
from asyncua import Client, Node, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.server.internal_server import InternalServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from linescan.cli.main import main
from linescan.errors import ConfigError
from linescan.line import Line
from linescan.messages import (
    Gap,
    Message,
    Notice,
    Order,
    Progress,
    Refused,
    Region,
    Reject,
    RollCommand,
    RollEnd,
    RollStart,
    RollState,
    Status,
)
from linescan.stages import opcua_trust
from linescan.stages.line_view import LineView, VisionState
from linescan.stages.opcua import OpcUaServer
from linescan.stages.opcua_trust import load_identity, make_certificate, self_signed
from linescan.transport.memory import MemoryNetwork
from linescan.transport.zeromq import ZmqNetwork
from tests.line_kit import FakeClock
from tests.plant_kit import ROOT, Command, StandIn, free_port, gap, write_line

NONE = 'security = "none"'
CLIENT_URI = "urn:test:client"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def region(phase: Any = "close", **changes: Any) -> Region:
    fields: dict[str, Any] = {
        "camera": "cam0", "roll": "r1", "id": "7-3", "phase": phase, "part": 0, "merged_into": None, "first_line": 7,
        "last_line": 11, "first_column": 3, "last_column": 9, "area_px": 30, "peak": 0.9, "mean": 0.5,
        "lanes": ("left", "right"), "category": "hole", "severity": 3, "across_mm": (1.5, 4.5),
    }  # fmt: skip
    return Region(**{**fields, **changes})


def reject(in_time: bool) -> Reject:
    return Reject("r1", "x", "left", "region", "7-3", 100, 200, 90, in_time, "hole", 3)


def line_at(folder: Path, *more: str) -> tuple[Line, str]:
    url = f"opc.tcp://127.0.0.1:{free_port()}"
    return write_line(folder / "line", "[opcua]", f'endpoint = "{url}"', *more), url


async def node(client: Client, path: str) -> Node:
    index = await client.get_namespace_index("urn:linescan")
    return await client.nodes.objects.get_child(
        [f"{index}:{part}" for part in ("line", *filter(None, path.split("/")))]
    )


async def value(client: Client, path: str) -> Any:
    read = await (await node(client, path)).read_data_value(raise_on_bad_status=False)
    shown = read.Value.Value
    return shown.Text if isinstance(shown, ua.LocalizedText) else shown


async def until(client: Client, path: str, expected: Any) -> None:
    end = time.monotonic() + 20
    while (found := await value(client, path)) != expected:
        assert time.monotonic() < end, f"{path} is {found!r}, {expected!r} was expected"
        await asyncio.sleep(0.05)


class Heard:
    """A subscription's handler."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def datachange_notification(self, _node: Node, _value: Any, _data: Any) -> None: ...

    def status_change_notification(self, _status: Any) -> None: ...

    async def until(self, count: int) -> None:
        end = time.monotonic() + 20
        while len(self.events) < count:
            assert time.monotonic() < end, f"{len(self.events)} of {count} events came"
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------ certificates


class Customer:
    """A client's certificate and key as files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate, self.key = folder / f"{name}.der", folder / f"{name}.pem"
        made = self_signed(key, name, CLIENT_URI, ["localhost"])
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.DER))
        plain = serialization.NoEncryption()
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))

    @asynccontextmanager
    async def at(self, url: str, server: Path) -> AsyncIterator[Client]:
        client = Client(url)
        client.application_uri = CLIENT_URI
        await client.set_security(
            SecurityPolicyBasic256Sha256, str(self.certificate), str(self.key), server_certificate=str(server),
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )  # fmt: skip
        async with client:
            yield client


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and three clients, of which it knows a reader and an operator."""
    folder = tmp_path_factory.mktemp("pki")
    assert main(["keys", str(folder / "opcua"), "--opcua", "press4"]) == 0
    for name, place in (("reader", "readers"), ("operator", "operators"), ("stranger", None)):
        customer = Customer(folder, name)
        if place is not None:
            (folder / "opcua" / place / customer.certificate.name).write_bytes(customer.certificate.read_bytes())
    (folder / "opcua/readers/notes.txt").write_text("not a certificate")
    return folder


def customer(folder: Path, name: str) -> Customer:
    known = Customer.__new__(Customer)
    known.certificate, known.key = folder / f"{name}.der", folder / f"{name}.pem"
    return known


def test_the_key_is_for_nobody_else_and_stays(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = made / "opcua/opcua.key_secret"
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert main(["keys", str(made / "opcua"), "--opcua"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert key.read_bytes() == before


def test_readers_read_operators_command_strangers_stay_outside(tmp_path: Path, made: Path) -> None:
    line, url = line_at(tmp_path, f'certificates = "{made}/opcua"')
    server = made / "opcua/server.der"

    async def test(publisher: StandIn) -> None:
        async with customer(made, "operator").at(url, server) as client:
            await until(client, "VisionStateMachine/CurrentState", "Operational")
            assert await (await node(client, "")).call_method("2:StartRoll", "r7", "towel") == "r7"
            assert publisher.commands == [RollCommand("start", "r7", "towel")]
        async with customer(made, "reader").at(url, server) as client:
            await until(client, "Roll/Name", "r7")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await (await node(client, "")).call_method("2:EndRoll")
            with pytest.raises(ua.UaError):
                await (await node(client, "Roll/Name")).write_value("other")
            assert len(publisher.commands) == 1
        with pytest.raises(ua.UaError, match=r"(?i)untrusted"):
            async with customer(made, "stranger").at(url, server):
                pytest.fail("a stranger was let in")
        with pytest.raises((ua.UaError, ConnectionError, asyncio.TimeoutError)):
            async with Client(url, timeout=2):
                pytest.fail("somebody without a certificate was let in")
        stranger = made / "stranger.der"  # trusted from now on, without a restart
        (made / "opcua/readers/late.der").write_bytes(stranger.read_bytes())
        async with customer(made, "stranger").at(url, server) as client:
            assert await value(client, "Roll/Name") == "r7"
        (made / "opcua/readers/late.der").unlink()

    with StandIn(line) as publisher, Command(line, "opcua") as command:
        command.wait_until_said('"serving"')
        run(test(publisher))
        assert command.end(signal.SIGTERM) == 0, command.said


async def take_over(url: str, tokens: range) -> list[str]:
    """What somebody without a certificate gets who says that a session with one of those numbers is his."""
    won: list[str] = []
    for number in tokens:
        client = Client(url, timeout=2)
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            protocol = client.uaclient.protocol
            assert protocol is not None
            protocol.authentication_token = ua.NodeId(number)
            for request in (ua.ActivateSessionRequest(), _reading_of_the_server_state()):
                try:
                    await protocol.send_request(request)
                    won.append(type(request).__name__)
                except (ua.UaError, asyncio.TimeoutError, ConnectionError):
                    pass
        finally:
            client.disconnect_socket()
    return won


def _reading_of_the_server_state() -> ua.ReadRequest:
    request = ua.ReadRequest()
    wanted = ua.ReadValueId(ua.NodeId(ua.ObjectIds.Server_ServerStatus_State), ua.AttributeIds.Value)
    request.Parameters.NodesToRead.append(wanted)
    return request


@pytest.mark.parametrize("guarded", [True, False])
def test_nobody_takes_a_session_over(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Without the guard the library lets him: the day it no longer does, the guard can go."""
    line, url = line_at(tmp_path, f'certificates = "{made}/opcua"')
    if not guarded:
        monkeypatch.setattr(opcua_trust.Sessions, "lookup_external_session", InternalServer.lookup_external_session)
    stop = threading.Event()

    async def test() -> None:
        network = MemoryNetwork()
        ready = asyncio.Event()
        served = asyncio.create_task(OpcUaServer(line, network).serve(stop, ready.set, lambda: None))
        await ready.wait()
        async with customer(made, "operator").at(url, made / "opcua/server.der") as client:
            assert await value(client, "Roll/Name") == ""
            protocol = client.uaclient.protocol
            assert protocol is not None
            token = int(protocol.authentication_token.Identifier)  # an attacker would try those below and above
            won = await take_over(url, range(token, token + 1))
            assert ("ReadRequest" in won) == (not guarded)
        stop.set()
        await served

    run(test())


def another_key(folder: Path) -> None:
    make_certificate(folder / "other")
    (folder / "opcua.key_secret").write_bytes((folder / "other/opcua.key_secret").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "opcua.key_secret").unlink(), "opcua.key_secret: is missing"),
        (lambda folder: (folder / "opcua.key_secret").chmod(0o644), "others may read"),
        (lambda folder: (folder / "opcua.key_secret").write_bytes(b"x"), "not a private key"),
        (lambda folder: (folder / "server.der").write_bytes(b"x"), "server.der: not a certificate"),
        (lambda folder: (folder / "server.der").unlink(), "server.der: cannot be read"),
        (another_key, "is not the key of"),
    ],
)
def test_certificates_that_cannot_be_used(tmp_path: Path, spoil: Any, expected: str) -> None:
    make_certificate(tmp_path / "one")
    load_identity(tmp_path / "one")
    spoil(tmp_path / "one")
    with pytest.raises(ConfigError, match=expected):
        load_identity(tmp_path / "one")


def test_a_certificate_has_its_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcua_trust, "VALID_DAYS", -0.01)  # of an hour ago, and for three quarters of it
    make_certificate(tmp_path)
    with pytest.raises(ConfigError, match="is valid from"):
        load_identity(tmp_path)
    client = Customer(tmp_path, "old")
    (tmp_path / "readers/old.der").write_bytes(client.certificate.read_bytes())
    assert opcua_trust.Trust(tmp_path).role(client.certificate.read_bytes()) is None


# ------------------------------------------------------------------------------------------------ shown and told


def test_a_roll_as_clients_see_it(tmp_path: Path) -> None:
    line, url = line_at(tmp_path, NONE)
    notice = Notice("r1", "alarm", "left", 17, "", "12 rejects in 1 m")
    start = RollStart("cam0", "r1", "towel", 0, {"columns": 64})
    end = RollEnd("cam0", "r1", 500, 500, 480, 20)

    async def test(publisher: StandIn) -> None:
        async with Client(url) as client:
            heard = Heard()
            subscription = await client.create_subscription(50, heard)
            index = await client.get_namespace_index("urn:linescan")
            kinds = [
                await client.nodes.base_event_type.get_child(f"{index}:{name}EventType")
                for name in ("RollStart", "Region", "Gap", "Reject", "Notice", "RollEnd")
            ]
            await subscription.subscribe_events(ua.ObjectIds.Server, kinds)
            await until(client, "VisionStateMachine/AutomaticModeStateMachine/CurrentState", "Ready")
            publisher.roll = RollState("r1", "towel", ("cam0",), (0,))
            publisher.publish(
                start, region("open"), region(), region(merged_into="1-1"), Gap("cam0", "r1", 20, 29, "overrun")
            )
            publisher.publish(gap(40), reject(True), heard=False)  # fetched from the journal
            publisher.publish(reject(False), notice)
            await heard.until(8)
            publisher.progress(Progress("cam0", "r1", 300, 200, b"", 400))
            await until(client, "VisionStateMachine/AutomaticModeStateMachine/CurrentState", "ContinuousExecution")
            await until(client, "Cameras/cam0/InspectedUpTo", 300)
            expected = {"Name": "r1", "Recipe": "towel", "Regions": 1, "Gaps": 2, "Rejects": 2, "RejectsLate": 1,
                        "CountsFromRollStart": True}  # fmt: skip
            assert {name: await value(client, f"Roll/{name}") for name in expected} == expected
            assert await value(client, "Cameras/cam0/LinesInGaps") == 11
            assert await value(client, "Cameras/cam0/LinesScanned") == 400
            publisher.publish(end)
            publisher.roll = RollState("", "", (), ())
            await heard.until(9)
            await until(client, "VisionStateMachine/AutomaticModeStateMachine/CurrentState", "Ready")
            check(heard.events)

    def check(events: list[Any]) -> None:
        sequences = [event.Sequence for event in events]
        assert sequences == [1, 3, 4, 5, 6, 7, 8, 9, 10]  # 2: the region's opening
        closed = events[1]
        assert (closed.Id, closed.FirstLine, closed.Peak, closed.Lanes) == ("7-3", 7, 0.9, ["left", "right"])
        assert (closed.DefectSeverity, closed.AcrossMm, closed.SourceName) == (3, [1.5, 4.5], "line")
        assert closed.AlongMm is None
        assert json.loads(events[0].Settings) == {"columns": 64}
        assert events[3].Cause == "overrun"
        in_time, late, alarm = events[5:8]
        assert (in_time.InTime, late.InTime) == (True, False)
        assert late.Severity > alarm.Severity > in_time.Severity
        assert alarm.Text == "12 rejects in 1 m"
        assert events[8].LinesInGaps == 20

    with StandIn(line) as publisher, Command(line, "opcua") as command:
        command.wait_until_said('"serving"')
        run(test(publisher))
        assert "library" not in command.said


def test_a_server_that_comes_in_the_middle_and_a_publisher_that_goes(tmp_path: Path) -> None:
    line, url = line_at(tmp_path, NONE)

    async def middle() -> None:
        async with Client(url) as client:
            await until(client, "Roll/Name", "r1")
            assert await value(client, "Cameras/cam0/InspectedUpTo") == 250
            assert await value(client, "Roll/CountsFromRollStart") is False

    async def gone() -> None:
        async with Client(url) as client:
            await until(client, "VisionStateMachine/CurrentState", "Error")
            assert await value(client, "Faults") == ["publisher: silent"]
            read = await (await node(client, "Cameras/cam0/InspectedUpTo")).read_data_value(raise_on_bad_status=False)
            assert read.StatusCode.value == ua.StatusCodes.UncertainLastUsableValue
            assert read.Value.Value == 250
            mode = await node(client, "VisionStateMachine/AutomaticModeStateMachine/CurrentState")
            assert (
                await mode.read_data_value(raise_on_bad_status=False)
            ).StatusCode.value == ua.StatusCodes.BadStateNotActive
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):  # without security nobody commands
                await (await node(client, "")).call_method("2:EndRoll")

    with Command(line, "opcua") as command:
        command.wait_until_said('"serving"')
        with StandIn(line) as publisher:
            publisher.roll = RollState("r1", "towel", ("cam0",), (250,))
            run(middle())
        run(gone())


def test_what_methods_ask_and_answer(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, url = line_at(tmp_path, f'certificates = "{made}/opcua"')
    monkeypatch.setattr("linescan.stages.opcua.METHODS", _impatient())
    stop = threading.Event()

    async def test(publisher: StandIn) -> None:
        network, ready = ZmqNetwork(), asyncio.Event()
        served = asyncio.create_task(OpcUaServer(line, network).serve(stop, ready.set, lambda: None))
        await ready.wait()
        async with customer(made, "operator").at(url, made / "opcua/server.der") as client:
            line_node = await node(client, "")
            await until(client, "VisionStateMachine/CurrentState", "Operational")
            for method, arguments, order in (
                ("Acknowledge", (), Order("acknowledge", "", "", "by OPC UA")),
                ("BypassOn", ("threading",), Order("bypass-on", "", "", "threading")),
                ("BypassOff", ("",), Order("bypass-off", "", "", "")),
                ("MarkSplice", ("tape",), Order("splice", "", "", "tape")),
                ("TestReject", ("left",), Order("test-reject", "left", "", "by OPC UA")),
            ):
                assert await line_node.call_method(f"2:{method}", *arguments) == f"{order.action} done"
                assert publisher.commands[-1] == order
            publisher.answer = lambda message: Refused("", "roll r9 is in the journal already", None)
            with pytest.raises(ua.uaerrors.BadInvalidState):
                await line_node.call_method("2:StartRoll", "r9", "")
            await until(client, "LastRefusal", "StartRoll: roll r9 is in the journal already")
            publisher.answer = lambda message: None
            assert await line_node.call_method("2:TestReject", "left") == ""
            with pytest.raises(ua.uaerrors.BadInvalidState):
                await line_node.call_method("2:Acknowledge")
            await until(client, "LastRefusal", "Acknowledge: another method is under way")
            await until(client, "LastRefusal", "TestReject: the publisher does not answer")
            began = time.monotonic()
            publisher.answer = lambda message: later(began, RollState("r10", "towel", (), ()))
            result = await call_full(line_node, "StartRoll", "r10", "towel")
            assert result.StatusCode.value == ua.StatusCodes.GoodCompletesAsynchronously
            await until(client, "LastAnswer", "StartRoll: r10")
            given = len(publisher.commands)
            for wrong, error in (((), "ArgumentsMissing"), (("a", "b"), "TooManyArguments"), ((7,), "InvalidArgument")):
                with pytest.raises(getattr(ua.uaerrors, f"Bad{error}")):
                    await line_node.call_method("2:TestReject", *wrong)
            assert len(publisher.commands) == given
        stop.set()
        await served
        network.close()

    with StandIn(line) as publisher:
        run(test(publisher))


async def call_full(parent: Node, method: str, *arguments: str) -> ua.CallMethodResult:
    request = ua.CallMethodRequest()
    request.ObjectId = parent.nodeid
    request.MethodId = (await parent.get_child(f"2:{method}")).nodeid
    request.InputArguments = [ua.Variant(argument, ua.VariantType.String) for argument in arguments]
    return (await parent.session.call([request]))[0]


def later(began: float, answer: Message) -> Message:
    """As a publisher that has a recipe to prepare: nobody else is answered meanwhile, which does not matter here."""
    time.sleep(max(0.0, began + 1.0 - time.monotonic()))
    return answer


def _impatient() -> dict[str, Any]:
    from linescan.stages.opcua import METHODS

    return {name: (arguments, message, 2.0) for name, (arguments, message, _) in METHODS.items()}


def test_an_order_that_nobody_took_is_not_taken_later(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, url = line_at(tmp_path, f'certificates = "{made}/opcua"')
    monkeypatch.setattr("linescan.stages.opcua.METHODS", _impatient())
    stop = threading.Event()

    async def test() -> None:
        network, ready = ZmqNetwork(), asyncio.Event()
        served = asyncio.create_task(OpcUaServer(line, network).serve(stop, ready.set, lambda: None))
        await ready.wait()
        async with customer(made, "operator").at(url, made / "opcua/server.der") as client:
            line_node = await node(client, "")
            with pytest.raises(ua.uaerrors.BadNoCommunication):
                await line_node.call_method("2:BypassOn", "threading")
            with StandIn(line):
                await until(client, "VisionStateMachine/CurrentState", "Operational")
            assert await line_node.call_method("2:BypassOn", "threading") == ""  # it is not silent for long enough yet
            await until(client, "LastRefusal", "BypassOn: the publisher does not answer")
            with StandIn(line) as publisher:
                await until(client, "VisionStateMachine/CurrentState", "Operational")
                await line_node.call_method("2:Acknowledge")
                assert publisher.commands == [Order("acknowledge", "", "", "by OPC UA")]
        stop.set()
        await served
        network.close()

    run(test())


def test_a_client_that_freezes_holds_nobody_up(tmp_path: Path) -> None:
    line, url = line_at(tmp_path, NONE)
    frozen = (
        "import asyncio, sys, time\nfrom asyncua import Client, ua\n"
        "class H:\n def event_notification(self, event): ...\n"
        "async def main():\n async with Client(sys.argv[1]) as c:\n"
        "  s = await c.create_subscription(50, H())\n  await s.subscribe_events(ua.ObjectIds.Server)\n"
        "  print('here', flush=True)\n  time.sleep(60)\nasyncio.run(main())\n"
    )

    async def test(publisher: StandIn) -> None:
        async with Client(url) as client:
            heard = Heard()
            subscription = await client.create_subscription(50, heard)
            index = await client.get_namespace_index("urn:linescan")
            kind = await client.nodes.base_event_type.get_child(f"{index}:GapEventType")
            await subscription.subscribe_events(ua.ObjectIds.Server, kind, queuesize=5000)
            await until(client, "VisionStateMachine/CurrentState", "Operational")
            publisher.publish(*map(gap, range(2000)))
            await heard.until(2000)
            assert [event.FirstLine for event in heard.events] == list(range(2000))

    with StandIn(line) as publisher, Command(line, "opcua") as command:
        command.wait_until_said('"serving"')
        with subprocess.Popen([sys.executable, "-c", frozen, url], stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "here\n"
                client.send_signal(signal.SIGSTOP)
                run(test(publisher))
            finally:
                client.kill()


def test_garbage_on_the_port_is_a_line_in_the_log(tmp_path: Path) -> None:
    line, url = line_at(tmp_path, NONE)
    port = int(url.rpartition(":")[2])
    with StandIn(line), Command(line, "opcua") as command:
        command.wait_until_said('"serving"')
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"OPNF\xff\xff\xff\x7f" + b"x" * 200):
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(garbage)
        run(_state_is_operational(url))
        assert command.popen.poll() is None
        assert all(entry.startswith("{") for entry in command.said.splitlines())


async def _state_is_operational(url: str) -> None:
    async with Client(url) as client:
        await until(client, "VisionStateMachine/CurrentState", "Operational")


def test_ports_and_sections_and_packages(tmp_path: Path) -> None:
    line, url = line_at(tmp_path, NONE)
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))), Command(line, "opcua") as command:
        assert command.popen.wait(60) == 69
        assert "cannot be served" in command.said
    with Command(write_line(tmp_path / "none"), "opcua") as command:
        assert command.popen.wait(60) == 2
        assert "[opcua] is missing" in command.said
    code = "import sys; sys.modules['asyncua'] = None; from linescan.cli.main import main; sys.exit(main())"
    for arguments in (["opcua", "--config", str(line.path)], ["keys", str(tmp_path / "keys"), "--opcua"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 2
        assert "pip install 'linescan[opcua]'" in done.stderr


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "certificates = … is needed"),
        (['endpoint = "opc.tcp://0.0.0.0:4840"', NONE], "for loopback endpoints alone"),
        (['endpoint = "opc.tcp://plc:99999"', NONE], "opc.tcp://address:port expected"),
        (['endpoint = "http://localhost:80"', NONE], "opc.tcp://address:port expected"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, lines: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        write_line(tmp_path, "[opcua]", *lines)


# ------------------------------------------------------------------------------------------------ the line's states


class Seen:
    """A LineView with a clock, and heartbeats as they come."""

    def __init__(self, *cameras: str) -> None:
        self.clock = FakeClock()
        self.view = LineView(cameras or ("cam0",), 1.0, self.clock)
        self.states = {"publisher": "publishing"}
        for camera in self.view.cameras:
            self.states |= {f"acquire@{camera}": "acquiring", f"worker@{camera}": "inspecting"}
        self.faults: dict[str, tuple[str, ...]] = {}

    def beat(self, seconds: float = 1.0) -> VisionState:
        self.clock.advance(seconds)
        for name, state in self.states.items():
            stage, _, camera = name.partition("@")
            self.view.stages.hear(Status(stage, camera, state, self.faults.get(name, ()), {}, 0))  # type: ignore[arg-type]
        return self.view.state


def test_the_states_of_a_line() -> None:
    seen = Seen()
    assert seen.view.state is VisionState.PREOPERATIONAL
    everything, seen.states = seen.states, {"publisher": "publishing"}
    assert seen.beat() is VisionState.PREOPERATIONAL
    seen.states = {**everything, "worker@cam0": "waiting for frames"}
    assert seen.beat() is VisionState.INITIALIZED
    seen.states["worker@cam0"] = "inspecting"
    assert seen.beat() is VisionState.READY
    seen.view.hear_event(RollStart("cam0", "r1", "towel", 0, {}))
    assert seen.beat() is VisionState.CONTINUOUS


@pytest.mark.parametrize("stage", ["publisher", "acquire@cam0", "worker@cam0"])
def test_a_silent_stage_is_an_error(stage: str) -> None:
    seen = Seen()
    assert seen.beat() is VisionState.READY
    del seen.states[stage]
    states = [seen.beat() for _ in range(7)]
    assert (states[0], states[-1]) == (VisionState.READY, VisionState.ERROR)
    assert f"{stage}: silent" in seen.view.faults


@pytest.mark.parametrize(
    ("stage", "fault", "expected"),
    [
        ("publisher", "disk-full", VisionState.READY),
        ("recorder@cam0", "lines-missing", VisionState.READY),
        ("acquire@cam0", "no-worker", VisionState.ERROR),
        ("publisher", "plc-unreachable", VisionState.ERROR),
        ("worker@cam0", "what nobody has heard of", VisionState.ERROR),
    ],
)
def test_faults_and_states(stage: str, fault: str, expected: VisionState) -> None:
    seen = Seen()
    seen.states.setdefault(stage, "recording")
    seen.faults[stage] = (fault,)
    assert seen.beat() is expected
    assert seen.view.faults == [f"{stage}: {fault}"]


def test_a_recorder_that_is_gone_is_said_and_is_no_error() -> None:
    seen = Seen()
    seen.states["recorder@cam0"] = "recording"
    seen.beat()
    del seen.states["recorder@cam0"]
    assert [seen.beat() for _ in range(7)][-1] is VisionState.READY
    assert seen.view.faults == ["recorder@cam0: silent"]


def test_counts_are_whole_when_every_camera_was_heard_to_begin() -> None:
    seen = Seen("cam0", "cam1")
    seen.view.hear_event(RollStart("cam0", "r1", "towel", 0, {}))
    assert not seen.view.whole
    seen.view.hear_event(RollStart("cam1", "r1", "towel", 0, {}))
    assert seen.view.whole
    seen.view.hear_event(Gap("cam1", "r0", 0, 9, "overrun"))  # of the roll before
    assert seen.view.roll.counts["gaps"] == 0
    seen.view.hear_event(Gap("cam1", "r1", 0, 9, "overrun"))
    assert [one.lines_in_gaps for one in seen.view.roll.cameras.values()] == [0, 10]


def test_one_answer_does_not_overrule_an_event() -> None:
    seen = Seen()
    none, other = RollState("", "", (), ()), RollState("r2", "towel", ("cam0",), (40,))
    seen.view.hear_event(RollStart("cam0", "r1", "towel", 0, {}))
    seen.view.hear_roll(none)  # was asked before the roll began
    assert seen.view.roll.name == "r1"
    seen.view.hear_roll(other)
    assert seen.view.roll.name == "r1"
    seen.view.hear_roll(other)
    assert (seen.view.roll.name, seen.view.roll.cameras["cam0"].inspected_up_to) == ("r2", 40)
    seen.view.hear_progress(Progress("cam0", "r2", 30, 0, b"", 50))
    assert seen.view.roll.cameras["cam0"].inspected_up_to == 40  # never goes back
    assert not seen.view.whole
