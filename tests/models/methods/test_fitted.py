import numpy as np
import pytest
import torch

from models.methods.base import Fitted, Sizes
from models.methods.inverse_norm import InverseNorm
from models.methods.knn import KnnDistance
from models.methods.leverage import Leverage
from models.methods.mahalanobis import Mahalanobis
from tests.models.methods.problem import SIZES, batch, examples
from uncertainty.distances import (
    fit_leverage,
    fit_relative_novelty,
    knn_distance,
    leverage,
    relative_novelty,
)
from uncertainty.novelty import novelty

TRAIN, _ = examples(300)
FEATURES = torch.from_numpy(TRAIN.features[0])
LABELS = torch.from_numpy(TRAIN.labels)
QUERIES = examples(50, seed=7)[0].features[0]


def scored(head: Fitted) -> np.ndarray:
    head.prepare(FEATURES, LABELS)
    with torch.inference_mode():
        uncertainty: np.ndarray = head(torch.from_numpy(QUERIES)).numpy()
    return uncertainty


def test_inverse_norm_is_one_over_the_length() -> None:
    assert np.allclose(scored(InverseNorm(SIZES)), 1 / np.linalg.norm(QUERIES, axis=1), rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_mahalanobis_is_the_distance_of_the_fitted_statistics(relative: bool) -> None:
    model = fit_relative_novelty(TRAIN.features[0], TRAIN.labels)
    expected = relative_novelty(model, QUERIES) if relative else novelty(model.classes, QUERIES)

    assert np.allclose(scored(Mahalanobis(SIZES, relative)), expected, rtol=1e-3, atol=1e-2)


def test_a_class_without_images_is_never_the_nearest() -> None:
    wider = Sizes(SIZES.dimension, SIZES.features, SIZES.classes + 3)

    assert np.allclose(scored(Mahalanobis(wider)), scored(Mahalanobis(SIZES)))


def test_knn_distance_is_that_to_the_training_set_where_the_bank_holds_it_once() -> None:
    expected = knn_distance(TRAIN.features[0], QUERIES, k=10)

    assert np.allclose(scored(KnnDistance(SIZES, k=10, bank=300)), expected, atol=1e-5)


def test_a_bank_larger_than_the_training_set_holds_images_repeatedly() -> None:
    expected = knn_distance(TRAIN.features[0], QUERIES, k=5)

    found = scored(KnnDistance(SIZES, k=10, bank=600))

    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_leverage_is_that_of_the_training_set() -> None:
    expected = leverage(fit_leverage(TRAIN.features[0]), QUERIES)

    assert np.allclose(scored(Leverage(SIZES)), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", [InverseNorm, KnnDistance, Leverage, Mahalanobis])
def test_there_is_nothing_to_train(kind: type[Fitted]) -> None:
    head = kind(SIZES)

    assert head.losses(batch()) == ()
    assert list(head.parameters()) == []
