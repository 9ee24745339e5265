import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from uncertainty.confidence import RIDGE, fit_match_confidence, fit_rising_logistic
from uncertainty.metrics import auroc


def matches(count: int, seed: int = 0) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Evidence of which a closer match and a surer query make a right answer, and novelty says nothing."""
    rng = np.random.default_rng(seed)
    uncertainty, top, novelty = rng.normal(size=count), rng.uniform(0.2, 1.0, count), rng.normal(size=count)
    odds = 1.5 * uncertainty - 6.0 * (top - 0.6)
    wrong = rng.random(count) < 1 / (1 + np.exp(-odds))
    return {"top_score": top, "uncertainty": uncertainty, "novelty": novelty}, wrong


def test_the_fit_is_the_minimum_that_a_general_solver_finds() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        rows = rng.normal(size=(300, 4)) * [1.0, 3.0, 0.2, 1.0]
        positive = rng.random(300) < 1 / (1 + np.exp(-(rows @ [1.0, -0.5, 0.0, 0.3] - 0.4)))

        def loss(at: NDArray[np.float64], rows: NDArray[np.float64] = rows, y: NDArray[np.bool_] = positive) -> float:
            margin = rows @ at[:-1] + at[-1]
            return float((np.logaddexp(0, margin) - y * margin).mean() + 0.5 * RIDGE * (at[:-1] ** 2).sum())

        slope, intercept = fit_rising_logistic(rows, positive)
        bounds = [(0, None)] * 4 + [(None, None)]
        best = minimize(loss, np.zeros(5), bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
        assert loss(np.append(slope, intercept)) <= best.fun + 1e-9, seed
        assert (slope >= 0).all()
        assert slope[1] == 0.0  # it would fall, and must not


def test_labels_that_a_line_separates_still_have_a_fit() -> None:
    x = np.linspace(-1, 1, 50)
    slope, intercept = fit_rising_logistic(x[:, None], x > 0)
    assert np.isfinite([*slope, intercept]).all()
    assert slope[0] > 5


def test_the_score_ranks_better_than_any_of_its_inputs() -> None:
    fitted = fit_match_confidence(*matches(1500))
    evidence, wrong = matches(4000, seed=1)
    combined = auroc(fitted.score(evidence), wrong)
    assert combined > auroc(evidence["uncertainty"], wrong) + 0.03
    assert combined > auroc(-evidence["top_score"], wrong) + 0.03


def test_inputs_keep_their_sign_whatever_the_labels_say() -> None:
    evidence, wrong = matches(1000)
    turned = fit_match_confidence(evidence, ~wrong)
    assert dict(zip(turned.inputs, turned.slope, strict=True))["uncertainty"] == 0.0
    assert all(slope >= 0 for name, slope in zip(turned.inputs, turned.slope, strict=True) if name != "top_score")
    assert dict(zip(turned.inputs, turned.slope, strict=True))["top_score"] == 0.0


@pytest.mark.parametrize("inputs", [("uncertainty",), ("top_score", "uncertainty"), ("novelty",)])
def test_any_subset_of_the_inputs_will_do_and_is_named(inputs: tuple[str, ...]) -> None:
    evidence, wrong = matches(500)
    fitted = fit_match_confidence({name: evidence[name] for name in inputs}, wrong)
    assert set(fitted.inputs) == set(inputs)
    np.testing.assert_array_equal(fitted.score(evidence), fitted.score({name: evidence[name] for name in inputs}))


def test_the_score_is_the_log_odds_of_being_wrong() -> None:
    evidence, wrong = matches(20_000)
    score = fit_match_confidence(evidence, wrong).score(evidence)
    for low, high in ((-3, -1), (-1, 1), (1, 3)):
        inside = (score > low) & (score < high)
        assert wrong[inside].mean() == pytest.approx((1 / (1 + np.exp(-score[inside]))).mean(), abs=0.02)


def test_an_input_that_never_changes_says_nothing() -> None:
    evidence, wrong = matches(500)
    with_constant = fit_match_confidence({**evidence, "margin": np.full(500, 0.25)}, wrong)
    assert dict(zip(with_constant.inputs, with_constant.slope, strict=True))["margin"] == pytest.approx(0.0, abs=1e-9)


def test_bad_evidence_is_named() -> None:
    evidence, wrong = matches(50)
    fitted = fit_match_confidence(evidence, wrong)
    with pytest.raises(ValueError, match="lacks top_score"):
        fitted.score({"uncertainty": np.zeros(3), "novelty": np.zeros(3)})
    with pytest.raises(ValueError, match="no input colour"):
        fit_match_confidence({**evidence, "colour": np.zeros(50)}, wrong)
    with pytest.raises(ValueError, match="empty"):
        fit_match_confidence({}, wrong)
    with pytest.raises(ValueError, match="both values"):
        fit_match_confidence(evidence, np.zeros(50, dtype=bool))
    with pytest.raises(ValueError, match="49 values for 50"):
        fit_match_confidence(evidence, wrong[:49])
    with pytest.raises(ValueError, match="not finite"):
        fitted.score({name: np.full(3, np.nan) for name in fitted.inputs})
