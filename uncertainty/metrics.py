"""How well an uncertainty ranks errors: R-AUROC, the risk-coverage family and rank statistics, all exact under ties.

`uncertainty` is (n,), higher is less sure; only ranks matter. `loss` is (n,), e.g. 1.0 where the answer is wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Booleans, Floats, Integers, require_binary, require_paired, require_unit_interval


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve at the ends of its tie groups, the only places where a threshold can cut.

    All (g,), for g distinct uncertainties in ascending order. Answering where `uncertainty <= threshold[j]` answers the
    share `coverage[j]` of all items, at the mean loss `risk[j]`.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def midranks(values: Floats) -> NDArray[np.float64]:
    """(n,) -> (n,) ranks from 1 to n, ascending; ties share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[group]


def auroc(score: Floats, positive: Booleans) -> float:
    """Probability that a positive item scores higher than a negative one, ties counting half.

    Args:
        score: (n,), only ranks matter, at any scale.
        positive: (n,), boolean (0 and 1 will do), with both values present.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape, and both classes are present.
    """
    require_paired(score=score, positive=positive)
    require_binary("positive", positive)
    chosen = positive.astype(bool)
    positives = int(chosen.sum())
    above = midranks(score)[chosen].sum() - positives * (positives + 1) / 2.0
    return float(above / (positives * (chosen.size - positives)))


def fpr_at_95(score: Floats, positive: Booleans) -> float:
    """Share of negatives at or above the highest threshold that keeps 95 % of the positives; lower is better.

    Shapes and errors as `auroc`.
    """
    require_paired(score=score, positive=positive)
    require_binary("positive", positive)
    chosen = positive.astype(bool)
    descending = np.sort(score[chosen])[::-1]
    needed = -(-95 * descending.size // 100)  # ceil, in integers
    return float(np.mean(score[~chosen] >= descending[needed - 1]))


def recall_at_1(labels: Integers, neighbour: Integers) -> float:
    """Share of items whose nearest neighbour has their class.

    Args:
        labels: (n,) class of each item.
        neighbour: (n,) index of each item's nearest neighbour, see `uncertainty.neighbours`.
    """
    require_paired(labels=labels, neighbour=neighbour)
    return float(np.mean(labels[neighbour] == labels))


def r_auroc(uncertainty: Floats, correct: Booleans) -> float:
    """AUROC with which certainty predicts that the nearest neighbour has the right class; 0.5 is chance.

    Args:
        uncertainty: (n,), higher is less sure.
        correct: (n,), whether the nearest neighbour, self excluded, has the item's class.

    Raises:
        ValueError: as `auroc`; R-AUROC is undefined where all neighbours are right, or all wrong.

    Source: Kirchhof et al., "URL: A Representation Learning Benchmark" (NeurIPS 2023), arXiv:2307.03810.
    """
    return auroc(-np.asarray(uncertainty, dtype=np.float64), correct)


def selective_risk(uncertainty: Floats, loss: Floats) -> RiskCoverage:
    """The risk-coverage curve: mean loss among the items that are answered, against their share.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,).
    """
    threshold, count, total = _tie_groups(uncertainty, loss)
    answered = np.cumsum(count)
    return RiskCoverage(threshold, answered / answered[-1], np.cumsum(total) / answered)


def aurc(uncertainty: Floats, loss: Floats) -> float:
    """Area under the risk-coverage curve: mean selective risk over coverages 1/n to 1; lower is better.

    Ties are averaged over every order they could be answered in.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,).

    Source: Geifman, Uziel & El-Yaniv (ICLR 2019), arXiv:1805.08206.
    """
    _, count, total = _tie_groups(uncertainty, loss)
    cumulative_loss = np.cumsum(np.repeat(total / count, count))  # (n,), linear inside ties
    return float(np.mean(cumulative_loss / np.arange(1, cumulative_loss.size + 1)))


def e_aurc(uncertainty: Floats, loss: Floats) -> float:
    """Excess AURC over a perfect ranking, e + (1 - e) ln(1 - e) with e the mean loss; lower is better.

    The perfect ranking is that of a 0/1 loss and of many items: on few, a perfect score is a little off zero.

    Raises:
        ValueError: as `aurc`, and unless the loss is in [0, 1].

    Source: Geifman, Uziel & El-Yaniv (ICLR 2019), arXiv:1805.08206.
    """
    area = aurc(uncertainty, loss)
    require_unit_interval("loss", loss)
    error = float(np.mean(loss, dtype=np.float64))
    perfect = error + (1.0 - error) * np.log1p(-error) if error < 1.0 else 1.0
    return float(area - perfect)


def augrc(uncertainty: Floats, loss: Floats) -> float:
    """Area under the generalised risk-coverage curve: mean joint risk of answering and being wrong; lower is better.

    The curve, sum of the answered losses over n, is linear from (0, 0) and inside ties. For a 0/1 loss it equals
    (1 - AUROC_f) a (1 - a) + (1 - a)^2 / 2, with a the accuracy, ties included.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,).

    Source: Traub et al. (NeurIPS 2024), arXiv:2407.01032.
    """
    curve = selective_risk(uncertainty, loss)
    coverage = np.concatenate([[0.0], curve.coverage])
    joint_risk = np.concatenate([[0.0], curve.coverage * curve.risk])
    return float(np.trapezoid(joint_risk, coverage))


def coverage_at_risk(uncertainty: Floats, loss: Floats, risk: float) -> float:
    """Largest coverage whose selective risk is at most `risk`; 0 where no threshold reaches it. Higher is better.

    This describes the data it is given and guarantees nothing about new data.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,).
    """
    curve = selective_risk(uncertainty, loss)
    return float(np.max(curve.coverage, where=curve.risk <= risk, initial=0.0))


def risk_at_coverage(uncertainty: Floats, loss: Floats, coverage: float) -> float:
    """Selective risk at the lowest threshold that answers at least the share `coverage`; lower is better.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,), and `coverage` is in (0, 1].
    """
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage must be in (0, 1], not {coverage}")
    curve = selective_risk(uncertainty, loss)
    return float(curve.risk[np.searchsorted(curve.coverage, coverage)])


def spearman(first: Floats, second: Floats) -> float:
    """Rank correlation in [-1, 1], ties by midranks.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,), and neither is constant.
    """
    require_paired(first=first, second=second)
    a, b = midranks(first), midranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    if scale == 0.0:
        raise ValueError("rank correlation is undefined where all values of one array are equal")
    return float(np.clip(a @ b / scale, -1.0, 1.0))


def win_rate(original: Floats, degraded: Floats) -> float:
    """Share of pairs in which the degraded image, e.g. a tiny crop, is the more uncertain one; ties count half.

    Args:
        original: (n,) uncertainty of each image.
        degraded: (n,) uncertainty of the same images, made worse.

    Raises:
        ValueError: unless both are finite, non-empty and of one shape (n,).
    """
    require_paired(original=original, degraded=degraded)
    return float(np.mean(degraded > original) + np.mean(degraded == original) / 2.0)


def _tie_groups(uncertainty: Floats, loss: Floats) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """Distinct uncertainties ascending, and the count and summed loss of each: three (g,) arrays."""
    require_paired(uncertainty=uncertainty, loss=loss)
    value, group = np.unique(uncertainty, return_inverse=True)
    total = np.bincount(group, weights=loss).astype(np.float64)
    return value.astype(np.float64), np.bincount(group), total
