"""Libraries that one would take instead, each imported only where it is measured; all are optional (extra `bench`)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

TILE = 256  # side of the images that anomalib's models are trained on
Run = Callable[[], object]


class NotInstalledError(Exception):
    """The library is missing, or is there and cannot be imported."""


def skimage_ssim(web: Tensor, reconstruction: Tensor, gaussian: bool) -> Run:
    """scikit-image's SSIM map of H×W images in [0, 1], 11×11 or Gaussian with σ = 1.5."""
    metrics = _library("skimage.metrics")
    x, y = web.numpy(), reconstruction.numpy()
    window = {"gaussian_weights": True, "sigma": 1.5} if gaussian else {"win_size": 11}
    return lambda: metrics.structural_similarity(x, y, data_range=1.0, full=True, **window)


def msssim_ssim(web: Tensor, reconstruction: Tensor) -> Run:
    """pytorch-msssim's SSIM, Gaussian; it averages the map that it computes."""
    library = _library("pytorch_msssim")
    x, y = web[None, None], reconstruction[None, None]
    return lambda: library.ssim(x, y, data_range=1.0, size_average=False)


def kornia_ssim(web: Tensor, reconstruction: Tensor) -> Run:
    """The SSIM map of kornia, Gaussian."""
    library = _library("kornia.metrics")
    x, y = web[None, None], reconstruction[None, None]
    return lambda: library.ssim(x, y, window_size=11, max_val=1.0)


def padim(web: Tensor) -> Run:
    """PaDiM (ResNet-18) of anomalib over the web in tiles of 256×256; weights are random, which costs the same."""
    library = _library("anomalib.models.image.padim.torch_model")
    model = library.PadimModel(backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False)
    with torch.inference_mode():  # a Gaussian for each place of the feature maps: of some size that inverts
        places = (TILE // 4) ** 2
        model.gaussian.mean = torch.zeros(model.n_features, places)
        model.gaussian.inv_covariance = torch.eye(model.n_features).repeat(places, 1, 1)
    return _over_tiles(model.eval(), web)


def efficient_ad(web: Tensor) -> Run:
    """EfficientAD (small) of anomalib over the web in tiles of 256×256; weights are random, which costs the same."""
    library = _library("anomalib.models.image.efficient_ad.torch_model")
    return _over_tiles(library.EfficientAdModel().eval(), web)


def _over_tiles(model: torch.nn.Module, web: Tensor, together: int = 8) -> Run:
    """The tiles beside one another, without overlap; the last ones are clamped to the edge."""
    places = [_clamped(size) for size in web.shape]
    tiles = torch.stack([web[y : y + TILE, x : x + TILE] for y in places[0] for x in places[1]])
    batches = [part[:, None].expand(-1, 3, -1, -1).contiguous() for part in torch.split(tiles, together)]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(batch)

    return run


def _clamped(size: int) -> list[int]:
    if size < TILE:
        raise ValueError(f"a web of at least {TILE}×{TILE} pixels is needed, one side is {size}")
    return sorted({*range(0, size - TILE + 1, TILE), size - TILE})


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"not installed ({error.name} is missing)") from error
    except Exception as error:  # a library that does not fit its neighbours raises whatever it comes upon first
        raise NotInstalledError(f"does not import ({type(error).__name__}: {str(error).splitlines()[0]})") from error
