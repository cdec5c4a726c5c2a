"""Work that threads share piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from linescan.inspection.threads import begun, shared_out


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_pieces(threads: int) -> None:
    assert shared_out(lambda piece: piece * piece, range(50), threads) == [piece * piece for piece in range(50)]
    assert shared_out(lambda piece: piece, [], threads) == []


def test_pieces_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=30)
    assert sorted(shared_out(lambda _: together.wait(), range(3), 3)) == [0, 1, 2]


def test_what_is_begun_is_done_meanwhile() -> None:
    went_on = threading.Event()
    finish = begun(lambda piece: (went_on.wait(30), piece), range(3), 2)
    went_on.set()
    assert finish() == [(True, 0), (True, 1), (True, 2)]
    order: list[int] = []
    finish_alone = begun(order.append, range(3), 1)
    assert order == [0, 1, 2]
    assert finish_alone() == [None] * 3


def test_one_thread_is_the_caller_s() -> None:
    assert shared_out(lambda _: threading.current_thread(), [0], 1) == [threading.current_thread()]
    assert shared_out(lambda _: threading.current_thread(), [0], 2) != [threading.current_thread()]


def test_torch_has_one_thread_within_a_piece_and_as_many_as_before_outside() -> None:
    torch.set_num_threads(3)
    together = threading.Barrier(4, timeout=30)
    assert shared_out(lambda _: (together.wait(), torch.get_num_threads())[1], range(4), 4) == [1] * 4
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result() == 3
    torch.set_num_threads(2)
    assert shared_out(lambda _: torch.get_num_threads(), range(8), 4) == [1] * 8


def test_an_error_waits_for_what_still_runs() -> None:
    last_began, done = threading.Event(), []

    def work(piece: int) -> None:
        if piece == 0:
            assert last_began.wait(30)
            raise ValueError("the first piece")
        last_began.set()
        done.append(piece)

    with pytest.raises(ValueError, match="the first piece"):
        shared_out(work, range(6), 2)
    assert done == [1, 2, 3, 4, 5]
