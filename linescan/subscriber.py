"""Events for whoever wants them: each once, in order, over disconnections and restarts of the publisher."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linescan.codec import decode
from linescan.errors import MessageError
from linescan.line import Line
from linescan.messages import Caught, Message, Progress, Published, Since, Status
from linescan.transport import Network, waiting
from linescan.transport.keys import load_keys
from linescan.transport.zeromq import ZmqNetwork

ASK_S = 0.5  # between tries to fetch what is missing
PORTION = 200  # events asked for at once
HELD = 10_000  # events kept beyond a hole or until they are taken, and names of those that came without a number
AT_ONCE = 1000  # messages read in one call; more than the answer to one question, or answers would heap up
POLL_S = 0.2

Name = tuple[str, int, int]  # of an event, for ever: camera, epoch, origin


@dataclass(frozen=True)
class Event:
    """An event: `message` is a RollStart, Region, Gap or RollEnd.

    `sequence` is its row in the journal of `run`; None while the publisher's disk is full and it is not yet stored.
    `needed_ns` is the monotonic time at which the last line behind it had come, 0 where unknown.
    """

    message: Message
    run: str
    sequence: int | None
    utc_ns: int
    needed_ns: int
    replayed: bool


class Subscriber:
    """Takes what the publisher says as it comes and fetches from the journal what it missed; never waits in itself.

    Args:
        since: deliver what comes after that sequence number; None: from now on.
        on_status, on_progress: told of heartbeats and of how far the inspection is, which have no numbers.
    """

    def __init__(
        self,
        network: Network,
        events_endpoint: str,
        backfill_endpoint: str,
        since: int | None = None,
        *,
        on_status: Callable[[Status], object] = lambda _: None,
        on_progress: Callable[[Progress], object] = lambda _: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._live = network.subscription(events_endpoint, ["event", "progress", "status"])
        self._backfill = network.client(backfill_endpoint)
        self._network, self._clock = network, clock_ns
        self._on_status, self._on_progress = on_status, on_progress
        self.run = ""
        self.last = since if since is not None else 0
        self._from_now = since is None
        self._known_last = -1  # of the publisher; −1: it has not said
        self._held: dict[int, Published] = {}
        self._ready: deque[Event] = deque()  # in order, until they are taken
        self._passing: OrderedDict[Name, Published] = OrderedDict()  # without a number, until all before is delivered
        self._volatile: OrderedDict[Name, None] = OrderedDict()  # delivered before they were numbered
        self._doubted = False  # the publisher's journal ends before what was delivered: is it another one?
        self._asked_ns = -(1 << 62)
        self.counters: Counter[str] = Counter()

    def take(self, timeout_s: float = 0.0, most: int | None = None) -> list[Event]:
        """What is next, in order, at most so many; empty where nothing came within the time.

        Heartbeats and progress are told whatever `most` is; events that are not taken wait in memory up to a bound, and
        those beyond it in the journal.
        """
        if timeout_s and not (self._ready and most != 0):
            self._network.wait((self._live, self._backfill), timeout_s)
        for link in (self._live, self._backfill):
            for received in waiting(link, AT_ONCE):
                self._take(received.message)
        self._deliver()
        count = len(self._ready) if most is None else min(most, len(self._ready))
        events = [self._ready.popleft() for _ in range(count)]
        self._ask()
        return events

    def close(self) -> None:
        self._live.close()
        self._backfill.close()

    def _take(self, message: Message) -> None:
        if isinstance(message, Published):
            self._take_published(message)
        elif isinstance(message, Caught):
            self._take_caught(message)
        elif isinstance(message, Status):
            if message.stage == "publisher":
                last = message.counters.get("last_sequence", -1)
                self._doubted |= 0 <= last < self.last
                self._known_last = max(self._known_last, last)
            self._on_status(message)
        elif isinstance(message, Progress):
            self._on_progress(message)
        else:
            self.counters["unexpected"] += 1

    def _take_published(self, published: Published) -> None:
        if self.run and published.run != self.run:
            self._begin_run(published.run)
        if published.sequence is None:
            if _name(published) not in self._volatile:
                self._passing[_name(published)] = published
            if len(self._passing) > HELD:  # it comes again with a number
                self._passing.popitem(last=False)
        else:
            if not self._knows_where:
                self._asked_ns = -(1 << 62)  # where to begin is asked first
            self._hold(published)
        self._deliver()

    def _hold(self, published: Published) -> None:
        sequence = published.sequence or 0
        has_room = len(self._ready) < HELD and (len(self._held) < HELD or sequence == self.last + 1)
        if sequence > self.last and has_room:
            self._held[sequence] = published
        self._known_last = max(self._known_last, sequence)

    def _take_caught(self, caught: Caught) -> None:
        if caught.run != self.run:
            if self.run:
                self._begin_run(caught.run)
            self.run = caught.run
        if self._from_now:
            self._from_now = False
            self._go_to(caught.last)
        if caught.up_to > caught.last:  # asked with a number that the journal does not have: another copy of it
            self._go_to(caught.last)
            self._known_last = caught.last
        if caught.up_to < caught.last:
            self._known_last = max(self._known_last, caught.last)
        else:  # all of it was sent; what was known of more was another copy's, or is held, or is told again
            self._known_last = max(caught.last, *self._held) if self._held else caught.last
        if self.last < caught.oldest - 1:
            self.counters["missed"] += caught.oldest - 1 - self.last  # deleted by the journal's retention
            self._go_to(caught.oldest - 1)
        self._deliver()
        if caught.up_to < caught.last:
            self._asked_ns = -(1 << 62)

    def _begin_run(self, run: str) -> None:
        """The journal is another one: its rows count from 1."""
        self.counters["runs"] += 1
        self.run, self.last, self._known_last = run, 0, -1
        self._held.clear()
        self._passing.clear()
        self._volatile.clear()
        self._backfill.reconnect()  # what the journal before still answers would be taken for its successor's
        self._asked_ns = -(1 << 62)

    def _go_to(self, last: int) -> None:
        self.last = last
        self._held = {sequence: published for sequence, published in self._held.items() if sequence > last}

    def _deliver(self) -> None:
        if not self._knows_where:
            return
        while (published := self._held.pop(self.last + 1, None)) is not None:
            self.last += 1
            self._passing.pop(_name(published), None)
            if self._volatile.pop(_name(published), 0) is None:
                continue  # was delivered when it had no number yet
            self._make_ready(published)
        while self._is_complete and self._passing and len(self._ready) < HELD:
            name, published = self._passing.popitem(last=False)
            self._volatile[name] = None
            self._make_ready(published)
        while len(self._volatile) > HELD:
            self._volatile.popitem(last=False)

    @property
    def _knows_where(self) -> bool:
        """Whether the journal, and where in it to begin, is known."""
        return bool(self.run) and not self._from_now

    @property
    def _is_complete(self) -> bool:
        """Whether all that is known to be in the journal is delivered."""
        return self._knows_where and self._known_last <= self.last and not self._held

    def _make_ready(self, published: Published) -> None:
        try:
            message = decode(published.event)
        except MessageError:
            self.counters["garbage"] += 1
            return
        self._ready.append(
            Event(message, published.run, published.sequence, published.utc_ns, published.needed_ns, published.replayed)
        )

    def _ask(self) -> None:
        needless = (self._is_complete and not self._doubted) or len(self._ready) >= HELD
        if needless or self._clock() - self._asked_ns < ASK_S * 1e9:
            return
        self._asked_ns, self._doubted = self._clock(), False
        limit = 0 if self._from_now else PORTION
        self._backfill.send(Since(self.run, self.last, limit))


def _name(published: Published) -> Name:
    return (published.camera, published.epoch, published.origin)


class Events:
    """A subscription to iterate over, with `for` or with `async for`; close it, or use it as a context manager."""

    def __init__(self, line: Line, since: int | None, **told: Any) -> None:
        keys = line.settings.transport.keys
        self._network = ZmqNetwork(load_keys(line.file(keys)) if keys is not None else None)
        self.subscriber = Subscriber(
            self._network, line.events_endpoint, line.backfill_endpoint, since, **told
        )  # fmt: skip
        self._thread: ThreadPoolExecutor | None = None
        self._came: deque[Event] = deque()  # and was not iterated over yet

    def take(self, timeout_s: float = POLL_S) -> list[Event]:
        """What came within the time; empty where nothing did."""
        came = [self._came.popleft() for _ in range(len(self._came))]
        return came or self.subscriber.take(timeout_s)

    def __iter__(self) -> Iterator[Event]:
        while True:
            self._fetch()
            while self._came:
                yield self._came.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)  # sockets belong to one thread at a time
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._thread, self._fetch)
            while self._came:
                yield self._came.popleft()

    def _fetch(self) -> None:
        """What came waits here, where a loop that was left or cancelled does not lose it."""
        if not self._came:
            self._came.extend(self.subscriber.take(POLL_S))

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        self._network.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def subscribe(config: str | Path, since: int | None = None, **told: Any) -> Events:
    """The events of the line in `config`: from now on, or all after sequence `since` (0: from the journal's first).

    Each event comes once and in order, also over restarts of the publisher and of the network between. `on_status` and
    `on_progress` may be given, see Subscriber. Raises ConfigError.
    """
    return Events(Line(Path(config)), since, **told)
