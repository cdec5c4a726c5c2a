"""The GenICam camera: pixels out of buffers, lost frames, features, and whole cameras behind real GenTL producers."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from linescan.cameras import exposure_time
from linescan.cameras.camera import BufferPool, Lines, LinesLost
from linescan.cameras.exposure_time import ExposureTime
from linescan.cameras.frame_ids import FrameIds
from linescan.cameras.layout import NAMES, Layout
from linescan.errors import CameraError, CameraLostError
from linescan.line import CameraSettings

genicam = pytest.importorskip("genicam", reason="the GenICam packages are not installed")
from linescan.cameras.features import set_features  # noqa: E402
from linescan.cameras.genicam import GenicamCamera  # noqa: E402

ROOT = Path(__file__).parent.parent
VIKY = Path(genicam.__file__).parent / "viky.cti"
BITS = {"Mono8": 8, "Mono10": 16, "Mono12": 16, "Mono16": 16, "RGB8": 24, "Mono12p": 12}

# ------------------------------------------------------------------------------------------------ pixels


def stream_of_bits(name: str, values: list[int]) -> bytes:
    """PFNC: pixels follow one another from the least significant bit on, as one number."""
    bits = 8 if name == "RGB8" else BITS[name]
    whole = sum(value << bits * index for index, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * bits // 8), "little")


def drawn(name: str, lines: int, columns: int) -> NDArray[Any]:
    shape = (lines, columns, 3) if name == "RGB8" else (lines, columns)
    top = 1 << {"Mono10": 10, "Mono12": 12, "Mono12p": 12, "Mono16": 16}.get(name, 8)
    values = np.random.default_rng(lines * columns).integers(0, top, shape)
    return values.astype(np.uint8 if top == 256 else np.uint16)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("lines", [1, 2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_copied_out_of_a_buffer(name: str, lines: int, columns: int) -> None:
    pixels = drawn(name, lines, columns)
    raw = b"\xaa" * 5 + stream_of_bits(name, pixels.ravel().tolist()) + b"\xbb" * 7
    layout = Layout(name, columns)
    assert layout.image_bytes(lines) == len(raw) - 12
    copied = layout.copy(raw, 5, lines, 0, BufferPool())
    assert copied.dtype == pixels.dtype
    assert np.array_equal(copied, pixels)


@pytest.mark.parametrize("name", NAMES)
def test_padding_between_lines_is_left_out(name: str) -> None:
    pixels = drawn(name, 4, 9)
    lines = [stream_of_bits(name, line.ravel().tolist()) for line in pixels]
    layout, raw = Layout(name, 9), (b"\xcc" * 3).join(lines)  # none behind the last line
    assert layout.image_bytes(4, 3) == len(raw)
    assert np.array_equal(layout.copy(raw, 0, 4, 3, BufferPool()), pixels)


def test_packed_pixels_beyond_one_block() -> None:
    pixels = drawn("Mono12p", 3, 70_001)
    bits = pixels.ravel()[:, None] >> np.arange(12) & 1
    raw = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    assert np.array_equal(Layout("Mono12p", 70_001).copy(raw, 0, 3, 0, BufferPool()), pixels)


def test_pixels_are_nobody_elses_until_they_are_let_go() -> None:
    layout, pool = Layout("Mono8", 4), BufferPool()
    first = layout.copy(b"\x01" * 8, 0, 2, 0, pool)
    second = layout.copy(b"\x02" * 8, 0, 2, 0, pool)
    assert first.max() == 1
    assert not np.shares_memory(first, second)


# ------------------------------------------------------------------------------------------------ lost frames


@pytest.mark.parametrize(
    ("gige", "ids", "missing"),
    [
        (False, [0, 1, 2], [0, 0, 0]),
        (True, [1, 2, 3], [0, 0, 0]),
        (False, [17, 18, 21], [0, 0, 2]),  # what came before the first one is not knowable
        (True, [65534, 65535, 1, 2], [0, 0, 0, 0]),
        (True, [65534, 2], [0, 2]),
        (False, [65534, 65535, 0, 1], [0, 0, 0, 0]),
        (False, [65534, 1], [0, 2]),
        (True, [0, 1, 65535, 1], [0, 0, 65533, 0]),  # begins with 0, and skips it afterwards
        (True, [0, 1, 65535, 0], [0, 0, 65533, 0]),
        (False, [65535, 65536, 65537], [0, 0, 0]),
        (False, [2**32 - 1, 0, 2], [0, 0, 1]),
        (False, [2**32 - 1, 2**32, 2**40], [0, 0, 2**40 - 2**32 - 1]),
    ],
)
def test_frames_missing_between_ids(gige: bool, ids: list[int], missing: list[int]) -> None:
    frames = FrameIds(skips_zero=gige)
    assert [frames.missing(frame_id) for frame_id in ids] == missing


def test_frames_known_to_be_incomplete_are_not_missing_as_well() -> None:
    frames = FrameIds(skips_zero=False)
    frames.announce(1)  # before the first that came
    assert frames.missing(5) == 0
    frames.announce(2)
    assert frames.missing(10) == 2  # 6 to 9, of which two were announced
    assert frames.missing(13) == 2  # and are counted once
    frames.announce(3)
    assert frames.missing(14) == 0


@pytest.mark.parametrize("ids", [(500, 1), (500, 500), (2**40, 3)])
def test_ids_that_begin_anew_are_a_lost_camera(ids: tuple[int, int]) -> None:
    frames = FrameIds(skips_zero=True)
    frames.missing(ids[0])
    with pytest.raises(CameraLostError, match=f"frame id {ids[1]} after {ids[0]}"):
        frames.missing(ids[1])


# ------------------------------------------------------------------------------------------------ time

NOW, UTC, MS = 50 * 10**9, 1_700_000_000 * 10**9, 10**6


@pytest.mark.parametrize(
    ("timestamp", "age_ms"),
    [
        (None, 100),  # 100 lines at 1 kHz
        (NOW - 130 * MS, 130),  # by the host's monotonic clock
        (UTC - 120 * MS, 120),  # by a clock that follows UTC
        (7 * 10**9, 100),  # the camera's own clock
        (NOW + 5 * MS, 100),
    ],
)
def test_time_of_the_first_line(monkeypatch: pytest.MonkeyPatch, timestamp: int | None, age_ms: int) -> None:
    monkeypatch.setattr(exposure_time.time, "monotonic_ns", lambda: NOW)
    monkeypatch.setattr(exposure_time.time, "time_ns", lambda: UTC)
    assert ExposureTime(1000.0).of_first_line(timestamp, 100) == (NOW - age_ms * MS, UTC - age_ms * MS)


def test_a_frame_that_waited_keeps_the_clock_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure_time.time, "monotonic_ns", lambda: NOW)
    first_line = ExposureTime(1000.0)
    assert first_line.of_first_line(NOW - 130 * MS, 100)[0] == NOW - 130 * MS
    assert first_line.of_first_line(NOW - 9000 * MS, 100)[0] == NOW - 9000 * MS
    assert first_line.of_first_line(NOW + 1, 100)[0] == NOW  # never later than it arrived


@pytest.mark.parametrize("step_s", [3600, -3600, 2, -2])
def test_utc_that_is_set_does_not_reach_monotonic_times(monkeypatch: pytest.MonkeyPatch, step_s: int) -> None:
    """The length of a gap is reckoned with them."""
    monkeypatch.setattr(exposure_time.time, "monotonic_ns", lambda: NOW)
    monkeypatch.setattr(exposure_time.time, "time_ns", lambda: UTC)
    first_line = ExposureTime(1000.0)
    assert first_line.of_first_line(UTC - 120 * MS, 100)[0] == NOW - 120 * MS
    stepped = UTC + step_s * 10**9
    monkeypatch.setattr(exposure_time.time, "time_ns", lambda: stepped)
    assert first_line.of_first_line(UTC - 120 * MS, 100) == (NOW - 100 * MS, stepped - 100 * MS)
    assert first_line.of_first_line(stepped - 120 * MS, 100)[0] == NOW - 120 * MS  # the camera follows


# ------------------------------------------------------------------------------------------------ a foreign camera


def viky(**changed: Any) -> GenicamCamera:
    given: dict[str, Any] = {
        "name": "side", "producer": "viky.cti", "serial": "1", "max_line_rate_hz": 40_000,
        "features": {"PixelFormat[Intensity]": "Mono8", "Height": 200},
    }  # fmt: skip
    if not VIKY.exists():
        pytest.skip("this genicam package has no viky.cti")
    return GenicamCamera(CameraSettings(**given | changed), VIKY, BufferPool())


def next_of(camera: GenicamCamera, timeout_s: float = 5.0) -> Lines | LinesLost:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        came = camera.read()
        if came is not None:
            return came
        time.sleep(0.0005)
    raise AssertionError(f"nothing came in {timeout_s} s")


def test_viky_delivers_lines() -> None:
    camera = viky()
    try:
        assert (camera.columns, camera.frame_lines, camera.pixel_format) == (400, 200, "Mono8")
        assert camera.line_rate_hz is None
        camera.start()
        camera.check()
        came = [next_of(camera) for _ in range(5)]
    finally:
        camera.close()
    camera.close()  # a second time does nothing
    for lines in came:
        assert isinstance(lines, Lines)
        assert lines.pixels.shape == (200, 400)
        assert lines.pixels.any()
        assert 0 < time.monotonic_ns() - lines.monotonic_ns < 5e9


def test_two_cameras_of_one_producer_share_a_process() -> None:
    first = viky(serial="0")
    second = viky(serial="1")
    try:
        first.start()
        second.start()
        assert isinstance(next_of(first), Lines)
        first.close()
        assert isinstance(next_of(second), Lines)
        with pytest.raises(CameraError, match="serial '1' cannot be opened"):
            viky(serial="1")
        assert isinstance(next_of(second), Lines)
    finally:
        first.close()
        second.close()


def test_the_interrupt_handler_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    viky().close()
    assert signal.getsignal(signal.SIGINT) is before


def test_importing_leaves_the_warning_filters_alone() -> None:
    code = (
        "import warnings, numpy, pydantic; before = list(warnings.filters); import linescan.cameras.genicam; "
        "print(warnings.filters == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({"Hight": 200}, ["Hight = 200", "no such feature", "Height"]),
        ({"Width": 3.5}, ["Width = 3.5", "100 to 800 in steps of 1"]),
        ({"Width": True}, ["Width = True", "100 to 800"]),
        ({"Width": 99}, ["Width = 99", "100 to 800"]),
        ({"Width": 10**30}, [f"Width = {10**30}", "100 to 800"]),
        ({"PixelFormat": "Mono9"}, ["PixelFormat = 'Mono9'", "RGBa8, Mono8"]),
        ({"PixelFormat": "RGBa8"}, ["PixelFormat is RGBa8", "Mono8", "Mono12p", "RGB8"]),
        ({"PixelFormat[Left]": "Mono8"}, ["PixelFormat[Left] = 'Mono8'", "ComponentSelector", "Intensity, Range"]),
        ({"Width[Left]": 400}, ["Width[Left] = 400", "no selector"]),
        ({"AcquisitionFrameRate": 1e9}, ["AcquisitionFrameRate = 1000000000.0", "1 to 200 Hz"]),
        ({"AcquisitionFrameRate": "fast"}, ["AcquisitionFrameRate = 'fast'", "1 to 200 Hz"]),
        ({"AcquisitionStop": False}, ["AcquisitionStop = False", "command"]),
        ({"ChunkModeActive": 1}, ["ChunkModeActive = 1", "true or false"]),
        ({"PayloadSize": 3}, ["PayloadSize = 3", "can only be read"]),
        ({"ChunkNrBounces": 1}, ["ChunkNrBounces = 1", "not available"]),
        ({"Image Format": 1}, ["Image Format = 1", "Feature[Selector]"]),
    ],
)
def test_refused_features_say_what_is_allowed(features: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(CameraError) as refused:
        viky(features=features)
    for text in ["camera side", *told]:
        assert text in str(refused.value)


def test_features_are_set_in_order_and_a_fixed_one_may_be_written_as_it_is() -> None:
    camera = viky(
        features={
            "PixelFormat[Intensity]": "Mono8",
            "AcquisitionMode": "Continuous",
            "Width": 640,
            "AcquisitionFrameRate": 33,
        }
    )
    assert camera.columns == 640
    camera.close()


CHUNKLESS = {"encoder": {"chunk": "ChunkNrBounces"}, "features": {"PixelFormat": "Mono8", "ChunkModeActive": False}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"serial": "77"}, ["no device with serial '77'", "serial '0'", "serial '2'"]),
        ({"serial": None, "model": "Vicky"}, ["no device with model 'Vicky'", "Viky"]),
        ({"serial": None, "model": "Viky"}, ["3 devices, one expected", "serial '2'"]),
        ({"encoder": {"chunk": "ChunkEncoder"}}, ["it has no ChunkEncoder"]),
        (CHUNKLESS, ["does not send ChunkNrBounces", "ChunkEnable[NrBounces]"]),
    ],
)
def test_refused_cameras_say_what_is_there(changed: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(CameraError) as refused:
        viky(**changed)
    for text in ["camera side", *told]:
        assert text in str(refused.value)


def test_a_file_that_is_no_producer(tmp_path: Path) -> None:
    settings = CameraSettings(name="side", producer="x", serial="1", max_line_rate_hz=1)
    text = tmp_path / "text.cti"
    text.write_text("no library")
    library = next(Path(genicam.__file__).parent.glob("libLog*.so"))
    for file, told in ((tmp_path / "none.cti", "no such"), (text, "not a GenTL producer"), (library, "GCInitLib")):
        with pytest.raises(CameraError, match=told) as refused:
            GenicamCamera(settings, file, BufferPool())
        assert str(file) in str(refused.value)


# ------------------------------------------------------------------------------------------------ nodes that round


class Rounding(genicam.genapi.IFloat):  # type: ignore[name-defined,misc]
    """A float feature that keeps only multiples of its step."""

    def __init__(self, step: float, tells: bool) -> None:
        self._value, self._step, self._tells = 0.0, step, tells

    value = property(
        lambda self: self._value,
        lambda self, value: setattr(self, "_value", round(value / self._step) * self._step),
    )
    inc, min, max, unit = property(lambda self: self._step), 0.0, 1e6, "Hz"

    def has_inc(self) -> bool:
        return self._tells

    def get_access_mode(self) -> int:
        return int(genicam.genapi.EAccessMode.RW)


class Rounded(genicam.genapi.IInteger):  # type: ignore[name-defined,misc]
    """An integer feature that the camera changes to a multiple of 8 without a word."""

    def __init__(self) -> None:
        self._value = 0

    value = property(lambda self: self._value, lambda self, value: setattr(self, "_value", value // 8 * 8))
    inc, min, max, inc_mode = 1, 0, 4096, None

    def get_access_mode(self) -> int:
        return int(genicam.genapi.EAccessMode.RW)


def set_alone(feature: Any, value: float) -> None:
    set_features("side", SimpleNamespace(has_node=lambda _: True, get_node=lambda _: feature), {"Rate": value})


def test_a_float_may_be_rounded_a_little_and_an_integer_not_at_all() -> None:
    set_alone(Rounding(300.0, tells=False), 40_000.0)  # 39 900: 0.25 % less
    set_alone(Rounding(300.0, tells=True), 500)  # 600, but the camera said that it has steps of 300
    with pytest.raises(CameraError, match=r"Rate = 500: the camera made it 600\.0; allowed: 0 to 1e\+06 Hz"):
        set_alone(Rounding(300.0, tells=False), 500)
    set_alone(Rounded(), 2048)
    with pytest.raises(CameraError, match="Rate = 2047: the camera made it 2040; allowed: 0 to 4096 in steps of 1"):
        set_alone(Rounded(), 2047)


# ------------------------------------------------------------------------------------------------ a simulated line scan

SIMULATOR = ROOT / "tools" / "simulator"
CHUNKS = {"ChunkModeActive": True, "ChunkEnable[EncoderValue]": True, "ChunkEnable[Timestamp]": False}


@pytest.fixture(scope="session")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build the simulated camera with")
    file = tmp_path_factory.mktemp("simulator") / "linescan_sim.cti"
    subprocess.run([SIMULATOR / "build.sh", file], check=True)
    return file


def load_simctl() -> Any:
    specification = importlib.util.spec_from_file_location("simctl", SIMULATOR / "simctl.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["simctl"] = module  # dataclasses look it up
    specification.loader.exec_module(module)
    return module


simctl = load_simctl()


class Bench:
    """Two simulated cameras, and what opens them; what was opened is closed in the end."""

    def __init__(self, producer: Path, folder: Path) -> None:
        self.producer = producer
        self.simulator = simctl.Simulator(folder)
        self.configure()
        self.opened: list[GenicamCamera] = []

    def configure(self, **keys: object) -> None:
        self.simulator.configure(both={"columns": 512, "margin": 32} | keys)

    def open(
        self, *, features: dict[str, Any] | None = None, plain: dict[str, Any] | None = None, **changed: Any
    ) -> GenicamCamera:
        """The first camera; `features` are set beside the usual ones, `plain` ones in their place."""
        given: dict[str, Any] = {
            "name": "top", "producer": "sim", "serial": "SIM0001", "max_line_rate_hz": 10_000, "encoder": {},
            "features": plain or {"Height": 64, "AcquisitionLineRate": 10_000} | CHUNKS | (features or {}),
        }  # fmt: skip
        camera = GenicamCamera(CameraSettings(**given | changed), self.producer, BufferPool())
        self.opened.append(camera)
        return camera


@pytest.fixture
def bench(producer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(producer, tmp_path / "state")
    for name, value in made.simulator.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    for camera in made.opened:
        camera.close()


def watch(camera: GenicamCamera, seconds: float, check_s: float = 3600.0) -> list[Lines | LinesLost]:
    """What comes in that time."""
    came = []
    began = time.monotonic()
    checked = began
    while (now := time.monotonic()) < began + seconds:
        if now > checked + check_s:
            camera.check()
            checked = now
        item = camera.read()
        if item is None:
            time.sleep(0.0005)
        else:
            came.append(item)
    return came


def numbers(lines: Lines, full_scale: int = 255) -> list[int]:
    """The web's line numbers, as the simulator wrote them into the pixels."""
    found: list[int] = simctl.read_margin(lines.pixels, full_scale=full_scale).tolist()
    return found


@pytest.mark.parametrize("layout", ["ImageThenChunks", "ImageAsChunk"])
@pytest.mark.parametrize("transport", ["Custom", "GEV"])
@pytest.mark.parametrize("pixel_format", ["Mono8", "Mono10", "Mono12", "Mono12p", "RGB8"])
def test_every_format_and_chunk_layout(bench: Bench, pixel_format: str, transport: str, layout: str) -> None:
    bench.configure(transport=transport, encoder_start=2**32 - 700)
    camera = bench.open(features={"PixelFormat": pixel_format, "ChunkLayout": layout})
    assert camera.pixel_format == pixel_format.removesuffix("p")
    assert (camera.columns, camera.frame_lines, camera.line_rate_hz) == (512, 64, 10_000)
    camera.start()
    came = [next_of(camera) for _ in range(5)]
    camera.check()
    camera.close()
    for lines, entry in zip(came, bench.simulator.log("SIM0001"), strict=False):
        assert isinstance(lines, Lines)
        assert lines.pixels.shape == (64, 512, 3)[: 3 if pixel_format == "RGB8" else 2]
        assert lines.pixels.dtype == (np.uint8 if pixel_format in {"Mono8", "RGB8"} else np.uint16)
        assert lines.pixels.max() <= simctl.FULL_SCALE[pixel_format]
        assert numbers(lines, simctl.FULL_SCALE[pixel_format]) == list(range(entry.first_line, entry.end_line))
        assert lines.encoder_count == entry.encoder_count  # it wraps on the way
        assert lines.monotonic_ns == entry.monotonic_ns
        assert abs(time.time_ns() - time.monotonic_ns() + lines.monotonic_ns - lines.utc_ns) < 1e9


def test_a_camera_has_the_serial_that_its_producer_gives(bench: Bench) -> None:
    assert bench.open().serial == "SIM0001"
    assert bench.open(serial="SIM0002").serial == "SIM0002"


def test_without_encoder_and_with_a_clock_of_its_own(bench: Bench) -> None:
    bench.configure(timestamp_offset_ns=10**15)
    camera = bench.open(encoder=None, features={"ChunkModeActive": False})
    camera.start()
    lines = next_of(camera)
    assert isinstance(lines, Lines)
    assert lines.encoder_count is None
    camera.close()
    assert -1e6 < lines.monotonic_ns - bench.simulator.log("SIM0001")[0].monotonic_ns < 1e9


@pytest.mark.parametrize(("first_frame_id", "bits"), [(0, 64), (1, 16), (65_520, 16)])
def test_every_line_is_delivered_or_lost(bench: Bench, first_frame_id: int, bits: int) -> None:
    bench.configure(first_frame_id=first_frame_id, frame_id_bits=bits, transport="GEV")
    camera = bench.open()
    camera.start()
    came = watch(camera, 0.1)
    for commands in (["drop 3"], ["incomplete 2"], ["drop 1", "incomplete 1"], ["drop 2"]):
        bench.simulator.send("SIM0001", *commands)
        came += watch(camera, 0.05)
    before = len(came)
    time.sleep(0.8)  # longer than there are buffers for
    until = time.monotonic() + 10
    while not any(isinstance(item, LinesLost) for item in came[before:]) and time.monotonic() < until:
        came += watch(camera, 0.1)
    camera.close()
    assert isinstance(came[0], Lines)
    position = numbers(came[0])[0]
    lost = {"incomplete": 0, "overrun": 0}
    for item in came:
        if isinstance(item, Lines):
            assert numbers(item) == list(range(position, position + 64))
            position += 64
        else:
            lost[item.cause] += item.lines
            position += item.lines
    log = [entry for entry in bench.simulator.log("SIM0001") if entry.end_line <= position]
    outcomes = {kind: sum(entry.lines for entry in log if entry.outcome == kind) for kind in simctl.OUTCOMES}
    assert lost["incomplete"] == outcomes["incomplete"] == 3 * 64
    assert lost["overrun"] == outcomes["dropped"] + outcomes["overrun"]
    assert outcomes["dropped"] == 6 * 64
    assert outcomes["overrun"] > 0
    assert sum(item.pixels.shape[0] for item in came if isinstance(item, Lines)) == outcomes["delivered"]


def test_a_counter_that_counts_down(bench: Bench) -> None:
    bench.configure(encoder_start=40)
    camera = bench.open(encoder={"direction": "down"})
    camera.start()
    came = [next_of(camera) for _ in range(2)]
    camera.close()
    log = bench.simulator.log("SIM0001")[:2]
    counts = [item.encoder_count for item in came if isinstance(item, Lines)]
    assert counts == [2**32 - entry.encoder_count for entry in log]


def test_a_stopped_camera_hands_over_what_it_had_delivered(bench: Bench) -> None:
    camera = bench.open()
    camera.start()
    came = [next_of(camera) for _ in range(2)]
    time.sleep(0.1)  # frames wait in their buffers
    camera.stop()
    while (item := camera.read()) is not None:
        came.append(item)
    camera.close()
    log = [entry for entry in bench.simulator.log("SIM0001") if entry.outcome == "delivered"]
    assert len(log) > 2
    assert [numbers(item)[0] for item in came if isinstance(item, Lines)] == [entry.first_line for entry in log]


def test_unplugged(bench: Bench) -> None:
    camera = bench.open()
    camera.start()
    assert watch(camera, 0.1)
    bench.simulator.unplug("SIM0001")
    began = time.monotonic()
    with pytest.raises(CameraLostError, match="camera top: "):
        watch(camera, 5, check_s=0.05)
    for _ in range(2):
        with pytest.raises(CameraLostError):
            camera.read()
        with pytest.raises(CameraLostError):
            camera.check()
    camera.close()
    assert time.monotonic() - began < 2  # 0.03 s on an idle machine
    with pytest.raises(CameraError, match=r"camera top: .*there are: .*SIM0002"):
        bench.open()
    bench.simulator.replug("SIM0001")
    again = bench.open()
    again.start()
    assert isinstance(next_of(again), Lines)


def test_closing_needs_no_camera_that_answers(bench: Bench) -> None:
    camera = bench.open()
    bench.simulator.unplug("SIM0001")
    began = time.monotonic()
    camera.close()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("broken", ["stop", "_release_buffers", "_release_data_streams", "_release_remote_device"])
def test_closing_goes_on_where_a_step_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail() -> None:
        raise RuntimeError(broken)

    camera = bench.open()
    camera.start()
    next_of(camera)
    monkeypatch.setattr(camera._device.acquirer, broken, fail)
    camera.close()
    again = bench.open()
    again.start()
    assert isinstance(next_of(again), Lines)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"serial": "SIM0003"}, "no device with serial 'SIM0003'; there are: .*'SIM0001'.*'SIM0002'"),
        ({"serial": None, "model": "Simulated line-scan camera"}, "2 devices, one expected"),
        ({"features": {"Width": 66}}, "Width = 66: allowed: 64 to 512 in steps of 4"),
        ({"features": {"AcquisitionLineRate": 1e6}}, "AcquisitionLineRate = 1000000.0: allowed: 1 to 200000 Hz"),
        ({"features": {"TriggerSource[LineStart]": "Software"}}, "TriggerSource.*: one of Encoder0 expected"),
        ({"features": {"TriggerMode[LineEnd]": "On"}}, "no selector of it has 'LineEnd': .*LineStart, FrameStart"),
        ({"features": {"AcquisitionMode": "SingleFrame"}}, "AcquisitionMode is SingleFrame, Continuous expected"),
        ({"features": {"ChunkModeActive": False}}, 'write "ChunkModeActive" = true and "ChunkEnable.EncoderValue'),
        ({"features": {"ChunkEnable[EncoderValue]": False}}, 'write "ChunkModeActive" = true and "ChunkEnable'),
        ({"encoder": {"chunk": "ChunkCounterValue"}}, "it has no ChunkCounterValue"),
        ({"encoder": {"latch": "EncoderLatchValue"}}, "no integer EncoderLatchValue .*near it: EncoderLatchedValue, "),
        ({"encoder": {"latch": "EncoderResolution"}}, "no integer EncoderResolution that can be read .*EncoderDivider"),
    ],
)
def test_refused_with_reasons(bench: Bench, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(CameraError, match=f"camera top: .*{told}"):
        bench.open(**changed)
    bench.open()  # and it is free again


def test_each_selection_keeps_its_own_value(bench: Bench) -> None:
    camera = bench.open(features={"TriggerMode[FrameStart]": "Off", "TriggerMode[LineStart]": "On", "Gain": 2})
    nodes = camera._device.nodes
    modes = {}
    for selector in ("LineStart", "FrameStart"):
        nodes.TriggerSelector.value = selector
        modes[selector] = nodes.TriggerMode.value
    assert modes == {"LineStart": "On", "FrameStart": "Off"}
    assert nodes.Gain.value == 2.0


def test_the_count_that_a_sync_pulse_latched(bench: Bench) -> None:
    camera = bench.open(encoder={"latch": "EncoderLatchedValue"})
    assert camera.latched() == 0
    camera.start()
    next_of(camera)
    seen = []
    for _ in range(2):
        bench.simulator.send("SIM0001", "sync")
        seen.append(camera.latched())
        before = camera._device.nodes.EncoderValue.get_value(ignore_cache=True)
        assert camera.latched() == seen[-1]  # it stands until the next pulse
        assert 0 < seen[-1] < before
    assert seen[0] < seen[1]
    assert bench.open(serial="SIM0002").latched() is None  # nothing is asked for there
    camera.close()


def asked_until_lost(camera: GenicamCamera) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        camera.latched()
        time.sleep(0.01)


def test_a_latch_cannot_be_read_of_a_camera_that_is_gone(bench: Bench) -> None:
    camera = bench.open(encoder={"latch": "EncoderLatchedValue"})
    camera.start()
    bench.simulator.unplug("SIM0001")
    with pytest.raises(CameraLostError, match="camera top"):
        asked_until_lost(camera)
    with pytest.raises(CameraLostError, match="camera top"):
        camera.check()


def test_frames_without_the_encoder_chunk(bench: Bench) -> None:
    bench.configure(encoder=False)
    camera = bench.open(plain={"Height": 64, "ChunkModeActive": True})
    camera.start()
    with pytest.raises(CameraError, match="its frames carry no ChunkEncoderValue: write "):
        next_of(camera)


READER = """
import sys, time
from pathlib import Path
from linescan.cameras.camera import BufferPool, Lines
from linescan.cameras.genicam import GenicamCamera
from linescan.line import CameraSettings
file, serial = sys.argv[1:]
settings = CameraSettings(name="s", producer=file, serial=serial, max_line_rate_hz=10000, features={"Height": 64})
camera = GenicamCamera(settings, Path(file), BufferPool())
camera.start()
lines = 0
while lines < 64 * 100:
    came = camera.read()
    if isinstance(came, Lines):
        lines += len(came.pixels)
        if lines == 64 * 50:
            print("half", flush=True)
    time.sleep(0.0005)
camera.close()
print(lines)
"""


def test_two_processes_have_a_camera_each(bench: Bench) -> None:
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, bench.producer, serial], stdout=subprocess.PIPE, text=True)
        for serial in ("SIM0001", "SIM0002")
    ]
    try:
        assert readers[0].stdout is not None
        assert readers[0].stdout.readline() == "half\n"
        with pytest.raises(CameraError, match=r"camera top: .*SIM0001.*in use"):
            bench.open()
        ends = [reader.communicate(timeout=30)[0].split()[-1] for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    assert ends == ["6400", "6400"]
    assert [reader.returncode for reader in readers] == [0, 0]
    for serial in ("SIM0001", "SIM0002"):
        assert bench.simulator.count(serial)["delivered"] >= 6400


# ------------------------------------------------------------------------------------------------ rare buffers


class Rare:
    """A buffer as some producer may deliver it; what it does not say is not available."""

    def __init__(self, raw: bytes, **told: int) -> None:
        self.raw_buffer = raw
        self.__dict__ |= told

    def __getattr__(self, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        raise genicam.gentl.NotAvailableException(name)


Read = Callable[[Rare], Lines | LinesLost | None]


@pytest.fixture
def rare(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads one buffer that did not come from a producer."""
    camera = bench.open(encoder=None)

    def read(buffer: Rare) -> Lines | LinesLost | None:
        monkeypatch.setattr(camera._device, "fetch", lambda: (buffer, 0))
        monkeypatch.setattr(camera._device, "queue", lambda _: None)
        return camera.read()

    return read


RAW = np.random.default_rng(3).integers(0, 256, 70_000, np.uint8).tobytes()


def test_a_buffer_that_says_almost_nothing(rare: Read) -> None:
    lines = rare(Rare(RAW, frame_id=0))
    assert isinstance(lines, Lines)
    assert lines.pixels.tobytes() == RAW[: 64 * 512]


def test_a_partial_frame_has_fewer_lines(rare: Read) -> None:
    lines = rare(Rare(RAW, frame_id=4, height=64, delivered_image_height=10, width=512, image_offset=96, padding_x=16))
    assert isinstance(lines, Lines)
    assert [line.tobytes() for line in lines.pixels] == [RAW[96 + 528 * n :][:512] for n in range(10)]


@pytest.mark.parametrize(
    ("buffer", "error", "told"),
    [
        (Rare(RAW), CameraError, "no ids"),
        (Rare(RAW, frame_id=1, width=1024), CameraLostError, "512 columns set"),
        (Rare(RAW[:1000], frame_id=1), CameraLostError, "1000 bytes for 64 lines"),
    ],
)
def test_buffers_that_cannot_be_used(rare: Read, buffer: Rare, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        rare(buffer)
