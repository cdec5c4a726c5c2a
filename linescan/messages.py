"""Every type that travels: frozen dataclasses, packed with msgpack, decoded strictly.

A message is a msgpack map {"type": name, "version": VERSION, field: value, …}. Pixels never travel inside one: they
are a part of their own of the transport's message, or follow it in a recording.

    acquire → worker      Stamp + Frame + pixels, Stamp + Gap | RollStart | RollEnd | StreamEnd     the frames' stream
                          Grant, Refused, Revoked
    worker → acquire      Hello, Credit
    worker → publisher    Stamp + RollStart | Region | Gap | RollEnd | Progress                      the events' stream
                          Resume, Status
    publisher → worker    Resumed, Ack, Refused
    acquire → publisher   Register, Origin, Leaving, RollCommand (a replay), Status
    publisher → acquire   Registered, Kept, RollCommand, RollState, Refused
    publisher → world     Published, Progress, Status;  Since → Published …, Caught           the public sockets
    operator → publisher  RollCommand → RollState | Refused
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


class Message:
    """Base of everything that travels."""


@dataclass(frozen=True)
class Frame(Message):
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
class Gap(Message):
    """Lines first_line…last_line (inclusive) that were lost or not inspected."""

    camera: str
    roll: str
    first_line: int
    last_line: int
    cause: GapCause
    estimated: bool = False


@dataclass(frozen=True)
class RollStart(Message):
    camera: str
    roll: str
    recipe: str
    first_line: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class RollEnd(Message):
    """The roll's end: `lines` scanned, all of them inspected or in gaps."""

    camera: str
    roll: str
    lines: int
    inspected_up_to: int
    lines_inspected: int
    lines_in_gaps: int


@dataclass(frozen=True)
class Progress(Message):
    """How far the inspection is: what comes before `inspected_up_to` is final or in an announced gap.

    The lines from there to `lines_scanned` had come and were pending.
    """

    camera: str
    roll: str
    inspected_up_to: int
    resume_from: int
    snapshot: bytes
    lines_scanned: int = 0


@dataclass(frozen=True)
class Region(Message):
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


# ------------------------------------------------------------------------------------------ the frames' stream


@dataclass(frozen=True)
class Stamp(Message):
    """Goes before what belongs to a lease: whose, under which epoch, and its number in that epoch's stream.

    `needed_ns` is the monotonic time at which the last line behind it had come, 0 where there is none.
    """

    camera: str
    epoch: int
    sequence: int
    needed_ns: int


@dataclass(frozen=True)
class StreamEnd(Message):
    """Acquire stops in order, without an end of the roll: what is pending is to be finished as if the web ended."""

    camera: str
    roll: str


@dataclass(frozen=True)
class Hello(Message):
    """Asks acquire for its frames: as the one worker (a lease), or as an observer that takes what it can."""

    camera: str
    peer: str
    role: Literal["worker", "observer"]


@dataclass(frozen=True)
class Grant(Message):
    """The lease: it ends where `lease_s` pass without a Credit."""

    camera: str
    epoch: int
    lease_s: float


@dataclass(frozen=True)
class Refused(Message):
    """No, and why; `retry_s` is when asking again may help, None: never."""

    camera: str
    reason: str
    retry_s: float | None


@dataclass(frozen=True)
class Revoked(Message):
    camera: str
    epoch: int
    reason: str


@dataclass(frozen=True)
class Credit(Message):
    """Renews the lease, asks for `frames` more, and tells how far the journal is.

    The last four are of the last journaled Progress; `roll` is empty where there is none.
    """

    camera: str
    epoch: int
    frames: int
    roll: str
    inspected_up_to: int
    resume_from: int
    ended: bool


# ------------------------------------------------------------------------------------------ with the publisher


@dataclass(frozen=True)
class Resume(Message):
    """A worker asks where its camera's inspection stands; with an epoch it takes over, and older ones are shut out."""

    camera: str
    epoch: int | None


@dataclass(frozen=True)
class Resumed(Message):
    """Where it stands: the last roll as a worker announced it, its last journaled Progress, and whether it is over."""

    camera: str
    epoch: int | None
    roll: RollStart | None
    progress: Progress | None
    ended: bool


@dataclass(frozen=True)
class Ack(Message):
    """What was sent under `epoch` up to and with `sequence` is in the journal."""

    camera: str
    epoch: int
    sequence: int


@dataclass(frozen=True)
class Register(Message):
    """Acquire has its camera and asks which roll runs; a replay names the roll that it wants, others leave it empty."""

    camera: str
    replay: str


@dataclass(frozen=True)
class Registered(Message):
    """Which roll runs and how far it is; `roll` is empty between rolls.

    `generation` counts registrations of this camera; `started` says that the roll's RollStart of this camera is in
    the journal. The origin is of the roll's line 0 where one was kept. The rest is of the last journaled progress: the
    times are of the last line that had come then, on the boot with that id. `left` is why the acquire before stopped,
    empty where it did not say. `unfinished` is an earlier roll whose end this camera still owes; the progress is of
    that one then, and so is the origin unless the roll that runs has one.
    """

    camera: str
    generation: int
    roll: str
    recipe: str
    replayed: bool
    started: bool
    origin: Origin | None
    inspected_up_to: int
    lines_scanned: int
    progress_monotonic_ns: int
    progress_utc_ns: int
    boot: str
    left: Literal["", "shutdown", "camera-lost"]
    unfinished: str


@dataclass(frozen=True)
class Origin(Message):
    """Line 0 of a roll under one camera: its encoder count and time, on the boot with that id."""

    camera: str
    roll: str
    encoder_count: int | None
    monotonic_ns: int
    utc_ns: int
    boot: str


@dataclass(frozen=True)
class Kept(Message):
    """The Origin of that roll is in the journal."""

    camera: str
    roll: str


@dataclass(frozen=True)
class Leaving(Message):
    """Acquire stops, and says why, so that its successor can name the gap; answered by Kept of an empty roll."""

    camera: str
    cause: Literal["shutdown", "camera-lost"]


@dataclass(frozen=True)
class RollCommand(Message):
    """From an operator to the publisher, and from it to every acquire; `roll` is empty where it is to be named."""

    action: Literal["start", "end", "status"]
    roll: str
    recipe: str


@dataclass(frozen=True)
class RollState(Message):
    """The roll that runs (empty: none), and for each camera how far it is, in the order of `cameras`."""

    roll: str
    recipe: str
    cameras: tuple[str, ...]
    inspected_up_to: tuple[int, ...]


@dataclass(frozen=True)
class Status(Message):
    """A stage's heartbeat: `state` in a word, faults in words, counters by name."""

    stage: Literal["acquire", "worker", "publisher", "recorder"]
    camera: str
    state: str
    faults: tuple[str, ...]
    counters: dict[str, int]
    monotonic_ns: int


# ------------------------------------------------------------------------------------------ to the world


@dataclass(frozen=True)
class Published(Message):
    """An event on its way to subscribers: `event` is an encoded message of the events' stream.

    `run` is the journal's UUID and `sequence` its row; None while the disk is full: then it is not `durable` yet and
    comes again with a row. (camera, epoch, origin) name it for ever. `needed_ns` as in its Stamp.
    """

    run: str
    sequence: int | None
    durable: bool
    camera: str
    epoch: int
    origin: int
    utc_ns: int
    needed_ns: int
    replayed: bool
    event: bytes


@dataclass(frozen=True)
class Since(Message):
    """Asks for at most `limit` events after `sequence` of that run (empty: whatever run it is)."""

    run: str
    sequence: int
    limit: int


@dataclass(frozen=True)
class Caught(Message):
    """Ends an answer to Since: the journal's run, its last and its oldest sequence, and how far the answer went."""

    run: str
    last: int
    oldest: int
    up_to: int


Event = RollStart | RollEnd | Gap | Region

_TYPES: dict[str, type[Message]] = {
    "frame": Frame,
    "gap": Gap,
    "roll_start": RollStart,
    "roll_end": RollEnd,
    "progress": Progress,
    "region": Region,
    "stamp": Stamp,
    "stream_end": StreamEnd,
    "hello": Hello,
    "grant": Grant,
    "refused": Refused,
    "revoked": Revoked,
    "credit": Credit,
    "resume": Resume,
    "resumed": Resumed,
    "ack": Ack,
    "register": Register,
    "registered": Registered,
    "origin": Origin,
    "kept": Kept,
    "leaving": Leaving,
    "roll_command": RollCommand,
    "roll_state": RollState,
    "status": Status,
    "published": Published,
    "since": Since,
    "caught": Caught,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def type_name(message: Message) -> str:
    """The message's name on the wire and in events.jsonl."""
    return _NAMES[type(message)]


def to_dict(message: Message) -> dict[str, Any]:
    """The message as plain values, its type first: a line of events.jsonl."""
    return {"type": type_name(message), **_plain(message)}


def _plain(message: Message) -> dict[str, Any]:
    values = vars(message)
    if type(message) not in _NESTING:
        return dict(values)
    return {name: _plain(value) if isinstance(value, Message) else value for name, value in values.items()}


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
    return _build(kind, fields)


def _build(kind: type[Message], values: dict[str, Any]) -> Message:
    for name, where, check, required in _FIELDS[kind]:
        if name in values:
            values[name] = check(values[name], where)
        elif required:
            raise MessageError(f"{where} is missing")
    unknown = values.keys() - _FIELD_NAMES[kind]
    if unknown:
        raise MessageError(f"{_NAMES[kind]} has no field {min(map(str, unknown))!r}")
    return kind(**values)


# ------------------------------------------------------------------------------------------ what a field may be

Check = Callable[[Any, str], Any]  # the value, and where it is → the value as the message keeps it, or MessageError


class _Field(NamedTuple):
    name: str
    where: str
    check: Check
    required: bool


def _check_of(hint: Any) -> Check:
    """The check of a field with that type; made once, since frames come by the thousand."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        check = _check_of(next(arg for arg in args if arg is not type(None)))
        return lambda value, where: None if value is None else check(value, where)
    if origin is tuple:
        item = _check_of(args[0])
        return lambda value, where: tuple(item(one, where) for one in _is_a(list, value, where, hint))
    if origin is dict:
        item = (lambda value, _: value) if args[1] is Any else _check_of(args[1])
        return lambda value, where: {
            _is_a(str, k, where, hint): item(v, where) for k, v in _is_a(dict, value, where, hint).items()
        }
    if dataclasses.is_dataclass(hint):
        kind = typing.cast(type[Message], hint)
        return lambda value, where: _build(kind, dict(_is_a(dict, value, where, "a map")))
    return _check_plain(hint, origin, args)


def _check_plain(hint: Any, origin: Any, args: tuple[Any, ...]) -> Check:
    kind = origin or hint

    def of_class(value: Any, where: str) -> Any:
        if not isinstance(value, kind):
            raise _unexpected(value, where, hint)
        return value

    def whole(value: Any, where: str) -> Any:
        if type(value) is not int or not -(2**63) <= value < 2**63:  # True is none of ours
            raise _unexpected(value, where, hint)
        return value

    def one_of(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in args:
            raise _unexpected(value, where, hint)
        return value

    return one_of if origin is Literal else whole if hint is int else of_class


def _is_a(kind: Any, value: Any, where: str, expected: Any) -> Any:
    if not isinstance(value, kind):
        raise _unexpected(value, where, expected)
    return value


def _unexpected(value: Any, where: str, expected: Any) -> MessageError:
    return MessageError(f"{where} is {value!r:.80}, expected {expected}")


def _fields_of(kind: type[Any]) -> tuple[_Field, ...]:
    hints, name = typing.get_type_hints(kind), _NAMES[kind]
    return tuple(
        _Field(one.name, f"{name}.{one.name}", _check_of(hints[one.name]), one.default is dataclasses.MISSING)
        for one in dataclasses.fields(kind)
    )


_FIELDS = {kind: _fields_of(kind) for kind in _TYPES.values()}
_NESTING = frozenset({Resumed, Registered})  # the messages that carry messages as they are
_FIELD_NAMES = {kind: frozenset(field.name for field in fields) for kind, fields in _FIELDS.items()}
