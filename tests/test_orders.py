"""The book of orders: what a killed publisher ordered is there, and a damaged book says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from itertools import count
from pathlib import Path

import pytest

from linescan.errors import JournalFullError, PeerError
from linescan.journal.orders import OrderBook, Place
from linescan.messages import Reject


def order(number: int) -> Reject:
    return Reject("r", f"cam0:s0-l{number}:left", "left", "region", f"s0-l{number}", number, number + 9, 0, True)


def test_orders_stay_until_they_are_forgotten_and_their_sequences_are_known_for_ever(tmp_path: Path) -> None:
    with OrderBook(tmp_path / "orders") as book:
        assert (book.last, book.known_from) == (0, None)
        for number in (1, 2, 3, 7):
            book.add(number, order(number))
        book.forget([2, 7], -5)
        assert book.pending() == [(1, order(1)), (3, order(3))]
        book.forget([1, 3], 40)
    with OrderBook(tmp_path / "orders") as book:
        assert book.pending() == []
        assert (book.last, book.known_from) == (7, 40)


def test_places_are_kept(tmp_path: Path) -> None:
    place = Place("r", 1 << 40, (1 << 40) + 7, -(1 << 33))
    with OrderBook(tmp_path / "orders") as book:
        assert book.place("cam0") is None
        book.put_place("cam0", place)
    with OrderBook(tmp_path / "orders") as book:
        assert book.place("cam0") == place


def test_a_book_of_another_line_is_emptied(tmp_path: Path) -> None:
    with OrderBook(tmp_path / "orders") as book:
        book.belongs_to("gates at 100 mm")
        book.add(1, order(1))
        book.put_place("cam0", Place("r", 1, 2, 3))
        book.forget([], 40)
    with OrderBook(tmp_path / "orders") as book:
        book.belongs_to("gates at 100 mm")
        assert len(book.pending()) == 1
        book.belongs_to("gates at 160 mm")
        assert (book.pending(), book.place("cam0"), book.known_from, book.last) == ([], None, None, 1)


def test_what_was_added_outlives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linescan.journal.orders import OrderBook\n"
        "from tests.test_orders import order\n"
        "book = OrderBook(Path(sys.argv[1]))\n"
        "for number in range(50):\n"
        "    book.add(number + 1, order(number))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "orders"], env=environment, cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    with OrderBook(tmp_path / "orders") as book:
        assert [number for number, _ in book.pending()] == list(range(1, 51))
        assert not book.lost


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000])
def test_a_book_that_cannot_be_read_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    with OrderBook(tmp_path / "orders") as book:
        book.add(1, order(1))
    (tmp_path / "orders").write_bytes(damage)
    with OrderBook(tmp_path / "orders") as book:
        assert book.lost
        assert book.pending() == []
        assert book.last == 0
    assert (tmp_path / "orders.damaged").read_bytes() == damage


def test_the_log_of_a_book_that_was_taken_away_is_not_the_new_ones(tmp_path: Path) -> None:
    with OrderBook(tmp_path / "orders") as book:
        book.add(1, order(1))
        log = (tmp_path / "orders-wal").read_bytes()
    (tmp_path / "orders").unlink()
    (tmp_path / "orders-wal").write_bytes(log)
    with OrderBook(tmp_path / "orders") as book:
        assert (book.pending(), book.last) == ([], 0)
    assert (tmp_path / "orders.damaged-wal").read_bytes() == log


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with OrderBook(tmp_path / "orders"), pytest.raises(PeerError, match="another process"):
        OrderBook(tmp_path / "orders")


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    with OrderBook(tmp_path / "orders") as book:
        pages = book._db.execute("PRAGMA page_count").fetchone()[0]
        book._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        numbers = count(1)
        with pytest.raises(JournalFullError):
            deque(iter(lambda: book.add(number := next(numbers), order(number)), False))
        stored = [sequence for sequence, _ in book.pending()]
        assert stored == list(range(1, len(stored) + 1))
        assert len(stored) > 1
        book.forget([1], 0)
        assert len(book.pending()) == len(stored) - 1
