"""What the publisher needs of a PLC, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

COUNTS = 1 << 32  # a PLC's counter and all counts told to it are modulo this
SEQUENCES = 1 << 16  # of orders as the PLC sees them: 1, 2, … 65535, 1, …; 0 is none


@dataclass(frozen=True)
class GateOrder:
    """One entry of the PLC's FIFO: gates in `outputs` (a mask) reject from count `first` until `end`, modulo COUNTS.

    `sequence` counts from 1 and never begins anew: two orders that nobody has forgotten never share one.
    """

    sequence: int
    outputs: int
    first: int
    end: int
    category: int = 0  # number of the recipe's class, 0: none
    severity: int = 0
    late: bool = False


@dataclass(frozen=True)
class Flags:
    """What linescan says of itself.

    A PLC that was restarted may have begun to count anew. So `ready` is told only in the session that `session` names:
    the one whose `position` was found to be where orders and limits are counted from.
    """

    ready: bool = False
    session: int = 0  # of the PlcView
    running: bool = False  # a roll
    bypass: bool = False  # rejects are suspended, loudly
    fault: bool = False  # something is wrong that an operator must see
    late: bool = False  # a reject could not be made in time; until it is acknowledged
    untrusted: bool = False  # the two counters do not agree: everything is rejected
    stop_line: bool = False  # what was not inspected is to stop the line


@dataclass(frozen=True)
class PlcView:
    """What the PLC said last; requests are counters of edges, so that none is lost between two looks.

    `position` is its encoder count, read not before `position_ns` (monotonic) and not after the answer that brought it;
    a PLC whose heartbeat stands brings none. `sync` is the number and count of its last latched pulse
    (number 0: none yet). `gates` counts for each output the openings that its sensor confirmed, and `opened_at` the
    count of the last one; both are None where the PLC has no such inputs. The counters count from 0 when the link
    began and never fall: a PLC's restart presses no button. `faults` are of the link, in words; `reason` says more.
    """

    connected: bool = False  # answering, its own heartbeat moving, our session accepted
    session: int = 0  # that the PLC accepted; another one where the PLC was restarted, 0: none
    heard_ns: int = 0  # monotonic, of the last answer
    enabled: bool = False
    position: int | None = None
    position_ns: int = 0
    sync: tuple[int, int] = (0, 0)
    free: int = 0  # entries that the FIFO has room for
    acknowledge: int = 0
    roll_start: int = 0
    roll_end: int = 0
    roll_id: str = ""  # ID or ID/RECIPE that goes with roll_start; no id: the journal numbers it
    splice: int = 0
    gates: tuple[int, ...] | None = None
    opened_at: tuple[int, ...] | None = None
    faults: tuple[str, ...] = ()  # "plc-unreachable", "plc-frozen", "plc-registers", "plc-fifo-full"
    reason: str = ""


class PlcLink(Protocol):
    """A connection that lives in a thread of its own; no method waits, none raises for what the PLC does.

    What is told goes out in the order in which it was told: a pass limit never overtakes an order given before it.
    While the FIFO is full or the PLC away, both wait, and the PLC passes nothing beyond the last limit that it has.
    """

    def order(self, order: GateOrder) -> None:
        """Kept until it is forgotten, for a PLC that loses its memory. Raises ValueError for one that cannot be."""
        ...

    def reach(self, counts: Sequence[int | None]) -> None:
        """Pass limits by output, modulo COUNTS: what is before them was inspected, and its rejects were ordered.

        None is no limit: that output passes nothing.
        """
        ...

    def forget(self, sequences: Iterable[int]) -> None:
        """The windows of these orders have passed their gates, for good: a PLC need not be given them again."""
        ...

    def show(self, flags: Flags) -> None: ...

    def beat(self) -> None:
        """The publisher's loop runs and every camera's lease is live: without this the heartbeat stands still."""
        ...

    def view(self) -> PlcView: ...

    @property
    def pending(self) -> int:
        """Orders that are not in the FIFO yet, or not again after the PLC lost them."""
        ...

    @property
    def delivered(self) -> int:
        """How many of the orders given have been in the FIFO; those given again to a restarted PLC count once."""
        ...

    def close(self) -> None:
        """Takes ready back where the PLC still answers; bounded by the timeouts, nothing is waited for."""
        ...
