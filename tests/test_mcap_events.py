"""What acquire says between frames comes back from MCAP recordings, of one file or several, as gaps in their places."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from linescan import codec, messages
from linescan.errors import FootageError
from linescan.footage import FootageFrame, McapFootage, McapWriter, open_footage
from linescan.footage.mcap import EVENT_ENCODING, RollEvent
from linescan.messages import Frame, Gap, RollEnd, RollStart, StreamEnd

LINES, COLUMNS = 16, 40
Item = Frame | RollEvent


def frame(first: int, roll: str = "a", camera: str = "cam0", lines: int = LINES) -> Frame:
    return Frame(camera, 1, roll, first, lines, COLUMNS, "Mono8", None, first, 1000 + first)


def gap(first: int, last: int, cause: Any = "overrun", roll: str = "a") -> Gap:
    return Gap("cam0", roll, first, last, cause, estimated=cause == "acquire-lost")


def end(lines: int, roll: str = "a") -> RollEnd:
    return RollEnd("cam0", roll, lines, 0, 0, 0)


def picture(of: Frame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(of.first_line).integers(0, 255, (of.lines, of.columns)).astype(np.uint8)


def record(path: Path, items: Sequence[Item], camera: str = "cam0", **options: Any) -> bytes:
    with McapWriter(path, camera, **options) as writer:
        for item in items:
            if isinstance(item, Frame):
                writer.write(item, picture(item))
            else:
                writer.write_event(item, 1000)
        assert writer.size >= path.stat().st_size
    return path.read_bytes()


def read(*paths: Path, **options: Any) -> tuple[list[FootageFrame], McapFootage]:
    footage = open_footage(list(paths) if len(paths) > 1 else paths[0], **options)
    assert isinstance(footage, McapFootage)
    return list(footage), footage


def told(frames: list[FootageFrame]) -> list[tuple[Any, ...]]:
    """Each frame: roll, first line, lines, and of one without pixels why."""
    return [
        (one.roll, one.first_line, one.lines, *(() if one.pixels is not None else (one.cause, one.estimated)))
        for one in frames
    ]


START = RollStart("cam0", "a", "weave", 0, {"columns": COLUMNS})


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [0, 2000, 1 << 20])
def test_gaps_come_back_in_their_places(tmp_path: Path, chunk_bytes: int, compression: Any) -> None:
    if compression != "none":
        pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[compression])
    items = [
        START, gap(0, 4), frame(5), frame(21), gap(37, 40, "incomplete"), frame(41), StreamEnd("cam0", "a"),
        gap(57, 99, "acquire-lost"), frame(100), end(120), frame(0, "b"),
    ]  # fmt: skip
    record(tmp_path / "x.mcap", items, chunk_bytes=chunk_bytes, compression=compression)
    frames, footage = read(tmp_path / "x.mcap")
    assert told(frames) == [
        ("a", 0, 5, "overrun", False),
        ("a", 5, 16),
        ("a", 21, 16),
        ("a", 37, 4, "incomplete", False),
        ("a", 41, 16),
        ("a", 57, 0, "shutdown", False),
        ("a", 57, 43, "acquire-lost", True),
        ("a", 100, 16),
        ("a", 116, 4, "incomplete", False),
        ("b", 0, 16),
    ]
    assert frames[0].error == "was lost before it could be recorded (overrun)"
    assert (footage.ignored, footage.damaged, footage.truncated, footage.camera) == (0, 0, None, "cam0")
    assert footage.total_lines == 5 * LINES


def test_other_readers_find_frames_and_events(tmp_path: Path) -> None:
    record(tmp_path / "x.mcap", [START, frame(0), gap(16, 20), frame(21), end(37)], chunk_bytes=1500)
    with (tmp_path / "x.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        found = [(channel.topic, channel.message_encoding) for _, channel, _ in reader.iter_messages()]
        summary = reader.get_summary()
    assert found.count(("/frames/cam0", "linescan-frame")) == 2
    assert found.count(("/events/cam0", EVENT_ENCODING)) == 3
    assert summary is not None
    assert summary.statistics is not None
    assert (summary.statistics.message_count, summary.statistics.chunk_count) == (5, len(summary.chunk_indexes))
    with (tmp_path / "x.mcap").open("rb") as stream:
        events = [message.data for _, _, message in make_reader(stream).iter_messages(topics=["/events/cam0"])]
    assert [codec.decode(data) for data in events] == [START, gap(16, 20), end(37)]
    assert summary.statistics.message_start_time == summary.statistics.message_end_time - 21 == 1000


def test_lines_that_the_recording_has_are_in_no_gap(tmp_path: Path) -> None:
    """Acquire that was killed tells of a gap from where the journal was, which may be behind the recording."""
    items = [frame(0), frame(16), gap(20, 49, "acquire-lost"), frame(50), gap(51, 60), frame(66)]
    record(tmp_path / "x.mcap", items)
    assert told(read(tmp_path / "x.mcap")[0]) == [
        ("a", 0, 16),
        ("a", 16, 16),
        ("a", 32, 18, "acquire-lost", True),
        ("a", 50, 16),
        ("a", 66, 0, "overrun", False),
        ("a", 66, 16),
    ]


def test_damage_before_a_gap_takes_only_what_lies_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.mcap"
    data = bytearray(record(path, [frame(0), frame(16), gap(32, 39), frame(40), frame(56), end(80)], chunk_bytes=0))
    for victim in (frame(16), frame(56)):
        data[data.index(picture(victim).tobytes()) + 9] ^= 1
    path.write_bytes(data)
    frames, footage = read(path)
    assert told(frames) == [
        ("a", 0, 16),
        (None, 16, 16, "unreadable", False),
        ("a", 32, 8, "overrun", False),
        ("a", 40, 16),
        (None, 56, 24, "unreadable", False),
    ]
    assert footage.damaged == 2


def test_events_are_known_without_their_channel(tmp_path: Path) -> None:
    path = tmp_path / "x.mcap"
    data = bytearray(record(path, [START, frame(0), gap(16, 39), frame(40)], chunk_bytes=0))
    data[data.index(b"weave") + 2] ^= 1  # in the first chunk, with both channels
    path.write_bytes(data[: data.index(b"\x0f" + struct.pack("<Q", 4))])  # and there is no summary
    assert told(read(path)[0]) == [("a", 0, 16), ("a", 16, 24, "overrun", False), ("a", 40, 16)]


def test_events_that_are_none_are_counted(tmp_path: Path) -> None:
    with McapWriter(tmp_path / "x.mcap", "cam0") as writer:
        writer.write(frame(0), picture(frame(0)))
        writer.write_event(gap(16, 20))
        channel = writer._event_channel
        assert channel is not None
        for data in (b"", b"\x80", codec.encode(messages.Hello("cam0", "x", "worker"))):
            writer._writer.add(channel, 1, [data])
        with pytest.raises(FootageError, match="gap of camera 'cam1', 'cam0' expected"):
            writer.write_event(Gap("cam1", "a", 0, 1, "overrun"))
    with pytest.raises(FootageError, match="the recording has ended"):
        writer.write_event(gap(16, 20))
    frames, footage = read(tmp_path / "x.mcap")
    assert len(frames) == 2
    assert footage.ignored == 3


# ------------------------------------------------------------------------------------------------ several files


def test_files_come_by_their_number_as_one_recording(tmp_path: Path) -> None:
    record(tmp_path / "b-10.mcap", [frame(48), frame(0, "b")])
    record(tmp_path / "a-9.mcap", [START, frame(16), frame(32)])
    record(tmp_path / "c-2.mcap", [frame(0)])
    expected = [("a", 0, 16), ("a", 16, 16), ("a", 32, 16), ("a", 48, 16), ("b", 0, 16)]
    for given in ([tmp_path], [tmp_path / "*.mcap"], list(tmp_path.iterdir())):
        frames, footage = read(*given)
        assert told(frames) == expected
        assert [one.name for one in frames] == ["c-2.mcap#0", "a-9.mcap#0", "a-9.mcap#1", "b-10.mcap#0", "b-10.mcap#1"]
        assert footage.total_lines == 5 * LINES
        assert footage.truncated is None


@pytest.mark.parametrize("cut", [0, 3, 8, 30, -5])
def test_a_part_that_is_cut_off_is_missing(tmp_path: Path, cut: int) -> None:
    for number in range(3):
        record(tmp_path / f"x-{number}.mcap", [frame(number * 16)])
    middle = tmp_path / "x-1.mcap"
    middle.write_bytes(middle.read_bytes()[:cut])
    frames, footage = read(tmp_path)
    assert [one.first_line for one in frames] == ([0, 16, 32] if cut == -5 else [0, 32])
    assert footage.total_lines is None
    assert cut == -5 or "x-1.mcap was not finished" in (footage.truncated or "")


def test_damage_on_the_seam_of_two_files(tmp_path: Path) -> None:
    record(tmp_path / "x-1.mcap", [frame(0), frame(16)], chunk_bytes=0)
    record(tmp_path / "x-2.mcap", [frame(32), frame(48)], chunk_bytes=0)
    for name, victim in (("x-1.mcap", frame(16)), ("x-2.mcap", frame(32))):
        data = bytearray((tmp_path / name).read_bytes())
        data[data.index(picture(victim).tobytes()) + 5] ^= 1
        (tmp_path / name).write_bytes(data)
    frames, footage = read(tmp_path)
    assert told(frames) == [("a", 0, 16), (None, 16, 32, "unreadable", False), ("a", 48, 16)]
    assert footage.damaged == 2


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    record(tmp_path / "x-1.mcap", [frame(0)])
    record(tmp_path / "x-2.mcap", [frame(0, camera="cam1")], "cam1")
    with pytest.raises(FootageError, match="frames of the cameras cam0, cam1"):
        read(tmp_path)
    assert told(read(tmp_path, camera="cam1")[0]) == [("a", 0, 16)]
    (tmp_path / "x-3.mcap").write_bytes(b"no recording")
    with pytest.raises(FootageError, match=r"x-3.mcap: an MCAP recording expected"):
        read(tmp_path)
    (tmp_path / "x-3.mcap").unlink()
    for name in ("x-1.mcap", "x-2.mcap"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FootageError, match="a readable frame expected, but it holds no frame"):
        read(tmp_path)
    (tmp_path / "film.avi").write_bytes(b"")
    with pytest.raises(FootageError, match="files of one kind expected"):
        read(tmp_path / "film.avi", tmp_path / "x-1.mcap")
