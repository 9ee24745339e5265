"""Each score against its definition, written out in double precision with explicit inverses and loops."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, mahalanobis

from uncertainty import distances
from uncertainty.distances import (
    dispersion,
    fit_leverage,
    fit_relative_novelty,
    knn_distance,
    leverage,
    relative_novelty,
)
from uncertainty.metrics import auroc
from uncertainty.novelty import fit_novelty, novelty

Matrix = NDArray[np.float64]


def classes(count: int = 5, each: int = 40, dimension: int = 6, seed: int = 0) -> tuple[Matrix, NDArray[np.int64]]:
    """Gaussian classes with one full covariance, at varying lengths."""
    random = np.random.default_rng(seed)
    means, mixing = 4 * random.normal(size=(count, dimension)), random.normal(size=(dimension, dimension))
    labels = np.repeat(np.arange(count), each)
    points = means[labels] + random.normal(size=(labels.size, dimension)) @ mixing
    return points * random.uniform(0.5, 5, size=(labels.size, 1)), labels


def queries(count: int = 30, dimension: int = 6, seed: int = 9) -> Matrix:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimension)) * random.uniform(0.01, 100, size=(count, 1))


def normalised(points: Matrix) -> Matrix:
    unit: Matrix = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


@pytest.fixture(params=[3, 4096])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows a block, of both kinds: fewer than there are, with a remainder, or more."""
    size = int(request.param)
    monkeypatch.setattr(distances, "BLOCK", size)
    return size


# ---- relative novelty ----


def shrunk(residuals: Matrix, amount: float) -> Matrix:
    """(1 - amount) S + amount trace(S) / d I of the biased sample covariance S."""
    dimension = residuals.shape[1]
    sample = sum(np.outer(row, row) for row in residuals) / len(residuals)
    mixed: Matrix = (1 - amount) * sample + amount * np.trace(sample) / dimension * np.eye(dimension)
    return mixed


def ledoit_wolf_amount(residuals: Matrix) -> float:
    n, d = residuals.shape
    sample = sum(np.outer(row, row) for row in residuals) / n
    target = np.trace(sample) / d * np.eye(d)
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in residuals) / n**2
    return float(min(1.0, noise / ((sample - target) ** 2).sum()))


@pytest.mark.parametrize("shrinkage", [0.0, 0.2, None])
def test_relative_novelty_is_the_nearest_class_distance_less_that_to_the_background(
    shrinkage: float | None, block: int
) -> None:
    points, labels = classes()
    unit, strangers = normalised(points), normalised(queries())
    means = np.array([unit[labels == label].mean(axis=0) for label in range(5)])
    within, total = unit - means[labels], unit - unit.mean(axis=0)
    inverses = [
        np.linalg.inv(shrunk(r, ledoit_wolf_amount(r) if shrinkage is None else shrinkage)) for r in (within, total)
    ]
    nearest = [min(mahalanobis(row, mean, inverses[0]) ** 2 for mean in means) for row in strangers]
    background = [mahalanobis(row, unit.mean(axis=0), inverses[1]) ** 2 for row in strangers]
    model = fit_relative_novelty(points, labels, shrinkage)
    assert relative_novelty(model, queries()) == pytest.approx(np.subtract(nearest, background), rel=1e-8, abs=1e-8)


def test_the_class_part_is_mahalanobis_plus_plus() -> None:
    points, labels = classes()
    model, plain = fit_relative_novelty(points, labels), fit_novelty(points, labels)
    assert np.array_equal(novelty(model.classes, queries()), novelty(plain, queries()))
    assert model.background.centroids.shape == (1, 6)
    assert model.background.whitening == pytest.approx(model.background.whitening.T)


def test_a_single_class_is_its_own_background() -> None:
    points, _ = classes()
    model = fit_relative_novelty(points, np.zeros(points.shape[0], dtype=np.int64))
    assert model.background.shrinkage == pytest.approx(model.classes.shrinkage)
    assert relative_novelty(model, queries()) == pytest.approx(np.zeros(30), abs=1e-8)


def test_an_axis_on_which_all_training_images_vary_alike_cancels() -> None:
    """Novelty is blind to where a query lies along a nuisance axis only once the background is subtracted."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 300)
    axes = np.concatenate([np.eye(4)[labels], np.zeros((1200, 1))], axis=1)  # (1200, 5)
    points = axes + random.normal(size=(1200, 5)) * [0.01, 0.01, 0.01, 0.01, 0.05]
    model = fit_relative_novelty(points, labels, shrinkage=0.0)
    near, far = np.array([[1.0, 0.0, 0.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 0.0, 0.2]])
    plain = novelty(model.classes, far) - novelty(model.classes, near)
    relative = relative_novelty(model, far) - relative_novelty(model, near)
    assert abs(relative[0]) < 0.25 * plain[0]


def test_relative_novelty_tells_strangers_from_the_classes() -> None:
    points, labels = classes(each=80)
    model = fit_relative_novelty(points[::2], labels[::2])
    scores = relative_novelty(model, np.concatenate([points[1::2], queries(200)]))
    assert auroc(scores, np.arange(400) >= 200) > 0.8


def test_a_singular_background_is_refused_and_shrinkage_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = classes(count=2, each=3, dimension=20)
    with pytest.raises(ValueError, match="singular"):
        fit_relative_novelty(points, labels, shrinkage=0.0)
    assert np.isfinite(relative_novelty(fit_relative_novelty(points, labels, 0.5), queries(dimension=20))).all()
    shrunk_fit = fit_novelty(points, labels, 0.5)
    monkeypatch.setattr(distances, "fit_novelty", lambda *_: shrunk_fit)  # only the background is left to fail
    with pytest.raises(ValueError, match="background covariance is singular"):
        fit_relative_novelty(points, labels, shrinkage=0.0)


def test_relative_novelty_checks_its_arguments() -> None:
    points, labels = classes()
    with pytest.raises(ValueError, match="199 values for 200 rows"):
        fit_relative_novelty(points, labels[:-1])
    with pytest.raises(ValueError, match="shrinkage must be in"):
        fit_relative_novelty(points, labels, 1.5)
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        relative_novelty(fit_relative_novelty(points, labels), points[0])


# ---- distance to the k-th neighbour ----


@pytest.mark.parametrize("k", [1, 4, 200])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_knn_distance_is_that_to_the_kth_nearest_of_all(k: int, block: int) -> None:
    points, _ = classes()
    expected = np.sort(cdist(queries(), points, "cosine"), axis=1)[:, k - 1]
    assert knn_distance(points, queries(), k, block) == pytest.approx(expected, abs=1e-12)


def test_knn_distance_ranks_as_the_euclidean_distance_between_unit_vectors() -> None:
    points, _ = classes()
    euclidean = np.sort(cdist(normalised(queries()), normalised(points)), axis=1)[:, 49]
    assert knn_distance(points, queries()) == pytest.approx(euclidean**2 / 2)


def test_duplicates_in_the_training_set_count_one_each() -> None:
    train = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]])
    copies = np.array([[5.0, 5.0]])
    assert [knn_distance(train, copies, k)[0] for k in (1, 2)] == pytest.approx([0.0, 0.0], abs=1e-15)
    assert knn_distance(train, copies, 3)[0] == pytest.approx(1 - np.sqrt(0.5))


def test_rounding_makes_no_distance_negative() -> None:
    points = np.random.default_rng(0).normal(size=(500, 37)).astype(np.float32)
    assert (knn_distance(points, points, k=1) >= 0).all()
    assert knn_distance(points, points, k=1).dtype == np.float64


def test_knn_distance_needs_k_training_embeddings() -> None:
    with pytest.raises(ValueError, match="50 neighbours asked for, 5 to choose from"):
        knn_distance(np.eye(5), np.eye(5))


# ---- leverage ----


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 25.0])
def test_leverage_is_the_quadratic_form_of_the_inverse(ridge: float, block: int) -> None:
    points, _ = classes()
    unit = normalised(points)
    inverse = np.linalg.inv(ridge * np.eye(6) + sum(np.outer(row, row) for row in unit))
    expected = [float(row @ inverse @ row) for row in normalised(queries())]
    assert leverage(fit_leverage(points, ridge), queries()) == pytest.approx(expected, rel=1e-9)


def test_leverages_of_the_training_set_sum_to_the_effective_degrees_of_freedom() -> None:
    points, _ = classes()
    values = np.linalg.svd(normalised(points), compute_uv=False) ** 2
    assert leverage(fit_leverage(points, 2.0), points).sum() == pytest.approx((values / (values + 2.0)).sum())


def test_a_direction_no_training_image_has_gets_the_inverse_ridge() -> None:
    train = np.eye(3)[[0, 0, 1]]  # two images along the first axis, one along the second, none along the third
    assert leverage(fit_leverage(train, 0.5), 7 * np.eye(3)) == pytest.approx([1 / 2.5, 1 / 1.5, 2.0])


def test_an_image_seen_twice_has_less_leverage() -> None:
    points, _ = classes()
    query = queries(1)
    again = leverage(fit_leverage(np.concatenate([points, query])), query)
    once = leverage(fit_leverage(points), query)
    assert again == pytest.approx(once / (1 + once))  # Sherman and Morrison


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.nan, np.inf])
def test_a_ridge_that_is_not_positive_is_refused(ridge: float) -> None:
    with pytest.raises(ValueError, match="ridge must be positive"):
        fit_leverage(np.eye(3), ridge)


def test_leverage_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        fit_leverage(np.ones(3))
    with pytest.raises(ValueError, match="1 embeddings are zero"):
        leverage(fit_leverage(np.eye(2)), np.array([[0.0, 0.0], [1.0, 0.0]]))


# ---- dispersion ----


def test_dispersion_is_one_less_the_length_of_the_mean_direction() -> None:
    views = np.stack([queries(12, seed=seed) for seed in range(5)])  # (5, 12, 6)
    expected = []
    for image in range(12):
        mean = sum(view[image] / np.linalg.norm(view[image]) for view in views) / 5
        expected.append(1 - np.linalg.norm(mean))
    assert dispersion(views) == pytest.approx(np.array(expected))


def test_views_that_agree_have_no_dispersion_and_opposite_ones_all_of_it() -> None:
    row = np.array([0.3, -0.4, 0.1])
    views = np.stack([[row, row], [9 * row, -row]])  # (2, 2, 3): the first image agrees but in length
    assert dispersion(views) == pytest.approx([0.0, 1.0], abs=1e-12)
    assert (dispersion(views) >= 0).all()


def test_the_order_of_views_does_not_matter() -> None:
    views = np.stack([queries(8, seed=seed) for seed in range(4)])
    assert dispersion(views[::-1]) == pytest.approx(dispersion(views))
    assert dispersion(views.astype(np.float32)) == pytest.approx(dispersion(views), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 3), (4, 3), (0, 4, 3)])
def test_dispersion_needs_two_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two views"):
        dispersion(np.ones(shape))


def test_dispersion_refuses_what_has_no_direction() -> None:
    with pytest.raises(ValueError, match="1 embeddings are zero"):
        dispersion(np.array([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]))
    with pytest.raises(ValueError, match="not finite"):
        dispersion(np.full((2, 3, 4), np.nan))


@pytest.mark.parametrize("score", ["relative", "knn", "leverage"])
def test_only_direction_counts_and_nothing_is_changed(score: str) -> None:
    points, labels = classes()
    before = points.copy()

    def scored(train: Matrix, rows: Matrix) -> Matrix:
        if score == "relative":
            return relative_novelty(fit_relative_novelty(train, labels), rows)
        return knn_distance(train, rows, 3) if score == "knn" else leverage(fit_leverage(train), rows)

    assert scored(points * 1e3, queries() * 1e-3) == pytest.approx(scored(points, queries()), rel=1e-7, abs=1e-9)
    assert np.array_equal(points, before)
