"""How a camera's counter and the PLC's are tied: by the same pulses, or by a sync pulse that both latch.

A tie says by how many counts the PLC's counter is ahead, and whether that can be trusted. Where it cannot, nobody knows
where at the gate a line of the camera is, and everything is to be rejected until it is mended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

from linescan.line import Web as WebSettings

LATE_S = 2.0  # how long a line may be on its way from the sensor until its time is taken
KEPT_NS = int(2 * LATE_S * 1e9)  # positions of so long ago are kept
PAIR_S = 0.5  # latches of one pulse come to be known within this of each other
PAIR_NS = int(PAIR_S * 1e9)
MISSED = 3  # pulses in a row that only one counter latched
SIDES = ("camera", "PLC")


class Tie:
    """What both kinds have in common: trust, why there is none, and how it comes back.

    Counts do not wrap here. `offset` is what to add to the camera's count for the PLC's, the last one that was trusted.
    """

    def __init__(self, reason: str) -> None:
        self.offset: int | None = None
        self.trusted = False
        self.reason = reason  # why it is not trusted, in words; empty where it is
        self._owes_acknowledgement = False  # trust was lost, and an operator has not said that it is mended
        self._candidate: int | None = None  # an offset that was seen since trust was lost

    def distrust(self, reason: str) -> None:
        """Nothing is believed until an operator has acknowledged it and the counters have been seen to agree again.

        Also for what is noticed elsewhere: a counter that jumped, a camera whose counter was reset.
        """
        self.trusted, self.reason = False, reason
        self._owes_acknowledgement = True
        self._candidate = None

    @property
    def lost(self) -> bool:
        """Whether trust was lost and nobody has acknowledged it."""
        return self._owes_acknowledgement

    def resume(self, offset: int) -> None:
        """Goes on with the offset that was trusted before a restart; the next pulse or position checks it."""
        self._propose(offset)

    def acknowledge(self) -> None:
        """An operator says that the cause was mended."""
        self._owes_acknowledgement = False
        self._settle()

    def _propose(self, offset: int) -> None:
        self._candidate = offset
        self._settle()

    def _settle(self) -> None:
        if self.trusted or self._candidate is None or self._owes_acknowledgement:
            return
        self.offset, self.trusted, self.reason = self._candidate, True, ""


class SharedTie(Tie):
    """Both count the same pulses, and the PLC's counter is `offset_counts` ahead: only its plausibility can be checked.

    The PLC can be neither behind the newest line by more than the tolerance nor ahead of it by more than the web moves
    at top speed in the time since. After a loss the next check that finds this, acknowledged, mends it.

    Args:
        bits: of the counter that wraps earlier; the offset is known modulo its range.
        tolerance, top_speed: in counts and counts/s.
        scan_s: how old a position may be when it is read: the PLC writes it once a scan.
    """

    def __init__(self, offset_counts: int, bits: int, tolerance: float, top_speed: float, scan_s: float = 0.0) -> None:
        super().__init__("the PLC's position and the camera's first lines have not been compared yet")
        self.offset_counts, self._span = offset_counts, 1 << bits
        self._tolerance, self._top_speed, self._scan_s = tolerance, top_speed, scan_s
        # positions that were the highest so far, and when they were read; the web may run back, the lines do not
        self._seen: deque[tuple[int, int]] = deque()

    @classmethod
    def of(cls, web: WebSettings, bits: int, scan_s: float = 0.0) -> SharedTie:
        """`bits` of the camera's counter."""
        per_mm = web.counts_per_mm
        return cls(web.offset_counts, min(bits, 32), web.tolerance_mm * per_mm, web.top_speed_mm_s * per_mm, scan_s)

    def distrust(self, reason: str) -> None:
        super().distrust(reason)
        self._seen.clear()

    def plc_anew(self) -> None:
        """The PLC was restarted: a counter that began anew is no web that ran back."""
        self._seen.clear()

    def check(self, line_count: int, line_ns: int, position: int, position_ns: int) -> None:
        """Compares the camera's newest line, and when it had come, with a position of the PLC, and when it was read.

        Of the positions so far it is the first one after the line had come: by the newest, the web has moved on.
        """
        self._see(position, position_ns)
        position_ns, highest_position = next((one for one in self._seen if one[0] >= line_ns), self._seen[-1])
        before_s, after_s = max(line_ns - position_ns, 0) / 1e9, max(position_ns - line_ns, 0) / 1e9
        lowest = -self._tolerance - self._top_speed * (before_s + self._scan_s)
        known = self.offset if self.trusted else None
        offset = self._offset(highest_position - line_count, lowest) if known is None else known
        ahead = highest_position - (line_count + offset)
        highest = self._tolerance + self._top_speed * (after_s + LATE_S)
        if lowest <= ahead <= highest:
            self._propose(offset)
        elif self.trusted:
            where = f"{-ahead} counts behind" if ahead < 0 else f"{ahead} counts ahead of"
            most = -lowest if ahead < 0 else highest
            self.distrust(f"the PLC's counter is {where} the camera's newest line, {most:.0f} at most can be")
        else:
            self._candidate = None

    def _see(self, position: int, position_ns: int) -> None:
        seen = self._seen
        highest = max(position, seen[-1][1]) if seen else position
        if not seen or position_ns > seen[-1][0]:
            seen.append((position_ns, highest))
        else:
            seen[-1] = seen[-1][0], highest
        while seen[0][0] < position_ns - KEPT_NS:
            seen.popleft()

    def _offset(self, ahead: int, lowest: float) -> int:
        """The offset by which a position that is so much ahead of a line is ahead the least, and not below `lowest`."""
        return self.offset_counts + (ahead - self.offset_counts - ceil(lowest)) // self._span * self._span


@dataclass(frozen=True)
class _Latch:
    count: int
    came_ns: int


class PulseTie(Tie):
    """Both latch their count at a pulse: the first pair of latches says the offset, each later one checks it.

    Two latches are one pulse's where they came to be known within PAIR_S of each other. For that to be certain a
    counter has to latch no oftener than every 2 · PAIR_S; trust is lost where one does. What only one counter latched
    is `unpaired`; MISSED in a row are a loss of trust too, since then nothing is checked any more. After a loss a pair
    that came since, acknowledged, mends it.

    Args:
        tolerance: counts by which a pair may differ from the offset.
    """

    def __init__(self, tolerance: float) -> None:
        super().__init__("no sync pulse yet")
        self._tolerance = tolerance
        self._waiting: dict[str, deque[_Latch]] = {side: deque() for side in SIDES}
        self._latest: dict[str, _Latch | None] = dict.fromkeys(SIDES)
        self._missed = 0
        self.pairs = 0
        self.unpaired = 0
        self.drift = 0  # of the last pair, counts by which the PLC's counter is further than the offset says

    @classmethod
    def of(cls, web: WebSettings) -> PulseTie:
        return cls(web.tolerance_mm * web.counts_per_mm)

    def camera_latched(self, count: int, came_ns: int) -> None:
        """The camera's count at a pulse, and the monotonic time at which it came to be known."""
        self._latched("camera", _Latch(count, came_ns))

    def plc_latched(self, count: int, came_ns: int) -> None:
        """The PLC's count at a pulse."""
        self._latched("PLC", _Latch(count, came_ns))

    def distrust(self, reason: str) -> None:
        super().distrust(reason)
        for waiting in self._waiting.values():
            self.unpaired += len(waiting)
            waiting.clear()

    def _latched(self, side: str, latch: _Latch) -> None:
        before, self._latest[side] = self._latest[side], latch
        if before is not None and latch.count == before.count:
            return  # the web stands
        if before is not None and latch.came_ns - before.came_ns < 2 * PAIR_NS:
            self.distrust(
                f"the {side} latched two sync pulses within {2 * PAIR_S:g} s: which of them belong together is unknown"
            )
            return
        self._waiting[side].append(latch)
        self.settle(latch.came_ns)
        camera, plc = (self._waiting[side] for side in SIDES)
        if camera and plc and abs(plc[0].came_ns - camera[0].came_ns) <= PAIR_NS:
            self._pair(plc.popleft().count - camera.popleft().count)

    def settle(self, now_ns: int) -> None:
        """Gives up what has waited for its counterpart too long; to be called in each turn."""
        for side, waiting in self._waiting.items():
            while waiting and waiting[0].came_ns < now_ns - PAIR_NS:
                waiting.popleft()
                self.unpaired += 1
                self._missed += 1
                if self._missed >= MISSED and self.trusted:
                    self.distrust(
                        f"{self._missed} sync pulses in a row were latched by one counter alone, now the {side}"
                    )

    def _pair(self, offset: int) -> None:
        self.pairs += 1
        self._missed = 0
        if not self.trusted:
            self.drift = 0
            self._propose(offset)
            return
        assert self.offset is not None
        self.drift = offset - self.offset
        if abs(self.drift) > self._tolerance:
            self.distrust(
                f"the counters drifted apart by {self.drift} counts, {self._tolerance:.0f} are allowed; what they did "
                "at this pulse"
            )
