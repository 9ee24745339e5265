import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uncertainty.drift import HORIZON, Audit, Drift, Reference, chi_square_cdf, chi_square_quantile, drift, reference_of

ALPHA, DELTA = 0.05, 0.05


@given(st.floats(1e-6, 200.0), st.integers(1, 60))
def test_the_chi_square_distribution_is_right(value: float, freedom: int) -> None:
    assert chi_square_cdf(value, freedom) == pytest.approx(stats.chi2.cdf(value, freedom), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("level", [0.01, 0.5, 0.99, 1 - 1e-8])
@pytest.mark.parametrize("freedom", [1, 9, 40])
def test_its_quantiles_are_right(level: float, freedom: int) -> None:
    assert chi_square_quantile(level, freedom) == pytest.approx(stats.chi2.ppf(level, freedom), rel=1e-6)


def window(reference: Reference, values: np.ndarray) -> list[int]:
    counts: list[int] = np.bincount([reference.bin_of(v) for v in values], minlength=len(reference.share)).tolist()
    return counts


def test_bins_of_the_reference_hold_equally_many() -> None:
    reference = reference_of(np.arange(1000.0))
    assert len(reference.share) == 10
    assert reference.share == pytest.approx([0.1] * 10)
    assert window(reference, np.arange(1000.0)) == [100] * 10


def test_ties_join_bins_and_never_leave_one_empty() -> None:
    reference = reference_of(np.array([0.0] * 50 + [1.0] * 50))
    assert reference.share == (0.5, 0.5)
    assert reference_of(np.zeros(10)).share == (1.0,)
    assert drift(reference_of(np.zeros(10)), [7], look=1) == Drift(0.0, math.inf, 7)


def test_a_shift_is_seen_and_chance_is_not_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        reference = reference_of(rng.normal(size=2000))
        alarms += any(
            drift(reference, window(reference, rng.normal(size=500)), look, level=0.05).drifted for look in range(1, 6)
        )
    assert alarms <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)

    moved = drift(reference, window(reference, rng.normal(0.5, 1.0, 500)), look=5, level=0.05)
    assert moved.drifted
    assert moved.psi > 0.1


def test_an_empty_window_has_not_drifted() -> None:
    reference = reference_of(np.arange(100.0))
    assert not drift(reference, [0] * 10, look=1).drifted
    with pytest.raises(ValueError, match="3 bins"):
        drift(reference, [1, 2, 3], look=1)


def audited(rates: list[tuple[int, float]], seed: int) -> tuple[Audit, int | None]:
    """Audits at one error rate after the other; the number of the first that raised the alarm."""
    rng, audit, first = np.random.default_rng(seed), Audit(ALPHA, DELTA), None
    for count, rate in rates:
        for wrong in rng.random(count) < rate:
            audit = audit.seen(float(wrong))
            if audit.alarm:
                return audit, audit.count
    return audit, first


def test_a_healthy_run_stays_quiet() -> None:
    assert sum(audited([(5000, ALPHA)], seed)[1] is not None for seed in range(20)) <= 3


def test_a_broken_promise_is_found_soon() -> None:
    found = [audited([(2000, 0.2)], seed)[1] for seed in range(10)]
    assert all(first is not None and first < 400 for first in found)


def test_what_breaks_late_is_found_by_the_statistic_that_forgets() -> None:
    audit, first = audited([(4000, 0.01), (2000, 0.25)], 0)
    assert first is not None
    assert 4000 < first < 4300
    assert audit.e_value < 2 / DELTA  # weighed down by the long good time
    assert audit.shiryaev_roberts >= 2 * HORIZON / DELTA


def test_the_statistics_are_the_products_they_are_said_to_be() -> None:
    losses, stakes = [0.0, 1.0, 0.3, 1.0], (0.05, 0.1, 0.2, 0.4, 0.8)
    audit = Audit(ALPHA, DELTA)
    e_values, m_values = [1.0] * 5, [0.0] * 5
    for loss in losses:
        audit = audit.seen(loss)
        gain = [1 + stake / ALPHA * (loss - ALPHA) for stake in stakes]
        e_values = [e * g for e, g in zip(e_values, gain, strict=True)]
        m_values = [(m + 1) * g for m, g in zip(m_values, gain, strict=True)]
    assert audit.e_value == pytest.approx(np.mean(e_values))
    assert audit.shiryaev_roberts == pytest.approx(np.mean(m_values))
    assert audit.count == 4
    assert audit.loss == pytest.approx(2.3)


def test_a_loss_outside_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not 1\.5"):
        Audit(ALPHA, DELTA).seen(1.5)
    with pytest.raises(ValueError, match="not nan"):
        Audit(ALPHA, DELTA).seen(math.nan)
