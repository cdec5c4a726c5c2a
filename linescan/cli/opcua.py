"""linescan opcua: serves the line's state and events to OPC UA clients, as systemd starts it."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from linescan import log
from linescan.cli.describe import describe
from linescan.cli.stage import add_line_argument, network_of, stopped_by_signal
from linescan.errors import ConfigError
from linescan.health import Health
from linescan.line import Line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from linescan.stages.opcua import OpcUaServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("asyncua", "cryptography"):
            raise
        raise ConfigError("linescan opcua needs asyncua: pip install 'linescan[opcua]'") from error

    line, health = Line(args.config), Health()
    logger = log.configure("opcua")
    _forward("asyncua", logger)
    with network_of(line) as network, stopped_by_signal() as stop:
        server = OpcUaServer(line, network, describe)

        def ready() -> None:
            health.ready("serving")
            logger.info("serving", endpoint=line.settings.opcua and line.settings.opcua.endpoint)

        def alive() -> None:
            health.turn()
            health.status(f"{'/'.join(filter(None, server.view.state.value))}, {server.events} events")

        asyncio.run(server.serve(stop, ready, alive))
        health.stopping()
        logger.info("stopped", events=server.events)
    return 0


class _Forward(logging.Handler):
    """The library's words as lines of our log, without what led there: most are of clients that break off."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        self._logger.warning("library", said=text)


def _forward(name: str, logger: Any) -> None:
    library = logging.getLogger(name)
    library.addHandler(_Forward(logger))
    library.propagate = False
