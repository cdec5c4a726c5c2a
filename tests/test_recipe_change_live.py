"""The recipe of a line of real processes changes between two of its lines, as an operator does it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from linescan.messages import Region, RollCommand, RollStart
from tests.conftest import TOY_THRESHOLD, Smooth, toy_bundle
from tests.line_oracle import Oracle
from tests.line_rig import COLUMNS, MARGIN, ROOT, LineRig


@pytest.fixture(scope="module")
def rig(simulated_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineRig]:
    with LineRig(tmp_path_factory.mktemp("recipes"), simulated_camera) as rig:
        rig.begin()
        yield rig


@pytest.fixture(scope="module")
def oracle(rig: LineRig) -> Oracle:
    return Oracle(rig)


def write_recipe(rig: LineRig, name: str, sha256: str = "", bundle: str = "second.pt") -> None:
    path = rig.folder / bundle
    if not path.exists():
        toy_bundle(path, Smooth(), patch_size=16, stride=12)
    pinned = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    text = f'[model]\nfile = "{bundle}"\nsha256 = "{pinned}"\n[inspection]\ncolumns = [{MARGIN}, {COLUMNS}]\n'
    text += "min_length_px = 6\n[[masks]]\nfirst_column = 60\nend_column = 64\n"
    text += f'[[lanes]]\nname = "left"\nfirst_column = {MARGIN}\nend_column = 80\nthreshold = {TOY_THRESHOLD / 2}\n'
    text += '[[classes]]\nname = "spot"\nseverity = 1\n[[classes]]\nname = "long"\nseverity = 5\nmin_length_px = 40\n'
    (rig.folder / f"{name}.toml").write_text(text)


def roll(rig: LineRig, *arguments: str) -> subprocess.Popen[str]:
    """`linescan roll`, in a process of its own."""
    command = [sys.executable, "-m", "linescan.cli.main", "roll", *arguments, "--config", str(rig.config)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(rig: LineRig, process: subprocess.Popen[str], *, mortal: tuple[str, ...] = ()) -> tuple[int, str, str]:
    rig.wait(lambda: process.poll() is not None, "linescan roll", mortal=mortal)
    out, err = process.communicate()
    return process.returncode, out, err


def test_the_next_roll_has_another_recipe(rig: LineRig, oracle: Oracle) -> None:
    write_recipe(rig, "second")
    first = rig.fresh_roll()
    rig.pass_lines(500)
    code, out, err = ended(rig, roll(rig, "start", "--id", "with-second", "--recipe", "second"))
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["preparing recipe second for cam0 …", "roll with-second, recipe second"]
    rig.roll = "with-second"
    rig.inspect_lines(1000)
    assert ended(rig, roll(rig, "status"))[1].startswith(
        "roll with-second, recipe second\n  cam0: inspected up to line "
    )
    # a worker that begins now has the roll's recipe, not the line's
    rig.kill("worker")
    rig.start("worker")
    rig.inspect_lines(1000)
    # back to the line's own: its name is `recipe`
    code, out, err = ended(rig, roll(rig, "start", "--id", "back"))
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "roll back, recipe recipe"
    rig.roll = "back"
    rig.inspect_lines(500)
    rig.finish()
    for name in (first, "with-second", "back"):
        verdict = oracle.judge(name)
        verdict.check()
        assert verdict.gap_lines == 0
    starts = {one.roll: one.recipe for one in (event.message for event in rig.events) if isinstance(one, RollStart)}
    assert [starts[name] for name in (first, "with-second", "back")] == ["recipe", "second", "recipe"]
    found = [one for one in rig.messages("with-second") if isinstance(one, Region)]
    assert {one.category for one in found} == {"spot", "long"}
    # the boundary is one line of the web: no line between the rolls
    offset = {name: min(rig.watcher.offsets[name]) for name in (first, "with-second", "back")}
    lines = {name: rig.end_of(name).lines for name in (first, "with-second")}  # type: ignore[union-attr]
    assert offset[first] + lines[first] == offset["with-second"]
    assert offset["with-second"] + lines["with-second"] == offset["back"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no recipe 'nowhere'; there are: "),
        ("torn", "has sha256"),
        pytest.param("missing", "missing.pt: cannot be read", marks=pytest.mark.slow),
        pytest.param("unpinned", "model.sha256 is missing", marks=pytest.mark.slow),
        ("wide", "columns 0:4096 are asked for, the footage has 128"),
    ],
)
def test_a_recipe_that_the_line_cannot_run_is_refused(rig: LineRig, oracle: Oracle, name: str, said: str) -> None:
    write_recipe(rig, "second")
    second = (rig.folder / "second.toml").read_text()
    texts = {
        "torn": second.replace('sha256 = "', f'sha256 = "{"0" * 64}" #'),
        "missing": second.replace("second.pt", "missing.pt"),
        "unpinned": second.replace("sha256", "# sha256"),
        "wide": second.replace(f"[{MARGIN}, {COLUMNS}]", "[0, 4096]"),
    }
    if name in texts:
        (rig.folder / f"{name}.toml").write_text(texts[name])
    running = rig.fresh_roll()
    code, out, err = ended(rig, roll(rig, "start", "--recipe", name))
    assert code == 2
    assert said in err
    assert out == f"preparing recipe {name} for cam0 …\n"
    rig.inspect_lines(300)
    assert rig.command(RollCommand("status", "", "")).roll == running
    oracle.judge(rig.finish()).check()


def test_an_operator_who_does_not_wait_changes_nothing(rig: LineRig) -> None:
    write_recipe(rig, "second")
    running = rig.fresh_roll()
    rig.kill("worker")  # nobody can prepare it
    process = roll(rig, "start", "--id", "never", "--recipe", "second")
    rig.pause(3)
    process.kill()
    process.communicate()
    rig.start("worker")
    rig.inspect_lines(1000)
    assert rig.command(RollCommand("status", "", "")).roll == running
