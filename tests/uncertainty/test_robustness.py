"""Each metric against explicit loops or scipy, with ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from uncertainty.robustness import ambiguity_auroc, monotonicity, ood_auroc, vote_entropy

# ---- monotonicity ----


@st.composite
def severities(draw: st.DrawFn) -> NDArray[np.float64]:
    """(s, n) of few distinct scores, so that ties and constant images are the rule, or of many."""
    shape = draw(st.integers(2, 7)), draw(st.integers(1, 6))
    distinct = draw(st.sampled_from([1, 3, 1000]))
    flat = draw(st.lists(st.integers(0, distinct), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(flat, dtype=np.float64).reshape(shape) / 7.0


@given(severities())
def test_monotonicity_is_the_mean_of_kendalls_tau_b(scores: NDArray[np.float64]) -> None:
    taus = []
    for image in scores.T:
        constant = (image == image[0]).all()
        taus.append(0.0 if constant else stats.kendalltau(np.arange(image.size), image, variant="b").statistic)
    assert monotonicity(scores) == pytest.approx(np.mean(taus), abs=1e-12)


def test_rising_scores_are_monotone_falling_ones_opposed_and_constant_ones_neither() -> None:
    steps = np.array([1.0, 2.0, 4.0, 9.0])
    assert monotonicity(np.stack([steps, steps**2], axis=1)) == pytest.approx(1.0)
    assert monotonicity(-steps[:, None]) == pytest.approx(-1.0)
    assert monotonicity(np.ones((4, 3))) == 0.0
    assert monotonicity(np.stack([steps, -steps, 0 * steps, steps], axis=1)) == pytest.approx(0.25)


def test_a_single_step_among_ties_is_worth_less_than_a_steady_climb() -> None:
    assert monotonicity(np.array([[0.0], [0.0], [0.0], [1.0]])) == pytest.approx(3 / np.sqrt(18))


def test_only_the_order_within_an_image_counts() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 20))
    assert monotonicity(np.exp(scores) * np.arange(1, 21)) == pytest.approx(monotonicity(scores))
    assert monotonicity((1e8 + scores).astype(np.float64)) == pytest.approx(monotonicity(scores))


def test_random_scores_follow_no_severity() -> None:
    assert abs(monotonicity(np.random.default_rng(1).normal(size=(6, 5000)))) < 0.02


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.ones((1, 4)), "two severities"),
        (np.ones(4), r"\(n, d\)"),
        (np.ones((3, 0)), "non-empty"),
        (np.array([[0.0], [np.nan]]), "not finite"),
    ],
)
def test_scores_without_a_severity_axis_are_refused(scores: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        monotonicity(scores)


# ---- human votes ----


def random_votes(count: int = 200, classes: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """(n, c) counts from unanimous to spread."""
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.full(classes, 0.15), size=count)
    return np.array([random.multinomial(20, row) for row in share])


def test_vote_entropy_is_that_of_scipy() -> None:
    votes = random_votes()
    assert vote_entropy(votes) == pytest.approx(stats.entropy(votes, axis=1))
    assert vote_entropy(votes / 20.0) == pytest.approx(vote_entropy(votes * 3))


def test_unanimous_votes_have_no_entropy_and_even_ones_the_most() -> None:
    entropy = vote_entropy(np.array([[9, 0, 0], [2, 2, 2], [1, 1, 0]]))
    assert entropy == pytest.approx([0.0, np.log(3), np.log(2)])
    assert not np.signbit(entropy).any()


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([[1.0, -1.0], [1.0, 0.0]], "not be negative"),
        ([[0.0, 0.0], [1.0, 0.0]], "every image needs one"),
        ([[np.inf, 0.0]], "not finite"),
        ([1.0, 2.0], r"\(n, d\)"),
    ],
)
def test_votes_that_are_no_votes_are_refused(votes: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vote_entropy(np.array(votes, dtype=np.float64))


@pytest.mark.parametrize(("ambiguous", "agreed"), [(0.8, 0.95), (0.5, 1.0), (0.6, 0.7)])
def test_ambiguity_auroc_is_the_share_of_pairs_in_order(ambiguous: float, agreed: float) -> None:
    votes, random = random_votes(), np.random.default_rng(2)
    u = random.integers(0, 8, 200).astype(np.float64)
    unclear = [score for score, row in zip(u, votes, strict=True) if row.max() / row.sum() <= ambiguous]
    clear = [score for score, row in zip(u, votes, strict=True) if row.max() / row.sum() >= agreed]
    pairs = [(high > low) + (high == low) / 2 for high in unclear for low in clear]
    assert len(pairs) > 0
    assert ambiguity_auroc(u, votes, ambiguous, agreed) == pytest.approx(np.mean(pairs))


def test_images_in_between_are_left_out_and_those_on_a_bound_are_in() -> None:
    votes = np.array([[20, 0], [19, 1], [18, 2], [17, 3], [16, 4], [10, 10]])  # top share 1, .95, .9, .85, .8, .5
    assert ambiguity_auroc(np.array([1.0, 2.0, 99.0, -99.0, 3.0, 4.0]), votes) == 1.0
    assert ambiguity_auroc(np.array([1.0, 3.5, 0.0, 0.0, 3.0, 4.0]), votes) == pytest.approx(3 / 4)
    assert ambiguity_auroc(np.array([1.0, 3.5, 0.0, 0.0, 3.0, 4.0]), votes / 20) == pytest.approx(3 / 4)


def test_constant_uncertainty_tells_nothing_of_ambiguity() -> None:
    assert ambiguity_auroc(np.ones(200), random_votes()) == 0.5


@pytest.mark.parametrize(("ambiguous", "agreed"), [(0.9, 0.9), (0.0, 0.9), (0.5, 1.01), (np.nan, 0.9)])
def test_bounds_out_of_order_are_refused(ambiguous: float, agreed: float) -> None:
    with pytest.raises(ValueError, match="0 < ambiguous < agreed <= 1"):
        ambiguity_auroc(np.ones(200), random_votes(), ambiguous, agreed)


def test_ambiguity_needs_images_of_both_kinds_and_a_score_for_each() -> None:
    with pytest.raises(ValueError, match="0 images are ambiguous and 2 agreed on"):
        ambiguity_auroc(np.ones(2), np.array([[5, 0], [0, 5]]))
    with pytest.raises(ValueError, match="2 values for 200 rows"):
        ambiguity_auroc(np.ones(2), random_votes())


# ---- out of distribution ----


def test_ood_auroc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(3)
    inside, outside = random.integers(0, 6, 40).astype(np.float64), random.integers(2, 9, 25).astype(np.float64)
    pairs = [(o > i) + (o == i) / 2 for i in inside for o in outside]
    assert ood_auroc(inside, outside) == pytest.approx(np.mean(pairs))
    assert ood_auroc(outside, inside) == pytest.approx(1 - np.mean(pairs))
    assert ood_auroc(inside, inside) == pytest.approx(0.5)


def test_ood_auroc_needs_images_on_both_sides() -> None:
    with pytest.raises(ValueError, match="outside must be a non-empty"):
        ood_auroc(np.ones(3), np.ones(0))
    with pytest.raises(ValueError, match="inside has 1 values that are not finite"):
        ood_auroc(np.array([np.nan]), np.ones(2))
