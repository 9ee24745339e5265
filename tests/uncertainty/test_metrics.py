"""Every metric against a brute-force oracle, on random data with ties and duplicates."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from uncertainty.metrics import (
    augrc,
    aurc,
    auroc,
    coverage_at_risk,
    e_aurc,
    fpr_at_95,
    midranks,
    r_auroc,
    recall_at_1,
    risk_at_coverage,
    selective_risk,
    spearman,
    win_rate,
)

Paired = tuple[NDArray[np.float64], NDArray[np.float64]]


@st.composite
def paired(draw: st.DrawFn, losses: tuple[float, ...] = (0.0, 1.0), smallest: int = 1, largest: int = 40) -> Paired:
    """(u, loss) of one length: few distinct uncertainties, so that ties are the rule, or all distinct."""
    size = draw(st.integers(smallest, largest))
    distinct = draw(st.sampled_from([2, 4, 1000]))
    u = draw(st.lists(st.integers(0, distinct), min_size=size, max_size=size))
    loss = draw(st.lists(st.sampled_from(losses), min_size=size, max_size=size))
    return np.array(u, dtype=np.float64) / 7.0, np.array(loss)


ANY_LOSS = (0.0, 0.25, 0.5, 1.0)


def pairwise_auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    pairs = [(p > n) + (p == n) / 2 for p in score[positive] for n in score[~positive]]
    return float(np.mean(pairs))


def orders_of(u: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """Every order that answers the less uncertain first."""
    return [order for order in itertools.permutations(range(u.size)) if (np.diff(u[list(order)]) >= 0).all()]


# ---- AUROC ----


@given(paired(smallest=2))
def test_auroc_is_the_share_of_pairs_in_order(data: Paired) -> None:
    score, positive = data[0], data[1] == 1
    assume(0 < positive.sum() < positive.size)
    assert auroc(score, positive) == pytest.approx(pairwise_auroc(score, positive))


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e6, 1e6), (1e-9, 0.0), (1.0, -500.0)])
def test_auroc_does_not_saturate_at_any_scale(scale: float, shift: float) -> None:
    random = np.random.default_rng(0)
    score, positive = random.normal(size=300), random.random(300) < 0.3
    assert auroc(score * scale + shift, positive) == pytest.approx(pairwise_auroc(score, positive))


def test_float32_scores_a_unit_in_the_last_place_apart_are_ranked() -> None:
    low = np.float32(1e6)
    score = np.array([low, np.nextafter(low, np.float32(np.inf))], dtype=np.float32)
    assert auroc(score, np.array([False, True])) == 1.0


def test_auroc_of_constant_scores_is_one_half() -> None:
    assert auroc(np.ones(5), np.array([0, 1, 0, 1, 1], dtype=bool)) == 0.5


def test_reversing_scores_mirrors_auroc() -> None:
    random = np.random.default_rng(3)
    score, positive = random.integers(0, 6, 50).astype(float), random.random(50) < 0.5
    assert auroc(-score, positive) == pytest.approx(1 - auroc(score, positive))


@given(paired(smallest=2))
def test_fpr_at_95_is_the_least_over_all_thresholds_that_keep_95_percent(data: Paired) -> None:
    score, positive = data[0], data[1] == 1
    assume(0 < positive.sum() < positive.size)
    kept = [t for t in score if np.mean(score[positive] >= t) >= 0.95 - 1e-12]
    expected = min(np.mean(score[~positive] >= t) for t in kept)
    assert fpr_at_95(score, positive) == pytest.approx(expected)


def test_fpr_at_95_may_lose_one_positive_in_twenty() -> None:
    score = np.concatenate([np.arange(20.0), np.full(10, 0.5)])
    positive = np.arange(30) < 20
    assert fpr_at_95(score, positive) == 0.0
    assert fpr_at_95(score[1:], positive[1:]) == 0.0  # 19 positives: all of them are needed, and lie above
    assert fpr_at_95(np.concatenate([score[:1], score[2:]]), np.delete(positive, 1)) == 1.0


# ---- retrieval ----


def test_r_auroc_is_the_auroc_of_certainty_for_correct() -> None:
    u, correct = np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, True])
    assert r_auroc(u, correct) == pytest.approx(2 / 3)
    assert r_auroc(u.astype(np.float32), correct) == pytest.approx(2 / 3)


@pytest.mark.parametrize("right", [True, False])
def test_r_auroc_is_undefined_where_all_are_right_or_all_wrong(right: bool) -> None:
    with pytest.raises(ValueError, match=f"positive is {right} everywhere"):
        r_auroc(np.arange(4.0), np.full(4, right))


def test_recall_at_1_is_the_share_of_neighbours_of_the_same_class() -> None:
    assert recall_at_1(np.array([0, 0, 1, 1, 2]), np.array([1, 0, 3, 0, 2])) == 0.6


# ---- risk and coverage ----


@given(paired(ANY_LOSS))
def test_the_curve_is_the_mean_loss_at_or_below_each_distinct_uncertainty(data: Paired) -> None:
    u, loss = data
    curve = selective_risk(u, loss)
    assert curve.threshold.tolist() == sorted(set(u))
    for threshold, coverage, risk in zip(curve.threshold, curve.coverage, curve.risk, strict=True):
        assert coverage == pytest.approx(np.mean(u <= threshold))
        assert risk == pytest.approx(loss[u <= threshold].mean())
    assert curve.coverage[-1] == 1.0


@given(paired(ANY_LOSS, largest=7))
def test_aurc_is_the_mean_over_every_order_of_the_ties(data: Paired) -> None:
    u, loss = data
    steps = np.arange(1, u.size + 1)
    areas = [np.mean(np.cumsum(loss[list(order)]) / steps) for order in orders_of(u)]
    assert aurc(u, loss) == pytest.approx(np.mean(areas))


@given(paired(ANY_LOSS, largest=7))
def test_augrc_is_the_mean_trapezoid_over_every_order_of_the_ties(data: Paired) -> None:
    u, loss = data
    coverage = np.arange(u.size + 1) / u.size
    areas = [np.trapezoid(np.r_[0, np.cumsum(loss[list(order)])] / u.size, coverage) for order in orders_of(u)]
    assert augrc(u, loss) == pytest.approx(np.mean(areas))


@given(paired(smallest=2))
def test_augrc_follows_from_accuracy_and_the_auroc_of_failures_with_ties_too(data: Paired) -> None:
    u, loss = data
    assume(0 < loss.sum() < loss.size)
    a = 1 - loss.mean()
    expected = (1 - auroc(u, loss == 1)) * a * (1 - a) + (1 - a) ** 2 / 2
    assert augrc(u, loss) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [aurc, augrc, e_aurc])
def test_areas_do_not_depend_on_row_order(metric: Callable[..., float]) -> None:
    random = np.random.default_rng(0)
    u, loss = random.integers(0, 5, 100).astype(float), (random.random(100) < 0.3).astype(float)
    order = random.permutation(100)
    assert metric(u[order], loss[order]) == pytest.approx(metric(u, loss))


@pytest.mark.parametrize("metric", [aurc, augrc, e_aurc])
def test_areas_do_not_depend_on_scale(metric: Callable[..., float]) -> None:
    random = np.random.default_rng(1)
    u, loss = random.normal(size=100), (random.random(100) < 0.3).astype(float)
    assert metric(1e6 * u + 3, loss) == metric(u, loss)


@pytest.mark.parametrize("metric", [aurc, augrc])
@pytest.mark.parametrize("kind", [bool, np.int64, np.float32])
def test_losses_may_be_boolean_integer_or_float(metric: Callable[..., float], kind: type) -> None:
    u, loss = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 1, 0, 1])
    assert metric(u, loss.astype(kind)) == metric(u, loss.astype(np.float64))


def test_e_aurc_of_a_perfect_ranking_vanishes_as_items_grow() -> None:
    def perfect(n: int) -> float:
        return e_aurc(np.arange(float(n)), (np.arange(n) >= 0.7 * n).astype(float))

    assert abs(perfect(100_000)) < 1e-4 < abs(perfect(100))


@pytest.mark.parametrize(("wrong", "expected"), [(0.0, 0.0), (1.0, 0.0)])
def test_e_aurc_is_zero_where_ranking_cannot_matter(wrong: float, expected: float) -> None:
    assert e_aurc(np.arange(6.0), np.full(6, wrong)) == expected


def test_e_aurc_subtracts_the_area_of_a_perfect_ranking() -> None:
    u, loss = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 0.0, 0.0])
    assert e_aurc(u, loss) == pytest.approx(aurc(u, loss) - (0.25 + 0.75 * np.log(0.75)))


@given(paired(ANY_LOSS), st.floats(0, 1))
def test_coverage_at_risk_is_the_largest_of_all_thresholds(data: Paired, risk: float) -> None:
    u, loss = data
    reached = [np.mean(u <= t) for t in u if loss[u <= t].sum() / (u <= t).sum() <= risk]
    assert coverage_at_risk(u, loss, risk) == max(reached, default=0.0)


def test_coverage_at_risk_may_lie_beyond_a_stretch_of_higher_risk() -> None:
    u, loss = np.arange(4.0), np.array([0.0, 1.0, 0.0, 0.0])
    assert coverage_at_risk(u, loss, 0.25) == 1.0


def test_no_threshold_cuts_through_a_tie() -> None:
    u, loss = np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0])
    assert coverage_at_risk(u, loss, 0.1) == 0.0
    assert risk_at_coverage(u, loss, 0.5) == 0.25


@given(paired(ANY_LOSS), st.floats(0.001, 1))
def test_risk_at_coverage_is_that_of_the_lowest_threshold_to_reach_it(data: Paired, coverage: float) -> None:
    u, loss = data
    threshold = min(t for t in u if np.mean(u <= t) >= coverage)
    assert risk_at_coverage(u, loss, coverage) == pytest.approx(loss[u <= threshold].mean())


@pytest.mark.parametrize("coverage", [0.0, 1.1, -0.5, float("nan")])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage must be in"):
        risk_at_coverage(np.arange(3.0), np.zeros(3), coverage)


# ---- ranks ----


@given(st.lists(st.integers(-3, 3), min_size=1))
def test_midranks_are_scipys_average_ranks(values: list[int]) -> None:
    assert midranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


@given(paired(ANY_LOSS, smallest=3))
def test_spearman_is_scipys(data: Paired) -> None:
    first, second = data
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_refused() -> None:
    with pytest.raises(ValueError, match="undefined"):
        spearman(np.ones(4), np.arange(4.0))


def test_spearman_of_any_rising_function_is_one() -> None:
    x = np.random.default_rng(0).normal(size=50)
    assert spearman(x, np.exp(5 * x)) == 1.0


@given(paired(ANY_LOSS))
def test_win_rate_counts_ties_half(data: Paired) -> None:
    original, degraded = data
    wins = [(d > o) + (d == o) / 2 for o, d in zip(original, degraded, strict=True)]
    assert win_rate(original, degraded) == pytest.approx(np.mean(wins))


def test_win_rate_of_the_same_uncertainties_is_one_half() -> None:
    assert win_rate(np.arange(7.0), np.arange(7.0)) == 0.5


# ---- refusals ----


@pytest.mark.parametrize("metric", [aurc, augrc, e_aurc, auroc, fpr_at_95, r_auroc, spearman, win_rate, selective_risk])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [0.0, 1.0, 1.0], "one length"),
        ([], [], "non-empty"),
        ([1.0, np.nan], [0.0, 1.0], "not finite"),
        ([1.0, np.inf], [0.0, 1.0], "not finite"),
        ([[1.0, 2.0]], [[0.0, 1.0]], r"of shape \(1, 2\)"),
    ],
    ids=["lengths", "empty", "nan", "inf", "matrix"],
)
def test_arrays_that_do_not_pair_are_refused(
    metric: Callable[..., object], first: list[float], second: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(np.array(first), np.array(second))


def test_labels_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        auroc(np.arange(3.0), np.array([0.0, 0.5, 1.0]))


def test_e_aurc_refuses_losses_outside_the_unit_interval() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        e_aurc(np.arange(2.0), np.array([0.0, 2.0]))
