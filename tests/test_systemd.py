"""The units: what systemd-analyze says of them, and a real systemd, in a container tree, that runs them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import blot, plain
from tests.systemd_kit import ROOT, Container

UNITS = ROOT / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
EXPOSURE = 20  # tenths: systemd-analyze's exposure level, 0 to 100

# ------------------------------------------------------------------------------------------------ on paper

analyzed = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing (Debian: apt-get install systemd)"
)


def install(tree: Path, version: int | None = None) -> Path:
    """What install.sh puts into a tree, by this machine's systemd or one that says it has that version."""
    path = os.environ["PATH"]
    if version is not None:
        program = tree / "bin" / "systemctl"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho 'systemd {version} ({version}.1-1)'\n")
        program.chmod(0o755)
        path = f"{program.parent}:{path}"
    environ = {**os.environ, "DESTDIR": str(tree), "PATH": path}
    subprocess.run([UNITS / "install.sh"], env=environ, check=True)
    return tree / "usr/local/lib"


def verified(folder: Path) -> str:
    """All that `systemd-analyze verify` has to say; it returns 0 for unknown keys as well."""
    units = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@analyzed
def test_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    folder = install(tmp_path) / "systemd/system"
    for path in folder.glob("*.service"):  # linescan itself is not installed on this machine
        path.write_text(path.read_text().replace("/opt/linescan/bin/linescan", "/bin/true"))
    assert verified(folder) == ""


@analyzed
def test_an_unknown_key_would_be_noticed(tmp_path: Path) -> None:
    unit = tmp_path / "linescan-x.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nRestartStepz=3\n")
    assert "RestartStepz" in verified(tmp_path)


@analyzed
@pytest.mark.parametrize("service", SERVICES)
def test_little_is_exposed(service: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(UNITS / service)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize(("version", "expected"), [(252, False), (253, False), (254, True), (257, True)])
def test_growing_pauses_where_systemd_knows_them(tmp_path: Path, version: int, expected: bool) -> None:
    dropin = install(tmp_path, version) / "systemd/system/linescan-acquire@.service.d/growing-pauses.conf"
    assert dropin.exists() == expected
    if expected:
        shutil.rmtree(tmp_path / "bin")
        install(tmp_path, 252)  # as after a step back
        assert not dropin.exists()


def settings_of(service: str) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (UNITS / service).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


@pytest.mark.parametrize("service", SERVICES)
def test_every_unit_keeps_the_common_rules(service: str) -> None:
    settings = settings_of(service)
    assert settings["Type"] == ["notify"]
    assert settings["WatchdogSec"] == ["20"]
    assert settings["RestartPreventExitStatus"] == ["2 65"]
    assert (settings["Restart"], settings["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert settings["PartOf"] == ["linescan.target"]
    common = (UNITS / service).read_text().partition("# What a stage may do")[2].partition("SystemCallErrorNumber")[0]
    first = (
        (UNITS / SERVICES[0]).read_text().partition("# What a stage may do")[2].partition("SystemCallErrorNumber")[0]
    )
    assert common == first


def test_a_stop_may_take_longer_than_a_drain() -> None:
    from linescan.line import Transport

    for service in SERVICES:
        assert int(settings_of(service)["TimeoutStopSec"][0]) > Transport().drain_s + 10


# ------------------------------------------------------------------------------------------------ booted


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    tree = ROOT / "build/systemd-root"
    environ = {**os.environ, "PYTHON": sys.executable}
    made = subprocess.run(
        [ROOT / "tools/systemd_root.sh", tree], capture_output=True, text=True, env=environ, check=False
    )
    if made.returncode == 77:
        pytest.skip(f"no container tree: {made.stderr.strip()}")
    assert made.returncode == 0, made.stderr
    running = Container(tmp_path_factory.mktemp("container"), tree)
    try:
        running.run("/opt/linescan/src/systemd/install.sh")
        # real-time priority is refused in a container
        dropin = "[Service]\nCPUSchedulingPolicy=other\n"
        running.write("/etc/systemd/system/linescan-acquire@.service.d/container.conf", dropin)
        running.run("systemctl", "daemon-reload")
        yield running
    finally:
        running.close()


@pytest.fixture
def fakes(container: Container) -> Iterator[Container]:
    """The units start fake stages, with a watchdog of 2 s, and write into a new log."""
    for stage, camera in (("publisher", ""), ("worker@", "%i"), ("acquire@", "%i")):
        start = f"/opt/linescan/bin/fake {stage.rstrip('@')} {camera}"
        text = f"[Service]\nExecStart=\nExecStart={start}\nWatchdogSec=2\n"
        container.write(f"/run/systemd/system/linescan-{stage}.service.d/fake.conf", text)
    container.run("systemctl", "daemon-reload")
    container.run("rm", "-f", "/run/linescan/private/log", "/etc/linescan/exit")
    yield container
    container.run("systemctl", "stop", *ALL)
    container.run("systemctl", "reset-failed")
    container.run("bash", "-c", "rm -rf /run/systemd/system/linescan-*.d /run/linescan/*/*")
    container.run("systemctl", "daemon-reload")


def events(container: Container, *names: str) -> list[str]:
    log = container.run("cat", "/run/linescan/private/log", check=False).splitlines()
    return [line for line in log if not names or line.split()[1] in names]


# the target stops everything in its order, and itself at once; naming the services waits for them
ALL = ("linescan.target", "linescan-*")
STARTED = ["publisher", "worker@cam0", "acquire@cam0"]


@pytest.mark.slow
def test_user_and_folders(container: Container) -> None:
    said = container.run(
        "stat", "--format=%a %U %G %n", *(f"/run/linescan/{x}" for x in ("private", "public", "control"))
    )
    assert said.splitlines() == [
        "700 linescan linescan /run/linescan/private",
        "2750 linescan linescan-read /run/linescan/public",
        "2750 linescan linescan-operate /run/linescan/control",
    ]
    assert "linescan-read" not in container.run("id", "linescan")


@pytest.mark.slow
def test_nothing_to_say_about_the_installed_units(container: Container) -> None:
    units = [f"/usr/local/lib/systemd/system/{path.name}" for path in UNITS.glob("linescan*.service")]
    assert container.run("systemd-analyze", "verify", *units, "/usr/local/lib/systemd/system/linescan.target") == ""


@pytest.mark.slow
def test_a_start_waits_until_ready_and_a_stop_drains_in_reverse(fakes: Container) -> None:
    fakes.run("systemctl", "enable", "linescan.target", "linescan-acquire@cam0")
    fakes.run("systemctl", "start", "linescan.target")
    assert events(fakes, "started", "ready") == [
        f"{stage} {what}" for stage in STARTED for what in ("started", "ready")
    ]
    assert fakes.property("linescan-acquire@cam0", "StatusText") == "there"
    fakes.run("systemctl", "stop", *ALL)
    stopped = [f"{stage} {what}" for stage in reversed(STARTED) for what in ("asked", "drained")]
    assert events(fakes, "asked", "drained") == stopped
    assert fakes.run("systemctl", "list-units", "--no-legend", "--state=active", "linescan-*.service") == ""
    fakes.run("systemctl", "disable", "linescan.target", "linescan-acquire@cam0")


@pytest.mark.slow
def test_a_killed_stage_is_started_again_and_the_others_stay(fakes: Container) -> None:
    fakes.run("systemctl", "start", "linescan-acquire@cam0")
    fakes.run("systemctl", "kill", "--signal=KILL", "linescan-worker@cam0")
    fakes.wait_for(lambda: events(fakes, "ready").count("worker@cam0 ready") == 2, "the worker")
    assert [events(fakes, "started").count(f"{stage} started") for stage in STARTED] == [1, 2, 1]


@pytest.mark.slow
def test_a_hung_stage_is_aborted_and_started_again(fakes: Container) -> None:
    fakes.run("systemctl", "start", "linescan-acquire@cam0")
    fakes.run("systemctl", "kill", "--signal=STOP", "linescan-worker@cam0")
    fakes.wait_for(lambda: events(fakes, "ready").count("worker@cam0 ready") == 2, "the worker")
    log = fakes.run("journalctl", "--unit=linescan-worker@cam0", "--no-pager", "--boot")
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log  # where it hung


@pytest.mark.slow
@pytest.mark.parametrize(("code", "again"), [(2, False), (65, False), (75, True), (0, True)])
def test_wrong_settings_and_data_are_not_tried_again(fakes: Container, code: int, again: bool) -> None:
    fakes.write("/etc/linescan/exit", f"acquire@cam0 {code}\n")
    fakes.run("systemctl", "start", "linescan-acquire@cam0", check=False)
    fakes.wait_for(lambda: bool(events(fakes, "started")), "the first start")
    if again:
        fakes.run("rm", "/etc/linescan/exit")
        fakes.wait_for(lambda: "acquire@cam0 ready" in events(fakes), "the second start")
    else:
        fakes.wait_for(lambda: fakes.property("linescan-acquire@cam0", "ActiveState") == "failed", "the failure")
        time.sleep(3)  # its pause is 2 s
        assert events(fakes, "started").count("acquire@cam0 started") == 1


@pytest.mark.slow
def test_keys_come_as_credentials(fakes: Container) -> None:
    fakes.run("mkdir", "-p", "/etc/credstore")
    for name in ("server", "client"):
        fakes.write(f"/etc/credstore/linescan.{name}.key_secret", f"secret-of-{name}")
    fakes.run("systemctl", "start", "linescan-acquire@cam0")
    both = "client.key_secret=secret-of-client server.key_secret=secret-of-server"
    assert events(fakes, "has") == [
        f"publisher has {both}", "worker@cam0 has client.key_secret=secret-of-client", f"acquire@cam0 has {both}"
    ]  # fmt: skip
    fakes.run("rm", "-r", "/etc/credstore")


@pytest.mark.slow
def test_only_readers_connect_to_the_events(fakes: Container) -> None:
    fakes.run("systemctl", "start", "linescan-publisher")
    mode = fakes.run("stat", "--format=%A %U %G", "/run/linescan/public/events")
    assert mode == "srwxrwx--- linescan linescan-read"


@pytest.mark.slow
def test_a_stage_cannot_write_elsewhere(fakes: Container) -> None:
    fakes.run("systemctl", "start", "linescan-acquire@cam0")
    for stage, writable in (("publisher", "/var/lib/linescan"), ("worker@cam0", "/var/cache/linescan")):
        pid = fakes.property(f"linescan-{stage}", "MainPID")
        seen = fakes.run("cat", f"/proc/{pid}/mountinfo")
        mounted = {line.split()[4]: line.split()[5].split(",") for line in seen.splitlines()}
        assert "ro" in mounted["/"]
        assert "rw" in mounted[writable]
        assert re.search(r"^CapEff:\s+0+$", fakes.run("cat", f"/proc/{pid}/status"), re.MULTILINE)


# ------------------------------------------------------------------------------------------------ the real stages

PERIOD = 1280  # lines after which the simulated web repeats itself; a multiple of the stride
COLUMNS = 128
BLOTS = 6
ACQUIRES = "linescan-acquire@cam0"
LINE = """
recipe = "recipe.toml"
[[cameras]]
name = "cam0"
producer = "linescan_sim.cti"
serial = "SIM0001"
max_line_rate_hz = 500
encoder = { counts_per_line = 4 }
[cameras.features]
Height = 64
AcquisitionLineRate = 500
ChunkModeActive = true
"ChunkEnable[EncoderValue]" = true
[worker]
device = "cpu"
precision = "float32"
batch = 64
threads = 1
[recording]
directory = "/var/lib/linescan/recordings"
"""
ACQUIRE = """[Service]
Environment=LINESCAN_SIM_DIR=/etc/linescan/camera
ReadWritePaths=/etc/linescan/camera
"""


def simctl() -> Any:
    spec = importlib.util.spec_from_file_location("simctl", ROOT / "tools/simulator/simctl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simctl"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class RunningLine:
    """The units as they are installed, with a simulated camera and a model that finds bright blots."""

    def __init__(self, container: Container, bundle: Path) -> None:
        self.container = container
        etc = container.folder / "etc"
        self.camera = simctl().Simulator(etc / "camera")
        self.last = 0  # event of the rolls before
        (etc / "camera").chmod(0o777)  # in the container it is another user's
        strip = plain(PERIOD, COLUMNS)
        for number in range(BLOTS):
            strip = blot(strip, 100 + 200 * number, 20 + 12 * number)
        simctl().write_strip(etc / "camera/web.pgm", strip)
        self.camera.configure(SIM0001={"strip": "web.pgm", "line_rate": 500})
        subprocess.run([ROOT / "tools/simulator/build.sh", etc / "linescan_sim.cti"], check=True)
        shutil.copy(bundle, etc / "model.pt")
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        (etc / "recipe.toml").write_text(f'[model]\nfile = "model.pt"\nsha256 = "{digest}"\n')
        (etc / "line.toml").write_text(LINE)
        container.write("/run/systemd/system/linescan-acquire@.service.d/camera.conf", ACQUIRE)
        container.run("systemctl", "daemon-reload")

    def linescan(self, command: str, *arguments: str) -> str:
        return self.container.run(
            "/opt/linescan/bin/linescan", *command.split(), "--config", "/etc/linescan/line.toml", *arguments
        )

    def disturb(self, signal: str, stage: str) -> None:
        """Kills or stops a stage, and waits until its successor is ready."""
        unit = f"linescan-{stage}"
        before = self.container.property(unit, "MainPID")
        self.container.run("systemctl", "kill", f"--signal={signal}", unit)
        self.container.wait_for(
            lambda: (
                self.container.property(unit, "MainPID") not in ("0", before)
                and self.container.property(unit, "ActiveState") == "active"
            ),
            f"{stage} after SIG{signal}",
        )

    def end_roll(self) -> list[dict[str, Any]]:
        """Ends the roll that runs and returns its events."""
        roll = re.match("roll ([^,]+),", self.linescan("roll status"))
        assert roll is not None
        self.linescan("roll end")
        events: list[dict[str, Any]] = []
        while not events or events[-1]["roll"] != roll[1]:  # of rolls before, where another test failed
            said = self.linescan(f"events --json --until-roll-end --patience 60 --since {self.last}")
            events = [json.loads(line) for line in said.splitlines()]
            self.last = events[-1]["sequence"]
        return events

    def restarts(self) -> int:
        return int(self.container.property(ACQUIRES, "NRestarts"))

    def recorded(self, folder: str) -> int:
        """Bytes of recordings; their last buffer comes when the file is closed."""
        sizes = self.container.run("bash", "-c", f"stat --format=%s {folder}/*.mcap*", check=False).split()
        return sum(int(size) for size in sizes if size.isdecimal())

    def frames(self) -> list[Any]:
        """What the camera delivered, frame by frame, and every web line is accounted for."""
        self.camera.count("SIM0001")
        return [entry for entry in self.camera.log("SIM0001") if entry.outcome == "delivered"]


@pytest.fixture(scope="module")
def line(container: Container, toy: Path) -> Iterator[RunningLine]:
    pytest.importorskip("genicam", reason="the GenICam packages are not installed")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build the simulated camera with (Debian: apt-get install gcc)")
    running = RunningLine(container, toy)
    container.run("systemctl", "start", "linescan-acquire@cam0")
    yield running
    container.run("systemctl", "stop", *ALL)


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def length(gap: dict[str, Any]) -> int:
    return int(gap["last_line"] - gap["first_line"] + 1)


@pytest.mark.slow
def test_no_line_is_lost_with_killed_and_hung_stages(line: RunningLine) -> None:
    time.sleep(3)
    for signal, stage in (("KILL", "worker@cam0"), ("KILL", "publisher"), ("STOP", "worker@cam0")):
        line.disturb(signal, stage)
        time.sleep(3)
    assert "Watchdog timeout" in line.container.run("journalctl", "--unit=linescan-worker@cam0", "--boot")
    events = line.end_roll()
    end = events[-1]
    assert of_type(events, "gap") == []
    assert end["lines"] == end["inspected_up_to"] == end["lines_inspected"] > 5 * PERIOD
    closed = [event for event in of_type(events, "region") if event["phase"] == "close"]
    assert len({event["id"] for event in closed}) == len(closed)
    # the web repeats itself, and so does what is found: nothing is missing, doubled or cut where a stage was replaced
    found: dict[int, set[tuple[int, ...]]] = {}
    for event in closed:
        place = (event["first_line"] % PERIOD, event["last_line"] % PERIOD, event["first_column"], event["area_px"])
        found.setdefault(event["first_line"] // PERIOD, set()).add(place)
    whole = [found[number] for number in range(1, end["lines"] // PERIOD - 1)]
    assert len(whole[0]) >= BLOTS
    assert all(places == whole[0] for places in whole)


@pytest.mark.slow
def test_a_stop_drains_and_a_start_says_what_was_missed(line: RunningLine) -> None:
    line.linescan("roll start")
    time.sleep(3)
    line.container.run("systemctl", "stop", *ALL)
    said = line.container.run("journalctl", "--unit=linescan-*", "--boot", "--output=cat")
    assert '"drained": true' in said
    assert '"settled": true' in said
    before = line.frames()[-1]
    line.container.run("systemctl", "start", "linescan-acquire@cam0")
    time.sleep(3)
    events = line.end_roll()
    after = next(frame for frame in line.frames() if frame.first_line > before.first_line)
    (gap,) = of_type(events, "gap")
    assert (gap["cause"], gap["estimated"]) == ("shutdown", False)
    assert length(gap) == after.first_line - before.end_line  # every line from before the stop was inspected
    end = events[-1]
    assert end["lines"] == end["inspected_up_to"] == end["lines_inspected"] + length(gap)


@pytest.mark.slow
def test_a_killed_acquire_loses_lines_and_says_which(line: RunningLine) -> None:
    line.linescan("roll start")
    time.sleep(2)
    line.disturb("KILL", "acquire@cam0")
    time.sleep(2)
    events = line.end_roll()
    (gap,) = of_type(events, "gap")
    assert (gap["cause"], gap["estimated"]) == ("acquire-lost", False)
    end = events[-1]
    assert end["lines"] == end["inspected_up_to"] == end["lines_inspected"] + length(gap)


@pytest.mark.slow
def test_an_unplugged_camera_is_awaited(line: RunningLine) -> None:
    line.linescan("roll start")
    time.sleep(2)
    before = line.restarts()
    line.camera.unplug("SIM0001")
    line.container.wait_for(lambda: line.restarts() >= before + 3, "three tries to find the camera")
    line.camera.replug("SIM0001")
    line.container.wait_for(lambda: line.container.property(ACQUIRES, "ActiveState") == "active", "the camera")
    time.sleep(2)
    events = line.end_roll()
    (gap,) = of_type(events, "gap")
    assert (gap["cause"], gap["estimated"]) == ("camera-lost", False)
    said = line.container.run("journalctl", f"--unit={ACQUIRES}", "--boot", "--output=cat")
    assert "status=75" in said


@pytest.mark.slow
def test_a_recorder_writes_into_its_folder_alone(line: RunningLine) -> None:
    line.linescan("roll start")
    line.container.run("systemctl", "start", "linescan-recorder@cam0")
    folder = "/var/lib/linescan/recordings/cam0"
    line.container.wait_for(lambda: line.recorded(folder) > 500_000, "half a megabyte of frames")
    line.container.run("systemctl", "stop", "linescan-recorder@cam0")
    line.end_roll()
    assert line.container.property("linescan-recorder@cam0", "Result") == "success"
    assert line.container.run("stat", "--format=%a %U", folder).endswith(" linescan")
