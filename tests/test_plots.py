"""Pictures decode to the size they should have and show what they should; the page is escaped and self-contained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from linescan.errors import InputError
from linescan.training.contact_sheet import GAP_PX, TEXT_PX, SheetRow, contact_sheet, outline
from linescan.training.metrics import OverlapQuantiles, RocCurve
from linescan.training.plots import Picture, plot_overlap, plot_roc, report_page

HEADING = TEXT_PX + GAP_PX


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1].astype(np.uint8)


def count(image: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((image == colour).all(axis=2)))


def row(height: int = 60, width: int = 80, title: str = "a.png") -> SheetRow:
    grey = np.full((height, width), 0.5, np.float32)
    defect = np.zeros(grey.shape, np.bool_)
    defect[20:30, 30:50] = True
    segmentation = np.zeros_like(defect)
    segmentation[22:28, 32:70] = True
    residual = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    residual[:, :5] = np.nan
    return SheetRow(title, (grey * 255).astype(np.uint8), grey, residual, segmentation, defect)


def panels(sheet: npt.NDArray[np.uint8], height: int, width: int, top: int = HEADING) -> list[npt.NDArray[np.uint8]]:
    lefts = [GAP_PX + column * (width + GAP_PX) for column in range(4)]
    return [sheet[top + TEXT_PX : top + TEXT_PX + height, left : left + width] for left in lefts]


# ---------------------------------------------------------------------------------------------------- contact sheet


def test_a_sheet_has_a_row_an_image_and_four_panels(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", [row(), row(40, 100, "b.png")])
    sheet = read_rgb(tmp_path / "sheet.png")
    assert sheet.shape == (HEADING + 2 * (TEXT_PX + GAP_PX) + 60 + 40, 4 * 100 + 5 * GAP_PX, 3)
    assert (sheet[:TEXT_PX, GAP_PX : GAP_PX + 60] < 100).any(), "no heading"
    second = panels(sheet, 40, 100, HEADING + TEXT_PX + 60 + GAP_PX)
    assert np.unique(second[0]).tolist() == [127]
    assert np.unique(second[1]).tolist() == [128]


def test_ground_truth_is_outlined_red_and_the_segmentation_is_green(tmp_path: Path) -> None:
    made = row()
    assert made.defect is not None
    contact_sheet(tmp_path / "sheet.png", [made])
    shown = panels(read_rgb(tmp_path / "sheet.png"), 60, 80)[3]
    red = (shown == (255, 0, 0)).all(axis=2)
    np.testing.assert_array_equal(red, outline(made.defect))
    expected = np.zeros((60, 80), np.bool_)
    expected[19:31, 29:51] = True
    expected[21:29, 31:49] = False
    np.testing.assert_array_equal(red, expected)
    green = shown[made.segmentation & ~red].astype(int)
    assert (green[:, 1] > green[:, [0, 2]].max(axis=1) + 80).all()
    assert (shown[~made.segmentation & ~red] == 127).all()


def test_outline_runs_along_the_border_and_keeps_single_pixels() -> None:
    mask = np.zeros((6, 6), np.bool_)
    assert not outline(mask).any()
    mask[0, 0] = True
    assert outline(mask).sum() == 4
    full = outline(np.ones((6, 6), np.bool_))
    assert full.sum() == 20
    assert not full[1:-1, 1:-1].any()


def test_residual_colours_span_the_range_and_not_finite_is_grey(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", [row()], residual_range=(0.25, 0.75))
    shown = panels(read_rgb(tmp_path / "sheet.png"), 60, 80)[2]
    assert (shown[:, :5] == 128).all()
    # Viridis begins dark blue (68, 1, 84) and ends yellow (253, 231, 37).
    for columns, colour in ((shown[:, 6:20], (68, 1, 84)), (shown[:, 61:], (253, 231, 37))):
        assert np.abs(columns.astype(int) - colour).max() <= 4


def test_long_images_are_shrunk_and_a_single_defect_pixel_stays_visible(tmp_path: Path) -> None:
    image = np.zeros((100, 2000, 3), np.uint8)
    image[..., 0] = 200
    mask = np.zeros((100, 2000), np.bool_)
    mask[50, 1000] = True
    made = SheetRow("long", image, image, mask.astype(np.float64), mask, mask, np.zeros_like(mask))
    contact_sheet(tmp_path / "sheet.png", [made], panel_px=200)
    shown = panels(read_rgb(tmp_path / "sheet.png"), 10, 200)
    assert (shown[0] == (200, 0, 0)).all(), "RGB"
    assert count(shown[3], (255, 0, 0)) == 9


def test_ignored_columns_are_darker(tmp_path: Path) -> None:
    plain = row()
    ignore = np.zeros((60, 80), np.bool_)
    ignore[:, 75:] = True
    residual = np.full((60, 80), np.nan, np.float32)
    made = SheetRow("x", plain.image, plain.reconstruction, residual, plain.segmentation, None, ignore)
    contact_sheet(tmp_path / "sheet.png", [made])
    shown = panels(read_rgb(tmp_path / "sheet.png"), 60, 80)
    assert (shown[3][:, 75:] == 42).all()
    assert (shown[2] == 128).all()
    assert count(shown[3], (255, 0, 0)) == 0


def test_a_sheet_of_nothing_or_of_other_shapes_is_refused(tmp_path: Path) -> None:
    good = row()
    grey, mask = np.zeros((60, 80), np.float32), np.zeros((60, 80), np.bool_)
    with pytest.raises(InputError, match="at least one"):
        contact_sheet(tmp_path / "sheet.png", [])
    for bad in (
        SheetRow("bad", grey, grey[1:], grey, mask),
        SheetRow("bad", grey, grey, grey[1:], mask),
        SheetRow("bad", grey, grey, grey, mask, mask[:, 1:]),
        SheetRow("bad", grey, grey, grey, mask, mask, mask[:, 1:]),
        SheetRow("bad", grey.astype(np.int32), grey, grey, mask),
        SheetRow("bad", grey[:0], grey[:0], grey[:0], mask[:0]),
        SheetRow("bad", grey[..., None], grey, grey, mask),
    ):
        with pytest.raises(InputError, match="bad"):
            contact_sheet(tmp_path / "sheet.png", [good, bad])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- plots


def test_roc_plot_has_its_size_and_a_curve_a_method(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 50)
    curves = {name: (RocCurve(x, x**power, 1 - x), 0.9) for name, power in (("SSIM $a$", 0.1), ("_l2", 0.5))}
    plot_roc(tmp_path / "roc.png", curves)
    image = read_rgb(tmp_path / "roc.png")
    assert image.shape == (720, 840, 3)
    assert min(count(image, colour) for colour in ((31, 119, 180), (255, 127, 14))) > 300


def test_overlap_plot_has_its_size_and_three_quantiles(tmp_path: Path) -> None:
    fpr = np.linspace(0, 0.3, 16)[::-1]
    overlap = np.stack([fpr * 2, fpr * 2.5, fpr * 3])
    quantiles = OverlapQuantiles(fpr, 1 - fpr, np.array([0.25, 0.5, 0.75]), overlap, 40)
    plot_overlap(tmp_path / "overlap.png", quantiles)
    image = read_rgb(tmp_path / "overlap.png")
    assert image.shape == (720, 840, 3)
    assert all(count(image, colour) > 300 for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)))


def test_importing_the_plots_imports_no_matplotlib_and_plotting_no_pyplot(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from linescan.training import contact_sheet, plots
assert not any(name.startswith("matplotlib") for name in sys.modules)
x = np.linspace(0, 1, 3)
plots.plot_roc(Path(sys.argv[1]), {"a": (plots.RocCurve(x, x, x), 0.5)})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "roc.png")], check=True, timeout=120)
    assert (tmp_path / "roc.png").is_file()


# ---------------------------------------------------------------------------------------------------- page and files


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_shows_figures_with_sentences_and_links_pictures_relatively(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    pictures = [folder / "plots" / "a b#1.png", tmp_path / 'c"d:?.png', folder / "50%.png"]
    for picture in pictures:
        picture.write_bytes(b"")
    metrics = {
        "auroc": np.float64(0.95831),
        "good_pixels": 28_000_000,
        "overlap": {"fpr": np.linspace(0, 0.3, 31), "0.5": [0.1, 0.2]},
        "converged": True,
        "<script>": "a < b & c",
        "model": None,
        "mine": np.int64(3),
    }
    page = folder / "index.html"
    report_page(
        page, metrics, [Picture(p, '<i>"x" & y</i>') for p in pictures], "Web <1>", {"mine": "Mine & only mine."}
    )
    text = page.read_text("utf-8")
    parsed = Page(text)
    assert not {"script", "i", "link"} & set(parsed.tags)
    assert [(folder / unquote(link)).resolve() for link in parsed.links] == [p.resolve() for p in pictures]
    assert not any(mark in "".join(parsed.links) for mark in ("//", "#", "?", ":"))
    assert not any(mark in text for mark in ("url(", "@import"))
    for shown in ("0.9583", "28,000,000", "overlap.0.5", "0.1, 0.2", "yes", "<script>", "a < b & c", "–", "Web <1>"):
        assert shown in parsed.texts
    assert "0 … 0.3 (31 values)" in parsed.texts
    assert "Mine & only mine." in parsed.texts
    assert any(text.startswith("Probability that a defective pixel") for text in parsed.texts)
    assert parsed.texts.count('<i>"x" & y</i>') == 3


def test_page_with_a_missing_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png"):
        report_page(tmp_path / "index.html", {}, [Picture(tmp_path / "none.png", "")])
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.linspace(0, 1, 5)
    writers: list[Callable[[Path], None]] = [
        lambda path: report_page(path, {}, []),
        lambda path: contact_sheet(path, [row()]),
        lambda path: plot_roc(path, {"SSIM": (RocCurve(x, x, x), 0.5)}),
        lambda path: plot_overlap(path, OverlapQuantiles(x, x, x[:1], x[None], 1)),
    ]

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    path = tmp_path / "x"
    for write in writers:
        path.write_bytes(b"old")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="disk full"):
                write(path)
        assert path.read_bytes() == b"old"
        write(path)
        assert path.read_bytes() != b"old"
        assert list(tmp_path.iterdir()) == [path]
