"""The reference PLC as a process of its own, and a publisher that beats."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymodbus.client import ModbusTcpClient

from linescan.line import Plc
from linescan.plc.link import Flags
from linescan.plc.modbus import ModbusLink

PLC = Path(__file__).parents[1] / "tools" / "plc"
sys.path.append(str(PLC))
program = importlib.import_module("program")
encoder = importlib.import_module("encoder")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """What it returned when it was true at last."""
    until = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
    return found


class Change(NamedTuple):
    """A line of the PLC's log."""

    output: int
    count: int
    monotonic_ns: int
    passes: bool
    why: str


class PlcProcess:
    """tools/plc/plc.py; `options` are its command line."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = folder / "gates.log"
        self._options = options
        self.start()

    def start(self, *options: str) -> None:
        words = ["--port", str(self.port), "--log", str(self.log), *self._options, *options]
        self.process = subprocess.Popen(
            [sys.executable, str(PLC / "plc.py"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def send(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer, "the PLC ended"
        assert not answer.startswith("refused"), answer
        return answer

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.send("status"))
        return found

    def why(self, output: int = 0) -> str:
        """What it decided for this output in its last scan."""
        return str(self.status()["gates"][output][1])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def changes(self) -> list[Change]:
        rows = [line.split() for line in self.log.read_text().splitlines()]
        return [Change(int(row[0]), int(row[1]), int(row[2]), row[3] == "pass", row[4]) for row in rows]

    def client(self) -> ModbusTcpClient:
        client = ModbusTcpClient("127.0.0.1", port=self.port, timeout=5)
        assert client.connect()
        return client

    def registers(self, address: int, count: int) -> list[int]:
        client = self.client()
        found = list(client.read_holding_registers(address, count=count).registers)
        client.close()
        return found


@contextmanager
def plc_process(folder: Path, *options: str) -> Iterator[PlcProcess]:
    plc = PlcProcess(folder, *options)
    try:
        yield plc
    finally:
        plc.kill()


class Publisher:
    """A link, and a thread that does what the publisher's loop does: beats, and says ready in the session it saw."""

    def __init__(self, port: int, **changes: Any) -> None:
        self.link = ModbusLink(Plc(host="127.0.0.1", port=port, **{"timeout_s": 0.5, **changes}))
        self.beats = self.confirms = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            if self.beats:
                self.link.beat()
            if self.confirms:
                self.link.show(Flags(ready=True, session=self.link.view().session))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.link.close()


@contextmanager
def publisher(port: int, **changes: Any) -> Iterator[Publisher]:
    found = Publisher(port, **changes)
    try:
        yield found
    finally:
        found.close()


def untouched(plc: PlcProcess) -> bool:
    """Whether nothing was written into linescan's block."""
    return not any(plc.registers(0, 120))
