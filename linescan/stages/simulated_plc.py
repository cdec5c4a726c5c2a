"""A PLC that takes everything at once, and what its gates then do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from linescan.plc.link import COUNTS, Flags, GateOrder, PlcView
from linescan.spans import Spans
from linescan.web import Counter


class SimulatedPlc:
    """A PlcLink to a PLC that takes everything at once, and the gates by the rule of docs/plc.md.

    Args:
        passes: lane → counts at which the roll passes its gate.
    """

    def __init__(
        self, outputs: Mapping[str, int], passes: Mapping[str, tuple[int, int]], position: int, now_ns: int
    ) -> None:
        self.passes, self.position = passes, position
        self.unseen = {lane: Spans() for lane in outputs}  # did not pass for want of a limit
        self.nearest: dict[str, int | None] = dict.fromkeys(outputs)  # count of a limit less what was at the gate
        self.delivered = 0
        self.pending = 0
        self.limits: dict[str, int | None] = dict.fromkeys(outputs)
        self._outputs, self._now_ns = outputs, now_ns

    def moves_to(self, position: int, now_ns: int) -> None:
        before, self.position, self._now_ns = self.position, position, now_ns
        for lane, limit in self.limits.items():
            held = before if limit is None else max(before, limit)
            if held < position:
                self.unseen[lane].add(held, position)
            first, end = self.passes[lane]
            if limit is not None and first <= position < end:
                known = self.nearest[lane]
                self.nearest[lane] = limit - position if known is None else min(known, limit - position)

    def view(self) -> PlcView:
        return PlcView(True, 1, self._now_ns, True, self.position % COUNTS, self._now_ns, free=COUNTS)

    def order(self, order: GateOrder) -> None:
        self.delivered += 1

    def reach(self, counts: Sequence[int | None]) -> None:
        shown = Counter(32)
        for lane, output in self._outputs.items():
            count = counts[output]
            self.limits[lane] = None if count is None else shown.unwrap(count, self.position)

    def forget(self, sequences: Iterable[int]) -> None: ...

    def show(self, flags: Flags) -> None: ...

    def beat(self) -> None: ...

    def close(self) -> None: ...


def length_within(spans: Spans, first: int, end: int) -> int:
    """Counts of the spans in first…end − 1."""
    pairs = zip(spans.firsts, spans.ends, strict=True)
    return sum(max(min(one_end, end) - max(one_first, first), 0) for one_first, one_end in pairs)
