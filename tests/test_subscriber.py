"""Subscribers: each event once and in order, whatever the network and the publisher do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.codec import encode
from linescan.errors import ConfigError
from linescan.messages import Ack, Caught, Gap, Message, Progress, Published, Since, Status
from linescan.subscriber import AT_ONCE, HELD, PORTION, Event, Subscriber, subscribe
from linescan.transport.memory import MemoryNetwork
from linescan.transport.network import Network
from linescan.transport.zeromq import ZmqNetwork
from tests.line_kit import Desk, FakeClock, findings, undisturbed, web, write_line

EVENTS, BACKFILL = "events", "backfill"


def event(number: int) -> Message:
    return Gap("cam0", "r", number, number, "overrun")


class Source:
    """A publisher's public side: a journal in memory, told and asked for."""

    def __init__(self, network: Network, events: str = EVENTS, backfill: str = BACKFILL, run: str = "run-1") -> None:
        self._publication, self._server = network.publication(events), network.server(backfill)
        self.run = run
        self.rows: list[Published] = []
        self.oldest = 1
        self.asked: list[Since] = []

    def publish(self, number: int, *, heard: bool = True, origin: int | None = None) -> Published:
        """Stores an event; `heard` is whether it is told too."""
        published = self._made(number, len(self.rows) + 1, origin)
        self.rows.append(published)
        if heard:
            self._publication.send("event", published)
        return published

    def tell_volatile(self, number: int) -> None:
        self._publication.send("event", self._made(number, None, None))

    def tell(self, topic: str, message: Message) -> None:
        self._publication.send(topic, message)

    def report(self) -> None:
        counters = {"last_sequence": len(self.rows)}
        self._publication.send("status", Status("publisher", "", "publishing", (), counters, 0))

    def answer(self) -> None:
        while (received := self._server.receive()) is not None:
            since = received.message
            assert isinstance(since, Since)
            self.asked.append(since)
            known = since.run in ("", self.run)
            found = [row for row in self.rows[since.sequence :] if (row.sequence or 0) >= self.oldest] if known else []
            up_to = since.sequence if known else 0
            for row in found[: since.limit]:
                self._server.send(received.peer, row)
                up_to = row.sequence or up_to
            self._server.send(received.peer, Caught(self.run, len(self.rows), self.oldest, up_to))

    def close(self) -> None:
        self._server.close()

    def _made(self, number: int, sequence: int | None, origin: int | None) -> Published:
        name = number if origin is None else origin
        return Published(self.run, sequence, sequence is not None, "cam0", 1, name, 5, 6, False, encode(event(number)))


class Told:
    """A subscriber, and all that it delivered."""

    def __init__(self, network: Network, since: int | None, clock: FakeClock | None = None, **told: Any) -> None:
        self.clock = clock or FakeClock()
        self.subscriber = Subscriber(network, EVENTS, BACKFILL, since, clock_ns=self.clock, **told)
        self.events: list[Event] = []

    def turn(self, source: Source | None, times: int = 4, seconds: float = 0.3) -> None:
        for _ in range(times):
            self.clock.advance(seconds)
            self.events += self.subscriber.take()
            if source is not None:
                source.answer()

    @property
    def numbers(self) -> list[int]:
        return [one.message.first_line for one in self.events if isinstance(one.message, Gap)]


def drop(network: MemoryNetwork, kept: int = 0) -> None:
    """What waits in the subscribers' queues is lost, but for the first ones."""
    for subscription in network.subscriptions[EVENTS]:
        while len(subscription.queue) > kept:
            subscription.queue.pop()


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


# ------------------------------------------------------------------------------------------------ where it begins


@pytest.mark.parametrize(("since", "expected"), [(None, [8, 9]), (0, list(range(10))), (3, list(range(3, 10)))])
def test_where_a_subscriber_begins(network: MemoryNetwork, since: int | None, expected: list[int]) -> None:
    source = Source(network)
    for number in range(8):
        source.publish(number)
    told = Told(network, since)
    told.turn(source)
    source.publish(8)
    source.publish(9)
    told.turn(source)
    assert told.numbers == expected
    assert [one.sequence for one in told.events] == [number + 1 for number in expected]
    assert (told.events[0].run, told.events[0].utc_ns, told.events[0].needed_ns) == ("run-1", 5, 6)


def test_from_now_on_is_from_when_the_publisher_was_asked(network: MemoryNetwork) -> None:
    source = Source(network)
    source.publish(0)
    told = Told(network, None)
    source.publish(1)  # comes before the answer, and may or may not be new: the journal's last decides
    told.turn(source, 1)
    source.publish(2)
    told.turn(source)
    assert told.numbers == [2]


def test_a_subscriber_that_is_there_before_the_publisher(network: MemoryNetwork) -> None:
    told = Told(network, 0)
    told.turn(None, 10)
    source = Source(network)
    source.publish(0)
    told.turn(source)
    assert told.numbers == [0]


def test_a_number_beyond_the_journals_last_is_of_another_copy(network: MemoryNetwork) -> None:
    source = Source(network)
    for number in range(4):
        source.publish(number)
    told = Told(network, 900)
    told.turn(source)
    source.publish(4)
    told.turn(source)
    assert told.numbers == [4]


# ------------------------------------------------------------------------------------------------ what is lost


def test_what_was_dropped_is_fetched(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    told.turn(source)
    source.publish(0)
    source.publish(1, heard=False)
    source.publish(2, heard=False)
    source.publish(3)
    told.turn(source)
    assert told.numbers == [0, 1, 2, 3]
    source.publish(4, heard=False)  # the last one: only the heartbeat tells
    told.turn(source)
    assert told.numbers == [0, 1, 2, 3]
    source.report()
    told.turn(source)
    assert told.numbers == [0, 1, 2, 3, 4]


def test_more_than_a_portion_is_fetched_in_portions(network: MemoryNetwork) -> None:
    source = Source(network)
    for number in range(2 * PORTION + 50):
        source.publish(number)
    told = Told(network, 0)
    told.turn(source, 2)
    told.turn(source, 4, 0.0)  # at once, without waiting between
    assert told.numbers == list(range(2 * PORTION + 50))
    assert [since.limit for since in source.asked] == [PORTION] * 3


def test_an_answer_that_is_older_than_what_was_heard_since(network: MemoryNetwork) -> None:
    """The journal's last in an answer is of when it was given: what came live since is not to come again."""
    source = Source(network)
    told = Told(network, 0)
    told.turn(source)
    source.publish(0, heard=False)
    source.publish(1)
    told.turn(None, 2)  # asks for the one that is missing
    source.publish(2)
    source.answer()
    source.publish(3)
    source.publish(4)
    told.turn(source)
    assert told.numbers == [0, 1, 2, 3, 4]
    source.publish(5, heard=False)
    source.publish(6)
    told.turn(source)
    assert told.numbers == list(range(7))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["heard", "lost", "volatile", "answer", "turn", "report"]), max_size=60))
def test_each_event_once_and_in_order(steps: list[str]) -> None:
    network = MemoryNetwork()
    source = Source(network)
    told = Told(network, 0)
    number, passing = 0, []
    for step in steps:
        if step == "volatile":
            source.tell_volatile(number)
            passing.append(number)
            number += 1
        elif step in ("heard", "lost"):
            for one in passing:
                source.publish(one, heard=step == "heard")
            source.publish(number, heard=step == "heard")
            passing, number = [], number + 1
        elif step == "answer":
            source.answer()
        elif step == "report":
            source.report()
        else:
            told.turn(None, 1)
    for one in passing:
        source.publish(one)
    source.report()
    told.turn(source, 8)
    assert sorted(told.numbers) == list(range(number))
    numbered = [one.sequence for one in told.events if one.sequence is not None]
    assert numbered == sorted(numbered)


def test_rows_that_the_journal_has_deleted_are_counted_as_missed(network: MemoryNetwork) -> None:
    source = Source(network)
    for number in range(10):
        source.publish(number)
    source.oldest = 7
    told = Told(network, 2)
    told.turn(source)
    assert told.numbers == [6, 7, 8, 9]
    assert told.subscriber.counters["missed"] == 4
    source.oldest = 11
    told.turn(source)
    source.publish(10)
    told.turn(source)
    assert told.numbers[-1] == 10


def test_a_subscriber_far_behind_holds_no_more_than_it_may(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    told.turn(source)
    source.publish(0, heard=False)
    for number in range(1, HELD + 200):
        source.publish(number)
    told.turn(None, HELD // AT_ONCE + 1)
    assert len(told.subscriber._held) == HELD
    told.turn(source, HELD // PORTION + 10)
    assert told.numbers == list(range(HELD + 200))


# ------------------------------------------------------------------------------------------------ publishers


def test_who_takes_no_events_holds_no_more_than_it_may_and_hears_heartbeats(network: MemoryNetwork) -> None:
    source, heard = Source(network), []
    told = Told(network, 0, on_status=heard.append)
    told.turn(source)
    for number in range(HELD + 500):
        source.publish(number)
    for _ in range(30):
        told.clock.advance(1)
        source.report()
        assert told.subscriber.take(most=0) == []
        source.answer()
    assert len(heard) == 30
    assert len(told.subscriber._ready) + len(told.subscriber._held) == HELD
    asked = len(source.asked)
    told.clock.advance(1)
    told.subscriber.take(most=0)
    source.answer()
    assert len(source.asked) == asked  # what there is no room for is not asked for again and again
    while len(told.numbers) < HELD + 500:
        told.clock.advance(1)
        came = told.subscriber.take(most=300)
        assert 0 < len(came) <= 300
        told.events += came
        source.answer()
    assert told.numbers == list(range(HELD + 500))


def test_a_publisher_that_never_pauses_does_not_keep_the_caller(network: MemoryNetwork) -> None:
    source, told = Source(network), Told(network, 0)
    told.turn(source)
    spoken = 0

    def speak_again(_status: Status) -> None:
        nonlocal spoken
        spoken += 1
        assert spoken < 20 * AT_ONCE, "take() does not come back"
        source.report()

    told.subscriber._on_status = speak_again
    source.report()
    told.subscriber.take()
    assert spoken == AT_ONCE


def test_events_of_the_journal_before_are_not_lost_where_another_comes_before_they_were_taken(
    network: MemoryNetwork,
) -> None:
    source, told = Source(network), Told(network, 0)
    told.turn(source)
    for number in range(5):
        source.publish(number)
    told.events += told.subscriber.take(most=2)
    source.close()
    again = Source(network, run="run-2")
    again.publish(7)
    told.turn(again)
    assert told.numbers == [0, 1, 2, 3, 4, 7]
    assert [one.run for one in told.events] == ["run-1"] * 5 + ["run-2"]


def test_a_new_journal_that_nobody_told_of_is_fetched(network: MemoryNetwork) -> None:
    source, told = Source(network), Told(network, 0)
    for number in range(30):
        source.publish(number)
    told.turn(source, 10)
    source.close()
    again = Source(network, run="run-2")
    for number in range(100, 110):
        again.publish(number, heard=False)
    again.report()
    told.turn(again, 4)
    assert told.numbers[30:] == list(range(100, 110))
    asked = len(again.asked)
    for _ in range(5):
        again.report()
        told.turn(again, 2)
    assert len(again.asked) == asked


def test_an_older_copy_of_the_journal_is_not_asked_again_and_again(network: MemoryNetwork) -> None:
    source, told = Source(network), Told(network, 0)
    for number in range(30):
        source.publish(number)
    told.turn(source, 10)
    for number in range(30, 50):
        source.publish(number, heard=False)
    source.report()
    source.close()
    told.subscriber.take()
    again = Source(network)
    again.rows = source.rows[:40]
    told.turn(again, 10)
    asked = len(again.asked)
    for _ in range(200):  # the clock stands
        told.events += told.subscriber.take()
        again.answer()
    assert len(again.asked) <= asked + 1
    again.tell_volatile(99)
    told.turn(again)
    assert told.numbers == [*range(40), 99]


def test_a_publisher_that_is_started_anew(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    source.publish(0)
    told.turn(source)
    source.close()
    again = Source(network)
    again.rows = list(source.rows)
    again.publish(1, heard=False)
    again.publish(2)
    told.turn(again)
    assert told.numbers == [0, 1, 2]
    assert told.subscriber.counters["runs"] == 0


@pytest.mark.parametrize("first_told_by", ["event", "answer"])
def test_another_journal_begins_at_its_first(network: MemoryNetwork, first_told_by: str) -> None:
    source = Source(network)
    told = Told(network, 0)
    for number in range(3):
        source.publish(number)
    told.turn(source)
    if first_told_by == "answer":
        source.publish(99, heard=False)
        source.report()
        told.turn(None, 1)  # asked, not answered
    source.close()
    other = Source(network, run="run-2")
    other.publish(100, heard=False)
    other.publish(101, heard=first_told_by == "event")
    told.turn(other)
    assert told.numbers == [0, 1, 2, 100, 101]
    assert [one.sequence for one in told.events[-2:]] == [1, 2]
    assert told.subscriber.counters["runs"] == 1


def test_what_the_journal_before_still_answers_is_not_taken(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    source.publish(0)
    told.turn(source)
    source.publish(1, heard=False)
    source.report()
    told.turn(None, 2)
    source.answer()  # lies in the queue when the next journal is heard of
    source.close()
    other = Source(network, run="run-2")
    other.publish(100)
    told.turn(other)
    other.publish(101)
    told.turn(other)
    assert told.numbers == [0, 100, 101]
    assert told.subscriber.counters["runs"] == 1


def test_a_journal_put_back_from_a_copy(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    for number in range(5):
        source.publish(number)
    told.turn(source)
    del source.rows[3:]
    source.publish(100)
    source.publish(101)
    source.publish(102)
    told.turn(source)
    source.publish(103)
    told.turn(source)
    assert told.numbers[-1] == 103


# ------------------------------------------------------------------------------------------------ without a number


def test_an_event_without_a_number_comes_at_once_and_once(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    source.publish(0)
    told.turn(source)
    source.tell_volatile(1)
    source.tell_volatile(2)
    source.tell_volatile(2)
    told.turn(source, 1)
    assert told.numbers == [0, 1, 2]
    assert [one.sequence for one in told.events] == [1, None, None]
    source.publish(1, heard=False)
    source.publish(2)
    source.publish(3)
    told.turn(source)
    assert told.numbers == [0, 1, 2, 3]


def test_an_event_without_a_number_waits_for_what_is_before_it(network: MemoryNetwork) -> None:
    source = Source(network)
    source.publish(0)
    told = Told(network, 0)
    source.tell_volatile(1)
    told.turn(None, 2)
    assert told.numbers == []
    told.turn(source)
    assert told.numbers == [0, 1]
    source.publish(1)
    told.turn(source)
    assert told.numbers == [0, 1]


def test_an_event_that_was_stored_while_it_waited_comes_once(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    source.tell_volatile(0)
    told.turn(None, 1)
    source.publish(0)
    source.publish(1)
    told.turn(source)
    assert told.numbers == [0, 1]
    assert [one.sequence for one in told.events] == [1, 2]


# ------------------------------------------------------------------------------------------------ anything else


def test_garbage_is_counted_and_passed_over(network: MemoryNetwork) -> None:
    source = Source(network)
    told = Told(network, 0)
    source.tell("event", Ack("cam0", 1, 1))
    source.rows.append(replace(source._made(0, 1, None), event=b"garbage"))
    source.publish(1)
    network.subscriptions[EVENTS][0].queue.append((b"", (memoryview(b"garbage"),)))
    told.turn(source)
    assert told.numbers == [1]
    assert told.subscriber.counters == {"unexpected": 1, "garbage": 1}


def test_heartbeats_and_progress_are_told(network: MemoryNetwork) -> None:
    source = Source(network)
    heard: list[Message] = []
    told = Told(network, 0, on_status=heard.append, on_progress=heard.append)
    progress = Progress("cam0", "r", 5, 1, b"")
    status = Status("worker", "cam0", "inspecting", (), {"last_sequence": 99}, 0)  # not the publisher's
    source.tell("progress", progress)
    source.tell("status", status)
    told.turn(source)
    assert heard == [progress, status]
    assert told.subscriber._known_last == 0


def test_a_real_publisher_that_is_killed(tmp_path: Path) -> None:
    line = Desk(write_line(tmp_path))
    line.start_publisher()
    camera = line.start_acquire()
    line.start_worker()
    subscriber = Subscriber(
        line.network, line.line.events_endpoint, line.line.backfill_endpoint, 0, clock_ns=line.clock
    )  # fmt: skip
    told: list[Event] = []

    def turn(lines: Any) -> None:
        line.feed(camera, lines)
        line.turn(5, 0.2)
        told.extend(subscriber.take())

    pixels = web(1200, 3, 30)
    turn(pixels[:300])
    drop(line.network)
    line.network.subscriptions[line.line.events_endpoint][-1].queue.clear()
    turn(pixels[300:600])
    line.kill_publisher()
    line.start_publisher()
    turn(pixels[600:])
    line.command("end")
    for _ in range(10):
        line.turn(5, 0.2)
        told.extend(subscriber.take())
    assert [one.message for one in told] == line.stored
    assert findings([one.message for one in told]) == undisturbed(pixels, "roll-000001")
    line.kill_publisher()


# ------------------------------------------------------------------------------------------------ over sockets


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, Source, threading.Event]]:
    """A source that answers from a thread of its own, over sockets; events are published when the test asks."""
    line = write_line(tmp_path)
    network = ZmqNetwork()
    source = Source(network, line.events_endpoint, line.backfill_endpoint)
    for number in range(3):
        source.publish(number)
    more, stop = threading.Event(), threading.Event()

    def serve() -> None:
        while not stop.wait(0.005):
            source.answer()
            if more.is_set():
                more.clear()
                source.publish(len(source.rows))

    thread = threading.Thread(target=serve)
    thread.start()
    yield line.path, source, more
    stop.set()
    thread.join()
    network.close()


def test_iteration(live: tuple[Path, Source, threading.Event]) -> None:
    path, _, more = live
    with subscribe(path, since=0) as events:
        seen = []
        for one in events:
            seen.append(one.sequence)
            if len(seen) >= 3:
                more.set()
            if len(seen) == 6:
                break
    assert seen == [1, 2, 3, 4, 5, 6]


def test_who_leaves_a_loop_goes_on_in_the_next(live: tuple[Path, Source, threading.Event]) -> None:
    path, _, more = live
    seen: list[int | None] = []
    with subscribe(path, since=0) as events:
        for last in (1, 2):
            for one in events:
                seen.append(one.sequence)
                if one.sequence == last:
                    break
        seen += [one.sequence for one in events.take()]
        more.set()
        for one in events:
            seen.append(one.sequence)
            break
    assert seen == [1, 2, 3, 4]


def test_who_gives_up_waiting_misses_nothing(live: tuple[Path, Source, threading.Event]) -> None:
    path, _, more = live

    async def collect() -> list[int | None]:
        seen: list[int | None] = []
        with subscribe(path, since=0) as events:
            while len(seen) < 8:
                with contextlib.suppress(TimeoutError):
                    seen.append((await asyncio.wait_for(anext(aiter(events)), 0.03)).sequence)
                more.set()
        return seen

    assert asyncio.run(asyncio.wait_for(collect(), 60)) == list(range(1, 9))


def test_asynchronous_iteration(live: tuple[Path, Source, threading.Event]) -> None:
    path, _, more = live

    async def collect() -> list[int | None]:
        seen: list[int | None] = []
        ticks = 0
        with subscribe(str(path), since=1) as events:
            async for one in events:
                seen.append(one.sequence)
                await asyncio.sleep(0)
                ticks += 1
                if len(seen) >= 2:
                    more.set()
                if len(seen) == 4:
                    break
        assert ticks == 4
        return seen

    assert asyncio.run(collect()) == [2, 3, 4, 5]


def test_a_subscription_may_be_closed_in_the_middle_of_a_wait(live: tuple[Path, Source, threading.Event]) -> None:
    path, _, _ = live

    async def give_up() -> int:
        events = subscribe(path, since=0)
        seen = 0

        async def listen() -> None:
            nonlocal seen
            async for _ in events:
                seen += 1

        task = asyncio.create_task(listen())
        while seen < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        events.close()
        return seen

    assert asyncio.run(give_up()) == 3


def test_a_line_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        subscribe(tmp_path / "none.toml")
