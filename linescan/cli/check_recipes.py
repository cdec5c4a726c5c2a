"""What `linescan check --config` says of recipes: each under each camera, as its worker would load it."""

from __future__ import annotations

from linescan.cli.check_distances import check_distances
from linescan.config import Recipe, load_toml
from linescan.errors import ConfigError, LinescanError
from linescan.flatfield_file import flatfield_of
from linescan.inspection.strips import uncovered
from linescan.line import Line
from linescan.models.runner import Execution, Runner
from linescan.recipe import Setup, check_footage, load_setup, self_check


def load_recipe(line: Line, name: str) -> dict[str, Setup]:
    """The recipe's setup for each camera; raises what a worker would refuse it with, self-check apart."""
    setups = {}
    for camera in line.settings.cameras:
        setup = load_setup(
            recipe=line.recipe_file(name), pinned=True, geometry=line.geometry(camera.name),
            flatfield=flatfield_of(line, camera.name),
        )  # fmt: skip
        width = line.width(camera.name)
        if width is not None:
            check_footage(setup, width, setup.settings.channels)
        setups[camera.name] = setup
    _check_lanes(line, name, setups)
    return setups


def check_others(line: Line, execution: Execution) -> list[str]:
    """A line of text for each recipe that the line could be switched to: that it is sound, or why it is not."""
    said = []
    for name in line.recipes():
        if name == line.recipe:
            continue
        try:
            setups = load_recipe(line, name)
            for setup in setups.values():
                self_check(setup, Runner(setup.bundle, execution))
            said.append(f"recipe {name}: sound; `linescan roll start --recipe {name}` switches to it")
        except LinescanError as error:
            said.append(f"warning: recipe {name} would be refused: {error}")
            continue
        try:
            check_distances(line, setups)
        except ConfigError as error:  # a line runs with it, and rejects good web
            said.append(f"warning: {error}")
    return said


def _check_lanes(line: Line, name: str, setups: dict[str, Setup]) -> None:
    """Raises ConfigError for a lane that has no gate or no camera, in whole or in part: it would pass uninspected."""
    file = line.recipe_file(name)
    product = load_toml(file, Recipe)
    lanes, rejects = [lane.name for lane in product.lanes], line.settings.rejects
    if rejects is not None and lanes:
        gates = [gate.lane for gate in rejects.gates]
        without = sorted({*lanes} ^ {*gates})
        if without:
            what = "gate in rejects.gates" if without[0] in lanes else "place in the recipe"
            raise ConfigError(f"{file}: lane {without[0]!r} has no {what}; lanes: {lanes}, gates: {gates}")
    views = [_inspected_mm(line, camera, setup) for camera, setup in setups.items()]
    half_a_column = max(setup.geometry.mm_per_column or 0.0 for setup in setups.values()) / 2
    for lane in product.lanes:
        if lane.in_mm and None not in views:
            for low, high in uncovered(lane.edges, [view for view in views if view is not None]):
                if high - low > half_a_column:  # an edge in mm goes to the nearest column
                    raise ConfigError(f"{file}: lane {lane.name!r}: no camera inspects {low:g} to {high:g} mm of it")


def _inspected_mm(line: Line, camera: str, setup: Setup) -> tuple[float, float] | None:
    """What that camera inspects across the web; None where line.toml does not say."""
    width, geometry = line.width(camera), setup.geometry
    columns = setup.settings.columns or (None if width is None else (0, width))
    if columns is None or geometry.mm_per_column is None:
        return None
    low, high = (column * geometry.mm_per_column + geometry.x_offset_mm for column in columns)
    return low, high
