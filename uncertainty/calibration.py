"""Label-free calibration: a raw score becomes its percentile in a named reference set."""

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, require_vector


def reference_quantiles(values: Floats, count: int = 1001) -> NDArray[np.float64]:
    """(n,) scores of a reference set -> (count,) evenly spaced quantiles, the minimum and the maximum among them.

    Raises:
        ValueError: unless the scores are finite and not empty, and `count` is at least 2.
    """
    require_vector("values", values)
    if count < 2:
        raise ValueError(f"count must be at least 2, not {count}")
    quantiles = np.quantile(values.astype(np.float64), np.linspace(0.0, 1.0, count))
    return np.maximum.accumulate(quantiles)  # interpolation may fall by one unit in the last place


class ReferenceQuantiles:
    """Quantiles of a reference set, (q,), ascending and evenly spaced in rank, as `reference_quantiles` makes them.

    Raises:
        ValueError: unless they are ascending and at least two.
    """

    def __init__(self, quantiles: Floats) -> None:
        require_vector("quantiles", quantiles)
        if quantiles.size < 2 or (np.diff(quantiles) < 0).any():
            raise ValueError("quantiles must be at least two, and ascending")
        self._grid = np.asarray(quantiles, dtype=np.float64)

    def percentile(self, values: Floats) -> NDArray[np.float64]:
        """(m,) raw scores, finite or infinite -> (m,) share in [0, 1] of the reference set that lies below each.

        Monotone: linear between quantiles, 0 below the first and 1 above the last. A score equal to a run of tied
        quantiles gets the middle of the run, so that half of its ties count as below it.

        Raises:
            ValueError: for a score that is NaN.
        """
        scores, grid = np.asarray(values, dtype=np.float64), self._grid
        if np.isnan(scores).any():
            raise ValueError("values must not be NaN")
        left = np.searchsorted(grid, scores, side="left")  # quantiles strictly below
        right = np.searchsorted(grid, scores, side="right")  # quantiles below or equal
        middle = (left + right - 1) / 2.0  # of the run of ties, where there is one
        return np.clip(np.where(left < right, middle, _between(scores, grid, right)) / (grid.size - 1), 0.0, 1.0)


def _between(scores: NDArray[np.float64], grid: NDArray[np.float64], right: NDArray[np.intp]) -> NDArray[np.float64]:
    """Fractional position of scores that equal no quantile; `right` is the index of the next quantile."""
    upper = np.clip(right, 1, grid.size - 1)
    low, high = grid[upper - 1], grid[upper]
    beyond = (scores > low).astype(np.float64)  # the answer where the grid ends in a run of ties
    fraction = np.divide(scores - low, high - low, out=beyond, where=high > low)
    position: NDArray[np.float64] = upper - 1 + np.clip(fraction, 0.0, 1.0)
    return position
