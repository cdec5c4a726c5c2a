"""What `linescan run` uses: starts the stages of a line as processes, watches them, starts them again, stops them.

It speaks systemd's notify protocol to them (`health.py`), so that a stage need not know who started it. One thread that
sleeps until a message, a signal, the end of a child or the next deadline.
"""

from __future__ import annotations

import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog

from linescan.errors import ConfigError, InputError, LinescanError
from linescan.line import Line
from linescan.supervised import Stage, StageCommand, State

FINAL = frozenset({ConfigError.exit_code, InputError.exit_code})  # starting again mends neither settings nor data
CLOSING_S = 10.0  # beyond the drain time
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

_log = structlog.get_logger("linescan.supervisor")


class Supervisor:
    """The stages of a line; `run` belongs in the main thread, since it takes the process's signals."""

    def __init__(self, stages: Sequence[StageCommand]) -> None:
        self._stages = [Stage(command) for command in stages]
        self._code: int | None = None  # what the line ends with; None while it is to run
        self._interrupted = False

    def run(self) -> int:
        """Runs until SIGTERM, SIGINT or SIGHUP (0), or until a stage cannot go on (its exit code, 70 for a signal).

        The line then drains in reverse, and a stage that fails at that gives its code. 70 also where a stage did not
        stop in time; 128 + signal where a second signal killed what was left.
        """
        with _signals() as wakeup, _notify_socket() as messages, selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ)
            selector.register(messages, selectors.EVENT_READ)
            address = "@" + messages.getsockname()[1:].decode()
            try:
                while not self._all_gone():
                    now = time.monotonic()
                    self._meet_deadlines(now, address)
                    self._stop_by_rank()
                    selector.select(self._timeout_s(now))
                    self._take_messages(messages)
                    self._take_signals(wakeup)
                    self._take_ends()
            finally:
                for stage in self._stages:
                    stage.kill()
        overdue = any(stage.overdue for stage in self._stages)
        return self._code or (LinescanError.exit_code if overdue else 0)

    def _meet_deadlines(self, now: float, address: str) -> None:
        for stage in self._stages:
            if stage.deadline is None or now < stage.deadline:
                continue
            if stage.state is not State.WAITING:
                stage.late()
            elif self._code is None and all(other.was_ready for other in self._below(stage)):
                stage.start(address)

    def _stop_by_rank(self) -> None:
        """While the line stops: the highest rank that still runs, and whatever has no process."""
        if self._code is None:
            return
        for rank in sorted({stage.command.rank for stage in self._stages}, reverse=True):
            peers = [stage for stage in self._stages if stage.command.rank == rank]
            for stage in peers:
                stage.stop()
            if any(stage.state is not State.GONE for stage in peers):
                return

    def _all_gone(self) -> bool:
        return all(stage.state is State.GONE for stage in self._stages)

    def _below(self, stage: Stage) -> Iterator[Stage]:
        return (other for other in self._stages if other.command.rank < stage.command.rank)

    def _timeout_s(self, now: float) -> float | None:
        """Until the next deadline; one that was met already waits for an event."""
        due = [stage.deadline - now for stage in self._stages if stage.deadline is not None and stage.deadline > now]
        return 0 if self._all_gone() else min(due, default=None)

    def _take_messages(self, messages: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = messages.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
                for level, kind, value in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                        pid = CREDENTIALS.unpack(value)[0]  # told by the kernel: a stranger cannot pass for a stage
                        for stage in self._stages:
                            if stage.pid == pid:
                                stage.told(data.decode(errors="replace"))

    def _take_signals(self, wakeup: socket.socket) -> None:
        with suppress(BlockingIOError):
            for number in wakeup.recv(64):
                if number != signal.SIGCHLD:
                    self._asked_to_stop(number)

    def _asked_to_stop(self, number: int) -> None:
        if not self._interrupted:
            _log.info("line-stopping", signal=signal.Signals(number).name)
            self._interrupted = True
            self._code = self._code or 0
            return
        _log.error("line-killed", signal=signal.Signals(number).name)
        self._code = 128 + number
        for stage in self._stages:
            stage.kill()

    def _take_ends(self) -> None:
        for stage in self._stages:
            code = stage.ended()
            if code is None:
                continue
            if self._code is not None:
                self._code = self._code or max(code, 0)
            elif code in FINAL or not stage.plan_restart():
                self._code = code if code > 0 else LinescanError.exit_code
                _log.error("line-stopping", because=stage.command.name, code=self._code)


def stage_commands(line: Line, python: str = sys.executable) -> list[StageCommand]:
    """The processes of a line: the publisher, then for each camera a worker, a recorder if there is one, an acquire.

    A recorder is up before acquire and gone after it; whatever happens to it, it does not end the line.
    """
    stop_timeout_s = line.settings.transport.drain_s + CLOSING_S

    def command(stage: str, rank: int, camera: str | None, start_timeout_s: float) -> StageCommand:
        argv = [python, "-m", "linescan.cli.main", stage, "--config", str(line.path)]
        return StageCommand(
            name=f"{stage}@{camera}" if camera else stage,
            argv=[*argv, "--camera", camera] if camera else argv,
            rank=rank,
            restart="limited" if stage in ("publisher", "worker") else "always",
            start_timeout_s=start_timeout_s,
            stop_timeout_s=stop_timeout_s,
        )

    cameras = [camera.name for camera in line.settings.cameras]
    return [
        command("publisher", 0, None, 60),
        *(command("worker", 1, camera, 300) for camera in cameras),
        *(command("record", 1, camera, 30) for camera in cameras if line.settings.recording),
        *(command("acquire", 2, camera, 90) for camera in cameras),
    ]


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """The signals that matter here as bytes of a socket."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        with reading, writing:
            yield reading
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _notify_socket() -> Iterator[socket.socket]:
    """A datagram socket with a name of its own that leaves no file behind; each message tells its sender's pid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as messages:
        messages.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        messages.bind("")
        yield messages
