"""A roll with another recipe: prepared beside the one that runs, begun at one line, and nothing is half-done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linescan.errors import BundleError, ConfigError
from linescan.journal import Journal
from linescan.line import JournalSettings
from linescan.messages import (
    Message,
    Prepare,
    Prepared,
    Preparing,
    Refused,
    RollCommand,
    RollStart,
    RollState,
)
from linescan.stages.ledger import Ledger
from linescan.stages.next_engine import NextEngine, in_thread
from linescan.stages.preparation import PATIENCE_S, Preparation
from linescan.stages.rolls import Rolls
from linescan.transport import Sent
from tests.line_kit import (
    SETTINGS,
    ArrayCamera,
    Desk,
    FakeClock,
    ToyEngine,
    check_account,
    findings,
    numbered,
    undisturbed,
    web,
    write_line,
)

RECIPES = {
    "toy": SETTINGS,
    "fine": SETTINGS.model_copy(update={"threshold": 0.08, "stride": 4, "min_length_px": 3}),
    "coarse": SETTINGS.model_copy(update={"min_area_px": 200}),
}


def make_engine(recipe: str, stored: dict[str, Any] | None, **others: Any) -> ToyEngine:
    """As the real one: of a recipe that there is, or the error that its loading ends with."""
    if recipe == "torn":
        raise BundleError("torn.pt: has another sha256 than was pinned")
    if recipe and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}")
    return ToyEngine(stored, RECIPES[recipe or "toy"], recipe=recipe or "toy", **others)


class Shop:
    """A line that inspects, and what its engines were made for."""

    def __init__(self, folder: Path, rolls: str = "commanded") -> None:
        self.desk = Desk(write_line(folder, rolls=rolls, encoder="bits = 32"))
        self.made: list[str] = []
        self.desk.engine = self.make
        self.desk.start_publisher()
        self.camera: ArrayCamera = self.desk.start_acquire()
        self.desk.start_worker()
        self.desk.turn(5)
        self.pixels = numbered(web(2000, seed=5, defects=40))
        self.line = 0  # of the web

    def make(self, recipe: str, stored: dict[str, Any] | None) -> ToyEngine:
        self.made.append(recipe)
        return make_engine(recipe, stored, on_band=self.desk.watch)

    def feed(self, lines: int = 160) -> None:
        part = self.pixels[self.line : self.line + lines]
        self.desk.feed(self.camera, part, encoder=self.line)
        self.line += lines

    def settle(self) -> None:
        self.desk.turn(60, 0.15)

    def start(self, roll: str, recipe: str) -> RollState | Refused:
        return self.desk.command("start", roll, recipe)

    def finish(self) -> None:
        self.settle()
        assert isinstance(self.desk.command("end"), RollState)
        self.settle()

    def recipe_of(self, roll: str) -> str:
        starts = [one for one in self.desk.stored if isinstance(one, RollStart) and one.roll == roll]
        return starts[-1].recipe

    def check(self, roll: str, recipe: str, first: int, end: int) -> None:
        """That roll was lines first…end − 1 of the web, all inspected with that recipe, and found nothing else."""
        assert self.recipe_of(roll) == recipe
        assert check_account(self.desk.stored, roll).lines_inspected == end - first
        told = [one for one in findings(self.desk.stored) if one.roll == roll]  # type: ignore[attr-defined]
        assert told == undisturbed(self.pixels[first:end], roll, RECIPES[recipe])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    if made.desk.publisher is not None and made.desk.journal is not None:
        made.desk.journal.close()


def test_the_recipe_changes_between_two_lines(shop: Shop) -> None:
    assert isinstance(shop.start("A", ""), RollState)
    shop.feed(480)
    assert shop.start("B", "fine") == RollState("B", "fine", ("cam0",), (0,))
    shop.feed(320)
    assert shop.start("C", "toy") == RollState("C", "toy", ("cam0",), (0,))
    shop.feed(160)
    shop.finish()
    shop.check("A", "toy", 0, 480)
    shop.check("B", "fine", 480, 800)
    shop.check("C", "toy", 800, 960)
    assert shop.made == ["", "fine", "toy"], "the worker ran on, and each was loaded once"


def test_the_recipes_find_different_things(shop: Shop) -> None:
    """Else the test before would prove nothing."""
    part = shop.pixels[480:800]
    assert undisturbed(part, "B", RECIPES["fine"]) != undisturbed(part, "B", RECIPES["toy"])


@pytest.mark.parametrize(
    ("recipe", "said"), [("none", "camera cam0: there is no recipe 'none'"), ("torn", "camera cam0: torn.pt: has")]
)
def test_a_recipe_that_cannot_be_loaded_is_refused_and_the_roll_goes_on(shop: Shop, recipe: str, said: str) -> None:
    shop.start("A", "")
    shop.feed()
    answer = shop.start("B", recipe)
    assert isinstance(answer, Refused)
    assert answer.reason.startswith(said)
    shop.feed()
    assert shop.desk.command("status").roll == "A"  # type: ignore[union-attr]
    shop.finish()
    shop.check("A", "toy", 0, 320)
    assert [one for one in shop.desk.stored if isinstance(one, RollStart) and one.roll != "A"] == []
    # the same again is tried again: the file may have been mended
    shop.start("C", "")
    assert isinstance(shop.start("D", recipe), Refused)
    assert shop.made.count(recipe) == 2


def test_without_a_recipe_it_is_the_line_s_own_and_made_ready_where_another_ran(shop: Shop) -> None:
    shop.start("A", "fine")
    shop.feed()
    assert shop.start("B", "") == RollState("B", "toy", ("cam0",), (0,))
    shop.feed()
    shop.finish()
    shop.check("A", "fine", 0, 160)
    shop.check("B", "toy", 160, 320)
    assert shop.made == ["", "fine", "toy"]


def test_rolls_with_the_recipe_of_before_wait_for_nobody(shop: Shop) -> None:
    """A roll's boundary does not wait for a worker that is being started again."""
    shop.start("A", "")
    shop.feed()
    shop.desk.kill_worker(shop.desk.workers[0])
    assert shop.start("B", "") == RollState("B", "toy", ("cam0",), (0,))
    shop.feed()
    shop.desk.start_worker()
    shop.finish()
    shop.check("A", "toy", 0, 160)
    shop.check("B", "toy", 160, 320)


# ------------------------------------------------------------------------------------------------ disturbed


class Later:
    """In the place of a thread: what was to be done beside the loop waits here."""

    def __init__(self) -> None:
        self.works: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], None]) -> None:
        self.works.append(work)

    def run(self) -> None:
        while self.works:
            self.works.pop(0)()


def answers(desk: Desk, turns: int = 30) -> list[Message]:
    """What the operator is told meanwhile; half a second a turn."""
    found = []
    for _ in range(turns):
        desk.turn(seconds=0.5)
        while (received := desk.control.receive()) is not None:
            found.append(received.message)
    return found


def ask(shop: Shop, roll: str, recipe: str, turns: int = 4) -> list[Message]:
    shop.desk.control.send(RollCommand("start", roll, recipe))
    return answers(shop.desk, turns)


@pytest.fixture
def slow(shop: Shop) -> tuple[Shop, Later]:
    """Roll A is inspected, and a recipe takes until the test says so."""
    later = Later()
    shop.desk.kill_worker(shop.desk.workers[0])
    shop.desk.aside = later
    shop.desk.start_worker()
    shop.start("A", "")
    shop.feed()
    shop.settle()
    return shop, later


def test_the_roll_goes_on_while_the_next_recipe_is_prepared(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    assert set(ask(shop, "B", "fine")) == {Preparing("fine", ("cam0",))}
    shop.feed(320)
    assert shop.desk.command("status").roll == "A"  # type: ignore[union-attr]
    later.run()
    assert answers(shop.desk)[-1] == RollState("B", "fine", ("cam0",), (0,))
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 480)
    shop.check("B", "fine", 480, 640)


def test_a_worker_killed_while_it_prepares(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    shop.desk.kill_worker(shop.desk.workers[0])
    later.works.clear()
    shop.desk.start_worker()
    assert set(answers(shop.desk)) == {Preparing("fine", ("cam0",))}
    later.run()
    assert answers(shop.desk)[-1] == RollState("B", "fine", ("cam0",), (0,))
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 160)
    shop.check("B", "fine", 160, 320)


def test_a_worker_killed_between_its_word_and_the_roll_s_first_line(shop: Shop) -> None:
    """Its successor has prepared nothing, and loads the recipe when the roll comes to it."""
    shop.start("A", "")
    shop.feed()
    shop.start("B", "fine")
    shop.desk.kill_worker(shop.desk.workers[0])
    shop.feed()
    shop.desk.start_worker()
    shop.finish()
    shop.check("A", "toy", 0, 160)
    shop.check("B", "fine", 160, 320)


def test_a_worker_that_begins_during_a_roll_takes_the_roll_s_recipe(shop: Shop) -> None:
    shop.start("A", "fine")
    shop.feed()
    shop.settle()
    shop.desk.kill_worker(shop.desk.workers[0])
    shop.feed()
    shop.desk.start_worker()
    shop.feed()
    shop.finish()
    assert shop.made == ["", "fine", "fine"]
    shop.check("A", "fine", 0, 480)


def test_a_publisher_killed_while_a_recipe_is_prepared(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    shop.desk.kill_publisher()
    later.run()
    shop.desk.start_publisher()
    assert answers(shop.desk) == [], "who asked hears nothing any more, and knows by that"
    shop.feed()
    assert shop.desk.command("status").roll == "A"  # type: ignore[union-attr]
    assert ask(shop, "B", "coarse")[0] == Preparing("coarse", ("cam0",))
    answers(shop.desk, 4)  # the worker says where it is once a second
    later.run()
    assert answers(shop.desk)[-1] == RollState("B", "coarse", ("cam0",), (0,))
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 320)
    shop.check("B", "coarse", 320, 480)


def test_an_acquire_killed_while_a_recipe_is_prepared(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    shop.desk.kill_acquire()
    later.run()
    assert answers(shop.desk)[-1] == RollState("B", "fine", ("cam0",), (0,))
    shop.desk.turn(3, 0.1)
    shop.camera = shop.desk.start_acquire()
    shop.desk.turn(5)
    first = shop.line
    shop.feed()
    shop.finish()
    assert check_account(shop.desk.stored, "A").lines >= 160
    shop.check("B", "fine", first, first + 160)


def test_who_asked_is_gone_and_nothing_comes_of_it(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    shop.desk.control.close()
    shop.desk.turn(3, 0.5)
    later.run()
    shop.desk.control = shop.desk.network.client(shop.desk.line.control_endpoint)
    shop.feed()
    shop.desk.turn(20, 0.5)
    assert shop.desk.command("status").roll == "A"  # type: ignore[union-attr]
    assert isinstance(shop.desk.command("end"), RollState)
    shop.settle()
    shop.check("A", "toy", 0, 320)


def test_a_worker_that_never_answers(slow: tuple[Shop, Later]) -> None:
    shop, _ = slow
    told = ask(shop, "B", "fine", turns=int(PATIENCE_S * 2) + 10)
    assert told[:-1] == [Preparing("fine", ("cam0",))] * (len(told) - 1)
    refused = told[-1]
    assert isinstance(refused, Refused)
    assert refused.reason == "recipe fine is not ready after 60 s: the worker of camera cam0 has not said so"
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 320)


def test_a_second_start_meanwhile_is_refused_and_the_same_again_is_the_same(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    for other in (RollCommand("start", "C", "coarse"), RollCommand("start", "", "")):
        shop.desk.control.send(other)
        refused = [one for one in answers(shop.desk, 2) if isinstance(one, Refused)]
        assert [one.reason for one in refused] == ["recipe fine is being prepared for the roll that was asked for"]
    ask(shop, "B", "fine")
    later.run()
    told = [one for one in answers(shop.desk) if not isinstance(one, Preparing)]
    assert told == [RollState("B", "fine", ("cam0",), (0,))]


def test_a_roll_that_ends_while_the_next_recipe_is_prepared(slow: tuple[Shop, Later]) -> None:
    shop, later = slow
    ask(shop, "B", "fine")
    shop.desk.control.send(RollCommand("end", "", ""))
    shop.desk.turn(2)
    shop.feed(64)
    between = shop.line
    later.run()
    assert answers(shop.desk)[-1] == RollState("B", "fine", ("cam0",), (0,))
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 160)
    shop.check("B", "fine", between, between + 160)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("stage", ["worker", "publisher", "both"])
def test_killed_at_any_turn_around_the_boundary(shop: Shop, stage: str, turns: int) -> None:
    desk = shop.desk
    shop.start("A", "")
    shop.feed()
    desk.control.send(RollCommand("start", "B", "fine"))
    desk.turn(turns)
    if stage != "publisher":
        desk.kill_worker(desk.workers[0])
    if stage != "worker":
        desk.kill_publisher()
        desk.start_publisher()
    if stage != "publisher":
        desk.start_worker()
    shop.settle()
    while desk.control.receive() is not None:
        pass
    running = desk.command("status")
    if running.roll == "A":  # type: ignore[union-attr]
        running = shop.start("B", "fine")
    assert isinstance(running, RollState)
    assert (running.roll, running.recipe) == ("B", "fine")
    shop.feed()
    shop.finish()
    shop.check("A", "toy", 0, 160)
    shop.check("B", "fine", 160, 320)


# ------------------------------------------------------------------------------------------------ changed files


def test_a_recipe_that_was_edited_is_read_anew_while_no_roll_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.start("A", "")
    shop.feed()
    monkeypatch.setitem(RECIPES, "toy", RECIPES["coarse"])
    refused = shop.start("B", "toy")
    assert isinstance(refused, Refused)
    assert "recipe toy was changed since it was loaded, and a roll runs with it" in refused.reason
    shop.feed()
    shop.finish()
    monkeypatch.setitem(RECIPES, "toy", SETTINGS)
    shop.check("A", "toy", 0, 320)
    monkeypatch.setitem(RECIPES, "toy", RECIPES["coarse"])
    assert isinstance(shop.start("C", "toy"), RollState)
    shop.feed()
    shop.finish()
    shop.check("C", "toy", 320, 480)


def test_a_recipe_that_is_as_it_was_may_be_named(shop: Shop) -> None:
    shop.start("A", "")
    shop.feed()
    assert shop.start("B", "toy") == RollState("B", "toy", ("cam0",), (0,))


def test_rolls_that_begin_by_themselves_have_the_line_s_recipe(tmp_path: Path) -> None:
    shop = Shop(tmp_path, rolls="at-start")
    shop.feed()
    assert shop.desk.command("status").roll == "roll-000001"  # type: ignore[union-attr]
    shop.start("B", "fine")
    shop.feed()
    shop.settle()
    assert [shop.recipe_of(roll) for roll in ("roll-000001", "B")] == ["toy", "fine"]
    assert shop.desk.journal is not None
    shop.desk.journal.close()


# ------------------------------------------------------------------------------------------------ several cameras


class Two:
    """A publisher's side of it, with two cameras and what was sent to their workers."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.sqlite", JournalSettings(file="unused"))
        self.rolls = Rolls(self.journal, "toy", begins=False)
        self.ledgers = {name: Ledger(name, self.journal.camera(name)) for name in ("cam0", "cam1")}
        self.clock = FakeClock()
        self.sent: list[tuple[bytes, Prepare]] = []
        self.told: list[Message] = []
        self.hears = True
        self.preparation = Preparation(self.rolls, self.ledgers, self.send, self.begin, self.clock)
        for name in self.ledgers:
            self.preparation.heard(name, name.encode())

    def send(self, peer: bytes, message: Message) -> None:
        assert isinstance(message, Prepare)
        self.sent.append((peer, message))

    def begin(self, command: RollCommand) -> Message:
        return self.rolls.command(command, self.ledgers)

    def answer(self, message: Message) -> Sent:
        self.told.append(message)
        return Sent.YES if self.hears else Sent.GONE

    def start(self, roll: str, recipe: str) -> int:
        """Number of the request."""
        self.preparation.command(RollCommand("start", roll, recipe), self.answer)
        return self.clock.now

    def reach(self, camera: str, roll: str) -> None:
        """The camera's worker has come to that roll."""
        self.ledgers[camera].roll_start = RollStart(camera, roll, "toy", 0, {})

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.preparation.turn()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    with made.journal:
        yield made


def test_every_worker_has_it_before_the_roll_starts(two: Two) -> None:
    number = two.start("A", "fine")
    asked = [(b"cam0", Prepare("cam0", "fine", number)), (b"cam1", Prepare("cam1", "fine", number))]
    assert two.sent == asked
    two.preparation.take(Prepared("cam1", "fine", number, ""))
    two.preparation.take(Prepared("cam0", "fine", number - 1, ""))  # of an earlier request
    two.later(0.6)
    assert two.sent == [*asked, asked[0]], "who has said it is not asked again"
    assert two.told[-1] == Preparing("fine", ("cam0",))
    assert two.rolls.running is None
    two.preparation.take(Prepared("cam0", "fine", number, ""))
    assert two.told[-1] == RollState("A", "fine", ("cam0", "cam1"), (0, 0))


def test_one_that_cannot_is_enough_to_refuse_and_the_other_forgets(two: Two) -> None:
    number = two.start("A", "fine")
    two.preparation.take(Prepared("cam0", "fine", number, ""))
    two.clock.advance(1)
    two.preparation.take(Prepared("cam1", "fine", number, "the camera is too narrow"))
    assert two.told[-1] == Refused("cam1", "camera cam1: the camera is too narrow", None)
    assert two.rolls.running is None
    assert [(peer, message.recipe) for peer, message in two.sent[-2:]] == [(b"cam0", ""), (b"cam1", "")]
    assert {message.number for _, message in two.sent[-2:]} == {two.clock.now}


def test_a_camera_that_has_not_come_to_the_running_roll_is_asked_when_it_has(two: Two) -> None:
    """Its worker holds one engine beside its own, and that is the running roll's."""
    two.journal.start_roll("A", "toy")
    two.reach("cam0", "A")
    number = two.start("B", "fine")
    assert [peer for peer, _ in two.sent] == [b"cam0"]
    two.reach("cam1", "A")
    two.later(0.6)
    assert (b"cam1", Prepare("cam1", "fine", number)) in two.sent


def test_the_reason_names_the_camera_that_is_behind(two: Two) -> None:
    two.journal.start_roll("A", "toy")
    two.reach("cam0", "A")
    number = two.start("B", "fine")
    two.preparation.take(Prepared("cam0", "fine", number, ""))
    two.later(PATIENCE_S + 0.1)
    refused = two.told[-1]
    assert isinstance(refused, Refused)
    assert refused.reason.endswith("camera cam1 has not come to the roll that runs")
    assert two.rolls.running is not None
    assert two.rolls.running.name == "A"


def test_a_name_that_was_used_is_refused_at_the_end(two: Two) -> None:
    two.journal.start_roll("A", "toy")
    two.journal.end_roll("A")
    number = two.start("A", "fine")
    for name in two.ledgers:
        two.preparation.take(Prepared(name, "fine", number, ""))
    refused = two.told[-1]
    assert isinstance(refused, Refused)
    assert "'A' was there before" in refused.reason


# ------------------------------------------------------------------------------------------------ one engine beside


def test_one_engine_is_kept_beside_the_worker_s_own() -> None:
    later = Later()
    ahead = NextEngine(make_engine, later)  # type: ignore[arg-type]
    ahead.ask(Prepare("cam0", "fine", 1), {})
    assert ahead.made(1) is None
    ahead.ask(Prepare("cam0", "coarse", 2), {})
    assert len(later.works) == 1, "one is made at a time"
    later.run()
    engine, failure = ahead.made(1) or (None, "")
    assert engine is not None
    assert (engine.recipe, failure) == ("fine", "")
    assert ahead.take("coarse") is None
    ahead.ask(Prepare("cam0", "coarse", 2), {})
    assert ahead.take("fine") is None, "the one before is gone when the next is made"
    later.run()
    taken = ahead.take("coarse")
    assert taken is not None
    assert ahead.take("coarse") is None


def test_what_is_being_made_is_dropped_where_it_is_not_wanted_any_more() -> None:
    later = Later()
    ahead = NextEngine(make_engine, later)  # type: ignore[arg-type]
    ahead.ask(Prepare("cam0", "fine", 1), {})
    ahead.ask(Prepare("cam0", "", 2), {})
    later.run()
    assert ahead.take("fine") is None
    ahead.ask(Prepare("cam0", "fine", 3), {})
    later.run()
    assert ahead.take("fine") is not None


def test_in_a_thread_of_its_own() -> None:
    gate, names = threading.Event(), []

    def make(recipe: str, stored: dict[str, Any] | None) -> Any:
        assert gate.wait(10)
        names.append(threading.current_thread().name)
        return make_engine(recipe, stored)

    ahead = NextEngine(make, in_thread)
    ahead.ask(Prepare("cam0", "fine", 1), {})
    assert ahead.made(1) is None
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "next-engine":
            thread.join(10)
    assert names == ["next-engine"]
    assert ahead.made(1) is not None
