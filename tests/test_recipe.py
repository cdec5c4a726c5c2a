"""Bundle, recipe and arguments brought together; every mistake in them is named with its file and key."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linescan.config import Recipe, load_toml
from linescan.errors import BundleError, ConfigError, FootageError, InputError, InspectionError
from linescan.inspection.calibration import ColumnCalibration
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner
from linescan.recipe import check_footage, load_calibration, load_setup, save_calibration, self_check
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
    assert setup.pinned["inspection"]["lanes"] == [{"name": "left", "first_column": 0, "end_column": 20}]
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
        (MODEL + "[[lanes]]\nname = 'left'\n", "lanes.0.first_column.*and 1 more"),
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
    with pytest.raises(BundleError, match=r"gone\.pt: cannot be read: No such file"):
        load_setup(None, recipe(shop, '[model]\nfile = "gone.pt"\n'))


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
