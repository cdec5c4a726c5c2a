#!/usr/bin/env python3
"""Drives the simulated cameras through their state folder; on the command line, or imported by tests.

simctl.py FOLDER configure SIM0001 strip=web.pgm margin=32     sets keys of sim.conf (SIM0001, SIM0002, or both)
simctl.py FOLDER send SIM0001 drop 2                           a command, obeyed when this returns
simctl.py FOLDER unplug SIM0001                                works whether or not a program has the camera open
simctl.py FOLDER replug SIM0001
simctl.py FOLDER log SIM0001                                   lines by outcome; 65 unless every line is named once
simctl.py FOLDER strip image.npy web.pgm                       a strip file from an array of 8-bit grey
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SERIALS = ("SIM0001", "SIM0002")
OUTCOMES = ("delivered", "dropped", "incomplete", "overrun", "unattended")
FULL_SCALE = {"Mono8": 255, "Mono10": 1023, "Mono12": 4095, "Mono12p": 4095, "RGB8": 255}


@dataclass(frozen=True)
class Entry:
    """One line of the log: what became of `lines` web lines from `first_line` on."""

    frame_id: int  # -1 where the lines were in no frame
    first_line: int
    lines: int
    outcome: str
    encoder_count: int  # at the first line; -1 without encoder
    monotonic_ns: int  # when the first line was exposed

    @property
    def end_line(self) -> int:
        """The first line behind it."""
        return self.first_line + self.lines


class AccountingError(AssertionError):
    """The log leaves a line out, or names one twice."""


class Simulator:
    """The state folder of a simulator."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to see these cameras."""
        return {"LINESCAN_SIM_DIR": str(self.folder.resolve())}

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Writes sim.conf: `both={...}, SIM0001={...}, SIM0002={...}`. True and False become yes and no."""
        lines = _config_lines(sections.pop("both", {}))
        for serial, keys in sections.items():
            lines += [f"[{serial}]", *_config_lines(keys)]
        self._write_whole("sim.conf", "".join(line + "\n" for line in lines))

    def send(self, serial: str, *commands: str, timeout_s: float | None = 5.0) -> None:
        """Gives commands to the camera and waits until they are obeyed; `timeout_s=None` does not wait.

        Only a camera that some program has open obeys; until then the command waits in the folder.
        """
        path = self.folder / f"{serial}.command"
        deadline = time.monotonic() + (timeout_s or 5.0)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="command.", delete=False) as file:
            file.write("".join(command + "\n" for command in commands))
        try:
            while not _link(file.name, path):
                _pause(deadline, f"{path} is not taken: does a program have the camera open?")
        finally:
            os.unlink(file.name)
        while timeout_s is not None and path.exists():
            _pause(deadline, f"{path} is not taken: does a program have the camera open?")

    def unplug(self, serial: str) -> None:
        """Pulls the camera's cable."""
        (self.folder / f"{serial}.unplugged").touch()

    def replug(self, serial: str) -> None:
        """Puts it back; what was open before stays lost, the device has to be opened again."""
        (self.folder / f"{serial}.unplugged").unlink(missing_ok=True)

    def log(self, serial: str) -> list[Entry]:
        """The log's entries, oldest first."""
        return list(self._entries(serial))

    def comments(self, serial: str) -> list[str]:
        """The log's comments: commands obeyed or not understood, unplugging."""
        return [line[2:] for line in self._log_lines(serial) if line.startswith("# ")]

    def count(self, serial: str) -> Counter[str]:
        """Lines by outcome. Raises `AccountingError` unless each line from 0 on is named exactly once."""
        counts: Counter[str] = Counter()
        expected = 0
        for entry in self._entries(serial):
            if entry.first_line != expected:
                raise AccountingError(f"{serial}: expected line {expected}, the log goes on with {entry}")
            expected = entry.end_line
            counts[entry.outcome] += entry.lines
        return counts

    def _entries(self, serial: str) -> Iterator[Entry]:
        for line in self._log_lines(serial):
            if not line.startswith("#"):
                frame_id, first, lines, outcome, encoder, ns = line.split()
                yield Entry(int(frame_id), int(first), int(lines), outcome, int(encoder), int(ns))

    def _log_lines(self, serial: str) -> list[str]:
        path = self.folder / f"{serial}.log"
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def _write_whole(self, name: str, text: str) -> None:
        beside = self.folder / f"{name}.new"
        beside.write_text(text)
        beside.replace(self.folder / name)


def write_strip(path: str | os.PathLike[str], image: np.ndarray[Any, Any]) -> None:
    """Writes 8-bit grey, lines×columns, as the strip file (binary PGM) that a camera shows."""
    import numpy as np

    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"expected lines×columns of uint8, got {image.shape} of {image.dtype}")
    with open(path, "wb") as file:
        file.write(b"P5\n%d %d\n255\n" % (image.shape[1], image.shape[0]))
        np.ascontiguousarray(image).tofile(file)


def pixels(data: Any, pixel_format: str, width: int) -> np.ndarray[Any, Any]:
    """A frame's bytes as lines×columns (RGB8: ×3) of uint8 or uint16."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8)
    if pixel_format == "Mono12p":
        low, middle, high = raw.reshape(-1, 3).astype(np.uint16).T
        return np.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], axis=1).reshape(-1, width)
    if pixel_format in ("Mono10", "Mono12"):
        return raw.view("<u2").reshape(-1, width)
    return raw.reshape((-1, width, 3) if pixel_format == "RGB8" else (-1, width))


def read_margin(image: np.ndarray[Any, Any], *, margin: int = 32, full_scale: int = 255) -> np.ndarray[Any, Any]:
    """The web line numbers (modulo 2³²) coded in the first `margin` columns of lines×columns(×3)."""
    import numpy as np

    grey = image[..., 0] if image.ndim == 3 else image
    columns_a_bit = margin // 32
    bits = grey[:, columns_a_bit // 2 : margin : columns_a_bit] > full_scale // 2
    return bits @ (1 << np.arange(31, -1, -1, dtype=np.int64))


def _config_lines(keys: Mapping[str, object]) -> list[str]:
    words = {True: "yes", False: "no"}
    return [f"{key} = {words[value] if isinstance(value, bool) else value}" for key, value in keys.items()]


def _link(source: str, target: Path) -> bool:
    try:
        os.link(source, target)  # appears whole, and not over a command that still waits
    except FileExistsError:
        return False
    return True


def _pause(deadline: float, message: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(message)
    time.sleep(0.001)


def _read_config(folder: Path) -> dict[str, dict[str, object]]:
    sections: dict[str, dict[str, object]] = {"both": {}}
    section = "both"
    path = folder / "sim.conf"
    for raw in path.read_text().splitlines() if path.exists() else []:
        line = raw.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            key, value = line.split("=", 1)
            sections.setdefault(section, {})[key.strip()] = value.strip()
    return sections


def _configure(simulator: Simulator, words: list[str]) -> int:
    sections = _read_config(simulator.folder)
    sections.setdefault(words[0], {}).update(word.split("=", 1) for word in words[1:])
    simulator.configure(**sections)
    return 0


def _print_log(simulator: Simulator, serial: str) -> int:
    try:
        counts = simulator.count(serial)
    except AccountingError as error:
        print(error, file=sys.stderr)
        return 65
    for outcome in OUTCOMES:
        print(f"{outcome:<12}{counts[outcome]:>14}")
    return 0


def main() -> int:
    """Runs one command of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the state folder (LINESCAN_SIM_DIR of the program)")
    parser.add_argument("action", choices=("configure", "send", "unplug", "replug", "log", "strip"))
    parser.add_argument("words", nargs="+")
    arguments = parser.parse_args()
    simulator, words = Simulator(arguments.folder), arguments.words
    if arguments.action == "configure":
        return _configure(simulator, words)
    if arguments.action == "send":
        simulator.send(words[0], " ".join(words[1:]))
    elif arguments.action == "log":
        return _print_log(simulator, words[0])
    elif arguments.action == "strip":
        import numpy as np

        write_strip(words[1], np.load(words[0]))
    else:
        getattr(simulator, arguments.action)(words[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
