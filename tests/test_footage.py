"""Images, TIFF stacks and videos: read exactly, or said to be unreadable; never a crash, never made-up pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from linescan.errors import FootageError
from linescan.footage import FootageFrame, open_footage, write_image
from linescan.footage.video import is_cut_off

Image = NDArray[Any]
COLUMNS, LINES = 48, 32


def picture(seed: int, *, lines: int = LINES, columns: int = COLUMNS, channels: int = 1, bits: int = 8) -> Image:
    shape = (lines, columns) if channels == 1 else (lines, columns, channels)
    values = np.random.default_rng(seed).integers(0, 1 << bits, shape)
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def encode(suffix: str, image: Image) -> bytes:
    done, data = cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)
    assert done
    return data.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: Image, colour: int, bits: int, *between: bytes, columns: int | None = None) -> bytes:
    """A PNG file of rows of bytes, with chunks between its header and its pixels."""
    header = struct.pack(">IIBBBBB", columns or rows.shape[1], rows.shape[0], bits, colour, 0, 0, 0)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = (chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read(*paths: Path | str, **options: Any) -> list[FootageFrame]:
    with open_footage(paths, **options) as footage:
        return list(footage)


def pixels(frame: FootageFrame) -> Image:
    assert frame.pixels is not None, f"{frame.name} {frame.error}"
    assert frame.error is None
    assert frame.lines == frame.pixels.shape[0]
    return frame.pixels


def same(frame: FootageFrame, image: Image) -> bool:
    found = pixels(frame)
    return found.dtype == image.dtype and found.shape == image.shape and bool((found == image).all())


def cuts(data: bytes, number: int, seed: int = 0) -> list[int]:
    """Lengths to cut a file to: both ends, and places in between."""
    places = np.random.default_rng(seed).integers(0, len(data), number)
    return sorted({0, 1, 7, 8, len(data) - 1, *places.tolist()})


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_images_come_back_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    images = [picture(i, channels=channels, lines=LINES + i) for i in range(3)]
    for i, image in enumerate(images):
        (tmp_path / f"{i}{suffix}").write_bytes(encode(suffix.lower(), image))
    with open_footage([tmp_path]) as footage:
        assert (footage.columns, footage.channels, footage.bit_depth) == (COLUMNS, channels, 8)
        assert footage.total_lines == 3 * LINES
        frames = list(footage)
        assert [frame.name for frame in frames] == [f"{i}{suffix}" for i in range(3)]
        assert all(same(frame, image) for frame, image in zip(frames, images, strict=True))
        assert [frame.name for frame in footage] == [frame.name for frame in frames]  # from the beginning again


def test_jpeg_keeps_its_stored_orientation(tmp_path: Path) -> None:
    data = encode(".jpg", cv2.GaussianBlur(picture(0, channels=3), (0, 0), 3))
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpeg").write_bytes(data[:2] + exif + data[2:])
    plain, turned = read(tmp_path)
    assert same(plain, np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))[..., ::-1])
    assert same(turned, pixels(plain))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits(tmp_path: Path, suffix: str, channels: int) -> None:
    image = picture(0, bits=12, channels=channels)
    path = tmp_path / f"frame{suffix}"
    path.write_bytes(encode(suffix, image))
    for given, depth in ((None, 16), (12, 12), (16, 16)):
        with open_footage(path, bit_depth=given) as footage:
            assert footage.bit_depth == depth
            (frame,) = footage
            assert same(frame, image)
            assert frame.bit_depth == depth
    with pytest.raises(FootageError, match=r"holds the value \d+, too large for 10 bits"):
        open_footage(path, bit_depth=10)


def test_values_beyond_full_scale_make_a_frame_unreadable(tmp_path: Path) -> None:
    image = picture(0, bits=12)
    write_image(tmp_path / "0.png", image)
    write_image(tmp_path / "1.png", image + np.uint16(4096))
    good, bad = read(tmp_path, bit_depth=12)
    assert same(good, image)
    assert bad.pixels is None
    assert bad.lines == LINES
    assert "too large for 12 bits" in (bad.error or "")


PALETTE = chunk(b"PLTE", np.random.default_rng(7).integers(0, 256, 48, np.uint8).tobytes())
GREY_PALETTE = chunk(b"PLTE", np.repeat(np.arange(0, 256, 16, dtype=np.uint8), 3).tobytes())


def test_palettes_and_few_bits_become_eight(tmp_path: Path) -> None:
    bits = picture(0) > 127
    (tmp_path / "bits.png").write_bytes(png(np.packbits(bits, axis=1), 0, 1, columns=COLUMNS))
    (frame,) = read(tmp_path / "bits.png")
    assert same(frame, np.where(bits, 255, 0).astype(np.uint8))
    indices = picture(1) % 16
    (tmp_path / "colours.png").write_bytes(png(indices, 3, 8, PALETTE))
    (frame,) = read(tmp_path / "colours.png")
    assert same(frame, np.frombuffer(PALETTE[8:-4], np.uint8).reshape(16, 3)[indices])
    (tmp_path / "greys.png").write_bytes(png(indices, 3, 8, GREY_PALETTE))
    (frame,) = read(tmp_path / "greys.png")
    assert same(frame, indices * np.uint8(16))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path, channels: int, bits: int) -> None:
    image = picture(0, channels=channels, bits=bits)
    alpha = np.full((LINES, COLUMNS, 1), (1 << bits) - 1, image.dtype)
    for name in ("0", "1"):
        rows = np.concatenate([image.reshape(LINES, COLUMNS, -1), alpha], axis=2)
        stored = rows.astype(">u2" if bits == 16 else np.uint8).reshape(LINES, COLUMNS, -1)
        (tmp_path / f"{name}.png").write_bytes(png(stored, 4 if channels == 1 else 6, bits))
        alpha[3, 5] = 7
    opaque, transparent = read(tmp_path)
    assert same(opaque, image)
    assert transparent.pixels is None
    assert "transparent" in (transparent.error or "")


def test_bitmaps_with_unused_alpha_and_top_down(tmp_path: Path) -> None:
    image = picture(0, channels=3)
    rows = np.concatenate([image[..., ::-1], np.zeros((LINES, COLUMNS, 1), np.uint8)], axis=2)
    for name, height, stored in (("a", LINES, rows[::-1]), ("b", -LINES, rows)):
        header = struct.pack("<IiiHHIIiiII", 40, COLUMNS, height, 1, 32, 0, rows.size, 0, 0, 0, 0)
        file = b"BM" + struct.pack("<IHHI", 54 + rows.size, 0, 0, 54) + header + stored.tobytes()
        (tmp_path / f"{name}.bmp").write_bytes(file)
        (tmp_path / f"{name}-cut.bmp").write_bytes(file[:-1])
    down, down_cut, up, up_cut = sorted(read(tmp_path), key=lambda frame: (frame.name[0], len(frame.name)))
    assert same(down, image)
    assert same(up, image)
    assert [(frame.pixels, frame.lines, frame.estimated) for frame in (down_cut, up_cut)] == [(None, LINES, False)] * 2


def test_decoders_have_nothing_to_complain_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = picture(0)
    (tmp_path / "a.png").write_bytes(png(image, 0, 8, chunk(b"iCCP", b"x\0\0junk"), chunk(b"sRGB", b"\x09")))
    tifffile.imwrite(tmp_path / "b.tif", image, extratags=[(65000, "s", 0, "unknown", True)])
    (tmp_path / "c.png").write_bytes(encode(".png", image)[:-20])
    good, stack, bad = read(tmp_path)
    assert same(good, image)
    assert same(stack, image)
    assert bad.pixels is None
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------ which files


def test_folder_is_read_in_name_order_without_what_is_no_image(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "B.png", "a.png", ".hidden.png"):
        write_image(tmp_path / name, picture(0))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    frames = read(tmp_path)
    assert [frame.name for frame in frames] == ["10.png", "2.png", "B.png", "a.png", "c.png"]
    assert frames[-1].error == "cannot be read: No such file or directory"
    assert frames[-1].estimated


def test_pattern_list_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "Größe [1] 線"
    folder.mkdir()
    for name in ("b1.png", "b2.png", "c1.png"):
        write_image(folder / name, picture(int(name[1])))
    write_image(tmp_path / "d1.png", picture(1))
    assert [frame.name for frame in read(folder)] == ["b1.png", "b2.png", "c1.png"]
    assert [frame.name for frame in read(f"{tmp_path}/Gr*/?1.png")] == ["b1.png", "c1.png"]
    assert [frame.name for frame in read(f"{tmp_path}/**/*1.png")] == ["b1.png", "c1.png", "d1.png"]
    assert [frame.name for frame in read(folder / "c1.png", folder / "b1.png")] == ["b1.png", "c1.png"]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ([], {}, "no footage was named"),
        (["missing"], {}, "missing: No such file or directory"),
        (["empty"], {}, "empty: image files .* expected, the folder has none"),
        (["*.jpg"], {}, r"\*\.jpg: image files .* expected, none matches"),
        (["notes.txt"], {}, r"notes\.txt: image files .* expected"),
        (["a.png", "empty"], {}, "empty: a folder is footage of its own"),
        (["a.png", "film.avi"], {}, "files of one kind expected"),
        (["film.avi", "film2.avi"], {}, "2 recordings, one expected"),
        (["a.png", "?.png"], {}, r"a\.png: was named twice"),
        (["a.png"], {"bit_depth": 9}, "bit_depth=9: 10, 12 or 16 expected"),
        (["a.png"], {"bit_depth": 12}, "8 bits a value, but bit_depth=12 was given"),
        (["a.png"], {"camera": "cam0"}, "only MCAP recordings name cameras"),
        (["film.avi"], {"bit_depth": 12}, "only 16-bit images need it"),
        (["film.avi"], {}, "no video that can be decoded"),
    ],
)
def test_what_is_no_footage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    write_image(tmp_path / "a.png", picture(0))
    for name in ("film.avi", "film2.avi"):
        (tmp_path / name).write_bytes(b"no video")
    with pytest.raises(FootageError, match=said):
        open_footage(arguments, **options)


# ------------------------------------------------------------------------------------------------ what cannot be read


def test_a_frame_unlike_the_first_is_unreadable(tmp_path: Path) -> None:
    others = {
        "b": (picture(1, columns=50, lines=9), "is 50 columns wide, the footage before it 48"),
        "c": (picture(2, channels=3, lines=8), "has 3 channels, the footage before it 1"),
        "d": (picture(3, bits=16, lines=7), "has 16 bits a value, the footage before it 8"),
        "e": (picture(4).astype(np.float32), "holds float32 values: unsigned ones of 8 or 16 bits expected"),
        "f": (picture(5).astype(np.int16), "holds int16 values: unsigned ones of 8 or 16 bits expected"),
    }
    first, last = picture(0), picture(6)
    write_image(tmp_path / "a.tif", first)
    for name, (image, _) in others.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    write_image(tmp_path / "g.tif", last)
    frames = read(tmp_path)
    assert same(frames[0], first)
    assert same(frames[-1], last)
    for frame, (image, error) in zip(frames[1:-1], others.values(), strict=True):
        assert (frame.pixels, frame.error, frame.lines, frame.estimated) == (None, error, len(image), False)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    image = picture(0, lines=20)
    bad = {
        "b.png": (b"", "is empty"),
        "c.jpg": (b"hello, web", "is no PNG, BMP, TIFF or JPEG image"),
        "d.png": (png(image, 0, 8, chunk(b"acTL", bytes(8))), "is an animation"),
        "e.png": (png(image, 0, 8)[:8] + chunk(b"IDAT", b""), "does not begin with IHDR"),
        "f.png": (png(image, 9, 8), "cannot be decoded"),
        "g.bmp": (b"BM", "is cut off after 2 bytes"),
        "h.tif": (b"II*\0", "is cut off or damaged"),
    }
    write_image(tmp_path / "a.png", image)
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    frames = read(tmp_path)
    assert [frame.name for frame in frames] == ["a.png", *bad]
    for frame, (_, error) in zip(frames[1:], bad.values(), strict=True):
        assert frame.pixels is None
        assert frame.lines == 20
        assert error in (frame.error or "")


def test_absurd_heights_are_not_believed(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0))
    bitmap = bytearray(encode(".bmp", picture(0)))
    struct.pack_into("<i", bitmap, 22, 1 << 30)
    (tmp_path / "b.bmp").write_bytes(bitmap)
    stack = one_strip(picture(0).tobytes(), 8, LINES * COLUMNS)
    (tmp_path / "c.tif").write_bytes(
        stack.replace(struct.pack("<HHQQ", 257, 16, 1, LINES), struct.pack("<HHQQ", 257, 16, 1, 1 << 40))
    )
    assert [(frame.lines, frame.estimated) for frame in read(tmp_path)] == [(LINES, False), *[(LINES, True)] * 2]


def test_unknown_heights_are_those_of_the_frame_before(tmp_path: Path) -> None:
    for name, lines in (("b", 10), ("d", 20)):
        write_image(tmp_path / f"{name}.png", picture(0, lines=lines))
    for name in "ace":
        (tmp_path / f"{name}.png").write_bytes(b"")
    heights = [(frame.lines, frame.estimated) for frame in read(tmp_path)]
    assert heights == [(10, True), (10, False), (10, True), (20, False), (20, True)]


def test_nothing_readable_is_an_error_that_says_why(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(encode(".png", picture(0))[:-9])
    with pytest.raises(FootageError, match=r"a readable frame expected, but a\.png is cut off after \d+ bytes"):
        open_footage([tmp_path])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_cut_off_images_are_whole_or_unreadable(tmp_path: Path, suffix: str, channels: int) -> None:
    data = encode(suffix, picture(1, channels=channels))
    first = tmp_path / "0.png"
    write_image(first, picture(0, channels=channels, lines=5))
    path = tmp_path / f"1{suffix}"
    path.write_bytes(data)
    whole = pixels(read(tmp_path)[1])
    for length in cuts(data, 60):
        path.write_bytes(data[:length])
        frame = read(tmp_path)[1]
        if frame.pixels is not None:
            assert suffix == ".tif"  # its directory is followed by a byte that nothing refers to
            assert same(frame, whole)
            continue
        assert length == 0 or suffix == ".tif" or (frame.error or "").startswith(("is cut off after", "is no PNG"))
        if not frame.estimated:
            assert frame.lines == LINES
        else:
            assert frame.lines == 5
            assert suffix == ".tif" or length < 700  # others have their height at their beginning


def test_damaged_png_is_whole_or_unreadable(tmp_path: Path) -> None:
    image = picture(1)
    data = encode(".png", image)
    write_image(tmp_path / "0.png", picture(0))
    random = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << int(random.integers(8))
        (tmp_path / "1.png").write_bytes(damaged)
        frame = read(tmp_path)[1]
        assert frame.pixels is None or same(frame, image)
    damaged = bytearray(data)
    damaged[-30] ^= 1
    (tmp_path / "1.png").write_bytes(damaged)
    assert "the CRC of its chunk at byte 33 is wrong" in (read(tmp_path)[1].error or "")


def test_what_a_decoder_turns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", picture(0))
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: picture(0).T)
    with pytest.raises(FootageError, match=f"was decoded to {COLUMNS} lines, its header says {LINES}"):
        open_footage(tmp_path)


# ------------------------------------------------------------------------------------------------ TIFF stacks

STACKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "deflate": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (32, 32)},
    "one directory": {"truncate": True},
    "ImageJ": {"imagej": True, "byteorder": ">"},
}


@pytest.mark.parametrize("options", STACKS.values(), ids=STACKS.keys())
@pytest.mark.parametrize("bits", [8, 16])
def test_each_page_of_a_stack_is_a_frame(tmp_path: Path, options: dict[str, Any], bits: int) -> None:
    stack = np.stack([picture(i, bits=bits) for i in range(4)])
    tifffile.imwrite(tmp_path / "roll.tif", stack, photometric="minisblack", **options)
    with open_footage(tmp_path / "roll.tif") as footage:
        frames = list(footage)
        assert (footage.total_lines, footage.bit_depth) == (4 * LINES, bits)
    assert [frame.name for frame in frames] == [f"roll.tif#{i}" for i in range(4)]
    assert all(same(frame, page) for frame, page in zip(frames, stack, strict=True))


def test_stack_of_the_image_library(tmp_path: Path) -> None:
    stack = [picture(i, channels=3) for i in range(3)]
    assert cv2.imwritemulti(str(tmp_path / "roll.tiff"), [page[..., ::-1].copy() for page in stack])  # LZW
    assert all(same(frame, page) for frame, page in zip(read(tmp_path), stack, strict=True))


def test_colour_planes_and_white_is_zero(tmp_path: Path) -> None:
    colour = picture(0, channels=3)
    tifffile.imwrite(tmp_path / "rgb.tif", np.moveaxis(colour, 2, 0), photometric="rgb", planarconfig="separate")
    assert same(read(tmp_path / "rgb.tif")[0], colour)
    for bits in (8, 16):
        image = picture(1, bits=bits)
        tifffile.imwrite(tmp_path / "grey.tif", image, photometric="miniswhite")
        assert same(read(tmp_path / "grey.tif")[0], np.invert(image))


def one_strip(data: bytes, bits: int, size: int) -> bytes:
    """A BigTIFF file of one strip that says it has `size` bytes; all its tags are 64-bit integers."""
    entries = {256: COLUMNS, 257: LINES, 258: bits, 259: 1, 262: 1, 273: 212, 277: 1, 278: LINES, 279: size}
    directory = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in entries.items())
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)) + directory + bytes(8) + data


def test_twelve_packed_bits(tmp_path: Path) -> None:
    image = picture(0, bits=12)
    bits = (image[..., None] >> np.arange(11, -1, -1)) & 1
    data = np.packbits(bits.astype(np.uint8)).tobytes()
    (tmp_path / "a.tif").write_bytes(one_strip(data, 12, len(data)))
    (frame,) = read(tmp_path)
    assert same(frame, image)
    assert frame.bit_depth == 12


def test_too_few_pixels_in_a_whole_file(tmp_path: Path) -> None:
    data = picture(0).tobytes()
    for name, size in (("a", 0), ("b", -1), ("c", -len(data))):
        (tmp_path / f"{name}.tif").write_bytes(one_strip(data, 8, len(data) + size))
    good, short, none = read(tmp_path)
    assert same(good, picture(0))
    assert short.error == "is damaged: 1535 bytes of pixels, 1536 expected"
    assert none.error == "is damaged: 0 bytes of pixels, 1536 expected"


def test_more_images_announced_than_there_are(tmp_path: Path) -> None:
    text = "ImageJ=1.11a\nimages=1000000000\nslices=1000000000\n"
    tifffile.imwrite(tmp_path / "a.tif", picture(0), description=text, metadata=None)
    good, bad = read(tmp_path)
    assert same(good, picture(0))
    assert bad.lines == 999_999_999 * LINES
    assert bad.error == "is cut off: 1 of its 1000000000 images are there"


def test_thumbnails_are_no_frames_and_a_folder_may_mix(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(2):
            writer.write(picture(i))
            writer.write(picture(9)[::2, ::2], subfiletype=1)
    write_image(tmp_path / "b.png", picture(2))
    frames = read(tmp_path)
    assert [frame.name for frame in frames] == ["a.tif#0", "a.tif#1", "b.png"]
    assert all(same(frame, picture(i)) for i, frame in enumerate(frames))


def test_two_values_a_pixel_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(0, channels=2), photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.raises(FootageError, match="has 2 values a pixel"):
        open_footage(tmp_path)


@pytest.mark.parametrize("name", ["plain", "BigTIFF", "deflate", "one directory", "ImageJ"])
def test_cut_off_stacks_lose_no_page_silently(tmp_path: Path, name: str) -> None:
    stack = np.stack([picture(i) for i in range(5)])
    path = tmp_path / "roll.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", **STACKS[name])
    data = path.read_bytes()
    opened = 0
    for length in cuts(data, 60):
        path.write_bytes(data[:length])
        try:
            frames = read(path)
        except FootageError:
            continue
        opened += 1
        assert sum(frame.lines for frame in frames) == 5 * LINES or (frames[-1].error and frames[-1].estimated)
        for frame, page in zip(frames, stack, strict=False):
            assert frame.pixels is None or same(frame, page)
    assert opened > 10


def test_damaged_directories_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "roll.tif"
    tifffile.imwrite(path, np.stack([picture(i) for i in range(3)]), photometric="minisblack")
    data = path.read_bytes()
    random = np.random.default_rng(11)
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, 600, 3):
            damaged[place] = int(random.integers(256))
        path.write_bytes(damaged)
        try:
            frames = read(path)
        except FootageError:
            continue
        assert all(frame.lines > 0 for frame in frames)


def test_directories_in_a_loop_end(tmp_path: Path) -> None:
    path = tmp_path / "roll.tif"
    tifffile.imwrite(path, picture(0))
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].offset
        entries = len(file.pages[0].tags)  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    path.write_bytes(data)
    good, bad = read(path)
    assert same(good, picture(0))
    assert "loop" in (bad.error or "")


# ------------------------------------------------------------------------------------------------ video


def film(path: Path, codec: str, pictures: list[Image]) -> bytes:
    """A video of RGB or grey pictures; skips where this OpenCV cannot write it."""
    lines, columns = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (columns, lines))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV does not write {codec}")
    for image in pictures:
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR))
    writer.release()
    return path.read_bytes()


def smooth(seed: int, channels: int = 1) -> Image:
    return cv2.normalize(cv2.GaussianBlur(picture(seed, channels=channels), (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "codec", "tolerance"), [("f.avi", "HFYU", 0), ("f.mp4", "mp4v", 40)])
def test_video(tmp_path: Path, name: str, codec: str, tolerance: int, channels: int) -> None:
    pictures = [smooth(i, channels) for i in range(6)]
    film(tmp_path / name, codec, pictures)
    with open_footage([tmp_path / name]) as footage:
        assert (footage.columns, footage.channels, footage.bit_depth) == (COLUMNS, channels, 8)
        assert footage.total_lines == 6 * LINES
        frames = list(footage)
        assert footage.truncated is None
    assert [frame.name for frame in frames] == [f"{name}#{i}" for i in range(6)]
    for frame, image in zip(frames, pictures, strict=True):
        assert np.abs(pixels(frame).astype(int) - image).max() <= tolerance


def test_colour_in_a_grey_video_is_unreadable(tmp_path: Path) -> None:
    film(tmp_path / "f.avi", "HFYU", [*(cv2.cvtColor(smooth(i), cv2.COLOR_GRAY2RGB) for i in range(2)), smooth(2, 3)])
    *grey, colour = read(tmp_path / "f.avi")
    assert all(same(frame, smooth(i)) for i, frame in enumerate(grey))
    assert colour.error == "has 3 channels, the footage before it 1"
    assert colour.lines == LINES


@pytest.mark.parametrize(
    ("name", "codec"), [("f.avi", "MJPG"), ("f.avi", "HFYU"), ("f.mkv", "FFV1"), ("f.mov", "mp4v")]
)
def test_cut_off_videos_say_so(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    data = film(path, codec, [smooth(i) for i in range(8)])
    whole = [pixels(frame) for frame in read(path)]
    for length in cuts(data, 12):
        path.write_bytes(data[:length])
        try:
            footage = open_footage(path)
        except FootageError:
            continue
        frames = list(footage)
        assert all(frame.pixels is None or same(frame, image) for frame, image in zip(frames, whole, strict=False))
        assert all(frame.pixels is not None for frame in frames[:-1])
        assert len(frames) == len(whole) or footage.truncated
        if name == "f.avi":
            assert frames[-1].pixels is None
            assert footage.truncated


def test_riff_lists_that_end_beyond_the_file() -> None:
    whole = struct.pack("<4sI11xx4sI7x", b"RIFF", 11, b"RIFF", 7)
    assert not is_cut_off(io.BytesIO(whole))  # the last list's padding is left out
    assert not is_cut_off(io.BytesIO(whole + b"\0more behind it"))
    assert is_cut_off(io.BytesIO(whole[:-1]))
    assert is_cut_off(io.BytesIO(struct.pack("<4sI100x", b"RIFF", 0)))


def test_boxes_that_end_beyond_the_file() -> None:
    whole = struct.pack(">I4s4xI4s100xI4sQ84x", 12, b"ftyp", 108, b"moov", 1, b"mdat", 100)
    assert not is_cut_off(io.BytesIO(whole))
    assert is_cut_off(io.BytesIO(whole[:-1]))
    assert not is_cut_off(io.BytesIO(whole + bytes(50)))
    endless = struct.pack(">I4s4xI4s50x", 12, b"ftyp", 0, b"mdat")
    assert not is_cut_off(io.BytesIO(endless))


# ------------------------------------------------------------------------------------------------ iterating, writing


def test_closing_ends_an_iteration(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "roll.tif", np.stack([picture(i) for i in range(4)]), photometric="minisblack")
    with open_footage(tmp_path) as footage:
        iteration = iter(footage)
        next(iteration)
    assert list(iteration) == []
    assert len(list(footage)) == 4


def test_footage_is_read_one_image_at_a_time(tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / f"{i}.png", picture(i))
    iteration = iter(open_footage(tmp_path))
    next(iteration)
    write_image(tmp_path / "1.png", picture(7))
    assert same(next(iteration), picture(7))
    iteration.close()


WRITERS: dict[str, Callable[[Path], Image]] = {
    ".png": lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED),  # type: ignore[dict-item,return-value]
    ".tif": lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("image", [picture(0), picture(0, bits=16), picture(0, channels=3)], ids=["8", "16", "RGB"])
def test_written_images_come_back(tmp_path: Path, suffix: str, image: Image) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, picture(5))
    write_image(path, image)
    found = WRITERS[suffix](path)
    assert (found == (image if image.ndim == 2 else image[..., ::-1])).all()
    assert found.dtype == image.dtype
    assert list(tmp_path.iterdir()) == [path]


def test_floats_are_written_as_tiff_only(tmp_path: Path) -> None:
    image = np.linspace(-1, 1, LINES * COLUMNS, dtype=np.float32).reshape(LINES, COLUMNS)
    write_image(tmp_path / "a.tiff", image)
    assert np.array_equal(np.asarray(cv2.imread(str(tmp_path / "a.tiff"), cv2.IMREAD_UNCHANGED)), image)
    with pytest.raises(FootageError, match=r"float32 pixels cannot be written to a \.png file"):
        write_image(tmp_path / "a.png", image)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match=r"cannot be written to a \.gif file"):
        write_image(tmp_path / "a.gif", picture(0))
    with pytest.raises(FootageError, match="cannot be encoded"):
        write_image(tmp_path / "a.png", np.zeros((0, 5), np.uint8))
    with pytest.raises(FootageError, match="cannot be encoded"):
        write_image(tmp_path / "a.png", picture(0, channels=5))
    with pytest.raises(FootageError, match="cannot be written: No such file"):
        write_image(tmp_path / "nowhere" / "a.png", picture(0))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FootageError, match="cannot be written: Is a directory"):
        write_image(tmp_path / "folder.png", picture(0))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
