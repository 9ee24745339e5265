"""Each score against loops over the whole gallery, in double precision, with ties and duplicates."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from uncertainty.gallery import (
    Neighbours,
    class_margin,
    label_agreement,
    label_entropy,
    match_uncertainty,
    neighbours,
    top_cosine,
)
from uncertainty.metrics import r_auroc

SCORES: list[Callable[[Neighbours], NDArray[np.float64]]] = [
    top_cosine,
    class_margin,
    label_agreement,
    label_entropy,
    match_uncertainty,
]


def images(count: int = 60, classes: int = 4, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Overlapping classes of varying length, a quarter of the images there twice, now and then under another label."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    points = random.normal(size=(classes, 6))[labels] + random.normal(size=(count, 6))
    points[: count // 4] = points[count // 4 : 2 * (count // 4)]
    return points * random.uniform(0.1, 9, size=(count, 1)), labels


def ranked(points: NDArray[np.float64], labels: NDArray[np.int64], query: int) -> list[tuple[float, int]]:
    """(cosine, label) of all others, nearest first, equal cosines by index."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    others = [(float(unit[query] @ unit[j]), j) for j in range(labels.size) if j != query]
    return [(cosine, int(labels[j])) for cosine, j in sorted(others, key=lambda pair: (-pair[0], pair[1]))]


def made(cosine: list[list[float]], label: list[list[int]]) -> Neighbours:
    return Neighbours(np.array(cosine), np.array(label))


# ---- the neighbours ----


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_are_the_nearest_others_and_their_labels(block: int) -> None:
    points = np.random.default_rng(1).normal(size=(40, 5))  # no duplicates, so that the order is unique
    labels = np.random.default_rng(2).integers(3, size=40)
    near = neighbours(points, labels, 6, block)
    for query in range(40):
        expected = ranked(points, labels, query)[:6]
        assert near.cosine[query] == pytest.approx([cosine for cosine, _ in expected])
        assert near.label[query].tolist() == [label for _, label in expected]


def test_a_duplicate_under_another_label_is_a_neighbour_and_the_image_itself_is_not() -> None:
    points = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    near = neighbours(points, np.array([5, 8, 9]), 2)
    assert near.label[:2].tolist() == [[8, 9], [5, 9]]
    assert near.cosine[:2, 0] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("cosine", "label", "message"),
    [
        ([[0.9, 0.8]], [[1]], "but label of"),
        ([0.9, 0.8], [1, 2], "cosine must be a non-empty"),
        ([[]], [[]], "non-empty"),
        ([[0.9, np.nan]], [[1, 2]], "not finite"),
        ([[0.8, 0.9]], [[1, 2]], "nearest first"),
    ],
)
def test_what_no_search_returns_is_refused(cosine: list[object], label: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Neighbours(np.array(cosine), np.array(label))


def test_neighbours_need_k_others_and_a_label_each() -> None:
    with pytest.raises(ValueError, match="3 neighbours asked for, 2 to choose from"):
        neighbours(np.eye(3), np.arange(3), 3)
    with pytest.raises(ValueError, match="2 values for 3 rows"):
        neighbours(np.eye(3), np.arange(2), 1)
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        neighbours(np.ones(3), np.arange(3), 1)


# ---- the scores ----


def test_top_cosine_is_the_distance_to_the_nearest() -> None:
    points, labels = images()
    expected = [1 - ranked(points, labels, query)[0][0] for query in range(60)]
    assert top_cosine(neighbours(points, labels, 3)) == pytest.approx(expected, abs=1e-12)
    assert top_cosine(made([[1.0 + 1e-7, 0.2]], [[0, 0]])) == 0.0


def test_class_margin_is_exact_where_the_search_reaches_a_second_label() -> None:
    points, labels = images()
    near = neighbours(points, labels, 59)
    for query, score in enumerate(class_margin(near)):
        own = near.label[query, 0]
        rival = max(cosine for cosine, label in ranked(points, labels, query) if label != own)
        assert score == pytest.approx(rival - near.cosine[query, 0])
    assert (class_margin(near) <= 0).all()


@pytest.mark.parametrize("k", [2, 3, 5])
def test_class_margin_bounds_the_exact_one_and_equals_it_where_labels_differ(k: int) -> None:
    points, labels = images()
    exact, near = class_margin(neighbours(points, labels, 59)), neighbours(points, labels, k)
    mixed = (near.label != near.label[:, :1]).any(axis=1)
    score = class_margin(near)
    assert score[mixed] == pytest.approx(exact[mixed])
    assert (score >= exact - 1e-12).all()
    assert score[~mixed] == pytest.approx((near.cosine[:, -1] - near.cosine[:, 0])[~mixed])
    assert 0 < mixed.sum() < 60


def test_a_duplicate_of_another_label_leaves_no_margin() -> None:
    assert class_margin(made([[0.9, 0.9, 0.1]], [[1, 2, 1]])) == 0.0


def test_label_agreement_counts_the_labels_unlike_the_nearest_ones() -> None:
    near = neighbours(*images(), 9)
    expected = [1 - sum(label == row[0] for label in row) / 9 for row in near.label.tolist()]
    assert label_agreement(near) == pytest.approx(np.array(expected), abs=1e-12)
    assert label_agreement(made([[0.9, 0.5, 0.4, 0.2]], [[3, 1, 3, 1]])) == 0.5


@pytest.mark.parametrize("temperature", [np.inf, 0.3, 0.02])
@pytest.mark.parametrize("k", [1, 8, 30])
def test_label_entropy_is_that_of_the_weighted_shares(k: int, temperature: float) -> None:
    near = neighbours(*images(), k)
    expected = []
    for cosines, labels in zip(near.cosine, near.label, strict=True):
        mass: dict[int, float] = defaultdict(float)
        for cosine, label in zip(cosines, labels, strict=True):
            mass[int(label)] += math.exp(float(cosine) / temperature)
        expected.append(stats.entropy(list(mass.values())))
    assert label_entropy(near, temperature) == pytest.approx(np.array(expected), abs=1e-12)


def test_label_entropy_runs_from_one_label_to_k_labels() -> None:
    near = made([[0.9, 0.5, 0.1]] * 3, [[7, 7, 7], [1, 2, 3], [1, 1, 2]])
    expected = [0.0, math.log(3), stats.entropy([2, 1])]
    assert label_entropy(near) == pytest.approx(np.array(expected))
    assert not np.signbit(label_entropy(near)).any()


def test_uniform_weights_are_the_limit_of_high_temperatures_and_the_nearest_alone_that_of_low_ones() -> None:
    near = neighbours(*images(), 12)
    assert label_entropy(near, 1e9) == pytest.approx(label_entropy(near), abs=1e-8)
    unique = near.cosine[:, 0] > near.cosine[:, 1] + 1e-6
    assert label_entropy(near, 1e-9)[unique] == pytest.approx(np.zeros(unique.sum()), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 0.04])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_match_uncertainty_is_the_surprise_at_the_nearest_label_with_one_stranger_at_the_edge(
    k: int, temperature: float
) -> None:
    near = neighbours(*images(), k)
    expected = []
    for cosines, labels in zip(near.cosine, near.label, strict=True):
        weights = [math.exp(float(cosine) / temperature) for cosine in (*cosines, cosines[-1])]
        alike = sum(weight for weight, label in zip(weights, labels, strict=False) if label == labels[0])
        expected.append(-math.log(alike / sum(weights)))
    assert match_uncertainty(near, temperature) == pytest.approx(np.array(expected), rel=1e-9)


def test_match_uncertainty_ranks_agreeing_neighbours_by_their_margin_over_the_rest() -> None:
    near = made([[0.9, 0.85, 0.4], [0.9, 0.85, 0.8], [0.9, 0.85, 0.8]], [[1, 1, 1], [1, 1, 1], [1, 1, 2]])
    scores = match_uncertainty(near)
    assert (np.diff(scores) > 0).all()
    assert np.unique(label_agreement(near)[:2]).size == 1  # where counting ties


def test_match_uncertainty_stays_within_its_bounds() -> None:
    extreme = made([[0.9] * 4, [0.9] * 4, [1.0, -1.0, -1.0, -1.0]], [[1, 1, 1, 1], [1, 2, 3, 4], [1, 1, 1, 1]])
    assert match_uncertainty(extreme) == pytest.approx([math.log(5 / 4), math.log(5), 0.0])
    assert (match_uncertainty(extreme, 1e-300) >= 0).all()


def test_match_uncertainty_is_blind_to_a_shift_of_all_cosines() -> None:
    near = neighbours(*images(), 10)
    assert match_uncertainty(Neighbours(near.cosine - 0.3, near.label)) == pytest.approx(match_uncertainty(near))


@pytest.mark.parametrize("score", [label_entropy, match_uncertainty])
@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_a_temperature_that_is_not_positive_is_refused(
    score: Callable[[Neighbours, float], NDArray[np.float64]], temperature: float
) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        score(made([[0.9]], [[1]]), temperature)


@pytest.mark.parametrize("score", SCORES)
def test_label_names_do_not_matter_and_nothing_is_changed(score: Callable[[Neighbours], NDArray[np.float64]]) -> None:
    near = neighbours(*images(), 15)
    before = near.cosine.copy(), near.label.copy()
    assert np.array_equal(score(near), score(Neighbours(near.cosine, 1000 - 7 * near.label)))
    assert np.array_equal(near.cosine, before[0])
    assert np.array_equal(near.label, before[1])


@pytest.mark.parametrize("score", SCORES)
def test_single_precision_cosines_are_scored_in_double(score: Callable[[Neighbours], NDArray[np.float64]]) -> None:
    near = neighbours(*images(), 15)
    single = score(Neighbours(near.cosine.astype(np.float32), near.label))
    assert single.dtype == np.float64
    assert single == pytest.approx(score(near), abs=1e-4)


def test_on_overlapping_classes_every_score_beats_chance_and_match_uncertainty_beats_them_all() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(12, size=1500)
    points = random.normal(size=(12, 16))[labels] + 0.9 * random.normal(size=(1500, 16))
    near = neighbours(points, labels)
    correct = near.label[:, 0] == labels
    quality = [r_auroc(score(near), correct) for score in SCORES[:-1]] + [
        r_auroc(match_uncertainty(near, 0.1), correct)
    ]
    assert min(quality) > 0.5
    assert np.argmax(quality) == len(SCORES) - 1
