from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.fitting.report import Facts, cautions, done, figures, measured, pictures, serving
from scripts.fitting.split import INSTANCES, SEEN_CLASSES, UNSEEN_CLASSES, Split
from tests.offline import tiny_backbone

FEW = "few to learn from"
CHANCE = "may be no better than chance"
SURE = "not surely better than"
REFERENCE = "Percentiles refer to"
ELSEWHERE = "made elsewhere"
UNMEASURED = "was not measured"
ANSWERS = "few of a kind"


def score(r_auroc: float, low: float, lead: float | None = None, rate: str = "crop_win_rate") -> dict[str, Any]:
    row: dict[str, Any] = {"r_auroc": r_auroc, "r_auroc_interval": [low, 0.9], "aurc": 0.3, "coverage_at_risk": 0.125}
    row[rate] = 0.75
    if lead is not None:
        row["head_minus_this_r_auroc"] = {"value": lead, "low": lead - 0.05, "high": lead + 0.05}
    return row


def facts(kind: str = UNSEEN_CLASSES, low: float = 0.6, lead: float = 0.1, images: int = 2000) -> Facts:
    rate = "view_win_rate" if kind == INSTANCES else "crop_win_rate"
    unseen = tuple(f"bird {number}" for number in range(25)) if kind == UNSEEN_CLASSES else ()
    split = Split(kind, np.arange(images), np.arange(250), np.arange(500), unseen)
    found: dict[str, Any] = {"images": 500, "classes": 25, "gallery": 2750, "recall_at_1": 0.7}
    found |= {"views": 3} if kind == INSTANCES else {}
    scores = {"head": score(0.7, low, rate=rate), "inverse_norm": score(0.6, 0.5, lead, rate)}
    head = {"method": "retrieval", "training": {"target": "retrieval"}}
    backbone = replace(tiny_backbone(), training={"data": "birdsong", "licence": "CC0"})
    found |= {"recall_at_1_interval": [0.65, 0.75], "scores": scores}
    return Facts("photos/", split, 100, backbone, head, trained=True, found=found)


def text(given: Facts) -> str:
    return "\n".join(cautions(given))


def test_a_good_result_comes_with_none_of_the_cautions_it_does_not_need() -> None:
    said = text(facts())

    for caution in (
        FEW,
        CHANCE,
        SURE,
        REFERENCE,
        ELSEWHERE,
        UNMEASURED,
        ANSWERS,
        "classes;",
        "fewer than ten",
        "Without classes",
    ):
        assert caution not in said
    assert "The backbone was trained on: birdsong. Where it has seen these classes" in said
    assert "Neither uncertainty nor its percentile is a probability" in said


@pytest.mark.parametrize(
    ("given", "caution"),
    [
        (facts(images=300), f"300 images are {FEW}"),
        (facts(low=0.5), f"{CHANCE}: its interval [0.500, 0.900] includes 0.5"),
        (facts(low=0.4), CHANCE),
        (facts(lead=0.04), f"{SURE}: 1/\\|e\\|."),
        (facts(lead=-0.2), SURE),
        (facts(SEEN_CLASSES), "With fewer than ten classes none was held out"),
        (facts(INSTANCES), "Without classes, uncertainty says how well a view finds its own image"),
        (replace(facts(), trained=False), ELSEWHERE),
    ],
)
def test_what_weakens_a_result_is_said(given: Facts, caution: str) -> None:
    assert caution in text(given)


def test_few_unseen_classes_and_few_reference_images_are_said() -> None:
    given = facts()
    split = replace(given.split, unseen=given.split.unseen[:5], reference=np.arange(40))

    said = text(replace(given, split=split))

    assert "The figures come from 5 classes" in said
    assert "Percentiles refer to 40 images, and so are known to 2.5 % at best" in said


@pytest.mark.parametrize(("recall", "right", "wrong"), [(0.9, 450, 50), (0.1, 50, 450)])
def test_few_mistakes_or_few_right_answers_are_said(recall: float, right: int, wrong: int) -> None:
    given = facts()

    said = text(replace(given, found={**given.found, "recall_at_1": recall}))

    assert f"judged by {right} right answers and {wrong} wrong ones: {ANSWERS}" in said


@pytest.mark.parametrize(("recall", "said"), [(1.0, "Every answer was right"), (0.0, "No answer was right")])
def test_where_nothing_can_be_ranked_it_says_so(recall: float, said: str) -> None:
    given = facts()
    given = replace(given, found={**given.found, "scores": {}, "recall_at_1": recall})

    assert said in measured(given)
    assert "R-AUROC" not in measured(given)
    assert UNMEASURED in text(given)
    assert CHANCE not in text(given)


def test_figures_stand_in_a_table_with_their_intervals() -> None:
    rows = figures(facts()).split("\n")

    assert rows[0].endswith("| crop less certain |")
    assert rows[2] == "| **head** | 0.700 [0.600, 0.900] |  | 0.300 | 0.125 | 0.750 |"
    assert rows[3] == "| 1/\\|e\\| | 0.600 [0.500, 0.900] | +0.100 [0.050, 0.150] | 0.300 | 0.125 | 0.750 |"
    assert "over whole classes" in rows[-1]
    assert "view less certain" in figures(facts(INSTANCES))
    assert "over whole images" in figures(facts(INSTANCES))


def test_it_says_what_was_asked_and_of_which_classes() -> None:
    assert measured(facts()) == (
        "Among 500 images of 25 unseen classes, the nearest neighbour is of the right class with R@1 0.700 "
        "[0.650, 0.750]. R-AUROC of the head: 0.700 [0.600, 0.900]."
    )
    assert "25 classes that the head has seen" in measured(facts(SEEN_CLASSES))
    assert "searched among all 2750 images" in measured(facts(INSTANCES))


def test_it_says_what_was_done() -> None:
    said = done(facts())

    assert "The backbone **test_resnet** (32 px; trained on: birdsong; licence: CC0) is used as it is." in said
    assert "trained on 2000 images of 100 classes of `photos/`, to predict the retrieval loss of a view." in said
    assert "Percentiles refer to 250 other images of 100 classes." in said
    assert "those of bird 0, bird 1, bird 2" in said
    assert "bird 9, and 15 more, used for nothing else" in said
    assert "has learned nothing from these images" in done(replace(facts(), trained=False))
    assert "classes" not in done(facts(INSTANCES))


def test_pictures_and_serving_name_what_is_there() -> None:
    assert "](evaluation/instances-montage.png)" in pictures(facts(INSTANCES))
    assert "](evaluation/seen-classes-risk-coverage.png)" in pictures(facts(SEEN_CLASSES))
    assert "candor serve --bundle runs/birds/bundle" in serving(facts(), Path("runs/birds/bundle"))
