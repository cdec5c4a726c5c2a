"""Messages as the parts of a multipart message: [Stamp,] message [, pixels], or several of Stamp, message.

Whoever sends several as one is heard with all of them or with none, wherever his process ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from linescan.codec import decode, encode
from linescan.errors import MessageError
from linescan.messages import Frame, Message, Stamp
from linescan.transport.network import Buffer, Received

LONE_PARTS = 3  # of a message by itself, at most


def to_parts(message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> list[Buffer]:
    parts: list[Buffer] = [] if stamp is None else [encode(stamp)]
    parts.append(encode(message))
    if pixels is not None:
        parts.append(pixels)
    return parts


def parcel_to_parts(letters: Sequence[tuple[Message, Stamp]]) -> list[Buffer]:
    """Several messages as one."""
    return list(chain.from_iterable(to_parts(message, stamp) for message, stamp in letters))


def parcel_from_parts(parts: Sequence[memoryview], counters: Counter[str], peer: bytes = b"") -> list[Received]:
    """The message in the parts or the several, in order; none, and counted, where they are not exactly ours."""
    try:
        if len(parts) <= LONE_PARTS:
            return [_parsed(parts, peer)]
        letters = [_parsed(parts[first : first + 2], peer) for first in range(0, len(parts), 2)]
        if any(letter.stamp is None for letter in letters):
            raise MessageError("several messages as one, and not all have a stamp")
        return letters
    except MessageError:
        counters["garbage"] += 1
        return []


def from_parts(parts: Sequence[memoryview], counters: Counter[str], peer: bytes = b"") -> Received | None:
    """The message in the parts; None, and counted, where it is not exactly one of ours."""
    try:
        return _parsed(parts, peer)
    except MessageError:
        counters["garbage"] += 1
        return None


def _parsed(parts: Sequence[memoryview], peer: bytes) -> Received:
    if not 1 <= len(parts) <= LONE_PARTS:
        raise MessageError(f"{len(parts)} parts, 1 to 3 expected")
    first = decode(bytes(parts[0]))
    if not isinstance(first, Stamp):
        if len(parts) != 1:
            raise MessageError("parts after a message without a stamp")
        return Received(first, peer=peer)
    if len(parts) == 1:
        raise MessageError("a stamp alone")
    message = decode(bytes(parts[1]))
    if isinstance(message, Frame) != (len(parts) == 3) or isinstance(message, Stamp):
        raise MessageError("pixels belong to a frame, and to nothing else")
    return Received(message, first, parts[2] if len(parts) == 3 else None, peer)
