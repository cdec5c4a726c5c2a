"""Whether the gates did what was asked of them, by the sensors that see them open."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Disagreement(NamedTuple):
    """A gate that did not open for a window that began `at` a count, or opened there without being asked to."""

    kind: Literal["gate-unconfirmed", "gate-unasked"]
    output: int
    at: int


@dataclass
class _Window:
    first: int
    end: int
    seen: bool = False


@dataclass
class _Gate:
    windows: deque[_Window] = field(default_factory=deque)  # disjoint, in order, not nearer than twice the tolerance
    openings: int | None = None
    held_from: int | None = None  # it rejects for want of a pass limit since there …
    held_to: int = -(1 << 62)  # … until here


class Confirmations:
    """Compares openings with windows; counts are the PLC's at the gate and do not wrap.

    A gate that is open already when a window begins opens no second time: windows nearer to each other than twice the
    `tolerance` count as one, and one that begins where the gate was held open for want of a pass limit is not judged.
    """

    def __init__(self, outputs: int, tolerance: int) -> None:
        self._gates = [_Gate() for _ in range(outputs)]
        self._tolerance = tolerance

    def ordered(self, output: int, first: int, end: int, expected: bool = True) -> None:
        """A window that was given to the PLC; the gate is `expected` to open for it, if it is not open anyway."""
        windows, reach = self._gates[output].windows, 2 * self._tolerance
        joined = _Window(first, end, seen=not expected)
        apart: list[_Window] = []
        for one in windows:
            if one.first <= joined.end + reach and joined.first <= one.end + reach:
                joined = _Window(min(one.first, joined.first), max(one.end, joined.end), one.seen or joined.seen)
            else:
                apart.append(one)
        apart.append(joined)
        self._gates[output].windows = deque(sorted(apart, key=lambda one: one.first))

    def held(self, output: int, position: int) -> None:
        """The gate rejects at this position whatever is ordered: no limit, not ready, not enabled, a bypass."""
        gate = self._gates[output]
        if gate.held_from is None or position > gate.held_to + self._tolerance:
            gate.held_from = position
        gate.held_to = max(gate.held_to, position)

    def heard(self, position: int, openings: Sequence[int], opened_at: Sequence[int]) -> list[Disagreement]:
        """The sensors' counters and counts at a position; the first ones heard only tell where they stand."""
        found: list[Disagreement] = []
        for output, gate in enumerate(self._gates):
            before, gate.openings = gate.openings, openings[output]
            if before is not None and openings[output] > before:
                found += self._opened(output, gate, opened_at[output], openings[output] - before)
            while gate.windows and gate.windows[0].end + self._tolerance < position:
                window = gate.windows.popleft()
                if not window.seen and before is not None and not self._is_held(gate, window.first):
                    found.append(Disagreement("gate-unconfirmed", output, window.first))
        return found

    def _opened(self, output: int, gate: _Gate, count: int, openings: int) -> list[Disagreement]:
        """The count is of the last of them; those before it went to the windows before."""
        fitting = [one for one in gate.windows if one.first - self._tolerance <= count]
        for window in fitting[-openings:]:
            window.seen = True
        last = fitting[-1] if fitting else None
        if (last is None or count > last.end + self._tolerance) and not self._is_held(gate, count):
            return [Disagreement("gate-unasked", output, count)]
        return []

    def _is_held(self, gate: _Gate, count: int) -> bool:
        start = gate.held_from
        return start is not None and start - self._tolerance <= count <= gate.held_to + self._tolerance
