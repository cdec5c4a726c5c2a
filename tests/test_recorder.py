"""The recorder beside a line in lockstep: what it wrote replays to what the line said, whatever went wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.cameras.camera import LinesLost
from linescan.cli.main import main
from linescan.errors import ConfigError, FootageError, PeerError
from linescan.footage import McapFootage, McapWriter, open_footage
from linescan.inspection import Footprint, Inspector
from linescan.line import Line
from linescan.messages import Frame, Gap, Message, Region, RollCommand, Status
from linescan.replay.roll import inspect_roll
from linescan.replay.session import RollChanges
from linescan.stages import recorder as recorder_module
from linescan.stages.recorder import Recorder
from tests.inspection_kit import nothing
from tests.line_kit import COLUMNS, SETTINGS, ArrayCamera, Desk, web, write_line

Image = NDArray[Any]
ROOT = Path(__file__).resolve().parents[1]


class RecordedDesk(Desk):
    """A desk with a recorder, which can be stopped and killed too."""

    recorder: Recorder | None = None

    def start_recorder(self) -> Recorder:
        self.recorder = Recorder(self.line, "cam0", self.network, clock_ns=self.clock)
        return self.recorder

    def stop_recorder(self) -> None:
        assert self.recorder is not None
        self.recorder.close()
        self.recorder = None

    def kill_recorder(self) -> None:
        """As SIGKILL leaves it: what is in no whole chunk is gone, its sockets and its lock are the system's again."""
        recorder, self.recorder = self.recorder, None
        assert recorder is not None
        writer = recorder._tape._writer  # what the system does to a process
        if writer is not None:
            writer._file.close()
        for link in (recorder._acquire, recorder._publisher, recorder._events, recorder._lock):
            link.close()

    def turn(self, times: int = 1, seconds: float = 0.01) -> None:
        for _ in range(times):
            super().turn(1, seconds)
            if self.recorder is not None:
                self.recorder.turn()

    def show(self, pixels: Image, height: int = 32, turns: int = 2) -> None:
        """Lines from the camera, at less than its highest rate."""
        assert self.acquire is not None
        for first in range(0, len(pixels), height):
            frame = pixels[first : first + height]
            self.clock.advance(len(frame) / 900)
            self.camera.deliver(frame)
            self.turn(turns)

    def roll(self, action: Any) -> None:
        self.network.client(self.line.control_endpoint).send(RollCommand(action, "", ""))
        self.turn(5, 0.5)

    def finish(self) -> None:
        """Ends the roll; all is inspected, stored and recorded."""
        self.roll("end")
        self.camera.deliver(np.full((1, COLUMNS), 70, np.uint8))  # belongs to no roll
        self.turn(80, 0.05)

    @property
    def camera(self) -> ArrayCamera:
        assert self.acquire is not None
        camera = self.acquire._camera
        assert isinstance(camera, ArrayCamera)
        return camera

    @property
    def folder(self) -> Path:
        return self.line.path.parent / "recordings" / "cam0"

    def files(self, folder: str = ".") -> list[str]:
        return sorted(path.name for path in (self.folder / folder).glob("*.mcap"))

    def found(self) -> list[Message]:
        """What the line found, as its journal has it."""
        assert self.journal is not None
        self.published = self.journal.since(0, 10**6)
        return [event for event in self.events if isinstance(event, Region | Gap)]


def desk_of(folder: Path, *, recorded: bool = True, recording: str = "", **transport: Any) -> RecordedDesk:
    """A line that runs, with a recorder from before its first line on."""
    line = write_line(folder, **transport)
    text = line.path.read_text(encoding="utf-8")
    line.path.write_text(f'{text}\n[recording]\ndirectory = "recordings"\n{recording}\n', encoding="utf-8")
    desk = RecordedDesk(Line(line.path))
    desk.start_publisher()
    desk.start_acquire()
    desk.start_worker()
    if recorded:
        desk.start_recorder()
    desk.turn(5)
    return desk


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of line.toml are 16 KiB, chunks a frame: a test need not write gigabytes."""
    monkeypatch.setattr(recorder_module, "MIB", 1 << 14)
    monkeypatch.setattr("linescan.stages.recording_tape.McapWriter", _unbuffered)


def _unbuffered(path: Path, camera: str, **options: Any) -> McapWriter:
    return McapWriter(path, camera, chunk_bytes=0, **options)


def replayed(footage: McapFootage) -> list[Message]:
    """What the engine finds in the recording, roll by roll as linescan-replay has them."""
    told: list[Message] = []
    rolls = RollChanges()
    for _, frames in groupby(footage, rolls.number_of):
        assert rolls.name is not None
        inspector = Inspector(SETTINGS, Footprint(COLUMNS, 8, footage.camera or "", rolls.name), nothing)
        inspect_roll(inspector, frames, told.append)
    return told


def replay_of(desk: RecordedDesk, folder: str = ".") -> list[Message]:
    footage = open_footage(desk.folder / folder)
    assert isinstance(footage, McapFootage)
    with footage:
        return replayed(footage)


def in_gaps(events: list[Message]) -> set[int]:
    gaps = [event for event in events if isinstance(event, Gap)]
    return {line for gap in gaps for line in range(gap.first_line, gap.last_line + 1)}


def recorded_lines(desk: RecordedDesk, roll: str = "roll-000001", folder: str = ".") -> dict[int, bytes]:
    """The recorded pixels, by line."""
    footage = open_footage(desk.folder / folder)
    with footage:
        return {
            frame.first_line + i: row.tobytes()
            for frame in footage
            if frame.pixels is not None and frame.first_line is not None and frame.roll == roll
            for i, row in enumerate(frame.pixels)
        }


# ------------------------------------------------------------------------------------------ the same events


def test_a_recording_replays_to_the_events_of_the_line(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(1500, 1, 30)
    desk.show(pixels[:500])
    desk.camera.queue.append(LinesLost(37, "incomplete"))
    desk.show(pixels[500:900], height=50)
    desk.camera.queue.append(LinesLost(5, "overrun"))
    desk.show(pixels[900:])
    desk.camera.queue.append(LinesLost(11, "overrun"))  # no lines follow these
    desk.turn(5)
    desk.roll("start")
    desk.show(web(700, 2, 20))
    desk.finish()
    desk.stop_recorder()
    found = desk.found()
    assert {gap.cause for gap in found if isinstance(gap, Gap)} == {"incomplete", "overrun"}
    assert len({event.roll for event in found}) == 2
    assert replay_of(desk) == found
    assert desk.files() == ["roll-000001-000001.mcap", "roll-000002-000002.mcap"]
    assert recorded_lines(desk, "roll-000002") == {i: row.tobytes() for i, row in enumerate(web(700, 2, 20))}


@pytest.mark.usefixtures("small")
def test_files_are_rolled_by_size_and_replay_as_one(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 1")
    desk.show(web(2000, 3, 40))
    desk.finish()
    desk.stop_recorder()
    sizes = [path.stat().st_size for path in desk.folder.glob("*.mcap")]
    assert len(sizes) > 5
    assert max(sizes) < 1.5 * 2**14  # the index comes on top
    assert replay_of(desk) == desk.found()
    with open_footage(desk.folder) as footage:
        assert footage.total_lines == 63 * 32
        assert sum(frame.lines for frame in footage) == 2000
        assert footage.truncated is None


# what a camera does: ("lines", how many), ("incomplete" | "overrun", how many lines are lost), ("roll", 0)
CAMERA = st.lists(
    st.one_of(
        st.tuples(st.just("lines"), st.integers(1, 90)),
        st.tuples(st.sampled_from(["incomplete", "overrun"]), st.integers(1, 40)),
        st.tuples(st.just("roll"), st.just(0)),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(does=CAMERA, seed=st.integers(0, 99))
def test_whatever_the_camera_does_the_replay_tells_the_same(
    tmp_path_factory: pytest.TempPathFactory, does: list[tuple[str, int]], seed: int
) -> None:
    desk = desk_of(tmp_path_factory.mktemp("line"))
    pixels, at = web(2000, seed, 60), 0
    for what, count in [("lines", 20), *does]:
        if what == "lines":
            desk.show(pixels[at : at + count], 40)
            at += count
        elif what == "roll":
            desk.roll("start")
        else:
            desk.camera.queue.append(LinesLost(count, what))  # type: ignore[arg-type]
    desk.finish()
    desk.stop_recorder()
    assert replay_of(desk) == desk.found()
    desk.kill_publisher()


# ------------------------------------------------------------------------------------------ stages come and go


def restart_acquire(desk: RecordedDesk, turns: int = 40) -> None:
    desk.start_acquire()
    desk.turn(turns)


def test_acquire_that_stops_in_order_and_comes_again(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(1200, 4, 30)
    desk.show(pixels[:600])
    desk.stop_acquire("camera-lost")
    desk.turn(30, 0.1)
    restart_acquire(desk)
    desk.show(pixels[600:])
    desk.finish()
    desk.stop_recorder()
    (gap,) = (event for event in desk.found() if isinstance(event, Gap))
    assert (gap.first_line, gap.cause, gap.estimated) == (600, "camera-lost", True)
    assert replay_of(desk) == desk.found()


def test_a_stream_that_stopped_without_a_lost_line_is_two_segments_again(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, encoder="counts_per_line = 1")
    pixels = web(800, 5, 30)
    desk.feed(desk.camera, pixels[:400], encoder=7)
    desk.stop_acquire()
    desk.turn(3, 0.1)
    restart_acquire(desk)
    desk.feed(desk.camera, pixels[400:], encoder=407)
    desk.finish()
    desk.stop_recorder()
    found = desk.found()
    assert not in_gaps(found)
    assert {event.id.split("-")[0] for event in found if isinstance(event, Region)} == {"s0", "s400"}
    assert replay_of(desk) == found


def test_acquire_that_is_killed_leaves_its_gap_in_the_recording(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(1200, 6, 30)
    desk.show(pixels[:600])
    desk.kill_acquire()
    desk.turn(30, 0.1)
    restart_acquire(desk)
    desk.show(pixels[600:])
    desk.finish()
    desk.stop_recorder()
    found, again = desk.found(), replay_of(desk)
    (gap,) = (event for event in found if isinstance(event, Gap))
    (of_replay,) = (event for event in again if isinstance(event, Gap))
    # the recorder had lines that the worker could no longer finish: the replay inspects those too
    assert gap.first_line <= of_replay.first_line == 600
    assert (gap.last_line, gap.cause, gap.estimated) == (of_replay.last_line, "acquire-lost", True)
    assert of_replay.cause == "acquire-lost"
    assert of_replay.estimated
    after = [event for event in found if isinstance(event, Region) and event.first_line > gap.last_line]
    assert after
    assert [event for event in again if isinstance(event, Region) and event.first_line > gap.last_line] == after


def test_the_first_frames_of_an_acquire_that_came_again_are_shown_to_the_recorder(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(900, 7, 20)
    desk.show(pixels[:300])
    desk.stop_acquire()
    desk.turn(10, 0.1)
    recorder, desk.recorder = desk.recorder, None
    restart_acquire(desk, 5)
    desk.show(pixels[300:364], turns=1)  # before the recorder finds out
    desk.recorder = recorder
    desk.turn(30, 0.02)
    desk.show(pixels[364:])
    desk.finish()
    assert recorder is not None
    assert recorder.lines_missing == 0
    desk.stop_recorder()
    assert replay_of(desk) == desk.found()


def test_saying_hello_again_doubles_nothing(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(600, 8, 20)
    recorder = desk.recorder
    assert recorder is not None
    for first in range(0, 600, 40):
        desk.show(pixels[first : first + 40])
        if first % 120 == 0:
            desk.turn(3, 0.5)  # acquire has nothing to say for a while
        if first % 200 == 0:  # the connection breaks: acquire takes it for another observer
            recorder._acquire.reconnect()
            desk.turn(30, 0.02)
    desk.finish()
    assert recorder.counters["lines"] == 600
    assert recorder.counters["repeated"] > 0
    assert recorder.lines_missing == 0
    desk.stop_recorder()
    assert replay_of(desk) == desk.found()


def test_killed_workers_and_publishers_do_not_show(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(1500, 9, 40)
    generator = np.random.default_rng(9)
    for first in range(0, 1500, 50):
        desk.show(pixels[first : first + 50])
        if generator.random() < 0.2:
            desk.kill_worker(desk.workers[0])
            desk.start_worker()
        if generator.random() < 0.2:
            desk.kill_publisher()
            desk.turn(10, 0.05)
            desk.start_publisher()
    desk.turn(200, 0.05)
    desk.finish()
    desk.stop_recorder()
    assert not in_gaps(desk.found())
    assert replay_of(desk) == desk.found()


def test_what_only_the_line_could_not_inspect_is_in_the_recording(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, retain_mib=1)
    pixels = web(600, 10, 20)
    wide = np.repeat(web(24_000, 10, 60), 1, axis=0)
    desk.show(pixels)
    desk.kill_worker(desk.workers[0])
    desk.show(wide, 500, turns=1)
    desk.start_worker()
    desk.turn(400, 0.05)
    desk.finish()
    desk.stop_recorder()
    gaps = [event for event in desk.found() if isinstance(event, Gap)]
    assert {gap.cause for gap in gaps} == {"worker-lost"}
    assert not in_gaps(replay_of(desk))
    assert len(recorded_lines(desk)) == 24_600


# ------------------------------------------------------------------------------------------ what is missing


def test_frames_beyond_the_credits_are_missing_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "WINDOW_FRAMES", (2, 2))
    desk = desk_of(tmp_path)
    said: list[Status] = []
    world = desk.network.subscription(desk.line.events_endpoint, ["status"])
    pixels = web(1600, 11, 40)
    desk.show(pixels[:800])
    recorder, desk.recorder = desk.recorder, None  # it does not get to run
    desk.show(pixels[800:1216])
    desk.recorder = recorder
    desk.show(pixels[1216:])
    desk.turn(200)
    while (received := world.receive()) is not None:
        if isinstance(received.message, Status) and received.message.stage == "recorder":
            said.append(received.message)
    desk.finish()
    assert recorder is not None
    desk.stop_recorder()
    lost = in_gaps(replay_of(desk))
    assert 200 < len(lost) < 416
    assert lost == set(range(min(lost), max(lost) + 1))
    assert recorder.lines_missing == len(lost)
    assert desk.acquire is not None
    assert desk.acquire.status().counters["frames_not_observed"] * 32 == len(lost)
    assert any("lines-missing" in status.faults for status in said)
    assert said[-1].faults == ()
    assert said[-1].counters["lines_missing"] == len(lost)
    assert {gap.cause for gap in replay_of(desk) if isinstance(gap, Gap)} == {"incomplete"}
    assert recorded_lines(desk) == {i: row.tobytes() for i, row in enumerate(pixels) if i not in lost}
    assert not in_gaps(desk.found())


@pytest.mark.usefixtures("small")
def test_a_recorder_that_is_killed_and_comes_again(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    pixels = web(1500, 12, 40)
    desk.show(pixels[:512])
    desk.kill_recorder()
    desk.show(pixels[512:1024])
    desk.start_recorder()
    desk.turn(3)
    desk.show(pixels[1024:])
    desk.finish()
    desk.stop_recorder()
    recorded = recorded_lines(desk)
    assert set(range(512)) | set(range(1024, 1500)) <= set(recorded)
    assert all(recorded[i] == pixels[i].tobytes() for i in recorded)
    again = replay_of(desk)
    assert in_gaps(again) == set(range(1500)) - set(recorded)
    assert len(desk.files()) == 2
    before = [event for event in desk.found() if isinstance(event, Region) and event.last_line < 400]
    assert [event for event in again if isinstance(event, Region) and event.last_line < 400] == before


@pytest.mark.usefixtures("small")
def test_a_recording_that_is_cut_off_anywhere_gives_what_was_written(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 2")
    pixels = web(1600, 13, 40)
    desk.show(pixels)
    desk.finish()
    desk.stop_recorder()
    names = desk.files()
    assert len(names) > 2
    whole = {name: (desk.folder / name).read_bytes() for name in names}
    generator = np.random.default_rng(13)
    seen = set()
    for name in names:
        data = whole[name]
        for length in [0, 5, 8, 60, len(data) - 3, *generator.integers(0, len(data), 8).tolist()]:
            (desk.folder / name).write_bytes(data[:length])
            recorded = recorded_lines(desk)
            assert all(recorded[i] == pixels[i].tobytes() for i in recorded)
            again = replay_of(desk)
            scanned = max(recorded) + 1 if name == names[-1] else 1600
            assert in_gaps(again) == set(range(scanned)) - set(recorded)
            seen.add(len(recorded))
        (desk.folder / name).write_bytes(data)
    assert len(seen) > 10
    assert replay_of(desk) == desk.found()


# ------------------------------------------------------------------------------------------ what is kept


@pytest.mark.usefixtures("small")
def test_old_files_go_and_leave_what_lies_around_regions(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 4\naround_lines = 40")
    pixels = np.full((4000, COLUMNS), 70, np.uint8)
    for first in (100, 130, 1000, 1318, 3900):  # two in one file, one on the seam of two, one that is still whole
        pixels[first : first + 20, 10:20] = 255
    desk.show(pixels)
    desk.finish()
    recorder = desk.recorder
    assert recorder is not None
    counters = recorder.status().counters
    desk.stop_recorder()
    left = sum(path.stat().st_size for path in desk.folder.glob("*.mcap"))
    assert 2 * 2**14 < left <= 5 * 2**14
    assert counters["files_deleted"] > 5
    regions = [event for event in desk.found() if isinstance(event, Region) and event.phase == "close"]
    assert len(regions) == 5
    kept = recorded_lines(desk, folder="regions")
    whole = recorded_lines(desk)
    assert all(kept[i] == pixels[i].tobytes() for i in kept)
    for region in regions:
        around = range(region.first_line - 40, region.last_line + 41)
        assert all(line in kept or line in whole for line in around)
    assert len(kept) == 32 * counters["frames_kept"] < 600
    assert not set(kept) & set(whole)
    again = {event.first_line for event in replay_of(desk, "regions") if isinstance(event, Region)}
    assert again == {region.first_line for region in regions if region.first_line < min(whole)}


@pytest.mark.usefixtures("small")
def test_the_regions_are_remembered_over_a_restart(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 3\naround_lines = 8")
    pixels = np.full((4000, COLUMNS), 70, np.uint8)
    for first in (100, 1500, 2200):
        pixels[first : first + 20, 10:20] = 255
    desk.show(pixels[:1400])
    desk.turn(30)
    desk.stop_recorder()
    desk.show(pixels[1400:1700])  # a region while nobody records
    desk.start_recorder()
    desk.show(pixels[1700:2300])
    desk.turn(2, 31.0)  # the book is written from time to time
    desk.kill_recorder()
    desk.start_recorder()
    desk.show(pixels[2300:])
    desk.finish()
    desk.stop_recorder()
    kept = recorded_lines(desk, folder="regions")
    whole = recorded_lines(desk)
    assert min(whole) > 2300
    assert set(range(92, 128)) | set(range(2192, 2228)) <= set(kept)
    assert not set(range(1408, 1690)) & set(kept)
    assert len(kept) < 400


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", [None, b"", b"{", b'{"format": 1}', b"[]", b'{"format": 2}', b"\xff"])
def test_without_its_book_a_recorder_asks_the_journal(tmp_path: Path, damage: bytes | None) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 4\naround_lines = 8")
    pixels = np.full((2400, COLUMNS), 70, np.uint8)
    pixels[100:120, 10:20] = 255
    desk.show(pixels[:700])
    desk.stop_recorder()
    if damage is None:
        (desk.folder / "recording.json").unlink()
    else:
        (desk.folder / "recording.json").write_bytes(damage)
    desk.start_recorder()
    desk.turn(80, 0.05)
    desk.show(pixels[700:])
    desk.finish()
    desk.stop_recorder()
    assert set(range(92, 128)) <= set(recorded_lines(desk, folder="regions"))


@pytest.mark.usefixtures("small")
def test_copies_have_a_budget_of_their_own(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 2\nkeep_regions_mib = 3")  # all is around regions
    desk.show(web(4000, 14, 60))
    desk.finish()
    recorder = desk.recorder
    assert recorder is not None
    assert recorder.status().counters["copies_deleted"] > 3
    desk.stop_recorder()
    copies = list((desk.folder / "regions").glob("*.mcap"))
    assert 2**14 < sum(path.stat().st_size for path in copies) <= 3 * 2**14
    assert not list((desk.folder / "regions").glob(".*"))
    numbers = [int(name.split("-")[-1][:-5]) for name in (*desk.files("regions"), *desk.files())]
    assert numbers == sorted(set(numbers))


@pytest.mark.usefixtures("small")
def test_a_copy_that_was_killed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linescan.stages.recording_keeper.PORTION", 1)  # a frame a turn
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 1\naround_lines = 16")
    pixels = np.full((700, COLUMNS), 70, np.uint8)
    pixels[100:120, 10:20] = pixels[250:260, 10:20] = 255
    desk.show(pixels[:600], turns=1)
    for _ in range(40):
        desk.turn()
        if list((desk.folder / "regions").glob(".*.part")):
            break
    else:
        pytest.fail("no copy was under way")
    desk.kill_recorder()
    desk.start_recorder()
    assert not list((desk.folder / "regions").glob(".*.part"))
    desk.turn(100)
    desk.show(pixels[-32:].repeat(40, axis=0))
    desk.finish()
    desk.stop_recorder()
    assert set(range(84, 136)) | set(range(234, 276)) <= set(recorded_lines(desk, folder="regions"))
    assert min(recorded_lines(desk)) > 600


# ------------------------------------------------------------------------------------------ a disk that refuses


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A folder on a disk of 192 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    folder = tmp_path / "recordings"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("needs a mount that is permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.usefixtures("small")
def test_a_full_disk_stops_the_recording_which_says_so_and_goes_on(tmp_path: Path, tiny_disk: Path) -> None:
    desk = desk_of(tmp_path, recording="file_mib = 2\nkeep_mib = 1000")
    world = desk.network.subscription(desk.line.events_endpoint, ["status"])
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    pixels = web(6000, 15, 100)
    recorder = desk.recorder
    assert recorder is not None
    desk.show(pixels[:2500])
    assert recorder.status().faults[0] == "disk-full"
    assert recorder.state == "stopped by the disk"
    assert "No space left on device" in recorder.reason
    desk.turn(3, 2.0)
    assert recorder.status().faults[0] == "disk-full"
    ballast.unlink()
    desk.turn(5, 1.0)
    assert recorder.status().faults == ()
    desk.show(pixels[2500:4000])
    assert recorder.status().faults == ()
    desk.show(pixels[4000:])
    desk.finish()
    missing = recorder.lines_missing
    desk.stop_recorder()
    recorded = recorded_lines(desk)
    assert all(recorded[i] == pixels[i].tobytes() for i in recorded)
    assert set(range(2500, 4000)) <= set(recorded)
    assert len(recorded) + missing == 6000
    assert in_gaps(replay_of(desk)) == set(range(max(recorded) + 1)) - set(recorded)
    found = desk.found()
    assert not in_gaps(found)
    inspector = Inspector(SETTINGS, Footprint(COLUMNS, 8, "cam0", "roll-000001"), nothing)
    assert found == inspector.push(pixels) + inspector.finish()
    faults = []
    while (received := world.receive()) is not None:
        if isinstance(received.message, Status) and received.message.stage == "recorder":
            faults.append("disk-full" in received.message.faults)
    assert True in faults
    assert False in faults[faults.index(True) :]


def test_what_waited_for_its_chunk_is_missing_too(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    recorder = desk.recorder
    assert recorder is not None
    pixels = web(640, 16, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    desk.show(pixels[:320])  # in memory: no chunk is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        recorder._tape.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert recorder.status().faults == ("disk-full", "lines-missing")
    assert recorder.lines_missing == 320
    assert desk.files() == []
    desk.turn(5, 1.0)
    desk.show(pixels[320:])
    desk.finish()
    desk.stop_recorder()
    assert recorder.lines_missing == 320
    assert sorted(recorded_lines(desk)) == list(range(320, 640))


@pytest.mark.usefixtures("small")
def test_a_copy_without_room_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom(McapWriter):
        def write(self, header: Frame, pixels: Image) -> None:
            raise FootageError("no room")

    monkeypatch.setattr("linescan.stages.recording_keeper.McapWriter", NoRoom)
    desk = desk_of(tmp_path, recording="file_mib = 1\nkeep_mib = 2")
    desk.show(web(2000, 17, 40))
    desk.finish()
    recorder = desk.recorder
    assert recorder is not None
    assert recorder.status().counters["copies_failed"] > 0
    desk.stop_recorder()
    assert len(recorded_lines(desk)) == 2000
    assert not list((desk.folder / "regions").iterdir())


def test_a_frame_of_a_wrong_size_is_counted(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    recorder = desk.recorder
    assert recorder is not None
    frame = Frame("cam0", 0, "roll-000001", 0, 4, COLUMNS, "Mono8", None, 1, 1)
    recorder._take_frame(frame, memoryview(bytes(7)))
    assert recorder.status().counters["garbage"] == 1
    desk.stop_recorder()


# ------------------------------------------------------------------------------------------ what is refused


def test_a_line_without_recording(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    with pytest.raises(ConfigError, match=r"line.toml: \[recording\] is missing"):
        Recorder(line, "cam0", Desk(line).network)


def test_two_recorders_and_a_folder_that_is_none(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    with pytest.raises(PeerError, match="another recorder writes there"):
        Recorder(desk.line, "cam0", desk.network)
    desk.stop_recorder()
    other = tmp_path / "other"
    other.mkdir()
    (other / "recordings").write_text("a file")
    with pytest.raises(PeerError, match="cannot be recorded to"):
        desk_of(other)


def test_a_roll_whose_name_is_no_file_name(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    desk.network.client(desk.line.control_endpoint).send(RollCommand("start", "../a b/ü", ""))
    desk.turn(5, 0.5)
    pixels = web(100, 18)
    desk.show(pixels)
    desk.finish()
    desk.stop_recorder()
    assert desk.files() == ["_a_b_-000001.mcap"]
    assert len(recorded_lines(desk, "../a b/ü")) == 100


def test_the_book_keeps_windows_as_a_set_would(tmp_path: Path) -> None:
    from linescan.stages.recording_book import Lines, RecordingBook

    generator = np.random.default_rng(19)
    for around in (0, 3):
        book, wanted = RecordingBook(tmp_path / f"book{around}.json", around), set()
        for _ in range(60):
            first = int(generator.integers(10, 1000))
            last = first + int(generator.integers(0, 12))
            book.add_region("roll", first, last)
            wanted |= set(range(first - around, last + around + 1))
        assert book.save()
        for one in (book, RecordingBook(tmp_path / f"book{around}.json", around)):
            for first in range(1030):
                for count in (1, 7):
                    lines = Lines("roll", first, first + count - 1)
                    assert one.wants(lines) == bool(wanted & set(range(first, first + count)))
        book.add_file("b", Lines("roll", 500, 1100))
        book.forget("a", ["b"], "other")
        assert not any(book.wants(Lines("roll", line, line)) for line in range(max(wanted & set(range(500)))))
        assert all(book.wants(Lines("roll", line, line)) for line in wanted if line >= 500)


# ------------------------------------------------------------------------------------------ processes

LINE = """
recipe = "{root}/config/recipes/weave.toml"
rolls = "commanded"
[[cameras]]
name = "cam0"
producer = "none.cti"
serial = "1"
max_line_rate_hz = 100000.0
[transport]
directory = "run"
[worker]
device = "cpu"
precision = "float32"
batch = 16
threads = 1
[journal]
file = "journal.sqlite"
[recording]
directory = "recordings"
file_mib = 1
"""
EXECUTION = ["--device", "cpu", "--precision", "float32", "--batch", "16", "--threads", "1"]


class Process:
    """A stage as systemd would start it; its log goes to a file."""

    def __init__(self, folder: Path, stage: str, ready: str) -> None:
        self.log = folder / f"{stage}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "linescan.cli.main", stage, "--config", str(folder / "line.toml")],
                stderr=log,
                cwd=ROOT,
            )
        self._ready = ready

    def __enter__(self) -> Process:
        until = time.monotonic() + 120
        while f'"{self._ready}"' not in self.log.read_text(encoding="utf-8"):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.05)
        return self

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()


def linescan(module: str, *arguments: object) -> str:
    command = [sys.executable, "-c", f"import sys; from linescan.cli.{module} import main; sys.exit(main())"]
    done = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_recorded_line_of_processes_replays_to_its_events(tmp_path: Path) -> None:
    line = tmp_path / "line.toml"
    line.write_text(LINE.format(root=ROOT), encoding="utf-8")
    with ExitStack() as stack:
        publisher = stack.enter_context(Process(tmp_path, "publisher", "publishing"))
        record = stack.enter_context(Process(tmp_path, "record", "ready"))
        worker = stack.enter_context(Process(tmp_path, "worker", "ready"))
        linescan("replay", ROOT / "tools/demo/plain", "--config", line, "--quiet")
        told = linescan("main", "events", "--config", line, "--since", 0, "--json", "--until-roll-end")
        assert record.stop() == 0
        assert worker.stop() == 0
        assert publisher.stop() == 0
    files = list((tmp_path / "recordings/cam0").glob("*.mcap"))
    assert len(files) > 1
    assert all(path.read_bytes().endswith(b"\x89MCAP0\r\n") for path in files)
    recipe = ROOT / "config/recipes/weave.toml"
    linescan("replay", files[0].parent, "--recipe", recipe, *EXECUTION, "--quiet", "--output", tmp_path / "out")
    live = [json.loads(line) for line in told.splitlines()]
    again = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(event["type"] == "region" and event["phase"] == "close" for event in live) > 5
    stored = ("sequence", "run", "utc_ns", "replayed")
    assert [{name: event[name] for name in event if name not in stored} for event in live[1:]] == again[1:]
    for name in ("type", "camera", "roll", "recipe"):
        assert live[0][name] == again[0][name]
    assert again[0]["settings"].items() <= live[0]["settings"].items()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (LINE.split("[recording]", maxsplit=1)[0], 2, "[recording] is missing"),
        (LINE.replace('"recordings"', '"line.toml"'), 69, "cannot be recorded to"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    (tmp_path / "line.toml").write_text(line.format(root=ROOT), encoding="utf-8")
    assert main(["record", "--config", str(tmp_path / "line.toml")]) == code
    assert said in capsys.readouterr().err
    assert main(["record", "--config", str(tmp_path / "line.toml"), "--camera", "other"]) == 2
    assert "no such camera" in capsys.readouterr().err


def test_the_command_records_until_it_is_stopped(tmp_path: Path) -> None:
    """Nobody else runs: it waits, and is alive."""
    (tmp_path / "line.toml").write_text(LINE.format(root=ROOT), encoding="utf-8")
    with Process(tmp_path, "record", "ready") as record:
        time.sleep(0.3)
        assert record.process.poll() is None
        assert record.stop() == 0
    assert '"lines_missing": 0' in record.log.read_text(encoding="utf-8")
