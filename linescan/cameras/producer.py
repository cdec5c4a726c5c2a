"""Devices behind GenTL producers (.cti): the one module that imports harvesters and genicam."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from linescan.errors import CameraError

with warnings.catch_warnings():  # harvesters sets a filter for the whole process, and SWIG's types warn
    warnings.simplefilter("ignore")
    from genicam import genapi, gentl
    from harvesters.core import Callback, Harvester, ParameterKey, ParameterSet

__all__ = ["GENICAM_ERRORS", "Chunks", "Device", "brief", "genapi", "gentl"]

GENICAM_ERRORS = (gentl.GenericException, genapi.GenericException)
# A poll of what is there. Shorter than the clock's step (0.24 µs as a float), every second call would return unasked.
POLL_S = 1e-6
LAST_POLL_S = 0.02  # after a stop nothing more comes: a call that was held up for so long before it asked is rare
CLOSE_S = 5.0

logging.getLogger("harvesters.core").setLevel(logging.CRITICAL)  # what it logs is raised or counted here as well


@dataclass
class _Loaded:
    harvester: Any
    devices: int = 0


_loaded: dict[Path, _Loaded] = {}  # one Harvester for each producer: a second one would close the first one's devices
_abandoned: list[Any] = []  # acquirers that did not come down: their producer may still write into their buffers


class _IncompleteCounter(Callback):  # type: ignore[misc]
    """Counts the incomplete buffers, which harvesters queues again unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, context: object = None) -> None:
        self.count += 1


class Device:
    """An opened device; every call but open and close is short, since the libraries hold the GIL while they wait.

    Raises CameraError where the producer is none, or the device is not there, not the only one, or in use.
    """

    def __init__(self, producer: Path, serial: str | None, model: str | None) -> None:
        self._producer = producer.resolve()
        self._closed = False
        self._incomplete = _IncompleteCounter()
        self._poll_s = POLL_S
        loaded = _load(self._producer)
        try:
            found = _find(loaded.harvester, self._producer, serial, model)
            self.acquirer = _create(loaded.harvester, found)
        except BaseException:
            if loaded.devices == 0:
                _unload(self._producer)
            raise
        loaded.devices += 1
        self.acquirer.add_callback(self.acquirer.Events.INCOMPLETE_BUFFER, self._incomplete)
        self.nodes = self.acquirer.remote_device.node_map
        self.transport: str = self.acquirer.device.tl_type
        self.serial = found.property_dict.get("serial_number") or None

    def payload_bytes(self) -> int:
        """Bytes of a buffer."""
        stream = self.acquirer.data_streams[0]
        return int(stream.payload_size if stream.defines_payload_size() else self.nodes.PayloadSize.value)

    def start(self, buffers: int) -> None:
        self.acquirer.num_buffers = max(buffers, self.acquirer.min_num_buffers)
        self.acquirer.start()

    def stop(self) -> None:
        """Stops the camera alone: what it delivered before can still be fetched."""
        self._poll_s = LAST_POLL_S
        self.nodes.AcquisitionStop.execute()

    def fetch(self) -> tuple[Any | None, int]:
        """The next complete buffer, to be given back by `queue`, and the number of incomplete ones dropped."""
        before = self._incomplete.count
        buffer = self.acquirer.try_fetch(timeout=self._poll_s, is_raw=True)
        return buffer, self._incomplete.count - before

    @staticmethod
    def queue(buffer: Any) -> None:
        """Gives a buffer back as it is: clearing it, the library's default, costs half as much as copying it out."""
        buffer.parent.queue_buffer(buffer, False)

    def close(self) -> None:
        """Takes everything down, step by step, whatever fails; no step begins more than CLOSE_S seconds later.

        A call of the producer that never comes back cannot be ended from here: that is the watchdog's.
        """
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + CLOSE_S
        for step in self._steps():
            if time.monotonic() > until:
                break
            _attempt(step)
        self.acquirer._finalizer.detach()  # it would tear down once more while the interpreter ends
        if self.acquirer.is_valid():
            _abandoned.append(self.acquirer)
        loaded = _loaded[self._producer]
        loaded.devices -= 1
        if self.acquirer in loaded.harvester.image_acquirers:
            loaded.harvester.image_acquirers.remove(self.acquirer)
        if loaded.devices == 0:
            _unload(self._producer, until)

    def _steps(self) -> Iterator[Callable[[], Any]]:
        acquirer, streams = self.acquirer, list(self.acquirer.data_streams)
        yield acquirer.stop
        yield acquirer.destroy
        if not acquirer.is_valid():
            return
        for stream in streams:  # destroy() gave up at the first thing that failed
            yield partial(stream.stop_acquisition, gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL)
            yield partial(stream.flush_buffer_queue, gentl.ACQ_QUEUE_TYPE_LIST.ACQ_QUEUE_ALL_DISCARD)
        yield acquirer.destroy
        if not acquirer.is_valid():
            return
        for stream in streams:
            yield stream.close
        yield self.nodes.disconnect
        yield acquirer.device.close


class Chunks:
    """Makes the chunks of a buffer readable in the device's nodes, until the buffer is queued again.

    The whole layout is taken anew from each buffer, which costs 0.1 ms: a partial frame's differs.
    """

    def __init__(self, device: Device) -> None:
        kinds = {"GEV": genapi.ChunkAdapterGEV, "U3V": genapi.ChunkAdapterU3V}
        self._trailers = device.transport in kinds  # after each chunk, as these two transports send them
        self._adapter = kinds.get(device.transport, genapi.ChunkAdapterGeneric)(device.nodes)

    def attach(self, buffer: Any) -> None:
        if not self._trailers:
            self._adapter.attach_buffer(buffer.raw_buffer, buffer.chunk_data_info_list)
            return
        try:
            size = buffer.delivered_chunk_payload_size
        except gentl.GenericException:
            size = buffer.size_filled
        self._adapter.attach_buffer(buffer.raw_buffer, size)

    def close(self) -> None:
        self._adapter._finalizer.detach()  # it would come when the nodes are gone
        _attempt(self._adapter.detach_buffer)
        _attempt(self._adapter.detach_node_map)


def _attempt(step: Callable[[], Any]) -> None:
    # of two libraries and a vendor's code, after a cable was pulled: anything
    with contextlib.suppress(Exception):
        step()


def _load(path: Path) -> _Loaded:
    if path not in _loaded:
        _check_is_producer(path)
        harvester = Harvester()
        harvester.add_file(str(path))
        harvester.update()  # only here: an update closes the devices that are open
        _loaded[path] = _Loaded(harvester)
    return _loaded[path]


def _unload(path: Path, until: float = math.inf) -> None:
    harvester = _loaded.pop(path).harvester
    if time.monotonic() < until:
        _attempt(harvester.reset)
    else:
        harvester._finalizer.detach()


def _check_is_producer(path: Path) -> None:
    """Harvester swallows what goes wrong here."""
    if not path.is_file():
        raise CameraError(f"{path}: no such GenTL producer")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise CameraError(f"{path}: not a GenTL producer that can be loaded: {error}") from error
    if not hasattr(library, "GCInitLib"):
        raise CameraError(f"{path}: not a GenTL producer: it has no function GCInitLib")


def _find(harvester: Any, path: Path, serial: str | None, model: str | None) -> Any:
    wanted = {"serial_number": serial, "model": model}
    devices = harvester.device_info_list
    found = [
        device
        for device in devices
        if all(value is None or device.property_dict.get(key) == value for key, value in wanted.items())
    ]
    if len(found) == 1:
        return found[0]
    asked = " and ".join(f"{key} {value!r}" for key, value in (("serial", serial), ("model", model)) if value)
    count = "no device" if not found else f"{len(found)} devices, one expected,"
    there = "; ".join(
        f"{info.get('vendor')} {info.get('model')}, serial {info.get('serial_number')!r}"
        for info in (device.property_dict for device in devices)
    )
    raise CameraError(f"{path}: {count} with {asked}; there are: {there or 'none'}")


def _create(harvester: Any, found: Any) -> Any:
    parameters = ParameterSet(
        {
            ParameterKey.TIMEOUT_PERIOD_ON_UPDATE_EVENT_DATA_CALL: 0,
            ParameterKey.ENABLE_AUTO_CHUNK_DATA_UPDATE: False,
        }
    )
    with _signal_handlers_kept():
        try:
            return harvester.create(found, config=parameters)
        except (*GENICAM_ERRORS, ValueError, IndexError, NotImplementedError, OSError) as error:
            serial = found.property_dict.get("serial_number")
            raise CameraError(f"serial {serial!r} cannot be opened (is it in use?): {brief(error)}") from error


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Creating an acquirer in the main thread takes SIGINT over."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if current_thread() is main_thread() and before is not None:
            signal.signal(signal.SIGINT, before)


def brief(error: BaseException) -> str:
    """What an exception says first, its type where it says nothing; not where in GenApi's C++ it was thrown."""
    text = str(error).strip().partition("\n")[0].partition(" : ")[0]
    return text or type(error).__name__
