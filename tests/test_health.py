"""The notify protocol, spoken to a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from linescan.errors import ConfigError, PeerError
from linescan.health import Health

SECOND = 1_000_000_000


class Clock:
    """Monotonic nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 7 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


class Manager:
    """The supervisor's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@pytest.fixture
def environ(tmp_path: Path, manager: Manager) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}


def test_says_ready_with_its_status(environ: dict[str, str], manager: Manager) -> None:
    Health(environ).ready("waiting for a roll")
    assert manager.received() == ["READY=1\nSTATUS=waiting for a roll"]


def test_says_stopping(environ: dict[str, str], manager: Manager) -> None:
    Health(environ).stopping()
    assert manager.received() == ["STOPPING=1\nSTATUS=stopping"]


def test_nothing_set_nothing_done() -> None:
    health = Health({})
    health.ready("there")
    health.status("still there")
    health.turn()
    health.stopping()
    assert health.period_s is None


def test_no_child_inherits_the_variables(environ: dict[str, str]) -> None:
    environ["HOME"] = "/nowhere"
    assert Health(environ).period_s == 4
    assert environ == {"HOME": "/nowhere"}


def test_takes_the_process_environment_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], manager: Manager
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    Health().ready("there")
    assert manager.received() == ["READY=1\nSTATUS=there"]
    assert not environ.keys() & os.environ.keys()


def test_abstract_address() -> None:
    manager = Manager(f"\0linescan-test-{os.getpid()}")
    Health({"NOTIFY_SOCKET": f"@linescan-test-{os.getpid()}"}).ready("there")
    assert manager.received() == ["READY=1\nSTATUS=there"]
    manager.socket.close()


def test_feeds_twice_a_period_at_most(environ: dict[str, str], manager: Manager) -> None:
    clock = Clock()
    health = Health(environ, clock)
    health.ready("there")
    manager.received()
    fed = []
    for _ in range(1000):  # 10 s in turns of 10 ms
        clock.pass_s(0.01)
        health.turn()
        fed += manager.received()
    assert fed == ["WATCHDOG=1"] * 5


def test_work_older_than_the_period_is_not_alive(environ: dict[str, str], manager: Manager) -> None:
    clock = Clock()
    health = Health(environ, clock)
    owed_since_ns = clock.now
    clock.pass_s(3.9)
    health.turn(owed_since_ns)
    assert manager.received() == ["WATCHDOG=1"]
    clock.pass_s(3.9)
    health.turn(owed_since_ns)
    assert manager.received() == []
    health.turn(clock.now)  # the old work was done, newer work waits
    assert manager.received() == ["WATCHDOG=1"]


def test_another_process_is_watched(environ: dict[str, str], manager: Manager) -> None:
    environ["WATCHDOG_PID"] = str(os.getpid() + 1)
    health = Health(environ)
    health.turn()
    assert health.period_s is None
    assert manager.received() == []


def test_status_when_it_changed_and_once_a_second_at_most(environ: dict[str, str], manager: Manager) -> None:
    del environ["WATCHDOG_USEC"]
    clock = Clock()
    health = Health(environ, clock)
    health.ready("roll A")
    health.status("roll A")
    health.status("roll B")
    health.status("roll C")
    assert manager.received() == ["READY=1\nSTATUS=roll A"]
    clock.pass_s(1)
    health.turn()  # what was held back is told by a later turn
    health.turn()
    assert manager.received() == ["STATUS=roll C"]
    clock.pass_s(5)
    health.turn()
    assert manager.received() == []


def test_a_status_is_one_line(environ: dict[str, str], manager: Manager) -> None:
    Health(environ).ready("roll A\nMAINPID=1")
    assert manager.received() == ["READY=1\nSTATUS=roll A MAINPID=1"]


def test_a_supervisor_that_went_away_stops_nothing(environ: dict[str, str], manager: Manager) -> None:
    clock = Clock()
    health = Health(environ, clock)
    manager.socket.close()
    health.ready("there")
    clock.pass_s(5)
    health.status("still there")
    health.turn()
    health.stopping()


def test_a_supervisor_that_does_not_read_holds_nothing_up(environ: dict[str, str], manager: Manager) -> None:
    clock = Clock()
    health = Health(environ, clock)
    for _ in range(2000):  # more than any queue of datagrams holds
        clock.pass_s(3)
        health.turn()
    fed = len(manager.received())
    assert 0 < fed < 2000
    health.turn()  # the last feed was refused, so this one is due at once
    assert manager.received() == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", ["vsock:2:1234", "notify"])
def test_an_address_that_cannot_be_used(address: str) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET="):
        Health({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here"])
def test_an_address_where_nobody_listens(address: str) -> None:
    with pytest.raises(PeerError, match="NOTIFY_SOCKET="):
        Health({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("period", ["0", "-1", "soon", "1.5"])
def test_a_period_that_makes_no_sense(environ: dict[str, str], period: str) -> None:
    with pytest.raises(ConfigError, match="WATCHDOG_USEC="):
        Health({**environ, "WATCHDOG_USEC": period})
