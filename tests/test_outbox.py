"""Outbox: the worker's messages to the publisher, kept until they are in the journal."""

from __future__ import annotations

from typing import Any

import pytest

from linescan.messages import Ack, Credit, Gap, Progress, RollEnd
from linescan.stages.outbox import PARCEL, RESEND_S, WINDOW, Outbox
from linescan.transport.memory import MemoryNetwork
from tests.line_kit import FakeClock


class Bench:
    def __init__(self, limit: int = 10_000, served: bool = True) -> None:
        self.clock, self.network = FakeClock(), MemoryNetwork()
        self.server = self.network.server("p") if served else None
        self.link = self.network.client("p")
        self.outbox = Outbox(self.link, "c", limit, self.clock)
        self.outbox.begin(7, None)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.outbox.put(Gap("c", "A", number, number, "overrun"), number)

    def arrived(self) -> list[int]:
        assert self.server is not None
        found = []
        while (received := self.server.receive()) is not None:
            assert received.stamp is not None
            assert received.stamp.epoch == 7
            found.append(received.stamp.sequence)
        return found

    def ack(self, sequence: int, epoch: int = 7) -> bool:
        return self.outbox.acknowledge(Ack("c", epoch, sequence))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_messages_go_in_order_and_stay_until_they_are_acknowledged(bench: Bench) -> None:
    assert bench.outbox.empty
    bench.put(0, 1, 2)
    bench.outbox.turn()
    bench.outbox.turn()
    assert bench.arrived() == [0, 1, 2]
    assert bench.ack(1)
    assert not bench.outbox.empty
    bench.put(3)
    bench.outbox.turn()
    assert bench.arrived() == [3]
    assert bench.ack(3)
    assert bench.outbox.empty


def test_no_more_than_a_window_is_on_its_way(bench: Bench) -> None:
    bench.put(*range(WINDOW + 50))
    bench.outbox.turn()
    assert bench.arrived() == list(range(WINDOW))
    bench.ack(9)
    bench.outbox.turn()
    assert bench.arrived() == list(range(WINDOW, WINDOW + 10))


def test_what_was_found_and_how_far_the_inspection_is_by_it_are_sent_as_one(bench: Bench) -> None:
    assert bench.server is not None
    bench.put(0, 1)
    bench.outbox.put(Progress("c", "A", 2, 2, b""))
    bench.put(3)
    bench.outbox.put(RollEnd("c", "A", 4, 4, 1, 3))
    bench.outbox.turn()
    assert [len(parts) for _, parts in bench.server.queue] == [2 * 3, 2 * 2]
    assert bench.arrived() == [0, 1, 2, 3, 4]


def test_so_much_that_is_found_at_once_goes_in_parts(bench: Bench) -> None:
    assert bench.server is not None
    bench.put(*range(PARCEL + 50))
    bench.outbox.turn()
    assert [len(parts) for _, parts in bench.server.queue] == [2 * PARCEL, 2 * 50]
    assert bench.arrived() == list(range(PARCEL + 50))


def test_after_a_silence_all_is_sent_again_over_a_new_connection(bench: Bench) -> None:
    bench.put(0, 1, 2)
    bench.outbox.turn()
    name = bench.link.name
    bench.ack(0)
    bench.arrived()
    bench.clock.advance(RESEND_S * 0.9)
    bench.outbox.turn()
    assert bench.arrived() == []
    bench.clock.advance(RESEND_S * 0.2)
    bench.outbox.turn()
    assert bench.arrived() == [1, 2]
    assert bench.link.name != name
    assert bench.outbox.counters["resends"] == 1
    bench.ack(2)
    bench.clock.advance(60)
    bench.outbox.turn()
    assert bench.arrived() == []
    bench.put(3)  # after a long time with nothing to say it is not late
    bench.outbox.turn()
    bench.outbox.turn()
    assert bench.arrived() == [3]
    assert bench.outbox.counters["resends"] == 1


def test_an_answer_that_acknowledges_nothing_new_is_no_answer(bench: Bench) -> None:
    bench.put(0, 1)
    bench.outbox.turn()
    bench.arrived()
    assert bench.ack(0)
    for number in range(2, 8):
        bench.clock.advance(RESEND_S * 0.3)
        bench.put(number)
        assert bench.ack(0)  # the publisher lacks number 1, and what follows comes too early
        bench.outbox.turn()
    assert bench.outbox.counters["resends"] >= 1
    assert bench.arrived().count(1) >= 1


def test_a_late_answer_after_all_was_sent_again(bench: Bench) -> None:
    bench.put(0, 1, 2, 3)
    bench.outbox.turn()
    bench.clock.advance(RESEND_S * 1.1)
    bench.outbox.turn()
    bench.arrived()
    bench.ack(2)
    bench.put(4)
    bench.outbox.turn()
    assert bench.arrived() == [4]
    bench.ack(4)
    assert bench.outbox.empty


def test_a_publisher_that_has_forgotten(bench: Bench) -> None:
    bench.put(0, 1, 2)
    bench.outbox.turn()
    assert bench.ack(1)
    assert not bench.ack(0)
    assert bench.ack(0, epoch=6)  # of a lease before: says nothing
    assert bench.ack(9, epoch=8)
    assert not bench.outbox.empty


def test_without_a_publisher_everything_waits() -> None:
    bench = Bench(limit=4, served=False)
    bench.put(0, 1, 2)
    bench.outbox.turn()
    assert not bench.outbox.full
    bench.put(3)
    assert bench.outbox.full
    for _ in range(10):
        bench.clock.advance(1)
        bench.outbox.turn()
    assert bench.outbox.counters["resends"] == 0  # nothing was ever sent
    bench.server = bench.network.server("p")
    bench.outbox.turn()
    assert bench.arrived() == [0, 1, 2, 3]


def test_a_new_lease_forgets_what_was_not_acknowledged(bench: Bench) -> None:
    bench.put(0, 1)
    bench.outbox.turn()
    bench.ack(0)
    bench.outbox.begin(7, Credit("c", 7, 0, "A", 5, 5, False))
    assert bench.outbox.empty
    assert bench.outbox.journaled == Credit("c", 7, 0, "A", 5, 5, False)
    bench.arrived()
    bench.put(0)
    bench.outbox.turn()
    assert bench.arrived() == [0]
    assert bench.ack(0)


def test_how_far_the_journal_is(bench: Bench) -> None:
    outbox: Any = bench.outbox
    outbox.put(Progress("c", "A", 50, 30, b""))
    bench.put(1)
    outbox.put(Progress("c", "A", 70, 40, b""))
    outbox.put(RollEnd("c", "A", 90, 90, 90, 0))
    outbox.turn()
    assert outbox.journaled is None
    bench.ack(0)
    assert outbox.journaled == Credit("c", 7, 0, "A", 50, 30, False)
    bench.ack(1)
    assert outbox.journaled.inspected_up_to == 50
    bench.ack(3)
    assert outbox.journaled == Credit("c", 7, 0, "A", 90, 90, True)
