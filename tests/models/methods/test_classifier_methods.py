import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods import sngp
from models.methods.base import Head
from models.methods.classifier import log_mean_softmax
from models.methods.cross_entropy import CrossEntropy
from models.methods.ensemble import Ensemble
from models.methods.hetxl import HetXl
from models.methods.mc_dropout import McDropout
from models.methods.sngp import Sngp
from tests.models.methods.making import (
    Doubles,
    array,
    double_batch,
    entropy,
    extreme_features,
    feature_gradient,
    fitted,
    linear,
    noise_rank_correlation,
    prepared,
    softmax,
    standardised,
    without_gradient,
)
from tests.models.methods.problem import SIZES, batch, examples, unit

Make = Callable[..., Head]
CLASSIFIERS: list[Make] = [CrossEntropy, HetXl, McDropout, Ensemble, Sngp]
small_hetxl = partial(HetXl, rank=3, samples=4)
small_dropout = partial(McDropout, hidden=7, rate=0.3, passes=5)
small_ensemble = partial(Ensemble, members=3)
small_sngp = partial(Sngp, count=20, ridge=0.5)


def clean_features(count: int = 5) -> Tensor:
    return torch.from_numpy(examples(count, seed=7)[0].features[0]).double()


def test_log_mean_softmax_is_the_log_of_the_mean_and_survives_logits_that_softmax_does_not() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 4, dtype=torch.float64)

    torch.testing.assert_close(log_mean_softmax(logits), logits.softmax(dim=2).mean(dim=0).log())
    far = log_mean_softmax(torch.tensor([[[0.0, 1e4]], [[0.0, 2e4]]], dtype=torch.float64))
    torch.testing.assert_close(far, torch.tensor([[-1e4 - math.log(2), 0.0]], dtype=torch.float64))


def test_cross_entropy_is_the_mean_over_views_and_images_and_its_score_the_entropy() -> None:
    head = prepared(CrossEntropy)
    made, features, labels = double_batch()
    probability = [softmax(linear(head.classifier, row)) for row in standardised(features)]

    (loss,) = head.losses(made)

    expected = np.mean([-np.log(p[label]) for p, label in zip(probability, labels, strict=True)])
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    assert head(features).tolist() == pytest.approx([entropy(p) for p in probability], rel=1e-6)


def hetxl_parts(head: HetXl, row: Doubles) -> tuple[Doubles, Doubles]:
    """V (w, r) and d (w,) of one input (w,)."""
    factors = linear(head.loading, row)[:, None] * array(head.factors)
    return factors, np.log1p(np.exp(linear(head.variance, row))) + 1e-6


def hetxl_probability(head: HetXl, row: Doubles, common: Doubles, own: Doubles) -> Doubles:
    """Mean softmax (c,) of one input (w,) under draws (s, r) and (s, w)."""
    factors, variance = hetxl_parts(head, row)
    temperature = 0.05 + 4.95 / (1 + math.exp(-head.temperature_logit.item()))
    noisy = [row + factors @ z + np.sqrt(variance) * n for z, n in zip(common, own, strict=True)]
    mean: Doubles = np.mean([softmax(linear(head.classifier, x) / temperature) for x in noisy], axis=0)
    return mean


def test_hetxl_loss_is_that_of_the_softmax_averaged_over_fresh_noise_of_each_image() -> None:
    head = prepared(small_hetxl)
    made, features, labels = double_batch()
    torch.manual_seed(5)
    common = array(torch.randn(4, 12, 3, dtype=torch.float64))
    own = array(torch.randn(4, 12, 13, dtype=torch.float64))

    torch.manual_seed(5)
    (loss,) = head.losses(made)

    rows = standardised(features)
    probability = [hetxl_probability(head, rows[i], common[:, i], own[:, i]) for i in range(12)]
    expected = np.mean([-np.log(p[label]) for p, label in zip(probability, labels, strict=True)])
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)


def test_hetxl_score_is_the_entropy_of_the_softmax_averaged_over_the_fixed_draws() -> None:
    head = prepared(small_hetxl)
    features = clean_features()
    common, own = array(head.common_draws[:, 0]), array(head.own_draws[:, 0])

    expected = [entropy(hetxl_probability(head, row, common, own)) for row in standardised(features)]

    assert head(features).tolist() == pytest.approx(expected, rel=1e-6)


def test_hetxl_noise_has_covariance_v_v_plus_diagonal_d() -> None:
    head = prepared(small_hetxl)
    inputs = torch.from_numpy(standardised(clean_features(2)))
    # These draws have exactly the second moment I, so that the noise has exactly its covariance.
    draws = 4.0 * torch.eye(16, dtype=torch.float64)[:, None]  # (3 + 13, 1, 3 + 13)

    noise = array(head.noise(inputs, draws[..., :3], draws[..., 3:]))  # (16, 2, 13)

    for image in range(2):
        factors, variance = hetxl_parts(head, array(inputs[image]))
        sampled = sum(np.outer(eps, eps) for eps in noise[:, image]) / 16
        np.testing.assert_allclose(sampled, factors @ factors.T + np.diag(variance), rtol=1e-9, atol=1e-12)


def test_hetxl_normal_draws_give_the_covariance_in_the_mean() -> None:
    head = prepared(small_hetxl)
    inputs = torch.from_numpy(standardised(clean_features(1)))
    common, own = torch.randn(40_000, 1, 3, dtype=torch.float64), torch.randn(40_000, 1, 13, dtype=torch.float64)

    sampled = np.cov(array(head.noise(inputs, common, own)[:, 0]), rowvar=False)

    factors, variance = hetxl_parts(head, array(inputs[0]))
    expected = factors @ factors.T + np.diag(variance)
    np.testing.assert_allclose(sampled, expected, atol=0.05 * np.abs(expected).max())


def test_hetxl_temperature_starts_at_one_and_stays_within_its_bounds() -> None:
    head = HetXl(SIZES)
    found = [head.temperature().item()]
    for logit in (-1e3, 1e3):
        nn.init.constant_(head.temperature_logit, logit)
        found.append(head.temperature().item())

    assert found == pytest.approx([1.0, 0.05, 5.0])


def dropout_probability(head: McDropout, row: Doubles, input_mask: Doubles, hidden_mask: Doubles) -> Doubles:
    hidden = np.maximum(linear(head.hidden, row * input_mask), 0) * hidden_mask
    return softmax(linear(head.classifier, hidden))


def test_dropout_loss_is_the_cross_entropy_under_fresh_masks_of_inputs_and_hidden_units() -> None:
    head = prepared(small_dropout)
    made, features, labels = double_batch()
    torch.manual_seed(5)
    input_masks = array(F.dropout(torch.ones(12, 13, dtype=torch.float64), 0.3))
    hidden_masks = array(F.dropout(torch.ones(12, 7, dtype=torch.float64), 0.3))

    torch.manual_seed(5)
    (loss,) = head.losses(made)

    masked = zip(standardised(features), input_masks, hidden_masks, strict=True)
    probability = [dropout_probability(head, *each) for each in masked]
    expected = np.mean([-np.log(p[label]) for p, label in zip(probability, labels, strict=True)])
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)


def test_dropout_score_is_the_entropy_of_the_mean_softmax_over_the_kept_masks() -> None:
    head = prepared(small_dropout)
    features = clean_features()
    masks = list(zip(array(head.input_masks[:, 0]), array(head.hidden_masks[:, 0]), strict=True))

    def score(row: Doubles) -> float:
        mean: Doubles = np.mean([dropout_probability(head, row, *mask) for mask in masks], axis=0)
        return entropy(mean)

    assert len(masks) == 5
    assert head(features).tolist() == pytest.approx([score(row) for row in standardised(features)], rel=1e-6)


def test_dropout_masks_drop_their_share_keep_the_mean_and_differ_between_passes() -> None:
    torch.manual_seed(0)
    masks = McDropout(SIZES, hidden=4000, rate=0.2, passes=10).hidden_masks

    assert set(masks.flatten().tolist()) == {0.0, 1.25}
    assert (masks == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 10


def test_ensemble_loss_is_the_mean_over_members_of_cross_entropy_on_each_ones_bootstrap_of_images() -> None:
    head = prepared(small_ensemble)
    made, features, labels = double_batch()
    logits = linear(head.classifiers, standardised(features)).reshape(12, 3, 4)
    torch.manual_seed(5)
    drawn = torch.randint(6, (3, 6)).tolist()

    torch.manual_seed(5)
    (loss,) = head.losses(made)

    terms = [
        -np.log(softmax(logits[6 * view + image, member])[labels[image]])
        for member in range(3)
        for image in drawn[member]
        for view in range(2)
    ]
    assert loss.item() == pytest.approx(float(np.mean(terms)), rel=1e-6)


def test_ensemble_score_is_the_entropy_of_the_members_mean_softmax() -> None:
    head = prepared(small_ensemble)
    features = clean_features()
    logits = linear(head.classifiers, standardised(features)).reshape(5, 3, 4)

    expected = [entropy(np.mean([softmax(member) for member in row], axis=0)) for row in logits]

    assert head(features).tolist() == pytest.approx(expected, rel=1e-6)


def test_ensemble_members_start_differently_and_drift_apart_even_from_one_start() -> None:
    head = prepared(small_ensemble, double=False)
    weights = head.classifiers.weight.detach().view(3, 4, -1)
    assert not torch.equal(weights[0], weights[1])

    weights.copy_(weights[0].clone().expand_as(weights))
    (loss,) = head.losses(batch(double=False))
    (gradient,) = torch.autograd.grad(loss, head.classifiers.weight)

    first, second, _ = gradient.view(3, 4, -1)
    assert not torch.allclose(first, second, atol=1e-4)


def sngp_cosines(head: Sngp, features: Tensor) -> Doubles:
    """Random features (n, k) by the formula, with the length scale found here."""
    train = standardised(torch.from_numpy(examples()[0].features[0]).double())
    length = np.sort(pdist(train))[(400 * 399 // 2 - 1) // 2]  # the lower median, as torch's
    angles = standardised(features) @ array(head.frequencies).T / length + array(head.phases)
    cosines: Doubles = np.sqrt(2 / angles.shape[1]) * np.cos(angles)
    return cosines


def test_sngp_loss_is_the_cross_entropy_of_linear_logits_of_the_random_features() -> None:
    head = prepared(small_sngp)
    made, features, labels = double_batch()

    (loss,) = head.losses(made)

    probability = [softmax(linear(head.classifier, row)) for row in sngp_cosines(head, features)]
    expected = np.mean([-np.log(p[label]) for p, label in zip(probability, labels, strict=True)])
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)


def test_sngp_random_features_have_the_product_of_a_gaussian_kernel() -> None:
    head = prepared(partial(Sngp, count=3000))
    features = clean_features(6)
    inputs = standardised(features)
    squared = ((inputs[:, None] - inputs) ** 2).sum(axis=2)

    cosines = array(head.cosines(features))

    np.testing.assert_allclose(cosines @ cosines.T, np.exp(-squared / (2 * head.length.item() ** 2)), atol=0.06)


@pytest.mark.parametrize("rows_at_once", [7, 4096])
def test_sngp_variance_is_that_of_the_directly_inverted_precision(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sngp, "ROWS_AT_ONCE", rows_at_once)
    head = prepared(small_sngp)
    nn.init.normal_(head.classifier.weight, std=3.0)
    train, labels = examples()[0].clean(30, seed=0)
    features = clean_features()
    precision = 0.5 * np.eye(20)
    for row in sngp_cosines(head, train.double()):
        top = softmax(linear(head.classifier, row)).max()
        precision += top * (1 - top) * np.outer(row, row)
    found = sngp_cosines(head, features)
    variance = [row @ np.linalg.inv(precision) @ row for row in found]

    head.finish(train.double(), labels)

    assert head.variance(head.cosines(features)).tolist() == pytest.approx(variance, rel=1e-4)
    logits = [linear(head.classifier, row) / np.sqrt(1 + np.pi / 8 * v) for row, v in zip(found, variance, strict=True)]
    assert head(features).tolist() == pytest.approx([entropy(softmax(each)) for each in logits], rel=1e-4)


def test_sngp_is_less_sure_away_from_what_it_was_trained_on() -> None:
    head = fitted(Sngp)
    seen = head.cosines(torch.from_numpy(examples(800)[0].features[0]))
    torch.manual_seed(0)
    unseen = head.cosines(3.0 * torch.randn(200, SIZES.dimension))

    with torch.inference_mode():
        assert head.variance(unseen).min() > head.variance(seen).median()


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_every_parameter_learns(make: Make) -> None:
    assert without_gradient(prepared(make), batch()) == []


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_the_loss_reaches_a_backbone_below(make: Make) -> None:
    gradient = feature_gradient(prepared(make), batch())

    assert gradient.isfinite().all()
    assert (gradient.flatten(0, 1).abs().sum(dim=1) > 0).float().mean() > 0.5  # a bootstrap leaves out some images


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_score_is_the_same_each_time_and_in_every_batch(make: Make) -> None:
    head = prepared(make)
    head.finish(*(part.double() if part.is_floating_point() else part for part in examples()[0].clean(400, seed=0)))
    features = clean_features()
    first = head(features)
    torch.manual_seed(123)

    assert torch.equal(head.eval()(features), first)
    torch.testing.assert_close(head(features[2:3]), first[2:3])


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_scores_of_extreme_lengths_are_finite_entropies(make: Make) -> None:
    head = prepared(make, double=False)
    head.finish(*examples()[0].clean(400, seed=0))
    features = extreme_features()

    uncertainty = head(features)

    assert uncertainty.shape == (len(features),)
    assert uncertainty.isfinite().all()
    assert (uncertainty > -1e-6).all()
    assert (uncertainty <= math.log(SIZES.classes) + 1e-5).all()


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_the_embedding_stays_the_backbones(make: Make) -> None:
    features = clean_features()

    torch.testing.assert_close(prepared(make).embed(features), unit(features))


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_short_fit_ranks_images_by_their_noise(make: Make) -> None:
    assert noise_rank_correlation(fitted(make)) > 0.75
