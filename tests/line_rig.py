"""A line of real processes behind the simulated camera: started, killed and watched by a test.

The test subscribes like any program, and takes frames as an observer does: the web line's number is in their pixels.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from linescan.line import Line
from linescan.messages import (
    Credit,
    Frame,
    Hello,
    Message,
    Progress,
    Refused,
    RollCommand,
    RollEnd,
    RollState,
    Status,
)
from linescan.subscriber import Event, Events, subscribe
from linescan.transport.keys import load_keys
from linescan.transport.zeromq import ZmqNetwork
from tests.conftest import Smooth, toy_bundle

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/simulator"))
simctl = importlib.import_module("simctl")

SERIAL, CAMERA = "SIM0001", "cam0"
MARGIN, COLUMNS, HEIGHT, STRIP_LINES = 32, 128, 64, 4001  # a prime: defects fall differently into each turn's frames
RATE = 1000  # what a busy machine keeps up with
COUNTS_PER_LINE = 4
MM_PER_COLUMN = 0.1  # on a line that knows where its web is
PATIENCE_S = 120.0  # how long a test waits for what takes seconds on a quiet machine
STAGES = ("publisher", "acquire", "worker")
READY = {"publisher": '"publishing"', "acquire": '"acquiring"', "worker": '"ready"'}

# dies with the test however that ends; UTC is what the file named first says beside the truth
STAGE = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(1, 9)
truth, step = time.time_ns, sys.argv.pop(1)
def stepped():
    with open(step) as file:
        return truth() + int(file.read() or 0)
time.time_ns = stepped
from linescan.cli.main import main
sys.exit(main())
"""


def build_producer(folder: Path) -> Path | None:
    """Compiles the simulated camera; None where there is no compiler."""
    output = folder / "linescan_sim.cti"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return None
    subprocess.run([str(ROOT / "tools/simulator/build.sh"), str(output)], check=True, capture_output=True)
    return output


def web(lines: int = STRIP_LINES, defects: int = 60, seed: int = 3) -> NDArray[np.uint8]:
    """Grey web with bright and dark blots, bars longer than frames, and forks whose prongs merge."""
    rng = np.random.default_rng(seed)
    strip = rng.normal(120, 2, (lines, COLUMNS)).clip(0, 255).astype(np.uint8)
    for number in range(defects):
        line, column = int(rng.integers(0, lines - 400)), int(rng.integers(MARGIN, COLUMNS - 24))
        value = 255 if number % 2 else 0
        if number % 6 == 0:
            strip[line : line + int(rng.integers(100, 350)), column : column + 5] = value
        elif number % 6 == 1:
            prong = int(rng.integers(40, 160))
            strip[line : line + prong, column : column + 4] = value
            strip[line + 9 : line + prong, column + 16 : column + 20] = value
            strip[line + prong : line + prong + 5, column : column + 20] = value
        else:
            size = int(rng.integers(5, 14))
            strip[line : line + size, column : column + size] = value
    return strip


class Process:
    """One stage's process, and what it says."""

    def __init__(self, stage: str, arguments: list[str], environ: dict[str, str], log: Path) -> None:
        self.stage, self.log = stage, log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", STAGE, *arguments], env={**os.environ, **environ}, cwd=ROOT, stdout=file,
                stderr=file, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def ready(self) -> bool:
        return READY[self.stage] in self.said

    @property
    def code(self) -> int | None:
        return self.popen.poll()

    def end(self, number: int = signal.SIGKILL) -> int:
        """Its exit code after the signal; a process that was stopped goes on first."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            self.popen.send_signal(signal.SIGCONT)
        return self.popen.wait(PATIENCE_S)


class Watcher:
    """An observer of the frames' stream: for each roll, what must be added to its line numbers to get the web's."""

    def __init__(self, network: ZmqNetwork, line: Line) -> None:
        self._client = network.client(line.frames_endpoint(CAMERA))
        self._asked = -1e9
        self._heard = time.monotonic()
        self.offsets: defaultdict[str, set[int]] = defaultdict(set)
        self.frames = 0

    def turn(self) -> None:
        came = 0
        while (received := self._client.receive()) is not None:
            if isinstance(received.message, Frame):
                came += 1
                self._take(received.message, received.pixels)
        now = time.monotonic()
        if came:
            self._heard = now
            self._client.send(Credit(CAMERA, 0, came, "", 0, 0, False))
        elif now - self._heard > 0.5 and now - self._asked > 0.5:  # acquire may be another one
            self._asked = now
            self._client.send(Hello(CAMERA, "watcher", "observer"))
            self._client.send(Credit(CAMERA, 0, 500, "", 0, 0, False))

    def _take(self, frame: Frame, pixels: Any) -> None:
        self.frames += 1
        rows = np.frombuffer(pixels, np.uint8).reshape(frame.lines, frame.columns)
        coded = simctl.read_margin(rows, margin=MARGIN)
        self.offsets[frame.roll] |= set((coded - np.arange(frame.lines) - frame.first_line).tolist())


class LineRig:
    """The processes, one subscriber from the journal's first event on, one observer.

    Args:
        model: of the bundle; finds what is not smooth.
        settings: sections of line.toml as written there, added to.
    """

    def __init__(
        self,
        folder: Path,
        producer: Path,
        *,
        strip: NDArray[np.uint8] | None = None,
        model: nn.Module | None = None,
        encoder: bool = True,
        rate: float = RATE,
        journal: Path | None = None,
        camera: dict[str, object] | None = None,
        **settings: dict[str, object],
    ) -> None:
        self.folder, self.encoder, self.rate = folder, encoder, rate
        self.strip = web() if strip is None else strip
        self.simulator = simctl.Simulator(folder / "camera")
        simctl.write_strip(self.simulator.folder / "web.pgm", self.strip)
        self.simulator.configure(
            **{SERIAL: {"strip": "web.pgm", "margin": MARGIN, "encoder_counts_per_line": COUNTS_PER_LINE,
                        "encoder_start": 777, **(camera or {})}}
        )  # fmt: skip
        self.bundle = toy_bundle(folder / "toy.pt", model or Smooth(), patch_size=32, stride=16)
        self.utc_step = folder / "utc_step"
        self.utc_step.write_text("0")
        self._write_recipe()
        self.config = self.write_config("line.toml", producer, journal or folder / "journal.sqlite", **settings)
        self.line = Line(self.config)
        keys = self.line.settings.transport.keys
        self.network = ZmqNetwork(load_keys(self.line.file(keys)) if keys else None)
        self.watcher = Watcher(self.network, self.line)
        self._control = self.network.client(self.line.control_endpoint)
        self.processes: dict[str, Process] = {}
        self.others: list[Process] = []  # beside the line's own
        self.events: list[Event] = []
        self.statuses: dict[str, Status] = {}
        self.progress: dict[str, int] = {}  # roll → inspected_up_to as last heard
        self._subscription: Events = subscribe(
            self.config, 0, on_status=self._hear_status, on_progress=self._hear_progress
        )
        self._started = self._rolls = 0
        self.roll = ""

    def _write_recipe(self) -> None:
        digest = hashlib.sha256(self.bundle.read_bytes()).hexdigest()
        text = f'[model]\nfile = "toy.pt"\nsha256 = "{digest}"\n[inspection]\ncolumns = [{MARGIN}, {COLUMNS}]\n'
        (self.folder / "recipe.toml").write_text(text)

    def write_config(
        self, name: str, producer: Path, journal: Path, serial: str = SERIAL, **settings: dict[str, object]
    ) -> Path:
        features = {
            "Width": COLUMNS, "Height": HEIGHT, "PixelFormat": "Mono8", "AcquisitionLineRateEnable": True,
            "AcquisitionLineRate": float(self.rate), "ChunkModeActive": True, "ChunkEnable[EncoderValue]": True,
        }  # fmt: skip
        camera = {"name": CAMERA, "producer": str(producer), "serial": serial, "max_line_rate_hz": float(self.rate),
                  "buffer_s": 2.0}  # fmt: skip
        if "web" in settings:
            camera["mm_per_column"] = MM_PER_COLUMN
        encoder = ["[cameras.encoder]", f"counts_per_line = {COUNTS_PER_LINE}"] if self.encoder else []
        sections: dict[str, dict[str, object]] = {
            "transport": {"directory": "run", "lease_s": 2.0, "drain_s": 30},
            "worker": {"device": "cpu", "precision": "float32", "batch": 16, "threads": 1},
            "journal": {"file": str(journal)},
        }
        for section, values in settings.items():
            sections[section] = {**sections.get(section, {}), **values}
        lines = ['recipe = "recipe.toml"', 'rolls = "commanded"', "status_s = 0.3", "[[cameras]]", *_toml(camera)]
        lines += [*encoder, "[cameras.features]", *_toml(features)]
        for section, values in sections.items():
            lines += [f"[{section}]", *_toml(values)]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    # ------------------------------------------------------------------------------------------ processes

    def launch(self, stage: str, config: Path | None = None) -> Process:
        """A process of that stage, beside those of the line."""
        self._started += 1
        arguments = [str(self.utc_step), stage, "--config", str(config or self.config)]
        log = self.folder / f"{self._started:03d}-{stage}.log"
        environ = {**self.simulator.environment(), "OMP_NUM_THREADS": "1"}
        process = Process(stage, arguments, environ, log)
        self.others.append(process)
        return process

    def start(self, *stages: str) -> None:
        """Starts stages that do not run; returns at once."""
        for stage in stages:
            running = self.processes.get(stage)
            if running is None or running.code is not None:
                self.adopt(self.launch(stage))

    def adopt(self, process: Process) -> None:
        """Makes it the line's own."""
        self.others.remove(process)
        self.processes[process.stage] = process

    def begin(self) -> None:
        """Everything runs, and the first roll."""
        self.start(*STAGES)
        self.wait(lambda: self.processes["publisher"].ready, "the publisher")
        self.fresh_roll()

    def kill(self, *stages: str) -> None:
        for stage in stages:
            self.processes[stage].end()

    def close(self) -> None:
        for process in [*self.processes.values(), *self.others]:
            process.end()
        self._subscription.close()
        self.network.close()

    def __enter__(self) -> LineRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ time passes

    def pump(self, seconds: float = 0.05) -> None:
        """Takes what comes."""
        self.events += self._subscription.take(seconds)
        self.watcher.turn()

    def _hear_status(self, status: Status) -> None:
        self.statuses[status.stage] = status

    def _hear_progress(self, progress: Progress) -> None:
        self.progress[progress.roll] = max(progress.inspected_up_to, self.progress.get(progress.roll, 0))

    def wait(self, condition: Callable[[], object], what: str, *, mortal: Iterable[str] = ()) -> None:
        """Takes what comes until the condition holds; a stage of the line that dies meanwhile is a failure."""
        until = time.monotonic() + PATIENCE_S
        died = {stage for stage, process in self.processes.items() if process.code is not None} | set(mortal)
        while not condition():
            self.pump()
            for stage, process in self.processes.items():
                alive = stage in died or process.code is None
                assert alive, f"waiting for {what}: {stage} died\n{process.said[-3000:]}"
            assert time.monotonic() < until, f"waited {PATIENCE_S:g} s for {what}\n{self.account()}"

    def wait_exit(self, process: Process) -> int:
        self.wait(lambda: process.code is not None, f"{process.stage} to exit", mortal=[process.stage])
        code = process.code
        assert code is not None
        return code

    def account(self) -> str:
        """How things stand, for who has to find out why."""
        said = [f"{stage} ({process.code}): {process.said[-600:]}" for stage, process in self.processes.items()]
        return "\n".join([f"roll {self.roll}, web {self.web_line()}", *map(str, self.statuses.values()), *said])

    def web_line(self) -> int:
        """The line behind the last one that the camera's log names."""
        with suppress(OSError), (self.simulator.folder / f"{SERIAL}.log").open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
            for line in reversed(file.read().decode().rpartition("\n")[0].splitlines()):
                words = line.split()
                if len(words) == 6 and not line.startswith("#"):
                    return int(words[1]) + int(words[2])
        return 0

    def pass_lines(self, lines: int) -> None:
        """The web goes on by so many lines, as the camera saw it."""
        goal = self.web_line() + lines
        self.wait(lambda: self.web_line() >= goal, f"web line {goal}", mortal=STAGES)

    def inspect_lines(self, lines: int) -> None:
        """The inspection of this roll goes on by so many lines."""
        goal = self.progress.get(self.roll, 0) + lines
        self.wait(lambda: self.progress.get(self.roll, 0) >= goal, f"line {goal} of {self.roll} to be inspected")

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.pump(min(0.05, seconds))

    # ------------------------------------------------------------------------------------------ rolls

    def change_roll(self) -> str:
        """Begins a roll, and with that ends the one before; returns at once."""
        self._rolls += 1
        self.roll = f"r{self._rolls:03d}"
        self.command(RollCommand("start", self.roll, ""))
        return self.roll

    def fresh_roll(self) -> str:
        """As change_roll; all stages run, its first frames were seen."""
        self.start(*STAGES)
        self.change_roll()
        self.wait(lambda: self.watcher.offsets[self.roll] and self.progress.get(self.roll), f"frames of {self.roll}")
        return self.roll

    def finish(self) -> str:
        """Begins the next roll and waits until all of the one before is told; returns that one's name."""
        roll = self.roll
        self.fresh_roll()
        self.wait(lambda: self.end_of(roll) is not None, f"the end of {roll}")
        return roll

    def command(self, command: RollCommand) -> RollState:
        """What an operator does; again where nobody answers."""
        asked = -1e9
        while True:
            if time.monotonic() - asked > 3:
                asked = time.monotonic()
                self._control.send(command)
            self.pump()
            received = self._control.receive()
            if received is None:
                continue
            if isinstance(received.message, RollState):
                return received.message
            assert isinstance(received.message, Refused)
            if "was there before" not in received.message.reason:  # asked twice, since the first answer was lost
                raise AssertionError(received.message.reason)
            command = RollCommand("status", "", "")
            asked = -1e9

    def messages(self, roll: str) -> list[Message]:
        return [event.message for event in self.events if getattr(event.message, "roll", "") == roll]

    def end_of(self, roll: str) -> RollEnd | None:
        return next((message for message in self.messages(roll) if isinstance(message, RollEnd)), None)

    def counter(self, stage: str, name: str) -> int:
        """As the stage last said it."""
        status = self.statuses.get(stage)
        return status.counters.get(name, 0) if status else 0


def _toml(values: dict[str, object]) -> list[str]:
    def written(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {written(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        return f'"{value}"' if isinstance(value, str) else str(value).lower()

    return [f'"{key}" = {written(value)}' for key, value in values.items()]
