import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from uncertainty.probability import centred_isotonic, fit_probability, reliability

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=60)


def labelled(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count)
    return score, rng.random(count) < 1 / (1 + np.exp(-(2 * score - 1)))


@given(PAIRS)
def test_the_fit_keeps_the_isotonic_levels_and_rises_strictly(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.asarray(column, dtype=float) for column in zip(*pairs, strict=True))
    centres, levels = centred_isotonic(x, y)
    values, group = np.unique(x, return_inverse=True)
    weight = np.bincount(group)
    flat = isotonic_regression(np.bincount(group, weights=y) / weight, weights=weight).x

    np.testing.assert_allclose(np.unique(np.round(flat, 9)), np.unique(np.round(levels, 9)))
    assert (np.diff(levels) > 0).all()
    assert (np.diff(centres) > 0).all()
    for level, centre in zip(levels, centres, strict=True):
        block = np.isclose(flat, level)
        assert centre == pytest.approx(np.average(values[block], weights=weight[block]))


@pytest.mark.parametrize(("count", "method"), [(999, "logistic"), (1000, "isotonic")])
def test_the_number_of_labels_decides_the_method(count: int, method: str) -> None:
    fitted = fit_probability(*labelled(count))
    assert fitted.method == method


@pytest.mark.parametrize("count", [400, 5000])
def test_probabilities_keep_their_word_on_others(count: int) -> None:
    fitted = fit_probability(*labelled(count))
    score, wrong = labelled(20_000, seed=1)
    found = reliability(fitted.of(score), ~wrong)
    assert found.ece < 0.04
    assert found.count.sum() == 20_000


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20))
def test_a_less_sure_score_is_never_more_probably_right(scores: list[float]) -> None:
    for count in (100, 1500):
        probability = fit_probability(*labelled(count)).of(np.sort(scores))
        assert (np.diff(probability) <= 0).all()
        assert ((probability >= 0) & (probability <= 1)).all()


def test_the_error_is_the_distance_of_promise_and_outcome() -> None:
    predicted = np.repeat([0.2, 0.8], 100)
    correct = np.concatenate([np.arange(100) < 50, np.arange(100) < 70])
    found = reliability(predicted, correct, bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.8])
    np.testing.assert_allclose(found.observed, [0.5, 0.7])
    assert found.ece == pytest.approx((0.3 + 0.1) / 2)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="both values"):
        fit_probability(np.arange(5.0), np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        reliability(np.array([1.5]), np.array([True]))
    with pytest.raises(ValueError, match="one length"):
        fit_probability(np.arange(5.0), np.array([True, False]))
