"""Work that threads share piece by piece."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest.mock import patch

import pytest
import torch

from linescan.inspection.threads import InTurn, _pool, shared_out


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


def test_a_thread_that_cannot_be_had_leaves_none_that_waits_for_it() -> None:
    submit, pools = ThreadPoolExecutor.submit, []

    def first_alone(self: ThreadPoolExecutor, *work: object) -> object:
        pools.append(self)
        if len(pools) == 2:
            raise RuntimeError("can't start new thread")
        return submit(self, *work)  # type: ignore[arg-type]

    with patch.object(ThreadPoolExecutor, "submit", first_alone), pytest.raises(RuntimeError, match="new thread"):
        _pool.__wrapped__(2, "model")
    pools[0].shutdown()  # waits


def test_pieces_of_another_pool_need_not_wait() -> None:
    with ThreadPoolExecutor(1) as another:
        done = threading.Event()
        first = another.submit(shared_out, lambda _: done.wait(30), range(2), 2)
        assert shared_out(lambda piece: piece, range(4), 2, "rows") == [0, 1, 2, 3]
        done.set()
        assert first.result() == [True, True]


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


# ------------------------------------------------------------------------------------------------ in turn


def test_what_comes_early_is_done_in_its_turn_by_whoever_brings_what_was_missing() -> None:
    turn, done = InTurn(), list[str]()
    for first, count, name in ((5, 1, "d"), (2, 3, "c"), (1, 1, "b")):
        turn.bring(first, count, lambda name=name: done.append(name))  # type: ignore[misc]
        assert done == []
    turn.bring(0, 1, lambda: done.append("a"))
    assert done == ["a", "b", "c", "d"]
    turn.bring(6, 1, lambda: done.append("e"))
    assert done[-1] == "e"


def test_many_threads_leave_nothing_out_and_keep_the_order() -> None:
    for _ in range(20):
        turn, done, numbers = InTurn(), list[int](), list(range(200))
        random.shuffle(numbers)
        with ThreadPoolExecutor(8) as pool:
            for number in numbers:
                pool.submit(turn.bring, number, 1, partial(done.append, number))
        assert done == list(range(200))


def test_while_one_is_done_another_thread_does_not_wait() -> None:
    turn, begun_one, go_on, done = InTurn(), threading.Event(), threading.Event(), list[int]()

    def slow() -> None:
        begun_one.set()
        assert go_on.wait(10)
        done.append(0)

    slow_thread = threading.Thread(target=turn.bring, args=(0, 1, slow))
    slow_thread.start()
    assert begun_one.wait(10)
    turn.bring(1, 1, lambda: done.append(1))
    assert done == []
    go_on.set()
    slow_thread.join(10)
    assert done == [0, 1]


def test_nothing_follows_what_could_not_be_done() -> None:
    turn, done = InTurn(), list[int]()

    def fail() -> None:
        raise ValueError("no")

    turn.bring(1, 1, lambda: done.append(1))
    with pytest.raises(ValueError, match="no"):
        turn.bring(0, 1, fail)
    turn.bring(2, 1, lambda: done.append(2))
    assert done == []
