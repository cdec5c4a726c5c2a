"""What the commands say of themselves, and while they wait for a line that is not there."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from linescan.cli.common import Help
from linescan.cli.main import COMMANDS, main
from linescan.cli.silence import SILENT_S, Silence
from linescan.errors import ConfigError
from linescan.line import Line
from tests.conftest import plain, write_frames

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]


def write_line(folder: Path) -> Path:
    (folder / "recipe.toml").write_text('[model]\nfile = "toy.pt"\n', encoding="utf-8")
    path = folder / "line.toml"
    path.write_text(
        'recipe = "recipe.toml"\n[transport]\ndirectory = "run"\n[[cameras]]\nname = "cam0"\nproducer = "camera.cti"\n'
        'serial = "1"\nmax_line_rate_hz = 500.0\n[journal]\nfile = "journal.sqlite"\n',
        encoding="utf-8",
    )
    return path


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_its_default(command: str) -> None:
    parser = argparse.ArgumentParser(formatter_class=Help)
    parser.set_defaults(command=command)
    import_module(f"linescan.cli.{COMMANDS[command][0]}").add_arguments(parser)
    said = " ".join(parser.format_help().split())
    for action in parser._actions:
        if action.option_strings and command == "train":
            assert action.help, f"{action.option_strings} has no help"
        if action.help and isinstance(action.default, int | float) and not isinstance(action.default, bool):
            assert "default" in action.help or f"default: {action.default:g}" in said, action.option_strings


def test_the_help_of_train_names_its_defaults(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "over the patches (default: 20; with --preset paper or another method than ssim 200)",
        "of Adam (default: 0.001; with --preset paper or another method than ssim 0.0002)",
        "(default: 1 1 1)", "(default: ssim)",
        "(default: a GPU where there is one)", "use of the model (default: the preset's)",
    ):  # fmt: skip
        assert words.removeprefix("(").removesuffix(")") in said


def test_info_takes_a_bundle_either_way(toy: Path, capsys: Output) -> None:
    assert main(["info", str(toy)]) == 0
    bare = capsys.readouterr().out
    assert main(["info", "--model", str(toy)]) == 0
    assert capsys.readouterr().out == bare
    assert json.loads(bare)["file"] == str(toy)
    with pytest.raises(SystemExit) as caught:
        main(["info", str(toy), "--model", str(toy)])
    assert caught.value.code == 2


# ------------------------------------------------------------------------------------------------ paths


def test_a_missing_recipe_is_missed_in_a_folder_that_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_line(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{tmp_path}: there is no recipe 'none'; there are: recipe$"):
        Line(Path("line.toml")).recipe_file("none")


# ------------------------------------------------------------------------------------------------ nobody answers


def test_a_silence_is_told_once_and_its_end() -> None:
    told: list[str] = []
    now = [5.0]
    silence = Silence("nobody", "somebody", told.append, lambda: now[0])
    for _ in range(40):
        now[0] += 0.2
        silence.look(heard=False)
        assert told == (["nobody"] if now[0] - 5.0 > SILENT_S else [])
    silence.look(heard=True)
    silence.look(heard=True)
    assert told == ["nobody", "somebody"]
    now[0] += SILENT_S
    silence.look(heard=False)
    assert len(told) == 2
    now[0] += 0.1
    silence.look(heard=False)
    assert told == ["nobody", "somebody", "nobody"]


def test_events_says_that_nobody_answers(tmp_path: Path, capsys: Output) -> None:
    line = write_line(tmp_path)
    assert main(["events", "--config", str(line), "--json", "--patience", "4"]) == 69
    told = capsys.readouterr()
    endpoint = Line(line).events_endpoint
    assert told.err.startswith(f"note: nobody answers at {endpoint}; waiting (is the line running?)\n")
    assert told.out == ""  # one JSON object a line, and nothing else


@contextmanager
def command(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", f"linescan.cli.{module}", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_replay_into_a_line_that_stands_still_says_so_and_waits(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    footage = write_frames(tmp_path / "roll", plain(40), 20)
    with command("replay", footage, "--config", line, "--quiet") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said == f"note: nobody answers at {Line(line).stages_endpoint}; waiting (is the line running?)\n"
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_replay_into_a_line_without_a_worker_says_so(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    footage = write_frames(tmp_path / "roll", plain(40), 20)
    with command("main", "publisher", "--config", line) as publisher:
        assert publisher.stderr is not None
        while '"publishing"' not in (said := publisher.stderr.readline()):
            assert said, "the publisher ended"
        with command("replay", footage, "--config", line, "--quiet") as process:
            assert process.stderr is not None
            frames = Line(line).frames_endpoint("cam0")
            notes = iter(process.stderr.readline, "")
            assert f"note: no worker takes the frames at {frames}; waiting\n" in notes
