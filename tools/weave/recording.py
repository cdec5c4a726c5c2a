"""Frames, masks and the list of planted defects on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np

from .cloth import Image, Web
from .defects import Defect, Kind
from .presets import Preset
from .shapes import Box

FRAME_LINES = 256

README = """Footage of a woven web, rendered by tools/render_weave.py. No part of it is a photograph.

    {command}

{lines} lines of {columns} columns, 8 bit grey, in frames of {frame_lines} lines: NNNN.png is frame NNNN of one roll,
the web runs on from the last line of a frame to the first of the next. Defects planted: {defects}.
{masks}Seed {seed}; the parameters, lengths in pixels and greys in levels:

{parameters}

Dedicated to the public domain (CC0 1.0): copy, change and pass on as you like.
"""
MASKS = """masks/NNNN.png (0 or 255) marks their pixels; defects.json lists them, lines counted from the roll's
first, bounds inclusive, area_px = pixels of the mask.
"""


class PlantedRecord(TypedDict):
    """One entry of defects.json; lines are counted from the roll's start, bounds are inclusive."""

    kind: Kind
    first_line: int
    last_line: int
    first_column: int
    last_column: int
    area_px: int
    crosses_frames: bool


def frames(web: Web, lines: int) -> Iterator[Image]:
    """The roll in frames; the last one is shorter where the lines do not fill it."""
    for first_line in range(0, lines, FRAME_LINES):
        yield web.render(first_line, min(FRAME_LINES, lines - first_line))


def record_of(web: Web, defect: Defect) -> PlantedRecord:
    """What defects.json says of a defect: its bounds are those of its mask."""
    box: Box = defect.box
    mask = web.mask(defect, box.first_line, box.last_line - box.first_line + 1)
    lines, columns = np.flatnonzero(mask.any(1)) + box.first_line, np.flatnonzero(mask.any(0))
    return {
        "kind": defect.kind,
        "first_line": int(lines[0]),
        "last_line": int(lines[-1]),
        "first_column": int(columns[0]),
        "last_column": int(columns[-1]),
        "area_px": int(mask.sum()),
        "crosses_frames": bool(lines[0] // FRAME_LINES != lines[-1] // FRAME_LINES),
    }


def masks(web: Web, lines: int) -> Iterator[Image]:
    """The pixels of all defects, 0 or 255, frame by frame."""
    for first_line in range(0, lines, FRAME_LINES):
        height = min(FRAME_LINES, lines - first_line)
        marked = np.zeros((height, web.columns), np.bool_)
        for defect in web.defects:
            marked |= web.mask(defect, first_line, height)
        yield np.where(marked, np.uint8(255), np.uint8(0))


def write(preset: Preset, output: Path, command: str) -> None:
    """Render the roll of a preset into the directory `output`."""
    web = preset.web()
    output.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames(web, preset.lines)):
        _write_image(output / f"{number:04d}.png", frame)
    if web.defects:
        (output / "masks").mkdir(exist_ok=True)
        for number, mask in enumerate(masks(web, preset.lines)):
            _write_image(output / "masks" / f"{number:04d}.png", mask)
        records = sorted((record_of(web, defect) for defect in web.defects), key=lambda record: record["first_line"])
        entries = ",\n".join(f"  {json.dumps(record)}" for record in records)
        (output / "defects.json").write_text(f"[\n{entries}\n]\n", encoding="utf-8")
    (output / "README.txt").write_text(_readme(preset, len(web.defects), command), encoding="utf-8")


def _write_image(path: Path, image: Image) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"{path}: cannot be written")


def _readme(preset: Preset, defects: int, command: str) -> str:
    parameters = json.dumps(asdict(preset.product), indent=2)
    return README.format(
        command=command,
        lines=preset.lines,
        columns=preset.columns,
        frame_lines=FRAME_LINES,
        defects=defects or "none",
        masks=MASKS if defects else "",
        seed=preset.seed,
        parameters=parameters,
    )
