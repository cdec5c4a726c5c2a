"""Recorded rolls through the engine, with what a live worker would have told of them, and after which line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

from linescan.footage import Footage, FootageFrame
from linescan.inspection import Finding, Inspector
from linescan.messages import Frame, Gap, Progress, RollEnd, RollStart
from linescan.models.runner import Runner
from linescan.recipe import Setup
from linescan.replay.roll import inspect_roll
from linescan.replay.session import RollChanges, check_before, inspector_of, start_of


@dataclass(frozen=True)
class Told:
    """What was told when the lines before `line` had come, in order."""

    line: int
    messages: tuple[Finding | Progress | RollEnd, ...]


@dataclass
class ToldRoll:
    """A roll as far as it was recorded, from `first_line` on; `frames` are the headers where the recording has them."""

    start: RollStart
    first_line: int = 0
    lines: int = 0
    told: list[Told] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)


def told_rolls(
    setup: Setup,
    runner: Runner,
    footage: Footage,
    *,
    camera: str,
    roll: str = "roll",
    frame_lines: int | None = None,
    on_lines: Callable[[int], object] = lambda _count: None,
) -> Iterator[ToldRoll]:
    """Inspects footage roll by roll, in frames of the recording's own or, where it has none, of `frame_lines`.

    A frame's findings are told when all of it has come. What a recording that begins in the middle of a roll lacks
    before that is not told as a gap. Raises as `check_before`.
    """
    check_before(setup, runner, footage)
    changes = RollChanges()
    for _, frames in groupby(footage, changes.number_of):
        inspector = inspector_of(setup, runner, footage, camera, changes.name or roll)
        yield _inspected(inspector, start_of(setup, runner, inspector.footprint), frames, frame_lines, on_lines)


def _inspected(
    inspector: Inspector,
    start: RollStart,
    frames: Iterable[FootageFrame],
    frame_lines: int | None,
    on_lines: Callable[[int], object],
) -> ToldRoll:
    roll, said = ToldRoll(start), list[Finding]()
    came = 0

    def fed() -> Iterator[FootageFrame]:
        nonlocal came
        for piece in _pieces(frames, inspector, frame_lines):
            if piece.header is not None:
                roll.frames.append(piece.header)
            if not roll.told:
                roll.first_line = piece.first_line or 0
            yield piece
            # the engine asks for the next piece: it has told what it has to tell of this one
            on_lines(piece.lines)
            end = inspector.lines_scanned
            whole = piece.header is not None or frame_lines is None
            came = max(came, end if whole or frame_lines is None else -(-end // frame_lines) * frame_lines)
            roll.told.append(Told(came, (*_since(roll.first_line, said), _progress(inspector))))
            said.clear()

    end = inspect_roll(inspector, fed(), said.append).end
    roll.told.append(Told(came, (*_since(roll.first_line, said), end)))
    roll.lines = end.lines
    return roll


def _pieces(frames: Iterable[FootageFrame], inspector: Inspector, frame_lines: int | None) -> Iterator[FootageFrame]:
    """The frames with their first lines; those without a header cut where the camera's frames end."""
    for frame in frames:
        first = inspector.lines_scanned if frame.first_line is None else frame.first_line
        if frame.header is not None or frame.pixels is None or frame_lines is None:
            yield replace(frame, first_line=first)
            continue
        cuts = [first, *range((first // frame_lines + 1) * frame_lines, first + frame.lines, frame_lines)]
        for cut, end in zip(cuts, [*cuts[1:], first + frame.lines], strict=True):
            yield replace(frame, pixels=frame.pixels[cut - first : end - first], lines=end - cut, first_line=cut)


def _since(first_line: int, said: Iterable[Finding]) -> list[Finding]:
    return [one for one in said if not isinstance(one, Gap) or one.last_line >= first_line]


def _progress(inspector: Inspector) -> Progress:
    footprint, up_to = inspector.footprint, inspector.inspected_up_to
    return Progress(footprint.camera, footprint.roll, up_to, inspector.resume_from, b"", inspector.lines_scanned)
