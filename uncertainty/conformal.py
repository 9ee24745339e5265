"""Result sets as long as they must be: more matches for uncertain queries, so that each kind holds a relevant one."""

import math
from dataclasses import dataclass

import numpy as np

from uncertainty.checks import Floats, require_vector


@dataclass(frozen=True)
class AdaptiveK:
    """How many matches to return: `k[b]` where the query's uncertainty is above b of the `edges`.

    `edges` is (b - 1,), ascending; `k` has b, None where no number that was looked at would do.
    """

    alpha: float
    edges: tuple[float, ...]
    k: tuple[int | None, ...]

    def k_of(self, uncertainty: float) -> int | None:
        """How many matches a query of that uncertainty needs."""
        return self.k[int(np.searchsorted(self.edges, uncertainty, side="left"))]


def fit_adaptive_k(uncertainty: Floats, first_relevant: Floats, alpha: float, bins: int = 5) -> AdaptiveK:
    """The fewest matches that hold a relevant one with probability at least 1 - alpha, in each quantile of uncertainty.

    The promise is for a new query drawn as these were, against the same gallery, on average over such sets of labelled
    queries, and in each bin by itself: a hard query has no less of it than an easy one.

    Args:
        uncertainty: (n,), of each labelled query.
        first_relevant: (n,), the rank of its first relevant match, from 1; infinite where none was found.
        alpha: share of queries whose set may hold no relevant match, in (0, 1).
        bins: quantiles of uncertainty, at least 1; those that ties make equal are one.

    Raises:
        ValueError: unless both are non-empty and of one shape (n,), and ranks at least 1.

    Source: Vovk, "Conditional validity of inductive conformal predictors" (ACML 2012), arXiv:1209.2673.
    """
    require_vector("uncertainty", uncertainty)
    if first_relevant.shape != uncertainty.shape or np.isnan(first_relevant).any() or (first_relevant < 1).any():
        raise ValueError(f"first_relevant must be {uncertainty.shape} ranks from 1, infinite where there is none")
    if bins < 1 or not 0.0 < alpha < 1.0:
        raise ValueError(f"bins must be at least 1 and alpha in (0, 1), not {bins} and {alpha}")
    edges = np.unique(np.quantile(uncertainty, np.arange(1, bins) / bins, method="lower"))
    edges = edges[edges < uncertainty.max()]  # nothing is above the largest
    place = np.searchsorted(edges, uncertainty, side="left")
    k = tuple(_conformal_rank(first_relevant[place == bin_], alpha) for bin_ in range(edges.size + 1))
    return AdaptiveK(alpha, tuple(edges.tolist()), k)


def _conformal_rank(ranks: Floats, alpha: float) -> int | None:
    """The ceil((n + 1)(1 - alpha))-th smallest of n ranks."""
    needed = math.ceil((ranks.size + 1) * (1.0 - alpha))
    if needed > ranks.size:
        return None
    rank = float(np.sort(ranks)[needed - 1])
    return int(rank) if math.isfinite(rank) else None
