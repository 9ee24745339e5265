import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models.methods.registry import METHODS
from scripts.bench.report import report
from scripts.bench.tables import figures, table
from tests.scripts.bench.example_results import BACKBONES, KINDS, SETS, SHIPPED, example_results
from tests.scripts.bench.markdown import Table, shown, tables

REPORTED = [name for name, (_, _, validation) in SETS.items() if not validation]
VALIDATION = [name for name, (_, _, validation) in SETS.items() if validation]
LOW = re.compile(r"AURC|AUGRC|^train s$|^µs|^s, with judging$")
NEVER_BOLD = ("spread", "runs", "seeds")
FEW = ("ce", "losspred", "losspred-joint", "knn", "pvu", "retrieval")


def rows_of(results: dict[str, Any], backbone: str, method: str, sets: Sequence[str]) -> list[dict[str, Any]]:
    rows = {(row["backbone"], row["method"], row["set"]): row for row in results["methods"]}
    return [rows[backbone, method, name] for name in sets]


def ranked(results: dict[str, Any], backbone: str, sets: Sequence[str]) -> list[str]:
    """Methods, the highest mean R-AUROC over the sets first, by a plain loop."""
    mean = {}
    for method in {row["method"] for row in results["methods"]}:
        rows = rows_of(results, backbone, method, sets)
        mean[method] = sum(row["r_auroc"] for row in rows) / len(rows)
    return sorted(mean, key=lambda method: mean[method], reverse=True)


def spread(rows: list[dict[str, Any]]) -> float:
    """Standard deviation over seeds of the mean over sets, by plain loops."""
    by_seed = [sum(values) / len(values) for values in zip(*(row["r_auroc_by_seed"] for row in rows), strict=True)]
    middle = sum(by_seed) / len(by_seed)
    return math.sqrt(sum((value - middle) ** 2 for value in by_seed) / (len(by_seed) - 1))


def named(methods: Sequence[str]) -> list[str]:
    return [METHODS[method].label + (" (shipped)" if method == SHIPPED else "") for method in methods]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return example_results()


@pytest.fixture(scope="module")
def text(results: dict[str, Any]) -> str:
    return report(results, {})


@pytest.fixture(scope="module")
def found(text: str) -> list[Table]:
    return tables(text)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("place", "sets"), [(0, REPORTED), (3, VALIDATION)])
def test_methods_are_sorted_by_mean_r_auroc_and_shown_as_they_are_in_results(
    results: dict[str, Any], found: list[Table], backbone: str, place: int, sets: list[str]
) -> None:
    shown_here = [each for each in found if each.heading == f"Methods behind {backbone}"][place]

    order = ranked(results, backbone, sets)
    assert list(shown_here.rows) == named(order)
    assert shown_here.header[1 : len(sets) + 4] == [*sets, "mean R-AUROC", "spread", "R@1"]
    for method, row in zip(order, shown_here.rows.values(), strict=True):
        expected = rows_of(results, backbone, method, sets)
        plain = [cell.replace("*", "") for cell in row]
        bounds = [[shown(bound) for bound in each["r_auroc_interval"]] for each in expected]
        in_sets = [f"{shown(e['r_auroc'])} [{low}, {high}]" for e, (low, high) in zip(expected, bounds, strict=True)]
        means = [np.mean([each[key] for each in expected]) for key in ("r_auroc", "recall_at_1")]
        assert plain[: len(sets) + 3] == [*in_sets, shown(means[0]), shown(spread(expected)), shown(means[1])]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_risk_robustness_people_and_cost_are_as_in_results(
    results: dict[str, Any], found: list[Table], backbone: str
) -> None:
    _, risk, other, _ = [each for each in found if each.heading == f"Methods behind {backbone}"]

    order = ranked(results, backbone, REPORTED)
    assert list(risk.rows) == list(other.rows) == named(order)
    for place, method in enumerate(order):
        expected = rows_of(results, backbone, method, REPORTED)
        for title, key in (("AURC", "aurc"), ("AUGRC", "augrc")):
            for row in expected:
                assert risk.values(f"{title} {row['set']}")[place] == pytest.approx(row[key], abs=5.01e-4)
        means = {"human": "human_spearman", "ambiguity AUROC": "ambiguity_auroc", "OOD AUROC": "ood_auroc"}
        for kind in KINDS:
            title = "JPEG" if kind == "jpeg" else kind
            means |= {f"{title} wins": f"{kind}_win_rate", f"{title} monotonicity": f"{kind}_monotonicity"}
        for title, key in means.items():
            average = np.mean([row[key] for row in expected if key in row])
            assert other.column(title)[place].replace("*", "") == shown(float(average)), title
        for title, key in (("train s", "train_s"), ("µs / image", "us_per_image")):
            assert other.values(title)[place] == pytest.approx(np.mean([row[key] for row in expected]), abs=0.0501)


def test_the_best_of_every_column_is_bold_and_nothing_else(found: list[Table]) -> None:
    ranked_tables = [each for each in found if re.match("Methods behind|Scores behind|A backbone", each.heading)]

    assert len(ranked_tables) == 5 * len(BACKBONES) + 1
    for each in ranked_tables:
        for title in each.header[1:]:
            values = each.values(title)
            best = np.nanmin(values) if LOW.search(title) else np.nanmax(values)
            expected = [title not in NEVER_BOLD and number == best for number in values]
            assert ["**" in cell for cell in each.column(title)] == expected, (each.heading, title)


def test_bold_goes_by_what_is_shown() -> None:
    assert figures("x", [0.61249, 0.61244, 0.6]).cells == ("**0.612**", "**0.612**", "0.600")
    assert figures("x", [0.2, math.nan, 0.1], best="low").cells == ("0.200", "-", "**0.100**")
    assert figures("x", [0.2], best=None, notes=["± 1"]).cells == ("0.200 ± 1",)


def test_a_bar_in_a_name_does_not_end_its_cell(text: str) -> None:
    assert "| InfoNCE 1/\\|e\\| |" in text
    assert table("a|b", ["c"], [figures("d", [1.0])]).splitlines()[0] == "| a\\|b | d |"


def test_gallery_aware_scores_have_a_table_of_their_own(results: dict[str, Any], found: list[Table]) -> None:
    for backbone in BACKBONES:
        (shown_here,) = [each for each in found if each.heading == f"Scores behind {backbone}"]
        assert shown_here.values("mean R-AUROC") == sorted(shown_here.values("mean R-AUROC"), reverse=True)
        rows = [row for row in results["gallery"] if row["backbone"] == backbone]
        assert {row["score"] for row in rows} == shown_here.rows.keys()
        for row in rows:
            title = row["set"] + (" (validation)" if row["set"] in VALIDATION else "")
            low, high = row["r_auroc_interval"]
            cell = shown_here.rows[row["score"]][shown_here.header.index(title) - 1].replace("*", "")
            assert cell == f"{shown(row['r_auroc'])} [{shown(low)}, {shown(high)}]"


def test_a_score_judged_on_a_sample_is_named(text: str) -> None:
    assert "Judged on a sample of each set: augmentation dispersion." in text


def test_leads_are_those_of_results_and_italic_where_the_interval_includes_zero(
    results: dict[str, Any], text: str, found: list[Table]
) -> None:
    labels = {METHODS[name].label: name for name in METHODS}
    for backbone in BACKBONES:
        (shown_here,) = [each for each in found if each.heading == f"Leads behind {backbone}"]
        assert len(shown_here.rows) == len(METHODS) - 1
        assert list(shown_here.rows) == [METHODS[m].label for m in ranked(results, backbone, REPORTED) if m != SHIPPED]
        for label, row in shown_here.rows.items():
            for name, cell in zip(SETS, row, strict=True):
                lead = results["leads"][backbone][name][labels[label]]
                expected = f"{lead['value']:+.3f} [{lead['low']:+.3f}, {lead['high']:+.3f}]"
                assert cell == (f"*{expected}*" if lead["low"] <= 0 <= lead["high"] else expected)


def test_leads_say_in_words_where_the_interval_includes_zero_and_where_the_method_is_behind() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=FEW, sets=REPORTED[:1])
    leads = results["leads"][BACKBONES[0]][REPORTED[0]]
    for method in leads:
        leads[method] = {"value": 0.1, "low": 0.05, "high": 0.2}
    leads["pvu"] = {"value": 0.01, "low": -0.01, "high": 0.02}
    leads["ce"] = {"value": -0.1, "low": -0.2, "high": -0.05}

    expected = "ahead of 3 of 5; the interval includes zero against: PVU ranking head; behind: CE entropy."
    assert f"- {REPORTED[0]}: {expected}" in report(results, {})


def test_the_command_can_be_copied_and_every_set_says_what_it_was_for(
    results: dict[str, Any], text: str, found: list[Table]
) -> None:
    (command,) = re.findall(r"```console\n\$ (.*?)\n```", text, re.DOTALL)
    assert command.replace(" \\\n    ", " ") == results["command"]
    (sets,) = [each for each in found if each.header[0] == "set" and each.heading == "What was run"]
    assert sets.column("for") == ["choosing", "choosing", *["reporting"] * 4]
    assert sets.column("images") == [f"{images:,}" for images, _, _ in SETS.values()]
    assert "- methods may be chosen on tiny-held and cub-0-49; the other sets are only reported" in text
    for told in (
        "0123456789ab",
        "each backbone: 5;",
        "epochs: 5,",
        "training image: 3\n",
        "0.33, 0.67 and 1.00",
        "of 500 images",
    ):
        assert told in text


def test_the_cost_is_told_where_it_was_measured() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=FEW, sets=REPORTED[:1], seeds=2)
    told = "- training and scoring from cached representations: 1,315 runs, 31 minutes of one core\n"
    assert told not in report(results, {})

    assert told in report(results | {"cost": {"runs": 1315, "cpu_s": 1860.0}}, {})


def test_methods_with_fewer_seeds_than_asked_for_are_named() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=FEW, sets=REPORTED[:1], seeds=2)
    assert "unfinished" not in report(results, {})
    results["methods"][0]["seeds"] = 1

    assert f"- unfinished: {METHODS[FEW[0]].label} behind {BACKBONES[0]}, seeds: 1" in report(results, {})


@pytest.mark.parametrize(
    ("absent", "heading"),
    [
        ("methods", "## Methods"),
        ("methods", "## Published figures beside these"),
        ("gallery", "## Gallery-aware scores"),
        ("leads", "## Leads of the shipped method"),
        ("human", "## R-AUROC and human agreement"),
        ("trainable", "## A backbone that trains too"),
        ("scaling", "## Training-set size"),
    ],
)
def test_a_section_without_data_is_left_out_and_the_others_stay(absent: str, heading: str) -> None:
    whole = example_results(backbones=BACKBONES[:1], methods=FEW, sets=REPORTED[:2], seeds=2)
    without = {**whole, absent: type(whole[absent])()}

    before, after = (
        set(re.findall("^## .*", report(each, {f"curves-{BACKBONES[0]}": "!"}), re.MULTILINE))
        for each in (whole, without)
    )
    assert heading in before
    assert heading not in after
    needs_methods = {"## Published figures beside these", "## Leads of the shipped method", "## Risk and coverage"}
    assert before - after <= {heading, "## Methods"} | (needs_methods if absent == "methods" else set())


def test_figures_that_no_set_has_get_no_column_and_without_validation_sets_there_is_no_table_of_them() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=FEW, sets=["cub-50-99", "cifar100"], seeds=1)
    for row in results["methods"]:
        del row["ood_auroc"]

    here = [each for each in tables(report(results, {})) if each.heading == f"Methods behind {BACKBONES[0]}"]
    titles = {title for each in here for title in each.header}
    assert len(here) == 3
    assert titles & {"human", "ambiguity AUROC", "OOD AUROC", "spread"} == set()
    assert {"crop wins", "train s"} <= titles


def test_where_every_set_is_for_validation_only_their_table_is_shown() -> None:
    results = example_results(backbones=BACKBONES[:1], methods=FEW, sets=VALIDATION, seeds=2)

    here = [each for each in tables(report(results, {})) if each.heading == f"Methods behind {BACKBONES[0]}"]
    assert [each.header[1:3] for each in here] == [VALIDATION]
