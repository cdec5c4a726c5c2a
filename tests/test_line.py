"""line.toml: what is refused, and where the sockets are."""

from __future__ import annotations

from pathlib import Path

import pytest

from linescan.errors import ConfigError
from linescan.line import Line
from linescan.stages.acquire import check_camera
from tests.line_kit import ArrayCamera, FakeClock, write_line

CAMERA = '[[cameras]]\nname = "left"\nproducer = "a.cti"\nserial = "1"\nmax_line_rate_hz = 1000.0\n'
SECOND = CAMERA.replace('"left"', '"right"')


def line(folder: Path, *tables: str, cameras: str = CAMERA, top: str = 'recipe = "r.toml"') -> Line:
    path = folder / "line.toml"
    path.write_text("\n".join([top, cameras, *tables]), encoding="utf-8")
    return Line(path)


def test_the_sockets_lie_in_the_folder_of_the_line(tmp_path: Path) -> None:
    found = line(tmp_path, '[transport]\ndirectory = "run"')
    assert found.frames_endpoint("left") == f"ipc://{tmp_path}/run/private/frames-left"
    assert found.stages_endpoint == f"ipc://{tmp_path}/run/private/stages"
    assert found.events_endpoint == f"ipc://{tmp_path}/run/public/events"
    assert found.backfill_endpoint == f"ipc://{tmp_path}/run/public/backfill"
    assert found.control_endpoint == f"ipc://{tmp_path}/run/control/control"
    assert line(tmp_path).stages_endpoint == "ipc:///run/linescan/private/stages"


def test_sockets_may_lie_elsewhere(tmp_path: Path) -> None:
    found = line(
        tmp_path, '[transport]\nstages = "tcp://127.0.0.1:5000"\nevents = "ipc:///tmp/e"\n'
        'frames.left = "tcp://[::1]:5001"\nkeys = "keys"',
    )  # fmt: skip
    assert found.stages_endpoint == "tcp://127.0.0.1:5000"
    assert found.events_endpoint == "ipc:///tmp/e"
    assert found.frames_endpoint("left") == "tcp://[::1]:5001"
    assert found.file("keys") == tmp_path / "keys"


@pytest.mark.parametrize("where", ["stages", "events", "backfill", "control", "frames.left"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5000", "tcp://*:5000", "tcp://192.168.1.5:5000", "tcp://line.example:5000", "tcp://[::]:5000",
        "tcp://127.0.0.1.example:5000", "tcp://1127.0.0.1:5000", "tcp://localhost.example:5000",
    ],
)  # fmt: skip
def test_open_tcp_needs_keys(tmp_path: Path, where: str, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"TCP beyond loopback needs transport\.keys"):
        line(tmp_path, f'[transport]\n{where} = "{endpoint}"')
    line(tmp_path, f'[transport]\nkeys = "keys"\n{where} = "{endpoint}"')


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5000", "tcp://127.3.2.1:1", "tcp://localhost:65535",
                                      "tcp://[::1]:5000"])  # fmt: skip
def test_tcp_on_this_machine_needs_none(tmp_path: Path, endpoint: str) -> None:
    assert line(tmp_path, f'[transport]\nevents = "{endpoint}"').events_endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:5000", "udp://127.0.0.1:5000", "inproc://x", "pgm://x:1", "tcp://127.0.0.1", "tcp://127.0.0.1:",
        "tcp://127.0.0.1:99999", "tcp://127.0.0.1:0", "tcp://127.0.0.1:5000;tcp://0.0.0.0:5000", "tcp://eth0;1.2.3.4:5",
        "tcp://:5000", "tcp://127.0.0.1:5000\\n",
    ],
)  # fmt: skip
def test_endpoints_that_are_none(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"transport|endpoint"):
        line(tmp_path, f'[transport]\nkeys = "keys"\nstages = "{endpoint}"')


def test_frames_of_a_camera_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"transport\.frames: no camera is called 'middle'"):
        line(tmp_path, '[transport]\nframes.middle = "ipc:///tmp/f"')


def test_which_camera(tmp_path: Path) -> None:
    one, two = line(tmp_path), line(tmp_path, cameras=CAMERA + SECOND)
    assert one.camera(None).name == one.camera("left").name == "left"
    assert two.camera("right").name == "right"
    with pytest.raises(ConfigError, match=r"--camera is needed; there are: left, right"):
        two.camera(None)
    with pytest.raises(ConfigError, match=r"--camera middle: no such camera; there are: left, right"):
        two.camera("middle")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"cameras": ""}, "cameras"),
        ({"cameras": CAMERA + CAMERA}, "each camera needs a name of its own"),
        ({"cameras": CAMERA.replace('serial = "1"\n', "")}, "a serial number or a model is needed"),
        ({"cameras": CAMERA.replace('"left"', '"../left"')}, r"cameras\.0\.name"),
        ({"cameras": CAMERA.replace("1000.0", "0.0")}, r"cameras\.0\.max_line_rate_hz"),
        ({"cameras": CAMERA + "[cameras.encoder]\ncounts_per_line = 0\n"}, "counts_per_line"),
        ({"cameras": CAMERA + "[cameras.encoder]\nbits = 65\n"}, "bits"),
        ({"top": ""}, "recipe"),
        ({"top": 'recipe = "r.toml"\nrolls = "sometimes"'}, "rolls"),
        ({"top": 'recipe = "r.toml"\nsurprise = 1'}, "surprise"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"line\.toml: .*{complaint}"):
        line(tmp_path, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[transport]\nlease_s = 0.1", r"transport\.lease_s = 0\.1"),
        ("[transport]\ncredits = 0", r"transport\.credits = 0"),
        ("[transport]\nretain_mib = 0", r"transport\.retain_mib = 0"),
        ("[transport]\nsecret = 1", r"transport\.secret"),
        ("[worker]\noutbox = 1", r"worker\.outbox = 1"),
        ('[worker]\ndevice = "tpu"', r"worker\.device"),
        ("[journal]\ncommit_ms = -1", r"journal\.commit_ms = -1"),
        ("[journal]\nkeep_days = inf", r"journal\.keep_days = inf"),
    ],
)
def test_values_out_of_bounds_are_named(tmp_path: Path, table: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"line\.toml: {key}"):
        line(tmp_path, table)


def test_a_frame_must_fit_into_what_is_kept(tmp_path: Path) -> None:
    line = write_line(tmp_path, retain_mib=1)
    camera = ArrayCamera(FakeClock())
    camera.columns, camera.frame_lines = 1024, 1024
    check_camera(line, camera)
    camera.frame_lines = 1025
    with pytest.raises(ConfigError, match=r"retain_mib = 1: a single frame of camera array has 1 MiB"):
        check_camera(line, camera)
    camera.pixel_format, camera.frame_lines = "RGB8", 342
    with pytest.raises(ConfigError, match="retain_mib"):
        check_camera(line, camera)


WEB = "[web]\ncounts_per_mm = 10.0\ntop_speed_mm_s = 50.0\n"
GATES = '[rejects]\nlead_mm = 1.0\nlag_mm = 1.0\ngates = [{lane = "a", output = 0, distance_mm = 100.0}]\n'
PLACED = CAMERA + "mm_per_column = 0.1\n[cameras.encoder]\ncounts_per_line = 1\n"


@pytest.mark.parametrize(
    ("cameras", "tables", "complaint"),
    [
        (PLACED, WEB + '[plc]\nhost = "plc"\n', r"\[plc\] needs \[rejects\]"),
        (PLACED, GATES, r"\[rejects\] needs \[web\]"),
        (CAMERA, WEB + GATES, r"needs cameras\.left\.encoder and \.mm_per_column"),
        (PLACED, WEB + 'tie = "pulse"\n' + GATES, r"needs cameras\.left\.encoder\.latch"),
        (
            PLACED,
            WEB + GATES.replace("}]", '}, {lane = "b", output = 0, distance_mm = 9.0}]'),
            "no two gates have the same output",
        ),
    ],
)
def test_rejects_need_to_know_where_things_are(tmp_path: Path, cameras: str, tables: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        line(tmp_path, tables, cameras=cameras)
    assert line(tmp_path, WEB + GATES, cameras=PLACED).settings.rejects is not None
