import numpy as np
import pytest

from models.methods.registry import METHODS
from scripts.bench.standings import FAMILIES, Standing, family, shipped
from tests.scripts.bench.example_results import BACKBONES, SETS, SHIPPED, example_results


def test_the_shipped_method_is_the_one_without_a_lead_over_itself() -> None:
    results = example_results(seeds=1)
    assert shipped(results) == SHIPPED
    assert shipped({**results, "leads": {name: {data: {} for data in SETS} for name in BACKBONES}}) is None


def test_the_interval_of_a_mean_is_that_of_independent_sets() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal([[0.6], [0.7], [0.5]], [[0.01], [0.02], [0.03]], (3, 200_000))  # (sets, draws)
    rows = [
        {"r_auroc": each.mean(), "r_auroc_interval": np.quantile(each, [0.025, 0.975]).tolist(), "r_auroc_by_seed": [0]}
        for each in draws
    ]

    assert Standing("ce", tuple(rows)).interval == pytest.approx(
        np.quantile(draws.mean(axis=0), [0.025, 0.975]), abs=5e-4
    )


def test_every_method_has_a_family_and_every_family_a_method() -> None:
    families = {name: family(name) for name in METHODS}

    assert set(families.values()) == set(FAMILIES)
    for name, expected in {
        "ensemble": "class entropy",
        "elk": "learned embedding",
        "losspred": "predicts the classifier's loss",
        "pvu": "predicts the classifier's loss",
        "retrieval": "predicts the retrieval loss",
        "knn": "nothing trained",
    }.items():
        assert families[name] == expected
