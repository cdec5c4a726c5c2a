"""Where the extra is not installed: what asks for it is told its name, and all the rest runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from linescan.cli.main import main
from linescan.errors import ConfigError
from linescan.line import WorkerSettings
from linescan.models import openvino
from linescan.models.bundle import load_bundle
from linescan.models.runner import Execution, Runner, choose_execution


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )
    monkeypatch.setitem(sys.modules, "openvino", None)  # makes `import openvino` fail


@pytest.mark.usefixtures("missing")
def test_openvino_asked_for_and_missing(toy: Path) -> None:
    bundle = load_bundle(toy)
    with pytest.raises(ConfigError, match=r"pip install 'linescan\[openvino\]'") as caught:
        choose_execution(bundle, "openvino", "float32", 4, 1)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"linescan\[openvino\]"):
        Runner(bundle, Execution("openvino", "float32", 4, 1))
    assert choose_execution(bundle, "cpu", "float32", 4, 1).device == "cpu"


@pytest.mark.usefixtures("missing")
def test_quantise_names_the_extra(toy: Path, good_footage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantise", "--model", str(toy), "--images", str(good_footage)]) == 2
    assert "linescan[openvino]" in capsys.readouterr().err


def test_a_package_that_cannot_be_loaded(toy: Path) -> None:
    """Found, but its libraries are not: a broken installation."""
    with (
        patch.object(openvino, "openvino_installed", return_value=True),
        patch.dict(sys.modules, {"openvino": None}),
        pytest.raises(ConfigError, match="openvino cannot be loaded"),
    ):
        Runner(load_bundle(toy), Execution("openvino", "float32", 4, 1))


def test_the_line_can_ask_for_it() -> None:
    settings = WorkerSettings.model_validate({"device": "openvino", "precision": "int8"})
    assert (settings.device, settings.precision) == ("openvino", "int8")
