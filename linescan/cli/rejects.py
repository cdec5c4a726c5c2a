"""linescan rejects --simulate: which rejects a line would have sent for a recording, and when."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tqdm import tqdm

from linescan.cli.common import add_execution_arguments
from linescan.codec import to_dict
from linescan.errors import ConfigError
from linescan.files import atomic_file
from linescan.flatfield_file import flatfield_of
from linescan.footage import Footage, open_footage
from linescan.footage.sources import find_files
from linescan.line import CameraSettings, Line
from linescan.models.runner import Runner, choose_execution
from linescan.recipe import load_setup, patches_a_row
from linescan.replay.told import ToldRoll, told_rolls
from linescan.stages.simulated_rejects import SimulatedLane, SimulatedReject, SimulatedRoll, motion_of, simulate

DIGITS = 4  # of mm in the output file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument(
        "--simulate", nargs="+", required=True, metavar="FOOTAGE", help="what a camera recorded: as for linescan-replay"
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="line.toml",
        help="its [rejects] and [web] say where gates are",
    )
    parser.add_argument("--recipe", metavar="NAME", help="another recipe than the line's own")
    parser.add_argument("--camera", metavar="NAME", help="which of several; one at a time is simulated")
    parser.add_argument(
        "--speed", type=float, metavar="MM_S", help="of the web (default: as it was recorded, else web.top_speed_mm_s)"
    )
    parser.add_argument("--bit-depth", type=int, choices=(10, 12, 16), help="of 16-bit images (default: 16)")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="write every reject there, and the figures")
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    line = Line(args.config)
    if line.settings.rejects is None:
        raise ConfigError(f"{args.config}: [rejects] and [web] are missing: where the gates are")
    recipe = line.recipe_file(args.recipe or line.recipe)
    with contextlib.ExitStack() as stack:
        footage = stack.enter_context(_open(args))
        camera = line.camera(args.camera or (footage.camera if len(line.settings.cameras) > 1 else None))
        out = None if args.output is None else stack.enter_context(atomic_file(args.output))
        _say_how(line, camera)
        for told in _told(args, line, camera, recipe, footage):
            motion = motion_of(line, camera, told, footage.path, args.speed)
            _note_counts(camera, told)
            found = simulate(line, camera, told, motion)
            _print(told, found)
            if out is not None:
                _write(out, found)
        if footage.truncated is not None:
            _note(f"the footage ends early: {footage.truncated}")
    if args.output is not None:
        print(f"written: {args.output}")
    return 0


def _open(args: argparse.Namespace) -> Footage:
    """`--camera` is the line's; of a recording it is the one to be read too."""
    recorded = any(path.suffix.lower() == ".mcap" for path in find_files(args.simulate))
    return open_footage(args.simulate, bit_depth=args.bit_depth, camera=args.camera if recorded else None)


def _told(
    args: argparse.Namespace, line: Line, camera: CameraSettings, recipe: Path, footage: Footage
) -> Iterator[ToldRoll]:
    setup = load_setup(recipe=recipe, geometry=line.geometry(camera.name), flatfield=flatfield_of(line, camera.name))
    asked, a_row = line.settings.worker, patches_a_row(setup.settings, footage.columns)
    precision = asked.precision if args.precision == "auto" else args.precision
    execution = choose_execution(
        setup.bundle, args.device or asked.device, precision, args.batch or asked.batch, args.threads or asked.threads,
        a_row,
    )  # fmt: skip
    height = camera.features.get("Height")
    with tqdm(total=footage.total_lines, unit="line", unit_scale=True, disable=None) as bar:
        yield from told_rolls(
            setup, Runner(setup.bundle, execution), footage, camera=camera.name,
            frame_lines=height if isinstance(height, int) else None, on_lines=bar.update,
        )  # fmt: skip


def _say_how(line: Line, camera: CameraSettings) -> None:
    others = [one.name for one in line.settings.cameras if one is not camera]
    if others:
        _note(f"camera {camera.name} alone: what {', '.join(others)} would add to these lanes is not in it")
    if line.settings.web is not None and line.settings.web.tie == "pulse":
        _note("no sync pulses are simulated: counts are those of the camera's counter")
    if not isinstance(camera.features.get("Height"), int):
        _note(f"cameras.{camera.name}.features has no Height: frames are taken to be as high as the footage's")


def _note_counts(camera: CameraSettings, told: ToldRoll) -> None:
    """Lines and counts of the recording should go together as line.toml says."""
    encoder = camera.encoder
    known = [frame for frame in told.frames if frame.encoder_count is not None]
    if encoder is None or len(known) < 2:
        return
    first, last = known[0], known[-1]
    assert first.encoder_count is not None
    assert last.encoder_count is not None
    span = 1 << encoder.bits
    lines = last.first_line - first.first_line
    off = (last.encoder_count - first.encoder_count - lines * encoder.counts_per_line + span // 2) % span - span // 2
    if abs(off) >= encoder.counts_per_line:
        _note(
            f"over lines {first.first_line} to {last.first_line} the recorded counter is {off:+d} counts off what "
            f"counts_per_line = {encoder.counts_per_line} says: was it recorded on this line?"
        )


# ------------------------------------------------------------------------------------------ what is said


def _print(told: ToldRoll, found: SimulatedRoll) -> None:
    for reject in found.rejects:
        tqdm.write(_sentence(reject), file=sys.stdout)
    for notice in found.notices:
        tqdm.write(f"notice  {notice.kind}: {notice.text}", file=sys.stdout)
    first, name = told.first_line, told.start.roll
    tqdm.write(f"roll {name}, camera {told.start.camera}, recipe {told.start.recipe}: lines {first}–{told.lines - 1}")
    for lane in found.lanes:
        tqdm.write(_summary(lane), file=sys.stdout)


def _sentence(reject: SimulatedReject) -> str:
    window = f"counts {reject.first_count}–{reject.end_count - 1} = {_span(reject.window_mm)}"
    if reject.along_mm is None or reject.ordered_after_mm is None:
        return f"{reject.lane}: {reject.cause}, web that nobody inspected and lag_mm behind it: {window}"
    when = "" if reject.margin_mm is None else (
        f", {reject.margin_mm:.1f} mm before the deadline" if reject.in_time
        else f", LATE by {-reject.margin_mm:.1f} mm"
    )  # fmt: skip
    return (
        f"{reject.lane}: {reject.cause} {reject.source}, lines {reject.first_line}–{reject.last_line} = "
        f"{_span(reject.along_mm)}: {window}; ordered {reject.ordered_after_mm:.1f} mm after it passed the camera{when}"
    )


def _summary(lane: SimulatedLane) -> str:
    orders = f"{lane.orders} rejects, {lane.late} late"
    margin = "" if lane.margin_mm is None else f", shortest margin {lane.margin_mm:.1f} mm"
    share = lane.rejected_mm / lane.web_mm if lane.web_mm else 0.0
    rejected = f"{share:.2%} of {lane.web_mm:.1f} mm rejected"
    start = f", {lane.start_mm:.1f} mm of it at the start (lag_mm behind what lay before)" if lane.start_mm else ""
    unseen = f", {lane.unseen_mm:.1f} mm of it because the inspection came too late" if lane.unseen_mm else ""
    limit = ""
    if lane.limit_mm is not None:
        limit = f"; what may pass was {lane.limit_mm:.1f} mm ahead of the gate at the least"
    return f"  {lane.lane}: {orders}{margin}; {rejected}{start}{unseen}{limit}"


def _span(mm: tuple[float, float]) -> str:
    return f"{mm[0]:.1f}…{mm[1]:.1f} mm"


def _note(text: str) -> None:
    tqdm.write(f"note: {text}", file=sys.stderr)


def _write(out: IO[bytes], found: SimulatedRoll) -> None:
    for reject in found.rejects:
        _line(out, "reject", asdict(reject))
    for notice in found.notices:
        out.write(json.dumps(to_dict(notice)).encode() + b"\n")
    for lane in found.lanes:
        _line(out, "lane", asdict(lane))


def _line(out: IO[bytes], kind: str, fields: dict[str, object]) -> None:
    out.write(json.dumps({"type": kind, **{name: _rounded(value) for name, value in fields.items()}}).encode() + b"\n")


def _rounded(value: object) -> object:
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return round(value, DIGITS) if isinstance(value, float) else value
