"""What a stage measures of itself, for Prometheus: one exporter a process, off unless line.toml has [metrics].

    linescan_step_seconds{stage, camera, step}     histograms of what each step takes
    linescan_<counter>_total{stage, camera}        the counters of the stage's Status; without _total those in GAUGES
    linescan_state{…, state}, linescan_fault{…, fault}     1 for the state that it is in, and for each fault

The stages get a Meter; NO_METRICS costs them a call that does nothing, and prometheus_client is not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from linescan.errors import PeerError
from linescan.line import Line
from linescan.messages import Status

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Stage = Literal["acquire", "worker", "publisher"]
Step = Literal["copy", "hand-over", "wait", "inspect", "event", "commit", "publish"]

STEPS: dict[Stage, dict[Step, str]] = {
    "acquire": {
        "copy": "a frame out of the camera's buffer, until it is kept",
        "hand-over": "from kept to sent",
    },
    "worker": {
        "wait": "from the frame's last line to the begin of its inspection",
        "inspect": "one frame",
        "event": "from the last line that an event needed to the event",
    },
    "publisher": {
        "commit": "a batch into the journal",
        "publish": "from the last line that an event needed to its publication",
    },
}
BUCKETS_S = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10)
GAUGES = frozenset(  # counters of Status that are none
    {
        "retained_bytes",
        "last_sequence",
        "not_durable",
        "brightness_permille",
        "brightness_wanted_permille",
        "leased",
        "orders_pending",
        "orders_undelivered",
    }
)


class Meter(Protocol):
    """What the stages call."""

    def step(self, step: Step, ns: int) -> None:
        """One step took so long; times between stages are of one host's monotonic clock."""
        ...

    def status(self, status: Status) -> None:
        """The stage's newest Status."""
        ...


class _NoMetrics:
    def step(self, step: Step, ns: int) -> None:
        pass

    def status(self, status: Status) -> None:
        pass


NO_METRICS: Meter = _NoMetrics()


class StageMetrics:
    """The figures of one stage, in a registry of their own; `start()` lets Prometheus fetch them."""

    def __init__(self, stage: Stage, camera: str = "") -> None:
        # loaded only where metrics are asked for
        from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        self._labels = {"stage": stage, "camera": camera}
        histogram = Histogram(
            "linescan_step_seconds",
            "; ".join(f"{step}: {what}" for step, what in STEPS[stage].items()),
            ("stage", "camera", "step"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._steps = {step: histogram.labels(**self._labels, step=step) for step in STEPS[stage]}
        self._status: Status | None = None
        ProcessCollector(registry=self.registry)
        self.registry.register(self)  # a Collector by its method

    def step(self, step: Step, ns: int) -> None:
        self._steps[step].observe(ns / 1e9)

    def status(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The Status as Prometheus sees it; called from the exporter's thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status
        if status is None:
            return
        names, values = tuple(self._labels), tuple(self._labels.values())
        for counter, count in status.counters.items():
            kind: Any = GaugeMetricFamily if counter in GAUGES else CounterMetricFamily
            name = "linescan_" + re.sub("[^a-zA-Z0-9_]", "_", counter)
            family = kind(name, f"{counter} of the stage's status", labels=names)
            family.add_metric(values, count)
            yield family
        state = GaugeMetricFamily("linescan_state", "1: the state that it is in", labels=(*names, "state"))
        state.add_metric((*values, status.state), 1)
        yield state
        faults = GaugeMetricFamily("linescan_fault", "1: it has this fault", labels=(*names, "fault"))
        for fault in status.faults:
            faults.add_metric((*values, fault), 1)
        yield faults

    @contextmanager
    def start(self, address: str, port: int) -> Iterator[None]:
        """Serves http://address:port/metrics from a thread; raises PeerError where that cannot be."""
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, address, self.registry)
        except OSError as error:
            raise PeerError(f"metrics: {address}:{port} cannot be served: {error.strerror or error}") from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def port_of(line: Line, stage: Stage, camera: str, first: int) -> int:
    """The rule in `line.Metrics`."""
    if stage == "publisher":
        return first
    number = [one.name for one in line.settings.cameras].index(camera) + 1
    return first + 2 * number - (stage == "acquire")


@contextmanager
def exported(line: Line, stage: Stage, camera: str = "") -> Iterator[Meter]:
    """The stage's Meter, served for as long as it is used; one that does nothing where line.toml has no [metrics].

    Raises PeerError where the port is taken.
    """
    asked = line.settings.metrics
    if asked is None:
        yield NO_METRICS
        return
    metrics = StageMetrics(stage, camera)
    with metrics.start(asked.address, port_of(line, stage, camera, asked.port)):
        yield metrics
