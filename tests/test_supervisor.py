"""`linescan run`'s supervisor with stages that do nothing but behave, well or badly, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from linescan.line import Line
from linescan.supervisor import stage_commands

ROOT = Path(__file__).parents[1]
PATIENCE_S = 30.0  # how long a test waits for what takes a tenth of a second on a quiet machine

# argv: the log, its own name, then behaviour as key=value
STAGE = """
import os, signal, sys, time
from linescan.health import Health

log, name, *words = sys.argv[1:]
does = dict(word.split("=") for word in words)

def say(event):
    with open(log, "a") as file:
        file.write(f"{name} {event} {os.getpid()}\\n")

def count(event):
    with open(log) as file:
        return sum(line.startswith(f"{name} {event} ") for line in file)

def stop(number, frame):
    say("asked")
    health.stopping()
    time.sleep(float(does.get("drain", 0)))
    say("drained")
    sys.exit(int(does.get("stop_code", 0)))

say("started")
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in does else stop)
if "abort" in does:
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
health = Health()
time.sleep(float(does.get("load", 0)))
times = int(does.get("times", 1000))  # how many of its lives it misbehaves in
bad = count("started") <= times
if bad and "early" in does:
    sys.exit(int(does["early"]))
if "silent" not in does:
    say("ready")
    health.ready("there")
if "leave" in does:
    health.stopping()
    time.sleep(60)
until = time.monotonic() + float(does.get("after", 0))
while not (bad and ("code" in does or "hang" in does)) or time.monotonic() < until:
    health.turn()
    time.sleep(0.01)
if "hang" in does:
    say("hangs")
    time.sleep(60)
say("exits")
if int(does["code"]) < 0:
    os.kill(os.getpid(), -int(does["code"]))
sys.exit(int(does["code"]))
"""

DRIVER = """
import sys
from linescan import supervised
from linescan.supervisor import StageCommand, Supervisor

supervised.FIRST_PAUSE_S = 0.05
supervised.ABORT_S = 0.5
sys.exit(Supervisor([StageCommand(**stage) for stage in {stages!r}]).run())
"""


class Running:
    """A supervisor as a process of its own, and what its stages wrote down."""

    def __init__(self, folder: Path, stages: list[dict[str, Any]]) -> None:
        self.log = folder / "log"
        self.log.touch()
        (folder / "stage.py").write_text(STAGE)
        for stage in stages:
            behaviour = stage.pop("does", "").split()
            stage["argv"] = [sys.executable, str(folder / "stage.py"), str(self.log), stage["name"], *behaviour]
            stage.setdefault("stop_timeout_s", 20.0)
        self.output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(stages=stages)],
            stdout=self.output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def events(self, *names: str) -> list[str]:
        """What happened, in order, as "stage event"; with names, these events only."""
        words = [line.split() for line in self.log.read_text().splitlines()]
        return [f"{stage} {event}" for stage, event, _ in words if not names or event in names]

    def pids(self, stage: str) -> list[int]:
        words = [line.split() for line in self.log.read_text().splitlines()]
        return [int(pid) for name, event, pid in words if (name, event) == (stage, "started")]

    def wait_for(self, stage: str, event: str, times: int = 1) -> None:
        wait_until(lambda: self.events().count(f"{stage} {event}") >= times, f"{stage} {event} × {times}", self.said)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill_leftovers(self) -> None:
        """The stages of a supervisor that failed its test."""
        for pid in (int(line.split()[2]) for line in self.log.read_text().splitlines()):
            with suppress(FileNotFoundError, ProcessLookupError):
                if str(self.log).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def said(self) -> str:
        self.output.seek(0)
        return f"{self.events()}\n{self.output.read()}"


def wait_until(condition: Callable[[], bool], what: str, said: Callable[[], str] = str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"waited for {what}:\n{said()}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a supervisor with the given stages: dicts of StageCommand, `does` for the fake stage's behaviour."""
    running: list[Running] = []

    def start(*stages: dict[str, Any]) -> Running:
        running.append(Running(tmp_path, list(stages)))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()
        one.output.close()
        one.kill_leftovers()


def line_of(publisher: str = "", worker: str = "", acquire: str = "") -> list[dict[str, Any]]:
    return [
        {"name": "publisher", "rank": 0, "does": publisher},
        {"name": "worker", "rank": 1, "does": worker},
        {"name": "acquire", "rank": 2, "restart": "always", "does": acquire},
    ]


def test_each_starts_when_the_one_before_is_ready_and_they_stop_in_reverse(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of("load=0.2 drain=0.1", "load=0.2 drain=0.1", "drain=0.1"))
    run.wait_for("acquire", "ready")
    assert run.stop() == 0, run.said()
    assert run.events() == [
        *("publisher started", "publisher ready", "worker started", "worker ready", "acquire started", "acquire ready"),
        *("acquire asked", "acquire drained", "worker asked", "worker drained", "publisher asked", "publisher drained"),
    ]


def test_stages_of_one_rank_start_and_stop_together(supervised: Callable[..., Running]) -> None:
    run = supervised(
        {"name": "publisher"},
        {"name": "a", "rank": 1, "does": "load=0.3 drain=0.3"},
        {"name": "b", "rank": 1, "does": "load=0.3 drain=0.3"},
    )
    run.wait_for("a", "ready")
    run.wait_for("b", "ready")
    assert run.stop() == 0, run.said()
    assert sorted(run.events()[2:4]) == ["a started", "b started"]
    assert sorted(run.events()[6:8]) == ["a asked", "b asked"]
    assert run.events()[-2:] == ["publisher asked", "publisher drained"]


def test_a_killed_stage_is_started_again_and_the_others_stay(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of())
    run.wait_for("acquire", "ready")
    os.kill(run.pids("worker")[0], signal.SIGKILL)
    run.wait_for("worker", "ready", 2)
    assert run.stop() == 0, run.said()
    assert [len(run.pids(name)) for name in ("publisher", "worker", "acquire")] == [1, 2, 1]


def test_a_hung_stage_is_aborted_and_started_again(supervised: Callable[..., Running]) -> None:
    stages = line_of(worker="hang=1 times=1")
    stages[1]["watchdog_s"] = 0.5
    run = supervised(*stages)
    run.wait_for("worker", "ready", 2)
    assert run.stop() == 0, run.said()
    assert "SIGABRT" in run.said()


def test_a_hung_stage_that_does_not_abort_is_killed(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "watchdog_s": 0.5, "does": "hang=1 times=1 abort=0"})
    run.wait_for("worker", "ready", 2)
    assert run.stop() == 0, run.said()
    assert "SIGKILL" in run.said()


def test_a_stopped_process_does_not_hold_the_watchdog_up(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "watchdog_s": 0.5})
    run.wait_for("worker", "ready")
    os.kill(run.pids("worker")[0], signal.SIGSTOP)
    run.wait_for("worker", "ready", 2)
    assert run.stop() == 0, run.said()
    assert "SIGABRT" in run.said()
    assert "SIGKILL" not in run.said()


def test_a_stage_that_feeds_its_watchdog_stays(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "watchdog_s": 2.0})
    run.wait_for("worker", "ready")
    time.sleep(3)
    assert run.stop() == 0, run.said()
    assert len(run.pids("worker")) == 1


def test_a_stage_that_is_not_ready_in_time_is_started_again(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "start_timeout_s": 1.0, "does": "silent=1"})
    run.wait_for("worker", "started", 2)
    assert run.stop() == 0, run.said()
    assert "SIGABRT" in run.said()


def test_a_stage_that_says_it_stops_has_the_stop_timeout_for_it(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "stop_timeout_s": 0.5, "does": "leave=1"})
    run.wait_for("worker", "ready", 2)
    assert "SIGKILL" in run.said()


@pytest.mark.parametrize("code", [2, 65])
@pytest.mark.parametrize("when", ["code", "early"])
def test_wrong_settings_or_data_end_the_line_at_once(supervised: Callable[..., Running], code: int, when: str) -> None:
    run = supervised(*line_of(acquire=f"{when}={code}"))
    assert run.process.wait(PATIENCE_S) == code, run.said()
    assert len(run.pids("acquire")) == 1
    assert run.events("asked", "drained") == [
        "worker asked", "worker drained", "publisher asked", "publisher drained"
    ]  # fmt: skip


def test_a_publisher_with_wrong_settings_starts_nothing_else(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of("early=2"))
    assert run.process.wait(PATIENCE_S) == 2, run.said()
    assert run.events() == ["publisher started"]


@pytest.mark.parametrize(("code", "expected"), [(69, 69), (0, 70), (-signal.SIGSEGV, 70)])
def test_a_stage_that_fails_too_often_ends_the_line(
    supervised: Callable[..., Running], code: int, expected: int
) -> None:
    stages = line_of(worker=f"code={code}")
    stages[1]["restarts"] = 2
    run = supervised(*stages)
    assert run.process.wait(PATIENCE_S) == expected, run.said()
    assert len(run.pids("worker")) == 3
    assert run.events("drained")[-1] == "publisher drained"


def test_restarts_of_long_ago_do_not_count(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "worker", "restarts": 1, "within_s": 0.2, "does": "code=70 times=3 after=0.3"})
    run.wait_for("worker", "ready", 4)
    assert run.stop() == 0, run.said()


def test_a_lost_camera_is_awaited_for_ever_with_growing_pauses(supervised: Callable[..., Running]) -> None:
    stages = line_of(acquire="early=75 times=6")
    stages[2]["restarts"] = 1  # not asked about
    run = supervised(*stages)
    run.wait_for("acquire", "ready")
    assert run.stop() == 0, run.said()
    assert len(run.pids("acquire")) == 7
    output = run.said()
    pauses = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    assert all(f"pause_s={pause}" in output for pause in pauses), output


def test_a_stop_does_not_wait_for_a_pause(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of(acquire="early=75"))
    run.wait_for("acquire", "started", 6)  # 1.6 s and more lie before the next one
    wait_until(lambda: run.said().count("stage-ended") >= 6, "the sixth to end too", run.said)
    assert run.stop() == 0, run.said()
    assert len(run.pids("acquire")) == 6


def test_a_stage_that_does_not_drain_in_time_is_killed_and_said(supervised: Callable[..., Running]) -> None:
    stages = line_of(worker="drain=60")
    stages[1]["stop_timeout_s"] = 0.5
    run = supervised(*stages)
    run.wait_for("acquire", "ready")
    assert run.stop() == 70, run.said()
    assert "stage-killed" in run.said()
    assert run.events("drained") == ["acquire drained", "publisher drained"]


def test_a_stage_that_fails_while_it_drains_gives_its_code(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of(worker="stop_code=69"))
    run.wait_for("acquire", "ready")
    assert run.stop() == 69, run.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_that_stop(supervised: Callable[..., Running], number: int) -> None:
    run = supervised(*line_of())
    run.wait_for("acquire", "ready")
    run.process.send_signal(number)
    assert run.process.wait(PATIENCE_S) == 0, run.said()
    assert run.events("drained") == ["acquire drained", "worker drained", "publisher drained"]


def test_a_second_signal_kills(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of(acquire="drain=60"))
    run.wait_for("acquire", "ready")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("acquire", "asked")
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(PATIENCE_S) == 130, run.said()
    assert not any(alive(run.pids(name)[0]) for name in ("publisher", "worker", "acquire"))


def test_a_stop_during_the_start(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of(worker="load=60"))
    run.wait_for("worker", "started")
    assert run.stop() == 0, run.said()
    assert "acquire started" not in run.events()


def test_the_stages_die_with_their_supervisor(supervised: Callable[..., Running]) -> None:
    run = supervised(*line_of(worker="deaf=1"))
    run.wait_for("acquire", "ready")
    pids = [run.pids(name)[0] for name in ("publisher", "worker", "acquire")]
    assert all(alive(pid) for pid in pids)
    run.process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of all stages", run.said)


def test_only_a_stage_speaks_for_itself(supervised: Callable[..., Running]) -> None:
    """A message from a process that is no stage changes nothing, whatever it says."""
    run = supervised({"name": "worker", "does": "silent=1"}, {"name": "acquire", "rank": 1})
    run.wait_for("worker", "started")
    pid = run.pids("worker")[0]
    environ = dict(part.split("=", 1) for part in Path(f"/proc/{pid}/environ").read_text().split("\0") if part)
    told = "import sys; from linescan.health import Health; Health({'NOTIFY_SOCKET': sys.argv[1]}).ready('there')"
    subprocess.run([sys.executable, "-c", told, environ["NOTIFY_SOCKET"]], cwd=ROOT, check=True)
    time.sleep(0.3)
    assert run.events() == ["worker started"]


def test_it_sleeps_while_nothing_happens(supervised: Callable[..., Running]) -> None:
    run = supervised({"name": "publisher", "watchdog_s": 60.0})
    run.wait_for("publisher", "ready")
    before = processor_s(run.process.pid)
    time.sleep(1)
    assert processor_s(run.process.pid) - before <= 0.05


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_processes_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(
        'recipe = "r.toml"\n[transport]\ndrain_s = 25\n'
        + "".join(f'[[cameras]]\nname = "{n}"\nproducer = "x.cti"\nserial = "1"\nmax_line_rate_hz = 1\n' for n in "ab")
    )
    stages = stage_commands(Line(path), "python")
    assert [stage.name for stage in stages] == ["publisher", "worker@a", "worker@b", "acquire@a", "acquire@b"]
    assert [stage.rank for stage in stages] == [0, 1, 1, 2, 2]
    assert [stage.restart for stage in stages] == ["limited"] * 3 + ["always"] * 2
    assert all(stage.stop_timeout_s > 25 for stage in stages)
    common = ["python", "-m", "linescan.cli.main"]
    assert stages[0].argv == [*common, "publisher", "--config", str(path)]
    assert stages[4].argv == [*common, "acquire", "--config", str(path), "--camera", "b"]


def test_a_recorder_for_each_camera_where_frames_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(
        'recipe = "r.toml"\n[recording]\ndirectory = "r"\n[[cameras]]\nname = "a"\nproducer = "x.cti"\nserial = "1"\n'
        "max_line_rate_hz = 1\n"
    )
    recorder = stage_commands(Line(path), "python")[2]
    assert (recorder.name, recorder.rank, recorder.restart) == ("record@a", 1, "always")
    assert recorder.argv[3:] == ["record", "--config", str(path), "--camera", "a"]
