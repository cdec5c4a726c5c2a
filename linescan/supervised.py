"""One stage of a line as a process of `linescan run`: started, listened to, ended in time (see `supervisor.py`)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import structlog

from linescan.errors import LinescanError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_S = 60.0  # a stage that was up for so long starts again after the first pause
ABORT_S = 5.0  # from SIGABRT, which tells where a process hangs, to SIGKILL
WATCHDOG_S = 20.0
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_log = structlog.get_logger("linescan.supervisor")


@dataclass(frozen=True)
class StageCommand:
    """One process of a line.

    A stage of a rank starts when all of lower ranks are ready, and stops when all of higher ranks are gone. "limited":
    more than `restarts` within `within_s` end the line; "always": it is started again for as long as the line runs.
    """

    name: str
    argv: Sequence[str]
    rank: int = 0
    restart: Literal["always", "limited"] = "limited"
    restarts: int = 5
    within_s: float = 300.0
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 30.0
    watchdog_s: float | None = WATCHDOG_S


class State(Enum):
    """Where a stage is; WAITING also between two starts."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"  # asked to, or by its own word
    ABORTING = "aborting"
    KILLED = "killed"
    GONE = "gone"


class Stage:
    """One stage over all of its processes; `deadline` is the monotonic time in s at which `late` has to be called."""

    def __init__(self, command: StageCommand) -> None:
        self.command = command
        self.state = State.WAITING
        self.deadline: float | None = 0.0
        self.was_ready = False
        self.overdue = False  # was killed because it did not stop in time
        self._process: subprocess.Popen[bytes] | None = None
        self._up_since = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._restarts: list[float] = []
        self._log = _log.bind(stage=command.name)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, address: str) -> None:
        environ = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"}
        environ["NOTIFY_SOCKET"] = address
        environ.pop("WATCHDOG_USEC", None)
        if self.command.watchdog_s is not None:
            environ["WATCHDOG_USEC"] = str(round(self.command.watchdog_s * 1e6))
        parent = os.getpid()
        self._process = subprocess.Popen(
            self.command.argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: the stages stop in their order
            preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509, there are no threads here
        )
        self._up_since = time.monotonic()
        self.overdue = False
        self._log.info("stage-started", pid=self.pid)
        self._enter(State.STARTING, self.command.start_timeout_s)

    def told(self, text: str) -> None:
        """A message of the notify protocol from this stage's process."""
        variables = dict(part.partition("=")[::2] for part in text.split("\n"))
        if variables.get("READY") == "1" and self.state is State.STARTING:
            self._log.info("stage-ready", status=variables.get("STATUS"), after_s=round(self._age_s(), 2))
            self.was_ready = True
            self._enter(State.READY, self.command.watchdog_s)
        if variables.get("WATCHDOG") == "1" and self.state is State.READY:
            self._enter(State.READY, self.command.watchdog_s)
        if variables.get("STOPPING") == "1" and self.state in (State.STARTING, State.READY):
            self._enter(State.STOPPING, self.command.stop_timeout_s)

    def stop(self) -> None:
        """Asks it to drain; without a process it is gone."""
        if self._process is None:
            self._enter(State.GONE)
        elif self.state in (State.STARTING, State.READY):
            self._log.info("stage-stopping")
            self._signal(signal.SIGTERM)
            self._enter(State.STOPPING, self.command.stop_timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._enter(State.KILLED)

    def late(self) -> None:
        """The deadline passed: not ready, not alive or not stopped in time."""
        if self.state is State.STOPPING or self.state is State.ABORTING:
            self._log.error("stage-killed", late=self.state.value)
            self.overdue |= self.state is State.STOPPING
            self.kill()
        else:
            self._log.error("stage-hangs", state=self.state.value, after_s=round(self._age_s(), 2))
            self._signal(signal.SIGABRT)
            self._enter(State.ABORTING, ABORT_S)

    def ended(self) -> int | None:
        """The exit code (negative: the signal) of a process that just ended, else None; then it waits for a start."""
        code = self._process.poll() if self._process else None
        if code is not None:
            asked = self.state is State.STOPPING and code == 0
            (self._log.info if asked else self._log.warning)("stage-ended", code=code, status=_spelled(code))
            self._process = None
            self._enter(State.WAITING)
        return code

    def plan_restart(self) -> bool:
        """Sets the time of the next start; False where there were too many."""
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if now - at < self.command.within_s]
        if self.command.restart == "limited" and len(self._restarts) >= self.command.restarts:
            self._log.error("stage-given-up", restarts=len(self._restarts), within_s=self.command.within_s)
            return False
        self._restarts.append(now)
        if self._age_s() > STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        self._log.info("stage-restarts", pause_s=self._pause_s)
        self._enter(State.WAITING, self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return True

    def _age_s(self) -> float:
        return time.monotonic() - self._up_since

    def _enter(self, state: State, timeout_s: float | None = None) -> None:
        self.state = state
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # a process that was stopped would not hear of it


def _die_with(parent: int) -> None:
    """In the child, before it becomes the stage: the kernel kills it when its parent dies, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(LinescanError.exit_code)


def _spelled(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
