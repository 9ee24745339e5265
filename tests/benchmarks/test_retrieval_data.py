from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval.corpus_files import read_corpus, write_corpus
from benchmarks.retrieval.data import (
    BLOCK,
    CONDITIONS,
    NO_CONDITION,
    NOTHING,
    Corpus,
    blocks,
    exact_neighbours,
    make_parts,
    make_payload,
    make_queries,
    make_uncertainties,
    make_vectors,
    recall,
    selected,
    short_answers,
)
from service.gallery.filters import parse_filter, passes

CORPUS = Corpus(rows=2 * BLOCK, dimension=24, seed=7)


def test_vectors_are_of_unit_norm_and_the_first_rows_do_not_depend_on_how_many_there_are() -> None:
    vectors = make_vectors(CORPUS, 0, 2 * BLOCK)

    assert vectors.shape == (2 * BLOCK, 24)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(vectors[BLOCK:], make_vectors(CORPUS, BLOCK, 2 * BLOCK))
    np.testing.assert_array_equal(vectors[:BLOCK], make_vectors(Corpus(BLOCK, 24, seed=7), 0, BLOCK))


def test_vectors_are_clustered_and_no_two_alike() -> None:
    vectors = make_vectors(Corpus(5 * BLOCK, 64), 0, 5 * BLOCK).astype(np.float64)
    scores = vectors[:200] @ vectors.T
    scores[np.arange(200), np.arange(200)] = -1.0

    assert np.median(scores.max(axis=1)) > 0.5
    assert abs(np.median(scores)) < 0.05
    assert scores.max() < 0.999


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 1000"):
        make_vectors(CORPUS, 0, 10)


def test_queries_are_no_items() -> None:
    scores = make_queries(CORPUS, 50) @ make_vectors(CORPUS, 0, 2 * BLOCK).T

    assert scores.max() < 0.999


def test_blocks_cover_the_rows_that_are_left() -> None:
    assert list(blocks(2500)) == [(0, 1000), (1000, 2000), (2000, 2500)]
    assert list(blocks(2500, 2000)) == [(2000, 2500)]
    assert list(blocks(1000, 1000)) == []


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_masks_are_what_candors_filter_language_says(condition) -> None:  # type: ignore[no-untyped-def]
    parts, uncertainties = make_parts(CORPUS), make_uncertainties(CORPUS)
    where = parse_filter(condition.where)
    bound = np.inf if condition.max_uncertainty is None else condition.max_uncertainty
    expected = [
        passes(where, make_payload(row, int(part))) and uncertainty <= bound
        for row, (part, uncertainty) in enumerate(zip(parts, uncertainties, strict=True))
    ]

    np.testing.assert_array_equal(selected(condition, parts, uncertainties), expected)


@pytest.mark.parametrize(("name", "share"), [("half", 0.5), ("tenth", 0.1), ("hundredth", 0.01), ("uncertainty", 0.5)])
def test_conditions_let_the_share_pass_that_they_are_named_for(name: str, share: float) -> None:
    corpus = Corpus(100_000, 2)
    condition = next(each for each in CONDITIONS if each.name == name)

    mask = selected(condition, make_parts(corpus), make_uncertainties(corpus))

    assert mask.mean() == pytest.approx(share, rel=0.1)


def test_uncertainties_survive_float32() -> None:
    uncertainties = make_uncertainties(CORPUS)

    np.testing.assert_array_equal(uncertainties, uncertainties.astype(np.float32).astype(np.float64))


def test_exact_neighbours_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((25_000, 8)).astype(np.float32)  # more than one chunk, the last in part
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[[3, 24_999]]
    some = generator.random(25_000) < 0.3

    found = exact_neighbours(vectors, queries, {"all": np.ones(25_000, dtype=bool), "some": some}, k=5)

    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_array_equal(found["all"], np.argsort(-scores, axis=1)[:, :5])
    np.testing.assert_array_equal(found["some"], np.argsort(np.where(some, -scores, np.inf), axis=1)[:, :5])
    assert found["all"][:, 0].tolist() == [3, 24_999]


def test_where_fewer_items_count_than_asked_for_the_rest_is_nothing() -> None:
    vectors = np.eye(4, dtype=np.float32)
    mask = np.array([False, True, False, True])

    found = exact_neighbours(vectors, vectors[:1], {"two": mask, "none": np.zeros(4, dtype=bool)}, k=3)

    assert set(found["two"][0][:2].tolist()) == {1, 3}
    assert found["two"][0][2] == NOTHING
    assert found["none"].tolist() == [[NOTHING] * 3]


def test_recall_is_the_mean_share_of_true_neighbours() -> None:
    truth = np.array([[1, 2, 3], [4, 5, NOTHING], [NOTHING, NOTHING, NOTHING]])

    assert recall({0: [3, 2, 1]}, truth) == 1.0
    assert recall({0: [1, 9, 8], 1: [5, 4]}, truth) == pytest.approx((1 / 3 + 1) / 2)
    assert recall({1: [4, 4, 4]}, truth) == 0.5
    assert recall({2: []}, truth) == 1.0
    with pytest.raises(ValueError, match="no query"):
        recall({}, truth)


def test_short_answers_are_those_with_fewer_matches_than_there_are() -> None:
    truth = np.array([[1, 2, 3], [4, 5, NOTHING], [NOTHING, NOTHING, NOTHING]])

    assert short_answers({0: [7, 8], 1: [9, 9], 2: []}, truth) == 1


def test_files_hold_the_corpus_and_are_made_once(tmp_path: Path) -> None:
    corpus = Corpus(1500, 8)
    write_corpus(tmp_path, corpus, 5)
    files = read_corpus(tmp_path)

    assert files.corpus == corpus
    assert files.queries.shape == (5, 8)
    np.testing.assert_array_equal(files.vectors, make_vectors(corpus, 0, 2000)[:1500])
    nearest = (files.queries.astype(np.float64) @ files.vectors.T.astype(np.float64)).argmax(axis=1)
    np.testing.assert_array_equal(files.truth[NO_CONDITION.name][:, 0], nearest)
    assert set(files.truth) == {condition.name for condition in CONDITIONS}
    before = (tmp_path / "vectors.npy").stat().st_mtime_ns
    write_corpus(tmp_path, corpus, 5)
    assert (tmp_path / "vectors.npy").stat().st_mtime_ns == before
