import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import FWERFixedSequenceTesting, control_fwer
from scipy import stats

from benchmarks.certification import CURVES, GRID, simulate
from uncertainty.certification import (
    Certificate,
    _largest_rejected,
    betting_p_value,
    binomial_tail,
    certify_bounded_loss,
    certify_threshold,
)

ALPHA, DELTA = 0.1, 0.1


def labelled(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1], and answers that are wrong with a probability of a quarter of the score."""
    rng = np.random.default_rng(seed)
    score = rng.random(count)
    return score, rng.random(count) < score / 4


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_exact(successes: int, more: int, rate: float) -> None:
    trials = successes + more
    expected = stats.binom.cdf(successes, trials, rate) if trials else 1.0
    assert binomial_tail(successes, trials, rate) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_no_trials_prove_nothing() -> None:
    assert binomial_tail(0, 0, 0.1) == 1.0


@pytest.mark.parametrize("curve", CURVES)
def test_the_promise_is_kept_on_every_curve(curve: str) -> None:
    found = simulate(curve, ALPHA, DELTA, labels=1000, repetitions=300)
    assert found.kept, found


@pytest.mark.parametrize("curve", ["smooth", "kinked", "overconfident tail"])
def test_most_of_the_oracles_coverage_is_had_from_3000_labels(curve: str) -> None:
    found = simulate(curve, ALPHA, 0.05, labels=3000, repetitions=60)
    assert found.coverage >= 0.8 * found.oracle, found


def test_the_promise_would_be_broken_without_the_test() -> None:
    """The largest threshold whose risk on the labels is within alpha: what the simulation must be able to catch."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(200):
        score = rng.random(1000)
        wrong = rng.random(1000) < CURVES["smooth"](score, ALPHA)
        naive = max(t for t in GRID if wrong[score <= t].mean() <= ALPHA)
        broken += 4 * ALPHA * naive**2 / 3 > ALPHA
    assert broken > 0.3 * 200


def test_the_certificate_counts_what_it_accepts() -> None:
    score, wrong = labelled(4000)
    found = certify_threshold(score, wrong, ALPHA, DELTA, GRID)
    assert found.threshold is not None
    accepted = score <= found.threshold
    assert (found.labels, found.accepted, found.loss) == (4000, accepted.sum(), wrong[accepted].sum())
    assert 0.5 < found.threshold < 0.8  # whose true risk is an eighth of it
    assert found.coverage == pytest.approx(found.threshold, abs=0.03)
    assert found.labels_needed is None


def test_a_score_equal_to_the_threshold_is_accepted() -> None:
    score = np.repeat([0.25, 0.75], 500)
    wrong = score > 0.5
    found = certify_threshold(score, wrong, ALPHA, DELTA, np.array([0.25, 0.75]))
    assert (found.threshold, found.accepted) == (0.25, 500)


def test_none_is_an_answer_that_says_how_many_labels_it_would_take() -> None:
    found = [certify_threshold(*labelled(300, seed), 0.05, 0.05, GRID) for seed in range(9)]
    infeasible = [each for each in found if not each.feasible]
    assert len(infeasible) >= 5
    assert all((each.threshold, each.accepted, each.coverage) == (None, 0, 0.0) for each in infeasible)
    needed = int(np.median([each.labels_needed or np.inf for each in infeasible]))
    assert 600 < needed < 4000
    enough = [certify_threshold(*labelled(3 * needed, seed), 0.05, 0.05, GRID).feasible for seed in range(9)]
    too_few = [certify_threshold(*labelled(needed // 5, seed), 0.05, 0.05, GRID).feasible for seed in range(9)]
    assert sum(enough) >= 6
    assert sum(too_few) <= 2


def test_where_every_threshold_is_too_wrong_no_number_of_labels_would_do() -> None:
    score = np.random.default_rng(0).random(500)
    found = certify_threshold(score, np.ones(500, dtype=bool), ALPHA, DELTA, GRID)
    assert found == Certificate(ALPHA, DELTA, None, 500, 0, 0.0, None)


def test_near_duplicates_count_once() -> None:
    score, wrong = labelled(1000)
    groups = np.arange(1000)
    copied = certify_threshold(np.repeat(score, 7), np.repeat(wrong, 7), ALPHA, DELTA, GRID, np.repeat(groups, 7))
    assert copied == certify_threshold(score, wrong, ALPHA, DELTA, GRID)
    assert copied.labels == 1000


def test_of_a_group_one_is_drawn_at_random() -> None:
    """Not its first: groups whose first is right and whose others are wrong have a risk of nine tenths."""
    wrong = np.tile([False] + [True] * 9, 300)
    found = certify_threshold(np.full(3000, 0.5), wrong, 0.5, DELTA, np.array([0.5]), np.repeat(np.arange(300), 10))
    assert not found.feasible


def test_more_error_allowed_never_accepts_less() -> None:
    score, wrong = labelled(2000)
    thresholds = [
        certify_threshold(score, wrong, alpha, DELTA, GRID).threshold or 0.0 for alpha in (0.05, 0.1, 0.2, 1 / 3)
    ]
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] == 1.0


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.99))
def test_a_betting_p_value_is_a_probability(loss: list[float], alpha: float) -> None:
    assert 0.0 < betting_p_value(np.asarray(loss), alpha) <= 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_betting_errs_no_more_often_than_it_says(alpha: float) -> None:
    rng = np.random.default_rng(0)
    for losses in (rng.random((500, 400)) < alpha, rng.beta(alpha * 4, (1 - alpha) * 4, (500, 400))):
        p_values = np.asarray([betting_p_value(loss.astype(float), alpha) for loss in losses])
        for level in (0.05, 0.2):
            assert (p_values <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 500)


def test_betting_wins_where_the_loss_is_low() -> None:
    low = np.random.default_rng(0).beta(0.2, 5.0, 500)
    assert betting_p_value(low, 0.1) < 1e-4


def test_a_bounded_loss_is_certified_too() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(3000)
    loss = np.clip(score / 4 + rng.normal(0, 0.02, 3000), 0, 1)
    found = certify_bounded_loss(score, loss, ALPHA, DELTA, GRID)
    assert found.threshold is not None
    accepted = score <= found.threshold
    assert found.loss == pytest.approx(loss[accepted].sum())
    assert 0.6 < found.threshold <= 0.8  # where the mean loss is a tenth
    infeasible = certify_bounded_loss(score, np.full(3000, 0.5), ALPHA, DELTA, GRID)
    assert (infeasible.threshold, infeasible.labels_needed) == (None, None)


@pytest.mark.parametrize("certify", [certify_threshold, certify_bounded_loss])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must be in"),
        ({"delta": 1.0}, "delta must be in"),
        ({"grid": np.array([0.2, 0.1])}, "ascending"),
        ({"grid": np.array([])}, "non-empty"),
        ({"groups": np.zeros(3, dtype=int)}, "3 values for 20"),
        ({"score": np.full(20, np.nan)}, "not finite"),
    ],
)
def test_bad_input_is_named(certify: object, change: dict[str, object], message: str) -> None:
    score, wrong = labelled(20)
    given_ = {"score": score, "alpha": ALPHA, "delta": DELTA, "grid": GRID, **change}
    loss = {"wrong" if certify is certify_threshold else "loss": wrong.astype(float)}
    with pytest.raises(ValueError, match=message):
        certify(**given_, **loss)  # type: ignore[operator]


def test_a_loss_beyond_one_is_refused() -> None:
    score, wrong = labelled(20)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        certify_bounded_loss(score, 2.0 * wrong + 1, ALPHA, DELTA, GRID)
    with pytest.raises(ValueError, match="only 0 and 1"):
        certify_threshold(score, wrong + 0.5, ALPHA, DELTA, GRID)  # type: ignore[arg-type]


def test_one_start_rejects_what_mapie_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        p_values = rng.uniform(0, 0.15, 30) ** 1.5
        budget = np.zeros(30)
        budget[0] = 0.05
        mapie = control_fwer(p_values, 0.05, FWERFixedSequenceTesting(n_starts=1))
        assert _largest_rejected(p_values, budget) == (mapie.max() if mapie.size else None)


def test_several_starts_reject_what_mapie_rejects_and_more_only_by_budget_handed_on() -> None:
    rng = np.random.default_rng(1)
    equal = 0
    for _ in range(500):
        p_values = rng.uniform(0, 0.03, 50) ** 1.3
        budget = np.zeros(50)
        budget[::10] = 0.01
        mapie = control_fwer(p_values, 0.05, FWERFixedSequenceTesting(n_starts=5))
        ours, theirs = _largest_rejected(p_values, budget), int(mapie.max()) if mapie.size else None
        if ours == theirs:
            equal += 1
            continue
        assert ours is not None
        assert theirs is None or theirs < ours
        assert (p_values[(ours // 10) * 10 : ours + 1] > 0.01).any()  # beyond what a start has by itself
    assert 100 < equal < 500
