import numpy as np
import pytest

from uncertainty.conformal import AdaptiveK, fit_adaptive_k

ALPHA = 0.1


def queries(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The more uncertain, the deeper the first relevant match lies; some have none."""
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(count)
    rank = rng.geometric(1.0 - 0.9 * uncertainty).astype(float)
    rank[rng.random(count) < 0.02] = np.inf
    return uncertainty, rank


def covered(sets: AdaptiveK, uncertainty: np.ndarray, rank: np.ndarray) -> np.ndarray:
    k = np.array([sets.k_of(u) or np.inf for u in uncertainty])
    return rank <= k


def test_each_fifth_of_the_queries_is_covered_as_promised() -> None:
    by_fifth = np.zeros(5)
    for seed in range(40):
        sets = fit_adaptive_k(*queries(500, seed), ALPHA)
        uncertainty, rank = queries(2000, 1000 + seed)
        hit = covered(sets, uncertainty, rank)
        fifth = np.minimum((uncertainty * 5).astype(int), 4)
        by_fifth += [hit[fifth == i].mean() / 40 for i in range(5)]
    assert (by_fifth > 1 - ALPHA - 0.01).all()
    assert (by_fifth < 1 - ALPHA + 0.06).all()


def test_hard_queries_get_more_matches_and_one_size_would_fail_them() -> None:
    uncertainty, rank = queries(5000, 0)
    sets = fit_adaptive_k(uncertainty, rank, ALPHA)
    one_size = fit_adaptive_k(uncertainty, rank, ALPHA, bins=1)
    hard = uncertainty > 0.8

    assert [k or 0 for k in sets.k] == sorted(k or 0 for k in sets.k)
    assert covered(sets, uncertainty, rank)[hard].mean() >= 1 - ALPHA - 0.01
    assert covered(one_size, uncertainty, rank)[hard].mean() < 0.85
    assert covered(one_size, uncertainty, rank).mean() >= 1 - ALPHA


def test_the_rank_is_the_conformal_one() -> None:
    ranks = np.arange(1.0, 20.0)
    assert fit_adaptive_k(np.zeros(19), ranks, ALPHA).k == (18,)  # ceil(20 * .9), and ties make one bin
    assert fit_adaptive_k(np.zeros(8), ranks[:8], ALPHA).k == (None,)  # too few to promise anything
    assert fit_adaptive_k(np.zeros(19), np.full(19, np.inf), ALPHA).k == (None,)


def test_a_query_at_an_edge_is_in_the_bin_below_as_those_it_was_fitted_on() -> None:
    sets = fit_adaptive_k(np.repeat([0.1, 0.9], 50), np.repeat([1.0, 7.0], 50), ALPHA, bins=2)
    assert (sets.edges, sets.k) == ((0.1,), (1, 7))
    assert [sets.k_of(u) for u in (0.0, 0.1, 0.1001, 5.0)] == [1, 1, 7, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_relevant": np.zeros(5)}, "ranks from 1"),
        ({"first_relevant": np.ones(4)}, "ranks from 1"),
        ({"first_relevant": np.full(5, np.nan)}, "ranks from 1"),
        ({"alpha": 0.0}, "alpha"),
        ({"bins": 0}, "bins"),
        ({"uncertainty": np.full(5, np.inf)}, "not finite"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    given = {"uncertainty": np.arange(5.0), "first_relevant": np.ones(5), "alpha": ALPHA, "bins": 1, **change}
    with pytest.raises(ValueError, match=message):
        fit_adaptive_k(**given)  # type: ignore[arg-type]
