"""What depends on the machine: config/line.toml. What depends on the product is in the recipe (`config.py`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from linescan.config import Geometry, Settings, load_toml
from linescan.errors import ConfigError

Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]  # a part of file and unit names
FeatureValue = bool | int | float | str
TCP = re.compile(r"tcp://([^:/;\s]+|\[[0-9A-Fa-f:.]+\]):([1-9]\d{0,4})")
LOOPBACK = re.compile(r"tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):\d+$")


class Encoder(Settings):
    """The rotary encoder as the camera counts it, one latched count a frame, of its first line."""

    chunk: str = "ChunkEncoderValue"
    latch: str | None = None  # feature that holds the count latched at the last sync pulse, for web.tie = "pulse"
    counts_per_line: Annotated[int, Field(ge=1)] = 1
    bits: Annotated[int, Field(ge=8, le=64)] = 32
    direction: Literal["up", "down"] = "up"  # how it counts while the web runs forward


class CameraSettings(Settings):
    """One camera; `features` are set in the order in which they are written.

    A feature behind a selector is written as the standard (SFNC) writes it: "TriggerMode[LineStart]" = "On".
    """

    name: Name
    producer: str  # a GenTL producer (.cti); relative to line.toml
    serial: str | None = None
    model: str | None = None
    max_line_rate_hz: Annotated[float, Field(gt=0)]
    buffer_s: Annotated[float, Field(ge=0.5, le=60)] = 0.5
    encoder: Encoder | None = None
    features: dict[str, FeatureValue] = Field(default_factory=dict)
    mm_per_column: Annotated[float, Field(gt=0)] | None = None
    x_offset_mm: float = 0.0  # of its column 0 across the web
    y_offset_mm: float = 0.0  # of its line along the web, from the line that gates' distances are measured from
    flatfield: str | None = None  # .npz made by `linescan calibrate flatfield`; relative to line.toml
    brightness_drift: Annotated[float, Field(gt=0, le=1)] = 0.1  # from the flat-field's level, as a share: a fault

    @model_validator(mode="after")
    def _found_by_something(self) -> CameraSettings:
        if self.serial is None and self.model is None:
            raise ValueError("a serial number or a model is needed to find the camera")
        return self


class Transport(Settings):
    """Sockets. Endpoints are ipc under `directory` unless given; TCP beyond loopback needs `keys`."""

    directory: str = "/run/linescan"
    frames: dict[str, str] = Field(default_factory=dict)  # camera → endpoint
    stages: str | None = None  # of the publisher, for acquire and worker
    events: str | None = None  # of the publisher, for subscribers
    backfill: str | None = None
    control: str | None = None
    keys: str | None = None  # folder of CURVE keys, made by `linescan keys`
    lease_s: Annotated[float, Field(ge=0.5, le=300)] = 10.0
    credits: Annotated[int, Field(ge=1, le=64)] = 4
    retain_mib: Annotated[int, Field(ge=1)] = 512  # frames that acquire keeps for a worker that is to come
    drain_s: Annotated[float, Field(ge=1, le=300)] = 20.0


class WorkerSettings(Settings):
    """How the model is run; what is left out is measured at the start."""

    device: Literal["cpu", "cuda", "openvino"] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    batch: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    self_check_s: Annotated[float, Field(ge=1)] = 300.0
    outbox: Annotated[int, Field(ge=16)] = 10_000  # messages not yet acknowledged by the publisher


class JournalSettings(Settings):
    """The event store. Old events go when they are older than `keep_days` or the file is larger than `keep_mib`."""

    file: str = "/var/lib/linescan/journal.sqlite"
    keep_days: Annotated[float, Field(gt=0)] = 90.0
    keep_mib: Annotated[int, Field(ge=1)] = 2048
    commit_ms: Annotated[int, Field(ge=0, le=1000)] = 20
    memory_events: Annotated[int, Field(ge=16, le=10_000)] = 10_000  # kept in memory while the disk is full


class Recording(Settings):
    """Raw frames as MCAP files, rolled by size; frames around regions are kept longer than the rest.

    Every budget is one camera's. `keep_mib` is to be well above transport.retain_mib: a file that goes before its lines
    are inspected cannot keep its regions.
    """

    directory: str
    file_mib: Annotated[int, Field(ge=1)] = 256
    keep_mib: Annotated[int, Field(ge=1)] = 10_240
    keep_regions_mib: Annotated[int, Field(ge=1)] = 10_240
    around_lines: Annotated[int, Field(ge=0)] = 512
    compression: Literal["none", "lz4", "zstd"] = "none"


class Metrics(Settings):
    """Prometheus exporters, one a process.

    The publisher's is at `port`, acquire of the n-th camera (from 1) at `port` + 2n − 1, its worker at `port` + 2n.
    """

    port: Annotated[int, Field(ge=1025, le=65000)]
    address: str = "127.0.0.1"


class Web(Settings):
    """The web's coordinate: counts of one encoder, growing as the web moves on.

    The camera's counter and the PLC's are tied in one of two ways: "shared", they count the same pulses, and the PLC's
    is `offset_counts` ahead; "pulse", both latch their count at a pulse, and the offset is checked at each.
    """

    counts_per_mm: Annotated[float, Field(gt=0)]
    top_speed_mm_s: Annotated[float, Field(gt=0)]
    tie: Literal["shared", "pulse"] = "shared"
    offset_counts: int = 0
    tolerance_mm: Annotated[float, Field(gt=0)] = 1.0  # how far the two counters may drift apart
    border_mm: Annotated[float, Field(ge=0)] = 1.0  # regions of neighbouring cameras this near are one defect
    border_hold_s: Annotated[float, Field(ge=0, le=5)] = 0.3  # how long one at a border waits for the other camera


class Gate(Settings):
    """A lane's rejector: `output` is its bit for the PLC, `distance_mm` from the camera's line, along the web."""

    lane: Name
    output: Annotated[int, Field(ge=0, le=15)]
    distance_mm: Annotated[float, Field(gt=0)]


class Rejects(Settings):
    """How defects become windows at the gates.

    A gate opens `lead_mm` before the defect and closes `lag_mm` behind it, for at least `minimum_mm`; windows nearer
    than `merge_mm` to each other become one. What was not inspected is rejected, stops the line, or is only told.
    """

    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    lead_mm: Annotated[float, Field(ge=0)]
    lag_mm: Annotated[float, Field(ge=0)]
    minimum_mm: Annotated[float, Field(ge=0)] = 0.0
    merge_mm: Annotated[float, Field(ge=0)] = 0.0
    uninspected: Literal["reject", "stop", "warn"] = "reject"
    inspection_s: Annotated[float, Field(gt=0)] = 0.5  # from the last needed line to the order, at worst
    plc_scan_s: Annotated[float, Field(ge=0)] = 0.01
    actuator_s: Annotated[float, Field(ge=0)] = 0.02
    alarm_rejects: Annotated[int, Field(ge=1)] | None = None  # so many within alarm_mm are an alarm
    alarm_mm: Annotated[float, Field(gt=0)] = 1000.0
    repeat_mm: tuple[float, float] | None = None  # circumferences of rollers, from and to: defects at such a period

    @field_validator("gates")
    @classmethod
    def _gates_differ(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        for what in ("lane", "output"):
            values = [getattr(gate, what) for gate in gates]
            if len(set(values)) != len(values):
                raise ValueError(f"no two gates have the same {what}, got {values}")
        return gates


class Plc(Settings):
    """The PLC, a Modbus TCP server; its registers are in docs/plc.md."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 502
    device_id: Annotated[int, Field(ge=0, le=255)] = 1
    base_register: Annotated[int, Field(ge=0, le=60000)] = 0
    word_order: Literal["high-first", "low-first"] = "high-first"
    byte_order: Literal["big", "little"] = "big"
    cycle_s: Annotated[float, Field(gt=0, le=1)] = 0.02
    timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.5


class OpcUa(Settings):
    """What `linescan opcua` serves the line's state and events at; its certificates come from `linescan keys --opcua`.

    Encrypted with certificates unless "none" is asked for: then anybody on this machine reads, and nobody calls.
    """

    endpoint: str = "opc.tcp://127.0.0.1:4840"
    security: Literal["sign-and-encrypt", "none"] = "sign-and-encrypt"
    certificates: str | None = None  # the folder, relative to line.toml

    @field_validator("endpoint")
    @classmethod
    def _an_address(cls, endpoint: str) -> str:
        tcp = TCP.fullmatch(endpoint.removeprefix("opc."))
        if not endpoint.startswith("opc.tcp://") or tcp is None or int(tcp[2]) > 65535:
            raise ValueError("opc.tcp://address:port expected")
        return endpoint

    @model_validator(mode="after")
    def _open_only_here(self) -> OpcUa:
        if self.security == "none" and not LOOPBACK.fullmatch(self.endpoint.removeprefix("opc.")):
            raise ValueError('security = "none" is for loopback endpoints alone')
        if self.security != "none" and self.certificates is None:
            raise ValueError("certificates = … is needed, a folder made by `linescan keys --opcua`")
        return self


class Mqtt(Settings):
    """The broker that `linescan mqtt` tells events and states to.

    With `ca` the connection is encrypted and the broker's certificate is checked against that file; `password_file`
    (mode 0600, or a systemd credential of its name) is not sent unencrypted to another machine.
    """

    broker: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    prefix: Annotated[str, Field(pattern="^[^+#$/][^+#]*$")] | None = None  # of all topics; linescan/NAME of the line
    client: Name | None = None  # how the broker knows it: linescan-NAME of the line
    ca: str | None = None  # relative to line.toml, as the next
    password_file: str | None = None
    user: str | None = None
    keepalive_s: Annotated[int, Field(ge=2, le=600)] = 15
    sent: str = "/var/lib/linescan/mqtt/sent.json"  # how far the broker has acknowledged

    @model_validator(mode="after")
    def _password_is_kept(self) -> Mqtt:
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file needs user")
        if self.password_file is not None and self.ca is None and not LOOPBACK.fullmatch(f"tcp://{self.broker}:1"):
            raise ValueError("a password for a broker on another machine needs ca: it would be sent for all to read")
        return self


class LineSettings(Settings):
    """A line: config/line.toml."""

    name: Name = "line"
    recipe: str  # relative to line.toml
    rolls: Literal["at-start", "commanded"] = "at-start"  # whether a roll begins by itself when the line starts
    cameras: Annotated[tuple[CameraSettings, ...], Field(min_length=1)]
    transport: Transport = Transport()
    worker: WorkerSettings = WorkerSettings()
    journal: JournalSettings = JournalSettings()
    status_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    recording: Recording | None = None
    metrics: Metrics | None = None
    web: Web | None = None
    rejects: Rejects | None = None
    plc: Plc | None = None
    opcua: OpcUa | None = None
    mqtt: Mqtt | None = None

    @field_validator("cameras")
    @classmethod
    def _names_differ(cls, cameras: tuple[CameraSettings, ...]) -> tuple[CameraSettings, ...]:
        names = [camera.name for camera in cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"each camera needs a name of its own, got {names}")
        return cameras

    @model_validator(mode="after")
    def _rejects_are_whole(self) -> LineSettings:
        if self.plc is not None and self.rejects is None:
            raise ValueError("[plc] needs [rejects]: which gates there are, and where")
        if self.rejects is not None and self.web is None:
            raise ValueError("[rejects] needs [web]: the encoder's counts for a millimetre")
        for camera in self.cameras if self.rejects is not None else ():
            if camera.encoder is None or camera.mm_per_column is None:
                raise ValueError(f"[rejects] needs cameras.{camera.name}.encoder and .mm_per_column")
            if self.web is not None and self.web.tie == "pulse" and camera.encoder.latch is None:
                raise ValueError(f'web.tie = "pulse" needs cameras.{camera.name}.encoder.latch')
        return self

    @model_validator(mode="after")
    def _open_tcp_refused(self) -> LineSettings:
        transport = self.transport
        endpoints = [*transport.frames.values(), transport.stages, transport.events, transport.backfill,
                     transport.control]  # fmt: skip
        for endpoint in filter(None, endpoints):
            if not endpoint.startswith(("ipc://", "tcp://")):
                raise ValueError(f"endpoint {endpoint!r}: ipc://… or tcp://… expected")
            tcp = TCP.fullmatch(endpoint)
            if endpoint.startswith("tcp://") and (tcp is None or int(tcp[2]) > 65535):  # ZeroMQ takes 99999 for 34463
                raise ValueError(f"endpoint {endpoint!r}: tcp://address:port expected")
            if endpoint.startswith("tcp://") and not LOOPBACK.fullmatch(endpoint) and transport.keys is None:
                raise ValueError(f"endpoint {endpoint}: TCP beyond loopback needs transport.keys (`linescan keys`)")
        return self


class Line:
    """A loaded line.toml; paths in it are relative to its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = load_toml(path, LineSettings)
        unknown = self.settings.transport.frames.keys() - {camera.name for camera in self.settings.cameras}
        if unknown:
            raise ConfigError(f"{path}: transport.frames: no camera is called {min(unknown)!r}")

    def camera(self, name: str | None) -> CameraSettings:
        """The camera of that name, or the only one; raises ConfigError."""
        cameras = self.settings.cameras
        if name is None and len(cameras) == 1:
            return cameras[0]
        for camera in cameras:
            if camera.name == name:
                return camera
        names = ", ".join(camera.name for camera in cameras)
        asked = "--camera is needed" if name is None else f"--camera {name}: no such camera"
        raise ConfigError(f"{self.path}: {asked}; there are: {names}")

    def file(self, name: str) -> Path:
        """A path written in line.toml."""
        return self.path.parent / name

    def geometry(self, camera: str) -> Geometry:
        """How that camera's pixels lie on the web, as far as line.toml says."""
        one, web = self.camera(camera), self.settings.web
        mm_per_line = one.encoder.counts_per_line / web.counts_per_mm if one.encoder and web else None
        return Geometry(mm_per_column=one.mm_per_column, x_offset_mm=one.x_offset_mm, mm_per_line=mm_per_line)

    def width(self, camera: str) -> int | None:
        """Columns of that camera where line.toml sets them, else None: then its roll's start tells."""
        width = self.camera(camera).features.get("Width")
        return width if isinstance(width, int) else None

    @property
    def recipe(self) -> str:
        """Name of the recipe of rolls that are given none."""
        return self.file(self.settings.recipe).stem

    def recipes(self) -> dict[str, Path]:
        """The recipes that the line can be switched to: name → file, those in the folder of its own."""
        own = self.file(self.settings.recipe)
        found = {path.stem: path for path in sorted(own.parent.glob("*.toml")) if path.resolve() != self.path.resolve()}
        return {**found, own.stem: own}

    def recipe_file(self, name: str) -> Path:
        """The file of that recipe; raises ConfigError."""
        found = self.recipes()
        if name not in found:
            folder = self.file(self.settings.recipe).parent.absolute()
            raise ConfigError(f"{folder}: there is no recipe {name!r}; there are: {', '.join(sorted(found))}")
        return found[name]

    def frames_endpoint(self, camera: str) -> str:
        given = self.settings.transport.frames.get(camera)
        return given or self._ipc("private", f"frames-{camera}")

    @property
    def stages_endpoint(self) -> str:
        return self.settings.transport.stages or self._ipc("private", "stages")

    @property
    def events_endpoint(self) -> str:
        return self.settings.transport.events or self._ipc("public", "events")

    @property
    def backfill_endpoint(self) -> str:
        return self.settings.transport.backfill or self._ipc("public", "backfill")

    @property
    def control_endpoint(self) -> str:
        return self.settings.transport.control or self._ipc("control", "control")

    def _ipc(self, folder: str, name: str) -> str:
        return f"ipc://{self.file(self.settings.transport.directory).absolute()}/{folder}/{name}"
