"""Ledger: the publisher takes each message of a stream once, whoever sends it and however often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from linescan.codec import encode
from linescan.journal import CameraState, Mark
from linescan.messages import Gap, Message, Progress, Published, Region, RollEnd, RollStart, Stamp
from linescan.stages.ledger import Ledger, Verdict, key_of

START = RollStart("c", "A", "denim", 0, {"batch": 16})
REGION = Region("c", "A", "s0-l1-c2", "open", 0, None, 1, 4, 2, 9, 12, 0.5, 0.4, ())
GAP = Gap("c", "A", 3, 9, "overrun")
END = RollEnd("c", "A", 100, 100, 90, 10)


def progress(up_to: int, resume_from: int = 0, roll: str = "A") -> Progress:
    return Progress("c", roll, up_to, resume_from, b"", up_to)


def ledger(**state: Any) -> Ledger:
    return Ledger("c", CameraState(**state))


def tell(book: Ledger, *told: Message, epoch: int = 1, first: int = 0) -> list[Verdict]:
    """Verdicts on messages that come one after the other; a progress that is new is reached."""
    verdicts = []
    for number, message in enumerate(told, first):
        verdicts.append(book.judge(Stamp("c", epoch, number, 0), message))
        if verdicts[-1] is Verdict.NEW and isinstance(message, Progress):
            book.reach(Mark(epoch, number, message, 1, 2, "boot"))
    return verdicts


NEW, SEEN, EARLY, SHUT_OUT = Verdict.NEW, Verdict.SEEN, Verdict.EARLY, Verdict.SHUT_OUT


def test_each_message_once() -> None:
    book = ledger(epoch=1)
    assert tell(book, START, REGION, GAP) == [NEW] * 3
    assert tell(book, START, REGION, GAP) == [SEEN] * 3
    assert book.judge(Stamp("c", 1, 5, 0), END) is EARLY
    assert book.judge(Stamp("c", 1, 3, 0), END) is NEW
    assert (book.next, book.ended, book.roll) == (4, True, "A")


def test_other_epochs_are_shut_out() -> None:
    book = ledger(epoch=5)
    for epoch in (4, 6):
        assert tell(book, START, epoch=epoch) == [SHUT_OUT]
    assert not book.take_over(4)
    assert book.take_over(5)
    assert book.take_over(6)
    assert tell(book, START, epoch=5) == [SHUT_OUT]
    assert tell(book, START, epoch=6) == [NEW]


def test_a_worker_that_takes_over_tells_nothing_twice() -> None:
    book = ledger(epoch=1)
    tell(book, START, progress(10), REGION, GAP)
    assert book.take_over(2)
    again = replace(REGION, area_px=999, peak=0.75)  # an id, a phase and its last line say which it is
    later = replace(REGION, phase="update", last_line=12)
    assert tell(book, progress(10), again, later, GAP, progress(20), epoch=2) == [SEEN, SEEN, NEW, SEEN, NEW]
    assert book.inspected_up_to == 20
    assert tell(book, replace(REGION, last_line=30), epoch=2, first=5) == [NEW]


def test_one_that_takes_over_again_tells_nothing_twice_either() -> None:
    book = ledger(epoch=1)
    tell(book, START, REGION)
    book.take_over(2)
    assert tell(book, REGION, GAP, epoch=2) == [SEEN, NEW]
    book.take_over(3)
    assert tell(book, REGION, GAP, progress(5), epoch=3) == [SEEN, SEEN, NEW]
    book.take_over(3)  # asked again
    assert tell(book, GAP, epoch=3, first=3) == [NEW]


def test_within_an_epoch_the_number_decides_and_not_what_is_said() -> None:
    book = ledger(epoch=1)
    assert tell(book, START, GAP, GAP) == [NEW] * 3


def test_progress_only_forward() -> None:
    book = ledger(epoch=1)
    assert tell(book, progress(5)) == [SEEN]  # of no roll
    assert tell(book, START, progress(10, 3), progress(10, 3), first=1) == [NEW, NEW, SEEN]
    assert tell(book, progress(10, 4), progress(9, 5), progress(9, 3), first=4) == [NEW, SEEN, SEEN]
    assert tell(book, progress(50, roll="B"), first=7) == [SEEN]
    assert tell(book, END, progress(100), first=8) == [NEW, SEEN]
    assert book.inspected_up_to == 10


def test_the_next_roll_begins_anew() -> None:
    book = ledger(epoch=1)
    tell(book, START, progress(10), END)
    assert tell(book, replace(START, roll="B"), first=3) == [NEW]
    assert (book.roll, book.ended, book.mark, book.inspected_up_to) == ("B", False, None, 0)
    assert book.resumed(1).progress is None
    assert tell(book, replace(END, roll="A"), first=4) == [NEW]
    assert not book.ended


def test_a_roll_announced_again_goes_on() -> None:
    book = ledger(epoch=1)
    tell(book, START, progress(10, 4))
    book.take_over(2)
    other = replace(START, settings={"batch": 8})
    assert tell(book, other, epoch=2) == [NEW]
    resumed = book.resumed(2)
    assert (resumed.roll, resumed.progress, resumed.ended) == (other, progress(10, 4), False)


def test_what_the_journal_says_is_where_it_goes_on() -> None:
    def stored(sequence: int, epoch: int, origin: int, event: Message) -> Published:
        return Published("run", sequence, True, "c", epoch, origin, 0, 0, False, encode(event))

    mark = Mark(1, 3, progress(10), 1, 2, "boot")
    recent = (stored(5, 1, 4, REGION), stored(6, 2, 0, GAP))
    book = ledger(epoch=2, origin_sequence=0, roll_start=START, mark=mark, recent=recent)
    assert book.inspected_up_to == 10
    # the worker of epoch 2 goes on with its numbers; what its predecessor told it finds again
    assert tell(book, GAP, epoch=2) == [SEEN]
    assert tell(book, REGION, GAP, epoch=2, first=1) == [SEEN, NEW]
    other = ledger(epoch=2, origin_sequence=0, roll_start=START, mark=mark, recent=recent)
    other.take_over(3)
    assert tell(other, REGION, GAP, END, epoch=3) == [SEEN, SEEN, NEW]


def test_a_replayed_roll_says_so() -> None:
    assert not ledger().replayed
    assert ledger(roll_start=replace(START, settings={"replayed": True})).replayed
    assert not ledger(roll_start=START).replayed


def test_what_tells_events_apart() -> None:
    regions = [REGION, replace(REGION, roll="B"), replace(REGION, id="x"), replace(REGION, phase="close"),
               replace(REGION, part=1), replace(REGION, last_line=5)]  # fmt: skip
    gaps = [GAP, replace(GAP, first_line=4), replace(GAP, last_line=10), replace(GAP, cause="incomplete")]
    events = [*regions, *gaps, START, END, replace(END, lines=101)]
    assert len({key_of(event) for event in events}) == len(events)
    assert key_of(replace(GAP, estimated=True)) == key_of(GAP)
