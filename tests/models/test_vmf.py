import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.nn import functional as F

from models.vmf import concentration_of, log_normaliser, mean_resultant_length, quantile_slope, sample_vmf

DIMENSIONS = [2, 3, 4, 8, 47, 48, 64, 128, 512, 1280, 2048, 4096]
KAPPAS = [1e-3, 0.1, 1.0, 10.0, 50.0, 300.0, 1e3, 1e4, 1e5]

mpmath: Any = pytest.importorskip("mpmath")


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact(kappa: float, dimension: int) -> tuple[float, float]:
    """Log C_d(kappa) and A_d(kappa), to 40 digits."""
    with mpmath.workdps(40):
        order, k = mpmath.mpf(dimension) / 2 - 1, mpmath.mpf(kappa)
        bessel, following = mpmath.besseli(order, k), mpmath.besseli(order + 1, k)
        log_c = order * mpmath.log(k) - (order + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
        return float(log_c), float(following / bessel)


def length_of(kappa: float, dimension: int) -> float:
    return float(mean_resultant_length(double(kappa), dimension))


def cosine_variance(kappa: float, dimension: int) -> float:
    """Variance of the cosine of a sample to the mean: the derivative of A_d."""
    length = length_of(kappa, dimension)
    return 1 - length**2 - (dimension - 1) / kappa * length


def angle_weight(kappa: float, dimension: int, angle: float, anchor: float) -> float:
    """Density of the angle to the mean, relative to that at another angle."""
    bend = (dimension - 2) * math.log(math.sin(angle) / math.sin(anchor)) if dimension > 2 else 0.0
    return math.exp(kappa * (math.cos(angle) - math.cos(anchor)) + bend)


def angle_distribution(kappa: float, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """A fine grid of angles, and the distribution function there."""
    spread = 2 / (dimension - 2 + math.hypot(dimension - 2, 2 * kappa))
    mode = math.acos(min(1.0, kappa * spread))
    low, high = max(0.0, mode - 14 * math.sqrt(spread)), min(math.pi, mode + 14 * math.sqrt(spread))
    grid = np.linspace(low, high, 20001)
    sine = np.maximum(np.sin(grid), 1e-300)
    log_weight = kappa * np.cos(grid) + (dimension - 2) * np.log(sine)
    cumulative = integrate.cumulative_simpson(np.exp(log_weight - log_weight.max()), x=grid, initial=0.0)
    return grid, cumulative / cumulative[-1]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_log_normaliser_and_its_gradient_are_exact(dimension: int) -> None:
    kappa = double(*KAPPAS).requires_grad_()
    value = log_normaliser(kappa, dimension)
    (gradient,) = torch.autograd.grad(value.sum(), kappa)
    expected, length = zip(*(exact(k, dimension) for k in KAPPAS), strict=True)

    assert value.tolist() == pytest.approx(list(expected), rel=1e-11, abs=1e-11)
    assert (-gradient).tolist() == pytest.approx(list(length), rel=1e-11)
    assert mean_resultant_length(kappa, dimension).tolist() == pytest.approx(list(length), rel=1e-11)


@pytest.mark.parametrize("dimension", [2, 30, 128, 2048])
def test_the_gradient_is_that_of_the_value(dimension: int) -> None:
    kappa = double(0.3, 4.0, 70.0, 900.0).requires_grad_()

    assert torch.autograd.gradcheck(lambda k: log_normaliser(k, dimension), kappa)


@pytest.mark.parametrize("dimension", [2, 3, 128, 4096])
def test_a_kappa_of_zero_is_the_uniform_distribution(dimension: int) -> None:
    log_area = math.log(2) + dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2)

    assert float(log_normaliser(double(0.0), dimension)) == pytest.approx(-log_area, rel=1e-12)
    assert length_of(0.0, dimension) == 0.0


def test_on_the_sphere_the_normaliser_is_the_closed_form() -> None:
    kappa = double(0.1, 2.0, 30.0)

    expected = kappa / (4 * math.pi * kappa.sinh())

    assert log_normaliser(kappa, 3).exp().tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("dimension", [2, 16, 512])
def test_more_concentration_means_a_longer_mean_and_less_mass_elsewhere(dimension: int) -> None:
    kappa = torch.logspace(-3, 6, 500, dtype=torch.float64)
    length = mean_resultant_length(kappa, dimension)

    assert (log_normaliser(kappa, dimension).diff() < 0).all()
    assert (length.diff() > 0).all()
    assert (length > 0).all()
    assert (length < 1).all()
    assert (mean_resultant_length(kappa, dimension + 1) < length).all()


def test_single_precision_is_the_double_result_rounded() -> None:
    kappa = torch.tensor([[0.01, 3.0], [250.0, 6e4]], requires_grad=True)
    value = log_normaliser(kappa, 1280)
    (gradient,) = torch.autograd.grad(value.sum(), kappa)

    assert value.dtype == gradient.dtype == torch.float32
    assert value.equal(log_normaliser(kappa.detach().double(), 1280).float())
    assert (-gradient).equal(mean_resultant_length(kappa.detach(), 1280))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    kappa = double(2.0).requires_grad_()
    (gradient,) = torch.autograd.grad(log_normaliser(kappa, 4).sum(), kappa, create_graph=True)

    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(gradient.sum(), kappa)


def test_a_point_is_no_sphere() -> None:
    with pytest.raises(ValueError, match="dimension 2 or more, not 1"):
        log_normaliser(double(1.0), 1)
    with pytest.raises(ValueError, match="dimension 2 or more, not 1"):
        sample_vmf(torch.ones(1, 1), torch.ones(1), 1)


@pytest.mark.parametrize("dimension", [2, 8, 128, 2048])
@pytest.mark.parametrize("length", [0.2, 0.5, 0.9])
def test_the_concentration_of_a_length_has_about_that_length(dimension: int, length: float) -> None:
    assert length_of(concentration_of(length, dimension), dimension) == pytest.approx(length, abs=0.03)


@pytest.mark.parametrize("dimension", [2, 3, 10, 128, 2048])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 40.0, 2e3, 1e5])
def test_samples_have_the_right_mean_and_spread_along_it(dimension: int, kappa: float) -> None:
    torch.manual_seed(0)
    mean = F.normalize(torch.randn(1, dimension, dtype=torch.float64), dim=1)
    count = 2000

    samples = sample_vmf(mean, double(kappa), count)[:, 0]  # (count, d)

    cosine = samples @ mean[0]
    length, variance = length_of(kappa, dimension), cosine_variance(kappa, dimension)
    assert samples.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-12)
    assert abs(float(cosine.mean()) - length) < 4 * math.sqrt(variance / count)
    assert float(cosine.var()) == pytest.approx(variance, rel=0.2)
    across = samples - cosine[:, None] * mean  # (count, d)
    assert float(across.mean(dim=0).norm()) < 2.5 * math.sqrt((1 - length**2) / count)


@pytest.mark.parametrize(
    ("dimension", "kappa"), [(2, 0.5), (2, 80.0), (3, 5.0), (16, 30.0), (128, 500.0), (1024, 20.0)]
)
def test_the_angle_of_samples_has_the_distribution_of_its_density(dimension: int, kappa: float) -> None:
    torch.manual_seed(0)
    mean = torch.eye(dimension, dtype=torch.float64)[:1]
    grid, below = angle_distribution(kappa, dimension)

    angle = sample_vmf(mean, double(kappa), 3000)[:, 0, 0].acos().numpy()

    assert stats.kstest(angle, lambda a: np.interp(a, grid, below)).pvalue > 0.01


def test_samples_lie_around_the_mean_evenly() -> None:
    torch.manual_seed(0)
    samples = sample_vmf(double(0.0, 0.0, 1.0)[None], double(5.0), 3000)[:, 0]

    azimuth = torch.atan2(samples[:, 1], samples[:, 0]).numpy()

    assert stats.kstest(azimuth, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 0.7), (2, 60.0), (3, 8.0), (12, 5.0), (128, 300.0), (2048, 1e4)])
def test_the_slope_of_a_sample_is_that_of_its_quantile(dimension: int, kappa: float) -> None:
    level, step = np.array([0.002, 0.1, 0.5, 0.9, 0.998]), 0.01 * kappa
    quantiles = []
    for shifted in (kappa - step, kappa, kappa + step):
        grid, below = angle_distribution(shifted, dimension)
        quantiles.append(np.interp(level, below, grid))
    before, quantile, after = quantiles

    slope = quantile_slope(torch.from_numpy(quantile)[:, None], double(kappa), dimension)[:, 0]

    assert slope.numpy() == pytest.approx((after - before) / (2 * step), rel=2e-3)


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 0.01), (2, 20.0), (3, 1e5), (64, 40.0), (2048, 1e5)])
def test_the_slope_is_accurate_in_the_tails_too(dimension: int, kappa: float) -> None:
    torch.manual_seed(0)
    angle = sample_vmf(torch.eye(dimension, dtype=torch.float64)[:1], double(kappa), 200)[:, 0, 0].acos()
    spread = math.sqrt(2 / (dimension - 2 + math.hypot(dimension - 2, 2 * kappa)))
    for extreme in (float(angle.min()), float(angle.max())):
        low, high = max(0.0, extreme - 20 * spread), min(math.pi, extreme + 20 * spread)

        def excess(at: float, anchor: float = extreme) -> float:
            return (math.cos(at) - length_of(kappa, dimension)) * angle_weight(kappa, dimension, at, anchor)

        below, above = (
            integrate.quad(excess, *ends, epsabs=0, limit=200)[0] for ends in ((low, extreme), (extreme, high))
        )
        expected = -below if abs(below) < abs(above) else above

        slope = quantile_slope(double(extreme)[:, None], double(kappa), dimension)

        assert slope.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 1.5), (3, 20.0), (128, 100.0)])
def test_the_gradient_to_kappa_is_unbiased(dimension: int, kappa: float) -> None:
    torch.manual_seed(0)
    mean = torch.eye(dimension, dtype=torch.float64)[:1]
    spread = double(kappa).expand(4000).clone().requires_grad_()
    samples = sample_vmf(mean.expand(4000, -1), spread, 1)[0]
    (gradient,) = torch.autograd.grad(samples[:, 0].sum(), spread)

    error = float(gradient.mean()) - cosine_variance(kappa, dimension)

    assert abs(error) < 4 * float(gradient.std()) / math.sqrt(4000)


@pytest.mark.parametrize("dimension", [2, 3, 128])
def test_samples_turn_with_the_mean(dimension: int) -> None:
    torch.manual_seed(0)
    mean = F.normalize(torch.randn(1, dimension, dtype=torch.float64), dim=1).requires_grad_()
    samples = sample_vmf(mean, double(4.0), 5)[:, 0]  # (5, d)
    change = torch.randn(dimension, dtype=torch.float64)
    change = change - (change @ mean[0].detach()) * mean[0].detach()
    turn = torch.outer(change, mean[0].detach())
    turn = turn - turn.T  # the rotation that begins to take the mean along the change
    for sample in samples:
        for axis in range(min(dimension, 3)):
            (gradient,) = torch.autograd.grad(sample[axis], mean, retain_graph=True)

            assert float(gradient[0] @ change) == pytest.approx(float((turn @ sample.detach())[axis]), abs=1e-12)


@pytest.mark.parametrize("dimension", [2, 128, 2048])
def test_samples_and_gradients_are_finite_over_the_whole_range_in_single_precision(dimension: int) -> None:
    torch.manual_seed(0)
    kappa = torch.logspace(-6, 6, 40).requires_grad_()
    mean = F.normalize(torch.randn(40, dimension), dim=1).requires_grad_()

    samples = sample_vmf(mean, kappa, 4)
    gradients = torch.autograd.grad((samples * torch.randn_like(samples)).sum(), [mean, kappa])

    assert samples.shape == (4, 40, dimension)
    assert samples.dtype == torch.float32
    assert samples.norm(dim=2).detach().numpy() == pytest.approx(1.0, abs=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_equal_seeds_give_equal_samples() -> None:
    mean, kappa = F.normalize(torch.ones(3, 4), dim=1), torch.ones(3)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sample_vmf(mean, kappa, 2))

    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_a_kappa_that_is_not_a_number_shows_in_the_samples_instead_of_never_ending() -> None:
    samples = sample_vmf(F.normalize(torch.ones(2, 4), dim=1), torch.tensor([1.0, math.nan]), 3)

    assert samples[:, 0].isfinite().all()
    assert samples[:, 1].isnan().all()
