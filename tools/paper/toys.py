"""Fig. 2 and 3: what SSIM sees that ℓ2 does not, on images that are drawn here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from linescan.files import make_folder
from linescan.footage import write_image
from linescan.inspection.ssim import components
from linescan.training.components import COMPONENTS
from linescan.training.inspected import inspect_images
from linescan.training.metrics import PixelScores
from linescan.training.panels import Panel, residual_panel, write_panels
from paper.report import number, table, write_report
from paper.sets import ImageSet, images
from paper.workspace import Workspace

Grey = NDArray[np.float32]

SIDE = 64
TRAINING_BOARDS, BOARD_SIDE = 40, 256
SQUARES_PX = (10.0, 32.0)  # sides of the squares, drawn at random between these
SUPERSAMPLED = 4


def fig2(workspace: Workspace) -> None:
    """Pairs of patches that differ by 0.5 at every pixel: in their mean, their contrast, or their structure."""
    board = (np.indices((SIDE, SIDE)) // 8).sum(0) % 2 * np.float32(1)
    stripes = np.tile(np.arange(SIDE) // 8 % 2, (SIDE, 1)) * np.float32(1)
    pairs = {
        "luminance": (0 * board, 0 * board + 0.5),
        "contrast": (0 * board + 0.5, board),
        "structure": (0.25 + 0.5 * stripes, 0.75 - 0.5 * stripes),
    }
    ssim = workspace.ssim
    rows, panels, numbers = [], [], {}
    for name, (p, q) in pairs.items():
        squares = (p - q) ** 2
        # in float64, since the variance of a flat window must be nothing for the structure to be defined
        x, y = (torch.from_numpy(np.ascontiguousarray(part, np.float64))[None] for part in (p, q))
        parts = [part[0] for part in components(x, y, ssim)]
        means = [float(part.mean()) for part in parts]
        rows.append([name, f"{squares.min():.2f} … {squares.max():.2f}", *(number(mean) for mean in means)])
        numbers[name] = {"squared": float(squares.mean()), **dict(zip(COMPONENTS[:3], means, strict=True))}
        panels.append([Panel(f"differ in {name}: p", p), Panel("q", q), Panel("(p − q)²", squares)])
        panels[-1] += [Panel(part_name, part.numpy()) for part_name, part in zip(COMPONENTS[:3], parts, strict=True)]
    make_folder(workspace.out)
    write_panels(workspace.out / "fig2.png", panels)
    lines = table(["the patches differ in", "(p − q)² per pixel", "mean l", "mean c", "mean s"], rows)
    write_report(workspace, "fig2", "Fig. 2: three pairs of patches, the same to ℓ2", lines, numbers, ["fig2.png"])


def fig3(workspace: Workspace) -> None:
    """An ℓ2 autoencoder of good checkerboards, and grey strokes and dots that it never saw."""
    web = _checkerboards(workspace.out / "checkerboard")
    trained = workspace.trained(web, "l2")
    setup = workspace.setup(trained)
    (result,) = inspect_images([str(web.test[0])], setup, workspace.runner(setup), components=True)
    image = result.frame.pixels
    assert image is not None
    defect = np.asarray(cv2.imread(str(web.masks / web.test[0].name), cv2.IMREAD_GRAYSCALE)) > 0
    maps = {"squared error": result.score, **{f"1 − {name}": part for name, part in result.components.items()}}
    aurocs = {}
    for name, part in maps.items():
        with PixelScores() as pixels:
            pixels.add(part, defect)
            aurocs[name] = pixels.auroc()
    row = [Panel("input", image / 255, defect=defect), Panel("reconstruction", result.reconstruction)]
    write_panels(workspace.out / "fig3.png", [[*row, *(residual_panel(name, part) for name, part in maps.items())]])
    rows = [[name, number(auroc)] for name, auroc in aurocs.items()]
    lines = [
        f"Trained on {TRAINING_BOARDS} drawn checkerboards of {SQUARES_PX[0]:g} to {SQUARES_PX[1]:g} px squares at all "
        "angles; AUROC of each map for the drawn strokes and dots:",
        "",
        *table(["map", "AUROC"], rows),
    ]
    write_report(workspace, "fig3", "Fig. 3: the checkerboard", lines, aurocs, ["fig3.png"], trained.seconds)


def _checkerboards(folder: Path) -> ImageSet:
    """Draws them, the same each time; a test image of 128×128 pixels with its mask."""
    rng = np.random.default_rng(0)
    for part in ("train", "test", "masks"):
        make_folder(folder / part)
    for index in range(TRAINING_BOARDS):
        board = _board(BOARD_SIDE, rng.uniform(*SQUARES_PX), rng.uniform(0, 90), rng.uniform(0, 100, 2))
        write_image(folder / "train" / f"{index:03d}.png", _bytes(board))
    board, defect = _spoilt(_board(128, 20, 27, np.array([3.0, 8.0])))
    write_image(folder / "test" / "board.png", _bytes(board))
    write_image(folder / "masks" / "board.png", defect.astype(np.uint8) * 255)
    train, test = images(folder / "train"), images(folder / "test")
    return ImageSet("checkerboard", "checkerboards", train, test, (), folder / "masks")


def _board(side: int, square_px: float, degrees: float, origin: NDArray[np.float64]) -> Grey:
    """Black and white squares, their edges as sharp as a camera's pixels allow."""
    place = (np.arange(side * SUPERSAMPLED) + 0.5) / SUPERSAMPLED
    y, x = place[:, None] + origin[0], place[None] + origin[1]
    angle = np.deg2rad(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    fine = (np.floor(along / square_px) + np.floor(across / square_px)) % 2
    mean: Grey = fine.reshape(side, SUPERSAMPLED, side, SUPERSAMPLED).mean((1, 3)).astype(np.float32)
    return 0.1 + 0.8 * mean


def _spoilt(board: Grey) -> tuple[Grey, NDArray[np.bool_]]:
    """The board with two grey strokes and four grey dots, and where they are."""
    mask = np.zeros(board.shape, np.uint8)
    for start, end in (((18, 30), (52, 46)), ((80, 96), (112, 84))):
        cv2.line(mask, start, end, 1, 4)
    for middle in ((30, 92), (64, 70), (100, 28), (60, 112)):
        cv2.circle(mask, middle, 4, 1, -1)
    return np.where(mask > 0, np.float32(0.5), board), mask > 0


def _bytes(board: Grey) -> NDArray[np.uint8]:
    return np.rint(board * 255).astype(np.uint8)
