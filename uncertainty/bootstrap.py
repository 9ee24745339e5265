"""Intervals by resampling whole classes: images of one class are no independent draws."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Integers, require_vector


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
    if count.size < 2:
        raise ValueError("a cluster bootstrap needs at least two clusters")
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(count)[:-1])
    random = np.random.default_rng(seed)
    for _ in range(repetitions):
        yield np.concatenate([members[drawn] for drawn in random.integers(count.size, size=count.size)])


def _value(statistic: Callable[[NDArray[np.intp]], float], items: NDArray[np.intp]) -> float | None:
    """The statistic, or None where it is undefined."""
    try:
        value = float(statistic(items))
    except ValueError:
        return None
    return None if np.isnan(value) else value
