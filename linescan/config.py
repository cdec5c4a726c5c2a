"""Every setting, each with one home: what the training fixed, what the product asks for, what the engine runs with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tomli
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from linescan.errors import ConfigError

Method = Literal["ssim", "l2"]
Blend = Literal["mean", "hann"]
MAX_SMOOTHING_SIGMA = 32
MAX_OPEN_REGIONS = 4000  # all of them travel in a snapshot, which is one message


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------- the method


class SsimSettings(Settings):
    """Window, constants and exponents of eq. 4–8; the defaults are the paper's window with Wang's constants."""

    window: Annotated[int, Field(ge=1, le=63)] = 11
    kind: Literal["uniform", "gaussian"] = "uniform"
    sigma: Annotated[float, Field(gt=0)] = 1.5
    c1: Annotated[float, Field(gt=0)] = 0.01**2
    c2: Annotated[float, Field(gt=0)] = 0.03**2
    alpha: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(gt=0)] = 1.0
    gamma: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError("the window needs a middle: an odd number of pixels")
        return window


class TrainingSettings(Settings):
    """What `linescan train` was asked for; stored in the bundle. Defaults are the paper's (§4.2)."""

    method: Method = "ssim"
    latent_dim: Annotated[int, Field(ge=1, le=8192)] = 100
    patch_size: Annotated[int, Field(ge=16, le=512, multiple_of=16)] = 128
    scale: Annotated[int, Field(ge=1, le=16)] = 1
    columns: tuple[int, int] | None = None
    epochs: Annotated[int, Field(ge=1)] = 200
    patches: Annotated[int, Field(ge=1)] = 10_000
    batch: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    augment: tuple[Literal["flip-lines", "flip-columns", "brightness"], ...] = ()
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    ssim: SsimSettings = SsimSettings()


# ---------------------------------------------------------------------------------------------- inspection


class ImageBand(Settings):
    """What a line of good web looks like at the widest: mean and contrast (standard deviation) in [0, 1].

    Where `lines` in a row fall outside, they are a gap; where as many lie inside again, the inspection goes on.
    """

    mean_low: float = 0.0
    mean_high: float = 1.0
    contrast_low: float = 0.0
    lines: Annotated[int, Field(ge=1, le=1024)] = 16


class Selvage(Settings):
    """How the web's edges are seen line by line where the web wanders; the columns beyond them are not inspected.

    `level` in [0, 1] separates the web from the backdrop; `hold_px` scaled pixels in a row must be web.
    """

    backdrop: Literal["dark", "bright"]
    level: Annotated[float, Field(gt=0, lt=1)]
    hold_px: Annotated[int, Field(ge=1)] = 16


class Lane(Settings):
    """A strip across the web with its own reject output; columns of the camera, `end_column` exclusive."""

    name: Annotated[str, Field(min_length=1)]
    first_column: Annotated[int, Field(ge=0)]
    end_column: Annotated[int, Field(ge=1)]


class InspectionSettings(Settings):
    """Everything that decides what the engine finds; made from a bundle and a recipe."""

    method: Method = "ssim"
    ssim: SsimSettings = SsimSettings()
    channels: Literal[1, 3] = 1
    patch_size: Annotated[int, Field(ge=16)] = 128
    scale: Annotated[int, Field(ge=1, le=16)] = 1
    stride: Annotated[int, Field(ge=1)] = 30
    blend: Blend = "mean"
    smoothing_sigma: Annotated[float, Field(ge=0, le=MAX_SMOOTHING_SIGMA)] = 0.0
    threshold: float
    columns: tuple[int, int] | None = None
    band: ImageBand = ImageBand()
    selvage: Selvage | None = None
    lanes: tuple[Lane, ...] = ()
    min_area_px: Annotated[int, Field(ge=1)] = 1
    max_region_lines: Annotated[int, Field(ge=1)] = 8192
    max_regions: Annotated[int, Field(ge=1, le=MAX_OPEN_REGIONS)] = 1000

    @field_validator("columns")
    @classmethod
    def _ordered(cls, columns: tuple[int, int] | None) -> tuple[int, int] | None:
        if columns is not None and not 0 <= columns[0] < columns[1]:
            raise ValueError(f"columns A:B need 0 <= A < B, got {columns[0]}:{columns[1]}")
        return columns

    @model_validator(mode="after")
    def _stride_fits(self) -> InspectionSettings:
        if self.stride > self.patch_size:
            raise ValueError(f"stride {self.stride} leaves lines between patches of {self.patch_size}")
        return self


# ---------------------------------------------------------------------------------------------- the recipe


class RecipeModel(Settings):
    """Which bundle; the path is relative to the recipe. Live stages refuse a bundle that is not pinned."""

    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None


class RecipeCalibration(Settings):
    """Column calibration, made by `linescan calibrate` for one bundle under one camera."""

    file: str


class RecipeInspection(Settings):
    """What the product asks for; what is left out comes from the bundle."""

    stride: Annotated[int, Field(ge=1)] | None = None
    threshold: float | None = None
    columns: tuple[int, int] | None = None
    min_area_px: Annotated[int, Field(ge=1)] = 1
    max_region_lines: Annotated[int, Field(ge=1)] = 8192
    max_regions: Annotated[int, Field(ge=1, le=MAX_OPEN_REGIONS)] = 1000


class Recipe(Settings):
    """A product's recipe: config/recipes/*.toml."""

    model: RecipeModel
    inspection: RecipeInspection = RecipeInspection()
    calibration: RecipeCalibration | None = None
    selvage: Selvage | None = None
    lanes: tuple[Lane, ...] = ()


S = TypeVar("S", bound=Settings)


def load_toml(path: Path, kind: type[S]) -> S:
    """The settings in a TOML file; raises ConfigError naming file, key, value and what was expected."""
    try:
        fields = tomli.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from error


def checked(kind: type[S], origin: str, /, **fields: object) -> S:
    """Settings from arguments; raises ConfigError naming `origin`, key, value and what was expected."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as key, value and expectation."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key} = {first['input']!r:.80}: {first['msg']}{more}"
