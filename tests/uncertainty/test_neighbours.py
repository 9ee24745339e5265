from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uncertainty.metrics import r_auroc, recall_at_1
from uncertainty.neighbours import k_nearest, nearest_neighbour, unit_rows


def brute_force(queries: NDArray[np.float64], gallery: NDArray[np.float64], own: bool) -> list[list[tuple[float, int]]]:
    """Per query all (cosine, index), nearest first, self left out by index."""
    ranked = []
    for i, query in enumerate(queries):
        cosines = [
            (float(query @ other / np.linalg.norm(query) / np.linalg.norm(other)), j)
            for j, other in enumerate(gallery)
            if not (own and i == j)
        ]
        ranked.append(sorted(cosines, key=lambda pair: (-pair[0], pair[1])))
    return ranked


@pytest.fixture
def embeddings() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(53, 8)) * np.random.default_rng(1).uniform(0.1, 50, size=(53, 1))


@pytest.mark.parametrize("block", [1, 7, 53, 1000])
def test_the_nearest_neighbour_is_that_of_brute_force(embeddings: NDArray[np.float64], block: int) -> None:
    index, cosine = nearest_neighbour(embeddings, block)
    expected = [ranked[0] for ranked in brute_force(embeddings, embeddings, own=True)]
    assert index.tolist() == [j for _, j in expected]
    assert cosine == pytest.approx(np.array([c for c, _ in expected]))


@pytest.mark.parametrize("k", [1, 5, 52])
@pytest.mark.parametrize("block", [4, 1000])
def test_k_nearest_are_those_of_brute_force(embeddings: NDArray[np.float64], k: int, block: int) -> None:
    index, cosine = k_nearest(embeddings, k, block=block)
    expected = [ranked[:k] for ranked in brute_force(embeddings, embeddings, own=True)]
    assert index.tolist() == [[j for _, j in row] for row in expected]
    assert cosine == pytest.approx(np.array([[c for c, _ in row] for row in expected]))


def test_a_gallery_of_its_own_excludes_nothing(embeddings: NDArray[np.float64]) -> None:
    index, cosine = k_nearest(embeddings[:9], 4, gallery=embeddings)
    expected = [ranked[:4] for ranked in brute_force(embeddings[:9], embeddings, own=False)]
    assert index.tolist() == [[j for _, j in row] for row in expected]
    assert index[:, 0].tolist() == list(range(9))
    assert cosine[:, 0] == pytest.approx(np.ones(9))


def test_exact_duplicates_are_each_others_neighbours_and_self_is_excluded_by_index() -> None:
    row = np.array([[3.0, 4.0]])
    embeddings = np.concatenate([row, row, row, -row])  # three copies of one image
    index, cosine = nearest_neighbour(embeddings)
    assert index[:3].tolist() == [1, 0, 0]
    assert cosine[:3] == pytest.approx(np.ones(3))
    nearest, _ = k_nearest(embeddings, 3)
    assert nearest[:3].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]


def test_equal_cosines_come_by_ascending_index() -> None:
    nearest, _ = k_nearest(np.tile([0.0, 1.0, 0.0], (60, 1)), 59)
    assert nearest.tolist() == [[j for j in range(60) if j != i] for i in range(60)]


def test_duplicates_with_other_labels_count_as_misses_for_r_auroc() -> None:
    """Dropping the first hit by rank, as the reference code does, would count an image as its own hit here."""
    random = np.random.default_rng(5)
    originals = random.normal(size=(40, 6))
    embeddings = np.repeat(originals, 2, axis=0)  # (80, 6)
    labels = np.stack([np.arange(40) // 2, np.where(np.arange(40) % 2, np.arange(40) // 2, 99)], axis=1).ravel()
    neighbour, _ = nearest_neighbour(embeddings)
    assert neighbour.tolist() == [i ^ 1 for i in range(80)]
    correct = labels == labels[neighbour]
    assert correct.tolist() == [bool(i // 2 % 2) for i in range(80)]
    assert recall_at_1(labels, neighbour) == 0.5
    assert r_auroc(np.where(correct, 0.1, 0.9), correct) == 1.0


def test_length_does_not_matter_however_large_or_small() -> None:
    directions = np.random.default_rng(2).normal(size=(12, 4))
    scales = np.logspace(-180, 180, 12)[:, None]
    assert np.array_equal(nearest_neighbour(directions * scales)[0], nearest_neighbour(directions)[0])


@pytest.mark.parametrize(("kind", "expected"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_cosines_keep_single_or_double_precision(kind: type, expected: type) -> None:
    rows: NDArray[np.floating[Any]] = np.random.default_rng(0).normal(size=(5, 3)).astype(kind)
    assert nearest_neighbour(rows)[1].dtype == expected
    assert np.linalg.norm(unit_rows(rows), axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_the_arguments_are_not_changed(embeddings: NDArray[np.float64]) -> None:
    before = embeddings.copy()
    nearest_neighbour(embeddings)
    k_nearest(embeddings, 2, gallery=embeddings)
    assert np.array_equal(embeddings, before)


@pytest.mark.parametrize("k", [0, 3])
def test_more_neighbours_than_exist_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"{k} neighbours asked for, 2 to choose from"):
        k_nearest(np.eye(3), k)
    with pytest.raises(ValueError, match=f"{k} neighbours asked for, 2 to choose from"):
        k_nearest(np.eye(3), k, gallery=np.eye(3)[:2])


def test_a_single_row_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="1 neighbours asked for, 0 to choose from"):
        nearest_neighbour(np.ones((1, 4)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "1 embeddings are zero"),
        ([[1.0, np.nan], [0.0, 1.0]], "not finite"),
        ([1.0, 2.0], r"\(n, d\)"),
        ([[]], "non-empty"),
    ],
)
def test_rows_without_a_direction_are_refused(rows: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbour(np.array(rows, dtype=np.float64))
