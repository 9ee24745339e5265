"""Intervals of resampled values."""

import numpy as np
from numpy.typing import NDArray

REPETITIONS = 200


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of the values (r,) that are defined."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
