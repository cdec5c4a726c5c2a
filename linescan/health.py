"""Tells the supervisor (systemd, or `linescan run`) that this process is ready, alive and stopping: sd_notify.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping

from linescan.errors import ConfigError, PeerError

SEND_TIMEOUT_S = 1.0  # for ready and stopping; what is told again anyway waits for nothing
STATUS_NS = 1_000_000_000


class Health:
    """The notify protocol; without NOTIFY_SOCKET all methods do nothing.

    The variables are taken out of the environment, so that no child speaks for its parent. Raises ConfigError for
    variables that make no sense and PeerError where nobody listens: a process that cannot say that it lives would be
    killed later, with no reason given.
    """

    def __init__(
        self, environ: MutableMapping[str, str] = os.environ, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        self._clock = clock
        self._address = _usable(address) if address else None
        mine = not pid or pid == str(os.getpid())
        self.period_s = _seconds(watchdog) if watchdog and mine and address else None
        self._fed_ns: int | None = None
        self._told = self._wanted = ""
        self._told_ns: int | None = None

    def ready(self, status: str) -> None:
        """The start is over: from here on the watchdog counts."""
        self._told = self._wanted = _one_line(status)
        self._fed_ns = self._told_ns = self._clock()
        self._send(f"READY=1\nSTATUS={self._told}", SEND_TIMEOUT_S)

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told when it changed, at most once a second."""
        self._wanted = _one_line(text)
        now = self._clock()
        if self._wanted == self._told or (self._told_ns is not None and now - self._told_ns < STATUS_NS):
            return
        if self._send(f"STATUS={self._wanted}"):
            self._told, self._told_ns = self._wanted, now

    def turn(self, owed_since_ns: int | None = None) -> None:
        """One turn of the loop: feeds the watchdog, at most twice a period.

        `owed_since_ns` is the monotonic time since when the oldest unfinished work waits; None where nothing does.
        Work that is older than the watchdog's period is not alive, however fast the loop turns.
        """
        self.status(self._wanted)
        if self.period_s is None:
            return
        now, period_ns = self._clock(), int(self.period_s * 1e9)
        if owed_since_ns is not None and now - owed_since_ns > period_ns:
            return
        if (self._fed_ns is None or now - self._fed_ns >= period_ns // 2) and self._send("WATCHDOG=1"):
            self._fed_ns = now

    def stopping(self) -> None:
        """What was begun is being finished; the watchdog no longer counts, the supervisor's stop timeout does."""
        self._send("STOPPING=1\nSTATUS=stopping", SEND_TIMEOUT_S)

    def _send(self, text: str, timeout_s: float = 0) -> bool:
        """Whether the supervisor got it. It may be gone or busy: that is no reason to stop inspecting."""
        if self._address is None:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(timeout_s)
            try:
                channel.sendto(text.encode(), self._address)
            except OSError:
                return False
        return True


def _usable(address: str) -> str:
    """The address as the kernel wants it, after a look whether anybody is there."""
    if not address.startswith(("/", "@")):
        raise ConfigError(f"NOTIFY_SOCKET={address}: a path, or @ and an abstract name, was expected")
    spelled = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(spelled)
        except OSError as error:
            raise PeerError(f"NOTIFY_SOCKET={address}: {error.strerror or error}") from error
    return spelled


def _seconds(microseconds: str) -> float:
    if not microseconds.isdecimal() or int(microseconds) == 0:
        raise ConfigError(f"WATCHDOG_USEC={microseconds}: microseconds were expected")
    return int(microseconds) / 1e6


def _one_line(text: str) -> str:
    """A line break would begin another variable of the protocol."""
    return " ".join(text.split())
