"""Thresholds: who sets them, what they mean, and their raw form for the gallery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Bundle, Manifest
from service.decide import NO_THRESHOLD, Threshold, default_threshold, raw_bound, resolve_threshold
from service.errors import InvalidOption
from service.settings import Settings


def test_the_request_goes_before_the_settings_and_they_before_none() -> None:
    operator = default_threshold(Settings(max_percentile=0.5))

    assert resolve_threshold(1.5, None, operator) == Threshold(1.5, None, "request")
    assert resolve_threshold(None, 0.9, operator) == Threshold(None, 0.9, "request")
    assert resolve_threshold(None, None, operator) == Threshold(None, 0.5, "settings")
    assert resolve_threshold(None, None, default_threshold(Settings())) is NO_THRESHOLD


def test_two_thresholds_at_once_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"max_query_uncertainty and max_query_percentile"):
        resolve_threshold(1.0, 0.5, prefix="max_query_")


def test_none_abstains_never_and_zero_is_a_threshold_like_any_other() -> None:
    assert not NO_THRESHOLD.exceeded(float("inf"), 1.0)
    assert Threshold(uncertainty=0.0).exceeded(1e-30, 0.0)
    assert Threshold(percentile=0.0).exceeded(0.0, 1e-9)
    assert not Threshold(percentile=0.0).exceeded(9.9, 0.0)


def bundle_with(bundle: Bundle, quantiles: list[float]) -> Bundle:
    reference = bundle.manifest.reference.model_copy(update={"uncertainty": quantiles})
    manifest: Manifest = bundle.manifest.model_copy(update={"reference": reference})
    return Bundle(bundle.path, manifest)


QUANTILES = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12).map(sorted)


@given(quantiles=QUANTILES, percentile=st.floats(0, 1), extra=st.lists(st.floats(-200, 200, width=32), max_size=20))
def test_filtering_by_the_raw_bound_is_filtering_by_percentile(
    bundle: Bundle, quantiles: list[float], percentile: float, extra: list[float]
) -> None:
    reference = bundle_with(bundle, quantiles)
    threshold = Threshold(percentile=percentile)

    bound = raw_bound(threshold, reference)

    near = [float(np.nextafter(np.float32(q), np.float32(side))) for q in quantiles for side in (-np.inf, np.inf)]
    for uncertainty in (*quantiles, *extra, *near):
        within = not threshold.exceeded(
            uncertainty, float(reference.uncertainty_percentile(np.array([uncertainty]))[0])
        )
        assert within == (bound is None or uncertainty <= bound)


def test_a_raw_threshold_is_its_own_bound(bundle: Bundle) -> None:
    assert raw_bound(Threshold(uncertainty=1.25), bundle) == 1.25
    assert raw_bound(NO_THRESHOLD, bundle) is None
