"""Whether what was certified still holds: drift of what is asked, and audits of what was answered.

Drift needs no labels and proves nothing about risk; audits do. Both may be looked at as often as one likes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from uncertainty.checks import Floats, require_vector

BINS: Final = 10
LEVEL: Final = 0.01  # of all looks together
STAKES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)  # shares of the largest stake that never loses all
HORIZON: Final = 20_000  # audits within which a healthy run raises an alarm with probability delta at most


@dataclass(frozen=True)
class Reference:
    """A score's distribution when all was well: ascending `edges` (b - 1,) of bins, the share of each, how many."""

    edges: tuple[float, ...]
    share: tuple[float, ...]
    count: int

    def bin_of(self, value: float) -> int:
        """Which bin a value falls in."""
        return int(np.searchsorted(self.edges, value, side="left"))


@dataclass(frozen=True)
class Drift:
    """How far a window of a score is from its reference.

    `psi` is the population stability index, `limit` what it would exceed by chance with the level of this look.
    """

    psi: float
    limit: float
    count: int

    @property
    def drifted(self) -> bool:
        """Whether chance does not explain it."""
        return self.psi > self.limit


def reference_of(values: Floats, bins: int = BINS) -> Reference:
    """(n,) scores of when all was well -> their distribution over bins of equally many, fewer where ties join them.

    Raises:
        ValueError: unless they are finite and not empty, or for fewer than 2 bins.
    """
    require_vector("values", values)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, not {bins}")
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="lower"))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=edges.size + 1)
    kept = edges[: counts.size - 1] if counts[-1] else edges[:-1]  # a last bin that nothing is in is no bin
    counts = counts if counts[-1] else counts[:-1]
    return Reference(tuple(kept.tolist()), tuple((counts / values.size).tolist()), values.size)


def drift(reference: Reference, counts: Sequence[int], look: int, level: float = LEVEL) -> Drift:
    """Compare a window, given as counts per bin of the reference, with the reference.

    Args:
        reference: of when all was well.
        counts: (b,), how many of the window fell in each bin.
        look: how often this has been looked at, from 1: all looks together err with probability `level` at most.
        level: in (0, 1).

    Source: Yurdakul & Naranjo, "Statistical properties of the population stability index" (Journal of Risk Model
    Validation, 2020): PSI is chi-square of b - 1 degrees of freedom, times 1/N + 1/M.
    """
    total = sum(counts)
    if len(counts) != len(reference.share):
        raise ValueError(f"counts has {len(counts)} bins, the reference {len(reference.share)}")
    if total == 0 or len(counts) < 2:
        return Drift(0.0, math.inf, total)
    expected = np.asarray(reference.share)
    found = (np.asarray(counts) + 0.5 * expected) / (total + 0.5)  # an empty bin is no infinite distance
    psi = float(((found - expected) * np.log(found / expected)).sum())
    spent = level * 6.0 / (math.pi * look) ** 2  # sums to `level` over all looks
    limit = chi_square_quantile(1.0 - spent, len(counts) - 1) * (1.0 / reference.count + 1.0 / total)
    return Drift(psi, limit, total)


@dataclass(frozen=True)
class Audit:
    """Evidence from audited answers that more than `alpha` of them are wrong.

    `log_e` and `log_m`, one for each of `STAKES`, are the logarithms of the e-value since the start and of the
    Shiryaev-Roberts statistic, which also sees what begins late.
    """

    alpha: float
    delta: float
    count: int = 0
    loss: float = 0.0
    log_e: tuple[float, ...] = (0.0,) * len(STAKES)
    log_m: tuple[float, ...] = (-math.inf,) * len(STAKES)

    def seen(self, loss: float) -> "Audit":
        """With one more audited answer, of a loss in [0, 1]: 1 where it was wrong.

        Raises:
            ValueError: for another loss.
        """
        if not 0.0 <= loss <= 1.0:
            raise ValueError(f"a loss is in [0, 1], not {loss}")
        gains = [math.log1p(stake / self.alpha * (loss - self.alpha)) for stake in STAKES]
        return replace(
            self,
            count=self.count + 1,
            loss=self.loss + loss,
            log_e=tuple(before + gain for before, gain in zip(self.log_e, gains, strict=True)),
            log_m=tuple(_log_add(before, 0.0) + gain for before, gain in zip(self.log_m, gains, strict=True)),
        )

    @property
    def e_value(self) -> float:
        """Mean over the stakes; a fair bet against `alpha` multiplies itself so much with probability 1/e at most."""
        return _mean_exp(self.log_e)

    @property
    def shiryaev_roberts(self) -> float:
        """Mean over the stakes; it grows by 1 an audit at most while all is well."""
        return _mean_exp(self.log_m)

    @property
    def alarm(self) -> bool:
        """Whether either is above what a healthy run reaches, ever or within `HORIZON`; each has half of delta."""
        return self.e_value >= 2.0 / self.delta or self.shiryaev_roberts >= 2.0 * HORIZON / self.delta


def chi_square_quantile(level: float, freedom: int) -> float:
    """The value that a chi-square variable stays below with probability `level`, to 1e-9 of it."""
    low, high = 0.0, float(freedom)
    while chi_square_cdf(high, freedom) < level:
        high *= 2.0
    while high - low > 1e-10 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if chi_square_cdf(middle, freedom) < level else (low, middle)
    return high


def chi_square_cdf(value: float, freedom: int) -> float:
    """P(chi-square of `freedom` degrees <= value), by the series of the incomplete gamma function."""
    if value <= 0.0:
        return 0.0
    half, x = freedom / 2.0, value / 2.0
    term = total = 1.0 / half
    n = half
    while term > total * 1e-17:
        n += 1.0
        term *= x / n
        total += term
    return min(1.0, math.exp(half * math.log(x) - x - math.lgamma(half)) * total)


def _log_add(first: float, second: float) -> float:
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high))


def _mean_exp(logs: Sequence[float]) -> float:
    return math.fsum(math.exp(min(log, 700.0)) for log in logs) / len(logs)
