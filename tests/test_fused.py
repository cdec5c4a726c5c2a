"""A CPU's forwards in fewer passes than TorchScript's: the same reconstructions, or TorchScript's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from linescan.models import runner
from linescan.models.autoencoder import Autoencoder, VariationalAutoencoder, initialise
from linescan.models.bundle import load_bundle
from linescan.models.fused import fused
from linescan.models.parity import PrecisionWarning
from linescan.models.runner import Execution, Runner
from tests.conftest import TOY_PATCH, toy_bundle


def scripted(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = model.eval().to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(model))
    return frozen


def web(count: int, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    patches = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(7))
    return patches.to(dtype).contiguous(memory_format=torch.channels_last)


def trained(latent_dim: int, channels: int, size: int) -> Autoencoder:
    model = Autoencoder(latent_dim, channels, size)
    initialise(model, 0.5, torch.Generator().manual_seed(1))
    for layer in (one for one in model.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)):
        if layer.bias is not None:  # one that is forgotten shows
            layer.bias.data += torch.linspace(-0.1, 0.1, len(layer.bias))
    layer.weight.data *= 20  # the output layer starts with little
    return model


@pytest.mark.parametrize(("latent_dim", "channels", "size"), [(16, 1, 32), (40, 3, 64), (100, 1, 128), (7, 1, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_paper_s_autoencoder_is_the_same(latent_dim: int, channels: int, size: int, dtype: torch.dtype) -> None:
    model = trained(latent_dim, channels, size)
    patches = web(5, channels, size, dtype)
    with torch.inference_mode():
        expected = model(patches.float())
        frozen = scripted(model, dtype)
        module = fused(frozen, patches)
        assert module is not None
        errors = [float((one(patches).float() - expected).square().mean().sqrt()) for one in (module, frozen)]
        assert module(patches).shape == expected.shape
    # as near to the float32 model as TorchScript is, which has something to be near to
    assert errors[0] < max(1.3 * errors[1], 1e-6)
    assert errors[1] < 0.1 * float(expected.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "last",
    [
        nn.Sequential(nn.ConvTranspose2d(5, 1, 4, 2, 1), nn.LeakyReLU(0.2)),
        nn.Sequential(nn.ConvTranspose2d(5, 3, 4, 2, 1, bias=False)),
        nn.Sequential(nn.ConvTranspose2d(5, 4, 4, 2, 1)),
        nn.Sequential(nn.ConvTranspose2d(5, 5, 4, 2, 1)),
        nn.Sequential(nn.ConvTranspose2d(5, 1, 4, 2, 1, output_padding=1)),
        nn.Sequential(nn.ConvTranspose2d(5, 1, 4, 2, 1, dilation=2)),
        nn.Sequential(nn.ConvTranspose2d(5, 5, 4, 2, 1, groups=5)),
        nn.Sequential(nn.ConvTranspose2d(5, 2, 4, 2, 0)),
    ],
    ids=["one channel", "no bias", "four", "five", "output padding", "dilated", "groups", "no padding"],
)
def test_a_transposed_convolution_to_twice_the_size_is_the_same(last: nn.Sequential, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for layer in last:
            if isinstance(layer, nn.ConvTranspose2d):
                layer.reset_parameters()
    patches = web(3, 5, 7, dtype)[..., :6].contiguous(memory_format=torch.channels_last)
    frozen = scripted(last, dtype)
    module = fused(frozen, patches)
    assert module is not None
    with torch.inference_mode():
        one, other = module(patches), frozen(patches)
    assert one.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        one, other, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 if dtype == torch.bfloat16 else 1e-6
    )


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        return self.convolution(patches) + patches


class Steered(nn.Module):
    """A slope that depends on the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3)

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.convolution(patches), float(patches.max()))


class Sharp(nn.Module):
    """A leaky ReLU with nothing before it."""

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.leaky_relu(patches, 0.2)


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "model",
    [
        Skipping(),
        Sharp(),
        chain(nn.Conv2d(1, 2, 3), nn.ReLU()),
        chain(nn.Conv2d(1, 2, 3), nn.LeakyReLU(), nn.LeakyReLU()),
        chain(nn.Conv2d(1, 2, 3, padding="same")),
        chain(nn.Conv2d(1, 2, 3), nn.Dropout()),
        VariationalAutoencoder(8, patch_size=32),
    ],
)
def test_another_graph_is_torchscript_s_or_gives_the_same(model: nn.Module) -> None:
    patches = web(2, 1, 32)
    frozen = scripted(model)
    module = fused(frozen, patches)
    if module is None:
        return
    with torch.inference_mode():
        torch.testing.assert_close(module(patches), frozen(patches))


def test_what_cannot_be_fused_is_refused() -> None:
    for model in (
        Skipping(),
        Sharp(),
        Steered(),
        chain(nn.Conv2d(1, 2, 3), nn.ReLU()),
        VariationalAutoencoder(8, patch_size=32),
    ):
        assert fused(scripted(model), web(2, 1, 32)) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1, dilation=2, groups=2),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, dilation=2, output_padding=1),
        nn.Conv2d(4, 6, (3, 5), bias=False),
        nn.ConvTranspose2d(4, 6, (3, 5), bias=False),
        nn.ConvTranspose2d(4, 6, 3, dilation=2),
        nn.ConvTranspose2d(4, 6, 3, stride=3),
    ],
)
@pytest.mark.parametrize("size", [1, 9])
def test_any_convolution_is_the_same(layer: nn.Module, size: int) -> None:
    if size == 1 and isinstance(layer, nn.Conv2d):
        size = 7
    patches = web(3, 4, size)
    frozen = scripted(chain(layer, nn.LeakyReLU(0.3)))
    module = fused(frozen, patches)
    assert module is not None
    with torch.inference_mode():
        torch.testing.assert_close(module(patches), frozen(patches), rtol=1e-5, atol=1e-5)


def test_a_torch_without_the_operations_runs_torchscript(tiny_bundle: Path) -> None:
    bundle, execution = load_bundle(tiny_bundle), Execution("cpu", "float32", 4, 1)
    with patch("torch.backends.mkldnn.is_available", return_value=False):
        assert fused(bundle.module(), web(4, 1, 32)) is None
        plain = Runner(bundle, execution)
    patches = web(6, 1, 32)
    assert torch.equal(plain(patches), Runner(bundle, execution, fuse=False)(patches))
    torch.testing.assert_close(plain(patches), Runner(bundle, execution)(patches), rtol=0, atol=1e-5)


class Identity(nn.Module):
    def forward(self, patches: Tensor) -> Tensor:
        return patches


@pytest.mark.parametrize("fault", [0.02, float("nan")])
def test_another_result_than_torchscript_s_is_not_used(tmp_path: Path, fault: float) -> None:
    bundle = load_bundle(toy_bundle(tmp_path / "toy.pt", Identity()))

    def wrong(patches: Tensor) -> Tensor:
        return patches + fault

    with (
        patch.object(runner, "fused", lambda *_: wrong),
        pytest.warns(PrecisionWarning, match=r"toy\.pt: with convolutions .* in one pass .* runs as it is, slower"),
    ):
        run = Runner(bundle, Execution("cpu", "float32", 4, 1))
    patches = web(3, 1, TOY_PATCH)
    assert torch.equal(run(patches), patches)
