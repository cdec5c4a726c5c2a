"""Acquire's side of the frames' stream: one lease at a time, nothing out of order, observers without a claim."""

from __future__ import annotations

from typing import Any

import pytest

from linescan.messages import (
    Ack,
    Credit,
    Frame,
    Gap,
    Grant,
    Hello,
    Message,
    Refused,
    Revoked,
    RollEnd,
    RollStart,
    Stamp,
)
from linescan.stages.frame_server import GENERATION_BITS, MESSAGES_A_TURN, PING_S, FrameServer
from linescan.stages.retention import Item, Retention
from linescan.transport import Received, Sent
from linescan.transport.memory import MemoryClient, MemoryNetwork, MemoryServer
from tests.line_kit import FakeClock

START = RollStart("cam0", "A", "", 0, {})
LEASE_S = 2.0


def frame(first: int, lines: int = 10) -> Item:
    message = Frame("cam0", 0, "A", first, lines, 10, "Mono8", None, 0, 0)
    return Item(message, bytes(10 * lines), needed_ns=first + 1)


class Slow(MemoryServer):
    """Its queue to one peer is full whenever a test says so."""

    full: bytes | None = None

    def send(self, peer: bytes, *parts: Any, **named: Any) -> Sent:
        return Sent.FULL if peer == self.full else super().send(peer, *parts, **named)


class Bench:
    """A frame server with a store, and peers that talk to it."""

    def __init__(self, budget: int = 10**6, generation: int = 3) -> None:
        self.clock, self.network = FakeClock(), MemoryNetwork()
        self.socket = Slow(self.network, "frames")
        self.network.servers["frames"] = self.socket
        self.retention = Retention(budget)
        self.server = FrameServer(
            self.socket, "cam0", self.retention, generation=generation, lease_s=LEASE_S, clock_ns=self.clock
        )

    def peer(self, role: Any = "worker") -> MemoryClient:
        client = self.network.client("frames")
        client.send(Hello("cam0", "p", role))
        self.server.turn()
        return client

    def worker(self, frames: int = 4) -> tuple[MemoryClient, int]:
        """One with a lease and credits, and its epoch."""
        client = self.peer()
        grant = heard(client)[0].message
        assert isinstance(grant, Grant)
        self.give(client, grant.epoch, frames)
        return client, grant.epoch

    def give(self, client: MemoryClient, epoch: int, frames: int, **journaled: Any) -> None:
        told = {"roll": "", "inspected_up_to": 0, "resume_from": 0, "ended": False, **journaled}
        client.send(Credit("cam0", epoch, frames, **told))
        self.server.turn()


def heard(client: MemoryClient) -> list[Received]:
    found = []
    while (received := client.receive()) is not None:
        found.append(received)
    return found


def kinds(received: list[Received]) -> list[str]:
    return [type(one.message).__name__ for one in received]


def firsts(received: list[Received]) -> list[int]:
    return [one.message.first_line for one in received if isinstance(one.message, Frame)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_who_speaks_without_end_does_not_keep_acquire_from_its_camera(bench: Bench) -> None:
    client, epoch = bench.worker()
    for _ in range(5 * MESSAGES_A_TURN):
        client.send(Credit("cam0", epoch - 1, 1, "", 0, 0, False))
    bench.server.turn()
    assert bench.server.counters["old_epochs"] == MESSAGES_A_TURN
    for _ in range(5):
        bench.server.turn()
    assert bench.server.counters["old_epochs"] == 5 * MESSAGES_A_TURN


# ------------------------------------------------------------------------------------------------ the lease


def test_a_worker_gets_the_lease_and_then_what_is_kept(bench: Bench) -> None:
    for item in (Item(START), frame(0), frame(10)):
        bench.server.add(item)
    client = bench.peer()
    (granted,) = heard(client)
    epoch = (3 << GENERATION_BITS) + 1
    assert granted.message == Grant("cam0", epoch, LEASE_S)
    bench.server.turn()
    assert heard(client) == []  # it has to say first how far the journal is
    bench.give(client, epoch, 4)
    got = heard(client)
    assert kinds(got) == ["RollStart", "Frame", "Frame"]
    assert [one.stamp for one in got] == [Stamp("cam0", epoch, n, needed) for n, needed in ((0, 0), (1, 1), (2, 11))]
    assert got[1].message.epoch == epoch
    assert bytes(got[1].pixels or b"") == bytes(100)
    assert bench.server.has_worker


def test_a_second_worker_is_refused_and_told_for_how_long(bench: Bench) -> None:
    first, epoch = bench.worker()
    bench.clock.advance(0.5)
    second = bench.peer()
    (refused,) = [one.message for one in heard(second)]
    assert isinstance(refused, Refused)
    assert refused.retry_s == pytest.approx(LEASE_S - 0.5)
    assert bench.server.counters["hellos_refused"] == 1
    bench.give(first, epoch, 0)
    assert bench.server.epoch == epoch


def test_a_hello_that_is_repeated_gets_the_same_lease(bench: Bench) -> None:
    client = bench.network.client("frames")
    for _ in range(5):  # all of them waited for acquire to start
        client.send(Hello("cam0", "p", "worker"))
    bench.server.turn()
    epochs = {one.message.epoch for one in heard(client)}
    assert len(epochs) == 1
    bench.server.add(frame(0))
    bench.give(client, epochs.pop(), 1)
    assert firsts(heard(client)) == [0]
    assert bench.server.counters["leases"] == 1


def test_a_hello_in_the_middle_of_a_lease_begins_another(bench: Bench) -> None:
    client, epoch = bench.worker()
    client.send(Hello("cam0", "p", "worker"))
    bench.server.turn()
    assert heard(client)[-1].message == Grant("cam0", epoch + 1, LEASE_S)


def test_a_lease_ends_without_credits(bench: Bench) -> None:
    client, epoch = bench.worker()
    for _ in range(5):
        bench.clock.advance(LEASE_S * 0.9)
        bench.give(client, epoch, 0)
    assert bench.server.has_worker
    bench.clock.advance(LEASE_S * 1.01)
    bench.server.turn()
    assert not bench.server.has_worker
    assert bench.server.counters["leases_expired"] == 1
    other, later = bench.worker()
    assert later == epoch + 1
    heard(client)
    bench.give(client, epoch, 4)
    assert [one.message for one in heard(client)] == [Revoked("cam0", epoch, "this lease is over")]
    assert bench.server.counters["old_epochs"] == 1
    bench.give(other, epoch, 4)  # an old epoch, even from the one that has the lease now
    assert bench.server.counters["old_epochs"] == 2


def test_credits_that_waited_for_a_server_that_was_away_still_count(bench: Bench) -> None:
    client, epoch = bench.worker()
    bench.clock.advance(LEASE_S * 3)
    bench.give(client, epoch, 1)
    assert bench.server.has_worker


def test_a_worker_that_is_gone_is_noticed_soon(bench: Bench) -> None:
    client, _ = bench.worker()
    client.close()
    bench.clock.advance(PING_S * 1.1)
    bench.server.turn()
    assert not bench.server.has_worker
    assert bench.server.counters["workers_gone"] == 1
    again, _ = bench.worker()
    again.close()
    bench.server.add(frame(0))
    bench.server.turn()  # or by the first frame
    assert bench.server.counters["workers_gone"] == 2


def test_epochs_grow_over_generations() -> None:
    before, after = Bench(generation=3), Bench(generation=4)
    for _ in range(5):
        before.worker()[0].close()
        before.clock.advance(1)
        before.server.turn()
    assert after.worker()[1] > before.server.epoch > 3 << GENERATION_BITS


def test_what_is_of_another_camera_or_of_no_use_is_counted(bench: Bench) -> None:
    client = bench.network.client("frames")
    client.send(Hello("cam1", "p", "worker"))
    client.send(Ack("cam0", 1, 1))
    bench.server.turn()
    assert bench.server.counters["unexpected"] == 2
    assert heard(client) == []


# ------------------------------------------------------------------------------------------------ what goes


def test_without_credits_no_frame_goes_but_what_controls_does(bench: Bench) -> None:
    client, epoch = bench.worker(frames=2)
    heard(client)
    gap = Item(Gap("cam0", "A", 10, 19, "overrun"))
    for item in (Item(START), frame(0), gap, frame(20), gap, frame(30), Item(RollEnd("cam0", "A", 40, 0, 0, 0))):
        bench.server.add(item)
    bench.server.turn()
    assert kinds(heard(client)) == ["RollStart", "Frame", "Gap", "Frame", "Gap"]
    bench.server.turn()
    assert heard(client) == []
    bench.give(client, epoch, -5)
    assert heard(client) == []
    bench.give(client, epoch, 1)
    assert kinds(heard(client)) == ["Frame", "RollEnd"]


def test_a_full_queue_loses_nothing(bench: Bench) -> None:
    client, epoch = bench.worker(frames=1)
    bench.server.add(frame(0))
    bench.socket.full = client.name
    bench.server.turn()
    assert heard(client) == []
    bench.socket.full = None
    bench.server.turn()
    (got,) = heard(client)
    assert got.stamp == Stamp("cam0", epoch, 0, 1)


def test_a_new_worker_gets_again_what_is_not_journaled(bench: Bench) -> None:
    first, _ = bench.worker(frames=9)
    for n in range(5):
        bench.server.add(frame(10 * n))
    bench.server.turn()
    assert firsts(heard(first)) == [0, 10, 20, 30, 40]
    first.close()
    bench.clock.advance(1)
    bench.server.turn()
    second = bench.peer()
    (granted,) = heard(second)
    bench.give(second, granted.message.epoch, 9, roll="A", inspected_up_to=30, resume_from=20)
    got = heard(second)
    assert firsts(got) == [20, 30, 40]
    assert [one.stamp.sequence for one in got if one.stamp] == [0, 1, 2]
    assert bench.retention.first == 2


def test_journaled_progress_makes_room(bench: Bench) -> None:
    client, epoch = bench.worker(frames=2)
    for n in range(4):
        bench.server.add(frame(10 * n))
    bench.server.turn()
    bench.give(client, epoch, 0, roll="A", inspected_up_to=40, resume_from=40)  # further than it was sent
    assert bench.retention.size == 0
    bench.server.add(frame(40))
    bench.give(client, epoch, 1)
    assert firsts(heard(client)) == [0, 10, 40]


def test_past_the_budget_the_lease_goes_before_the_lines() -> None:
    bench = Bench(budget=500)
    client, epoch = bench.worker(frames=2)
    bench.give(client, epoch, 0, roll="A", inspected_up_to=5, resume_from=0)
    heard(client)
    for n in range(6):
        bench.server.add(frame(10 * n))
    got = heard(client)
    assert kinds(got) == ["Revoked"]
    assert got[0].message == Revoked("cam0", epoch, "the byte budget of frames is spent")
    assert not bench.server.has_worker
    assert bench.server.counters["leases_revoked"] == 1
    assert bench.server.counters["lines_dropped"] == 25
    second, _ = bench.worker(frames=9)
    told: list[Message] = [one.message for one in heard(second)]
    assert told[0] == Gap("cam0", "A", 5, 29, "worker-lost")
    assert [message.first_line for message in told[1:] if isinstance(message, Frame)] == [30, 40, 50]


def test_without_a_worker_the_budget_holds_too() -> None:
    bench = Bench(budget=500)
    for n in range(40):
        bench.server.add(frame(10 * n))
    assert bench.retention.size <= 500
    assert bench.server.counters["leases_revoked"] == 0
    client, _ = bench.worker(frames=99)
    got = heard(client)
    assert isinstance(got[0].message, Gap)
    assert [got[0].message.last_line + 1, *firsts(got)][:2] == [firsts(got)[0]] * 2


# ------------------------------------------------------------------------------------------------ observers


def test_an_observer_sees_what_its_credits_allow(bench: Bench) -> None:
    client, _ = bench.worker(frames=99)
    observer = bench.peer("observer")
    bench.give(observer, 0, 2)
    for n in range(4):
        bench.server.add(frame(10 * n))
    bench.server.turn()
    assert firsts(heard(observer)) == [0, 10]
    assert bench.server.counters["frames_not_observed"] == 2
    assert firsts(heard(client)) == [0, 10, 20, 30]
    bench.give(observer, 0, 1)
    bench.server.add(Item(Gap("cam0", "A", 40, 49, "overrun")))
    bench.server.add(frame(50))
    got = heard(observer)
    assert kinds(got) == ["Gap", "Frame"]
    assert all(one.stamp is not None and one.stamp.epoch == 0 for one in got)
    assert bench.server.has_worker


def test_an_observer_whose_queue_is_full_misses_frames_and_stops_nobody(bench: Bench) -> None:
    client, _ = bench.worker(frames=99)
    observer = bench.peer("observer")
    bench.give(observer, 0, 9)
    bench.socket.full = observer.name
    bench.server.add(frame(0))
    bench.server.turn()
    assert bench.server.counters["frames_not_observed"] == 1
    assert firsts(heard(client)) == [0]


def test_an_observer_that_is_gone_is_forgotten(bench: Bench) -> None:
    observer = bench.peer("observer")
    bench.give(observer, 0, 9)
    observer.close()
    bench.server.add(frame(0))
    bench.server.add(frame(10))
    assert bench.server.counters["frames_not_observed"] == 0


def test_an_observer_that_comes_late_learns_the_roll_while_it_runs(bench: Bench) -> None:
    bench.server.add(Item(START))
    assert [one.message for one in heard(bench.peer("observer"))] == [START]
    bench.server.add(Item(RollEnd("cam0", "A", 0, 0, 0, 0)))
    assert heard(bench.peer("observer")) == []
