"""What the publisher has taken, on its way to the journal and to the world: in groups, on a full disk too."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from linescan.codec import encode
from linescan.errors import JournalFullError
from linescan.journal import EXPIRE_ROWS, Entry, Journal, Mark
from linescan.line import JournalSettings
from linescan.messages import Event, Origin, Published
from linescan.metrics import NO_METRICS, Meter
from linescan.stages.ledger import Ledger
from linescan.transport import Publication

BATCH = 200  # events in one commit
RETRY_S = 1.0  # between tries to write to a full disk
EXPIRE_S = 10.0
LINE = ""  # the camera of events that are the whole line's


class EventStore:
    """Events, progress and origins: told to the world when they are stored.

    While the disk is full they are told at once as not durable, kept in a bounded memory, and stored and told again
    with their numbers when there is room.
    """

    def __init__(
        self,
        journal: Journal,
        settings: JournalSettings,
        ledgers: Mapping[str, Ledger],
        events: Publication,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
        metrics: Meter = NO_METRICS,
    ) -> None:
        self._journal, self._settings, self._ledgers, self._events = journal, settings, ledgers, events
        self._clock, self._utc, self._metrics = clock_ns, utc_ns, metrics
        self._entries: list[Entry] = []
        self._marks: dict[str, Mark] = {}
        self._batch_since_ns: int | None = None
        self._volatile: deque[Entry] = deque()  # told to the world, not yet on the disk
        self._kept_marks: dict[str, Mark] = {}
        self._unkept_origins: dict[str, Origin] = {}  # by camera
        self._retry_ns = 0
        self._expired_ns = -(1 << 62)
        self._own = journal.camera(LINE).epoch + 1, 0  # stamps of the line's own events
        self.counters: Counter[str] = Counter()
        self.full = False

    # ------------------------------------------------------------------------------------------ in

    def add(self, entry: Entry) -> None:
        self._wake()
        self._entries.append(entry)

    def add_own(self, event: Event, replayed: bool) -> None:
        """An event of the line, not of a camera."""
        epoch, origin = self._own
        self._own = epoch, origin + 1
        self.add(Entry(LINE, epoch, origin, self._utc(), event, 0, replayed))

    def mark(self, mark: Mark) -> None:
        self._wake()
        self._marks[mark.progress.camera] = mark

    def owes_ack(self) -> None:
        """Something came that needs an answer with the next commit, though there may be nothing to store."""
        self._wake()

    def keep_origin(self, origin: Origin) -> None:
        """At once; while the disk is full it stays in memory: acquire is waiting for the word to go on."""
        self._unkept_origins[origin.camera] = origin
        self._keep_origins()

    def _wake(self) -> None:
        self._batch_since_ns = self._batch_since_ns or self._clock()

    # ------------------------------------------------------------------------------------------ to the journal

    @property
    def waiting(self) -> bool:
        """Whether a batch has begun."""
        return self._batch_since_ns is not None

    @property
    def not_durable(self) -> int:
        """Events that were told and are not stored."""
        return len(self._volatile)

    @property
    def due(self) -> bool:
        if (self._volatile or self._unkept_origins) and self._clock() >= self._retry_ns:
            return True
        if self._batch_since_ns is None:
            return False
        waited = self._clock() - self._batch_since_ns
        return waited >= self._settings.commit_ms * 1e6 or len(self._entries) >= BATCH

    def flush(self) -> None:
        """Stores the batch, and tells the world."""
        entries, marks = self._entries, self._marks
        self._entries, self._marks, self._batch_since_ns = [], {}, None
        if self._volatile and self._clock() < self._retry_ns:
            self._keep_in_memory(entries, marks)
        else:
            self._store(entries, marks)
        for mark in marks.values():
            self._events.send("progress", replace(mark.progress, snapshot=b""))

    def close(self) -> None:
        self._retry_ns = self._clock()  # there may be room by now, and there is no later
        self.flush()

    def expire(self) -> None:
        """Now and then: lets old events go."""
        now = self._clock()
        if now - self._expired_ns <= EXPIRE_S * 1e9:
            return
        self._expired_ns = now
        try:
            if self._journal.expire(self._utc(), cameras=list(self._ledgers)) >= EXPIRE_ROWS:
                self._expired_ns = -(1 << 62)  # there is more to delete
        except JournalFullError:
            self.full = True

    def _store(self, entries: list[Entry], marks: dict[str, Mark]) -> None:
        began_ns = self._clock()
        try:
            if self._volatile:
                for ledger in self._ledgers.values():
                    self._journal.take_over(ledger.camera, ledger.epoch)
            taken = {one.camera: (one.epoch, one.next - 1) for one in self._ledgers.values() if one.next}
            stored = self._journal.commit([*self._volatile, *entries], {**self._kept_marks, **marks}, taken)
        except JournalFullError:
            self.full = True
            self.counters["commits_failed"] += 1
            self._retry_ns = self._clock() + int(RETRY_S * 1e9)
            self._keep_in_memory(entries, marks)
            return
        self._metrics.step("commit", self._clock() - began_ns)
        self.full = False
        self._volatile.clear()
        self._kept_marks = {}
        self._keep_origins()
        for published in stored:
            self._events.send("event", published)
            if published.needed_ns:
                self._metrics.step("publish", self._clock() - published.needed_ns)
        self.counters["events"] += len(stored)

    def _keep_origins(self) -> None:
        try:
            for origin in list(self._unkept_origins.values()):
                self._journal.keep_origin(origin)
                del self._unkept_origins[origin.camera]
        except JournalFullError:
            self.full = True
            self._retry_ns = self._clock() + int(RETRY_S * 1e9)

    def _keep_in_memory(self, entries: list[Entry], marks: dict[str, Mark]) -> None:
        self._kept_marks = {**self._kept_marks, **marks}
        for entry in entries:
            self._events.send("event", self._not_durable(entry))
            self._volatile.append(entry)
            if len(self._volatile) > self._settings.memory_events:
                self._volatile.popleft()
                self.counters["events_lost"] += 1

    def _not_durable(self, entry: Entry) -> Published:
        return Published(
            self._journal.run, None, False, entry.camera, entry.epoch, entry.origin, entry.utc_ns, entry.needed_ns,
            entry.replayed, encode(entry.event),
        )  # fmt: skip
