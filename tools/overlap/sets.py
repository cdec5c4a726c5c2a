"""Sets of webs with ground truth, as a TOML file names them.

[nanotwice]
model = "nanotwice.pt"                        # or recipe = "aitex.toml", for its column calibration
images = ["DATA/nanotwice/test/defect"]       # folders, patterns or files
masks = "DATA/nanotwice/ground_truth"         # an image of the same name for each of `images`
train = ["DATA/nanotwice/train/good"]         # good web, for the statistics of codes
good = []                                     # more images to be scored, without defects
columns = [0, 1024]                           # of the camera; all of them where it is missing
joined = false                                # whether the images are the frames of one roll
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli
import torch
from numpy.typing import NDArray
from torch import Tensor

from linescan.config import Settings, checked
from linescan.errors import ConfigError, FootageError
from linescan.footage import open_footage
from linescan.inspection.lines import channels_first, to_unit
from linescan.recipe import Setup, load_setup
from linescan.replay.roll import stem_of
from linescan.training.evaluate import read_mask


class Named(Settings):
    """One table of the file."""

    model: Path | None = None
    recipe: Path | None = None
    images: tuple[str, ...]
    masks: Path
    good: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    columns: tuple[int, int] | None = None
    joined: bool = False


@dataclass(frozen=True)
class Web:
    """1×H×W float32 web in [0, 1], and where it is defective: H×W."""

    name: str
    pixels: Tensor
    defect: NDArray[np.bool_]


@dataclass(frozen=True)
class WebSet:
    """A set with the setup of its model."""

    name: str
    named: Named
    setup: Setup

    def scored(self) -> Iterator[Web]:
        """The webs with ground truth, then the good ones."""
        webs = list(self._webs(self.named.images, self.named.masks)) + list(self._webs(self.named.good, None))
        if not self.named.joined:
            yield from webs
            return
        yield Web(self.name, torch.cat([web.pixels for web in webs], -2), np.concatenate([web.defect for web in webs]))

    def training(self) -> Iterator[Web]:
        return self._webs(self.named.train, None)

    def _webs(self, patterns: tuple[str, ...], masks: Path | None) -> Iterator[Web]:
        paths = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]
        if not paths:
            return
        columns = slice(*self.named.columns) if self.named.columns else slice(None)
        with open_footage(paths) as footage:
            for frame in footage:
                if frame.pixels is None:
                    raise FootageError(f"{frame.name} {frame.error}: it cannot be measured")
                pixels = to_unit(channels_first(frame.pixels[:, columns]), frame.bit_depth)
                defect = np.zeros(pixels.shape[1:], bool)
                if masks is not None:
                    defect = read_mask(next(masks.glob(f"{stem_of(frame.name)}*")))[:, columns]
                yield Web(Path(frame.name).stem, pixels, defect)


def load_sets(path: Path, only: list[str] | None = None) -> list[WebSet]:
    """The sets of a file, or those named; raises ConfigError where the file or a table is not as said above."""
    try:
        tables = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomli.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    unknown = set(only or ()) - set(tables)
    if unknown:
        raise ConfigError(f"{path}: no table {', '.join(sorted(unknown))}; it has {', '.join(tables)}")
    return [_loaded(path, name, table) for name, table in tables.items() if not only or name in only]


def _loaded(path: Path, name: str, table: dict[str, object]) -> WebSet:
    named = checked(Named, f"{path}: [{name}]", **table)
    setup = load_setup(named.model, named.recipe, columns=named.columns)
    settings = setup.settings
    if settings.scale != 1 or settings.channels != 1 or settings.method != "ssim":
        raise ConfigError(f"{path}: [{name}]: a grey SSIM model of scale 1 expected, got {setup.bundle.path}")
    return WebSet(name, named, setup)
