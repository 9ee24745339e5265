import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from models.methods.base import Batch, Head
from models.methods.fit import Schedule
from models.methods.hib import Hib, match_loss, prior_divergence
from models.methods.infonce import InfoNce
from tests.models.methods.making import (
    Doubles,
    array,
    double_batch,
    extreme_features,
    feature_gradient,
    fitted,
    linear,
    noise_rank_correlation,
    prepared,
    standardised,
    without_gradient,
)
from tests.models.methods.problem import SIZES, batch, examples, unit

Make = Callable[..., Head]
small_infonce = partial(InfoNce, projection=5)
small_hib = partial(Hib, projection=5, samples=3)
PAIR_METHODS: list[Make] = [small_infonce, small_hib]


def directions(rows: Doubles) -> Doubles:
    unit_rows: Doubles = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit_rows


def infonce_by_loop(first: Doubles, second: Doubles, inverse_temperature: float) -> float:
    """Mean over both ways of -log softmax of the partner's product, of directions (b, p)."""
    terms = []
    for one, other in ((first, second), (second, first)):
        for i, row in enumerate(one):
            products = [inverse_temperature * row @ candidate for candidate in other]
            terms.append(math.log(sum(math.exp(product) for product in products)) - products[i])
    return float(np.mean(terms))


@pytest.mark.parametrize("inverse_temperature", [16.0, 3.0])
def test_infonce_is_the_loop_over_images_in_both_ways(inverse_temperature: float) -> None:
    head = prepared(partial(InfoNce, projection=5, inverse_temperature=inverse_temperature))
    made = batch(6)
    first, second = (directions(linear(head.projection.linear, standardised(view))) for view in made.features)

    (loss,) = head.losses(made)

    assert loss.item() == pytest.approx(infonce_by_loop(first, second, inverse_temperature), rel=1e-5)


def test_infonce_knows_neither_labels_nor_a_third_view() -> None:
    head = prepared(small_infonce)
    made = batch(6)
    features = torch.cat([made.features, torch.randn(1, 6, SIZES.dimension, dtype=torch.float64)])
    other = Batch(features, torch.zeros_like(made.labels), made.targets)

    assert torch.equal(head.losses(other)[0], head.losses(made)[0])


def test_infonce_is_uncertain_where_the_projection_is_short_and_free_to_choose_its_length() -> None:
    head = prepared(small_infonce)
    made, features, _ = double_batch()
    projected = linear(head.projection.linear, standardised(features))
    loss, uncertainty = head.losses(made)[0], head(features)
    for parameter in head.projection.linear.parameters():
        parameter.detach().mul_(2)

    assert uncertainty.tolist() == pytest.approx((1 / np.linalg.norm(projected, axis=1)).tolist(), rel=1e-5)
    torch.testing.assert_close(head(features), uncertainty / 2)
    torch.testing.assert_close(head.losses(made)[0], loss)


def partner_found(head: Head) -> float:
    """Share of unseen images whose first view has its own second view as nearest among 200."""
    features = torch.from_numpy(examples(200, seed=1)[0].features)
    with torch.inference_mode():
        first, second = head.embed(features[0]), head.embed(features[1])
    return float(((first @ second.T).argmax(dim=1) == torch.arange(200)).float().mean())


def test_infonce_learns_to_find_the_other_view() -> None:
    chosen = partial(InfoNce, projection=4)

    assert partner_found(fitted(chosen)) > 2 * partner_found(prepared(chosen, double=False))


def hib_by_loop(head: Hib, features: Tensor, labels: list[int], draws: Doubles) -> float:
    """The loss by its formula, pair by pair, under draws (s, n, p)."""
    scale = array(head.scalar(features))
    mean = directions(linear(head.projection.linear, standardised(features)))
    size = mean.shape[1]
    points = [mean + scale[:, None] * draw / math.sqrt(size) for draw in draws]
    slope, offset = math.exp(head.log_slope.item()), head.offset.item()
    matched, parted = [], []
    for i, own in enumerate(labels):
        for j, other in enumerate(labels):
            if i == j:
                continue
            match = np.mean([1 / (1 + math.exp(-(slope * z[i] @ z[j] + offset))) for z in points])
            if own == other:
                matched.append(-math.log(match))
            else:
                parted.append(-math.log(1 - match))
    divergence = np.mean([size * (u * u - 2 * math.log(u)) / 2 for u in scale])  # |mu| is 1
    return float((np.mean(matched) + np.mean(parted)) / 2 + head.prior_weight * divergence)


def test_hib_is_the_loop_over_pairs_and_draws_with_matches_and_others_in_balance() -> None:
    head = prepared(partial(Hib, projection=5, samples=3, prior_weight=0.1))
    made, features, labels = double_batch()
    torch.manual_seed(5)
    draws = array(torch.randn(3, 12, 5, dtype=torch.float64))

    torch.manual_seed(5)
    (loss,) = head.losses(made)

    assert loss.item() == pytest.approx(hib_by_loop(head, features, labels, draws), rel=1e-5)


def test_hib_divergence_is_that_of_two_gaussians() -> None:
    torch.manual_seed(0)
    mean, scale = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.1
    deviation = scale[:, None].expand(4, 6) / math.sqrt(6)
    posterior = Independent(Normal(mean, deviation), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.full_like(mean, 1 / math.sqrt(6))), 1)

    torch.testing.assert_close(prior_divergence(mean, scale), kl_divergence(posterior, prior))


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2]])
def test_hib_takes_batches_without_matches_or_without_others(labels: list[int]) -> None:
    logits = torch.zeros(2, 3, 3, requires_grad=True)

    loss = match_loss(logits, torch.tensor(labels))
    (gradient,) = torch.autograd.grad(loss, logits)

    assert loss.item() == pytest.approx(math.log(2) / 2)  # only one half of the balance is there
    assert gradient.isfinite().all()


def test_hib_survives_logits_whose_sigmoid_is_zero() -> None:
    logits = torch.full((2, 2, 2), -1e4, dtype=torch.float64, requires_grad=True)

    loss = match_loss(logits, torch.tensor([1, 1]))
    (gradient,) = torch.autograd.grad(loss, logits)

    assert loss.item() == pytest.approx(5e3)
    assert gradient.isfinite().all()
    assert gradient[:, 0, 1].tolist() == pytest.approx([-0.125, -0.125])


def test_hib_of_a_wider_posterior_hedges_its_match_probability() -> None:
    head = prepared(small_hib)
    torch.manual_seed(0)
    mean = unit(torch.randn(1, 5, dtype=torch.float64)).expand(2, 5)
    draws = torch.randn(20_000, 2, 5, dtype=torch.float64) / math.sqrt(5)

    match = [head.match_logits(mean + u * draws).sigmoid().mean(dim=0)[0, 1].item() for u in (0.0, 0.5, 2.0)]

    assert match[0] > 0.99
    assert match[0] > match[1] > match[2] > 0.5


@pytest.mark.parametrize("parameter", [-3.0, 3.0])
def test_hib_slope_is_positive_whatever_its_parameter(parameter: float) -> None:
    head = prepared(small_hib)
    nn.init.constant_(head.log_slope, parameter)
    points = torch.eye(2, dtype=torch.float64)[None]

    near, far = head.match_logits(points)[0, 0].tolist()

    assert near > far


def test_hib_learns_a_scale_that_ranks_images_by_their_noise() -> None:
    schedule = Schedule(epochs=12, batch_size=32, learning_rate=5e-3)

    assert noise_rank_correlation(fitted(partial(Hib, projection=16), 400, schedule)) > 0.6


@pytest.mark.parametrize("make", PAIR_METHODS)
def test_every_parameter_learns(make: Make) -> None:
    assert without_gradient(prepared(make), batch()) == []


@pytest.mark.parametrize("make", PAIR_METHODS)
def test_the_loss_reaches_a_backbone_below(make: Make) -> None:
    gradient = feature_gradient(prepared(make), batch())

    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("make", PAIR_METHODS)
def test_scores_and_embeddings_of_extreme_lengths_are_finite_and_the_same_each_time(make: Make) -> None:
    head = prepared(make, double=False).eval()
    features = extreme_features()

    uncertainty, embedding = head(features), head.embed(features)

    assert uncertainty.shape == (len(features),)
    assert uncertainty.isfinite().all()
    assert (uncertainty > 0).all()
    assert torch.equal(head(features), uncertainty)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(features)))


@pytest.mark.parametrize("make", PAIR_METHODS)
def test_the_embedding_is_the_direction_of_the_projection(make: Make) -> None:
    head = prepared(make)
    _, features, _ = double_batch()
    layer = head.get_submodule("projection.linear")
    assert isinstance(layer, nn.Linear)

    np.testing.assert_allclose(
        array(head.embed(features)), directions(linear(layer, standardised(features))), rtol=1e-4, atol=1e-6
    )
