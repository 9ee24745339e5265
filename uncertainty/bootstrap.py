"""Intervals by resampling whole classes: images of one class are no independent draws."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Booleans, Floats, Integers, require_paired, require_vector


@dataclass(frozen=True)
class Interval:
    """Bounds of a statistic over `repetitions` resamples, less the `skipped` ones on which it is undefined."""

    low: float
    high: float
    repetitions: int
    skipped: int


def cluster_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Integers,
    repetitions: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile-bootstrap interval of a statistic over items that come in clusters, e.g. images in classes.

    Each resample draws as many clusters as there are, with replacement, and takes every item of each draw.

    Args:
        statistic: (r,) item indices -> value; a ValueError or a NaN says that it is undefined on this resample.
        clusters: (n,) cluster of each item, at least two distinct.
        repetitions: resamples drawn.
        level: share of the resamples inside the interval, in (0, 1).
        seed: the same seed gives the same interval.

    Raises:
        ValueError: for fewer than two clusters, or where the statistic is undefined on every resample.

    Source: Field & Welsh, "Bootstrapping clustered data" (JRSS B, 2007), the cluster bootstrap.
    """
    require_vector("clusters", clusters)
    if repetitions < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"repetitions must be positive and level in (0, 1), not {repetitions} and {level}")
    values = [_value(statistic, items) for items in _resamples(clusters, repetitions, seed)]
    defined = np.array([value for value in values if value is not None])
    if defined.size == 0:
        raise ValueError(f"the statistic is undefined on each of {repetitions} resamples")
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(low), float(high), repetitions, repetitions - defined.size)


def _resamples(clusters: Integers, repetitions: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """The item indices of each resample."""
    _, cluster, count = np.unique(clusters, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(count)[:-1])
    for drawn in _draws(cluster, repetitions, seed):
        yield np.concatenate([members[each] for each in drawn])


def _draws(cluster: NDArray[np.intp], repetitions: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """For each resample, which of the clusters 0..c-1 of (n,) items are drawn: (c,), with replacement."""
    count = int(cluster.max()) + 1
    if count < 2:
        raise ValueError("a cluster bootstrap needs at least two clusters")
    random = np.random.default_rng(seed)
    for _ in range(repetitions):
        yield random.integers(count, size=count)


def _value(statistic: Callable[[NDArray[np.intp]], float], items: NDArray[np.intp]) -> float | None:
    """The statistic, or None where it is undefined."""
    try:
        value = float(statistic(items))
    except ValueError:
        return None
    return None if np.isnan(value) else value


def auroc_resamples(
    score: Floats, positive: Booleans, clusters: Integers, repetitions: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """AUROC on each resample of whole clusters: (repetitions,), NaN where it is undefined.

    What `cluster_bootstrap` does with `auroc`, from one sort instead of one for each resample; equal seeds draw equal
    resamples, so that values of two scores may be averaged or subtracted in pairs.

    Args:
        score: (n,), only ranks matter.
        positive: (n,), boolean.
        clusters: (n,) cluster of each item, at least two distinct.
        repetitions: resamples drawn.
        seed: of the draws.

    Raises:
        ValueError: unless all are finite, non-empty and of one shape, with at least two clusters.
    """
    require_paired(score=score, positive=positive, clusters=clusters)
    _, group = np.unique(score, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    values = np.full(repetitions, np.nan)
    for repetition, drawn in enumerate(_draws(cluster, repetitions, seed)):
        weight = np.bincount(drawn, minlength=int(cluster.max()) + 1)[cluster]  # (n,) times each item is drawn
        positives = np.bincount(group, weights=weight * positive)  # (g,)
        negatives = np.bincount(group, weights=weight * ~positive.astype(bool))
        pairs = positives.sum() * negatives.sum()
        if pairs > 0:
            below = np.cumsum(negatives) - negatives / 2.0
            values[repetition] = (positives * below).sum() / pairs
    return values
