"""Thresholds with a guarantee: at most a share alpha of what is accepted is wrong, or the labels were a rare fluke.

The fluke has probability delta at most. All of it holds for queries drawn independently from what will be asked,
against the gallery they were labelled with. Labelled queries must not have chosen the score or the grid. Only the
test below makes a threshold: where it certifies none, the answer says so, and how many labels would be needed.

Source: Angelopoulos et al., "Learn then test" (AOAS 2025), arXiv:2110.01052; Bretz et al., "A graphical approach to
sequentially rejective multiple test procedures" (Statistics in Medicine, 2009).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Booleans, Floats, Integers, require_paired, require_unit_interval, require_vector

STARTS: Final = 5  # hypotheses that the error budget is shared among at first
LAST_START: Final = 0.95  # the coverage of the last of them
MOST_LABELS: Final = 10_000_000  # where the search for how many are needed ends


@dataclass(frozen=True)
class Certificate:
    """What was certified: accept where `score <= threshold`; no threshold where none can be had.

    `labels`, `accepted` and `loss` are what the labelled queries, one of each group, came to: how many there were, how
    many are accepted, and the sum of those' losses. `labels_needed` is how many labelled queries would certify some
    threshold, were the risk what these show; None where no number would, or where there is a threshold.
    """

    alpha: float
    delta: float
    threshold: float | None
    labels: int
    accepted: int
    loss: float
    labels_needed: int | None

    @property
    def feasible(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold is not None

    @property
    def coverage(self) -> float:
        """Share of the labelled queries that are accepted."""
        return self.accepted / self.labels


@dataclass(frozen=True)
class _Counts:
    """Of each threshold of the grid, (g,): queries accepted, and the sum of their losses; of `labels` in all."""

    labels: int
    accepted: NDArray[np.int64]
    loss: NDArray[np.float64]


def certify_threshold(
    score: Floats,
    wrong: Booleans,
    alpha: float,
    delta: float,
    grid: Floats,
    groups: Integers | None = None,
    seed: int = 0,
) -> Certificate:
    """The largest threshold at which P(wrong | accepted) <= alpha, with probability at least 1 - delta.

    Args:
        score: (n,), of each labelled query, higher is less sure.
        wrong: (n,), whether its answer was wrong; a query that has no right answer is wrong.
        alpha: the share of wrong answers among the accepted that is tolerated, in (0, 1).
        delta: the probability with which the promise may fail, in (0, 1).
        grid: (g,), ascending thresholds to choose from, evenly spaced in coverage, chosen without these queries: the
            quantiles of the score over unlabelled ones.
        groups: (n,), equal for near-duplicate queries, of which one, drawn at random, counts.
        seed: of that draw.

    Raises:
        ValueError: unless arrays are finite, non-empty and of their shapes, and alpha and delta in (0, 1).
    """
    require_paired(score=score, wrong=wrong)
    _require_shares(alpha, delta)
    if not np.isin(wrong, (0, 1)).all():
        raise ValueError("wrong must be boolean, or hold only 0 and 1")
    counts = _count(score, wrong.astype(np.float64), grid, one_of_each(groups, score.size, seed))

    def p_value(accepted: int, loss: float) -> float:
        return binomial_tail(round(loss), accepted, alpha)

    p_values = [p_value(int(m), float(k)) for m, k in zip(counts.accepted, counts.loss, strict=True)]
    return _certificate(counts, np.asarray(p_values), alpha, delta, grid, p_value)


def certify_bounded_loss(
    score: Floats,
    loss: Floats,
    alpha: float,
    delta: float,
    grid: Floats,
    groups: Integers | None = None,
    seed: int = 0,
) -> Certificate:
    """The largest threshold at which the mean loss of the accepted is at most alpha, with probability 1 - delta.

    As `certify_threshold`, for losses in [0, 1], e.g. 1 - precision@k.

    Raises:
        ValueError: as there, and for a loss outside [0, 1].

    Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2024).
    """
    require_paired(score=score, loss=loss)
    require_unit_interval("loss", loss)
    _require_shares(alpha, delta)
    require_vector("grid", grid)
    chosen = one_of_each(groups, score.size, seed)
    order = np.random.default_rng(seed).permutation(chosen)  # bets need an order that knows nothing of the score
    ordered_score, ordered_loss = score[order], loss[order].astype(np.float64)
    p_values = np.asarray([betting_p_value(ordered_loss[ordered_score <= threshold], alpha) for threshold in grid])

    def p_value(accepted: int, total: float) -> float:  # of so many more of the same
        mean = total / accepted if accepted else 1.0
        return math.exp(-accepted * _divergence(mean, alpha)) if mean < alpha else 1.0

    return _certificate(_count(score, loss.astype(np.float64), grid, chosen), p_values, alpha, delta, grid, p_value)


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """P(Bin(trials, rate) <= successes), exact: the p-value of "the rate is above `rate`"; 1 for no trials.

    >>> round(binomial_tail(1, 3, 0.5), 6)
    0.5
    """
    if successes >= trials:
        return 1.0
    count = np.arange(1, successes + 1)
    steps = np.log((trials - count + 1) / count) + math.log(rate) - math.log1p(-rate)
    log_terms = trials * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    largest = float(log_terms.max())
    return min(1.0, math.exp(largest) * float(np.exp(log_terms - largest).sum()))


def betting_p_value(loss: Floats, alpha: float) -> float:
    """A p-value of "the mean loss is above alpha": the inverse of the most that a bet against it has ever held.

    Args:
        loss: (m,), in [0, 1], in an order independent of their values; none gives 1.
        alpha: in (0, 1).
    """
    if loss.size == 0:
        return 1.0
    seen = np.arange(1, loss.size + 1)
    mean = (0.5 + np.cumsum(loss)) / (seen + 1)
    variance = (0.25 + np.cumsum((loss - mean) ** 2)) / (seen + 1)
    expected, spread = _as_known_before(mean, 0.5), _as_known_before(variance, 0.25)
    edge = np.maximum(0.0, alpha - expected)  # nothing is staked on a bet that is expected to lose
    stake = np.minimum(edge / (spread + edge**2), 0.5 / (1 - alpha))  # approximately Kelly's
    fortune = np.cumsum(np.log1p(stake * (alpha - loss)))
    return min(1.0, math.exp(-max(0.0, float(fortune.max()))))


def _require_shares(alpha: float, delta: float) -> None:
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must be in (0, 1), not {value}")


def _as_known_before(estimates: NDArray[np.float64], first: float) -> NDArray[np.float64]:
    """What was known before each value was seen."""
    return np.concatenate([[first], estimates[:-1]])


def one_of_each(groups: Integers | None, count: int, seed: int) -> NDArray[np.intp]:
    """(n,) groups -> the index of one item of each, ascending, drawn at random; every index without groups."""
    if groups is None:
        return np.arange(count)
    require_vector("groups", groups)
    if groups.size != count:
        raise ValueError(f"groups has {groups.size} values for {count} queries")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def _count(score: Floats, loss: NDArray[np.float64], grid: Floats, chosen: NDArray[np.intp]) -> _Counts:
    require_vector("grid", grid)
    if (np.diff(grid) < 0).any():
        raise ValueError("grid must be ascending")
    order = chosen[np.argsort(score[chosen], kind="stable")]
    accepted = np.searchsorted(score[order], grid, side="right")
    total = np.concatenate([[0.0], np.cumsum(loss[order])])
    return _Counts(chosen.size, accepted, total[accepted])


def _certificate(
    counts: _Counts,
    p_values: NDArray[np.float64],
    alpha: float,
    delta: float,
    grid: Floats,
    p_value: Callable[[int, float], float],
) -> Certificate:
    budget = _budgets(grid.size, counts.labels, alpha, delta)
    last = _largest_rejected(p_values, budget)
    if last is None:
        needed = _labels_needed(counts, alpha, delta / STARTS, p_value)
        return Certificate(alpha, delta, None, counts.labels, 0, 0.0, needed)
    accepted, loss = int(counts.accepted[last]), float(counts.loss[last])
    return Certificate(alpha, delta, float(grid[last]), counts.labels, accepted, loss, None)


def _budgets(size: int, labels: int, alpha: float, delta: float) -> NDArray[np.float64]:
    """(size,): how much of delta each hypothesis has at first, by nothing but its place and the number of labels.

    The first start is at twice the coverage that certifies where no answer is wrong.
    """
    fewest = math.ceil(math.log(delta) / math.log1p(-alpha))
    coverages = np.geomspace(min(2 * fewest / labels, LAST_START), LAST_START, STARTS)
    budget = np.zeros(size)
    np.add.at(budget, np.clip(np.ceil(coverages * size).astype(int) - 1, 0, size - 1), delta / STARTS)
    return budget


def _largest_rejected(p_values: NDArray[np.float64], budget: NDArray[np.float64]) -> int | None:
    """The last hypothesis rejected, where each that is hands its budget to the next."""
    last, inherited = None, 0.0
    for place, (p_value, own) in enumerate(zip(p_values, budget, strict=True)):
        held = inherited + own
        rejected = held > 0.0 and p_value <= held
        last, inherited = (place, held) if rejected else (last, 0.0)
    return last


def _labels_needed(counts: _Counts, alpha: float, level: float, p_value: Callable[[int, float], float]) -> int | None:
    """The fewest labels of which some threshold's accepted would be certified, were their risk what it seems.

    Half an error is added to each, or the threshold that was luckiest among few labels would promise too much.
    """
    seen = [(m, (loss + 0.5) / (m + 1)) for m, loss in zip(counts.accepted.tolist(), counts.loss.tolist(), strict=True)]
    promising = [(accepted / counts.labels, risk) for accepted, risk in seen if risk < alpha]

    def enough(labels: int) -> bool:
        accepted = [(math.floor(coverage * labels), risk) for coverage, risk in promising]
        return any(p_value(count, risk * count) <= level for count, risk in accepted)

    high = counts.labels
    while not enough(high):
        high *= 2
        if high > MOST_LABELS:
            return None
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _divergence(mean: float, alpha: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(mean) from Bernoulli(alpha), in nats."""
    terms = [(mean, alpha), (1.0 - mean, 1.0 - alpha)]
    return sum(p * math.log(p / q) for p, q in terms if p > 0.0)
