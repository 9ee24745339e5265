import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from uncertainty.calibration import ReferenceQuantiles, reference_quantiles

SCORES = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))
FEW_VALUES = hnp.arrays(np.float64, st.integers(2, 40), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0]))


def test_quantiles_are_evenly_spaced_from_minimum_to_maximum() -> None:
    values = np.array([40.0, 0.0, 10.0, 30.0, 20.0])
    assert reference_quantiles(values, count=9).tolist() == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]
    assert reference_quantiles(values, count=2).tolist() == [0.0, 40.0]


@given(SCORES, st.integers(2, 50))
def test_quantiles_ascend_and_hold_both_ends(values: NDArray[np.float64], count: int) -> None:
    quantiles = reference_quantiles(values, count)
    assert quantiles.shape == (count,)
    assert (np.diff(quantiles) >= 0).all()
    assert (quantiles[0], quantiles[-1]) == (values.min(), values.max())


def test_float32_scores_lie_within_their_own_quantiles() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=999).astype(np.float32)
    found = ReferenceQuantiles(reference_quantiles(values)).percentile(values)
    assert found.dtype == np.float64
    assert (found.min(), found.max()) == (0.0, 1.0)


def test_percentile_is_the_share_of_the_reference_below() -> None:
    reference = np.random.default_rng(0).normal(size=5000)
    scores = np.random.default_rng(1).normal(size=200)
    share = (reference[None, :] < scores[:, None]).mean(axis=1)  # (200,)
    assert np.abs(ReferenceQuantiles(reference_quantiles(reference)).percentile(scores) - share).max() < 2e-3


def test_percentile_interpolates_between_quantiles_and_is_clamped_outside() -> None:
    quantiles = np.array([0.0, 1.0, 3.0])
    scores = np.array([-np.inf, -0.1, 0.0, 0.5, 1.0, 2.0, 3.0, 3.1, np.inf])
    assert ReferenceQuantiles(quantiles).percentile(scores).tolist() == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_tie_gets_the_middle_of_its_range() -> None:
    quantiles = np.array([0.0, 2.0, 2.0, 2.0, 4.0])
    assert ReferenceQuantiles(quantiles).percentile(np.array([1.0, 2.0, 3.0])).tolist() == [0.125, 0.5, 0.875]
    assert ReferenceQuantiles(np.array([1.0, 1.0, 1.2])).percentile(np.array([1.0, 1.1])).tolist() == pytest.approx(
        [0.25, 0.75]
    )


def test_a_constant_reference_knows_below_equal_and_above() -> None:
    assert ReferenceQuantiles(np.array([1.0, 1.0, 1.0])).percentile(np.array([0.9, 1.0, 1.1])).tolist() == [
        0.0,
        0.5,
        1.0,
    ]


@given(FEW_VALUES)
def test_a_tie_counts_half_of_its_quantiles_as_below(quantiles: NDArray[np.float64]) -> None:
    grid = np.sort(quantiles)
    for score, found in zip(grid, ReferenceQuantiles(grid).percentile(grid), strict=True):
        below, equal = (grid < score).sum(), (grid == score).sum()
        assert found == pytest.approx((below + (equal - 1) / 2) / (grid.size - 1))


@given(SCORES, st.one_of(SCORES, FEW_VALUES).filter(lambda values: values.size > 1))
def test_percentile_never_falls_and_stays_in_the_unit_interval(
    scores: NDArray[np.float64], quantiles: NDArray[np.float64]
) -> None:
    found = ReferenceQuantiles(np.sort(quantiles)).percentile(np.sort(np.concatenate([scores, quantiles])))
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_percentile_does_not_change_its_arguments() -> None:
    scores, quantiles = np.array([3.0, 1.0]), np.array([0.0, 2.0])
    ReferenceQuantiles(quantiles).percentile(scores)
    assert (scores.tolist(), quantiles.tolist()) == ([3.0, 1.0], [0.0, 2.0])


@pytest.mark.parametrize(
    ("values", "count", "message"),
    [([], 5, "non-empty"), ([np.nan, 1.0], 5, "not finite"), ([1.0], 1, "at least 2"), ([[1.0]], 5, "non-empty")],
)
def test_bad_references_are_refused(values: list[float], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference_quantiles(np.array(values), count)


def test_bad_quantiles_and_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        ReferenceQuantiles(np.array([2.0, 1.0])).percentile(np.array([1.0]))
    with pytest.raises(ValueError, match="at least two"):
        ReferenceQuantiles(np.array([2.0])).percentile(np.array([1.0]))
    with pytest.raises(ValueError, match="NaN"):
        ReferenceQuantiles(np.array([1.0, 2.0])).percentile(np.array([np.nan]))
