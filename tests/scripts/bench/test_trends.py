from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from models.methods.registry import METHODS
from scripts.bench.report import report
from scripts.bench.trends import by_epoch, clear, conflict_verdict
from tests.scripts.bench.example_results import BACKBONES, SETS, example_results
from tests.scripts.bench.markdown import Table, shown, tables

REPORTED = [name for name, (_, _, validation) in SETS.items() if not validation]
LOWER, NOISE, HIGHER = np.array([-0.05, -0.04, -0.06]), np.array([-0.05, 0.06, 0.0]), np.array([0.05, 0.04, 0.06])


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return example_results(backbones=BACKBONES[:1])


@pytest.fixture(scope="module")
def found(results: dict[str, Any]) -> list[Table]:
    return tables(report(results, {}))


def test_every_trainable_method_is_shown_with_its_last_epoch(results: dict[str, Any], found: list[Table]) -> None:
    (ends,) = [each for each in found if each.heading == "A backbone that trains too"]
    assert ends.values("R-AUROC") == sorted(ends.values("R-AUROC"), reverse=True)
    assert {METHODS[row["method"]].label for row in results["trainable"]} == ends.rows.keys()
    titles = {"r_auroc": "R-AUROC", "recall_at_1": "R@1", "accuracy": "accuracy"}
    titles["correctness_auroc"] = "correctness AUROC"
    for label, cells in ends.rows.items():
        last = [row["epochs"][-1] for row in results["trainable"] if METHODS[row["method"]].label == label]
        for key, title in titles.items():
            cell = cells[ends.header.index(title) - 1].replace("*", "")
            values = [epoch[key] for epoch in last if key in epoch]
            assert cell == (f"{shown(np.mean(values))} ± {shown(np.std(values, ddof=1))}" if values else "-")
        assert cells[-1] == "3"


def test_figures_by_epoch_are_lists_over_seeds(results: dict[str, Any]) -> None:
    curves = by_epoch(results, ("losspred", "elk"), "accuracy")

    runs = [row["epochs"] for row in results["trainable"] if row["method"] == "losspred"]
    assert curves.keys() == {"losspred"}
    assert curves["losspred"].tolist() == [[epoch["accuracy"] for epoch in run] for run in runs]


def test_joint_gradients_are_compared_with_stopgrad_seed_by_seed(results: dict[str, Any]) -> None:
    ends = {(row["method"], row["seed"]): row["epochs"][-1] for row in results["trainable"]}
    text = report(results, {})
    for method, name in (("losspred-joint", "joint gradient"), ("losspred-pcgrad", "joint gradient, PCGrad")):
        differences = [ends[method, seed]["accuracy"] - ends["losspred", seed]["accuracy"] for seed in range(3)]
        expected = f"accuracy {np.mean(differences):+.3f} ± {np.std(differences, ddof=1):.3f}"
        assert f"- {name} less StopGrad at the end: {expected}, correctness AUROC" in text


def test_a_seed_that_only_one_of_two_has_is_not_compared(results: dict[str, Any]) -> None:
    rows = [row for row in results["trainable"] if (row["method"], row["seed"]) != ("losspred", 0)]
    ends = {(row["method"], row["seed"]): row["epochs"][-1].get("accuracy", 0.0) for row in rows}
    differences = [ends["losspred-joint", seed] - ends["losspred", seed] for seed in (1, 2)]

    assert f"less StopGrad at the end: accuracy {np.mean(differences):+.3f}" in report(
        {**results, "trainable": rows}, {}
    )


@pytest.mark.parametrize(
    ("accuracy", "auroc", "word"),
    [
        (LOWER, LOWER, "reproduced: accuracy and correctness AUROC are both lower"),
        (LOWER, NOISE, "reproduced in part: only accuracy is"),
        (HIGHER, LOWER, "reproduced in part: only correctness AUROC is"),
        (NOISE, NOISE, "not reproduced"),
        (HIGHER, HIGHER, "not reproduced"),
        (LOWER[:1], LOWER, "undecided"),
        (LOWER, np.empty(0), "undecided"),
    ],
)
def test_the_verdict_on_the_gradient_conflict_follows_the_numbers(
    accuracy: np.ndarray[tuple[int], np.dtype[np.float64]],
    auroc: np.ndarray[tuple[int], np.dtype[np.float64]],
    word: str,
) -> None:
    assert conflict_verdict({"accuracy": accuracy, "correctness_auroc": auroc, "r_auroc": LOWER}).startswith(word)


def test_scaling_shows_every_size_and_all_training_images(results: dict[str, Any], found: list[Table]) -> None:
    (sizes,) = [each for each in found if each.heading == "Training-set size"]
    assert sizes.header[1:] == ["1,000", "3,000", "10,000", "30,000", "90,000"]
    for method in dict.fromkeys(row["method"] for row in results["scaling"]):
        cells = [cell.replace("*", "") for cell in sizes.rows[METHODS[method].label]]
        for cell, images in zip(cells, (1000, 3000, 10_000, 30_000), strict=False):
            rows = [row for row in results["scaling"] if (row["method"], row["images"]) == (method, images)]
            by_seed = [
                np.mean([row["r_auroc"] for row in rows if row["seed"] == seed and row["set"] in REPORTED])
                for seed in range(3)
            ]
            assert cell == f"{shown(float(np.mean(by_seed)))} ± {shown(float(np.std(by_seed, ddof=1)))}"
        whole = [r["r_auroc"] for r in results["methods"] if r["method"] == method and r["set"] in REPORTED]
        assert cells[-1].split()[0] == shown(float(np.mean(whole)))


@pytest.mark.parametrize("differences", [LOWER, NOISE, HIGHER, np.array([0.011, 0.031, 0.025]), np.array([0.02, 0.03])])
def test_a_difference_is_clear_where_a_t_test_says_so(differences: np.ndarray) -> None:
    assert clear(differences) == (ttest_1samp(differences, 0.0).pvalue < 0.05)
