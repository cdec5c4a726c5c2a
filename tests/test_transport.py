"""The transport over real sockets: what comes through, what does not, and that nothing breaks it."""

from __future__ import annotations

import os
import socket as sockets
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from linescan import codec
from linescan.cli.main import main
from linescan.codec import encode
from linescan.errors import ConfigError, PeerError
from linescan.messages import Ack, Frame, Gap, Grant, Hello, Progress, Stamp
from linescan.transport import Sent, waiting
from linescan.transport.keys import load_keys, make_keys
from linescan.transport.memory import MemoryNetwork
from linescan.transport.zeromq import DROPPED_AT_ONCE, LINGER_MS, QUEUE, ZmqNetwork

HELLO = Hello("cam0", "worker-1", "worker")
GRANT = Grant("cam0", 7, 10.0)
STAMP = Stamp("cam0", 7, 0, 99)
FRAME = Frame("cam0", 7, "r", 0, 8, 64, "Mono8", None, 5, 6)
PIXELS = bytes(range(256)) * 2
PATIENCE_S = 20.0  # for what has to come: a loaded machine is slow


@pytest.fixture
def network() -> Iterator[ZmqNetwork]:
    made = ZmqNetwork()
    yield made
    made.close()


@pytest.fixture
def raw() -> Iterator[Callable[[int], zmq.Socket[bytes]]]:
    """Sockets of somebody who does not keep to our messages."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int) -> zmq.Socket[bytes]:
        made.append(context.socket(kind))
        return made[-1]

    yield make
    for socket in made:
        socket.close(linger=0)
    context.term()


def until(condition: Callable[[], Any]) -> Any:
    """The condition's value as soon as it is true."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "did not come"
        time.sleep(0.005)
    return value


def endpoint_in(folder: Path, name: str = "s") -> str:
    return f"ipc://{folder}/{name}"


def free_port() -> str:
    with closing(sockets.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture(params=["ipc", "tcp"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return endpoint_in(tmp_path) if request.param == "ipc" else free_port()


# ------------------------------------------------------------------------------------------------ what comes through


def test_a_client_and_a_server_talk(network: ZmqNetwork, endpoint: str) -> None:
    client = network.client(endpoint)  # before there is a server
    assert client.send(HELLO) is Sent.YES
    server = network.server(endpoint)
    heard = until(server.receive)
    assert (heard.message, heard.stamp, heard.pixels) == (HELLO, None, None)
    assert server.send(heard.peer, GRANT) is Sent.YES
    assert server.send(heard.peer, FRAME, STAMP, PIXELS) is Sent.YES
    assert until(client.receive).message == GRANT
    frame = until(client.receive)
    assert (frame.message, frame.stamp, bytes(frame.pixels), frame.peer) == (FRAME, STAMP, PIXELS, b"")


def test_large_frames_are_not_copied_and_arrive_whole(network: ZmqNetwork, tmp_path: Path) -> None:
    server, client = network.server(endpoint_in(tmp_path)), network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    peer = until(server.receive).peer
    pixels = memoryview(bytearray(os.urandom(1 << 22)))
    for number in range(4):
        assert server.send(peer, FRAME, Stamp("cam0", 7, number, 0), pixels) is Sent.YES
    for number in range(4):
        got = until(client.receive)
        assert got.stamp.sequence == number
        assert bytes(got.pixels) == bytes(pixels)


def test_a_publication_reaches_whom_it_concerns(network: ZmqNetwork, endpoint: str) -> None:
    publication = network.publication(endpoint)
    every = network.subscription(endpoint, ["event", "status"])
    some = network.subscription(endpoint, ["status"])

    def heard() -> bool:
        publication.send("event", HELLO)
        publication.send("status", GRANT)
        time.sleep(0.01)
        return (one := some.receive()) is not None and one.message == GRANT

    until(heard)
    assert until(every.receive).message in (HELLO, GRANT)
    publication.send("else", Ack("cam0", 1, 1))
    publication.send("status", Ack("cam0", 1, 2))
    assert until(lambda: (one := some.receive()) and isinstance(one.message, Ack) and one).message.sequence == 2


def test_wait_returns_when_something_is_there(network: ZmqNetwork, tmp_path: Path) -> None:
    server, client = network.server(endpoint_in(tmp_path)), network.client(endpoint_in(tmp_path))
    network.wait((server, client), 0.01)
    assert server.receive() is None
    client.send(HELLO)
    network.wait((server, client), PATIENCE_S)
    assert server.receive() is not None


def test_several_messages_come_as_one(network: ZmqNetwork, endpoint: str) -> None:
    server, client = network.server(endpoint), network.client(endpoint)
    letters = [(Gap("c", "r", number, number, "overrun"), Stamp("c", 1, number, 0)) for number in range(5)]
    assert client.send_all(letters) is Sent.YES
    assert client.send_all(letters[:1]) is Sent.YES
    got = [until(server.receive)]
    begun = time.monotonic()
    network.wait((server,), PATIENCE_S)  # the rest is there already, though the socket has nothing
    assert time.monotonic() - begun < PATIENCE_S
    got += [until(server.receive) for _ in range(5)]
    assert [(one.message, one.stamp) for one in got] == letters + letters[:1]
    assert len({one.peer for one in got}) == 1
    assert server.receive() is None


# ------------------------------------------------------------------------------------------------ what does not

FOREIGN = encode(HELLO).replace(b"\xa7version\x01", b"\xa7version\x02")
GARBAGE: dict[str, list[bytes]] = {
    "an empty part": [b""],
    "no message": [b"\xff\x00garbage"],
    "a truncated one": [encode(HELLO)[:-3]],
    "of another version": [FOREIGN],
    "too large to be one": [encode(Progress("c", "r", 0, 0, b"\0" * codec.MAX_BYTES))],
    "a stamp alone": [encode(STAMP)],
    "two stamps": [encode(STAMP), encode(STAMP)],
    "no stamp before it": [encode(HELLO), b"pixels"],
    "a frame without pixels": [encode(STAMP), encode(FRAME)],
    "pixels of no frame": [encode(STAMP), encode(Gap("c", "r", 0, 1, "overrun")), b"pixels"],
    "parts too many": [encode(STAMP), encode(FRAME), PIXELS, b""],
    "a hundred parts": [encode(STAMP)] * 100,
    "several, one without a stamp": [encode(STAMP), encode(HELLO), encode(HELLO)],
    "several, one cut short": [encode(STAMP), encode(HELLO), encode(STAMP), encode(HELLO)[:-3]],
    "several and a stamp": [encode(STAMP), encode(HELLO)] * 2 + [encode(STAMP)],
    "several, one a frame": [encode(STAMP), encode(HELLO), encode(STAMP), encode(FRAME), PIXELS],
}


def test_the_garbage_is_what_it_says() -> None:
    assert encode(HELLO) != FOREIGN
    assert len(GARBAGE["too large to be one"][0]) > codec.MAX_BYTES


@pytest.mark.parametrize("parts", GARBAGE.values(), ids=list(GARBAGE))
def test_a_server_counts_garbage_and_goes_on(raw: Any, network: ZmqNetwork, tmp_path: Path, parts: list[bytes]) -> None:
    server = network.server(endpoint_in(tmp_path))
    stranger = raw(zmq.DEALER)
    stranger.connect(endpoint_in(tmp_path))
    stranger.send_multipart(parts)
    stranger.send_multipart([encode(HELLO)])
    assert until(server.receive).message == HELLO
    assert server.counters == {"garbage": 1}


@pytest.mark.parametrize("parts", GARBAGE.values(), ids=list(GARBAGE))
def test_a_client_counts_garbage_and_goes_on(raw: Any, network: ZmqNetwork, tmp_path: Path, parts: list[bytes]) -> None:
    stranger = raw(zmq.ROUTER)
    stranger.bind(endpoint_in(tmp_path))
    client = network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    peer, _ = stranger.recv_multipart()
    stranger.send_multipart([peer, *parts])
    stranger.send_multipart([peer, encode(GRANT)])
    assert until(client.receive).message == GRANT
    assert client.counters == {"garbage": 1}


@pytest.mark.parametrize("parts", [*GARBAGE.values(), []], ids=[*GARBAGE, "a topic alone"])
def test_a_subscription_counts_garbage_and_goes_on(
    raw: Any, network: ZmqNetwork, tmp_path: Path, parts: list[bytes]
) -> None:
    stranger = raw(zmq.XPUB)
    stranger.bind(endpoint_in(tmp_path))
    subscription = network.subscription(endpoint_in(tmp_path), ["event"])
    stranger.recv()  # the subscription
    stranger.send_multipart([b"event", *parts])
    stranger.send_multipart([b"event", encode(GRANT)])
    assert until(subscription.receive).message == GRANT
    assert subscription.counters == {"garbage": 1}


def test_who_sends_nothing_but_garbage_does_not_keep_the_receiver(
    raw: Any, network: ZmqNetwork, tmp_path: Path
) -> None:
    """However much of it there is, a look at it ends, and what comes behind it is heard."""
    server = network.server(endpoint_in(tmp_path))
    stranger = raw(zmq.DEALER)
    stranger.connect(endpoint_in(tmp_path))
    stranger.send_multipart([encode(HELLO)])
    assert until(server.receive).message == HELLO
    for _ in range(3 * DROPPED_AT_ONCE):
        stranger.send(b"x")
    stranger.send_multipart([encode(HELLO)])
    end, counted = time.monotonic() + PATIENCE_S, 0
    while (received := server.receive()) is None:
        assert time.monotonic() < end
        assert server.counters["garbage"] <= counted + DROPPED_AT_ONCE
        counted = server.counters["garbage"]
    assert received.message == HELLO
    assert server.counters["garbage"] == 3 * DROPPED_AT_ONCE


def test_what_waits_is_read_up_to_a_number(tmp_path: Path) -> None:
    network = MemoryNetwork()
    server, client = network.server("frames"), network.client("frames")
    for _ in range(5):
        client.send(HELLO)
    assert len(list(waiting(server, 3))) == 3
    assert len(list(waiting(server, 3))) == 2
    assert list(waiting(server, 3)) == []


def test_who_sends_without_bound_is_cut_off(raw: Any, network: ZmqNetwork, tmp_path: Path) -> None:
    server = network.server(endpoint_in(tmp_path))
    stranger = raw(zmq.DEALER)
    stranger.connect(endpoint_in(tmp_path))
    stranger.send(b"\0" * (17 << 20))
    client = network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    assert until(server.receive).message == HELLO
    assert server.counters == {}  # it never came out of ZeroMQ


def test_bytes_that_are_not_zeromq(network: ZmqNetwork, tmp_path: Path) -> None:
    server = network.server(endpoint_in(tmp_path))
    with closing(sockets.socket(sockets.AF_UNIX)) as stranger:
        stranger.connect(str(tmp_path / "s"))
        stranger.sendall(os.urandom(5000))
        client = network.client(endpoint_in(tmp_path))
        client.send(HELLO)
        assert until(server.receive).message == HELLO


# ------------------------------------------------------------------------------------------------ full and gone


def test_a_client_that_was_closed_is_gone(network: ZmqNetwork, endpoint: str) -> None:
    server, client = network.server(endpoint), network.client(endpoint)
    client.send(HELLO)
    peer = until(server.receive).peer
    client.close()
    until(lambda: server.send(peer, GRANT) is Sent.GONE)
    assert server.send(b"never there", GRANT) is Sent.GONE
    assert server.send(b"never there", FRAME, STAMP, PIXELS * 1000) is Sent.GONE
    other = network.client(endpoint)
    other.send(HELLO)
    assert server.send(until(server.receive).peer, GRANT) is Sent.YES
    assert until(other.receive).message == GRANT


def test_a_client_that_connects_anew_is_another_one(network: ZmqNetwork, tmp_path: Path) -> None:
    server, client = network.server(endpoint_in(tmp_path)), network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    before = until(server.receive).peer
    server.send(before, GRANT)
    client.reconnect()
    client.send(HELLO)
    after = until(server.receive).peer
    assert after != before
    server.send(after, Ack("cam0", 1, 1))
    assert isinstance(until(client.receive).message, Ack)  # what waited in the connection before is dropped
    until(lambda: server.send(before, GRANT) is Sent.GONE)


def test_who_does_not_read_fills_its_queue_and_nobody_waits(network: ZmqNetwork, tmp_path: Path) -> None:
    server, client = network.server(endpoint_in(tmp_path)), network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    peer = until(server.receive).peer
    large = b"\0" * (1 << 19)
    sent = [server.send(peer, FRAME, STAMP, large) for _ in range(3 * QUEUE)]
    assert sent[-1] is Sent.FULL
    assert sent.count(Sent.YES) < 2.5 * QUEUE
    for _ in range(sent.count(Sent.YES)):
        assert until(client.receive).stamp == STAMP  # nothing of what was accepted is lost
    assert server.send(peer, GRANT) is Sent.YES


def test_without_a_server_a_client_fills_its_queue(network: ZmqNetwork, tmp_path: Path) -> None:
    client = network.client(endpoint_in(tmp_path))
    assert [client.send(HELLO) for _ in range(QUEUE + 1)][-2:] == [Sent.YES, Sent.FULL]


def test_closing_does_not_wait_for_who_never_comes(tmp_path: Path) -> None:
    network = ZmqNetwork()
    client = network.client(endpoint_in(tmp_path))
    for _ in range(10):
        client.send(HELLO)
    assert client.socket.getsockopt(zmq.LINGER) == LINGER_MS <= 500
    closing_thread = threading.Thread(target=network.close, daemon=True)
    closing_thread.start()
    closing_thread.join(PATIENCE_S)
    assert not closing_thread.is_alive()


# ------------------------------------------------------------------------------------------------ who serves

SERVES = """
import sys
from linescan.errors import LinescanError
from linescan.transport.zeromq import ZmqNetwork
network = ZmqNetwork()
try:
    network.server(sys.argv[1])
    print("serves", flush=True)
    sys.stdin.read()
except LinescanError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
finally:
    network.close()
"""


def other_process(endpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVES, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_server_on_a_path_is_refused(network: ZmqNetwork, tmp_path: Path) -> None:
    server = network.server(endpoint_in(tmp_path))
    with pytest.raises(PeerError, match="another process serves it"):
        network.server(endpoint_in(tmp_path))
    with pytest.raises(PeerError, match="another process serves it"):
        network.publication(endpoint_in(tmp_path))
    client = network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    assert until(server.receive).message == HELLO  # the first one still has the traffic


def test_a_second_server_in_another_process_ends_with_its_code(network: ZmqNetwork, tmp_path: Path) -> None:
    network.server(endpoint_in(tmp_path))
    with other_process(endpoint_in(tmp_path)) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 69
    assert "another process serves it" in said


def test_a_path_is_free_when_its_process_was_killed(network: ZmqNetwork, tmp_path: Path) -> None:
    with other_process(endpoint_in(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serves\n"
        with pytest.raises(PeerError, match="another process serves it"):
            network.server(endpoint_in(tmp_path))
        process.kill()
    server = network.server(endpoint_in(tmp_path))  # over the socket that the dead one left
    client = network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    assert until(server.receive).message == HELLO


def test_a_network_that_could_not_bind_closes_all_the_same(network: ZmqNetwork, tmp_path: Path) -> None:
    network.server(endpoint_in(tmp_path))
    second = ZmqNetwork()
    with pytest.raises(PeerError) as kept:  # with its traceback it keeps the frames, and what is in them
        second.server(endpoint_in(tmp_path))
    closing_thread = threading.Thread(target=second.close, daemon=True)
    closing_thread.start()
    closing_thread.join(PATIENCE_S)
    assert not closing_thread.is_alive(), "a stage that is one too many would hang instead of ending"
    assert kept.value.exit_code == 69


def test_a_port_that_is_taken(network: ZmqNetwork) -> None:
    endpoint = free_port()
    network.server(endpoint)
    with pytest.raises(PeerError, match=r"tcp://.*: cannot be bound: Address already in use"):
        network.server(endpoint)


def test_a_path_that_the_system_has_no_room_for(network: ZmqNetwork, tmp_path: Path) -> None:
    endpoint = endpoint_in(tmp_path, "s" * 110)
    for end in (network.server, network.client, network.publication):
        with pytest.raises(ConfigError, match="a socket's path may have 107 bytes at most"):
            end(endpoint)
    with pytest.raises(ConfigError, match="a socket's path may have 107 bytes at most"):
        network.subscription(endpoint, [""])


def test_endpoints_that_are_none(network: ZmqNetwork, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tcp://\*:5555: cannot be connected to"):
        network.client("tcp://*:5555")
    with pytest.raises(PeerError, match=r"tcp://192.0.2.1:5555: cannot be bound"):
        network.server("tcp://192.0.2.1:5555")
    (tmp_path / "file").write_text("")
    with pytest.raises(PeerError, match=r"no socket can be made there: (Not a directory|File exists)"):
        network.server(f"ipc://{tmp_path}/file/s")


# ------------------------------------------------------------------------------------------------ keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def networks() -> Iterator[Callable[[Path], ZmqNetwork]]:
    made: list[ZmqNetwork] = []

    def make(folder: Path) -> ZmqNetwork:
        made.append(ZmqNetwork(load_keys(folder)))
        return made[-1]

    yield make
    for network in made:
        network.close()


def test_with_the_right_keys_tcp_works(networks: Any, folder: Path) -> None:
    endpoint = free_port()
    server, client = networks(folder).server(endpoint), networks(folder).client(endpoint)
    client.send(HELLO)
    heard = until(server.receive)
    assert heard.message == HELLO
    assert server.send(heard.peer, GRANT) is Sent.YES
    assert until(client.receive).message == GRANT


def test_publications_are_secured_too(networks: Any, folder: Path, network: ZmqNetwork) -> None:
    endpoint = free_port()
    publication = networks(folder).publication(endpoint)
    known, stranger = networks(folder).subscription(endpoint, [""]), network.subscription(endpoint, [""])

    def heard() -> bool:
        publication.send("event", GRANT)
        time.sleep(0.01)
        return known.receive() is not None

    until(heard)
    for _ in range(20):
        publication.send("event", GRANT)
        time.sleep(0.01)
    assert stranger.receive() is None


def not_heard(server: Any, strange: Any, known: Any) -> None:
    """What a stranger sent long before does not come, while a known client's does."""
    strange.send(HELLO)
    for number in range(10):
        known.send(Ack("cam0", 0, number))
        assert isinstance(until(server.receive).message, Ack)
        time.sleep(0.05)
    assert server.receive() is None


def test_with_another_servers_key_nothing_arrives(networks: Any, folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other")
    for name in ("client.key", "client.key_secret"):
        (tmp_path / "other" / name).write_bytes((folder / name).read_bytes())
    endpoint = free_port()
    server = networks(folder).server(endpoint)
    not_heard(server, networks(tmp_path / "other").client(endpoint), networks(folder).client(endpoint))


def test_a_client_whose_key_is_not_allowed_is_not_heard(networks: Any, folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other")
    (tmp_path / "other" / "server.key").write_bytes((folder / "server.key").read_bytes())
    endpoint = free_port()
    server = networks(folder).server(endpoint)
    not_heard(server, networks(tmp_path / "other").client(endpoint), networks(folder).client(endpoint))


def test_a_client_without_keys_is_not_heard(networks: Any, folder: Path, network: ZmqNetwork) -> None:
    endpoint = free_port()
    server = networks(folder).server(endpoint)
    not_heard(server, network.client(endpoint), networks(folder).client(endpoint))


def test_a_further_client_is_let_in_by_its_public_key(networks: Any, folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other")
    (tmp_path / "other" / "server.key").write_bytes((folder / "server.key").read_bytes())
    (folder / "allowed" / "other.key").write_bytes((tmp_path / "other" / "client.key").read_bytes())
    (tmp_path / "other" / "server.key_secret").unlink()  # a client needs it not
    endpoint = free_port()
    server, client = networks(folder).server(endpoint), networks(tmp_path / "other").client(endpoint)
    client.send(HELLO)
    assert until(server.receive).message == HELLO


def test_ipc_needs_no_keys(networks: Any, folder: Path, network: ZmqNetwork, tmp_path: Path) -> None:
    server, client = networks(folder).server(endpoint_in(tmp_path)), network.client(endpoint_in(tmp_path))
    client.send(HELLO)
    assert until(server.receive).message == HELLO


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_command_makes_keys_that_nobody_else_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, before = tmp_path / "a" / "keys", os.umask(0)
    try:
        assert main(["keys", str(folder)]) == 0
    finally:
        os.umask(before)
    assert str(folder / "server.key_secret") in capsys.readouterr().out
    for name in ("server.key_secret", "client.key_secret"):
        assert mode_of(folder / name) == 0o600
    kept = {path: path.read_bytes() for path in folder.rglob("*.key*")}
    assert len(kept) == 5
    assert main(["keys", str(folder)]) == 2
    assert "there is a key already; nothing was changed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*.key*")} == kept
    loaded = load_keys(folder)
    assert loaded.server_secret is not None
    assert len({loaded.server_public, loaded.server_secret, loaded.client_public, loaded.client_secret}) == 4


@pytest.mark.parametrize("name", ["server", "client"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_refused(folder: Path, name: str, mode: int) -> None:
    (folder / f"{name}.key_secret").chmod(mode)
    with pytest.raises(ConfigError, match=rf"{name}.key_secret: a secret key that others may read"):
        load_keys(folder)


def test_secrets_that_are_missing(folder: Path, networks: Any) -> None:
    (folder / "server.key_secret").unlink()
    client_side = networks(folder)
    client_side.client(free_port())
    with pytest.raises(ConfigError, match=r"server.key_secret: is missing, a server needs it"):
        client_side.server(free_port())
    (folder / "client.key_secret").unlink()
    with pytest.raises(ConfigError, match=r"client.key_secret: is missing; `linescan keys` makes keys"):
        load_keys(folder)


def test_files_that_hold_no_keys(folder: Path, networks: Any) -> None:
    (folder / "client.key_secret").write_bytes((folder / "client.key").read_bytes())
    with pytest.raises(ConfigError, match=r"client.key_secret: holds no secret key"):
        load_keys(folder)
    (folder / "client.key_secret").write_text("nothing")
    with pytest.raises(ConfigError, match=r"client.key_secret: not a CURVE key"):
        load_keys(folder)
    (folder / "server.key").unlink()
    with pytest.raises(ConfigError, match=r"server.key: not a CURVE key"):
        load_keys(folder)


def test_without_the_list_of_clients_no_server_starts(folder: Path, networks: Any) -> None:
    for path in (folder / "allowed").iterdir():
        path.unlink()
    (folder / "allowed").rmdir()
    with pytest.raises(ConfigError, match=r"allowed: is missing, the folder of the clients' public keys"):
        networks(folder).server(free_port())


def test_systemd_credentials_go_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_keys(tmp_path / "credentials")
    expected = load_keys(tmp_path / "credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    (tmp_path / "credentials" / "server.key_secret").chmod(0o440)  # as systemd leaves them, with an access list
    loaded = load_keys(folder)
    assert (loaded.server_secret, loaded.client_secret) == (expected.server_secret, expected.client_secret)
    assert loaded.allowed == folder / "allowed"
    (tmp_path / "credentials" / "server.key_secret").chmod(0o444)
    with pytest.raises(ConfigError, match="a secret key that others may read"):
        load_keys(folder)
    (tmp_path / "credentials" / "server.key_secret").unlink()
    assert load_keys(folder).server_secret != expected.server_secret


# ------------------------------------------------------------------------------------------------ in memory


def test_the_network_in_memory_does_as_the_real_one() -> None:
    network = MemoryNetwork()
    client = network.client("a")
    assert client.send(HELLO) is Sent.FULL
    server = network.server("a")
    assert server.send(b"nobody", GRANT) is Sent.GONE
    client.send(HELLO)
    heard = server.receive()
    assert heard is not None
    pixels = bytearray(PIXELS)
    assert server.send(heard.peer, FRAME, STAMP, memoryview(pixels)) is Sent.YES
    pixels[:] = bytes(len(pixels))
    got = client.receive()
    assert got is not None
    assert got.pixels == PIXELS  # the sender may use its memory again
    client.reconnect()
    assert server.send(heard.peer, GRANT) is Sent.GONE
    server.queue.append((b"x", (memoryview(b"garbage"),)))
    assert server.receive() is None
    assert server.counters == {"garbage": 1}
    subscription = network.subscription("p", ["event"])
    publication = network.publication("p")
    publication.send("status", GRANT)
    publication.send("event", HELLO)
    received = subscription.receive()
    assert received is not None
    assert received.message == HELLO
    assert subscription.receive() is None
