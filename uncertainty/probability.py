"""A probability that people can read off a score: P(correct), and how well it keeps its word.

Rank and threshold by the score itself: a probability has steps and ties that the score has not.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Booleans, Floats, require_binary, require_paired, require_unit_interval
from uncertainty.confidence import fit_rising_logistic

ENOUGH_FOR_ISOTONIC: Final = 1000
BINS: Final = 15


@dataclass(frozen=True)
class Probability:
    """P(correct) of a score, linear between the points (`score[i]`, `correct[i]`) and flat outside them.

    Scores ascend, probabilities descend; `method` is how they were fitted.
    """

    method: str
    score: tuple[float, ...]
    correct: tuple[float, ...]

    def of(self, score: Floats) -> NDArray[np.float64]:
        """(m,) scores, higher is less sure -> (m,) probabilities that each is right."""
        return np.interp(np.asarray(score, dtype=np.float64), self.score, self.correct)


@dataclass(frozen=True)
class Reliability:
    """Of bins of equally many queries in order of probability, (b,): their mean, the share correct, how many.

    `ece` is the mean distance of the first two, weighted by the third.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float


def fit_probability(score: Floats, wrong: Booleans) -> Probability:
    """P(correct) by centred isotonic regression, or by a logistic below `ENOUGH_FOR_ISOTONIC` labels.

    Args:
        score: (n,), higher is less sure.
        wrong: (n,), both values present.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape.

    Source: Oron & Flournoy, "Centered isotonic regression" (Statistics in Biopharmaceutical Research, 2017).
    """
    require_paired(score=score, wrong=wrong)
    require_binary("wrong", wrong)
    if score.size < ENOUGH_FOR_ISOTONIC:
        return _logistic(score.astype(np.float64), wrong)
    centres, risk = centred_isotonic(score.astype(np.float64), wrong.astype(np.float64))
    return Probability("isotonic", tuple(centres.tolist()), tuple((1.0 - risk).tolist()))


def centred_isotonic(x: Floats, y: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least-squares rising fit, each flat stretch shrunk to its centre: (n,) and (n,) -> (b,) and (b,), ascending.

    Between the centres it is linear, so that it rises strictly.
    """
    values, group = np.unique(x, return_inverse=True)
    weight = np.bincount(group).astype(np.float64)
    mean = np.bincount(group, weights=y) / weight
    blocks: list[tuple[float, float, float]] = []  # centre, mean, weight
    for centre, level, mass in zip(values.tolist(), mean.tolist(), weight.tolist(), strict=True):
        while blocks and blocks[-1][1] >= level:
            before = blocks.pop()
            total = before[2] + mass
            centre = (before[0] * before[2] + centre * mass) / total
            level = (before[1] * before[2] + level * mass) / total
            mass = total
        blocks.append((centre, level, mass))
    return np.asarray([block[0] for block in blocks]), np.asarray([block[1] for block in blocks])


def reliability(correct_probability: Floats, correct: Booleans, bins: int = BINS) -> Reliability:
    """How often matches of each probability are right.

    Args:
        correct_probability: (n,), in [0, 1].
        correct: (n,).
        bins: of equally many, fewer where ties join them.

    Raises:
        ValueError: unless both are non-empty, of one shape, and in [0, 1].
    """
    require_paired(correct_probability=correct_probability, correct=correct)
    require_unit_interval("correct_probability", correct_probability)
    edges = np.unique(np.quantile(correct_probability, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, correct_probability, side="left")
    count = np.bincount(place, minlength=edges.size + 1)
    used = count > 0
    predicted = np.bincount(place, weights=correct_probability, minlength=count.size)[used] / count[used]
    observed = np.bincount(place, weights=correct.astype(np.float64), minlength=count.size)[used] / count[used]
    ece = float((np.abs(predicted - observed) * count[used]).sum() / correct.size)
    return Reliability(predicted, observed, count[used], ece)


def _logistic(score: NDArray[np.float64], wrong: Booleans) -> Probability:
    """Points of the curve, dense enough to be drawn by lines."""
    centre, scale = float(score.mean()), float(score.std()) or 1.0
    slope, intercept = fit_rising_logistic(((score - centre) / scale)[:, None], wrong)
    grid = np.linspace(score.min() - 3 * scale, score.max() + 3 * scale, 201)
    odds = intercept + slope[0] * (grid - centre) / scale
    return Probability("logistic", tuple(grid.tolist()), tuple(np.exp(-np.logaddexp(0.0, odds)).tolist()))
