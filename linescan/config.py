"""Every setting, each with one home: what the training fixed, what the product asks for, what the engine runs with."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tomli
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from linescan.errors import ConfigError

Method = Literal["ssim", "l2", "vae", "fm"]
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


Augmentation = Literal["flip-lines", "flip-columns", "brightness", "defects"]


class TrainingSettings(Settings):
    """What `linescan train` was asked for; stored in the bundle. Defaults are the paper's (§4.2).

    `features` names the network of method fm: the sha256 of its weights' file, or "random"; empty elsewhere.
    """

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
    augment: tuple[Augmentation, ...] = ()
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    ssim: SsimSettings = SsimSettings()
    samples: Annotated[int, Field(ge=1, le=64)] = 6  # N of the VAE, §4.2
    kl_weight: Annotated[float, Field(gt=0)] = 1.0  # of a VAE's divergence from the prior, against eq. 2
    kl_warmup_epochs: Annotated[int, Field(ge=0)] = 10  # in the first half that weight is 0, in the second it rises
    features: Annotated[str, Field(pattern="^(random|[0-9a-f]{64})?$")] = ""
    feature_weight: Annotated[float, Field(gt=0)] = 1.0  # λ of eq. 3

    @model_validator(mode="after")
    def _features_belong_to_fm(self) -> TrainingSettings:
        if (self.method == "fm") != bool(self.features):
            raise ValueError(f"method {self.method!r} with features {self.features!r}: fm needs them, and it alone")
        return self


class VaeSettings(Settings):
    """The variance model of a VAE bundle: its N noise vectors, and the variance σ₀² of a pixel about one sample."""

    samples: Annotated[int, Field(ge=1, le=64)]
    noise_variance: Annotated[float, Field(gt=0)]


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
    """A strip across the web with its own reject output; columns of the camera, `end_column` exclusive.

    `threshold` holds in its columns instead of the inspection's.
    """

    name: Annotated[str, Field(min_length=1)]
    first_column: Annotated[int, Field(ge=0)]
    end_column: Annotated[int, Field(ge=1)]
    threshold: float | None = None


class Geometry(Settings):
    """How a camera's pixels lie on the web, as far as line.toml says; None: not known."""

    mm_per_column: Annotated[float, Field(gt=0)] | None = None
    x_offset_mm: float = 0.0  # of column 0, across the web
    mm_per_line: Annotated[float, Field(gt=0)] | None = None


NO_GEOMETRY = Geometry()


class SizeClass(Settings):
    """A class of defects by size: one that reaches every minimum given is of it.

    Length is along the web and width across it, of the box around what is told: of a region in parts, around the part.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    severity: Annotated[int, Field(ge=1, le=255)]
    min_area_px: Annotated[int, Field(ge=1)] | None = None
    min_length_px: Annotated[int, Field(ge=1)] | None = None
    min_width_px: Annotated[int, Field(ge=1)] | None = None
    min_area_mm2: Annotated[float, Field(gt=0)] | None = None
    min_length_mm: Annotated[float, Field(gt=0)] | None = None
    min_width_mm: Annotated[float, Field(gt=0)] | None = None


class InspectionSettings(Settings):
    """Everything that decides what the engine finds; made from a bundle and a recipe."""

    method: Method = "ssim"
    ssim: SsimSettings = SsimSettings()
    noise_variance: Annotated[float, Field(gt=0)] = 1.0  # σ₀² of a VAE
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
    masks: tuple[tuple[int, int], ...] = ()  # columns first…end − 1 of the camera that are not inspected
    classes: tuple[SizeClass, ...] = ()
    min_area_px: Annotated[int, Field(ge=1)] = 1
    min_length_px: Annotated[int, Field(ge=1)] = 1
    max_region_lines: Annotated[int, Field(ge=1)] = 8192
    max_regions: Annotated[int, Field(ge=1, le=MAX_OPEN_REGIONS)] = 1000

    @property
    def thresholds(self) -> tuple[float, ...]:
        """All that hold somewhere, the inspection's own first."""
        return (self.threshold, *(lane.threshold for lane in self.lanes if lane.threshold is not None))

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
    """What the product asks for; what is left out comes from the bundle.

    A region is told as soon as it has `min_area_px` and its longer side `min_length_px`.
    """

    stride: Annotated[int, Field(ge=1)] | None = None
    threshold: float | None = None
    columns: tuple[int, int] | None = None
    min_area_px: Annotated[int, Field(ge=1)] = 1
    min_length_px: Annotated[int, Field(ge=1)] = 1
    max_region_lines: Annotated[int, Field(ge=1)] = 8192
    max_regions: Annotated[int, Field(ge=1, le=MAX_OPEN_REGIONS)] = 1000


class Strip(Settings):
    """A strip along the web: columns of the camera (`end_column` exclusive), or mm across the web."""

    first_column: Annotated[int, Field(ge=0)] | None = None
    end_column: Annotated[int, Field(ge=1)] | None = None
    from_mm: float | None = None
    to_mm: float | None = None

    @property
    def in_mm(self) -> bool:
        return self.from_mm is not None

    @property
    def edges(self) -> tuple[float, float]:
        """In columns or in mm, as it was written."""
        low, high = (self.from_mm, self.to_mm) if self.in_mm else (self.first_column, self.end_column)
        assert low is not None
        assert high is not None
        return low, high

    @model_validator(mode="after")
    def _one_pair_of_edges(self) -> Strip:
        given = {name for name in ("first_column", "end_column", "from_mm", "to_mm") if getattr(self, name) is not None}
        if given not in ({"first_column", "end_column"}, {"from_mm", "to_mm"}):
            said = ", ".join(sorted(given)) or "nothing"
            raise ValueError(f"a strip needs first_column and end_column, or from_mm and to_mm; given: {said}")
        low, high = self.edges
        if low >= high:
            raise ValueError(f"a strip needs its first edge before its second, got {low:g} and {high:g}")
        return self


class RecipeLane(Strip):
    """A strip with its own reject output, and its own threshold if it is to have one."""

    name: Annotated[str, Field(min_length=1)]
    threshold: float | None = None


class Mask(Strip):
    """A strip that is never inspected, a printed stripe for instance."""


class Recipe(Settings):
    """A product's recipe: config/recipes/*.toml.

    Of `classes` the last that fits a region gives its category and severity.
    """

    model: RecipeModel
    inspection: RecipeInspection = RecipeInspection()
    calibration: RecipeCalibration | None = None
    selvage: Selvage | None = None
    lanes: tuple[RecipeLane, ...] = ()
    masks: tuple[Mask, ...] = ()
    classes: tuple[SizeClass, ...] = ()

    @field_validator("lanes")
    @classmethod
    def _lanes_lie_side_by_side(cls, lanes: tuple[RecipeLane, ...]) -> tuple[RecipeLane, ...]:
        if len({lane.in_mm for lane in lanes}) > 1:
            raise ValueError("lanes are written in columns or in mm, not some in one and some in the other")
        for left, right in pairwise(sorted(lanes, key=lambda lane: lane.edges)):
            if right.edges[0] < left.edges[1]:
                raise ValueError(f"lanes {left.name!r} and {right.name!r} overlap")
        _names_differ("lane", [lane.name for lane in lanes])
        return lanes

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[SizeClass, ...]) -> tuple[SizeClass, ...]:
        _names_differ("class", [one.name for one in classes])
        return classes


def _names_differ(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"each {what} needs a name of its own, got {names}")


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
