import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from models.methods.registry import METHODS
from scripts.bench import published
from scripts.bench.comparisons import VERDICTS, verdict
from scripts.bench.report import report
from tests.scripts.bench.example_results import BACKBONES, SETS, VOTED, example_results
from tests.scripts.bench.markdown import Table, shown, tables

REPORTED = [name for name, (_, _, validation) in SETS.items() if not validation]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return example_results()


@pytest.fixture(scope="module")
def text(results: dict[str, Any]) -> str:
    return report(results, {})


@pytest.fixture(scope="module")
def beside(text: str) -> list[Table]:
    return [each for each in tables(text) if each.heading == "Published figures beside these"]


def ours(results: dict[str, Any], backbone: str, method: str, key: str) -> float:
    rows = [row for row in results["methods"] if (row["backbone"], row["method"]) == (backbone, method)]
    return float(np.mean([row[key] for row in rows if row["set"] in REPORTED and key in row]))


def test_the_eleven_methods_stand_beside_their_published_figures(results: dict[str, Any], beside: list[Table]) -> None:
    urls = beside[0]
    names = {method.published: name for name, method in METHODS.items() if method.published}

    assert list(urls.rows) == list(published.URL_METHODS["ResNet-50"])
    assert set(urls.rows) == set(names)
    for title, key in (("R-AUROC", "r_auroc"), ("R@1", "recall_at_1")):
        for model, rows in published.URL_METHODS.items():
            assert urls.values(f"{model} {title}") == [getattr(rows[name], key) for name in urls.rows]
        for backbone in BACKBONES:
            cells = [cell.replace("*", "") for cell in urls.column(f"{backbone} {title}")]
            assert cells == [shown(ours(results, backbone, names[name], key)) for name in urls.rows]


def test_the_order_of_methods_is_compared_by_rank_correlation(results: dict[str, Any], beside: list[Table]) -> None:
    orders = beside[1]
    names = {method.published: name for name, method in METHODS.items() if method.published}

    for model, rows in published.URL_METHODS.items():
        theirs = [row.r_auroc for row in rows.values()]
        for backbone in BACKBONES:
            here = [ours(results, backbone, names[name], "r_auroc") for name in rows]
            cell = orders.rows[backbone][orders.header.index(model) - 1]
            assert cell == shown(stats.spearmanr(theirs, here).statistic)
        assert orders.rows[model][orders.header.index(model) - 1] == "-"


def test_the_ranking_head_stands_beside_its_published_figures(results: dict[str, Any], beside: list[Table]) -> None:
    _, _, sizes, sets, _ = beside

    for size, row in published.PVU_SIZES.items():
        assert sizes.rows[f"{size}, published"] == [shown(row.r_auroc), shown(row.recall_at_1)]
    for backbone in BACKBONES:
        expected = [shown(ours(results, backbone, "pvu", key)) for key in ("r_auroc", "recall_at_1")]
        assert sizes.rows[f"{backbone}, here"] == expected
        rows = [row for row in results["methods"] if (row["backbone"], row["method"]) == (backbone, "pvu")]
        by_set = {row["set"]: row["r_auroc"] for row in rows}
        cells = dict(zip(sets.rows, sets.column(f"{backbone}, here"), strict=True))
        assert cells["CIFAR-10"] == f"{shown(by_set[VOTED])} ({VOTED})"
        assert cells["CIFAR-100"] == f"{shown(by_set['cifar100'])} (cifar100)"
        assert cells["CUB"] == ", ".join(f"{shown(by_set[name])} ({name})" for name in ("cub-0-49", "cub-50-99"))
        assert cells["SVHN"] == "-"
    assert sets.values("ViT-Base, published") == list(published.PVU_SETS.values())


def test_single_figures_stand_beside_their_like_with_their_source(results: dict[str, Any], beside: list[Table]) -> None:
    single = beside[4]
    assert single.values("published") == [0.684, 0.328, 0.471, 0.095, 0.449]
    assert all("arXiv:" in source for source in single.column("source"))
    for backbone in BACKBONES:
        reference, head, entropy, best, ood = single.column(f"{backbone}, here")
        expected = [ours(results, backbone, "pvu", "human_spearman"), ours(results, backbone, "ce", "human_spearman")]
        assert [head, entropy] == [shown(each) for each in expected]
        assert ood == shown(ours(results, backbone, "pvu", "ood_auroc"))
        for cell, key in ((reference, "r_auroc"), (best, "human_spearman")):
            values = {method.label: ours(results, backbone, name, key) for name, method in METHODS.items()}
            top = max(values, key=lambda label: values[label])
            assert cell == f"{shown(values[top])} (best: {top})"


def test_one_sentence_says_that_data_and_backbones_differ(text: str) -> None:
    assert text.count("Data, backbones and training differ") == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cub", "CUB"),
        ("cub-50-99", "CUB"),
        ("cub100", "CUB"),
        ("CIFAR-10 test", "CIFAR-10"),
        ("cifar10h", "CIFAR-10"),
        ("cifar100", "CIFAR-100"),
        ("cifar_100", "CIFAR-100"),
        ("cars-98-195", "CARS"),
        ("petshop", None),
        ("tiny", None),
        ("not-cub", None),
    ],
)
def test_sets_find_their_published_name(name: str, expected: str | None) -> None:
    assert published.published_set(name) == expected


def test_rank_correlations_are_those_of_the_points(results: dict[str, Any], text: str) -> None:
    (found,) = [each for each in tables(text) if each.heading == "R-AUROC and human agreement"]
    assert list(found.rows) == ["all", *BACKBONES]
    for title, key in (("same set", "r_auroc"), ("other sets", "r_auroc_elsewhere")):
        for name, cell in zip(found.rows, found.column(title), strict=True):
            points = [point for point in results["human"]["points"] if name in ("all", point["backbone"])]
            x, y = ([point[each] for point in points] for each in (key, "human_spearman"))
            number, low, high = (
                float(part) for part in cell.replace("[", "").replace("]", "").replace(",", "").split()
            )
            assert number == pytest.approx(stats.spearmanr(x, y).statistic, abs=5.01e-4)
            assert low < number < high
    assert found.column("runs") == [str(len(BACKBONES) * len(METHODS) * 5), *[str(len(METHODS) * 5)] * len(BACKBONES)]


@pytest.mark.parametrize(
    ("spearman", "word"),
    [
        (0.93, "is reproduced."),
        (0.75, "is reproduced."),
        (0.74, "is reproduced in tendency"),
        (0.6, "is reproduced in tendency"),
        (0.59, "is reproduced only in part"),
        (0.3, "is reproduced only in part"),
        (0.29, "is refuted here: there is no clear relation"),
        (-0.29, "is refuted here: there is no clear relation"),
        (-0.31, "is refuted here: the relation is reversed"),
        (-1.0, "is refuted here: the relation is reversed"),
    ],
)
def test_the_verdict_on_human_agreement_follows_the_number(spearman: float, word: str) -> None:
    told = verdict(spearman, "same set")

    assert f"Spearman {shown(spearman)}" in told
    assert "0.80" in told
    assert word in told
    assert sum(f"is {words}." in told for _, words in VERDICTS) == 1


@pytest.mark.parametrize(("same", "elsewhere"), [(0.82, -0.5), (0.1, 0.65)])
def test_the_report_gives_the_verdict_on_its_own_numbers(same: float, elsewhere: float) -> None:
    results = example_results(backbones=BACKBONES[:1], methods=("ce", "pvu", "knn"), sets=REPORTED[:3], seeds=2)
    results["human"] |= {"spearman_r_auroc": same, "spearman_r_auroc_elsewhere": elsewhere}

    text = report(results, {})
    assert f"- {verdict(same, 'same set')}" in text
    assert f"- {verdict(elsewhere, 'other sets')}" in text


def test_an_undefined_rank_correlation_gets_no_verdict() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=("ce", "knn"), sets=REPORTED[:3], seeds=1)
    point = {"backbone": BACKBONES[0], "method": "knn", "set": VOTED, "r_auroc": 0.6, "r_auroc_elsewhere": 0.5}
    results["human"] = {"points": [{**point, "human_spearman": 0.1}]}

    text = report(results, {})
    (found,) = [each for each in tables(text) if each.heading == "R-AUROC and human agreement"]
    assert found.header == ["runs behind", "runs"]
    assert "rank correlation of 0.80 is" not in text


def test_a_published_method_that_was_not_run_has_no_figure() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=("ce", "knn"), sets=REPORTED[:1], seeds=2)

    urls, _, sizes, *_ = [each for each in tables(report(results, {})) if "Published" in each.heading]
    assert [math.isnan(number) for number in urls.values(f"{BACKBONES[0]} R-AUROC")] == [
        name != "CE" for name in urls.rows
    ]
    assert sizes.rows[f"{BACKBONES[0]}, here"] == ["-", "-"]
