"""The commands as a person types them: help, exit codes, and one line on stderr for every error."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linescan import __version__, errors
from linescan.cli.common import closed, columns, guarded, stopped_by_interrupt
from linescan.cli.main import COMMANDS, main
from linescan.files import write_atomically
from tests.conftest import RUN, Blind, NotANumber, blot, events_of, plain, toy_bundle, write_frames

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]


def stop(code: Callable[[], int]) -> int:
    with pytest.raises(SystemExit) as caught:
        code()
    assert isinstance(caught.value.code, int)
    return caught.value.code


# ------------------------------------------------------------------------------------------------ help


def test_help_names_every_command(capsys: Output) -> None:
    assert stop(lambda: main(["--help"])) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command in out
        assert stop(lambda command=command: main([command, "--help"])) == 0  # type: ignore[misc]
        assert "usage: linescan " + command in capsys.readouterr().out


def test_version_and_wrong_commands(capsys: Output) -> None:
    assert stop(lambda: main(["--version"])) == 0
    assert capsys.readouterr().out == f"linescan {__version__}\n"
    for arguments in ([], ["unknown"], ["info"], ["train"], ["info", "M.pt", "--wrong"]):
        assert stop(lambda arguments=arguments: main(arguments)) == 2  # type: ignore[misc]
        assert "Traceback" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ errors


def every_error() -> list[type[errors.LinescanError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LinescanError)]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_is_one_line_and_its_exit_code(kind: type[errors.LinescanError], capsys: Output) -> None:
    def fail() -> int:
        raise kind("what.toml: what was found, what was expected")

    assert guarded("linescan test", fail) == kind.exit_code
    assert capsys.readouterr().err == "linescan test: error: what.toml: what was found, what was expected\n"


def test_the_exit_codes_are_the_documented_ones() -> None:
    documented = {
        "ConfigError": 2, "InputError": 65, "FootageError": 65, "BundleError": 65, "MessageError": 65,
        "TrainingError": 70, "InspectionError": 70, "LinescanError": 70, "PeerError": 69, "CameraError": 69,
        "CameraLostError": 75, "JournalFullError": 69, "DeviceLostError": 70,
    }  # fmt: skip
    assert {kind.__name__: kind.exit_code for kind in every_error()} == documented


def test_a_full_disk_and_an_interrupt(capsys: Output) -> None:
    def fail(error: BaseException) -> Callable[[], int]:
        def command() -> int:
            raise error

        return command

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out.pt")
    assert guarded("linescan test", fail(full)) == 70
    assert capsys.readouterr().err == "linescan test: error: /data/out.pt: No space left on device\n"
    assert guarded("linescan test", fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "linescan test: interrupted\n"
    assert guarded("linescan test", fail(ZeroDivisionError())) == 70  # a bug is not hidden
    assert "in command\n    raise error\nZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation"), 69,
            "the GPU has too little memory: CUDA out of memory. Tried to allocate 2 GiB.; a smaller --batch needs less",
        ),
        (RuntimeError("CUDA error: unspecified launch failure"), 70,
         "the GPU or its driver is gone: CUDA error: unspecified launch failure"),
    ],
)  # fmt: skip
def test_what_a_gpu_refuses_is_one_line(error: Exception, code: int, said: str, capsys: Output) -> None:
    def fail() -> int:
        raise error

    assert guarded("linescan test", fail) == code
    assert capsys.readouterr().err == f"linescan test: error: {said}\n"


def test_another_error_of_torch_is_a_bug(capsys: Output) -> None:
    assert guarded("linescan test", lambda: len(torch.ones(2) + torch.ones(3))) == 70
    assert "RuntimeError: The size of tensor" in capsys.readouterr().err


def test_a_warning_is_one_line() -> None:
    program = "import warnings; from linescan.cli.common import guarded; " + (
        "guarded('linescan test', lambda: warnings.warn('it is slower') or 0); warnings.warn('as before')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr.startswith("linescan test: warning: it is slower\n<string>:1: UserWarning: as before")


def test_a_warning_in_a_stage_is_a_line_of_its_log() -> None:
    program = (
        "import warnings; from linescan import log; log.configure('worker', 'cam0'); warnings.warn('it is slower')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = ran.stderr.splitlines()
    told = json.loads(line)
    assert (told["stage"], told["camera"], told["level"]) == ("worker", "cam0", "warning")
    assert (told["kind"], told["said"]) == ("UserWarning", "it is slower")


def test_a_reader_that_goes_away_is_no_error(toy: Path, tmp_path: Path) -> None:
    """What is written to files is complete all the same."""
    folder = write_frames(tmp_path / "roll", blot(plain(200), 50, 20), 20)
    command = [sys.executable, "-u", "-m", "linescan.cli.replay", str(folder), "--model", str(toy), *RUN]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert "Broken" not in done.stderr
    assert events_of(tmp_path / "out")[-1]["inspected_up_to"] == 200


def test_a_reader_that_went_away_before_the_output_was_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's end it would be a traceback and exit code 120."""

    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            return unread

    with open(os.devnull, "wb") as file:
        unread = os.dup(file.fileno())
    monkeypatch.setattr(sys, "stdout", Closed())
    assert guarded("linescan test", lambda: 5) == 0
    os.close(unread)


def test_ctrl_c_once_asks_and_twice_breaks_off() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopped_by_interrupt() as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("text", "bounds", "of_64"),
    [
        ("5:10", (5, 10), (5, 10)),
        ("5:", (5, None), (5, 64)),
        (":10", (0, 10), (0, 10)),
        (":", (0, None), (0, 64)),
    ],
)
def test_columns(text: str, bounds: tuple[int, int | None], of_64: tuple[int, int]) -> None:
    assert columns(text) == bounds
    assert closed(columns(text), 64) == of_64
    assert closed(None, 64) is None


@pytest.mark.parametrize("text", ["", "5", "a:b", "10:5", "5:5", "-1:5", "1:2:3", "1.5:3", "5:-1"])
def test_columns_that_are_none(text: str, toy: Path, capsys: Output) -> None:
    assert stop(lambda: main(["check", "--model", str(toy), f"--columns={text}"])) == 2
    assert "columns are given as A:B" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ info, check


def test_info_says_what_a_bundle_is(tiny_bundle: Path, capsys: Output) -> None:
    assert main(["info", str(tiny_bundle)]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["file"] == str(tiny_bundle)
    assert len(about["sha256"]) == 64
    assert (about["patch_size"], about["latent_dim"], about["training"]["epochs"]) == (32, 16, 4)


def test_info_on_what_is_no_bundle(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "M.pt").write_bytes(b"hello")
    nan = toy_bundle(tmp_path / "nan.pt", NotANumber())
    for path in (tmp_path / "none.pt", tmp_path / "M.pt", nan, tmp_path):
        assert main(["info", str(path)]) == 65
        error = capsys.readouterr().err
        assert error.startswith(f"linescan info: error: {path}: ")
        assert error.count("\n") == 1


def recipe(folder: Path, sha256: str | None, extra: str = "") -> Path:
    pin = f'sha256 = "{sha256}"\n' if sha256 else ""
    write_atomically(folder / "R.toml", f'[model]\nfile = "toy.pt"\n{pin}{extra}'.encode())
    return folder / "R.toml"


def check(*arguments: object) -> int:
    return main(["check", *map(str, arguments), *RUN])


def test_check_says_whether_a_bundle_is_pinned(tmp_path: Path, capsys: Output) -> None:
    model = toy_bundle(tmp_path / "toy.pt")
    assert main(["info", str(model)]) == 0
    sha256 = json.loads(capsys.readouterr().out)["sha256"]
    not_pinned = f"sound, not pinned; its sha256 is {sha256}"
    assert check("--model", model) == 0
    out = capsys.readouterr().out
    assert not_pinned in out
    assert "runs on cpu in float32, 8 patches a forward" in out
    assert check("--recipe", recipe(tmp_path, None)) == 0
    assert not_pinned in capsys.readouterr().out
    assert check("--recipe", recipe(tmp_path, sha256)) == 0
    assert "sound, pinned; it finds the defect of its reference patch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "a model is needed"),
        (("--model", "none.pt"), 65, "none.pt: cannot be read"),
        (("--recipe", "none.toml"), 2, "none.toml: cannot be read"),
        (("--model", "toy.pt", "--threshold", "0.9"), 70, "self-check"),
        (("--model", "blind.pt"), 70, "self-check"),
        (("--model", "toy.pt", "--stride", "17"), 2, "stride 17"),
        (("--model", "toy.pt", "--columns", "5:"), 2, "--columns A:B needs both ends"),
        (("--model", "toy.pt", "--device", "cuda"), 2, "torch finds no GPU"),
        (("--recipe", "wrong.toml"), 2, "wrong.toml: model.file = 5"),
        (("--recipe", "R.toml"), 65, "was pinned"),
    ],
)
def test_check_names_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    toy_bundle(tmp_path / "toy.pt")
    toy_bundle(tmp_path / "blind.pt", Blind())
    recipe(tmp_path, "0" * 64)
    (tmp_path / "wrong.toml").write_text("[model]\nfile = 5\n")
    assert main(["check", *RUN, *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("linescan check: error: ")
    assert said in error
    assert error.count("\n") == 1


# ------------------------------------------------------------------------------------------------ bench


def bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments), *RUN])


def test_bench_measures_and_writes(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def rate(*_arguments: Any) -> float:
        return 1000.0

    monkeypatch.setattr("linescan.bench.whole.patches_per_second", rate)  # a second for each of a dozen ways
    out = tmp_path / "figures.json"
    assert bench("--model", toy, "--width", "64", "--lines", "40", "--json", out) == 0
    figures = json.loads(out.read_text())
    assert figures.keys() >= {"machine", "execution", "bare_patches_per_second", "end_to_end"}
    assert figures["execution"]["batch"] == 8
    assert figures["machine"].keys() >= {"cpu", "cores", "gpu", "torch"}
    assert set(figures["bare_patches_per_second"].values()) == {1000.0}
    assert [result["stride"] for result in figures["end_to_end"]] == [8]  # the paper's 30 is more than the patch
    assert all(result["patches_per_second"] > 0 and result["ratio"] > 0 for result in figures["end_to_end"])
    assert "end to end, stride 8, float32, batch 8" in capsys.readouterr().out


def test_bench_measures_memory(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert bench("--model", toy, "--memory", "--width", "64", "--lines", "40", "--json", out) == 0
    memory = json.loads(out.read_text())["memory"]
    assert memory["lines"] == 40
    assert memory["peak_mib"] >= memory["loaded_mib"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "none.pt"), 65, "none.pt"),
        (("--width", "0"), 2, "--width 0"),
        (("--lines", "-4"), 2, "--lines -4"),
        (("--frame-lines", "0"), 2, "--frame-lines 0"),
        (("--defects", "11"), 2, "--defects 11"),
        (("--stride", "17"), 2, "stride 17"),
        (("--stride", "0"), 2, "stride = 0"),
        (("--json", "/nowhere/figures.json"), 2, "/nowhere/figures.json: cannot be written"),
    ],
)
def test_bench_names_what_is_wrong(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.setattr("linescan.bench.whole.patches_per_second", lambda *_: 1000.0)
    assert main(["bench", "--model", str(toy), "--width", "32", "--lines", "20", *RUN, *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("linescan bench: error: ")
    assert said in error
    assert error.count("\n") == 1


def line_toml(folder: Path, text: str = "", recipe: str = "weave.toml") -> Path:
    producer = folder / "camera.cti"
    producer.touch()
    path = folder / "line.toml"
    path.write_text(
        f'recipe = "{ROOT}/config/recipes/{recipe}"\n{text}\n[[cameras]]\nname = "cam0"\nproducer = "camera.cti"\n'
        'serial = "1"\nmax_line_rate_hz = 500.0\nfeatures = { Width = 640 }\n',
        encoding="utf-8",
    )
    return path


def test_check_reads_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(line_toml(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "weave.pt: sound, pinned" in said
    assert "cam0: 317 patches/s at 500 lines/s" in said  # 18 across and one clamped, every 30 lines


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lane = 1", "lane = 1: Extra inputs"),
        ('recipes = "x"', "recipes = 'x'"),
        ("[transport]\nlease_s = 0.1", "transport.lease_s = 0.1"),
        ('[transport]\nstages = "tcp://192.168.1.5:5000"', "TCP beyond loopback needs transport.keys"),
        ('[transport]\nframes = { cam7 = "ipc:///tmp/x" }', "no camera is called 'cam7'"),
    ],
)
def test_check_names_what_is_wrong_with_a_line(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = line_toml(tmp_path, text)
    assert main(["check", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert str(path) in said


# ------------------------------------------------------------------------------------------------ recipes of a line

GATED = """
[web]
counts_per_mm = 8.0
top_speed_mm_s = 250.0

[rejects]
lead_mm = 1.0
lag_mm = 1.0
gates = [{ lane = "left", output = 0, distance_mm = 500.0 }, { lane = "right", output = 1, distance_mm = 500.0 }]
"""
LEFT = '[[lanes]]\nname = "left"\nfrom_mm = 100.0\nto_mm = 110.0\n'


def recipes_of(folder: Path, toy: Path, **texts: str) -> Path:
    """A line with `own` as its recipe and the others beside it; its camera sees 64 columns, 100 to 132 mm."""
    sha256 = hashlib.sha256(toy.read_bytes()).hexdigest()
    (folder / "recipes").mkdir()
    for name, text in texts.items():
        head = f'[model]\nfile = "{toy}"\nsha256 = "{sha256}"\n'
        (folder / "recipes" / f"{name}.toml").write_text(text.format(head=head), encoding="utf-8")
    (folder / "camera.cti").touch()
    path = folder / "line.toml"
    path.write_text(
        'recipe = "recipes/own.toml"\n[worker]\nprecision = "float32"\nbatch = 4\nthreads = 1\n' + GATED
        + '[[cameras]]\nname = "cam0"\nproducer = "camera.cti"\nserial = "1"\nmax_line_rate_hz = 500.0\n'
        "encoder = { counts_per_line = 4 }\nmm_per_column = 0.5\nx_offset_mm = 100.0\nfeatures = { Width = 64 }\n",
        encoding="utf-8",
    )  # fmt: skip
    return path


def lane_mm(name: str, low: float, high: float) -> str:
    return f'[[lanes]]\nname = "{name}"\nfrom_mm = {low}\nto_mm = {high}\n'


BOTH = lane_mm("left", 100, 110) + lane_mm("right", 110, 132)


def test_check_says_which_recipes_the_line_can_be_switched_to(tmp_path: Path, toy: Path, capsys: Output) -> None:
    others = {
        "coarse": "{head}" + BOTH + "[inspection]\nmin_length_px = 9\n",
        "wide": "{head}" + BOTH + "[inspection]\ncolumns = [0, 65]\n",
        "odd": "{head}" + BOTH + "[inspection]\nstrde = 3\n",
    }
    assert main(["check", "--config", str(recipes_of(tmp_path, toy, own="{head}" + BOTH, **others))]) == 0
    said = capsys.readouterr().out
    assert "recipe coarse: sound; `linescan roll start --recipe coarse` switches to it" in said
    assert "warning: recipe wide would be refused: columns 0:65 are asked for, the footage has 64" in said
    assert f"warning: recipe odd would be refused: {tmp_path}/recipes/odd.toml: inspection.strde = 3" in said
    assert "recipe own:" not in said


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ("{head}" + LEFT, "lane 'right' has no place in the recipe; lanes: ['left'], gates: ['left', 'right']"),
        ("{head}" + BOTH + lane_mm("third", 132, 140), "lane 'third' has no gate in rejects.gates"),
        (
            "{head}" + lane_mm("left", 100, 110) + lane_mm("right", 110, 140),
            "lane 'right': no camera inspects 132 to 140 mm of it",
        ),
        ("{head}[inspection]\ncolumns = [10, 64]\n" + BOTH, "lane 'left': no camera inspects 100 to 105 mm of it"),
        ("[model]\nfile = 'none.pt'\nsha256 = '" + "0" * 64 + "'\n", "none.pt"),
    ],
)
def test_check_refuses_a_recipe_that_the_line_s_gates_and_cameras_do_not_suit(
    tmp_path: Path, toy: Path, capsys: Output, own: str, complaint: str
) -> None:
    code = main(["check", "--config", str(recipes_of(tmp_path, toy, own=own))])
    assert code == (65 if "none.pt" in complaint else 2)
    assert complaint in capsys.readouterr().err


def test_a_roll_keeps_its_recipe(tmp_path: Path, capsys: Output) -> None:
    assert main(["roll", "end", "--config", str(line_toml(tmp_path)), "--recipe", "fine"]) == 2
    assert "--recipe fine goes with start alone" in capsys.readouterr().err


def test_check_misses_the_producer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = line_toml(tmp_path)
    (tmp_path / "camera.cti").unlink()
    assert main(["check", "--config", str(path)]) == 2
    assert "camera.cti does not exist" in capsys.readouterr().err
