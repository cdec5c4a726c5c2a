"""Messages as the parts of a multipart message: [Stamp,] message [, pixels]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from linescan.codec import decode, encode
from linescan.errors import MessageError
from linescan.messages import Frame, Message, Stamp
from linescan.transport.network import Buffer, Received


def to_parts(message: Message, stamp: Stamp | None = None, pixels: Buffer | None = None) -> list[Buffer]:
    parts: list[Buffer] = [] if stamp is None else [encode(stamp)]
    parts.append(encode(message))
    if pixels is not None:
        parts.append(pixels)
    return parts


def from_parts(parts: Sequence[memoryview], counters: Counter[str], peer: bytes = b"") -> Received | None:
    """The message in the parts; None, and counted, where it is not exactly one of ours."""
    try:
        return _parsed(parts, peer)
    except MessageError:
        counters["garbage"] += 1
        return None


def _parsed(parts: Sequence[memoryview], peer: bytes) -> Received:
    if not 1 <= len(parts) <= 3:
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
