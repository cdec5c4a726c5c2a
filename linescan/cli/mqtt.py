"""linescan mqtt: tells a broker what the line finds and how it is, as systemd starts it."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING, Any

from linescan import log
from linescan.cli.stage import add_line_argument, network_of, stopped_by_signal
from linescan.errors import ConfigError
from linescan.health import Health
from linescan.line import Line

if TYPE_CHECKING:
    from linescan.stages.mqtt import MqttBridge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from linescan.stages.mqtt import MqttBridge
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("paho"):
            raise
        raise ConfigError("linescan mqtt needs paho-mqtt: pip install 'linescan[mqtt]'") from error

    line, health = Line(args.config), Health()
    logger = log.configure("mqtt")
    with network_of(line) as network, stopped_by_signal() as stop:
        bridge = MqttBridge(line, network)
        try:
            health.ready("looking for the broker")
            logger.info("ready")
            _tell_until(bridge, stop, health, logger)
            health.stopping()
        finally:
            bridge.close()
        logger.info("stopped", events=bridge.counters["events"], pending=bridge.pending)
    return 0


def _tell_until(bridge: MqttBridge, stop: threading.Event, health: Health, logger: Any) -> None:
    said = ("", "")
    while not stop.is_set():
        bridge.turn()
        health.turn()
        health.status(f"{bridge.state}, {bridge.counters['events']} events, {bridge.pending} pending")
        now = (bridge.state, bridge.broker.reason)
        if now != said:
            said = now
            if bridge.broker.connected:
                logger.info("connected")
            elif bridge.broker.reason:
                logger.error("no broker", reason=bridge.broker.reason)
