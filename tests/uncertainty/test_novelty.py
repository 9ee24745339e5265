import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from uncertainty.metrics import auroc
from uncertainty.novelty import fit_novelty, ledoit_wolf, novelty

Data = tuple[NDArray[np.float64], NDArray[np.int64]]


def classes(count: int = 6, each: int = 30, dimension: int = 7, seed: int = 0) -> Data:
    """Gaussian classes with one full covariance, at varying lengths."""
    random = np.random.default_rng(seed)
    means, mixing = 4 * random.normal(size=(count, dimension)), random.normal(size=(dimension, dimension))
    labels = np.repeat(np.arange(count), each)
    points = means[labels] + random.normal(size=(labels.size, dimension)) @ mixing
    return points * random.uniform(0.5, 5, size=(labels.size, 1)), labels


def normalised(points: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


def residuals_of(points: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    unit = normalised(points)
    return np.array([row - unit[labels == label].mean(axis=0) for row, label in zip(unit, labels, strict=True)])


def naive_ledoit_wolf(residuals: NDArray[np.float64]) -> float:
    """The definitions of the paper, element by element: d2, b2 and their ratio."""
    n, d = residuals.shape
    sample = sum(np.outer(x, x) for x in residuals) / n
    target = np.trace(sample) / d * np.eye(d)
    distance = ((sample - target) ** 2).sum() / d
    noise = sum(((np.outer(x, x) - sample) ** 2).sum() / d for x in residuals) / n**2
    return float(min(noise, distance) / distance)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0, None])
def test_novelty_is_the_least_squared_mahalanobis_distance_to_a_class_mean(shrinkage: float | None) -> None:
    points, labels = classes()
    queries = np.random.default_rng(9).normal(size=(40, 7))
    residuals = residuals_of(points, labels)
    sample = residuals.T @ residuals / labels.size
    amount = naive_ledoit_wolf(residuals) if shrinkage is None else shrinkage
    covariance = (1 - amount) * sample + amount * np.trace(sample) / 7 * np.eye(7)
    means = np.array([normalised(points)[labels == label].mean(axis=0) for label in range(6)])
    distances = cdist(normalised(queries), means, "mahalanobis", VI=np.linalg.inv(covariance))
    model = fit_novelty(points, labels, shrinkage)
    assert novelty(model, queries) == pytest.approx((distances**2).min(axis=1), rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 30, 7), (4, 3, 20), (2, 400, 3), (40, 2, 12)])
def test_default_shrinkage_is_ledoit_and_wolfs(shape: tuple[int, int, int]) -> None:
    points, labels = classes(*shape)
    assert fit_novelty(points, labels).shrinkage == pytest.approx(naive_ledoit_wolf(residuals_of(points, labels)))


def test_shrinkage_falls_with_samples_and_is_full_for_isotropic_noise() -> None:
    few, many = (fit_novelty(*classes(each=each)).shrinkage for each in (4, 400))
    assert many < few <= 1
    assert ledoit_wolf(np.eye(3), fourth=15.0, count=10) == 1.0


def test_whitening_makes_the_spread_within_classes_spherical() -> None:
    points, labels = classes(each=200)
    model = fit_novelty(points, labels, shrinkage=0.0)
    whitened = residuals_of(points, labels) @ model.whitening
    assert whitened.T @ whitened / labels.size == pytest.approx(np.eye(7), abs=1e-8)
    assert model.whitening == pytest.approx(model.whitening.T)
    assert model.centroids.shape == (6, 7)


def test_embeddings_unlike_every_class_are_more_novel() -> None:
    points, labels = classes(each=60)
    model = fit_novelty(points[::2], labels[::2])
    strangers = np.random.default_rng(1).normal(size=(90, 7))
    scores = novelty(model, np.concatenate([points[1::2], strangers]))
    assert auroc(scores, np.arange(scores.size) >= points[1::2].shape[0]) > 0.8


def test_a_class_mean_has_no_novelty_and_none_is_negative() -> None:
    points, labels = np.repeat(np.eye(4), 3, axis=0), np.repeat(np.arange(4), 3)
    noisy = points + np.random.default_rng(0).normal(scale=0.01, size=points.shape)
    model = fit_novelty(noisy, labels)
    means = np.array([normalised(noisy)[labels == label].mean(axis=0) for label in range(4)])
    one_class = fit_novelty(noisy, np.zeros(12, dtype=np.int64))
    assert (novelty(model, noisy) >= 0).all()
    assert novelty(model, means).max() < 0.1 < novelty(one_class, means).min()


def test_only_direction_counts() -> None:
    points, labels = classes()
    model = fit_novelty(points, labels)
    assert novelty(model, 1e3 * points) == pytest.approx(novelty(model, points), rel=1e-9)
    assert fit_novelty(points * 7, labels).whitening == pytest.approx(model.whitening, rel=1e-9)


def test_label_names_and_row_order_do_not_matter() -> None:
    points, labels = classes()
    order = np.random.default_rng(0).permutation(labels.size)
    model, again = fit_novelty(points, labels), fit_novelty(points[order], labels[order] * 10 - 3)
    assert novelty(again, points) == pytest.approx(novelty(model, points), rel=1e-8)


def test_single_precision_input_is_computed_in_double() -> None:
    points, labels = classes()
    model = fit_novelty(points.astype(np.float32), labels)
    assert model.whitening.dtype == np.float64
    assert novelty(model, points.astype(np.float32)) == pytest.approx(novelty(model, points), rel=1e-4)


def test_many_queries_are_scored_in_blocks_as_one_by_one() -> None:
    points, labels = classes()
    model = fit_novelty(points, labels)
    queries = np.random.default_rng(4).normal(size=(9001, 7))
    scores = novelty(model, queries)
    assert scores.shape == (9001,)
    picked = [0, 4095, 4096, 9000]
    assert scores[picked] == pytest.approx([novelty(model, queries[i : i + 1])[0] for i in picked])


def test_a_singular_covariance_is_refused_and_shrinkage_mends_it() -> None:
    points, labels = classes(count=2, each=3, dimension=20)
    with pytest.raises(ValueError, match="more shrinkage"):
        fit_novelty(points, labels, shrinkage=0.0)
    assert np.isfinite(novelty(fit_novelty(points, labels, shrinkage=0.5), points)).all()


def test_classes_of_one_image_each_have_no_spread() -> None:
    with pytest.raises(ValueError, match="singular"):
        fit_novelty(np.eye(5), np.arange(5))


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1])
def test_shrinkage_outside_the_unit_interval_is_refused(shrinkage: float) -> None:
    with pytest.raises(ValueError, match="shrinkage must be in"):
        fit_novelty(*classes(), shrinkage)


def test_labels_must_match_the_rows() -> None:
    with pytest.raises(ValueError, match="3 values for 4 rows"):
        fit_novelty(np.eye(4), np.arange(3))
