"""A training step's gradients on a CPU against those of autograd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from linescan.config import SsimSettings, TrainingSettings
from linescan.inspection.ssim import dissimilarity, window_weights
from linescan.models.autoencoder import Model, VariationalAutoencoder, initialise, model_for
from linescan.training.gradients import QuickGradients, can_differentiate, channels_last, mean_dissimilarity
from linescan.training.losses import reconstruction_loss


def patches(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------ the loss


def exact_means(maps: Tensor, ssim: SsimSettings) -> Tensor:
    """`window_mean_reflected`, whose matrices hold the weights in float32, in float64."""
    weights = torch.tensor(window_weights(ssim), dtype=torch.float64)
    reach = len(weights) // 2
    flat = functional.pad(maps.reshape(-1, 1, *maps.shape[-2:]), (reach,) * 4, mode="reflect")
    return functional.conv2d(flat, weights.outer(weights)[None, None]).view_as(maps)


@pytest.mark.parametrize(
    "ssim",
    [
        SsimSettings(),
        SsimSettings(window=3),
        SsimSettings(window=19),
        SsimSettings(kind="gaussian", sigma=1.5),
        SsimSettings(c1=0.01, c2=0.03),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 16, 16), (1, 1, 128, 128)], ids=str)
def test_value_and_gradient_are_those_of_autograd(ssim: SsimSettings, shape: tuple[int, ...]) -> None:
    wanted = patches(*shape)
    made = (wanted + 0.2 * patches(*shape, seed=1)).requires_grad_()
    expected = dissimilarity(wanted, made, ssim, exact_means).mean()
    (expected_gradient,) = torch.autograd.grad(expected, made)
    found = mean_dissimilarity(wanted, made, ssim)
    (gradient,) = torch.autograd.grad(3 * found, made)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, 3 * expected_gradient, rtol=1e-8, atol=1e-12)


def test_the_gradient_points_where_the_loss_falls() -> None:
    wanted, made, ssim = patches(2, 1, 32, 32), patches(2, 1, 32, 32, seed=1).requires_grad_(), SsimSettings()
    (gradient,) = torch.autograd.grad(mean_dissimilarity(wanted, made, ssim), made)
    direction, step = patches(2, 1, 32, 32, seed=2) - 0.5, 1e-6
    with torch.no_grad():
        ahead, behind = (float(mean_dissimilarity(wanted, made + sign * step * direction, ssim)) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_a_flat_patch_has_a_finite_gradient(grey: float) -> None:
    wanted = torch.full((3, 1, 32, 32), grey)
    made = wanted.clone().requires_grad_()
    loss = mean_dissimilarity(wanted, made, SsimSettings())
    loss.backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(made.grad.abs().max()) < 1e-6


def test_not_a_number_is_not_hidden() -> None:
    made = patches(4, 1, 32, 32, dtype=torch.float32)
    made[2, 0, 5, 5] = torch.nan
    assert torch.isnan(mean_dissimilarity(patches(4, 1, 32, 32, dtype=torch.float32), made, SsimSettings()))


def test_threads_do_not_show(threads: None) -> None:
    wanted, found = patches(7, 1, 32, 32, dtype=torch.float32), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made = patches(7, 1, 32, 32, dtype=torch.float32, seed=1).requires_grad_()
        loss = mean_dissimilarity(wanted, made, SsimSettings())
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.item(), made.grad))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]
    assert torch.equal(found[0][1], found[2][1])  # type: ignore[arg-type]


def test_exponents_are_left_to_autograd() -> None:
    made = patches(1, 1, 16, 16, dtype=torch.float32).requires_grad_()
    ssim = SsimSettings(alpha=2)
    assert not can_differentiate(made, ssim)
    reconstruction_loss("ssim", patches(1, 1, 16, 16, dtype=torch.float32, seed=1), made, ssim).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None


# ------------------------------------------------------------------------------------------------ the layers


def made_model(**settings: object) -> Model:
    asked = TrainingSettings(**{"latent_dim": 20, "patch_size": 32, **settings})  # type: ignore[arg-type]
    model = model_for(asked, 1)
    initialise(model, 0.4, torch.Generator().manual_seed(0))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.train()


def passes(model: Model, web: Tensor, quick: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of all weights and of the patches."""
    model.zero_grad(set_to_none=True)
    web = channels_last(web.clone()).requires_grad_()

    def run() -> Tensor:
        if isinstance(model, VariationalAutoencoder):
            mean, log_variance = model.encode(web)
            return model.decode(mean + log_variance)
        return model(web)  # type: ignore[no-any-return]

    if quick:
        with QuickGradients():
            out = run()
    else:
        out = run()
    (out * patches(*out.shape, dtype=torch.float32, seed=3)).sum().backward()  # type: ignore[no-untyped-call]
    found = {name: weight.grad for name, weight in model.named_parameters()} | {"patches": web.grad}
    assert all(gradient is not None for gradient in found.values())
    return out.detach(), found  # type: ignore[return-value]


@pytest.mark.parametrize("settings", [{}, {"patch_size": 16}, {"patch_size": 128}, {"method": "vae"}], ids=str)
def test_layers_have_the_gradients_of_autograd(settings: dict[str, object]) -> None:
    model = made_model(**settings)
    size = int(settings.get("patch_size", 32))  # type: ignore[call-overload]
    web = patches(5, 1, size, size, dtype=torch.float32)
    expected, expected_gradients = passes(model, web, quick=False)
    found, gradients = passes(model, web, quick=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in expected_gradients.items():
        apart = float((gradients[name] - gradient).norm() / gradient.norm())
        assert apart < 1e-3, name  # float32, in another order


def test_half_precision_stays_as_near_to_float32_as_autograd_is() -> None:
    model, web = made_model(), patches(8, 1, 32, 32, dtype=torch.float32)
    _, exact = passes(model, web, quick=False)
    apart: dict[bool, list[float]] = {False: [], True: []}
    for quick, found in apart.items():
        with torch.autocast("cpu", torch.bfloat16):
            _, gradients = passes(model, web, quick)
        found += [float((gradients[name] - exact[name]).norm() / exact[name].norm()) for name in exact]
        assert all(gradients[name].dtype == torch.float32 for name in exact)
    for usual, quick_one in zip(apart[False], apart[True], strict=True):
        assert quick_one < 1.25 * usual + 1e-3


def test_outside_of_it_nothing_is_changed() -> None:
    model = made_model()
    out = model(patches(1, 1, 32, 32, dtype=torch.float32))
    assert type(out.grad_fn).__name__ == "ConvolutionBackward0"


def test_one_channel_is_laid_out_as_many_are() -> None:
    maps = patches(2, 1, 8, 6)
    assert channels_last(maps).stride() == (48, 1, 6, 1)
    assert torch.equal(channels_last(maps), maps)
    many = patches(2, 3, 8, 6)
    assert channels_last(many).stride() == (144, 1, 18, 3)
    assert torch.equal(channels_last(many), many)
    assert torch.equal(channels_last(maps[:, :, ::2, 1:]), maps[:, :, ::2, 1:])
