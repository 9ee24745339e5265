import numpy as np
import pytest
from numpy.typing import NDArray

from uncertainty.bootstrap import Interval, auroc_resamples, cluster_bootstrap
from uncertainty.metrics import auroc, r_auroc


def toy(seed: int, classes: int = 30, each: int = 10) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values with mean 0 whose spread is between classes far more than within."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return random.normal(size=classes)[labels] + 0.1 * random.normal(size=labels.size), labels


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    def covers(seed: int, whole_classes: bool) -> bool:
        values, labels = toy(seed)
        clusters = labels if whole_classes else np.arange(labels.size)
        interval = cluster_bootstrap(lambda items: float(values[items].mean()), clusters, 100, seed=seed)
        return interval.low <= 0.0 <= interval.high

    by_class = np.mean([covers(seed, True) for seed in range(200)])
    by_image = np.mean([covers(seed, False) for seed in range(200)])
    assert 0.86 <= by_class <= 0.99
    assert by_image < 0.6  # images taken as independent: the mistake that classes avoid


def test_whole_classes_are_drawn_and_as_many_as_there_are() -> None:
    clusters = np.array([5, 7, 5, 9, 9, 9])
    seen: set[tuple[int, ...]] = set()

    def record(items: NDArray[np.intp]) -> float:
        counts = np.bincount(items, minlength=6)
        assert counts[0] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3
        seen.add((int(counts[0]), int(counts[1]), int(counts[3])))
        return 0.0

    cluster_bootstrap(record, clusters, repetitions=200)
    assert len(seen) == 10  # every way to draw 3 of 3 with replacement


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values, labels = toy(0)

    def interval(seed: int) -> Interval:
        return cluster_bootstrap(lambda items: float(values[items].mean()), labels, 50, seed=seed)

    assert interval(3) == interval(3)
    assert interval(3) != interval(4)


def test_a_higher_level_is_wider() -> None:
    values, labels = toy(1)
    narrow, wide = (
        cluster_bootstrap(lambda items: float(values[items].mean()), labels, level=level) for level in (0.5, 0.95)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bounds_are_quantiles_of_the_resampled_statistic() -> None:
    values, labels = toy(2)
    seen: list[float] = []

    def mean(items: NDArray[np.intp]) -> float:
        seen.append(float(values[items].mean()))
        return seen[-1]

    interval = cluster_bootstrap(mean, labels, repetitions=80, level=0.9)
    assert len(seen) == 80
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(seen, [0.05, 0.95])))


def test_resamples_on_which_the_statistic_is_undefined_are_skipped_and_counted() -> None:
    u, labels = np.arange(8.0), np.repeat(np.arange(4), 2)
    correct = labels > 0  # without class 0 all are right, and R-AUROC is undefined
    undefined = 0

    def statistic(items: NDArray[np.intp]) -> float:
        nonlocal undefined
        undefined += bool(correct[items].all() or not correct[items].any())
        return r_auroc(u[items], correct[items])

    interval = cluster_bootstrap(statistic, labels, repetitions=100)
    assert 0 < interval.skipped < 100
    assert interval.skipped == undefined
    assert interval.repetitions == 100
    assert np.isfinite([interval.low, interval.high]).all()


def test_nan_counts_as_undefined() -> None:
    values, labels = toy(0, classes=3)
    interval = cluster_bootstrap(
        lambda items: float("nan") if labels[items].min() == 1 else float(values[items].mean()), labels
    )
    assert interval.skipped > 0
    assert np.isfinite([interval.low, interval.high]).all()


def test_a_statistic_that_is_never_defined_is_refused() -> None:
    with pytest.raises(ValueError, match="undefined on each of 20 resamples"):
        cluster_bootstrap(lambda items: float("nan"), np.arange(4), repetitions=20)


def test_errors_other_than_undefined_are_not_swallowed() -> None:
    def broken(items: NDArray[np.intp]) -> float:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        cluster_bootstrap(broken, np.arange(4))


@pytest.mark.parametrize(
    ("clusters", "repetitions", "level", "message"),
    [
        ([1, 1, 1], 10, 0.95, "at least two clusters"),
        ([], 10, 0.95, "non-empty"),
        ([1, 2], 0, 0.95, "repetitions must be positive"),
        ([1, 2], 10, 1.0, "level in"),
    ],
)
def test_impossible_requests_are_refused(clusters: list[int], repetitions: int, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(lambda items: 0.0, np.array(clusters), repetitions, level)


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_auroc_is_that_of_every_resample_by_itself(ties: bool) -> None:
    rng = np.random.default_rng(3)
    clusters = rng.integers(7, size=150)
    score = rng.integers(5, size=150).astype(np.float64) if ties else rng.normal(size=150)
    positive = rng.random(150) < 0.4
    values: list[float] = []

    def noted(items: NDArray[np.intp]) -> float:
        values.append(auroc(score[items], positive[items]))
        return values[-1]

    cluster_bootstrap(noted, clusters, 30, seed=5)

    assert np.allclose(auroc_resamples(score, positive, clusters, 30, seed=5), values)


def test_a_resample_of_one_kind_alone_has_no_auroc() -> None:
    clusters = np.array([0, 0, 1, 1])
    found = auroc_resamples(np.array([1.0, 2.0, 3.0, 4.0]), clusters == 1, clusters, 50)

    assert np.isnan(found).any()
    assert set(found[~np.isnan(found)]) == {1.0}


def test_resampled_auroc_needs_two_clusters() -> None:
    with pytest.raises(ValueError, match="at least two clusters"):
        auroc_resamples(np.array([1.0, 2.0]), np.array([True, False]), np.array([3, 3]))
