"""What an operator asks of a running line: sent to the publisher's control socket, and its answer."""

from __future__ import annotations

import time

from linescan.cli.stage import network_of
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Message, Refused

PATIENCE_S = 5.0


def ask(line: Line, question: Message, patience_s: float = PATIENCE_S) -> Message:
    """The publisher's answer; raises ConfigError where it refuses, and PeerError where none answers in time."""
    with network_of(line) as network:
        link = network.client(line.control_endpoint)
        link.send(question)
        end = time.monotonic() + patience_s
        while (received := link.receive()) is None:
            if time.monotonic() > end:
                raise PeerError(f"{line.control_endpoint}: no publisher answers")
            network.wait((link,), 0.1)
    if isinstance(received.message, Refused):
        raise ConfigError(received.message.reason)
    return received.message
