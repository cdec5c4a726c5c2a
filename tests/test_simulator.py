"""The simulated line-scan camera of tools/simulator, seen through harvesters as a program sees it."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tools/simulator"
sys.path.insert(0, str(FOLDER))
simctl = importlib.import_module("simctl")

with warnings.catch_warnings():  # importing harvesters changes the filters
    warnings.simplefilter("ignore")
    harvesters = pytest.importorskip("harvesters.core")
    gentl = importlib.import_module("genicam.gentl")
    genapi = importlib.import_module("genicam.genapi")

pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")

ONE, TWO = simctl.SERIALS
FORMATS = ("Mono8", "Mono10", "Mono12", "Mono12p", "RGB8")
LAYOUTS = ("ImageThenChunks", "ImageAsChunk", "ChunksThenImage")
REFUSED = (gentl.GenericException, genapi.GenericException)


def build(output: Path, *arguments: str, **environment: str) -> Path:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        pytest.skip(f"the simulated camera needs a C compiler, and there is no {compiler}")
    command = [str(FOLDER / "build.sh"), *arguments, str(output)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("simulator") / "linescan_sim.cti")


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    simulator = simctl.Simulator(tmp_path / "state")
    for name, value in simulator.environment().items():
        monkeypatch.setenv(name, value)
    return simulator


@pytest.fixture
def strip(simulator: Any) -> npt.NDArray[np.uint8]:
    """Noise of 300 lines × 256 columns, written as web.pgm: no two lines alike."""
    image = np.random.default_rng(5).integers(0, 256, (300, 256), dtype=np.uint8)
    simctl.write_strip(simulator.folder / "web.pgm", image)
    return image


@contextmanager
def harvester(producer: Path) -> Iterator[Any]:
    instance = harvesters.Harvester()
    instance.add_file(str(producer))
    instance.update()
    try:
        yield instance
    finally:
        instance.reset()


@contextmanager
def opened(producer: Path, serial: str = ONE, buffers: int = 64, **features: object) -> Iterator[Any]:
    with harvester(producer) as instance:
        acquirer = instance.create({"serial_number": serial})
        acquirer.num_buffers = buffers
        set_features(acquirer, Width=256, Height=64, **features)
        yield acquirer
        acquirer.destroy()


def set_features(acquirer: Any, **features: object) -> None:
    for name, value in features.items():
        getattr(acquirer.remote_device.node_map, name).value = value


def fetch(acquirer: Any, timeout_s: float = 20.0) -> Any:
    """The next buffer, complete or not, as the producer gives it."""
    (monitor,) = acquirer._new_buffer_event_monitor_dict.values()
    monitor.update_event_data(int(timeout_s * 1000))
    acquirer._update_chunk_data(buffer=monitor.buffer, is_manual=True)
    return monitor.buffer


def image_of(buffer: Any, pixel_format: str = "Mono8") -> npt.NDArray[Any]:
    row = buffer.width * {"Mono8": 2, "Mono10": 4, "Mono12": 4, "Mono12p": 3, "RGB8": 6}[pixel_format] // 2
    data = np.frombuffer(buffer.raw_buffer, np.uint8, row * buffer.height, buffer.image_offset)
    return simctl.pixels(data.copy(), pixel_format, buffer.width)


def give_back(buffer: Any) -> None:
    buffer.parent.queue_buffer(buffer)


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)
    return result


def entry_of(simulator: Any, frame_id: int, serial: str = ONE) -> Any:
    return [entry for entry in simulator.log(serial) if entry.frame_id == frame_id][-1]


# ---- features --------------------------------------------------------------------------------------------------------


def test_two_line_scan_cameras_are_listed(producer: Path, simulator: Any) -> None:
    with harvester(producer) as instance:
        assert [info.serial_number for info in instance.device_info_list] == [ONE, TWO]
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        assert nodes.DeviceScanType.value == "Linescan"
        assert nodes.DeviceSerialNumber.value == ONE
        assert 30 < nodes.DeviceTemperature.value < 60
        assert nodes.DeviceUserID.value == "camera 0"
        nodes.DeviceUserID.value = "over the web"
        assert nodes.DeviceUserID.value == "over the web"


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("Width", 60),
        ("Width", 258),
        ("Width", 16388),
        ("Height", 0),
        ("Height", 8193),
        ("OffsetX", 3),
        ("AcquisitionLineRate", 0.5),
        ("AcquisitionLineRate", 200001.0),
        ("ExposureTime", 0.5),
        ("Gain", 11.0),
        ("BlackLevel", 65),
        ("PixelFormat", "BayerRG8"),
        ("SensorWidth", 128),
    ],
)
def test_what_is_out_of_range_is_refused_and_changes_nothing(
    producer: Path, simulator: Any, feature: str, value: object
) -> None:
    with opened(producer) as acquirer:
        node = getattr(acquirer.remote_device.node_map, feature)
        before = node.value
        with pytest.raises(REFUSED):
            node.value = value
        assert node.value == before


def register_of(acquirer: Any, feature: str) -> int:
    port = acquirer.remote_device.port
    _, address, size = port.url_info_list[0].url.split(";")
    description = port.read(int(address, 16), int(size, 16))[1].decode()
    found = re.search(f'Name="{feature}Reg"><Address>(0x[0-9a-f]+)', description)
    assert found
    return int(found[1], 16)


@pytest.mark.parametrize(("feature", "value"), [("Width", 61), ("Height", 9000), ("OffsetX", 4096), ("PixelFormat", 7)])
def test_the_port_refuses_too(producer: Path, simulator: Any, feature: str, value: int) -> None:
    with opened(producer) as acquirer:
        address = register_of(acquirer, feature)
        with pytest.raises(gentl.InvalidValueException):
            acquirer.remote_device.port.write(address, value.to_bytes(8, "little"))


def test_limits_follow_each_other(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"columns": 1024})
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        nodes.OffsetX.value = 128
        assert nodes.Width.max == nodes.WidthMax.value == 896
        nodes.Width.value = 512
        assert nodes.OffsetX.max == 512
        nodes.AcquisitionLineRate.value = 10000.0
        nodes.ExposureTime.value = nodes.ExposureTime.max
        assert nodes.ExposureTime.value == pytest.approx(99.5)
        nodes.AcquisitionLineRate.value = 100000.0
        assert nodes.ExposureTime.value == nodes.ExposureTime.max == pytest.approx(9.5)


def test_selectors_keep_their_values_apart(producer: Path, simulator: Any) -> None:
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        nodes.TriggerSelector.value = "FrameStart"
        nodes.TriggerMode.value = "On"
        assert nodes.TriggerSource.value == "Software"
        nodes.TriggerSelector.value = "LineStart"
        assert nodes.TriggerMode.value == "Off"
        assert nodes.TriggerSource.value == "Encoder0"
        with pytest.raises(REFUSED):
            nodes.TriggerSource.value = "Software"


def test_the_format_is_locked_while_acquiring(producer: Path, simulator: Any) -> None:
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        acquirer.start()
        for feature, value in (("Width", 128), ("PixelFormat", "Mono12"), ("ChunkModeActive", True)):
            with pytest.raises(REFUSED):
                getattr(nodes, feature).value = value
        acquirer.stop()
        nodes.Width.value = 128


def test_a_camera_without_encoder(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"encoder": False})
    with opened(producer, ChunkModeActive=True) as acquirer:
        nodes = acquirer.remote_device.node_map
        with pytest.raises(REFUSED):
            _ = nodes.EncoderValue.value
        with pytest.raises(REFUSED):
            nodes.ChunkSelector.value = "EncoderValue"
        acquirer.start()
        buffer = fetch(acquirer)
        assert nodes.ChunkFrameID.value == 0
        with pytest.raises(REFUSED):
            _ = nodes.ChunkEncoderValue.value
        give_back(buffer)
    assert entry_of(simulator, 0).encoder_count == -1


# ---- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["Custom", "GEV"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_pixels_margin_and_chunks(
    producer: Path,
    simulator: Any,
    strip: npt.NDArray[np.uint8],
    pixel_format: str,
    layout: str,
    transport: str,
) -> None:
    """Each line shows the strip's line of its coded number, and chunks and log agree about its frame."""
    simulator.configure(both={"strip": "web.pgm", "margin": 32, "transport": transport, "line_rate": 20000})
    full = simctl.FULL_SCALE[pixel_format]
    with opened(producer) as acquirer:
        set_features(acquirer, Width=128, OffsetX=64, Height=77, PixelFormat=pixel_format)
        set_features(acquirer, ChunkModeActive=True, ChunkLayout=layout)
        nodes = acquirer.remote_device.node_map
        acquirer.start()
        for _ in range(6):
            buffer = fetch(acquirer)
            entry = entry_of(simulator, buffer.frame_id)
            image = image_of(buffer, pixel_format)
            lines = simctl.read_margin(image, full_scale=full)
            assert lines.tolist() == list(range(entry.first_line, entry.end_line))
            expected = np.rint(strip[lines % 300, 64:192] * (full / 255.0))
            grey = image[..., 0] if pixel_format == "RGB8" else image
            np.testing.assert_array_equal(grey[:, 32:], expected[:, 32:])
            assert buffer.payload_type == (1 if layout == "ImageThenChunks" else 4)
            assert (buffer.image_offset > 0) == (layout == "ChunksThenImage")
            assert nodes.ChunkEncoderValue.value == entry.encoder_count == 4 * entry.first_line
            assert nodes.ChunkFrameID.value == entry.frame_id
            assert nodes.ChunkTimestamp.value == buffer.timestamp_ns == entry.monotonic_ns
            assert nodes.ChunkLineStatusAll.value & 1 == 1
            give_back(buffer)


def test_the_payload_as_harvesters_shows_it(producer: Path, simulator: Any, strip: npt.NDArray[np.uint8]) -> None:
    simulator.configure(both={"strip": "web.pgm", "margin": 64})
    with opened(producer, ChunkModeActive=True, ChunkLayout="ImageAsChunk") as acquirer:
        acquirer.start()
        with acquirer.fetch(timeout=20) as buffer:
            (component,) = buffer.payload.components
            assert (component.width, component.height, component.data_format) == (256, 64, "Mono8")
            image = component.data.reshape(64, 256)
            assert simctl.read_margin(image, margin=64).tolist() == list(range(64))
            np.testing.assert_array_equal(image[:, 64:], strip[:64, 64:])


def test_gain_black_level_and_test_pattern(producer: Path, simulator: Any, strip: npt.NDArray[np.uint8]) -> None:
    simulator.configure(both={"strip": "web.pgm"})
    with opened(producer, Gain=2.0, BlackLevel=10) as acquirer:
        acquirer.start()
        buffer = fetch(acquirer)
        expected = np.clip(strip[:64].astype(int) * 2 + 10, 0, 255)
        np.testing.assert_array_equal(image_of(buffer), expected)
        give_back(buffer)
        set_features(acquirer, TestPattern="GreyHorizontalRamp", Gain=1.0, BlackLevel=0)
        ramp = np.broadcast_to(np.arange(256), (64, 256))
        eventually(lambda: np.array_equal(image_of(buffer := fetch(acquirer)), ramp) or give_back(buffer), "the ramp")


def test_the_rendered_web_has_its_blots(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"columns": 1024, "line_rate": 100000})
    with opened(producer) as acquirer:
        set_features(acquirer, Width=1024, Height=2048)
        acquirer.start()
        web = image_of(fetch(acquirer))
    for line, column in ((300, 256), (1100, 614), (1700, 870)):
        assert web[line, column] == 40
    assert 100 < np.median(web) < 180
    assert (web == 40).sum() < 3000


# ---- faults on demand ------------------------------------------------------------------------------------------------


def test_dropped_frames_leave_a_hole_in_the_ids(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"margin": 32, "first_frame_id": 1})
    with opened(producer) as acquirer:
        acquirer.start()
        simulator.send(ONE, "drop 2")
        dropped = eventually(lambda: [e.frame_id for e in simulator.log(ONE) if e.outcome == "dropped"][1:], "two")[0]
        seen = []
        while not seen or seen[-1] <= dropped:
            buffer = fetch(acquirer)
            seen.append(buffer.frame_id)
            assert simctl.read_margin(image_of(buffer))[0] == entry_of(simulator, seen[-1]).first_line
            give_back(buffer)
    assert seen[0] in (1, 3)
    assert {dropped - 1, dropped}.isdisjoint(seen)
    assert simulator.count(ONE)["dropped"] == 128


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_incomplete_frame(producer: Path, simulator: Any, layout: str) -> None:
    with opened(producer, ChunkModeActive=True, ChunkLayout=layout) as acquirer:
        payload = acquirer.remote_device.node_map.PayloadSize.value
        acquirer.start()
        simulator.send(ONE, "incomplete 1")
        while (buffer := fetch(acquirer)).is_complete():
            give_back(buffer)
        assert buffer.size_filled < payload
        assert buffer.delivered_image_height == 32
        assert not buffer.is_containing_chunk_data()
        incomplete = buffer.frame_id
        give_back(buffer)
        buffer = fetch(acquirer)
        assert buffer.is_complete()
        assert buffer.frame_id == incomplete + 1
        give_back(buffer)
    assert entry_of(simulator, incomplete).outcome == "incomplete"
    assert simulator.count(ONE)["incomplete"] == 64


def test_without_buffers_frames_are_lost_and_counted(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"margin": 32})
    with opened(producer, buffers=4) as acquirer:
        acquirer.start()
        eventually(lambda: [e for e in simulator.log(ONE) if e.outcome == "overrun"], "an overrun")
        frames = [fetch(acquirer) for _ in range(4)]
        assert [frame.frame_id for frame in frames] == [0, 1, 2, 3]
        for frame in frames:
            give_back(frame)
        buffer = fetch(acquirer)
        assert buffer.frame_id > 4
        assert simctl.read_margin(image_of(buffer))[0] == 64 * buffer.frame_id
        assert acquirer.data_streams[0].num_underrun > 0
    assert simulator.count(ONE)["overrun"] >= 64


@pytest.mark.parametrize(("command", "level"), [("dark 100", 0), ("saturate 100", 255)])
def test_the_lamp_fails_for_a_hundred_lines(producer: Path, simulator: Any, command: str, level: int) -> None:
    simulator.configure(both={"margin": 32})
    with opened(producer) as acquirer:
        acquirer.start()
        simulator.send(ONE, command)
        flat: list[int] = []
        lines = np.empty(0)
        while not flat or flat[-1] == lines[-1]:
            buffer = fetch(acquirer)
            image = image_of(buffer)
            lines = simctl.read_margin(image)
            flat += lines[(image[:, 32:] == level).all(axis=1)].tolist()
            give_back(buffer)
    assert flat == list(range(flat[0], flat[0] + 100))


def test_gige_ids_have_sixteen_bits_and_pass_over_zero(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"first_frame_id": 65534, "frame_id_bits": 16})
    with opened(producer) as acquirer:
        acquirer.start()
        assert [fetch(acquirer).frame_id for _ in range(4)] == [65534, 65535, 1, 2]


def test_a_command_that_is_not_understood_is_said_so(producer: Path, simulator: Any) -> None:
    with opened(producer):
        simulator.send(ONE, "explode 3", "drop", "rate 900000")
    said = simulator.comments(ONE)
    assert any("not understood: explode 3" in line for line in said)
    assert any("command: drop" in line for line in said)
    assert any("not understood: rate 900000" in line for line in said)


# ---- motion ----------------------------------------------------------------------------------------------------------


def standing(simulator: Any) -> int:
    """Waits until the log grows no more; returns the lines in it."""
    lines = -1
    while (now := sum(simulator.count(ONE).values())) != lines:
        lines = now
        time.sleep(0.3)
    return lines


def test_a_free_running_camera_stops_at_a_frame(producer: Path, simulator: Any) -> None:
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        acquirer.start()
        eventually(lambda: simulator.log(ONE), "a frame")
        simulator.send(ONE, "stop")
        lines = standing(simulator)
        encoder = nodes.EncoderValue.value
        assert encoder == 4 * lines
        assert nodes.LineStatusAll.value & 1 == 0
        simulator.send(ONE, "go")
        eventually(lambda: sum(simulator.count(ONE).values()) > lines, "the next frame")
        assert nodes.EncoderValue.value > encoder
    assert "unattended" not in simulator.count(ONE)


@pytest.mark.parametrize("by", ["clock", "trigger"])
def test_a_line_triggered_camera_holds_its_partial_frame(producer: Path, simulator: Any, by: str) -> None:
    simulator.configure(both={"clock": "web" if by == "clock" else "free", "margin": 32, "line_rate": 5000})
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        if by == "trigger":
            set_features(acquirer, TriggerSelector="LineStart", TriggerMode="On")
        set_features(acquirer, Height=1024)
        acquirer.start()
        time.sleep(0.1)
        simulator.send(ONE, "stop")
        standing(simulator)
        at = nodes.EncoderValue.value // 4
        assert at % 1024 > 0
        simulator.send(ONE, "go")
        frames = at // 1024 + 1
        eventually(lambda: len(simulator.log(ONE)) >= frames, "the rest of the frame")
        for number in range(frames):
            assert simctl.read_margin(image_of(fetch(acquirer))).tolist() == list(
                range(1024 * number, 1024 * number + 1024)
            )


def test_the_line_rate_is_kept(producer: Path, simulator: Any) -> None:
    with opened(producer, AcquisitionLineRate=20000.0) as acquirer:
        acquirer.start()
        entries = eventually(lambda: (log := simulator.log(ONE))[200:] and log, "200 frames")
        first, last = entries[0], entries[-1]
        rate = (last.first_line - first.first_line) / (last.monotonic_ns - first.monotonic_ns) * 1e9
        assert rate == pytest.approx(20000, rel=1e-3)
        assert last.monotonic_ns < time.monotonic_ns()

        def seconds_behind() -> float:
            now = time.monotonic()
            last = simulator.log(ONE)[-1]
            return float(now - (last.monotonic_ns / 1e9 + 64 / 20000))

        eventually(lambda: seconds_behind() < 0.02, "frames as the lines pass")
        assert acquirer.remote_device.node_map.EncoderValue.value / 4 == pytest.approx(
            (time.monotonic_ns() - first.monotonic_ns) * 20000 / 1e9, rel=0.02
        )
        simulator.send(ONE, "rate 5000")
        assert acquirer.remote_device.node_map.AcquisitionLineRate.value == 5000
        first, last = eventually(lambda: simulator.log(ONE)[-2:], "two frames")
        entries = eventually(lambda: [e for e in simulator.log(ONE) if e.first_line > last.end_line][20:], "more")
        spacing = np.diff([entry.monotonic_ns for entry in entries[-10:]])
        np.testing.assert_allclose(spacing, 64 / 5000 * 1e9, rtol=1e-3)


def test_the_web_ends_with_its_strip(producer: Path, simulator: Any, strip: npt.NDArray[np.uint8]) -> None:
    simulator.configure(both={"strip": "web.pgm", "loop": False})
    with opened(producer) as acquirer:
        acquirer.start()
        assert standing(simulator) == 256  # four frames of 64; the rest waits for a fifth
        assert acquirer.remote_device.node_map.EncoderValue.value == 4 * 300
    assert simulator.count(ONE) == {"delivered": 256}


def test_the_encoder_wraps_and_is_reset(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"encoder_start": 2**32 - 1000, "encoder_counts_per_line": 10})
    with opened(producer, ChunkModeActive=True) as acquirer:
        nodes = acquirer.remote_device.node_map
        acquirer.start()
        counts = []
        for _ in range(4):
            buffer = fetch(acquirer)
            counts.append(nodes.ChunkEncoderValue.value)
            give_back(buffer)
        assert counts == [(2**32 - 1000 + 640 * n) % 2**32 for n in range(4)]
        nodes.EncoderReset.execute()
        assert nodes.EncoderValue.value < 2**31

        def counts_fell() -> bool:
            later = [entry.encoder_count for entry in simulator.log(ONE)[4:]]
            return later != sorted(later)

        eventually(counts_fell, "the reset")


def test_a_sync_pulse_latches_the_count_and_leaves_the_counter_running(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"encoder_start": 5000})
    with opened(producer, ChunkModeActive=True) as acquirer:
        nodes = acquirer.remote_device.node_map
        assert nodes.EncoderLatchedValue.value == 0
        acquirer.start()
        give_back(fetch(acquirer))
        before = nodes.EncoderValue.value
        simulator.send(ONE, "sync")
        latched = nodes.EncoderLatchedValue.value
        assert 5000 < before <= latched <= nodes.EncoderValue.value
        counts = [entry.encoder_count for entry in simulator.log(ONE)]
        eventually(lambda: len(simulator.log(ONE)) > len(counts) + 2, "frames behind the pulse")
        assert nodes.EncoderLatchedValue.value == latched
        counts = [entry.encoder_count for entry in simulator.log(ONE)]
        assert counts == [5000 + 4 * 64 * n for n in range(len(counts))]  # no line was numbered anew
        with pytest.raises(REFUSED):
            nodes.EncoderLatchedValue.value = 1
        simulator.send(ONE, "sync")
        assert nodes.EncoderLatchedValue.value > latched
        acquirer.stop()
    with opened(producer) as acquirer:
        assert acquirer.remote_device.node_map.EncoderLatchedValue.value == 0


def test_a_camera_without_encoder_latches_none(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"encoder": False})
    with opened(producer) as acquirer:
        simulator.send(ONE, "sync")
        with pytest.raises(REFUSED):
            print(acquirer.remote_device.node_map.EncoderLatchedValue.value)
    assert any("not understood: sync" in line for line in simulator.comments(ONE))


def test_frames_on_software_trigger(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"margin": 32})
    with opened(producer) as acquirer:
        nodes = acquirer.remote_device.node_map
        set_features(acquirer, TriggerSelector="FrameStart", TriggerMode="On")
        acquirer.start()
        for frame_id in range(3):
            time.sleep(0.02)
            nodes.TriggerSoftware.execute()
            buffer = fetch(acquirer)
            assert buffer.frame_id == frame_id
            assert simctl.read_margin(image_of(buffer))[0] == entry_of(simulator, frame_id).first_line
            give_back(buffer)
    counts = simulator.count(ONE)
    assert counts["delivered"] == 192
    assert counts["unattended"] > 0


@pytest.mark.parametrize(("mode", "frames"), [("SingleFrame", 1), ("MultiFrame", 3)])
def test_an_acquisition_of_so_many_frames(producer: Path, simulator: Any, mode: str, frames: int) -> None:
    with opened(producer, AcquisitionFrameCount=3, AcquisitionMode=mode) as acquirer:
        acquirer.start()
        assert standing(simulator) == 64 * frames


def test_two_cameras_at_once(producer: Path, simulator: Any) -> None:
    simulator.configure(both={"margin": 32}, SIM0002={"first_frame_id": 1, "line_rate": 5000})
    with harvester(producer) as instance:
        acquirers = {serial: instance.create({"serial_number": serial}) for serial in (ONE, TWO)}
        for acquirer in acquirers.values():
            acquirer.num_buffers = 64
            set_features(acquirer, Width=256, Height=64)
            acquirer.start()
        for _ in range(8):
            for serial, acquirer in acquirers.items():
                buffer = fetch(acquirer)
                entry = entry_of(simulator, buffer.frame_id, serial)
                assert simctl.read_margin(image_of(buffer))[0] == entry.first_line
                give_back(buffer)
        for acquirer in acquirers.values():
            acquirer.destroy()
    assert simulator.log(TWO)[0].frame_id == 1
    assert simulator.count(ONE)["delivered"] > simulator.count(TWO)["delivered"] >= 8 * 64


# ---- unplugged, restarted, shared ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["marker", "command"])
def test_unplug_and_replug_while_running(producer: Path, simulator: Any, how: str) -> None:
    with harvester(producer) as instance:
        acquirer = instance.create({"serial_number": ONE})
        set_features(acquirer, Width=256, Height=64)
        acquirer.start()
        buffer = fetch(acquirer)
        if how == "marker":
            simulator.unplug(ONE)
        else:
            simulator.send(ONE, "unplug")
        with pytest.raises(REFUSED):
            _ = acquirer.remote_device.node_map.DeviceTemperature.value
        with pytest.raises(gentl.NotAvailableException):
            give_back(buffer)
        for _ in range(acquirer.data_streams[0].num_awaiting_delivery):  # what came before can still be had
            fetch(acquirer)
        with pytest.raises(gentl.TimeoutException):
            fetch(acquirer, 0.1)
        simulator.replug(ONE)
        with pytest.raises(REFUSED):  # what was open stays lost
            _ = acquirer.remote_device.node_map.DeviceTemperature.value
        simulator.unplug(ONE)
        with pytest.raises(REFUSED):
            acquirer.stop()
        acquirer._release_data_streams()
        acquirer.device.close()
        acquirer._is_valid = False
        instance.update()
        assert [info.serial_number for info in instance.device_info_list] == [TWO]
        simulator.replug(ONE)
        instance.update()
        again = instance.create({"serial_number": ONE})
        set_features(again, Width=256, Height=64)
        again.start()
        assert fetch(again).frame_id == 0
        again.destroy()
    counts = simulator.count(ONE)
    assert counts["unattended"] > 0
    assert simulator.log(ONE)[-1].first_line > counts["unattended"]


CHILD = """
import sys, time
from harvesters.core import Harvester
harvester = Harvester()
harvester.add_file(sys.argv[1])
harvester.update()
try:
    acquirer = harvester.create({"serial_number": "SIM0001"})
except Exception as error:
    print("refused", type(error).__name__, flush=True)
    sys.exit(3)
acquirer.remote_device.node_map.Width.value = 256
acquirer.remote_device.node_map.Height.value = 64
acquirer.start()
while True:
    with acquirer.fetch(timeout=20) as buffer:
        print(buffer.module.frame_id, flush=True)
        if len(sys.argv) > 2:
            break
"""


def child(producer: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(producer), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_web_moves_on_while_a_killed_process_restarts(producer: Path, simulator: Any) -> None:
    ends = []
    for _ in range(3):
        with child(producer) as process:
            assert process.stdout
            for _ in range(3):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        ends.append(sum(simulator.count(ONE).values()))
    assert ends[0] < ends[1] < ends[2]
    entries = simulator.log(ONE)
    lost = [entry for entry in entries if entry.outcome == "unattended"]
    assert len(lost) == 2
    assert all(entry.frame_id == -1 and entry.lines > 10000 * 0.05 for entry in lost)  # Python alone takes so long
    seconds = (entries[-1].monotonic_ns - entries[0].monotonic_ns) / 1e9
    assert entries[-1].first_line - entries[0].first_line == pytest.approx(10000 * seconds, rel=0.01)


def test_a_camera_belongs_to_one_process(producer: Path, simulator: Any) -> None:
    with opened(producer) as acquirer:
        acquirer.start()
        with child(producer) as process:
            assert process.stdout
            assert process.stdout.readline().startswith("refused AccessDenied")
            assert process.wait(20) == 3
    with child(producer, "once") as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"


def test_a_program_may_leave_without_closing(producer: Path, simulator: Any) -> None:
    with child(producer, "once") as process:
        assert process.wait(30) == 0


# ---- configuration, trace, build -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("line_rate = fast\n", r"sim\.conf:1: line_rate = fast: expected a line rate in Hz"),
        ("\n[SIM0002]\nmargin = 33\n", r"sim\.conf:3: margin = 33: expected 0, 32 or 64"),
        ("[SIM0003]\n", r"sim\.conf:1: \[SIM0003\]: expected \[SIM0001\] or \[SIM0002\]"),
        ("colums = 4\n", r"sim\.conf:1: colums: no such key"),
        ("loop\n", r"sim\.conf:1: loop: expected key = value"),
        ("strip = nowhere.pgm\n", r"sim\.conf:1: \[SIM0001\] strip: .*nowhere\.pgm: No such file"),
        ("strip = sim.conf\n", r"not a binary PGM"),
    ],
)
def test_a_bad_configuration_names_file_line_and_key(producer: Path, simulator: Any, text: str, message: str) -> None:
    (simulator.folder / "sim.conf").write_text(text)
    instance = gentl.GenTLProducer.create_producer()
    instance.open(str(producer))
    with pytest.raises(gentl.GenericException, match=message):
        instance.create_system().open()
    instance.close()


def test_without_a_state_folder(producer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINESCAN_SIM_DIR", raising=False)
    with opened(producer) as acquirer:
        acquirer.start()
        assert [fetch(acquirer).frame_id for _ in range(3)] == [0, 1, 2]


def test_the_trace_names_calls_and_results(
    producer: Path, simulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESCAN_SIM_TRACE", str(tmp_path / "trace"))
    with opened(producer) as acquirer, pytest.raises(gentl.InvalidValueException):
        acquirer.remote_device.port.write(register_of(acquirer, "Width"), (61).to_bytes(8, "little"))
    trace = (tmp_path / "trace").read_text()
    assert re.search(r"^\d+\.\d{9} \d+:\d+ GCInitLib\(\) = 0$", trace, re.MULTILINE)
    assert re.search(r"GCWritePort\(0x\w+, 0x\w+, 8\) = -1019", trace)
    assert "IFOpenDevice(" in trace


def test_without_a_compiler_the_build_says_so(tmp_path: Path) -> None:
    command = [str(FOLDER / "build.sh"), str(tmp_path / "none.cti")]
    done = subprocess.run(command, env={**os.environ, "CC": "no-such-cc"}, capture_output=True, text=True, check=False)
    assert done.returncode == 69
    assert "no C compiler" in done.stderr


def test_every_entry_point_under_the_sanitizers(simulator: Any, tmp_path: Path) -> None:
    cti = build(tmp_path / "sanitized.cti", SANITIZE="1")
    harness = build(tmp_path / "harness", "--harness", SANITIZE="1")
    for environment in ({}, {"LINESCAN_SIM_TRACE": str(tmp_path / "trace")}):
        done = subprocess.run(
            [str(harness), str(cti)], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "0 failures\n"), done.stderr
    simulator.count(ONE)


def test_the_command_line(producer: Path, simulator: Any, tmp_path: Path) -> None:
    def simctl_cli(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "simctl.py"), str(simulator.folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    np.save(tmp_path / "grey.npy", np.full((8, 128), 7, np.uint8))
    assert simctl_cli("strip", str(tmp_path / "grey.npy"), str(simulator.folder / "grey.pgm")).returncode == 0
    assert simctl_cli("configure", "both", "strip=grey.pgm").returncode == 0
    assert simctl_cli("configure", ONE, "line_rate=30000").returncode == 0
    with harvester(producer) as instance:
        acquirer = instance.create({"serial_number": ONE})
        assert acquirer.remote_device.node_map.AcquisitionLineRate.value == 30000
        set_features(acquirer, Height=64)
        acquirer.start()
        assert simctl_cli("send", ONE, "drop", "1").returncode == 0
        eventually(lambda: simulator.count(ONE)["dropped"], "the drop")
        assert (image_of(fetch(acquirer)) == 7).all()
        acquirer.destroy()
    shown = simctl_cli("log", ONE)
    assert shown.returncode == 0
    assert re.search(r"^dropped +64$", shown.stdout, re.MULTILINE)
    with open(simulator.folder / f"{ONE}.log", "a") as log:
        log.write("9 0 64 delivered 0 0\n")
    assert simctl_cli("log", ONE).returncode == 65
