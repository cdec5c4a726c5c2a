"""linescan record: a camera's frames into files beside its worker, as systemd and `linescan run` start it."""

from __future__ import annotations

import argparse
import os
import threading
from typing import Any

from linescan import log
from linescan.cli.stage import add_line_argument, network_of, stopped_by_signal
from linescan.health import Health
from linescan.line import Line
from linescan.stages.recorder import Recorder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.add_argument("--camera", metavar="NAME", help="which camera of the line (default: the only one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    line, health = Line(args.config), Health()
    camera = line.camera(args.camera).name
    logger = log.configure("recorder", camera)
    with network_of(line) as network, stopped_by_signal() as stop:
        recorder = Recorder(line, camera, network, name=f"recorder-{os.getpid()}")
        try:
            health.ready("the folder can be written to")
            logger.info("ready")
            _record_until(recorder, stop, health, logger)
            health.stopping()
        finally:
            recorder.close()
        logger.info("stopped", lines=recorder.counters["lines"], lines_missing=recorder.lines_missing)
    return 0


def _record_until(recorder: Recorder, stop: threading.Event, health: Health, logger: Any) -> None:
    refused = ""
    while not stop.is_set():
        recorder.turn()
        health.turn()
        health.status(f"{recorder.state}, {recorder.counters['lines']} lines, {recorder.lines_missing} missing")
        if recorder.reason != refused:
            refused = recorder.reason
            if refused:
                logger.error("recording stopped", reason=refused)
            else:
                logger.info("recording goes on")
