"""The loops of the three stages, as systemd and `linescan run` start them: linescan acquire, worker, publisher."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linescan import log
from linescan.errors import CameraLostError
from linescan.flatfield_file import flatfield_of
from linescan.health import Health
from linescan.journal import Journal
from linescan.journal.orders import OrderBook
from linescan.line import Line
from linescan.metrics import exported
from linescan.stages.acquire import Acquire, check_camera, wait_registered
from linescan.stages.publisher import Publisher
from linescan.transport.keys import load_keys
from linescan.transport.zeromq import ZmqNetwork

if TYPE_CHECKING:
    from linescan.cameras.genicam import GenicamCamera
    from linescan.plc.link import PlcLink

PLC_PATIENCE_S = 2.0  # for its first answer, at the start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_argument(parser)
    parser.add_argument("--camera", metavar="NAME", help="which camera of the line (default: the only one)")
    parser.set_defaults(run=lambda args: STAGES[args.command](args))


def add_line_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="line.toml", help="the line")


@contextmanager
def network_of(line: Line) -> Iterator[ZmqNetwork]:
    folder = line.settings.transport.keys
    network = ZmqNetwork(load_keys(line.file(folder)) if folder is not None else None)
    try:
        yield network
    finally:
        network.close()


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT within set the event: the stage drains."""
    stop = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def run_acquire(args: argparse.Namespace) -> int:
    # the camera library is loaded by the one stage that needs it
    from linescan.cameras.camera import BufferPool
    from linescan.cameras.genicam import GenicamCamera

    line, health = Line(args.config), Health()
    settings = line.camera(args.camera)
    logger = log.configure("acquire", settings.name)
    with network_of(line) as network, exported(line, "acquire", settings.name) as metrics:
        camera = GenicamCamera(settings, line.file(settings.producer), BufferPool())
        check_camera(line, camera)
        check_flatfield(line, settings.name, camera)
        with stopped_by_signal() as stop:  # after the camera's library, which sets a handler of its own
            try:
                acquire = Acquire(line, settings, camera, network, metrics=metrics)
                if not wait_registered(acquire, stop.is_set):
                    return 0
                acquire.begin()
                health.ready(f"acquiring {camera.columns} columns of {camera.pixel_format}")
                logger.info("acquiring", columns=camera.columns, pixel_format=camera.pixel_format)
                _acquire_until(acquire, stop, health, logger, line.settings.transport.drain_s)
            finally:
                camera.close()
    return 0


def check_flatfield(line: Line, name: str, camera: GenicamCamera) -> None:
    """Raises ConfigError where the line's flat-field was made under another camera than the one that was found."""
    flatfield = flatfield_of(line, name)
    if flatfield is not None:
        flatfield.check(f"camera {name}", camera.serial, camera.columns, camera.pixel_format)


def _acquire_until(acquire: Acquire, stop: threading.Event, health: Health, logger: Any, drain_s: float) -> None:
    cause: Literal["shutdown", "camera-lost"] = "shutdown"
    lost: CameraLostError | None = None
    try:
        while not stop.is_set():
            acquire.turn()
            health.turn()
            health.status(f"{acquire.lines} lines")
    except CameraLostError as error:
        lost, cause = error, "camera-lost"
        logger.error("camera lost", reason=str(error))
    else:
        health.stopping()
    drained = acquire.drain(cause, time.monotonic_ns() + int(drain_s * 1e9), health.turn)
    logger.info("stopped", drained=drained, lines=acquire.lines)
    if lost is not None:
        raise lost


def run_worker(args: argparse.Namespace) -> int:
    # torch is loaded by the one stage that needs it
    from linescan.stages.engine import Engine
    from linescan.stages.worker import Worker

    line, health = Line(args.config), Health()
    camera = line.camera(args.camera).name
    logger = log.configure("worker", camera)
    with (
        network_of(line) as network,
        exported(line, "worker", camera) as metrics,
        stopped_by_signal() as stop,
    ):
        make_engine = partial(Engine, line, camera)
        worker = Worker(
            line, camera, network, make_engine, name=f"worker-{os.getpid()}", metrics=metrics, alive=health.turn
        )
        ready = False
        while not stop.is_set():
            worker.turn()
            if worker.ready and not ready:
                ready = True
                health.ready("the model is warm")
                logger.info("ready")
            health.turn(worker.frame_since_ns)
            health.status(worker.state.value)
        health.stopping()
        settled = _settle(worker, line.settings.transport.drain_s)
        logger.info("stopped", settled=settled)
    return 0


def _settle(worker: Any, drain_s: float) -> bool:
    """Waits until the publisher has what was found; what it lacks then, a successor finds again."""
    end = time.monotonic() + drain_s
    while not worker.settled and time.monotonic() < end:
        worker.flush()
    return bool(worker.settled)


@contextmanager
def _gates_of(line: Line) -> Iterator[tuple[OrderBook | None, PlcLink | None]]:
    """The book of orders and the link to the PLC, of a line that has them."""
    if line.settings.rejects is None:
        yield None, None
        return
    journal = line.file(line.settings.journal.file)
    with OrderBook(journal.with_name(f"{journal.name}.orders")) as book:
        if line.settings.plc is None:
            yield book, None
            return
        from linescan.plc.modbus import ModbusLink  # its library is needed with a PLC alone

        with closing(ModbusLink(line.settings.plc)) as link:
            until = time.monotonic() + PLC_PATIENCE_S
            while link.view().position is None and time.monotonic() < until:
                time.sleep(0.01)  # what is found before the web's position is known counts as late
            yield book, link


def run_publisher(args: argparse.Namespace) -> int:
    line, health = Line(args.config), Health()
    logger = log.configure("publisher")
    with (
        network_of(line) as network,
        exported(line, "publisher") as metrics,
        Journal(line.file(line.settings.journal.file), line.settings.journal) as journal,
        _gates_of(line) as (book, link),
    ):
        publisher = Publisher(line, journal, network, metrics=metrics, book=book, link=link)
        with stopped_by_signal() as stop:
            health.ready(f"journal {journal.run} at {journal.last}")
            logger.info("publishing", run=journal.run, last=journal.last)
            faults: tuple[str, ...] = ()
            while not stop.is_set():
                publisher.turn()
                if publisher.faults != faults:
                    faults = publisher.faults
                    logger.warning("faults", faults=list(faults))
                health.turn()
                health.status(", ".join(publisher.faults) or f"{journal.last} events")
            health.stopping()
            publisher.close()
            logger.info("stopped", last=journal.last)
    return 0


STAGES = {"acquire": run_acquire, "worker": run_worker, "publisher": run_publisher}
