"""The journal: what was committed is there, whole, whatever happens to the process, the disk and the clock."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linescan.codec import decode
from linescan.errors import ConfigError, JournalFullError, PeerError
from linescan.journal import EXPIRE_ROWS, CameraState, Entry, Journal, Mark, RunningRoll
from linescan.journal import tables as module
from linescan.line import JournalSettings
from linescan.messages import Gap, Message, Origin, Progress, Published, Region, RollEnd, RollStart

DAY_NS = 86_400 * 10**9
NOW_NS = 20_000 * DAY_NS
HERE = "cam0"


def region(number: int, camera: str = HERE, roll: str = "A", name: str = "s0-1") -> Region:
    return Region(camera, roll, name, "open", 0, None, number, number + 3, 5, 9, 12, 3.5, 2.25, ("left", "right"))


def start(roll: str = "A", camera: str = HERE, **options: Any) -> RollStart:
    return RollStart(camera, roll, "recipe", 0, {"batch": 16, **options})


def end(roll: str = "A", camera: str = HERE) -> RollEnd:
    return RollEnd(camera, roll, 100, 100, 90, 10)


def entry(origin: int, event: Message, *, epoch: int = 1, camera: str = HERE, utc_ns: int = NOW_NS) -> Entry:
    return Entry(camera, epoch, origin, utc_ns, event, needed_ns=origin * 7, replayed=bool(origin % 2))


def mark(origin: int, up_to: int = 0, *, epoch: int = 1, camera: str = HERE, roll: str = "A", size: int = 9) -> Mark:
    return Mark(epoch, origin, Progress(camera, roll, up_to, max(up_to - 5, 0), b"s" * size), 11, 22, "boot")


def opened(folder: Path, **changes: Any) -> Journal:
    return Journal(folder / "journal.sqlite", JournalSettings(**changes))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with opened(tmp_path, keep_days=10) as one:
        yield one


def origins(rows: list[Published] | tuple[Published, ...]) -> list[int]:
    return [row.origin for row in rows]


# ------------------------------------------------------------------------------------------------ rows


def test_rows_are_numbered_in_order_and_come_back_as_they_were_published(journal: Journal) -> None:
    first = journal.commit([entry(0, start()), entry(1, region(1))], {})
    second = journal.commit([entry(2, Gap(HERE, "A", 4, 9, "overrun", True)), entry(3, end())], {})
    assert [row.sequence for row in first + second] == [1, 2, 3, 4]
    assert all(row.durable and row.run == journal.run for row in first + second)
    assert journal.since(0, 100) == first + second
    assert journal.since(1, 2) == [first[1], second[0]]
    assert journal.since(4, 100) == journal.since(2**62, 5) == journal.since(0, 0) == journal.since(0, -1) == []
    assert [decode(row.event) for row in second] == [Gap(HERE, "A", 4, 9, "overrun", True), end()]
    assert [(row.needed_ns, row.replayed) for row in first] == [(0, False), (7, True)]
    assert (journal.oldest, journal.last) == (1, 4)


def test_nothing_to_commit_is_no_commit(journal: Journal) -> None:
    assert journal.commit([], {}) == []
    assert (journal.oldest, journal.last) == (1, 0)


def test_a_reopened_journal_is_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.start_roll("A", "silk")
        journal.register(HERE)
        journal.keep_origin(Origin(HERE, "A", 2**40, 5, 6, "boot"))
        journal.set_left(HERE, "camera-lost")
        journal.commit([entry(0, start()), entry(1, region(1)), entry(3, region(2))], {HERE: mark(2, 50)})
        before = (journal.run, journal.last, journal.oldest, journal.since(0, 99), journal.camera(HERE))
        running = journal.running_roll()
    with opened(tmp_path) as journal:
        assert (journal.run, journal.last, journal.oldest, journal.since(0, 99), journal.camera(HERE)) == before
        assert journal.running_roll() == running == RunningRoll("A", "silk", False)
    with opened(tmp_path / "other") as other:
        assert other.run != before[0]


def test_a_failed_commit_leaves_nothing(journal: Journal) -> None:
    journal.commit([entry(0, start())], {})
    before = journal.camera(HERE)
    with pytest.raises(OverflowError):
        journal.commit([entry(1, region(1)), entry(2**63, region(2))], {HERE: mark(3)})
    assert journal.last == 1
    assert journal.camera(HERE) == before
    assert [row.sequence for row in journal.commit([entry(1, region(1))], {})] == [2]


def test_files_are_for_the_owner_to_write_and_the_group_to_read(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with opened(tmp_path / "made" / "here") as journal:
            journal.commit([entry(0, start())], {})
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made" / "here").iterdir()}
    finally:
        os.umask(umask)
    names = ("journal.sqlite", "journal.sqlite-shm", "journal.sqlite-wal", "journal.sqlite.lock")
    assert modes == dict.fromkeys(names, 0o640)
    assert (tmp_path / "made" / "here").stat().st_mode & 0o777 == 0o750


def test_every_commit_is_synced(journal: Journal) -> None:
    assert journal._one("PRAGMA synchronous") == (2,)  # FULL
    assert journal._one("PRAGMA journal_mode") == ("wal",)


# ------------------------------------------------------------------------------------------------ cameras


def test_a_camera_never_heard_of(journal: Journal) -> None:
    assert journal.camera("nobody") == CameraState()


def test_registrations_are_counted(journal: Journal) -> None:
    assert [journal.register(HERE), journal.register("cam1"), journal.register(HERE)] == [1, 1, 2]
    assert journal.camera(HERE).generation == 2


def test_an_epoch_takes_over_and_is_never_lowered(journal: Journal) -> None:
    journal.take_over(HERE, 5)
    assert (journal.camera(HERE).epoch, journal.camera(HERE).origin_sequence) == (5, -1)
    journal.commit([entry(0, start(), epoch=5), entry(7, region(1), epoch=5)], {})
    journal.take_over(HERE, 5)
    journal.take_over(HERE, 4)
    assert (journal.camera(HERE).epoch, journal.camera(HERE).origin_sequence) == (5, 7)
    journal.commit([], {HERE: mark(9, epoch=5)})
    assert journal.camera(HERE).origin_sequence == 9
    journal.take_over(HERE, 6)
    assert (journal.camera(HERE).epoch, journal.camera(HERE).origin_sequence) == (6, -1)
    assert journal.camera(HERE).mark == mark(9, epoch=5)
    assert journal.commit([], taken={HERE: (6, 3)}) == []  # events found again, stored before
    journal.commit([], taken={HERE: (5, 99)})
    assert (journal.camera(HERE).epoch, journal.camera(HERE).origin_sequence) == (6, 3)


def test_recent_are_the_events_after_the_mark_though_they_came_in_one_commit_with_it(journal: Journal) -> None:
    journal.commit([entry(0, start()), entry(1, region(1))], {})
    assert origins(journal.camera(HERE).recent) == [0, 1]
    elsewhere = entry(50, region(9, "cam1"), camera="cam1")
    published = journal.commit([entry(2, region(2)), elsewhere, entry(4, region(3))], {HERE: mark(3, 40)})
    state = journal.camera(HERE)
    assert state.recent == (published[2],)
    assert state.mark == mark(3, 40)
    journal.take_over(HERE, 2)
    journal.commit([entry(0, region(5), epoch=2)], {})
    assert origins(journal.camera(HERE).recent) == [4, 0]
    journal.commit([], {HERE: mark(1, 60, epoch=2)})
    assert journal.camera(HERE).recent == ()


def test_a_mark_that_is_older_or_of_another_roll_changes_nothing(journal: Journal) -> None:
    journal.commit([entry(0, start()), entry(1, region(1))], {HERE: mark(2, 40)})
    journal.commit([], {HERE: mark(1, 30)})
    journal.commit([], {HERE: mark(9, 70, roll="B")})
    assert journal.camera(HERE).mark == mark(2, 40)
    assert journal.camera(HERE).origin_sequence == 9


def test_a_roll_starts_ends_and_another_starts(journal: Journal) -> None:
    journal.commit([entry(0, start())], {HERE: mark(1, 40)})
    state = journal.camera(HERE)
    assert (state.roll_start, state.mark, state.ended) == (start(), mark(1, 40), False)
    journal.commit([entry(2, end("Z"))], {})
    assert not journal.camera(HERE).ended
    journal.commit([entry(3, end())], {})
    state = journal.camera(HERE)
    assert (state.roll_start, state.mark, state.ended) == (start(), mark(1, 40), True)
    assert origins(state.recent) == [2, 3]
    journal.commit([entry(4, start("B"))], {HERE: mark(2, 90)})
    state = journal.camera(HERE)
    assert (state.roll_start, state.mark, state.ended) == (start("B"), None, False)
    assert origins(state.recent) == [4]


def test_a_roll_announced_again_keeps_its_progress(journal: Journal) -> None:
    journal.commit([entry(0, start())], {HERE: mark(1, 40)})
    journal.commit([entry(0, start(batch=8), epoch=2)], {})
    state = journal.camera(HERE)
    assert (state.roll_start, state.mark, state.ended) == (start(batch=8), mark(1, 40), False)
    journal.commit([entry(1, end(), epoch=2), entry(2, start(), epoch=2)], {})
    assert (journal.camera(HERE).roll_start, journal.camera(HERE).ended) == (start(), True)


def test_the_origin_is_of_the_roll_that_runs(journal: Journal) -> None:
    origin = Origin(HERE, "A", None, 5, 6, "boot")
    journal.start_roll("A", "silk")
    journal.keep_origin(origin)
    assert journal.camera(HERE).origin == origin
    assert journal.camera("cam1").origin is None
    journal.commit([entry(0, start())], {})
    journal.end_roll("A")
    assert journal.camera(HERE).origin == origin  # this camera has not come to the roll's end yet
    journal.commit([entry(1, end())], {})
    assert journal.camera(HERE).origin is None
    journal.start_roll("B", "silk")
    assert journal.camera(HERE).origin is None
    journal.keep_origin(Origin(HERE, "B", 7, 5, 6, "boot"))
    assert journal.camera(HERE).origin == Origin(HERE, "B", 7, 5, 6, "boot")


def test_why_acquire_left(journal: Journal) -> None:
    assert journal.camera(HERE).left == ""
    journal.set_left(HERE, "shutdown")
    assert journal.camera(HERE).left == "shutdown"
    journal.set_left(HERE, "")
    assert journal.camera(HERE).left == ""


# ------------------------------------------------------------------------------------------------ rolls


def test_rolls_are_named_and_names_never_used_again(journal: Journal) -> None:
    assert journal.running_roll() is None
    assert journal.start_roll("roll-000002", "silk", replayed=True) == "roll-000002"
    assert journal.running_roll() == RunningRoll("roll-000002", "silk", True)
    with pytest.raises(ConfigError, match="is running"):
        journal.start_roll(None, "silk")
    with pytest.raises(ConfigError, match="'x' is not running; 'roll-000002' is"):
        journal.end_roll("x")
    journal.end_roll("roll-000002")
    assert journal.running_roll() is None
    with pytest.raises(ConfigError, match="none is"):
        journal.end_roll("roll-000002")
    with pytest.raises(ConfigError, match="was there before"):
        journal.start_roll("roll-000002", "silk")
    for expected in ("roll-000001", "roll-000003"):
        assert journal.start_roll("", "silk") == expected
        journal.end_roll(expected)


# ------------------------------------------------------------------------------------------------ retention


def fill(journal: Journal, count: int, *, first: int = 1, utc_ns: int = NOW_NS) -> None:
    journal.commit([entry(first + n, region(n), utc_ns=utc_ns) for n in range(count)], {HERE: mark(first + count)})


def expire(journal: Journal, after_days: float, *, clock_days: float | None = None, **options: Any) -> int:
    """At a UTC and a monotonic clock so many days after NOW_NS; they agree unless told otherwise."""
    clock = after_days if clock_days is None else clock_days
    return journal.expire(NOW_NS + int(after_days * DAY_NS), monotonic_ns=int(clock * DAY_NS), **options)


def test_old_rows_go_in_portions_and_the_sequence_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path, keep_days=10) as journal:
        journal.commit([entry(0, start())], {})
        fill(journal, EXPIRE_ROWS + 10)
        fill(journal, 5, first=2000, utc_ns=NOW_NS + 3 * DAY_NS)
        assert expire(journal, 9.9) == 0
        assert [expire(journal, 10.1) for _ in range(3)] == [EXPIRE_ROWS, 11, 0]
        assert (journal.oldest, journal.last) == (EXPIRE_ROWS + 12, EXPIRE_ROWS + 16)
        assert journal.since(0, 1)[0].sequence == journal.oldest
        assert expire(journal, 14) == 5
        last = journal.last
        assert (journal.oldest, journal.since(0, 9)) == (last + 1, [])
    with opened(tmp_path) as journal:
        assert (journal.oldest, journal.last) == (last + 1, last)
        assert journal.camera(HERE).roll_start == start()
        assert journal.commit([entry(3000, region(1))], {})[0].sequence == last + 1


def test_no_row_after_a_mark_expires_while_its_roll_runs(journal: Journal) -> None:
    journal.commit([entry(0, start()), entry(1, region(1)), entry(3, region(2))], {HERE: mark(2)})
    journal.commit([entry(0, start(camera="cam1"), camera="cam1"), entry(4, region(3))], {})
    assert expire(journal, 99) == 2
    assert origins(journal.camera(HERE).recent) == [3, 4]
    assert expire(journal, 99, cameras=["cam1"]) == 1  # HERE was taken off the line
    journal.commit([], {HERE: mark(5)})
    assert expire(journal, 99) == 0  # cam1 has no mark yet
    journal.commit([entry(1, end(camera="cam1"), camera="cam1")], {})
    assert expire(journal, 99) == 3
    assert journal.camera("cam1").ended


def test_size_counts_used_pages_and_their_space_is_used_again(tmp_path: Path) -> None:
    sizes = []
    with opened(tmp_path, keep_mib=1) as journal:
        journal.commit([entry(0, start())], {})
        for turn in range(40):
            fill(journal, 400, first=1 + turn * 401, utc_ns=NOW_NS + DAY_NS)  # the future: only the size lets them go
            while expire(journal, 0):
                pass
            sizes.append((tmp_path / "journal.sqlite").stat().st_size)
        assert journal._used_bytes() <= 1 << 20
        assert journal.oldest > 1000
        assert len(journal.since(0, 10**6)) == journal.last - journal.oldest + 1 > 1000
    assert max(sizes) < 2 << 20


def test_the_log_does_not_grow(tmp_path: Path, journal: Journal) -> None:
    journal.commit([entry(0, start())], {})
    for turn in range(100):
        journal.commit([], {HERE: mark(1 + turn, size=200_000)})
    assert (tmp_path / "journal.sqlite-wal").stat().st_size < 2 * module.CHECKPOINT_PAGES * 4096
    assert (tmp_path / "journal.sqlite").stat().st_size < 1 << 20


def test_a_stepped_clock_expires_nothing(journal: Journal) -> None:
    journal.commit([entry(0, start())], {})
    fill(journal, 5)
    fill(journal, 1, first=10, utc_ns=NOW_NS + 20 * DAY_NS)
    assert expire(journal, 19.9) == 0  # behind the newest row
    fill(journal, 1, first=20, utc_ns=NOW_NS + DAY_NS)
    assert expire(journal, 100, clock_days=20) == 0  # ahead of the monotonic clock
    assert expire(journal, 101, clock_days=21) == 0  # and still
    assert expire(journal, 10.5) == 6  # the row of day 20 holds the one of day 1 behind it
    assert expire(journal, 25) == 0
    assert expire(journal, 30.5) == 2


# ------------------------------------------------------------------------------------------------ what fails


COMMITS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import entry, mark, opened, region, start
with opened(Path(sys.argv[1])) as journal:
    batch = journal.last // 100
    if batch == 0:
        journal.commit([entry(0, start())], {})
    print("ready", flush=True)
    while True:
        batch += 1
        first = batch * 1000
        entries = [entry(first + n, region(n, name=str(batch))) for n in range(100)]
        journal.commit(entries, {"cam0": mark(first + 100, batch, size=20_000)})
        print(batch, flush=True)
"""


def test_a_killed_writer_loses_nothing_and_leaves_no_half_commit(tmp_path: Path) -> None:
    rng = random.Random(5)
    done = 0
    for _ in range(8):
        command = [sys.executable, "-c", COMMITS, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(2, 20)):
                said = writer.stdout.readline().strip()
                done = done if said == "ready" else int(said)
            time.sleep(rng.random() * 0.01)  # a commit takes milliseconds: most kills come in the midst of one
            writer.kill()
            done = int((said, *writer.stdout.read().split())[-1])
        with opened(tmp_path) as journal:
            rows = journal.since(1, 10**6)
            assert [row.sequence for row in rows] == list(range(2, journal.last + 1))
            batches = [event.id for row in rows if isinstance(event := decode(row.event), Region)]
            whole = len(batches) // 100
            assert batches == [str(batch) for batch in range(1, whole + 1) for _ in range(100)]
            kept = journal.camera(HERE).mark
            assert kept is not None
            assert kept.progress.inspected_up_to == whole
            assert whole in (done, done + 1)  # the last may have been committed, but not said any more
            done = whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "linescan-test", folder], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def until_full(journal: Journal) -> None:
    """Commits until there is no room; whatever was refused is not there."""
    with pytest.raises(JournalFullError, match=r"journal\.sqlite: cannot be written"):  # noqa: PT012
        while journal.last < 100_000:
            before = (journal.last, journal.camera(HERE))
            fill(journal, 50, first=1 + 1000 * journal.last)
    assert (journal.last, journal.camera(HERE)) == before
    assert len(journal.since(0, 10**6)) == journal.last


def test_a_full_disk_refuses_and_takes_again_when_there_is_room(small_disk: Path) -> None:
    with opened(small_disk) as journal:
        journal.commit([entry(0, start())], {})
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        for _ in range(3):
            until_full(journal)
        ballast.unlink()
        last = journal.last
        fill(journal, 50, first=10**9)
        until_full(journal)
        assert journal.last >= last + 50
        rows, state = journal.since(0, 10**6), journal.camera(HERE)
    with opened(small_disk) as journal:
        assert (journal.since(0, 10**6), journal.camera(HERE)) == (rows, state)


def test_no_room_in_the_file_refuses_every_kind_of_write(journal: Journal) -> None:
    journal.commit([entry(0, start())], {})
    journal._one("PRAGMA max_page_count = 40")
    until_full(journal)
    with pytest.raises(JournalFullError):
        journal.keep_origin(Origin(HERE, "x" * 10**5, 1, 2, 3, "boot"))
    assert journal.register(HERE) == 1  # what needs no new page has room
    journal._one("PRAGMA max_page_count = 4000")
    fill(journal, 50, first=10**9)
    assert journal._all("PRAGMA integrity_check") == [("ok",)]


def test_a_failed_write_is_no_full_disk(journal: Journal) -> None:
    journal._db.execute("PRAGMA query_only = ON").fetchall()
    with pytest.raises(PeerError, match=r"journal\.sqlite: .*readonly") as caught:
        journal.register(HERE)
    assert not isinstance(caught.value, JournalFullError)


def test_one_writer(tmp_path: Path, journal: Journal) -> None:
    journal.register(HERE)
    with pytest.raises(PeerError, match="another process writes this journal"):
        opened(tmp_path)
    command = [sys.executable, "-c", COMMITS, str(tmp_path), str(Path(__file__).parent)]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "another process writes this journal" in refused.stderr
    journal.close()
    with opened(tmp_path) as again:
        assert again.camera(HERE).generation == 1


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The file of a closed journal with some hundred rows."""
    with opened(tmp_path) as journal:
        journal.commit([entry(0, start())], {})
        fill(journal, 300)
    return tmp_path / "journal.sqlite"


def refused(path: Path, match: str) -> None:
    """Opening says what is wrong and what to do, and leaves the file alone."""
    before = path.read_bytes()
    with pytest.raises(PeerError, match=match) as caught:
        opened(path.parent)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_damaged_file_is_named_and_not_replaced(stored: Path) -> None:
    whole = stored.read_bytes()
    middle = whole.index(b"s0-1") // 4096 * 4096
    for damaged in (
        b"",
        b"garbage" * 1000,
        whole[: len(whole) // 2],
        whole[:middle] + bytes(range(256)) * 16 + whole[middle + 4096 :],
    ):
        stored.write_bytes(damaged)
        refused(stored, r"damaged.*move it, its -wal and its -shm away")
    stored.write_bytes(whole)
    with opened(stored.parent) as journal:
        assert journal.last == 301


def test_damage_that_a_partial_check_missed_is_named_later(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(stored.parent) as journal:
        middle = journal.since(150, 1)[0].event
    whole = stored.read_bytes()
    page = whole.index(middle) // 4096 * 4096
    stored.write_bytes(whole[:page] + bytes(range(256)) * 16 + whole[page + 4096 :])
    monkeypatch.setattr(module, "WHOLE_CHECK_BYTES", 0)
    with opened(stored.parent) as journal, pytest.raises(PeerError, match=r"damaged.*move it"):
        journal.since(0, 1000)


def test_a_stored_message_that_is_none(stored: Path) -> None:
    for packed in (b"\xff", b"\x80"):
        db = sqlite3.connect(stored)
        db.execute("UPDATE cameras SET roll_start = ?", (packed,))
        db.commit()
        db.close()
        refused(stored, "a stored message is damaged")


def test_a_log_without_its_file(stored: Path) -> None:
    stored.rename(f"{stored}-wal")
    with pytest.raises(PeerError, match="missing, but its -wal is there"):
        opened(stored.parent)
    assert not stored.exists()


def test_another_programs_file_and_another_version(stored: Path, tmp_path: Path) -> None:
    db = sqlite3.connect(stored)
    db.execute("PRAGMA user_version = 9")
    db.close()
    refused(stored, "a journal of version 9; this linescan reads version 1")
    foreign = tmp_path / "foreign" / "journal.sqlite"
    foreign.parent.mkdir()
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    refused(foreign, "no journal of linescan")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PeerError, match=r"file/journal\.sqlite: cannot be opened"):
        opened(tmp_path / "file")


def test_a_creation_that_was_interrupted_is_begun_anew(tmp_path: Path) -> None:
    for name in (".journal.sqlite.new", ".journal.sqlite.new-journal"):
        (tmp_path / name).write_bytes(b"half")
    with opened(tmp_path) as journal:
        assert journal.last == 0
    assert {path.name for path in tmp_path.iterdir()} == {"journal.sqlite", "journal.sqlite.lock"}


# ------------------------------------------------------------------------------------------------ against a model


class Stream:
    """What a worker sends, and what must be known of its camera: kept one by one, in plain lists."""

    def __init__(self, camera: str) -> None:
        self.camera, self.epoch, self.sequence, self.rolls = camera, -1, -1, 0
        self.state = CameraState()
        self.recent: list[tuple[int, int]] = []

    def next(self, step: str) -> Entry | Mark | None:
        running = self.state.roll_start is not None and not self.state.ended
        if (step == "start") == running:
            return None
        self.rolls += step == "start"
        self.epoch, self.sequence = max(self.epoch, 0), self.sequence + 1
        roll = f"{self.camera}-{self.rolls}"
        if step == "mark":
            made = mark(self.sequence, self.sequence, epoch=self.epoch, camera=self.camera, roll=roll)
            self.know(mark=made)
            self.recent = []
            return made
        event: Message = region(self.sequence, self.camera, roll)
        if step in ("start", "again"):
            event = start(roll, self.camera, batch=self.sequence)
            self.know(roll_start=event)
        if step == "start":
            self.know(mark=None, ended=False)
            self.recent = []
        if step == "end":
            event = end(roll, self.camera)
            self.know(ended=True)
        self.recent.append((self.epoch, self.sequence))
        return entry(self.sequence, event, epoch=self.epoch, camera=self.camera)

    def know(self, **changes: Any) -> None:
        self.state = CameraState(**{**self.state.__dict__, **changes})

    def take_over(self) -> int:
        self.epoch, self.sequence = self.epoch + 1, -1
        return self.epoch


STEP = st.tuples(
    st.sampled_from(("cam0", "cam1")),
    st.sampled_from(("start", "start", "again", "region", "region", "region", "mark", "mark", "end", "take over")),
)
TURN = st.one_of(st.lists(STEP, max_size=12), st.sampled_from(("reopen", "register", "expire")))


@settings(max_examples=60, deadline=None)
@given(st.lists(TURN, max_size=14))
def test_whatever_is_committed_is_known(turns: list[Any]) -> None:
    streams = {name: Stream(name) for name in ("cam0", "cam1")}
    rows: list[Published] = []
    gone = registered = 0
    with tempfile.TemporaryDirectory() as folder:
        journal = opened(Path(folder), keep_days=1)
        try:
            for turn in turns:
                if turn == "reopen":
                    journal.close()
                    journal = opened(Path(folder), keep_days=1)
                elif turn == "register":
                    registered = journal.register("cam0")
                elif turn == "expire":
                    held = [row.sequence for name in streams for row in journal.camera(name).recent
                            if row.sequence and not journal.camera(name).ended]  # fmt: skip
                    gone += expire(journal, 2)
                    assert gone == min(held, default=journal.last + 1) - 1
                else:
                    rows += committed(journal, streams, turn)
                assert journal.since(0, 10**6) == rows[gone:]
                assert (journal.last, journal.oldest) == (len(rows), gone + 1)
                compare(journal, streams, rows[gone:], registered)
        finally:
            journal.close()


def committed(journal: Journal, streams: dict[str, Stream], steps: list[tuple[str, str]]) -> list[Published]:
    """One commit of what the steps send; an epoch that takes over does so where nothing is in flight."""
    for camera in {camera for camera, step in steps if step == "take over"}:
        journal.take_over(camera, streams[camera].take_over())
    sent = [(camera, streams[camera].next(step)) for camera, step in steps if step != "take over"]
    marks = {camera: one for camera, one in sent if isinstance(one, Mark)}
    return journal.commit([one for _, one in sent if isinstance(one, Entry)], marks)


def compare(journal: Journal, streams: dict[str, Stream], rows: list[Published], registered: int) -> None:
    for name, stream in streams.items():
        recent = tuple(row for row in rows if row.camera == name and (row.epoch, row.origin) in stream.recent)
        stream.know(generation=registered if name == "cam0" else 0)
        stream.know(epoch=stream.epoch, origin_sequence=stream.sequence, recent=recent)
        assert journal.camera(name) == stream.state
