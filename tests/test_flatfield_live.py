"""The flat-field from dark and white footage to the running line: made, checked, applied, replayed, watched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linescan.cli.main import main
from linescan.cli.replay import main as replay
from linescan.cli.stage import check_flatfield
from linescan.codec import to_dict
from linescan.config import ImageBand
from linescan.errors import ConfigError
from linescan.flatfield_file import load_flatfield
from linescan.footage import open_footage, write_image
from linescan.inspection.brightness import ENOUGH_LINES
from linescan.line import Line
from linescan.messages import Region, RollEnd, RollStart, RollState
from linescan.stages.engine import Engine
from linescan.training.dataset import load_good_images
from tests.conftest import RUN, blot, events_of, leftovers, plain, toy_bundle, write_frames
from tests.inspection_kit import Pixels
from tests.line_kit import COLUMNS, ArrayCamera, Desk, check_account, write_line
from tests.test_flatfield import WHITE, Lens, lens

Output = pytest.CaptureFixture[str]
THRESHOLD = 0.001


def uneven(seed: int = 5) -> Lens:
    """Stripes of 6 columns that answer differently, as behind a dirty lamp, and one column that does not answer."""
    even = lens(COLUMNS, seed, fixed=0.0)
    even.shade[0] *= np.repeat(np.resize([0.9, 1.08, 0.94, 1.05], COLUMNS // 6), 6)
    even.shade[0, 20] = 0
    return even


def shop_under(camera: Lens, folder: Path, *arguments: object, serial: str = "1") -> Path:
    """Dark and white footage of the camera in the folder, and the flat-field that the command makes of them."""
    write_frames(folder / "dark", camera.sees(0, 300, noise=1, seed=1), 100)
    write_frames(folder / "white", camera.sees(WHITE, 300, noise=1, seed=2), 100)
    made = calibrate(folder, "--camera-serial", serial, *arguments)
    assert made == 0
    return folder / "F.npz"


def calibrate(folder: Path, *arguments: object) -> int:
    paths = ("--dark", folder / "dark", "--white", folder / "white", "--output", folder / "F.npz")
    return main(["calibrate", "flatfield", *map(str, (*paths, *arguments))])


@pytest.fixture
def flatfield(tmp_path: Path) -> Path:
    return shop_under(uneven(), tmp_path)


# ------------------------------------------------------------------------------------------------ the command


def test_a_flat_field_is_made_of_dark_and_white_footage(tmp_path: Path, capsys: Output) -> None:
    path = shop_under(uneven(), tmp_path, "--target", "0.7", serial="SN7")
    said = capsys.readouterr().out
    assert "dead columns, interpolated from those beside them: 20\n" in said
    assert f"written: {path}, for the camera with serial SN7" in said
    stored = load_flatfield(path)
    about = stored.about
    assert (about.camera_serial, about.pixel_format, about.columns) == ("SN7", "Mono8", COLUMNS)
    assert (about.dark_lines, about.white_lines, about.web) == (300, 300, (0, COLUMNS))
    assert about.level == pytest.approx(0.7)
    assert about.made_utc.endswith("+00:00")
    corrected = stored.field().correct(uneven().sees(WHITE, 1))
    assert np.abs(corrected - 0.7 * 255).max() <= 1
    assert leftovers(tmp_path) == []


def test_twelve_bits_and_colours(tmp_path: Path) -> None:
    deep = lens(COLUMNS, bits=12)
    for name, scene in (("dark", 0), ("white", WHITE)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png", deep.sees(scene, 256))
    assert calibrate(tmp_path, "--camera-serial", "1", "--bit-depth", "12") == 0
    assert load_flatfield(tmp_path / "F.npz").about.pixel_format == "Mono12"
    colour = lens(COLUMNS, channels=3)
    for name, scene in (("dark", 0), ("white", WHITE)):
        write_image(tmp_path / name / "0.png", colour.sees(scene, 256))
    assert calibrate(tmp_path, "--camera-serial", "1") == 0
    stored = load_flatfield(tmp_path / "F.npz")
    assert (stored.about.pixel_format, stored.gain.shape) == ("RGB8", (3, COLUMNS))


def test_good_web_gives_the_brightness_that_is_watched(tmp_path: Path) -> None:
    write_frames(tmp_path / "web", uneven().sees(100, 300), 100)
    level = load_flatfield(shop_under(uneven(), tmp_path, "--target", "0.8", "--web", tmp_path / "web")).about.level
    assert level == pytest.approx(0.4, abs=0.003)


def spoil(name: str, pixels: Pixels) -> Callable[[Path], object]:
    return lambda folder: write_frames(folder / name, pixels, 100)


@pytest.mark.parametrize(
    ("arguments", "damage", "code", "said"),
    [
        (("--target", "0"), None, 2, "--target 0: a share of full scale above 0, at most 1, expected"),
        (("--columns", "0:49"), None, 2, "--columns 0:49: "),
        (("--output", "/nowhere/F.npz"), None, 2, "/nowhere/F.npz: cannot be written"),
        ((), spoil("dark", np.zeros((300, 40), np.uint8)), 65, "dark: 40 columns, 1 channels, 8 bits; the white"),
        ((), spoil("dark", np.full((300, COLUMNS), 250, np.uint8)), 65, "is not brighter than the dark of"),
        ((), spoil("white", np.full((300, COLUMNS), 255, np.uint8)), 65, "saturated in 48 of 48 columns"),
        ((), lambda folder: (folder / "white" / "0001.png").write_bytes(b"x"), 65, "must be readable"),
        (("--web", "/nowhere"), None, 65, "/nowhere: No such file"),
    ],
)
def test_the_command_names_what_is_wrong(
    tmp_path: Path, flatfield: Path, capsys: Output, arguments: tuple[str, ...],
    damage: Callable[[Path], object] | None, code: int, said: str,
) -> None:  # fmt: skip
    if damage is not None:
        damage(tmp_path)
    before = flatfield.read_bytes()
    capsys.readouterr()
    assert calibrate(tmp_path, "--camera-serial", "1", *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("linescan calibrate flatfield: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert flatfield.read_bytes() == before


def test_the_command_needs_its_arguments_and_its_neighbour_keeps_its_own(capsys: Output) -> None:
    for arguments, missing in (
        (["calibrate", "flatfield", "--dark", "d"], "--white, --output, --camera-serial"),
        (["calibrate", "--output", "R.toml"], "--images, --model"),
        (["calibrate", "--images", "flatfield"], "--output, --model"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert f"the following arguments are required: {missing}" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ on recordings


def web(lines: int = 400, seed: int = 0) -> Pixels:
    """What the camera sees of plain web with one blot."""
    return uneven().sees(blot(plain(lines, COLUMNS, seed), 150, 28), lines)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A recipe with a bundle that finds what is not smooth."""
    sha256 = hashlib.sha256(toy_bundle(tmp_path / "toy.pt").read_bytes()).hexdigest()
    path = tmp_path / "toy.toml"
    path.write_text(
        f'[model]\nfile = "toy.pt"\nsha256 = "{sha256}"\n[inspection]\nthreshold = {THRESHOLD}\n', encoding="utf-8"
    )
    return path


def regions(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "region" and event["phase"] == "close"]


def test_uneven_light_is_a_false_alarm_without_a_flat_field(tmp_path: Path, flatfield: Path, product: Path) -> None:
    footage = write_frames(tmp_path / "roll", web(), 64)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, more in (("raw", ()), ("flat", ("--flatfield", str(flatfield)))):
        output = tmp_path / name
        asked = (str(footage), "--recipe", str(product), "--output", str(output), "--quiet", *more, *RUN)
        assert replay(asked) == 0
        found[name] = events_of(output)
    (region,) = regions(found["flat"])
    assert region["first_line"] <= 150 <= region["last_line"] <= 165
    assert region["first_column"] <= 28 <= region["last_column"] <= 45
    assert max(one["last_line"] - one["first_line"] for one in regions(found["raw"])) > 300
    assert found["flat"][0]["settings"]["flatfield"] == load_flatfield(flatfield).pinned
    assert "flatfield" not in found["raw"][0]["settings"]


def test_dim_light_is_a_gap_without_a_flat_field(tmp_path: Path) -> None:
    camera = uneven()
    camera.shade[:] *= 0.2
    flatfield = shop_under(camera, tmp_path, "--target", "0.7")
    bundle = toy_bundle(tmp_path / "M.pt", threshold=0.01, band=ImageBand(mean_low=0.2, lines=16))
    footage = write_frames(tmp_path / "roll", camera.sees(plain(200, COLUMNS), 200), 64)
    for more, in_gaps in (((), 200), (("--flatfield", str(flatfield)), 0)):
        output = tmp_path / "out"
        assert replay([str(footage), "--model", str(bundle), "--output", str(output), "--quiet", *more, *RUN]) == 0
        assert events_of(output)[-1]["lines_in_gaps"] == in_gaps


@pytest.mark.parametrize("command", ["replay", "calibrate", "train"])
def test_a_flat_field_of_another_camera_is_refused(
    tmp_path: Path, flatfield: Path, toy: Path, capsys: Output, command: str
) -> None:
    footage, output = str(write_frames(tmp_path / "wide", plain(64, 64), 64)), str(tmp_path / "O.pt")
    asked = ["--flatfield", str(flatfield)]
    if command == "replay":
        code = replay([footage, "--model", str(toy), *asked, *RUN])
    elif command == "calibrate":
        code = main(["calibrate", "--images", footage, "--model", str(toy), "--output", output, *asked, *RUN])
    else:
        code = main(["train", "--images", footage, "--output", output, *asked])
    assert code == 2
    assert f"made under width 48, {footage} has width 64" in capsys.readouterr().err


def test_a_recipe_is_calibrated_on_corrected_web(tmp_path: Path, flatfield: Path, toy: Path) -> None:
    raw = write_frames(tmp_path / "raw", uneven().sees(plain(400, COLUMNS), 400), 100)
    field = load_flatfield(flatfield).field()
    with open_footage([str(raw)]) as footage:
        corrected = np.concatenate([field.correct(frame.pixels) for frame in footage if frame.pixels is not None])
    flat = write_frames(tmp_path / "flat", corrected, 100)
    recipes = []
    for images, more in ((raw, ("--flatfield", str(flatfield))), (flat, ()), (raw, ())):
        output = tmp_path / "R.toml"
        asked = ("--images", str(images), "--model", str(toy), "--output", str(output), "--no-columns", *more, *RUN)
        assert main(["calibrate", *asked]) == 0
        recipes.append(output.read_text())
    assert recipes[0] == recipes[1] != recipes[2]


def test_training_sees_corrected_web(tmp_path: Path, flatfield: Path) -> None:
    raw = uneven().sees(plain(200, COLUMNS), 200)
    footage = write_frames(tmp_path / "raw", raw, 100)
    stored = load_flatfield(flatfield)
    images = load_good_images([str(footage)], None, 1, 16, stored)
    plain_images = load_good_images([str(footage)], None, 1, 16)
    shown = np.concatenate([image[0].numpy() for image in images.training])
    wanted = stored.field().correct(raw) / 255
    assert np.allclose(shown[: len(images.training[0][0])], wanted[: len(images.training[0][0])], atol=1e-6)
    assert images.fingerprint != plain_images.fingerprint


# ------------------------------------------------------------------------------------------------ on the line


@pytest.fixture
def desks(tmp_path: Path, product: Path) -> Iterator[Callable[..., tuple[Desk, ArrayCamera]]]:
    made: list[Desk] = []

    def make(flatfield: Path | None, more: str = "") -> tuple[Desk, ArrayCamera]:
        text = write_line(tmp_path).path.read_text()
        named = f'serial = "1"\nflatfield = "{flatfield}"\n{more}' if flatfield else 'serial = "1"'
        (tmp_path / "line.toml").write_text(text.replace('serial = "1"', named), encoding="utf-8")
        line = Line(tmp_path / "line.toml")
        desk = Desk(line, engine=lambda recipe, stored: Engine(line, "cam0", recipe, stored))
        made.append(desk)
        desk.start_publisher()
        camera = desk.start_acquire()
        desk.start_worker()
        desk.turn(10, 0.1)
        return desk, camera

    yield make
    for one in made:
        if one.journal is not None:
            one.journal.close()


def end_roll(desk: Desk) -> RollEnd:
    state = desk.command("end")
    assert isinstance(state, RollState)
    for _ in range(60):
        desk.turn(20, 0.15)
        if desk.stored and isinstance(desk.stored[-1], RollEnd):
            break
    return check_account(desk.stored, "roll-000001")


def test_the_line_and_a_replay_find_the_same(tmp_path: Path, flatfield: Path, product: Path, desks: Any) -> None:
    desk, camera = desks(flatfield)
    desk.feed(camera, web()[:200], (50, 7, 30))
    desk.turn(20, 0.15)
    desk.kill_worker(desk.workers[0])
    desk.start_worker()
    desk.feed(camera, web()[200:])
    assert end_roll(desk).lines_inspected == 400
    start = desk.stored[0]
    assert isinstance(start, RollStart)
    assert start.settings["flatfield"] == load_flatfield(flatfield).pinned
    told = [to_dict(event) for event in desk.stored if isinstance(event, Region)]
    assert len([one for one in told if one["phase"] == "close"]) == 1
    how = start.settings["execution"]
    asked = ("--precision", how["precision"], "--batch", str(how["batch"]), "--threads", str(how["threads"]))
    footage, output = write_frames(tmp_path / "roll-000001", web(), 64), tmp_path / "out"
    arguments = [str(footage), "--recipe", str(product), "--flatfield", str(flatfield), "--output", str(output)]
    assert replay([*arguments, "--device", how["device"], *asked, "--quiet"]) == 0
    again = [{**one, "camera": "cam0"} for one in events_of(output) if one["type"] == "region"]
    assert json.loads(json.dumps(told)) == again


def test_a_roll_does_not_go_on_under_another_flat_field(tmp_path: Path, flatfield: Path, desks: Any) -> None:
    desk, camera = desks(flatfield)
    desk.feed(camera, web()[:200])
    desk.turn(20, 0.15)
    desk.kill_worker(desk.workers[0])
    before = flatfield.read_bytes()
    shop_under(lens(COLUMNS, 9), tmp_path)
    desk.start_worker()
    with pytest.raises(ConfigError, match=r"roll roll-000001, which runs, cannot go on: .*put recipe and flat-field"):
        desk.turn(20, 0.15)
    flatfield.write_bytes(before)
    desk.kill_worker(desk.workers[0])
    desk.start_worker()
    desk.feed(camera, web()[200:])
    assert end_roll(desk).lines_inspected == 400


def test_a_camera_that_sends_other_lines_than_the_flat_field_s(tmp_path: Path, desks: Any) -> None:
    with pytest.raises(ConfigError, match="made under width 54, camera cam0 has width 48"):
        desks(shop_under(lens(54), tmp_path))


def test_a_flat_field_of_another_serial_stops_the_stages_at_their_start(tmp_path: Path, desks: Any) -> None:
    path = shop_under(uneven(), tmp_path, serial="SN9")
    with pytest.raises(ConfigError, match=r"F\.npz: .*made under serial SN9, camera cam0 in .*line\.toml has serial 1"):
        desks(path)


def brightness(scene: float, desk: Desk, camera: ArrayCamera, lines: int) -> tuple[tuple[str, ...], dict[str, int]]:
    """The worker's faults and counters after so many lines."""
    desk.feed(camera, uneven().sees(scene, lines), 128)
    desk.turn(20, 0.15)
    status = desk.workers[0].status()
    return status.faults, status.counters


def test_a_lamp_that_ages_is_a_fault_and_nothing_is_corrected_for_it(tmp_path: Path, desks: Any) -> None:
    write_frames(tmp_path / "good", uneven().sees(120, 300), 100)
    desk, camera = desks(shop_under(uneven(), tmp_path, "--web", tmp_path / "good"))
    faults, counters = brightness(120, desk, camera, ENOUGH_LINES - 128)
    assert faults == ()
    assert "brightness_permille" not in counters
    faults, counters = brightness(120, desk, camera, 128)
    assert faults == ()
    assert counters["brightness_permille"] == pytest.approx(counters["brightness_wanted_permille"], abs=2)
    before = counters["brightness_permille"]
    faults, counters = brightness(95, desk, camera, 1024)  # the mean of what was and is: 10.4 % below
    assert faults == ("brightness-drift",)
    assert counters["brightness_permille"] < 0.9 * before
    assert isinstance(desk.command("end"), RollState)
    desk.turn(20, 0.15)
    assert desk.workers[0].status().faults == ()  # between rolls nothing is known


@pytest.mark.parametrize("more", ["brightness_drift = 0.3", None])
def test_a_wide_tolerance_or_no_flat_field_is_no_fault(tmp_path: Path, flatfield: Path, desks: Any, more: Any) -> None:
    desk, camera = desks(flatfield if more else None, more or "")
    faults, counters = brightness(155, desk, camera, ENOUGH_LINES)  # of the white's 200
    assert faults == ()
    assert ("brightness_wanted_permille" in counters) == bool(more)
    assert counters["brightness_permille"] > 0


# ------------------------------------------------------------------------------------------------ before the start


def checked_line(folder: Path, product: Path, features: str, name: str = "F.npz") -> list[str]:
    (folder / "camera.cti").touch()
    path = folder / "line.toml"
    path.write_text(
        f'recipe = "{product.name}"\n[[cameras]]\nname = "cam0"\nproducer = "camera.cti"\nserial = "1"\n'
        f'max_line_rate_hz = 500.0\nflatfield = "{name}"\nfeatures = {{ {features} }}\n',
        encoding="utf-8",
    )
    return ["check", "--config", str(path)]


def test_check_reads_the_flat_field(tmp_path: Path, flatfield: Path, product: Path, capsys: Output) -> None:
    assert main(checked_line(tmp_path, product, 'Width = 48, PixelFormat = "Mono8"')) == 0
    assert f"{flatfield}: made 20" in capsys.readouterr().out
    for features, name, code, said in (
        ("Width = 64", "F.npz", 2, "made under width 48, camera cam0 in"),
        ('PixelFormat = "Mono12p"', "F.npz", 2, "pixel format Mono8, camera cam0 in"),
        ("Width = 48", "G.npz", 65, "G.npz: cannot be read"),
    ):
        assert main(checked_line(tmp_path, product, features, name)) == code
        assert said in capsys.readouterr().err


def test_acquire_compares_the_flat_field_with_the_camera_that_it_found(
    tmp_path: Path, flatfield: Path, product: Path
) -> None:
    config = Path(checked_line(tmp_path, product, "Width = 48")[-1])
    config.write_text(config.read_text().replace('serial = "1"', 'model = "any"'), encoding="utf-8")
    line = Line(config)
    there: Any = SimpleNamespace(serial="1", columns=COLUMNS, pixel_format="Mono8")
    check_flatfield(line, "cam0", there)
    there.serial = None  # a producer that does not say
    check_flatfield(line, "cam0", there)
    there.serial = "2"
    with pytest.raises(ConfigError, match="made under serial 1, camera cam0 has serial 2"):
        check_flatfield(line, "cam0", there)
