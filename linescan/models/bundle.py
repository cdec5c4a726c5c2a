"""The model bundle: one TorchScript file with everything inside that the training decided. The only user of torch.jit.

    M.pt (zip, stored)
    ├── …/code, data, constants      the autoencoder as TorchScript, without debug files
    ├── …/extra/linescan.json        BundleMetadata; content_sha256 covers every other record
    └── …/extra/reference.png        a good patch with a planted defect, for the self-check

TorchScript is code: pin a bundle by the file's sha256 (`linescan info` prints it) wherever it decides about product.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from linescan.config import (
    MAX_SMOOTHING_SIGMA,
    Blend,
    ImageBand,
    Method,
    Settings,
    SsimSettings,
    TrainingSettings,
    VaeSettings,
    explain,
)
from linescan.errors import BundleError
from linescan.files import write_atomically

FORMAT = 1
CONVOLUTION_NDIM = 4  # of a convolution's weight
VAE_EXPORTS = ["encode", "decode", "moments", "noise"]  # what a VAE's module offers beside forward
METADATA, REFERENCE = "linescan.json", "reference.png"


class Reference(Settings):
    """Where the planted defect of the reference patch lies; inclusive, in its pixels, which are the camera's."""

    first_line: int
    last_line: int
    first_column: int
    last_column: int


class Threshold(Settings):
    """How the threshold was found: the rate of false alarms that was asked for, and what good web it rests on."""

    false_alarms: float
    per: Annotated[str, Field(pattern="^(m2|megapixel)$")]
    calibration_megapixels: float
    extrapolated: bool
    pixel_size_mm: float | None = None


class BundleMetadata(Settings):
    """linescan.json; what inspection needs first, then where it comes from."""

    format: Annotated[int, Field(ge=1)] = FORMAT
    method: Method
    channels: Literal[1, 3]
    patch_size: Annotated[int, Field(ge=16, le=512)]
    latent_dim: Annotated[int, Field(ge=1)]
    scale: Annotated[int, Field(ge=1, le=16)]
    stride: Annotated[int, Field(ge=1)]
    threshold: float
    blend: Blend
    smoothing_sigma: Annotated[float, Field(ge=0, le=MAX_SMOOTHING_SIGMA)]
    ssim: SsimSettings
    vae: VaeSettings | None = None
    band: ImageBand
    columns: tuple[int, int] | None = None
    reference: Reference
    threshold_basis: Threshold | None = None
    training: TrainingSettings
    training_sha256: str
    metrics: dict[str, float] = Field(default_factory=dict)
    terms: str = ""
    version: str
    content_sha256: str = ""

    @model_validator(mode="after")
    def _fits(self) -> BundleMetadata:
        if self.stride > self.patch_size:
            raise ValueError(f"stride {self.stride} leaves lines between patches of {self.patch_size}")
        if self.columns is not None and not 0 <= self.columns[0] < self.columns[1]:
            raise ValueError(f"columns A:B need 0 <= A < B, got {self.columns[0]}:{self.columns[1]}")
        if (self.method == "vae") != (self.vae is not None):
            raise ValueError(f"method {self.method!r} with vae = {self.vae!r}: a VAE's samples and variance, or none")
        return self


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, its bytes as they were hashed."""

    path: str
    sha256: str
    metadata: BundleMetadata
    reference: NDArray[np.uint8]
    data: bytes = field(repr=False)

    def module(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> torch.jit.ScriptModule:
        """The autoencoder, frozen for inference, channels last: N×C×P×P of `dtype` in [0, 1] → the same shape.

        A VAE's has `encode`, `decode` and `moments` too: the samples' mean and variance, float32 N×2C×P×P.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is the format all the same
            loaded: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(self.data), map_location="cpu"
            )
            loaded.eval().to(device=device or torch.device("cpu"), dtype=dtype)
            for parameter in loaded.parameters():
                if parameter.ndim == CONVOLUTION_NDIM:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            offered = VAE_EXPORTS if self.metadata.method == "vae" else None
            frozen: torch.jit.ScriptModule = torch.jit.freeze(loaded, preserved_attrs=offered)
        return frozen


def save_bundle(path: Path, model: torch.nn.Module, metadata: BundleMetadata, reference: NDArray[np.uint8]) -> str:
    """Writes the bundle atomically and returns its sha256; the model is exported in float32 on the CPU."""
    ok, png = cv2.imencode(".png", reference)
    assert ok
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is the format all the same
        torch.jit.save(torch.jit.script(_for_export(model)), buffer, _extra_files={REFERENCE: png.tobytes()})
    records = _records(buffer.getvalue(), str(path))
    metadata = metadata.model_copy(update={"content_sha256": _content_hash(records)})
    records[f"extra/{METADATA}"] = json.dumps(metadata.model_dump(mode="json"), indent=1).encode()
    data = _archive(records)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load_bundle(path: Path, sha256: str | None = None) -> Bundle:
    """Reads, verifies and warms up a bundle; raises BundleError saying what is wrong with which file.

    The file is read once: what was hashed is what is loaded. Metadata is checked before any code of the file runs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    actual = hashlib.sha256(data).hexdigest()
    if sha256 is not None and actual != sha256.lower():
        raise BundleError(f"{path}: has sha256 {actual}, {sha256} was pinned")
    records = _records(data, str(path))
    metadata = _metadata(records, str(path))
    if _content_hash(records) != metadata.content_sha256:
        raise BundleError(f"{path}: its content does not match the hash inside: damaged or tampered with")
    bundle = Bundle(str(path), actual, metadata, _reference(records, metadata, str(path)), data)
    _try_out(bundle)
    return bundle


def _for_export(model: torch.nn.Module) -> torch.nn.Module:
    model = copy.deepcopy(model).cpu().float().eval()
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def _records(data: bytes, name: str) -> dict[str, bytes]:
    """The archive's records by name, without the top folder and without debug files (they hold source paths)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [entry.partition("/")[2] for entry in archive.namelist()]
            records = dict(zip(names, map(archive.read, archive.namelist()), strict=True))
    except Exception as error:  # zipfile and its decompressors raise half a dozen kinds for a file that is not theirs
        raise BundleError(f"{name}: not a model bundle (a TorchScript zip file was expected): {error}") from error
    if len(records) < len(names):  # torch could load another one than was hashed
        raise BundleError(f"{name}: not a model bundle: it holds {max(names, key=names.count)} twice")
    return {key: value for key, value in records.items() if not key.endswith(".debug_pkl")}


def _archive(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for key, value in records.items():
            archive.writestr(zipfile.ZipInfo(f"bundle/{key}"), value)  # a fixed date: same content, same bytes
    return buffer.getvalue()


def _content_hash(records: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for key in sorted(records):
        if key != f"extra/{METADATA}":
            digest.update(f"{key}\0{len(records[key])}\0".encode())
            digest.update(records[key])
    return digest.hexdigest()


def _metadata(records: dict[str, bytes], name: str) -> BundleMetadata:
    for wanted in (f"extra/{METADATA}", f"extra/{REFERENCE}", "constants.pkl"):
        if wanted not in records:
            raise BundleError(f"{name}: a zip file, but no model bundle: {wanted} is missing")
    try:
        fields = json.loads(records[f"extra/{METADATA}"])
        version = int(fields["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{name}: {METADATA} cannot be read: {error!r}") from error
    if version > FORMAT:
        raise BundleError(f"{name}: bundle format {version} is newer than this linescan reads ({FORMAT})")
    try:
        return BundleMetadata.model_validate(fields)
    except ValidationError as error:
        raise BundleError(f"{name}: {METADATA}: {explain(error)}") from error


def _reference(records: dict[str, bytes], metadata: BundleMetadata, name: str) -> NDArray[np.uint8]:
    side = metadata.patch_size * metadata.scale
    shape = (side, side) if metadata.channels == 1 else (side, side, metadata.channels)
    data = np.frombuffer(records[f"extra/{REFERENCE}"], np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None or image.shape != shape or image.dtype != np.uint8:
        found = "what cannot be decoded" if image is None else f"{image.dtype} pixels of shape {image.shape}"
        raise BundleError(f"{name}: {REFERENCE} holds {found}, 8-bit pixels of shape {shape} were expected")
    return np.asarray(image, np.uint8)


def _try_out(bundle: Bundle) -> None:
    name, metadata = bundle.path, bundle.metadata
    patches = torch.full((1, metadata.channels, metadata.patch_size, metadata.patch_size), 0.5)
    outputs: list[tuple[object, int]] = []  # what came, and the channels expected of it
    try:
        with torch.inference_mode():
            module = bundle.module()
            outputs.append((module(patches), metadata.channels))
            if metadata.vae is not None:
                outputs.append((module.moments(patches), 2 * metadata.channels))
                samples = len(module.noise)
    except (torch.jit.Error, RuntimeError, ValueError, EOFError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1:] or [""]
        raise BundleError(f"{name}: TorchScript cannot run it: {reason[0]}") from error
    for output, channels in outputs:
        if not isinstance(output, torch.Tensor) or output.shape != (1, channels, *patches.shape[2:]):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise BundleError(f"{name}: its model returns {shape} for {tuple(patches.shape)}")
        if not bool(torch.isfinite(output).all()):
            raise BundleError(f"{name}: its model returns values that are not numbers for a flat grey patch")
    if metadata.vae is not None and samples != metadata.vae.samples:
        raise BundleError(f"{name}: {METADATA} says {metadata.vae.samples} samples, its model draws {samples}")
