"""The conversation with the PLC: where the web is, how far it may pass, and whether its gates answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from linescan.line import Rejects
from linescan.line import Web as WebSettings
from linescan.plc.link import COUNTS, Flags, PlcLink, PlcView
from linescan.schedule import UNANNOUNCED, Window
from linescan.stages.confirmations import Confirmations
from linescan.web import Counter, Motion

OUTPUTS = 16
PLC_COUNTER = Counter(32)


class Seen(NamedTuple):
    """What is new at the PLC: whether its counter jumped, and the count that a sync pulse latched there."""

    jumped: bool = False
    pulse: int | None = None


class Answer(NamedTuple):
    """A lane's gate that did not open where it had to (`unconfirmed`), or opened unasked, at that count."""

    unconfirmed: bool
    lane: str
    at: int


class Gatekeeper:
    """Speaks with the PLC through its link; keeps `motion` up to date.

    Args:
        link: None: there is no PLC, and the web is where its newest line is.
        near: a count of the PLC's counter that it had lately, None: not known; for the first position.
    """

    def __init__(
        self,
        link: PlcLink | None,
        web: WebSettings,
        rejects: Rejects,
        motion: Motion,
        near: Callable[[], int | None],
    ) -> None:
        self._link, self._motion, self._near = link, motion, near
        self._outputs = {gate.lane: gate.output for gate in rejects.gates}
        self._lanes = {gate.output: gate.lane for gate in rejects.gates}
        scan_s = rejects.plc_scan_s + rejects.actuator_s
        tolerance_mm = web.tolerance_mm + web.top_speed_mm_s * scan_s
        self._confirmations = Confirmations(OUTPUTS, round(tolerance_mm * web.counts_per_mm))
        self._limits: list[int | None] = [None] * OUTPUTS
        self.view = PlcView()

    def look(self) -> Seen:
        """Takes the PLC's position and pulses."""
        if self._link is None:
            return Seen()
        before, self.view = self.view, self._link.view()
        view, jumped = self.view, False
        if view.position is not None and view.position_ns > self._motion.position_ns:
            jumped = not self._motion.moved(self.unwrapped(view.position), view.position_ns, view.heard_ns)
        pulsed = view.sync[0] != before.sync[0] and before.connected  # what stood there at first may be old
        return Seen(jumped, self.unwrapped(view.sync[1]) if pulsed else None)

    def unwrapped(self, shown: int) -> int:
        known = self._motion.position
        if known is None:
            known = self._near()
        return PLC_COUNTER.unwrap(shown, shown if known is None else known)

    def ordered(self, window: Window) -> None:
        """The gate may open for that; what comes late, or is rejected anyway, is no reason to expect that it does."""
        if self.view.gates is None:
            return  # nobody can confirm it
        expected = window.in_time and window.cause not in UNANNOUNCED
        self._confirmations.ordered(self._outputs[window.lane], window.first, window.end, expected)

    def confirm(self, limits: Mapping[str, int | None], passes: bool) -> list[Answer]:
        """What the gates' sensors say; unless the PLC `passes` anything, gates are open for no order's sake."""
        view, position = self.view, self._motion.position
        if view.gates is None or view.opened_at is None or position is None:
            return []
        for lane, output in self._outputs.items():
            limit = limits.get(lane)
            if not passes or not view.enabled or limit is None or position >= limit:
                self._confirmations.held(output, position)
        opened_at = [PLC_COUNTER.unwrap(count, position) for count in view.opened_at]
        found = self._confirmations.heard(position, view.gates, opened_at)
        return [
            Answer(one.kind == "gate-unconfirmed", self._lanes[one.output], one.at)
            for one in found
            if one.output in self._lanes
        ]

    def speak(self, limits: Mapping[str, int | None], flags: Flags, live: bool) -> None:
        """Tells pass limits, flags, and that all is alive."""
        if self._link is None:
            return
        told: list[int | None] = [None] * OUTPUTS
        for lane, limit in limits.items():
            told[self._outputs[lane]] = None if limit is None else limit % COUNTS
        if told != self._limits:
            self._limits = told
            self._link.reach(told)
        self._link.show(flags)
        if live:
            self._link.beat()
