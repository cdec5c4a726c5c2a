"""What `linescan check --config` says of the gates: whether each is far enough behind the cameras at top speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from linescan.errors import ConfigError
from linescan.inspection.latency import context_lines
from linescan.line import CameraSettings, Gate, Line
from linescan.neighbours import beside
from linescan.recipe import Setup
from linescan.schedule import shortest_distance_mm
from linescan.stages.borders import views_of

ROUNDING = 1e-9  # of quotients of what line.toml says


@dataclass(frozen=True)
class _Need:
    """The distance that a lane's gate has to have for the sake of one camera, and what it is made of."""

    camera: str
    needed_mm: float
    said: str


def check_distances(line: Line, setups: Mapping[str, Setup]) -> list[str]:
    """A line of text for each gate: how far it is, and how far it has to be with these setups of the cameras.

    Raises ConfigError for a gate that is nearer, and for a camera that cannot scan every line at web.top_speed_mm_s.
    """
    rejects, web = line.settings.rejects, line.settings.web
    if rejects is None or web is None:
        return []
    said = []
    for camera in line.settings.cameras:
        _check_line_rate(line, camera)
        if not isinstance(camera.features.get("Height"), int):
            said.append(
                f"warning: cameras.{camera.name}.features has no Height: the distances below lack the lines of a frame"
            )
    late_mm = (rejects.plc_scan_s + rejects.actuator_s) * web.top_speed_mm_s
    if rejects.lead_mm < late_mm or rejects.lag_mm < late_mm:
        said.append(
            f"warning: rejects.lead_mm = {rejects.lead_mm:g}, lag_mm = {rejects.lag_mm:g}: while PLC and actuator "
            f"react the web moves {late_mm:.1f} mm at top speed; the edges of a defect so near to the window's may pass"
        )
    for gate in rejects.gates:
        cameras = [name for name, setup in setups.items() if gate.lane in _lanes(setup, gate)]
        if not cameras:
            said.append(f"gate {gate.lane}: no camera sees anything of its lane")
            continue
        most = max((_need(line, setups[name], line.camera(name)) for name in cameras), key=lambda need: need.needed_mm)
        if gate.distance_mm < most.needed_mm - ROUNDING:
            raise ConfigError(
                f"{line.path}: rejects.gates: lane {gate.lane!r}: distance_mm = {gate.distance_mm:g}, at least "
                f"{most.needed_mm:.1f} is needed at web.top_speed_mm_s = {web.top_speed_mm_s:g} with recipe "
                f"{setups[most.camera].recipe}: camera {most.camera}: {most.said}"
            )
        said.append(
            f"gate {gate.lane}: {gate.distance_mm:g} mm, at least {most.needed_mm:.1f} are needed at "
            f"{web.top_speed_mm_s:g} mm/s: camera {most.camera}: {most.said}"
        )
    return said


def _lanes(setup: Setup, gate: Gate) -> list[str]:
    """Of which the camera sees something; a recipe without lanes means all of them."""
    return [lane.name for lane in setup.settings.lanes] or [gate.lane]


def _check_line_rate(line: Line, camera: CameraSettings) -> None:
    web, mm_per_line = line.settings.web, line.geometry(camera.name).mm_per_line
    assert web is not None
    assert mm_per_line is not None  # line.toml was checked: rejects need an encoder
    needed_hz = web.top_speed_mm_s / mm_per_line
    if camera.max_line_rate_hz < needed_hz * (1 - ROUNDING):
        raise ConfigError(
            f"{line.path}: cameras.{camera.name}.max_line_rate_hz = {camera.max_line_rate_hz:g}: at "
            f"web.top_speed_mm_s = {web.top_speed_mm_s:g} and {mm_per_line:g} mm a line, {needed_hz:.0f} lines/s pass"
        )


def _need(line: Line, setup: Setup, camera: CameraSettings) -> _Need:
    """The shortest distance that works for one camera; one behind the reference line adds its offset."""
    rejects, web, mm_per_line = line.settings.rejects, line.settings.web, line.geometry(camera.name).mm_per_line
    assert rejects is not None
    assert web is not None
    assert mm_per_line is not None
    height = camera.features.get("Height")
    frame, context = height if isinstance(height, int) else 0, context_lines(setup.settings)
    hold_s = web.border_hold_s if beside(camera.name, views_of(line), web.border_mm) else 0.0
    needed_mm = camera.y_offset_mm + shortest_distance_mm(
        frame_lines=frame,
        context_lines=context,
        mm_per_line=mm_per_line,
        top_speed_mm_s=web.top_speed_mm_s,
        inspection_s=rejects.inspection_s + hold_s,
        reaction_s=rejects.plc_scan_s + rejects.actuator_s,
        lead_mm=rejects.lead_mm,
        merge_mm=rejects.merge_mm,
    )
    times = f"inspection {rejects.inspection_s:g} s" + (f" + border {hold_s:g} s" if hold_s else "")
    said = (
        f"{frame} lines of a frame + {context} of context at {mm_per_line:g} mm, {times} + PLC {rejects.plc_scan_s:g} s"
        f" + actuator {rejects.actuator_s:g} s, lead {rejects.lead_mm:g} mm, merge {rejects.merge_mm:g} mm"
        + (f", y_offset {camera.y_offset_mm:g} mm" if camera.y_offset_mm else "")
    )
    return _Need(camera.name, needed_mm, said)
