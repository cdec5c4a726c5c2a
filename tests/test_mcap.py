"""MCAP recordings: exact, readable after a kill, and nothing is missing without a word."""

from __future__ import annotations

import dataclasses
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from linescan import codec, messages
from linescan.errors import FootageError
from linescan.footage import FootageFrame, McapFootage, McapWriter, open_footage
from linescan.footage.mcap import ENCODING, SCHEMA, pack
from linescan.pixels import FORMATS

Image = NDArray[Any]
COLUMNS, LINES, TALL = 40, 16, 64


def header(number: int, **fields: Any) -> messages.Frame:
    """The header of the frame with that number, frames following each other without a gap."""
    frame = messages.Frame(
        camera="cam0",
        epoch=1,
        roll="roll-1",
        first_line=number * LINES,
        lines=LINES,
        columns=COLUMNS,
        pixel_format="Mono8",
        encoder_count=number * 1000,
        monotonic_ns=number,
        utc_ns=1_700_000_000_000_000_000 + number,
    )
    return dataclasses.replace(frame, **fields)


def tall(number: int) -> messages.Frame:
    """A frame of such a height that chunks of at least 8000 bytes hold three, the first one too (it has the schema)."""
    return header(number, lines=TALL, first_line=number * TALL)


def picture(of: messages.Frame) -> Image:
    dtype, channels, bits = FORMATS[of.pixel_format]
    shape = (of.lines, of.columns) if channels == 1 else (of.lines, of.columns, channels)
    return np.random.default_rng(of.first_line).integers(0, 1 << bits, shape).astype(dtype)


def record(path: Path, headers: list[messages.Frame], **options: Any) -> bytes:
    with McapWriter(path, headers[0].camera, **options) as writer:
        for head in headers:
            writer.write(head, picture(head))
    return path.read_bytes()


def read(path: Path, **options: Any) -> tuple[list[FootageFrame], McapFootage]:
    footage = open_footage(path, **options)
    assert isinstance(footage, McapFootage)
    return list(footage), footage


def same(frame: FootageFrame, head: messages.Frame) -> bool:
    expected = picture(head)
    if frame.pixels is None or frame.header != head or frame.pixels.dtype != expected.dtype:
        return False
    return frame.pixels.shape == expected.shape and bool((frame.pixels == expected).all())


# ------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_frames_come_back_exactly(tmp_path: Path, pixel_format: str, compression: str) -> None:
    if compression != "none":
        pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[compression])
    headers = [header(i, pixel_format=pixel_format) for i in (0, 1, 2, 7, 8)]  # lines were lost after the third
    path = tmp_path / "roll.mcap"
    record(path, headers, compression=compression)
    frames, footage = read(path)
    assert all(same(frame, head) for frame, head in zip(frames, headers, strict=True))
    assert [frame.name for frame in frames] == [f"roll.mcap#{i}" for i in range(5)]
    assert [frame.first_line for frame in frames] == [head.first_line for head in headers]
    _, channels, bits = FORMATS[pixel_format]  # type: ignore[index]
    assert (footage.columns, footage.channels, footage.bit_depth) == (COLUMNS, channels, bits)
    assert footage.total_lines == 5 * LINES
    assert (footage.truncated, footage.ignored, footage.damaged, footage.camera) == (None, 0, 0, "cam0")
    assert frames[0].pixels is not None
    assert frames[0].pixels.flags.writeable
    assert frames[0].pixels.flags.aligned


@pytest.mark.parametrize("chunk_bytes", [0, 3000, 1 << 20])
def test_other_readers_can_read_it(tmp_path: Path, chunk_bytes: int) -> None:
    headers = [header(i) for i in range(10)]
    record(tmp_path / "roll.mcap", headers, chunk_bytes=chunk_bytes)
    with (tmp_path / "roll.mcap").open("rb") as stream:
        found = list(make_reader(stream, validate_crcs=True).iter_messages())
    for (schema, channel, message), head in zip(found, headers, strict=True):
        assert schema is not None
        assert (schema.name, schema.data) == (ENCODING, SCHEMA)
        assert (channel.topic, channel.message_encoding) == ("/frames/cam0", ENCODING)
        assert (message.log_time, message.data) == (head.utc_ns, pack(head, picture(head)))


def test_what_the_writer_refuses(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    with McapWriter(path, "cam0") as writer:
        writer.write(header(0), picture(header(0)))
        with pytest.raises(FootageError, match="a frame of camera 'cam1', 'cam0' expected"):
            writer.write(header(1, camera="cam1"), picture(header(1)))
        with pytest.raises(FootageError, match=r"uint16 pixels of shape .* Mono8 of .* announced"):
            writer.write(header(1), picture(header(1)).astype(np.uint16))
        with pytest.raises(FootageError, match=r"shape \(15, 40\)"):
            writer.write(header(1), picture(header(1))[1:])
        writer.write(header(1), picture(header(1))[:, ::-1])  # not contiguous
    with pytest.raises(FootageError, match="the recording has ended"):
        writer.write(header(2), picture(header(2)))
    writer.close()
    frames, _ = read(path)
    assert len(frames) == 2
    assert np.array_equal(np.asarray(frames[1].pixels), picture(header(1))[:, ::-1])
    with pytest.raises(FootageError, match="cannot be created: File exists"):
        McapWriter(path, "cam0")
    with pytest.raises(FootageError, match="cannot be created: No such file"):
        McapWriter(tmp_path / "nowhere" / "roll.mcap", "cam0")


def write_all(writer: McapWriter, written: list[int]) -> None:
    for i in range(100):
        writer.write(header(i), picture(header(i)))
        written.append(i)


def test_a_full_disk_ends_the_recording_and_keeps_what_is_there(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "roll.mcap"
    written: list[int] = []
    with McapWriter(path, "cam0", chunk_bytes=0) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            with pytest.raises(FootageError, match="cannot be written: File too large"):
                write_all(writer, written)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with pytest.raises(FootageError, match="the recording has ended"):
            writer.write(header(0), picture(header(0)))
    frames, footage = read(path)
    assert len(frames) >= len(written) > 5
    assert all(same(frame, header(i)) for i, frame in enumerate(frames))
    assert "was not finished" in (footage.truncated or "")


# ------------------------------------------------------------------------------------------------ cut off, damaged

WRITE_FOREVER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_mcap import McapWriter, header, picture
with McapWriter(sys.argv[1], "cam0", chunk_bytes=0) as writer:
    for i in range(1000000):
        writer.write(header(i), picture(header(i)))
        print(i, flush=True)
"""


def test_a_killed_recording_has_all_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    command = [sys.executable, "-c", WRITE_FOREVER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        written = 50 + len([line for line in process.stdout.read().split("\n")[:-1] if line])
    assert process.returncode == -signal.SIGKILL
    frames, footage = read(path)
    assert len(frames) in (written, written + 1)  # killed between writing a frame and saying so
    assert all(same(frame, header(i)) for i, frame in enumerate(frames))
    assert "was not finished" in (footage.truncated or "")
    assert footage.total_lines is None


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_cut_off_recordings_give_their_whole_chunks(tmp_path: Path, compression: str) -> None:
    if compression != "none":
        pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[compression])
    headers = [tall(i) for i in range(12)]
    path = tmp_path / "roll.mcap"
    data = record(path, headers, compression=compression, chunk_bytes=8000)
    random = np.random.default_rng(3)
    counts = set()
    for length in sorted({0, 3, 8, 9, 40, len(data) - 1, *random.integers(0, len(data), 80).tolist()}):
        path.write_bytes(data[:length])
        try:
            frames, footage = read(path)
        except FootageError:
            counts.add(0)
            continue
        assert all(same(frame, head) for frame, head in zip(frames, headers, strict=False))
        assert len(frames) == 12 or footage.truncated
        counts.add(len(frames))
    assert counts == {0, 3, 6, 9, 12}


@pytest.mark.parametrize("finished", [True, False])
def test_flipped_bits_are_never_silent(tmp_path: Path, finished: bool) -> None:
    headers = [header(i) for i in range(6)]
    path = tmp_path / "roll.mcap"
    data = record(path, headers, chunk_bytes=0)
    length = len(data) if finished else data.rindex(b"roll-1") + 1200  # within the index behind the last frame
    random = np.random.default_rng(4)
    for _ in range(200):
        damaged = bytearray(data[:length])
        damaged[random.integers(length)] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            frames, footage = read(path)
        except FootageError:
            continue
        readable = [frame for frame in frames if frame.pixels is not None]
        assert all(frame.header is not None and same(frame, frame.header) for frame in readable)
        lost = [frame for frame in frames if frame.pixels is None]
        assert len(readable) == 6 or lost or footage.truncated or _jumps(readable)


def _jumps(frames: list[FootageFrame]) -> bool:
    """Whether the line numbers tell that frames are missing."""
    expected = 0
    for frame in frames:
        assert frame.first_line is not None
        if frame.first_line != expected:
            return True
        expected += frame.lines
    return False


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_chunk_is_one_unreadable_frame(tmp_path: Path, place: str, finished: bool) -> None:
    headers = [tall(i) for i in range(5, 17)]
    path = tmp_path / "roll.mcap"
    data = bytearray(record(path, headers, chunk_bytes=8000))
    victims = {"first": headers[:3], "middle": headers[6:9], "last": headers[9:]}[place]
    data[data.index(picture(victims[1]).tobytes()) + 77] ^= 1
    path.write_bytes(data if finished else data[: data.index(b"\x0f" + struct.pack("<Q", 4))])
    frames, footage = read(path)
    (lost,) = (frame for frame in frames if frame.pixels is None)
    assert "crc validation failed" in (lost.error or "")
    readable = [frame for frame in frames if frame.pixels is not None]
    expected = [head for head in headers if head not in victims]
    assert all(same(frame, head) for frame, head in zip(readable, expected, strict=True))
    assert footage.damaged == 1
    assert footage.truncated
    if place == "middle":
        assert (lost.first_line, lost.lines, lost.estimated) == (victims[0].first_line, 3 * TALL, False)
    elif place == "last":
        assert (lost.first_line, lost.lines, lost.estimated) == (victims[0].first_line, TALL, True)
    else:
        assert (lost.first_line, lost.lines, lost.estimated) == (victims[-1].first_line, TALL, True)


def test_wrong_record_length_ends_the_reading_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    data = bytearray(record(path, [header(i) for i in range(4)], chunk_bytes=0))
    at = 8
    for _ in range(5):  # header, then chunk and message index, twice
        at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
    assert data[at] == 0x06
    struct.pack_into("<Q", data, at + 1, 1 << 50)
    path.write_bytes(data)
    frames, footage = read(path)
    assert [frame.first_line for frame in frames] == [0, LINES]
    assert f"its records end at byte {at}" in (footage.truncated or "")


# ------------------------------------------------------------------------------------------------ other contents


def write_messages(path: Path, topics: list[tuple[str, str, bytes]], *, finish: bool = True, **options: Any) -> None:
    """An MCAP file of (topic, encoding, data), as another program may write it."""
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE, **options)
        writer.start()
        channels: dict[str, int] = {}
        for topic, encoding, data in topics:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, encoding, 0)
            writer.add_message(channels[topic], 0, data, 0)
        if finish:
            writer.finish()  # type: ignore[no-untyped-call]


def frame_of(camera: str, number: int) -> tuple[str, str, bytes]:
    head = header(number, camera=camera)
    return f"/frames/{camera}", ENCODING, pack(head, picture(head))


@pytest.mark.parametrize("options", [{}, {"chunk_size": 0}, {"use_chunking": False}])
@pytest.mark.parametrize("finish", [True, False])
def test_one_of_several_cameras(tmp_path: Path, finish: bool, options: dict[str, Any]) -> None:
    path = tmp_path / "line.mcap"
    contents = [frame_of(camera, i) for i in range(4) for camera in ("left", "right")]
    contents += [("/plc", "json", b"{}"), ("/frames/left-preview", "jpeg", b"\xff\xd8")]
    write_messages(path, contents, finish=finish, **options)
    if not finish and not options:
        with pytest.raises(FootageError, match="it holds no frame"):  # all were in the first chunk
            open_footage(path)
        return
    with pytest.raises(FootageError, match="cameras left, right: choose one"):
        read(path)  # an unfinished one says so only at the second camera's first frame
    for camera in ("left", "right"):
        frames, footage = read(path, camera=camera)
        assert all(same(frame, header(i, camera=camera)) for i, frame in enumerate(frames))
        assert (len(frames), footage.ignored, footage.camera) == (4, 6 if finish else footage.ignored, camera)
        assert footage.total_lines == (4 * LINES if finish else None)
    with pytest.raises(FootageError, match=r"camera 'top' expected|holds no frame"):
        open_footage(path, camera="top")


def test_other_topics_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "line.mcap"
    write_messages(path, [("/plc", "json", b"{}"), frame_of("cam0", 0), ("/plc", "json", b"{}"), frame_of("cam0", 1)])
    frames, footage = read(path)
    assert [same(frame, header(i)) for i, frame in enumerate(frames)] == [True, True]
    assert (footage.ignored, footage.truncated) == (2, None)


@pytest.mark.parametrize("first", ["left", "right"])
def test_another_cameras_damaged_chunk_takes_nothing_away(tmp_path: Path, first: str) -> None:
    path = tmp_path / "line.mcap"
    order = [("left", 0), ("right", 1), ("left", 1)] if first == "left" else [("right", 1), ("left", 0), ("left", 1)]
    write_messages(path, [frame_of(camera, i) for camera, i in order], chunk_size=0)
    data = bytearray(path.read_bytes())
    data[data.index(frame_of("right", 1)[2]) + 300] ^= 1
    path.write_bytes(data)
    frames, footage = read(path, camera="left")
    assert [same(frame, header(i, camera="left")) for i, frame in enumerate(frames)] == [True, True]
    assert (footage.damaged, footage.truncated) == (1, None)


SECOND = pack(header(1), picture(header(1)))
END = codec.encode(messages.RollEnd("cam0", "roll-1", 1, 1, 1, 0))
NO_FRAMES = {
    b"ab": "is a message of 2 bytes",
    b"\xff\xff\xff\x7f": "has an unreadable header",
    struct.pack("<I", 3) + b"abc": "has an unreadable header",
    struct.pack("<I", len(END)) + END: "has a header that is not a frame's",
    SECOND + b"x": "has 641 bytes of pixels, 640 expected",
    SECOND[:-1]: "has 639 bytes of pixels, 640 expected",
    pack(header(1, camera="cam9"), picture(header(1))): "is of camera 'cam9', recorded as 'cam0'",
    pack(header(1, columns=8), picture(header(1, columns=8))): "is 8 columns wide, the footage before it 40",
    pack(header(1, pixel_format="Mono16"), picture(header(1, pixel_format="Mono16"))): "has 16 bits a value",
}


@pytest.mark.parametrize(("data", "error"), NO_FRAMES.items(), ids=range(len(NO_FRAMES)))
def test_messages_that_are_no_frames_are_unreadable(tmp_path: Path, data: bytes, error: str) -> None:
    path = tmp_path / "line.mcap"
    contents = [pack(header(0), picture(header(0))), data, pack(header(2), picture(header(2)))]
    write_messages(path, [("/frames/cam0", ENCODING, content) for content in contents])
    (before, bad, after), footage = read(path)
    assert same(before, header(0))
    assert same(after, header(2))
    assert error in (bad.error or "")
    assert (bad.pixels, bad.first_line, bad.lines, bad.estimated) == (None, LINES, LINES, False)
    assert (footage.ignored, footage.truncated) == (0, None)


def test_values_beyond_full_scale(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    head = header(1, pixel_format="Mono12")
    with McapWriter(path, "cam0") as writer:
        writer.write(header(0, pixel_format="Mono12"), np.full((LINES, COLUMNS), 4095, np.uint16))
        writer.write(head, np.full((LINES, COLUMNS), 4096, np.uint16))
    good, bad = read(path)[0]
    assert good.pixels is not None
    assert bad.error == "holds the value 4096, too large for 12 bits"
    assert (bad.first_line, bad.header) == (LINES, head)


def test_a_damaged_chunk_between_rolls(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    headers = [header(0), header(1), header(2), *(header(i, roll="roll-2") for i in (0, 1))]
    data = bytearray(record(path, headers, chunk_bytes=0))
    data[data.index(picture(headers[2]).tobytes())] ^= 1
    path.write_bytes(data)
    frames, _ = read(path)
    assert [(frame.first_line, frame.lines, frame.pixels is None) for frame in frames] == [
        (0, LINES, False),
        (LINES, LINES, False),
        (2 * LINES, LINES, True),
        (0, LINES, False),
        (LINES, LINES, False),
    ]
    assert frames[2].estimated


def test_what_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "roll.mcap"
    for data in (b"", b"no recording at all", b"\x89MCAP0\r"):
        path.write_bytes(data)
        with pytest.raises(FootageError, match="an MCAP recording expected"):
            open_footage(path)
    path.unlink()
    McapWriter(path, "cam0").close()
    with pytest.raises(FootageError, match="it holds no frame"):
        open_footage(path)
    write_messages(path, [("/plc", "json", b"{}")])
    with pytest.raises(FootageError, match="frames of a camera expected"):
        open_footage(path)
