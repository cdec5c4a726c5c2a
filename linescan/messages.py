"""Every type that travels: frozen dataclasses, packed with msgpack, decoded strictly.

A message is a msgpack map {"type": name, "version": VERSION, field: value, …}. Pixels never travel inside one: they
are the second part of the transport's message, or follow it in a recording.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgpack

from linescan.errors import MessageError

VERSION = 1
MAX_BYTES = 1 << 20  # of one message without its pixels; a larger one is not ours

PixelFormat = Literal["Mono8", "Mono10", "Mono12", "Mono16", "RGB8"]
GapCause = Literal[
    "camera-lost", "incomplete", "overrun", "acquire-lost", "worker-lost", "invalid-image", "model-fault", "shutdown",
    "unreadable",
]  # fmt: skip
Phase = Literal["open", "update", "close"]


@dataclass(frozen=True)
class Frame:
    """Consecutive lines of one camera in one buffer; the pixels are beside it.

    `monotonic_ns` is compared within one host only; `utc_ns` annotates and decides nothing.
    """

    camera: str
    epoch: int
    roll: str
    first_line: int
    lines: int
    columns: int
    pixel_format: PixelFormat
    encoder_count: int | None
    monotonic_ns: int
    utc_ns: int


@dataclass(frozen=True)
class Gap:
    """Lines first_line…last_line (inclusive) that were lost or not inspected."""

    camera: str
    roll: str
    first_line: int
    last_line: int
    cause: GapCause
    estimated: bool = False


@dataclass(frozen=True)
class RollStart:
    camera: str
    roll: str
    recipe: str
    first_line: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class RollEnd:
    """The roll's end: `lines` scanned, all of them inspected or in gaps."""

    camera: str
    roll: str
    lines: int
    inspected_up_to: int
    lines_inspected: int
    lines_in_gaps: int


@dataclass(frozen=True)
class Progress:
    """How far the inspection is: what comes before `inspected_up_to` is final or in an announced gap."""

    camera: str
    roll: str
    inspected_up_to: int
    resume_from: int
    snapshot: bytes


@dataclass(frozen=True)
class Region:
    """A connected region of score above the threshold; bounds are inclusive, in pixels of the camera.

    `area_px` counts camera pixels (scaled ones times n²); `peak` and `mean` are scores. `part` counts the pieces of a
    region longer than the stated maximum; `coalesced` marks a flood of regions that became one a lane; `padded` one
    found in a segment smaller than a patch.
    """

    camera: str
    roll: str
    id: str
    phase: Phase
    part: int
    merged_into: str | None
    first_line: int
    last_line: int
    first_column: int
    last_column: int
    area_px: int
    peak: float
    mean: float
    lanes: tuple[str, ...]
    coalesced: bool = False
    padded: bool = False


Event = RollStart | RollEnd | Gap | Region
Message = Frame | Gap | RollStart | RollEnd | Progress | Region

_TYPES: dict[str, type] = {
    "frame": Frame,
    "gap": Gap,
    "roll_start": RollStart,
    "roll_end": RollEnd,
    "progress": Progress,
    "region": Region,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_HINTS = {kind: typing.get_type_hints(kind) for kind in _TYPES.values()}

M = TypeVar("M")


def type_name(message: Message) -> str:
    """The message's name on the wire and in events.jsonl."""
    return _NAMES[type(message)]


def to_dict(message: Message) -> dict[str, Any]:
    """The message as plain values, its type first: a line of events.jsonl."""
    return {"type": type_name(message), **dataclasses.asdict(message)}


def encode(message: Message) -> bytes:
    packed: bytes = msgpack.packb({**to_dict(message), "version": VERSION}, use_bin_type=True)
    return packed


def decode(data: bytes) -> Message:
    """The message in `data`; raises MessageError on anything that is not exactly one of ours."""
    if len(data) > MAX_BYTES:
        raise MessageError(f"message of {len(data)} bytes, at most {MAX_BYTES} expected")
    try:
        fields = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MessageError(f"not msgpack: {error}") from error
    if not isinstance(fields, dict):
        raise MessageError(f"a map expected, found {type(fields).__name__}")
    version = fields.pop("version", None)
    if version != VERSION or type(version) is not int:  # True and 1.0 are equal to 1
        raise MessageError(f"message of version {version!r}, {VERSION} expected")
    name = fields.pop("type", None)
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise MessageError(f"unknown message type {name!r}")
    return _build(kind, fields)  # type: ignore[no-any-return]


def _build(kind: type, fields: dict[str, Any]) -> Any:
    hints = _HINTS[kind]
    for field in dataclasses.fields(kind):
        if field.name in fields:
            fields[field.name] = _checked(hints[field.name], fields[field.name], f"{_NAMES[kind]}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise MessageError(f"{_NAMES[kind]}.{field.name} is missing")
    unknown = fields.keys() - hints.keys()
    if unknown:
        raise MessageError(f"{_NAMES[kind]} has no field {min(map(str, unknown))!r}")
    return kind(**fields)


def _checked(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _checked(next(arg for arg in typing.get_args(hint) if arg is not type(None)), value, where)
    if origin is Literal:
        fits = isinstance(value, str) and value in typing.get_args(hint)
    elif origin is tuple:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        value = tuple(value) if fits else value
    elif hint is float:
        fits = isinstance(value, float)
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    else:
        fits = isinstance(value, origin or hint)
    if not fits:
        raise MessageError(f"{where} is {value!r:.80}, expected {hint}")
    return value
