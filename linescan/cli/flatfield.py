"""linescan calibrate flatfield: gain and offset of each column from dark and white footage of one camera."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from linescan.cli.common import closed, columns
from linescan.errors import ConfigError, FootageError, InputError
from linescan.flatfield_file import About, save_flatfield
from linescan.footage import Footage, FootageFrame, open_footage
from linescan.inspection.flatfield import MIN_LINES, FlatField, Levels, make_flatfield
from linescan.inspection.gate import line_statistics
from linescan.inspection.lines import Pixels, channels_first
from linescan.pixels import format_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--dark", required=True, nargs="+", metavar="FOOTAGE", help="lines without light: lens capped")
    parser.add_argument("--white", required=True, nargs="+", metavar="FOOTAGE", help="lines of a white that moves")
    parser.add_argument("--output", required=True, type=Path, metavar="F.npz", help="the flat-field to write")
    parser.add_argument("--camera-serial", required=True, metavar="SERIAL", help="of the camera that took both")
    parser.add_argument(
        "--target", type=float, metavar="T", help="the level for white, of full scale (default: its mean)"
    )
    parser.add_argument("--columns", type=columns, metavar="A:B", help="columns A…B−1 show the white; leave the others")
    parser.add_argument(
        "--web", nargs="+", metavar="FOOTAGE", help="good web, whose brightness is watched, not white's"
    )
    parser.add_argument("--camera", metavar="NAME", help="which camera of MCAP recordings")
    parser.add_argument("--bit-depth", type=int, choices=(10, 12, 16), help="of 16-bit images (default: 16)")


def run(args: argparse.Namespace) -> int:
    if args.target is not None and not 0 < args.target <= 1:
        raise ConfigError(f"--target {args.target:g}: a share of full scale above 0, at most 1, expected")
    white, shape = _levels(args, args.white, None)
    dark, _ = _levels(args, args.dark, shape)
    width, channels, bits = shape
    web = closed(args.columns, width)
    if web is not None and web[1] > width:
        raise ConfigError(f"--columns {web[0]}:{web[1]}: {white.name} has {width} columns")
    field = make_flatfield(dark, white, args.target, web)
    if args.web is not None:
        field = replace(field, level=_brightness(args, field, shape))
    about = About(
        made_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        camera_serial=args.camera_serial,
        pixel_format=format_of(channels, bits),
        columns=width,
        web=field.web,
        dark_lines=dark.lines,
        white_lines=white.lines,
        level=field.level,
    )
    save_flatfield(args.output, field, about)
    _report(field, about, args.output)
    return 0


Shape = tuple[int, int, int]  # columns, channels, bits


def _open(args: argparse.Namespace, paths: Sequence[str]) -> Footage:
    return open_footage(paths, bit_depth=args.bit_depth, camera=args.camera)


def _levels(args: argparse.Namespace, paths: Sequence[str], like: Shape | None) -> tuple[Levels, Shape]:
    with _open(args, paths) as footage:
        shape = _shape(footage, like)
        levels = Levels(*shape, footage.path)
        for frame in footage:
            levels.add(_readable(frame))
            if levels.full:
                break
    return levels, shape


def _brightness(args: argparse.Namespace, field: FlatField, like: Shape) -> float:
    """Mean brightness of corrected good web."""
    first, end = field.web
    means = []
    with _open(args, args.web) as footage:
        _shape(footage, like)
        for frame in footage:
            corrected = field.apply(channels_first(_readable(frame)))
            means.append(line_statistics(corrected[..., first:end], field.bit_depth)[0])
    lines = torch.cat(means)
    if len(lines) < MIN_LINES:
        raise InputError(f"{footage.path}: {len(lines)} lines, at least {MIN_LINES} are needed")
    return float(lines.mean())


def _shape(footage: Footage, like: Shape | None) -> Shape:
    shape = (footage.columns, footage.channels, footage.bit_depth)
    if like is not None and shape != like:
        found, wanted = ("{} columns, {} channels, {} bits".format(*one) for one in (shape, like))
        raise FootageError(f"{footage.path}: {found}; the white footage has {wanted}")
    return shape


def _readable(frame: FootageFrame) -> Pixels:
    if frame.pixels is None:
        raise FootageError(f"{frame.name} {frame.error}: footage to calibrate on must be readable")
    return frame.pixels


def _report(field: FlatField, about: About, output: Path) -> None:
    first, end = field.web
    gain = field.gain[:, [column for column in range(first, end) if column not in set(field.dead)]]
    dead = ", ".join(map(str, field.dead)) or "none"
    print(f"gain {gain.min():.3f} to {gain.max():.3f} over columns {first}:{end}; brightness {about.level:.3f}")
    print(f"dead columns, interpolated from those beside them: {dead}")
    print(f"written: {output}, for the camera with serial {about.camera_serial}")
