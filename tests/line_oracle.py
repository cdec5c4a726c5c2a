"""What must have come of a roll, by the camera's log and the strip that it showed; the daemon's counters do not count.

Which lines the camera delivered is in the simulator's log. Where a roll's line 0 was is in the pixels of its frames.
What is to be found there says the engine by itself, fed with the strip's lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from linescan.inspection import Footprint, Inspector
from linescan.messages import Gap, Message, Region, RollEnd, RollStart
from linescan.models.runner import Execution, Runner
from linescan.recipe import load_setup
from linescan.subscriber import Event, subscribe
from tests.line_rig import CAMERA, COLUMNS, SERIAL, LineRig

OWN = ("invalid-image", "model-fault")  # gaps that the engine finds itself
CUT = ("acquire-lost", "worker-lost")  # what was pending when they began is lost with them


def key_of(message: Message) -> Hashable:
    """What an event says, whoever found it."""
    if isinstance(message, Region):
        return (message.roll, message.id, message.phase, message.part, message.last_line)
    if isinstance(message, Gap):
        return (message.roll, message.first_line, message.last_line)
    assert isinstance(message, RollStart | RollEnd)
    return (type(message).__name__, message.roll)


@dataclass
class Verdict:
    """One roll, checked; counts of lines and of events."""

    roll: str
    lines: int
    gaps: list[Gap]
    not_delivered: int  # by the camera's log
    missed: int  # of them, in no gap
    needless: int  # in a gap, though delivered, and not for the engine's own reasons
    lost: list[Message] = field(default_factory=list)
    doubled: list[Hashable] = field(default_factory=list)
    differing: list[Message] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def gap_lines(self) -> int:
        return sum(gap.last_line - gap.first_line + 1 for gap in self.gaps)

    def check(self, needless: int = 0) -> None:
        """All lines accounted for, all events there, once; at most so many lines in gaps that need not be."""
        assert not self.wrong, self
        assert self.missed == 0, self
        assert self.needless <= needless, self
        assert (self.lost, self.doubled, self.differing) == ([], [], []), self


class Oracle:
    """Judges the rolls of one rig.

    Args:
        painted: (first web line, end, grey) of stretches that looked otherwise than the strip.
    """

    def __init__(self, rig: LineRig) -> None:
        self._rig = rig
        self.painted: list[tuple[int, int, int]] = []

    @cache  # noqa: B019 - an oracle lives as long as its tests
    def _setup(self, recipe: str) -> tuple[object, Runner]:
        setup = load_setup(recipe=self._rig.folder / f"{recipe}.toml", pinned=True)
        return setup.settings, Runner(setup.bundle, Execution("cpu", "float32", 16, 1))

    def judge(self, roll: str, exact: bool = True) -> Verdict:
        """The verdict on a roll that has ended; `exact`: its events are compared with the engine's."""
        rig = self._rig
        told = rig.messages(roll)
        offsets = rig.watcher.offsets[roll]
        end = rig.end_of(roll)
        assert end is not None
        gaps = sorted((one for one in told if isinstance(one, Gap)), key=lambda gap: gap.first_line)
        wrong = self._contradictions(told, end, gaps)
        if len(offsets) != 1:
            wrong.append(f"line numbers and pixels disagree: {sorted(offsets)}")
        first = min(offsets)
        delivered = self._delivered(first, end.lines)
        in_gaps, in_own = mask(gaps, end.lines), mask([gap for gap in gaps if gap.cause in OWN], end.lines)
        verdict = Verdict(
            roll, end.lines, gaps, int((~delivered).sum()), int((~delivered & ~in_gaps).sum()),
            int((delivered & in_gaps & ~in_own).sum()), wrong=wrong,
        )  # fmt: skip
        start = told[0]
        recipe = start.recipe if isinstance(start, RollStart) else "recipe"
        self._compare(verdict, told, self._expected(roll, recipe, first, end.lines, gaps) if exact else None)
        return verdict

    def _contradictions(self, told: list[Message], end: RollEnd, gaps: list[Gap]) -> list[str]:
        wrong = []
        if not isinstance(told[0], RollStart) or told[-1] is not end:
            wrong.append(f"begins with {told[0]}, ends with {told[-1]}")
        lengths = sum(gap.last_line - gap.first_line + 1 for gap in gaps)
        if lengths != int(mask(gaps, end.lines).sum()):
            wrong.append("gaps overlap, or lie outside the roll")
        if (end.lines, end.lines_in_gaps) != (end.lines_inspected + end.lines_in_gaps, lengths):
            wrong.append(f"{lengths} lines in gaps, but {end}")
        if end.inspected_up_to != end.lines:
            wrong.append(f"pending after the end: {end}")
        return wrong

    def _delivered(self, first: int, lines: int) -> NDArray[np.bool_]:
        mask = np.zeros(lines, bool)
        for entry in self._rig.simulator.log(SERIAL):
            begin, end = max(entry.first_line - first, 0), max(entry.end_line - first, 0)
            mask[begin:end] = entry.outcome == "delivered"
        return mask

    # ------------------------------------------------------------------------------------------ what is to be found

    def web(self, first: int, lines: int) -> NDArray[np.uint8]:
        """Lines of the web as the camera sees them."""
        strip = self._rig.strip
        pixels: NDArray[np.uint8] = strip[np.arange(first, first + lines) % len(strip)]
        for begin, end, grey in self.painted:
            pixels[max(begin - first, 0) : max(end - first, 0)] = grey
        return pixels

    def _expected(self, roll: str, recipe: str, first: int, lines: int, gaps: list[Gap]) -> list[Message]:
        settings, runner = self._setup(recipe)
        footprint = Footprint(COLUMNS, 8, CAMERA, roll)
        inspector = Inspector(settings, footprint, runner)  # type: ignore[arg-type]
        pixels, at = self.web(first, lines), 0
        found: list[Message] = []
        for gap in gaps:
            if gap.cause in OWN:
                continue
            if gap.cause in CUT:  # lines behind its first one were inspected already, up to there and no further
                while inspector.inspected_up_to < gap.first_line and at < lines:
                    found += inspector.push(pixels[at : at + 1], at)
                    at += 1
                inspector = Inspector(settings, footprint, runner, snapshot=inspector.snapshot())  # type: ignore[arg-type]
            else:
                found += inspector.push(pixels[at : gap.first_line], at)
            found += inspector.push_gap(gap.last_line, gap.cause, gap.estimated)
            at = gap.last_line + 1
        return found + inspector.push(pixels[at:], at) + inspector.finish()

    def _compare(self, verdict: Verdict, told: list[Message], expected: list[Message] | None) -> None:
        counts = Counter(key_of(message) for message in told)
        verdict.doubled = [key for key, count in counts.items() if count > 1]
        if expected is None:
            return
        findings = [message for message in told if isinstance(message, Region | Gap)]
        got = {key_of(message): message for message in findings}
        wanted = {key_of(message): message for message in expected}
        verdict.lost = [message for key, message in wanted.items() if key not in got]
        verdict.differing = [message for key, message in got.items() if wanted.get(key) != message]
        if not verdict.lost and not verdict.differing and not verdict.doubled and findings != expected:
            verdict.wrong.append("events in another order")


def check_subscriptions(rig: LineRig) -> None:
    """Every event of the journal came to the subscriber once and in order, and another one is told the same."""
    numbered = [event.sequence for event in rig.events if event.sequence is not None]
    assert numbered == sorted(set(numbered)), "doubled or out of order"
    last = rig.statuses["publisher"].counters["last_sequence"]
    rig.wait(lambda: (rig.events[-1].sequence or 0) >= last, f"event {last}")
    late: list[Event] = []
    with subscribe(rig.config, 0) as events:
        rig.wait(lambda: late.extend(events.take(0.05)) or (late and late[-1].sequence >= last), f"event {last} again")
    told = [event.message for event in rig.events]
    again = [event.message for event in late]
    assert [event.sequence for event in late] == list(range(1, len(late) + 1))
    shorter = min(len(told), len(again))
    assert shorter >= last
    assert told[:shorter] == again[:shorter]


def mask(gaps: list[Gap], lines: int) -> NDArray[np.bool_]:
    mask = np.zeros(lines, bool)
    for gap in gaps:
        mask[gap.first_line : gap.last_line + 1] = True
    return mask
