"""Bundle, recipe and arguments brought together; every mistake in them is named with its file and key."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.config import Geometry, Mask, Recipe, load_toml
from linescan.errors import BundleError, ConfigError, FootageError, InputError, InspectionError
from linescan.inspection.calibration import ColumnCalibration
from linescan.inspection.strips import columns_of, uncovered
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from linescan.recipe import Setup, check_footage, load_calibration, load_setup, save_calibration, self_check
from linescan.training.produce import write_recipe
from tests.conftest import TOY_THRESHOLD, Blind, leftovers, toy_bundle

COLUMNS = 40


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def even(columns: int = COLUMNS) -> ColumnCalibration:
    return ColumnCalibration(np.zeros(columns, np.float32), np.ones(columns, np.float32))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a bundle, and a calibration made with it."""
    toy_bundle(tmp_path / "toy.pt", columns=(2, 42))
    save_calibration(tmp_path / "toy.columns.npz", even(), sha256_of(tmp_path / "toy.pt"), 100)
    return tmp_path


def recipe(shop: Path, text: str) -> Path:
    path = shop / "product.toml"
    path.write_text(text)
    return path


MODEL = '[model]\nfile = "toy.pt"\n'


def lane(name: str, low: float, high: float, unit: str = "px", more: str = "") -> str:
    first, end = ("from_mm", "to_mm") if unit == "mm" else ("first_column", "end_column")
    return f"[[lanes]]\nname = '{name}'\n{first} = {low}\n{end} = {high}\n{more}"


CALIBRATED = MODEL + '[inspection]\nthreshold = 3.5\n[calibration]\nfile = "toy.columns.npz"\n'

# ------------------------------------------------------------------------------------------------ who wins


def test_a_bundle_by_itself(shop: Path) -> None:
    setup = load_setup(shop / "toy.pt")
    settings = setup.settings
    assert (settings.stride, settings.threshold, settings.columns) == (8, TOY_THRESHOLD, (2, 42))
    assert (settings.method, settings.patch_size, settings.blend) == ("l2", 16, "mean")
    assert (setup.recipe, setup.calibration) == ("toy", None)


def test_arguments_win_over_the_recipe_and_the_recipe_over_the_bundle(shop: Path) -> None:
    text = MODEL + "[inspection]\nstride = 4\nthreshold = 0.5\ncolumns = [10, 30]\nmin_area_px = 7\n"
    path = recipe(shop, text)
    settings = load_setup(None, path).settings
    assert (settings.stride, settings.threshold, settings.columns, settings.min_area_px) == (4, 0.5, (10, 30), 7)
    settings = load_setup(None, path, stride=2).settings
    assert (settings.stride, settings.threshold, settings.columns) == (2, 0.5, (10, 30))
    settings = load_setup(None, path, threshold=0.0, columns=(0, 5)).settings
    assert (settings.stride, settings.threshold, settings.columns) == (4, 0.0, (0, 5))
    settings = load_setup(None, recipe(shop, MODEL)).settings
    assert (settings.stride, settings.threshold, settings.columns) == (8, TOY_THRESHOLD, (2, 42))


def test_what_the_training_fixed_is_not_the_recipe_s(shop: Path) -> None:
    for key, value in (("blend", '"hann"'), ("smoothing_sigma", "3.0"), ("scale", "2"), ("patch_size", "32")):
        with pytest.raises(ConfigError, match=f"inspection.{key}"):
            load_setup(None, recipe(shop, MODEL + f"[inspection]\n{key} = {value}\n"))


def test_lanes_and_selvage_come_from_the_recipe(shop: Path) -> None:
    text = (
        MODEL
        + '[selvage]\nbackdrop = "dark"\nlevel = 0.2\n[[lanes]]\nname = "left"\nfirst_column = 0\nend_column = 20\n'
    )
    setup = load_setup(None, recipe(shop, text))
    assert setup.settings.selvage is not None
    assert setup.settings.selvage.backdrop == "dark"
    assert [lane.name for lane in setup.settings.lanes] == ["left"]
    assert setup.recipe == "product"
    assert setup.pinned["model_sha256"] == sha256_of(shop / "toy.pt")
    left = {"name": "left", "first_column": 0, "end_column": 20, "threshold": None}
    assert setup.pinned["inspection"]["lanes"] == [left]
    json.dumps(setup.pinned)  # it goes into events.jsonl


def test_the_model_beside_a_recipe_must_be_the_one_that_it_pins(shop: Path) -> None:
    pinned = recipe(shop, MODEL + f'sha256 = "{sha256_of(shop / "toy.pt").upper()}"\n')
    other = toy_bundle(shop / "other.pt", threshold=0.3)
    assert load_setup(None, pinned).bundle.sha256 == sha256_of(shop / "toy.pt")
    assert load_setup(shop / "toy.pt", pinned).settings.threshold == TOY_THRESHOLD
    with pytest.raises(BundleError, match=r"other\.pt: has sha256 [0-9a-f]{64}, .* was pinned"):
        load_setup(other, pinned)
    assert load_setup(other, recipe(shop, MODEL)).settings.threshold == 0.3


def test_no_model_at_all() -> None:
    with pytest.raises(ConfigError, match="a model is needed"):
        load_setup()


# ------------------------------------------------------------------------------------------------ strips and classes

CAMERA = Geometry(mm_per_column=0.5, x_offset_mm=100.0, mm_per_line=0.25)


def places(setup: Setup) -> dict[str, tuple[int, int]]:
    return {one.name: (one.first_column, one.end_column) for one in setup.settings.lanes}


def test_lanes_in_mm_are_the_columns_of_each_camera(shop: Path) -> None:
    text = MODEL + lane("left", 90, 104, "mm") + lane("middle", 104, 112.6, "mm") + lane("right", 112.6, 130.1, "mm")
    path = recipe(shop, text)
    assert places(load_setup(None, path, geometry=CAMERA)) == {"left": (0, 8), "middle": (8, 25), "right": (25, 60)}
    beside = CAMERA.model_copy(update={"x_offset_mm": 120.0})
    assert places(load_setup(None, path, geometry=beside)) == {"right": (0, 20)}
    narrow = recipe(shop, MODEL + lane("thread", 100.3, 100.6, "mm"))
    with pytest.raises(ConfigError, match=r"lane 'thread': 100\.3 to 100\.6 mm is less than a column of 0\.5 mm"):
        load_setup(None, narrow, geometry=CAMERA)


@given(st.lists(st.floats(-50, 250), min_size=2, max_size=6, unique=True), st.floats(0.01, 3), st.floats(-50, 150))
@settings(deadline=None, derandomize=True, database=None)
def test_lanes_that_adjoin_in_mm_do_so_in_columns(edges: list[float], mm_per_column: float, offset: float) -> None:
    geometry = Geometry(mm_per_column=mm_per_column, x_offset_mm=offset)
    taken: list[int] = []
    for low, high in pairwise(sorted(edges)):
        try:
            place = columns_of(Mask(from_mm=low, to_mm=high), geometry)
        except ValueError:
            assert high - low < mm_per_column
            continue
        if place is None:
            assert high <= offset + mm_per_column / 2
            continue
        first, end = place
        # half a column at most: the edge of a lane lies within the column next to it
        assert abs(offset + end * mm_per_column - high) <= mm_per_column * 0.5001
        assert first == 0 or abs(offset + first * mm_per_column - low) <= mm_per_column * 0.5001
        taken += range(first, min(end, first + 10_000))
        if end - first < 10_000 and taken and first:
            assert taken == sorted(set(taken)), "no column is of two lanes"
        taken = taken[-1:]


def test_thresholds_masks_and_sizes_come_from_the_recipe(shop: Path) -> None:
    classes = "[[classes]]\nname = 'hole'\nseverity = 3\nmin_area_mm2 = 2.5\n"
    masks = "[[masks]]\nfirst_column = 3\nend_column = 5\n[[masks]]\nfrom_mm = 104\nto_mm = 105\n"
    text = MODEL + "[inspection]\nmin_length_px = 4\n" + lane("a", 0, 20, "px", "threshold = 0.9\n") + masks + classes
    setup = load_setup(None, recipe(shop, text), geometry=CAMERA)
    chosen = setup.settings
    assert (chosen.min_length_px, chosen.masks, chosen.classes[0].severity) == (4, ((3, 5), (8, 10)), 3)
    assert chosen.thresholds == (TOY_THRESHOLD, 0.9)
    assert load_setup(None, recipe(shop, text), geometry=CAMERA, threshold=0.4).settings.thresholds == (0.4,)
    assert setup.pinned["geometry"] == {"mm_per_column": 0.5, "x_offset_mm": 100.0, "mm_per_line": 0.25}
    json.dumps(setup.pinned)


def test_masks_must_leave_something(shop: Path) -> None:
    setup = load_setup(None, recipe(shop, MODEL + "[[masks]]\nfirst_column = 0\nend_column = 41\n"))
    check_footage(setup, 42, 1)
    setup = load_setup(None, recipe(shop, MODEL + "[[masks]]\nfirst_column = 0\nend_column = 42\n"))
    with pytest.raises(ConfigError, match="masks: nothing of columns 2:42 is left"):
        check_footage(setup, 42, 1)


def test_a_lane_s_threshold_must_find_the_reference_defect_too(shop: Path) -> None:
    def setup(threshold: float) -> Setup:
        return load_setup(None, recipe(shop, MODEL + lane("a", 0, 9, "px", f"threshold = {threshold}\n")))

    runner = Runner(setup(0.5).bundle, Execution("cpu", "float32", 4, 1))
    self_check(setup(TOY_THRESHOLD * 1.01), runner)
    with pytest.raises(InspectionError, match="at threshold 50 does not find the defect"):
        self_check(setup(50), runner)


def test_what_the_cameras_leave_of_a_lane() -> None:
    assert uncovered((0, 10), []) == [(0, 10)]
    assert uncovered((0, 10), [(8, 20), (-5, 3), (2, 6)]) == [(6, 8)]
    assert uncovered((0, 10), [(-1, 5), (4, 10)]) == []
    assert uncovered((0, 10), [(11, 12), (2, 3)]) == [(0, 2), (3, 10)]


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "model = .*Field required"),
        ("[model]\n", "model.file = .*Field required"),
        ("model = 'toy.pt'\n", "model = 'toy.pt'"),
        (MODEL + "[inspection]\nstrde = 4\n", "inspection.strde = 4: Extra"),
        (MODEL + "[inspection]\nstride = 'wide'\n", "inspection.stride = 'wide': Input should be a valid integer"),
        (MODEL + "[inspection]\nstride = 0\n", "inspection.stride = 0"),
        (MODEL + "[inspection]\nstride = 17\n", "stride 17 leaves lines between patches of 16"),
        (MODEL + "[inspection]\nthreshold = nan\n", "inspection.threshold = nan"),
        (MODEL + "[inspection]\nthreshold = inf\n", "inspection.threshold = inf"),
        (MODEL + "[inspection]\ncolumns = [30, 10]\n", "columns A:B need 0 <= A < B, got 30:10"),
        (MODEL + "[inspection]\ncolumns = [30]\n", "inspection.columns.1"),
        (MODEL + "sha256 = 'abc'\n", "model.sha256 = 'abc'"),
        (MODEL + "[[lanes]]\nname = 'left'\n", "lanes.0 = .*a strip needs .* given: nothing"),
        (MODEL + lane("a", 0, 10, "px", "from_mm = 1.0\n"), "given: end_column, first_column, from_mm"),
        (MODEL + lane("a", 10, 10), "its first edge before its second, got 10 and 10"),
        (MODEL + lane("a", 0, 10) + lane("b", 9, 20), "lanes 'a' and 'b' overlap"),
        (MODEL + lane("b", 9.5, 20, "mm") + lane("a", 0, 10, "mm"), "lanes 'a' and 'b' overlap"),
        (MODEL + lane("a", 0, 10) + lane("b", 10, 20, "mm"), "in columns or in mm, not some in one"),
        (MODEL + lane("a", 0, 10) + lane("a", 10, 20), "each lane needs a name of its own"),
        (MODEL + lane("a", 0, 10, "px", "threshold = inf\n"), "lanes.0.threshold = inf"),
        (MODEL + lane("a", 0, 10, "mm"), "product.toml: lane 'a': is in mm, which needs a line's camera"),
        (MODEL + "[[masks]]\nfrom_mm = 1.0\nto_mm = 2.0\n", "masks.0: is in mm"),
        (MODEL + "[[classes]]\nname = 'hole'\nseverity = 0\n", "classes.0.severity = 0"),
        (MODEL + 2 * "[[classes]]\nname = 'hole'\nseverity = 1\n", "each class needs a name of its own"),
        (MODEL + "[[classes]]\nname = 'hole'\nseverity = 1\nmin_width_mm = 3\n", "class 'hole': min_width_mm needs"),
        (MODEL + "[inspection]\nmin_length_px = 0\n", "inspection.min_length_px = 0"),
        (MODEL + "[selvage]\nbackdrop = 'green'\nlevel = 0.5\n", "selvage.backdrop = 'green'"),
        (MODEL + "[inspection\n", "is not TOML: .*line 3"),
        (MODEL + "stride = = 4\n", "is not TOML"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(shop: Path, text: str, said: str) -> None:
    path = recipe(shop, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_setup(None, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 2


def test_a_recipe_that_cannot_be_read(shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_setup(None, shop / "none.toml")
    (shop / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: is not TOML"):
        load_setup(None, shop / "latin.toml")


def test_the_bundle_that_a_recipe_names_may_be_missing(shop: Path) -> None:
    path = recipe(shop, '[model]\nfile = "gone.pt"\n')
    relative = (
        rf"gone\.pt: cannot be read: No such file.* \(model\.file = 'gone\.pt' in {path.name} is relative to {shop}\)"
    )
    with pytest.raises(BundleError, match=relative):
        load_setup(None, path)
    with pytest.raises(BundleError, match=r"nowhere/gone\.pt: cannot be read: No such file or directory$"):
        load_setup(None, recipe(shop, '[model]\nfile = "/nowhere/gone.pt"\n'))


def test_a_folder_is_named_in_full(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a recipe that was given as a file of the working directory its folder would be a dot."""
    recipe(shop, '[model]\nfile = "gone.pt"\n').rename(shop / "bare.toml")
    monkeypatch.chdir(shop)
    with pytest.raises(BundleError, match=f"is relative to {shop}"):
        load_setup(None, Path("bare.toml"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"stride": 0}, "stride = 0"),
        ({"stride": 999}, "stride 999"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"columns": (9, 9)}, "9:9"),
    ],
)
def test_a_mistake_in_the_arguments_is_named(shop: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_setup(shop / "toy.pt", **arguments)


# ------------------------------------------------------------------------------------------------ written


@pytest.mark.parametrize("name", ["plain", 'quo"ted', "back\\slash", "größe 𝛼", "tab\tand\x7f"])
def test_a_recipe_that_was_written_is_read_back(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    bundle = load_bundle(toy_bundle(folder / "M.pt", columns=(1, 41)))
    calibration = folder / "M.columns.npz"
    save_calibration(calibration, even(), bundle.sha256, 10)
    settings = load_setup(folder / "M.pt", stride=5).settings
    (tmp_path / "recipes").mkdir()
    for place in (folder / "R.toml", tmp_path / "R.toml", tmp_path / "recipes" / "R.toml"):
        write_recipe(place, bundle, 1.25e-05, calibration, settings)
        setup = load_setup(None, place)
        assert (setup.settings.threshold, setup.settings.stride, setup.settings.columns) == (1.25e-05, 5, (1, 41))
        assert setup.calibration is not None
        pinned = load_toml(place, Recipe).model.sha256
        assert pinned == bundle.sha256
        assert not Path(load_toml(place, Recipe).model.file).is_absolute()  # the folder may be moved
    assert leftovers(folder) == leftovers(tmp_path) == []


# ------------------------------------------------------------------------------------------------ column calibration


def test_a_calibration_is_read_back(shop: Path) -> None:
    setup = load_setup(None, recipe(shop, CALIBRATED))
    assert setup.calibration is not None
    assert np.array_equal(setup.calibration.mean, even().mean)
    assert np.array_equal(setup.calibration.deviation, even().deviation)
    assert setup.settings.threshold == 3.5


def test_a_calibration_without_a_threshold_in_its_unit(shop: Path) -> None:
    text = CALIBRATED.replace("threshold = 3.5\n", "")
    with pytest.raises(ConfigError, match=r"product\.toml: inspection\.threshold is missing"):
        load_setup(None, recipe(shop, text))
    assert load_setup(None, recipe(shop, text), threshold=2.0).settings.threshold == 2.0


def test_a_calibration_of_another_bundle(shop: Path) -> None:
    toy_bundle(shop / "toy.pt", threshold=0.4, columns=(2, 42))
    with pytest.raises(InputError, match=r"toy\.columns\.npz: was made with another bundle than .*toy\.pt") as caught:
        load_setup(None, recipe(shop, CALIBRATED))
    assert caught.value.exit_code == 65


def arrays(shop: Path, **changes: Any) -> bytes:
    """A calibration file with other arrays in it; None leaves one out."""
    about = json.dumps({"format": 1, "bundle_sha256": sha256_of(shop / "toy.pt"), "lines": 1})
    fields = {"mean": even().mean, "deviation": even().deviation, "about": np.array(about), **changes}
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in fields.items() if value is not None})
    return buffer.getvalue()


def garbage(shop: Path) -> dict[str, bytes]:
    npy, zipped = io.BytesIO(), io.BytesIO()
    np.save(npy, even().mean)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("mean.npy", "no array")
    sound = arrays(shop)
    return {
        "empty": b"",
        "text": b"not an archive",
        "half a zip": b"PK\x03\x04 and then nothing",
        "an array": npy.getvalue(),
        "a zip of something else": zipped.getvalue(),
        "cut off": sound[: len(sound) // 2],
        "no mean": arrays(shop, mean=None),
        "no about": arrays(shop, about=None),
        "about what": arrays(shop, about=np.array("[]")),
        "about nothing": arrays(shop, about=np.array("no json")),
        "names": arrays(shop, mean=np.array(["a"] * COLUMNS)),
        "pickled": arrays(shop, mean=np.array([{}] * COLUMNS, object)),
        "two dimensions": arrays(shop, mean=np.zeros((2, 20)), deviation=np.ones((2, 20))),
        "of two lengths": arrays(shop, mean=np.zeros(3)),
        "not a number": arrays(shop, mean=np.full(COLUMNS, np.nan)),
        "no deviation": arrays(shop, deviation=np.zeros(COLUMNS)),
        "infinite deviation": arrays(shop, deviation=np.full(COLUMNS, np.inf)),
    }


def test_a_calibration_file_that_is_none(shop: Path) -> None:
    bundle, path = load_bundle(shop / "toy.pt"), shop / "toy.columns.npz"
    path.write_bytes(arrays(shop))
    load_calibration(path, bundle)
    for name, data in garbage(shop).items():
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            load_calibration(path, bundle)
        assert str(caught.value).startswith(f"{path}: "), name
    path.unlink()
    with pytest.raises(InputError, match=r"toy\.columns\.npz: cannot be read: No such file"):
        load_calibration(path, bundle)


def test_a_damaged_calibration_file_never_crashes(shop: Path) -> None:
    bundle, path = load_bundle(shop / "toy.pt"), shop / "toy.columns.npz"
    data = arrays(shop)
    for position in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            calibration = load_calibration(path, bundle)
        except InputError:
            continue
        assert np.array_equal(calibration.mean, even().mean)
        assert np.array_equal(calibration.deviation, even().deviation)


# ------------------------------------------------------------------------------------------------ footage that fits


def test_footage_of_another_kind_is_refused(shop: Path) -> None:
    setup = load_setup(shop / "toy.pt")
    check_footage(setup, 42, 1)
    with pytest.raises(FootageError, match=r"the footage has 3 channels, .*toy\.pt was trained on 1"):
        check_footage(setup, 42, 3)
    with pytest.raises(ConfigError, match="columns 2:42 are asked for, the footage has 41"):
        check_footage(setup, 41, 1)


def test_a_calibration_for_other_columns_is_refused(shop: Path) -> None:
    check_footage(load_setup(None, recipe(shop, CALIBRATED)), 50, 1)
    setup = load_setup(None, recipe(shop, CALIBRATED), columns=(2, 41))
    with pytest.raises(ConfigError, match=r"columns 2:41 are 39 after scaling, .* is for 40"):
        check_footage(setup, 50, 1)


# ------------------------------------------------------------------------------------------------ the self-check


def runner_of(setup: Any) -> Runner:
    return Runner(setup.bundle, Execution("cpu", "float32", 2, 1))


def test_a_model_that_sees_passes_the_self_check(shop: Path) -> None:
    setup = load_setup(shop / "toy.pt")
    self_check(setup, runner_of(setup))


def test_a_threshold_that_nothing_exceeds_fails_the_self_check(shop: Path) -> None:
    setup = load_setup(shop / "toy.pt", threshold=0.9)
    with pytest.raises(InspectionError, match=r"self-check: .*toy\.pt at threshold 0\.9 does not find") as caught:
        self_check(setup, runner_of(setup))
    assert caught.value.exit_code == 70


def test_a_blind_model_fails_the_self_check(tmp_path: Path) -> None:
    setup = load_setup(toy_bundle(tmp_path / "blind.pt", Blind()))
    with pytest.raises(InspectionError, match="does not find the defect"):
        self_check(setup, runner_of(setup))


def test_with_a_calibration_the_self_check_uses_the_bundle_s_own_threshold(shop: Path) -> None:
    setup = load_setup(None, recipe(shop, CALIBRATED.replace("3.5", "900.0")))
    self_check(setup, runner_of(setup))
