"""Registration: what acquire asks and tells the publisher, until it is answered."""

from __future__ import annotations

import pytest

from linescan.messages import (
    Kept,
    Leaving,
    Message,
    Origin,
    Refused,
    Register,
    Registered,
    RollCommand,
    RollState,
    Status,
)
from linescan.stages.registration import REPEAT_S, Registration, boot_id
from linescan.transport.memory import MemoryNetwork, MemoryServer
from tests.line_kit import FakeClock

ANSWER = Registered("c", 1, "A", "denim", False, False, None, 0, 0, 0, 0, "", "", "")
ORIGIN = Origin("c", "A", None, 1, 2, "boot")


class Bench:
    def __init__(self, replay: str = "") -> None:
        self.clock, self.network = FakeClock(), MemoryNetwork()
        self.server: MemoryServer = self.network.server("p")
        self.registration = Registration(self.network.client("p"), "c", replay, self.clock)

    def turn(self, seconds: float = REPEAT_S * 1.1) -> list[Message]:
        """What arrives after that time."""
        self.clock.advance(seconds)
        self.registration.turn()
        found = []
        while (received := self.server.receive()) is not None:
            self.peer = received.peer
            found.append(received.message)
        return found

    def answer(self, message: Message) -> None:
        self.server.send(self.peer, message)
        self.registration.turn()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_asks_until_it_is_answered(bench: Bench) -> None:
    assert bench.turn(0.0) == [Register("c", "")]
    assert bench.turn(REPEAT_S / 2) == []
    assert bench.turn() == [Register("c", "")]
    assert bench.registration.owes
    bench.answer(ANSWER)
    assert bench.registration.answer == ANSWER
    assert not bench.registration.owes
    assert bench.turn() == []
    bench.answer(Registered("c", 2, "B", "denim", False, False, None, 0, 0, 0, 0, "", "", ""))
    assert bench.registration.answer == ANSWER  # the answer to a question that was asked twice


def test_a_replay_names_its_roll() -> None:
    assert Bench("footage").turn() == [Register("c", "footage")]


def test_a_refusal_is_kept(bench: Bench) -> None:
    bench.turn()
    bench.answer(Refused("c", "no", None))
    assert bench.registration.refused == Refused("c", "no", None)
    assert bench.registration.answer is None


def test_what_is_to_be_kept_is_told_at_once_and_until_it_is(bench: Bench) -> None:
    bench.turn()
    bench.answer(ANSWER)
    bench.registration.keep_origin(ORIGIN)
    bench.registration.leave(Leaving("c", "camera-lost"))
    assert bench.turn(0.0) == [ORIGIN, Leaving("c", "camera-lost")]
    bench.answer(Kept("c", "another roll"))
    assert bench.turn() == [ORIGIN, Leaving("c", "camera-lost")]
    bench.answer(Kept("c", "A"))
    assert bench.turn() == [Leaving("c", "camera-lost")]
    bench.answer(Kept("c", ""))
    assert not bench.registration.owes


def test_the_end_of_a_replay_is_told_until_the_publisher_knows(bench: Bench) -> None:
    bench.turn()
    bench.answer(ANSWER)
    bench.registration.end_replay("")  # it had no roll, or an operator has ended it
    assert not bench.registration.owes
    for answer in (RollState("", "", (), ()), Refused("", "no roll is running", None)):
        bench.registration.end_replay("A")
        assert bench.turn(0.0) == [RollCommand("end", "A", "")]
        assert bench.turn() == [RollCommand("end", "A", "")]
        bench.answer(answer)
        assert not bench.registration.owes
    assert bench.registration.refused is None


def test_the_roll_that_is_wanted_is_the_last_that_was_said(bench: Bench) -> None:
    bench.turn()
    bench.answer(RollCommand("end", "", ""))
    bench.answer(RollCommand("start", "B", "denim"))
    assert bench.registration.wanted == RollCommand("start", "B", "denim")


def test_a_heartbeat_is_told_once(bench: Bench) -> None:
    bench.turn()
    bench.answer(ANSWER)
    status = Status("acquire", "c", "acquiring", (), {}, 0)
    bench.registration.report(status)
    assert bench.turn() == [status]
    assert bench.turn() == []


def test_a_boot_has_one_name() -> None:
    assert boot_id() == boot_id() != ""
