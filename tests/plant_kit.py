"""For the tests of what plant IT gets: a publisher's public side with words put into its mouth, and processes."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from linescan.codec import encode
from linescan.line import Line
from linescan.messages import (
    Caught,
    Done,
    Gap,
    Message,
    Order,
    Progress,
    Published,
    Refused,
    RollCommand,
    RollState,
    Since,
    Status,
)
from linescan.transport.zeromq import ZmqNetwork

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0  # how long a test waits for what takes moments on a quiet machine
BEAT_S = 0.2
STAGES = {"publisher": "publishing", "acquire@cam0": "acquiring", "worker@cam0": "inspecting"}


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, f"waited for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def gap(number: int) -> Gap:
    return Gap("cam0", "r1", number, number, "overrun")


def write_line(folder: Path, *sections: str) -> Line:
    """A line.toml of one camera with statuses every `BEAT_S`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [
        'recipe = "toy.toml"',
        f"status_s = {BEAT_S}",
        "[[cameras]]",
        'name = "cam0"',
        'producer = "none.cti"',
        'serial = "1"',
        "max_line_rate_hz = 1000.0",
        "[transport]",
        f'directory = "{folder}/run"',
        *sections,
    ]
    path = folder / "line.toml"
    path.write_text("\n".join(text), encoding="utf-8")
    return Line(path)


class StandIn:
    """In the publisher's place, in a thread: tells events and statuses, answers who asks for events, rolls and orders.

    A journal (`rows`) given to its successor is the same journal.
    """

    def __init__(self, line: Line, rows: list[Published] | None = None, run: str = "run-1") -> None:
        self.rows: list[Published] = rows if rows is not None else []
        self.run = run
        self.states = dict(STAGES)  # a stage that is not in it is silent
        self.faults: dict[str, tuple[str, ...]] = {}
        self.commands: list[Message] = []
        self.answer: Callable[[Message], Message | None] = self._obliging
        self.roll = RollState("", "", (), ())
        self.oldest = 1
        self._line = line
        self._said: queue.Queue[tuple[str, Message]] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def publish(self, *events: Message, heard: bool = True) -> None:
        """Into the journal and to the world; `heard` is whether subscribers are told."""
        for event in events:
            row = Published(self.run, len(self.rows) + 1, True, "cam0", 1, len(self.rows), 5, 6, False, encode(event))
            self.rows.append(row)
            if heard:
                self._said.put(("event", row))

    @property
    def has_said_all(self) -> bool:
        return self._said.empty()

    def progress(self, progress: Progress) -> None:
        self._said.put(("progress", progress))

    def _obliging(self, message: Message) -> Message | None:
        if isinstance(message, RollCommand):
            if message.action == "start":
                self.roll = RollState(message.roll or "numbered", message.recipe, ("cam0",), (0,))
            elif message.action == "end":
                self.roll = RollState("", "", (), ())
            return self.roll
        return Done(f"{message.action} done") if isinstance(message, Order) else Refused("", "what?", None)

    def _work(self) -> None:
        network = ZmqNetwork()
        events = network.publication(self._line.events_endpoint)
        backfill, control = (
            network.server(endpoint) for endpoint in (self._line.backfill_endpoint, self._line.control_endpoint)
        )
        told = 0.0
        while not self._stop.is_set():
            network.wait((backfill, control), 0.01)
            while (received := backfill.receive()) is not None:
                since = received.message
                assert isinstance(since, Since)
                known = since.run in ("", self.run)
                found = [one for one in self.rows[since.sequence :] if (one.sequence or 0) >= self.oldest]
                up_to = since.sequence if known else 0
                for row in found[: since.limit] if known else []:
                    backfill.send(received.peer, row)
                    up_to = row.sequence or up_to
                backfill.send(received.peer, Caught(self.run, len(self.rows), self.oldest, up_to))
            while (received := control.receive()) is not None:
                if received.message != RollCommand("status", "", ""):
                    self.commands.append(received.message)
                answer = self.answer(received.message)
                if answer is not None:
                    control.send(received.peer, answer)
            while not self._said.empty():
                events.send(*self._said.get())
            if time.monotonic() - told > BEAT_S:
                told = time.monotonic()
                for name, state in dict(self.states).items():
                    stage, _, camera = name.partition("@")
                    counters = {"last_sequence": len(self.rows)} if stage == "publisher" else {}
                    faults = self.faults.get(name, ())
                    events.send("status", Status(stage, camera, state, faults, counters, 0))  # type: ignore[arg-type]
        network.close()


class Command:
    """A linescan command as a process that dies with the test; what it says goes into a file."""

    def __init__(self, line: Line, *arguments: str, name: str = "command") -> None:
        self.log = line.path.parent / f"{name}.log"
        dies = "import ctypes, sys; ctypes.CDLL(None).prctl(1, 9); from linescan.cli.main import main; sys.exit(main())"
        with self.log.open("ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", dies, *arguments, "--config", str(line.path)],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=ROOT, env=dict(os.environ),
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_said(self, text: str) -> None:
        def heard() -> bool:
            assert self.popen.poll() is None, self.said
            return text in self.said

        wait_for(heard, f"{text!r} in {self.said}")

    def end(self, signal: int) -> int:
        self.popen.send_signal(signal)
        return self.popen.wait(PATIENCE_S)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.popen.kill()
        self.popen.wait()
