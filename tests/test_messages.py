"""Messages: what is encoded is decoded, and any other bytes are a MessageError, never a crash."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linescan import codec, messages
from linescan.codec import decode, encode, to_dict
from linescan.errors import MessageError
from linescan.messages import Frame, Gap, Message, Progress, Region, RollEnd, RollStart

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)

whole = st.integers(-(2**63), 2**63 - 1)
text = st.text(max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
number = st.floats(allow_nan=False)


def of_hint(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of that type may hold."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(of_hint, args))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(of_hint(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(text, plain if args[1] is Any else of_hint(args[1]), max_size=4)
    if dataclasses.is_dataclass(hint):
        return of_type(hint)  # type: ignore[arg-type]
    leaves = {
        int: whole, str: text, float: number, bool: st.booleans(), bytes: st.binary(max_size=40), type(None): st.none()
    }  # fmt: skip
    return leaves[hint]


def of_type(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{name: of_hint(hint) for name, hint in typing.get_type_hints(kind).items()})


MESSAGES = st.sampled_from(Message.__subclasses__()).flatmap(of_type)

START = RollStart("c", "r", "denim", 0, {"stride": 30})
PROGRESS = Progress("c", "r", 64, 32, b"\x00snapshot", 70)
ORIGIN = messages.Origin("c", "r", None, 5, 6, "boot")

EXAMPLES: dict[str, Message] = {
    "frame": Frame("c", 1, "r", 0, 8, 640, "Mono8", None, 5, 6),
    "gap": Gap("c", "r", 3, 9, "invalid-image"),
    "roll_start": START,
    "roll_end": RollEnd("c", "r", 100, 100, 90, 10),
    "progress": PROGRESS,
    "region": Region("c", "r", "s0-l1-c2", "close", 0, None, 1, 4, 2, 9, 12, 0.5, 0.4, ("left",)),
    "reject": messages.Reject("r", "c:s0-l1-c2:left", "left", "region", "s0-l1-c2", 5, 1 << 40, 3, False, "hole", 2),
    "notice": messages.Notice("r", "splice", "", None, "", "by the PLC"),
    "stamp": messages.Stamp("c", 1 << 20, 7, 123),
    "stream_end": messages.StreamEnd("c", "r"),
    "hello": messages.Hello("c", "worker-1", "observer"),
    "grant": messages.Grant("c", 5, 10.0),
    "refused": messages.Refused("c", "because", 1.5),
    "revoked": messages.Revoked("c", 5, "because"),
    "credit": messages.Credit("c", 5, 4, "r", 64, 32, False),
    "resume": messages.Resume("c", 5),
    "resumed": messages.Resumed("c", 5, START, PROGRESS, False),
    "ack": messages.Ack("c", 5, 9),
    "register": messages.Register("c", ""),
    "registered": messages.Registered("c", 2, "r", "denim", False, True, ORIGIN, 64, 70, 8, 9, "boot", "shutdown", ""),
    "origin": ORIGIN,
    "latched": messages.Latched("c", 3, 4711, 8, "boot"),
    "kept": messages.Kept("c", "r"),
    "leaving": messages.Leaving("c", "camera-lost"),
    "roll_command": messages.RollCommand("start", "r", "denim"),
    "roll_state": messages.RollState("r", "denim", ("c", "d"), (64, 0)),
    "prepare": messages.Prepare("c", "denim", 1 << 50),
    "prepared": messages.Prepared("c", "denim", 1 << 50, "no such file"),
    "preparing": messages.Preparing("denim", ("c", "d")),
    "order": messages.Order("verdict", "", "17", "a fly"),
    "done": messages.Done("bypass is on"),
    "status": messages.Status("worker", "c", "inspecting", ("disk-full",), {"lines": 5, "frames": -1}, 77),
    "published": messages.Published("run", 3, True, "c", 5, 9, 1, 2, False, b"\x80"),
    "since": messages.Since("run", 3, 200),
    "caught": messages.Caught("run", 9, 1, 5),
}


def fields_of(message: Message) -> dict[str, Any]:
    return dict(msgpack.unpackb(encode(message)))


def packed(message: Message, **changes: Any) -> bytes:
    return bytes(msgpack.packb({**fields_of(message), **changes}))


# ------------------------------------------------------------------------------------------------ round trip


@quick
@given(MESSAGES)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    decoded = decode(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)
    assert encode(decoded) == encode(message)


@quick
@given(st.sampled_from(typing.get_args(messages.Event)).flatmap(of_type))
def test_a_line_of_events_jsonl_says_the_same(message: Message) -> None:
    line = json.loads(json.dumps(to_dict(message)))
    assert next(iter(line)) == "type"
    assert line["type"] == codec.type_name(message)
    for name, value in dataclasses.asdict(message).items():
        assert line[name] == (list(value) if isinstance(value, tuple) else value)


def test_there_is_an_example_of_every_type() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(Message.__subclasses__())
    for name, message in EXAMPLES.items():
        assert codec.type_name(message) == name
        assert fields_of(message)["type"] == name
        assert fields_of(message)["version"] == codec.VERSION


def test_fields_with_a_default_may_be_missing() -> None:
    fields = fields_of(EXAMPLES["region"])
    del fields["coalesced"], fields["padded"]
    assert decode(msgpack.packb(fields)) == EXAMPLES["region"]


def test_messages_within_messages_are_decoded_as_strictly() -> None:
    resumed, registered = EXAMPLES["resumed"], EXAMPLES["registered"]
    assert decode(packed(resumed, roll=None, progress=None)) == messages.Resumed("c", 5, None, None, False)
    assert decode(packed(registered, origin=None)) == dataclasses.replace(registered, origin=None)  # type: ignore[type-var]
    wrong: list[tuple[Message, str, Any, str]] = [
        (registered, "origin", {"camera": "c"}, r"origin\.roll is missing"),
        (registered, "origin", [], r"registered\.origin is \[\], expected a map"),
        (registered, "origin", "origin", r"registered\.origin is 'origin'"),
        (registered, "origin", {**dataclasses.asdict(ORIGIN), "monotonic_ns": 5.0}, r"origin\.monotonic_ns is 5\.0"),
        (registered, "origin", {**dataclasses.asdict(ORIGIN), "surprise": 1}, r"origin has no field 'surprise'"),
        (resumed, "progress", {**dataclasses.asdict(PROGRESS), "snapshot": "text"}, r"progress\.snapshot is 'text'"),
        (resumed, "roll", {**dataclasses.asdict(START), b"x": 1}, r"roll_start has no field"),
        (resumed, "roll", dataclasses.asdict(PROGRESS), r"roll_start\.recipe is missing"),
    ]
    for message, name, value, complaint in wrong:
        with pytest.raises(MessageError, match=complaint):
            decode(packed(message, **{name: value}))


def test_what_is_inside_of_maps_and_lists_is_checked_too() -> None:
    status, state = EXAMPLES["status"], EXAMPLES["roll_state"]
    for counters in ({"lines": "5"}, {"lines": True}, {"lines": 1.0}, {"lines": None}, {"lines": 2**63}):
        with pytest.raises(MessageError, match=r"status\.counters is "):
            decode(packed(status, counters=counters))
    with pytest.raises(MessageError):
        decode(packed(status, counters={b"lines": 5}))
    with pytest.raises(MessageError):
        decode(packed(EXAMPLES["roll_start"], settings={b"stride": 5}))
    for reached in ([1, "2"], [1, None], [True], [0.5], [2**63]):
        with pytest.raises(MessageError, match=r"roll_state\.inspected_up_to is "):
            decode(packed(state, inspected_up_to=reached))
    assert decode(packed(state, inspected_up_to=[], cameras=[])) == messages.RollState("r", "denim", (), ())


# ------------------------------------------------------------------------------------------------ anything else


@quick
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 5000)  # deeply nested
@example(b"\xdd\xff\xff\xff\xff")  # an array of 4 G elements that are not there
@example(b"\xc7\x00\xff")  # a timestamp without its bytes
@example(msgpack.packb({b"a": 1, "b": 2, b"c": 3, "type": "gap", "version": 1}))
@example(msgpack.packb({1: 2}))
def test_garbage_is_a_message_error(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@quick
@given(st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), plain | st.binary(max_size=8), max_size=6))
def test_a_map_of_something_else_is_a_message_error(content: dict[Any, Any]) -> None:
    for extra in ({}, {"version": 1}, {"version": 1, "type": "gap"}, {"version": 1, "type": "region"}):
        with pytest.raises(MessageError):
            decode(msgpack.packb({**content, **extra}))


@pytest.mark.parametrize("name", EXAMPLES)
def test_truncated_messages(name: str) -> None:
    data = encode(EXAMPLES[name])
    for cut in range(len(data)):
        with pytest.raises(MessageError, match=r"not msgpack|a map expected"):
            decode(data[:cut])
    with pytest.raises(MessageError, match="not msgpack"):
        decode(data + b"\x00")


@quick
@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_another_valid_message(name: str, place: int, bit: int) -> None:
    data = bytearray(encode(EXAMPLES[name]))
    data[place % len(data)] ^= 1 << bit
    try:
        message = decode(bytes(data))
    except MessageError:
        return
    assert decode(encode(message)) == message or math.isnan(getattr(message, "peak", 0) + getattr(message, "mean", 0))


@pytest.mark.parametrize("data", [b"\x80", b"\x90", b"\xc0", b"\xa3gap", b"\x01"])
def test_msgpack_that_is_no_message(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@pytest.mark.parametrize("version", [0, 2, 99, None, "1", 1.0, True, [1]])
def test_another_version(version: Any) -> None:
    with pytest.raises(MessageError, match=r"message of version .*, 1 expected"):
        decode(packed(EXAMPLES["gap"], version=version))


@pytest.mark.parametrize("kind", ["unknown", "", None, 5, ["gap"], {"gap": 1}, b"gap"])
def test_an_unknown_type(kind: Any) -> None:
    with pytest.raises(MessageError, match="unknown message type"):
        decode(packed(EXAMPLES["gap"], type=kind))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_and_an_extra_field(name: str) -> None:
    message = EXAMPLES[name]
    for field in dataclasses.fields(message):
        fields = fields_of(message)
        del fields[field.name]
        if field.default is dataclasses.MISSING:
            with pytest.raises(MessageError, match=rf"{name}\.{field.name} is missing"):
                decode(msgpack.packb(fields))
    with pytest.raises(MessageError, match=f"{name} has no field 'surprise'"):
        decode(packed(message, surprise=1))
    with pytest.raises(MessageError, match=f"{name} has no field"):
        decode(msgpack.packb({**fields_of(message), b"surprise": 1, "another": 2}))


WRONG: dict[str, tuple[Any, ...]] = {
    "int": ("1", 1.0, True, None, b"1", [1], 2**63, {}),
    "str": (1, b"text", None, ["text"], True),
    "float": (1, "1.0", None, True, [0.5]),
    "bool": (0, 1, "true", None),
    "bytes": ("text", 1, None, [0]),
    "dict": ([], "text", None, 1),
    "tuple": ("left", ["left", 1], {"left": 1}, None, [None]),
    "Literal": ("else", 1, None, True),
    "linescan.messages": ("text", 1, [1], True, 0.5),
}


def kind_of(hint: Any) -> str:
    names = [name for name in WRONG if name in str(hint)]
    return next(name for name in ("Literal", "tuple", "dict", "linescan.messages", *names) if name in names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_field_of_another_kind(name: str) -> None:
    message = EXAMPLES[name]
    hints = typing.get_type_hints(type(message))
    for field in dataclasses.fields(message):
        for value in WRONG[kind_of(hints[field.name])]:
            if value is None and type(None) in typing.get_args(hints[field.name]):
                continue
            with pytest.raises(MessageError, match=rf"{name}\.{field.name} is "):
                decode(packed(message, **{field.name: value}))


def test_a_message_too_large_to_be_one() -> None:
    fitting = Progress("c", "r", 1, 1, b"\0" * (codec.MAX_BYTES - 200))
    assert decode(encode(fitting)) == fitting
    with pytest.raises(MessageError, match=r"message of .* bytes, at most 1048576 expected"):
        decode(encode(Progress("c", "r", 1, 1, b"\0" * codec.MAX_BYTES)))


def test_an_error_does_not_quote_a_large_value_whole() -> None:
    with pytest.raises(MessageError) as caught:
        decode(packed(EXAMPLES["gap"], camera=5 * ["x" * 100_000]))
    assert len(str(caught.value)) < 300
