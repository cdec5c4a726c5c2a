"""Setting a camera's features (GenApi nodes) as line.toml writes them; what is refused says what would be allowed."""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NoReturn

from linescan.cameras.producer import GENICAM_ERRORS, brief, genapi
from linescan.errors import CameraError
from linescan.line import FeatureValue

KEY = re.compile(r"(\w+)(?:\[(\w+)\])?")
FLOAT_TOLERANCE = 0.01  # relative: a camera rounds to what its clocks can divide
COMMAND_S = 5.0
READABLE = (genapi.EAccessMode.RO, genapi.EAccessMode.RW)
WRITABLE = (genapi.EAccessMode.WO, genapi.EAccessMode.RW)


class _RefusedError(Exception):
    pass


def set_features(camera: str, nodes: Any, features: Mapping[str, FeatureValue]) -> None:
    """Sets "Feature" or "Feature[Selector]" in the order given, reading each back.

    Raises CameraError that names camera, feature, value and what is allowed. A float may come back up to
    FLOAT_TOLERANCE of its value or one step of the camera away, anything else as it was written.
    """
    for key, value in features.items():
        try:
            _set_feature(nodes, key, value)
        except _RefusedError as refusal:
            raise CameraError(f"camera {camera}: feature {key} = {value!r}: {refusal}") from refusal
        except GENICAM_ERRORS as error:
            raise CameraError(f"camera {camera}: feature {key} = {value!r}: {brief(error)}") from error


def readable(nodes: Any, name: str) -> Any | None:
    """The node of that name where it can be read now, else None."""
    node = nodes.get_node(name) if nodes.has_node(name) else None
    return node if node is not None and node.get_access_mode() in READABLE else None


def entries(feature: Any) -> list[str]:
    """The entries of an enumeration that can be chosen now; none of anything else."""
    if not isinstance(feature, genapi.IEnumeration):
        return []
    return [name for name in feature.symbolics if feature.get_entry_by_name(name).get_access_mode() in READABLE]


def integers_near(nodes: Any, name: str, most: int = 3) -> list[str]:
    """Names like that one, the likest first, of integer features that can be read now."""
    features = {node.node.name: node for node in nodes.nodes if node.node.is_feature()}
    likest = difflib.get_close_matches(name, list(features), len(features), cutoff=0.3)
    found = (one for one in likest if isinstance(features[one], genapi.IInteger) and readable(nodes, one) is not None)
    return list(islice(found, most))


def _set_feature(nodes: Any, key: str, value: FeatureValue) -> None:
    match = KEY.fullmatch(key)
    if match is None:
        raise _RefusedError('"Feature" or "Feature[Selector]" expected')
    name, entry = match.groups()
    feature = _implemented(nodes, name)
    if entry is not None:
        _select(feature, name, entry)
    _assign(feature, value)


def _implemented(nodes: Any, name: str) -> Any:
    if not nodes.has_node(name):
        names = [node.node.name for node in nodes.nodes]
        near = difflib.get_close_matches(name, names, 3)
        raise _RefusedError("the camera has no such feature" + (f"; near it: {', '.join(near)}" if near else ""))
    node = nodes.get_node(name)
    if node.get_access_mode() == genapi.EAccessMode.NI:
        raise _RefusedError(f"this camera does not implement {name}")
    return node


def _select(feature: Any, name: str, entry: str) -> None:
    """Turns the selector of the feature to `entry`; of several selectors the one that has it."""
    selectors = list(feature.node.selecting_features)
    if not selectors:
        raise _RefusedError(f"{name} has no selector")
    fitting = [selector for selector in selectors if entry in entries(selector)]
    if not fitting and entry.isdigit():
        fitting = [selector for selector in selectors if isinstance(selector, genapi.IInteger)]
    if not fitting:
        known = "; ".join(f"{selector.node.name} allows {_allowed(selector)}" for selector in selectors)
        raise _RefusedError(f"no selector of it has {entry!r}: {known}")
    try:
        _assign(fitting[0], int(entry) if isinstance(fitting[0], genapi.IInteger) else entry)
    except _RefusedError as refusal:
        raise _RefusedError(f"its selector {fitting[0].node.name} = {entry!r}: {refusal}") from refusal


def _assign(feature: Any, value: FeatureValue) -> None:
    if not _fits(feature, value):
        raise _RefusedError(f"{_allowed(feature)} expected")
    access = feature.get_access_mode()
    if access == genapi.EAccessMode.RO:
        _check(feature, value)  # as it is to be, or it cannot be helped
        return
    if access not in WRITABLE:
        raise _RefusedError(f"{feature.node.name} is not available with the features set so far")
    if isinstance(feature, genapi.ICommand):
        _execute(feature)
        return
    try:
        feature.value = float(value) if isinstance(feature, genapi.IFloat) else value
    except (*GENICAM_ERRORS, OverflowError, TypeError) as error:
        _refuse(feature, error)
    if feature.get_access_mode() in READABLE:
        _check(feature, value)


def _check(feature: Any, value: Any) -> None:
    found = feature.value
    if isinstance(feature, genapi.IFloat):
        step = feature.inc if feature.has_inc() else 0.0
        kept = math.isclose(found, value, rel_tol=FLOAT_TOLERANCE, abs_tol=max(step, 1e-12))
    else:
        kept = found == value
    if not kept and feature.get_access_mode() == genapi.EAccessMode.RO:
        raise _RefusedError(f"it is {found!r} and can only be read with the features set so far")
    if not kept:
        raise _RefusedError(f"the camera made it {found!r}; allowed: {_allowed(feature)}")


def _execute(command: Any) -> None:
    command.execute()
    until = time.monotonic() + COMMAND_S
    while not command.is_done():
        if time.monotonic() > until:
            raise _RefusedError(f"not done after {COMMAND_S:g} s")
        time.sleep(0.01)


def _fits(feature: Any, value: FeatureValue) -> bool:
    if isinstance(feature, genapi.IBoolean):
        return isinstance(value, bool)
    if isinstance(feature, genapi.ICommand):
        return value is True
    if isinstance(feature, genapi.IInteger):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(feature, genapi.IFloat):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(feature, genapi.IEnumeration):
        return isinstance(value, str) and value in entries(feature)
    return isinstance(feature, genapi.IString) and isinstance(value, str)


def _allowed(feature: Any) -> str:
    for kind, describe in ALLOWED.items():
        if isinstance(feature, kind):
            return describe(feature)
    return "a feature with a value"


def _integers(feature: Any) -> str:
    if feature.inc_mode == genapi.EIncMode.listIncrement:
        return f"one of {', '.join(map(str, feature.list_of_valid_values))}"
    return f"{feature.min} to {feature.max} in steps of {feature.inc}"


def _floats(feature: Any) -> str:
    steps = f" in steps of {feature.inc:g}" if feature.has_inc() else ""
    return f"{feature.min:g} to {feature.max:g}{f' {feature.unit}' if feature.unit else ''}{steps}"


ALLOWED: dict[type, Callable[[Any], str]] = {
    genapi.IInteger: _integers,
    genapi.IFloat: _floats,
    genapi.IEnumeration: lambda feature: f"one of {', '.join(entries(feature))}",
    genapi.IBoolean: lambda feature: "true or false",
    genapi.ICommand: lambda feature: "true (it is a command)",
    genapi.IString: lambda feature: f"text of at most {feature.max_length} characters",
}


def _refuse(feature: Any, error: Exception) -> NoReturn:
    try:
        allowed = _allowed(feature)
    except GENICAM_ERRORS:
        allowed = "the camera does not say"
    raise _RefusedError(f"allowed: {allowed} ({brief(error)})") from error
