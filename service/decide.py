"""Abstention: which threshold holds for a request, and what is above it."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from models.bundle import Bundle
from service.errors import Abstained, InvalidOption
from service.settings import Settings

Source = Literal["request", "settings", "policy", "none"]
FLOAT32_INFINITY_BITS: Final = 0x7F800000


@dataclass(frozen=True)
class Threshold:
    """At most one bound on uncertainty, raw or as a percentile, and who set it."""

    uncertainty: float | None = None
    percentile: float | None = None
    source: Source = "none"

    def exceeded(self, uncertainty: float, percentile: float) -> bool:
        """Whether an image is too uncertain; one exactly at the threshold is not."""
        if self.uncertainty is not None:
            return uncertainty > self.uncertainty
        return self.percentile is not None and percentile > self.percentile

    def as_dict(self) -> dict[str, float | str | None]:
        """What answers say of it."""
        return {"uncertainty": self.uncertainty, "percentile": self.percentile, "source": self.source}


NO_THRESHOLD: Final = Threshold()


def resolve_threshold(
    uncertainty: float | None, percentile: float | None, default: Threshold = NO_THRESHOLD, *, prefix: str = "max_"
) -> Threshold:
    """The request's threshold where it has one, else the default.

    Raises:
        InvalidOption: for both a raw uncertainty and a percentile.
    """
    if uncertainty is not None and percentile is not None:
        raise InvalidOption(f"{prefix}uncertainty and {prefix}percentile exclude each other: give one")
    if uncertainty is None and percentile is None:
        return default
    return Threshold(uncertainty, percentile, "request")


def default_threshold(settings: Settings) -> Threshold:
    """The operator's threshold, or none."""
    if settings.max_uncertainty is None and settings.max_percentile is None:
        return NO_THRESHOLD
    return Threshold(settings.max_uncertainty, settings.max_percentile, "settings")


def raw_bound(threshold: Threshold, bundle: Bundle) -> float | None:
    """The largest raw uncertainty within the threshold, None where everything is: what a gallery can filter by.

    Exact for every float32 uncertainty: a percentile is inverted by bisection over the float32 numbers themselves.
    """
    if threshold.percentile is None:
        return threshold.uncertainty
    return None if threshold.percentile >= 1.0 else _largest_within(threshold.percentile, bundle)


@lru_cache(maxsize=256)  # some thirty percentiles are computed for one, and requests repeat them
def _largest_within(percentile: float, bundle: Bundle) -> float:
    ordered = range(-FLOAT32_INFINITY_BITS, FLOAT32_INFINITY_BITS + 1)
    first_beyond = bisect_right(ordered, percentile, key=lambda i: _percentile_of(_nth_float32(i), bundle))
    return _nth_float32(ordered[max(0, first_beyond - 1)])


def _percentile_of(uncertainty: float, bundle: Bundle) -> float:
    return float(bundle.uncertainty_percentile(np.asarray([uncertainty]))[0])


def _nth_float32(index: int) -> float:
    """The float32 numbers in order: 0 is zero, 1 the smallest above it, -1 the largest below."""
    magnitude = float(np.asarray(abs(index), dtype=np.uint32).view(np.float32))
    return -magnitude if index < 0 else magnitude


def abstained(uncertainty: float, percentile: float, threshold: Threshold) -> Abstained:
    """The error of an image above the threshold, with its numbers."""
    return Abstained(
        f"uncertainty {uncertainty:.4g} (percentile {percentile:.3f}) is above the threshold",
        uncertainty=uncertainty,
        percentile=percentile,
        threshold=threshold.as_dict(),
    )
