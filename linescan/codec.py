"""Messages as bytes: packed with msgpack, decoded strictly.

A message is a msgpack map {"type": name, "version": VERSION, field: value, …}. Pixels never travel inside one: they
are a part of their own of the transport's message, or follow it in a recording.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgpack

from linescan.errors import MessageError
from linescan.messages import TYPES, Message, Registered, Resumed

VERSION = 1
MAX_BYTES = 1 << 20  # of one message without its pixels; a larger one is not ours

_NAMES = {kind: name for name, kind in TYPES.items()}


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
    kind = TYPES.get(name) if isinstance(name, str) else None
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


_FIELDS = {kind: _fields_of(kind) for kind in TYPES.values()}
_NESTING = frozenset({Resumed, Registered})  # the messages that carry messages as they are
_FIELD_NAMES = {kind: frozenset(field.name for field in fields) for kind, fields in _FIELDS.items()}
