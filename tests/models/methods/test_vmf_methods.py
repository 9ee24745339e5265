import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch
from models.methods.elk import ExpectedLikelihoodKernel, log_expected_likelihood
from models.methods.fit import CachedBatches, Examples, Schedule, fit
from models.methods.mcinfonce import MCInfoNCE, VonMisesFisherHead, mc_info_nce
from models.methods.nivmf import NonIsotropicVMF, log_nivmf
from models.vmf import mean_resultant_length, sample_vmf
from tests.models.methods.problem import SIZES, batch, examples, unit
from uncertainty.metrics import spearman

Make = Callable[..., VonMisesFisherHead]
METHODS: list[Make] = [MCInfoNCE, ExpectedLikelihoodKernel, NonIsotropicVMF]


def random_unit(*shape: int) -> Tensor:
    return unit(torch.randn(*shape, dtype=torch.float64))


def log_c(kappa: float, dimension: int) -> float:
    order = dimension / 2 - 1
    log_bessel = math.log(special.ive(order, kappa)) + kappa
    return order * math.log(kappa) - dimension / 2 * math.log(2 * math.pi) - log_bessel


def sphere() -> tuple[Tensor, Tensor]:
    """Points (n, 3) and weights (n,) of a quadrature over the unit sphere."""
    height, weight = np.polynomial.legendre.leggauss(80)
    turn = 2 * math.pi * np.arange(160) / 160
    flat = np.sqrt(1 - height**2)[:, None]
    points = np.stack([flat * np.cos(turn), flat * np.sin(turn), np.broadcast_to(height[:, None], (80, 160))], axis=-1)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(np.repeat(weight * 2 * math.pi / 160, 160))


def circle() -> tuple[Tensor, Tensor]:
    """Points (n, 2) and weights (n,) of a quadrature over the unit circle."""
    turn = 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400
    return torch.stack([turn.cos(), turn.sin()], dim=1), torch.full((400,), 2 * math.pi / 400, dtype=torch.float64)


def density(points: Tensor, mean: Tensor, kappa: Tensor) -> Tensor:
    return (log_c(float(kappa), len(mean)) + kappa * points @ mean).exp()


def made(make: Make, projection: int = 8) -> VonMisesFisherHead:
    torch.manual_seed(0)
    head = make(SIZES, projection=projection)
    head.prepare(*examples(200)[0].clean(200, 0))
    return head


def blurred(count: int, seed: int) -> tuple[Examples, np.ndarray]:
    """Images without classes, which are harder to tell apart the more noise (n,) there is in each."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.0, 0.9, size=count)
    content = rng.normal(size=(count, SIZES.dimension))
    content *= 3 * (1 - noise[:, None]) / np.linalg.norm(content, axis=1, keepdims=True)
    features = content + 0.3 * rng.normal(size=(3, count, SIZES.dimension))  # (3, n, 12)
    return Examples(features.astype(np.float32), np.zeros(count, dtype=np.int64)), noise


def mc_info_nce_by_loop(first: Tensor, second: Tensor, inverse_temperature: float) -> float:
    samples, views = torch.cat([first, second], dim=1).tolist(), 2 * first.shape[1]
    losses = []
    for i in range(views):
        positive, shares = (i + views // 2) % views, []
        for z in samples:
            score = [
                math.exp(inverse_temperature * sum(a * b for a, b in zip(z[i], z[j], strict=True)))
                for j in range(views)
            ]
            shares.append(score[positive] / (sum(score) - score[i]))
        losses.append(-math.log(sum(shares) / len(shares)))
    return sum(losses) / views


def cross_entropy_by_loop(score: list[list[float]], labels: list[int]) -> float:
    """`score` is the likelihood of every image in every class."""
    return -sum(math.log(row[label] / sum(row)) for row, label in zip(score, labels, strict=True)) / len(labels)


@pytest.mark.parametrize(("samples", "images"), [(1, 2), (4, 5)])
def test_mc_info_nce_is_the_loop_over_images_and_samples(samples: int, images: int) -> None:
    torch.manual_seed(0)
    first, second = random_unit(samples, images, 3), random_unit(samples, images, 3)

    loss = mc_info_nce(first, second, torch.tensor(2.5, dtype=torch.float64))

    assert float(loss) == pytest.approx(mc_info_nce_by_loop(first, second, 2.5), rel=1e-12)


def test_mcinfonce_contrasts_samples_of_the_two_views() -> None:
    head, found = made(MCInfoNCE).double(), batch(6)
    torch.manual_seed(3)
    (loss,) = head.losses(found)
    torch.manual_seed(3)
    first, second = (sample_vmf(head.embed(view), 1 / head(view), 16) for view in found.features)

    assert loss.item() == pytest.approx(mc_info_nce_by_loop(first, second, 16.0), rel=1e-6)


def test_mcinfonce_ignores_labels() -> None:
    head, found = made(MCInfoNCE), batch(6, double=False)
    losses = []
    for labels in (found.labels, 1 - found.labels):
        torch.manual_seed(3)
        losses.append(head.losses(Batch(found.features, labels, found.targets))[0].item())

    assert losses[0] == losses[1]


@pytest.mark.parametrize("quadrature", [circle, sphere])
def test_the_kernel_is_the_integral_of_the_product_of_two_densities(
    quadrature: Callable[[], tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(0)
    points, weights = quadrature()
    mean, other = random_unit(3, points.shape[1]), random_unit(2, points.shape[1])
    kappa, other_kappa = torch.tensor([0.2, 3.0, 20.0]).double(), torch.tensor([1.5, 12.0]).double()

    kernel = log_expected_likelihood(mean, kappa, other, other_kappa)

    for i in range(3):
        for j in range(2):
            product = density(points, mean[i], kappa[i]) * density(points, other[j], other_kappa[j])
            assert float(kernel[i, j].exp()) == pytest.approx(float(weights @ product), rel=1e-9)


def test_the_kernel_holds_where_two_distributions_cancel() -> None:
    mean = torch.tensor([[1.0, 0.0]]).requires_grad_()
    kernel = log_expected_likelihood(mean, torch.tensor([5.0]), torch.tensor([[-1.0, 0.0]]), torch.tensor([5.0]))
    (gradient,) = torch.autograd.grad(kernel.sum(), mean)

    assert kernel.item() == pytest.approx(2 * log_c(5.0, 2) + math.log(2 * math.pi), rel=1e-6)
    assert gradient.isfinite().all()


def test_elk_is_the_cross_entropy_over_the_kernel() -> None:
    head, found = made(ExpectedLikelihoodKernel).double(), batch(5)
    assert isinstance(head, ExpectedLikelihoodKernel)
    nn.init.normal_(head.log_kappa, std=0.5)
    (loss,) = head.losses(found)
    score = []
    for image in found.features.flatten(0, 1):
        one = (head.embed(image[None])[0] / head(image[None])).detach()  # kappa mu
        rows = []
        for direction, log_kappa in zip(head.direction.detach(), head.log_kappa.detach(), strict=True):
            two = log_kappa.exp() * direction / direction.norm()
            lengths = [float(vector.norm()) for vector in (one, two, one + two)]
            rows.append(math.exp(log_c(lengths[0], 8) + log_c(lengths[1], 8) - log_c(lengths[2], 8)))
        score.append(rows)

    assert loss.item() == pytest.approx(cross_entropy_by_loop(score, 2 * found.labels.tolist()), rel=1e-9)


@pytest.mark.parametrize("quadrature", [circle, sphere])
def test_a_non_isotropic_density_integrates_to_one(quadrature: Callable[[], tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    points, weights = quadrature()
    direction = random_unit(4, points.shape[1])
    concentration = torch.empty(4, points.shape[1], dtype=torch.float64).uniform_(1.0, 6.0)

    total = weights @ log_nivmf(points, direction, concentration).exp()

    assert total.tolist() == pytest.approx([1.0] * 4, rel=1e-6)


def test_equal_concentrations_make_a_von_mises_fisher_density() -> None:
    torch.manual_seed(0)
    points, direction = random_unit(7, 5), random_unit(1, 5)

    got = log_nivmf(points, direction, torch.full((1, 5), 9.0, dtype=torch.float64)).exp()[:, 0]

    expected = density(points, direction[0], torch.tensor(9.0, dtype=torch.float64))
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_non_isotropic_density_is_narrower_where_its_concentration_is_higher() -> None:
    direction, concentration = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[5.0, 20.0, 2.0]])
    aside = unit(torch.tensor([[1.0, 0.3, 0.0], [1.0, 0.0, 0.3]]))

    narrow, wide = log_nivmf(aside, direction, concentration)[:, 0]

    assert float(narrow) < float(wide)


def test_nivmf_is_the_cross_entropy_over_the_mean_likelihood_of_samples() -> None:
    head, found = made(NonIsotropicVMF).double(), batch(5)
    assert isinstance(head, NonIsotropicVMF)
    nn.init.uniform_(head.log_concentration, 0.5, 2.0)
    torch.manual_seed(3)
    (loss,) = head.losses(found)
    torch.manual_seed(3)
    flat = found.flat()
    samples = sample_vmf(head.embed(flat.features[0]), 1 / head(flat.features[0]), 16).detach()  # (16, v b, p)
    score = []
    for image in samples.unbind(dim=1):
        rows = []
        for direction, log_k in zip(head.direction.detach(), head.log_concentration.detach(), strict=True):
            k, mean = log_k.exp().numpy(), (direction / direction.norm()).numpy()
            length, likelihood = float(np.linalg.norm(k * mean)), []
            for z in image.numpy():
                stretched = np.linalg.norm(k * z)
                exponent = (k * z) @ (k * mean) / stretched
                likelihood.append(math.exp(log_c(length, 8) + exponent) * float(np.prod(k)) / stretched**8)
            rows.append(float(np.mean(likelihood)))
        score.append(rows)

    assert loss.item() == pytest.approx(cross_entropy_by_loop(score, flat.labels.tolist()), rel=1e-6)


@pytest.mark.parametrize("make", METHODS)
def test_every_parameter_of_the_loss_is_trained(make: Make) -> None:
    head = made(make)
    before = copy.deepcopy(dict(head.named_parameters()))
    (loss,) = head.losses(batch(16, double=False))
    gradients = dict(zip(before, torch.autograd.grad(loss, list(head.parameters())), strict=True))

    schedule = Schedule(epochs=1, batch_size=16, weight_decay=0.0)
    fit(head, CachedBatches(examples(16)[0], schedule), schedule)

    assert {name for name in before if "." not in name} == {
        MCInfoNCE: {"log_inverse_temperature"},
        ExpectedLikelihoodKernel: {"direction", "log_kappa"},
        NonIsotropicVMF: {"direction", "log_concentration"},
    }[type(head)]
    for name, parameter in head.named_parameters():
        assert gradients[name].abs().sum() > 0, name
        assert not parameter.equal(before[name]), name


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("projection", [4, 32, 128])
def test_training_starts_where_the_mean_of_each_image_has_half_its_length(make: Make, projection: int) -> None:
    head = made(make, projection)

    kappa = 1 / head(batch(64, double=False).features[0]).detach()

    assert mean_resultant_length(kappa, projection).numpy() == pytest.approx(0.5, abs=0.15)
    assert kappa.mean().item() == pytest.approx(head.start, rel=0.3)


@pytest.mark.parametrize("make", METHODS)
def test_uncertainty_is_deterministic_and_one_over_kappa(make: Make) -> None:
    head = made(make).eval()
    features = batch(16, double=False).features[0]
    state = torch.get_rng_state()
    first, second = head(features), head(features)
    mean, kappa = head.distribution(features)

    assert first.equal(second)
    assert torch.get_rng_state().equal(state)
    assert (first > 0).all()
    assert first.detach().numpy() == pytest.approx((1 / kappa).detach().numpy(), rel=1e-6)
    assert mean.equal(head.embed(features))
    assert mean.norm(dim=1).detach().numpy() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("make", [ExpectedLikelihoodKernel, NonIsotropicVMF])
def test_classes_start_at_the_mean_of_their_images(make: Make) -> None:
    torch.manual_seed(0)
    head = make(SIZES, projection=8)
    features, labels = examples(200)[0].clean(200, 0)
    kept = labels != 3
    head.prepare(features[kept], labels[kept])
    direction = head.get_parameter("direction").detach()
    for label in range(3):
        mean = head.projection(features[labels == label]).mean(dim=0).detach()

        assert direction[label].numpy() == pytest.approx(F.normalize(mean, dim=0).numpy(), abs=1e-3)
    assert float(direction[3].norm()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("projection", [8, 32, 128])
def test_nivmf_starts_where_samples_tell_the_likelihoods_of_classes(projection: int) -> None:
    head = made(NonIsotropicVMF, projection)
    assert isinstance(head, NonIsotropicVMF)
    direction, concentration = F.normalize(head.direction.detach(), dim=1), head.log_concentration.detach().exp()
    with torch.inference_mode():
        mean, kappa = head.distribution(batch(64, double=False).features[0])
    exact = log_expected_likelihood(mean, kappa, direction, concentration[:, 0])  # while all concentrations are equal

    density = log_nivmf(sample_vmf(mean, kappa, head.samples), direction, concentration)  # (s, b, c)
    error = density.logsumexp(dim=0) - math.log(head.samples) - exact  # (b, c)

    assert abs(float(error.mean())) < 0.5
    assert float((error - error.mean(dim=1, keepdim=True)).square().mean().sqrt()) < 0.7  # between classes


def test_nivmf_learns_to_tell_classes_apart() -> None:
    training, _ = examples(800)
    unseen, _ = examples(200, seed=1)
    torch.manual_seed(0)
    head = NonIsotropicVMF(SIZES, projection=32)
    head.prepare(*training.clean(800, 0))
    schedule = Schedule(epochs=3, batch_size=64)

    fit(head, CachedBatches(training, schedule), schedule)

    with torch.inference_mode():
        mean, _ = head.distribution(torch.from_numpy(unseen.features[0]))
        density = log_nivmf(mean, F.normalize(head.direction, dim=1), head.log_concentration.exp())  # (n, c)
    assert float((density.argmax(dim=1).numpy() == unseen.labels).mean()) > 0.9


@pytest.mark.parametrize(("make", "projection"), [(ExpectedLikelihoodKernel, 32), (NonIsotropicVMF, 128)])
def test_uncertainty_follows_the_noise_that_blurs_classes(make: Make, projection: int) -> None:
    training, _ = examples(1600)
    unseen, noise = examples(400, seed=1)
    torch.manual_seed(0)
    head = make(SIZES, projection=projection)
    head.prepare(*training.clean(1000, 0))
    schedule = Schedule(epochs=6, batch_size=64)

    fit(head, CachedBatches(training, schedule), schedule)

    with torch.inference_mode():
        assert spearman(head(torch.from_numpy(unseen.features[0])).numpy(), noise) > 0.3


def test_mcinfonce_follows_the_noise_that_blurs_images() -> None:
    training, _ = blurred(800, seed=0)
    unseen, noise = blurred(400, seed=1)
    torch.manual_seed(0)
    head = MCInfoNCE(SIZES, projection=32)
    head.prepare(*training.clean(800, 0))
    schedule = Schedule(epochs=6, batch_size=64)

    fit(head, CachedBatches(training, schedule), schedule)

    with torch.inference_mode():
        assert spearman(head(torch.from_numpy(unseen.features[0])).numpy(), noise) > 0.7
