"""SSIM and its windows, against scikit-image and against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from linescan.config import SsimSettings
from linescan.inspection import ssim as engine
from tests import reference


def pair(height: int = 40, width: int = 53) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured image and a dull, shifted copy of it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(height, width, generator=generator)
    return x, 0.5 * x.roll(1, 0) + 0.2 + 0.1 * torch.rand(height, width, generator=generator)


@pytest.mark.parametrize("window", [3, 7, 11, 21])
def test_uniform_windows_agree_with_skimage(window: int) -> None:
    x, y = pair()
    ssim = SsimSettings(window=window, kind="uniform")
    _, expected = structural_similarity(
        x.numpy().astype(float), y.numpy().astype(float), win_size=window, data_range=1, full=True,
        use_sample_covariance=False,
    )  # fmt: skip
    r = window // 2
    found = engine.similarity(x, y, ssim).numpy()
    np.testing.assert_allclose(found, expected[r:-r, r:-r], atol=2e-5)


def test_a_gaussian_window_agrees_with_skimage() -> None:
    x, y = pair()
    # skimage cuts its Gaussian at 3.5 σ: a window of 11
    _, expected = structural_similarity(
        x.numpy().astype(float), y.numpy().astype(float), gaussian_weights=True, sigma=1.5, data_range=1, full=True,
        use_sample_covariance=False,
    )  # fmt: skip
    found = engine.similarity(x, y, SsimSettings(window=11, kind="gaussian", sigma=1.5)).numpy()
    np.testing.assert_allclose(found, expected[5:-5, 5:-5], atol=2e-5)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.7, 1.3, 0.5), (2, 1, 0.9)])
def test_exponents_agree_with_float64(kind: str, exponents: tuple[float, float, float]) -> None:
    x, y = pair()
    alpha, beta, gamma = exponents
    ssim = SsimSettings(window=7, kind=kind, alpha=alpha, beta=beta, gamma=gamma)  # type: ignore[arg-type]
    expected = reference.similarity(x.numpy(), y.numpy(), ssim)
    assert (expected < 0).any(), "a negative structure keeps its sign"
    np.testing.assert_allclose(engine.similarity(x, y, ssim).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("window", [1, 3, 5, 7, 9, 11, 13, 31, 63])
def test_window_mean_is_the_mean_of_each_window(kind: str, window: int) -> None:
    maps = torch.rand(2, 70, 66, generator=torch.Generator().manual_seed(2))
    kept = maps.clone()
    ssim = SsimSettings(window=window, kind=kind, sigma=0.2 * window + 0.5)  # type: ignore[arg-type]
    found = engine.window_mean(maps, ssim)
    assert torch.equal(maps, kept)
    weights = torch.tensor(engine.window_weights(ssim), dtype=torch.float64)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    windows = maps.double().unfold(1, window, 1).unfold(2, window, 1)
    expected = torch.einsum("chwij,i,j->chw", windows, weights, weights)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("size", [(1, 9), (5, 6), (40, 33)])
def test_the_mean_for_training_is_the_same_over_a_reflected_image(kind: str, size: tuple[int, int]) -> None:
    maps = torch.rand(2, *size, generator=torch.Generator().manual_seed(3))
    ssim = SsimSettings(window=11, kind=kind)  # type: ignore[arg-type]
    wide = torch.from_numpy(reference.padded(maps.numpy(), 5, 5, 5, 5))
    found = engine.window_mean_reflected(maps, ssim)
    torch.testing.assert_close(found, engine.window_mean(wide, ssim), rtol=0, atol=1e-6)


@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.7, 1.3, 0.9)])
def test_a_value_does_not_depend_on_where_the_image_was_cut(exponents: tuple[float, float, float]) -> None:
    x, y = pair(61, 57)
    alpha, beta, gamma = exponents
    for kind in ("uniform", "gaussian"):
        ssim = SsimSettings(window=7, kind=kind, alpha=alpha, beta=beta, gamma=gamma)
        whole = engine.similarity(x, y, ssim)
        rows = torch.cat([engine.similarity(x[i : i + 7], y[i : i + 7], ssim) for i in range(55)])
        assert torch.equal(rows, whole)
        columns = torch.cat([engine.similarity(x[:, i : i + 7], y[:, i : i + 7], ssim) for i in range(51)], 1)
        assert torch.equal(columns, whole)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_the_product_of_the_components_is_the_similarity(kind: str) -> None:
    x, y = pair()
    ssim = SsimSettings(window=7, kind=kind)  # type: ignore[arg-type]
    luminance, contrast, structure = engine.components(x, y, ssim)
    torch.testing.assert_close(luminance * contrast * structure, engine.similarity(x, y, ssim), rtol=0, atol=2e-5)
    for part in (luminance, contrast):
        assert bool((part > 0).all())
        assert float(part.max()) <= 1 + 1e-5


def test_a_variance_is_never_negative() -> None:
    flat = torch.linspace(0, 1, 50)[:, None, None].expand(50, 12, 12)
    ssim = SsimSettings(window=7)
    _, _, var_x, var_y, _ = engine._moments(flat, flat.flip(0), ssim, engine.window_mean)
    assert float(var_x.min()) >= 0
    assert float(var_y.min()) >= 0
    # E[x²] − E[x]² of flat images does fall below in float32
    assert float((engine.window_mean(flat * flat, ssim) - engine.window_mean(flat, ssim) ** 2).min()) < 0


def test_an_image_is_like_itself() -> None:
    x, _ = pair()
    torch.testing.assert_close(engine.similarity(x, x, SsimSettings()), torch.ones(30, 43))


@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.7, 1.3, 0.5), (2, 2, 2)])
@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mean", [engine.window_mean, engine.window_mean_reflected])
def test_gradients_are_finite_on_flat_images(
    exponents: tuple[float, float, float], grey: float, mean: engine.WindowMean
) -> None:
    alpha, beta, gamma = exponents
    ssim = SsimSettings(window=7, alpha=alpha, beta=beta, gamma=gamma)
    x, y = torch.full((20, 20), grey), torch.full((20, 20), grey, requires_grad=True)
    engine.similarity(x, y, ssim, mean).sum().backward()
    assert y.grad is not None
    assert bool(torch.isfinite(y.grad).all())


@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.7, 1.3, 0.5)])
def test_gradients_agree_with_differences(exponents: tuple[float, float, float]) -> None:
    alpha, beta, gamma = exponents
    ssim = SsimSettings(window=3, alpha=alpha, beta=beta, gamma=gamma)
    x, y = (image[:6, :6].double() for image in pair())
    y = (0.8 * x + 0.2 * y).requires_grad_()  # structure well above 0, where the power is smooth
    assert torch.autograd.gradcheck(lambda other: engine.similarity(x, other, ssim), (y,), atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.005, 0.05])
def test_a_flat_window_with_exponents_is_what_the_formula_says(spread: float) -> None:
    ssim = SsimSettings(window=3, beta=0.7, gamma=1.3)
    web = torch.full((1, 3, 3), 13 / 255)
    other = web + spread * torch.linspace(-1, 1, 9).reshape(1, 3, 3)
    variance = float(other.double().var(correction=0))
    # eq. 5–7 with deviation and covariance 0 of the web: luminance 1, contrast c2 / (σ² + c2), structure 1
    assert float(engine.similarity(web, other, ssim)) == pytest.approx(
        (ssim.c2 / (variance + ssim.c2)) ** 0.7, abs=1e-4
    )
