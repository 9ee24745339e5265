from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from models.methods.fit import Schedule
from models.methods.losspred import LossPrediction
from tests.models.methods.making import (
    array,
    double_batch,
    extreme_features,
    fitted,
    linear,
    noise_rank_correlation,
    prepared,
    softmax,
    standardised,
    without_gradient,
)
from tests.models.methods.problem import batch, examples, unit

Gradient = Literal["stop", "joint"]
GRADIENTS: list[Gradient] = ["stop", "joint"]


def small(gradient: Gradient) -> partial[LossPrediction]:
    return partial(LossPrediction, projection=6, gradient=gradient)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_losses_are_the_cross_entropy_and_the_squared_error_of_its_prediction(gradient: Gradient) -> None:
    head = prepared(small(gradient))
    made, features, labels = double_batch()
    projected = linear(head.projection.linear, standardised(features))
    own = [-np.log(softmax(linear(head.classifier, e))[k]) for e, k in zip(projected, labels, strict=True)]

    classification, prediction = head.losses(made)

    errors = [(u - loss) ** 2 for u, loss in zip(array(head(features)), own, strict=True)]
    assert classification.item() == pytest.approx(float(np.mean(own)), rel=1e-5)
    assert prediction.item() == pytest.approx(float(np.mean(errors)), rel=1e-5)


def gradients_of_the_prediction(head: LossPrediction) -> dict[str, Tensor | None]:
    names, parameters = zip(*head.named_parameters(), strict=True)
    found = torch.autograd.grad(head.losses(batch())[1], parameters, allow_unused=True)
    return dict(zip(names, found, strict=True))


def moved(gradients: dict[str, Tensor | None]) -> set[str]:
    """Modules at the top of the head that a gradient moves."""
    return {name.split(".")[0] for name, g in gradients.items() if g is not None and bool(g.any())}


def test_with_stop_the_prediction_moves_nothing_but_its_own_layers() -> None:
    assert moved(gradients_of_the_prediction(prepared(small("stop")))) == {"scalar"}


def test_with_joint_the_prediction_moves_the_projection_but_not_the_loss_it_predicts() -> None:
    assert moved(gradients_of_the_prediction(prepared(small("joint")))) == {"scalar", "projection"}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_only_joint_lets_the_prediction_reach_a_backbone(gradient: Gradient) -> None:
    head = prepared(small(gradient))
    made = batch()
    made.features.requires_grad_()
    classification, prediction = head.losses(made)

    (from_class,) = torch.autograd.grad(classification, made.features, retain_graph=True)
    (from_prediction,) = torch.autograd.grad(prediction, made.features, allow_unused=True)

    assert from_class.any()
    assert (from_prediction is not None and bool(from_prediction.any())) == (gradient == "joint")


def test_the_scalar_sees_inputs_of_unit_variance() -> None:
    head = prepared(small("stop"), double=False)
    features, _ = examples()[0].clean(400, seed=0)

    inputs = head.scalar.standardise(head.projection(features))

    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(7), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(inputs.std(dim=0), torch.ones(7), atol=1e-3, rtol=0.0)


def test_the_embedding_is_the_direction_of_the_projection() -> None:
    head = prepared(small("stop"))
    _, features, _ = double_batch()

    torch.testing.assert_close(head.embed(features), unit(head.projection(features)))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_parameter_learns(gradient: Gradient) -> None:
    assert without_gradient(prepared(small(gradient)), batch()) == []


def test_scores_of_extreme_lengths_are_positive_finite_and_the_same_each_time() -> None:
    head = prepared(LossPrediction, double=False).eval()
    features = extreme_features()

    uncertainty = head(features)

    assert uncertainty.isfinite().all()
    assert (uncertainty > 0).all()
    assert torch.equal(head(features), uncertainty)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_short_fit_ranks_images_by_their_noise(gradient: Gradient) -> None:
    schedule = Schedule(epochs=12, batch_size=64)

    head = fitted(partial(LossPrediction, projection=32, gradient=gradient), 800, schedule)

    assert noise_rank_correlation(head) > 0.7
