import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from models.augment import Augmentation, view
from models.heads import TrainedHead, predict
from models.methods.base import Sizes
from models.methods.registry import make_head
from models.representations import Representations
from scripts.evaluate import Run
from scripts.fitting.evaluation import evaluate_by_instance
from tests.offline import TORCH, packed_dataset, tiny_backbone
from uncertainty import metrics

DIMENSION, IMAGES, VIEWS = 96, 12, 3
AUGMENTATION = Augmentation(min_scale=0.3, degraded=0.3)


def run(out: Path) -> Run:
    torch.manual_seed(0)
    head = make_head("retrieval", Sizes(DIMENSION, DIMENSION, 1)).eval()
    return Run(tiny_backbone(), TrainedHead(head, {}), out, 0, TORCH)


def cached(seed: int, images: int, views: int = 0, noise: float = 1.2) -> Representations:
    """Random representations, whose augmented views are noisy copies of the clean ones."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(images, DIMENSION))
    features = clean + np.concatenate([[0.0], np.full(views, noise)])[:, None, None] * rng.normal(
        scale=3.0, size=(1 + views, images, DIMENSION)
    )
    description = {"augmentation": vars(AUGMENTATION)}
    return Representations(
        features.astype(np.float32), DIMENSION, np.zeros(images, dtype=np.int64), np.arange(images), description
    )


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["data"]["instances"]
    return found


@pytest.fixture(autouse=True, scope="module")
def no_window() -> None:
    matplotlib.use("agg")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Representations, dict[str, Any]]:
    """An evaluation by instance of random views, and what it found."""
    folder = tmp_path_factory.mktemp("judged")
    made, queries = run(folder / "out"), cached(0, IMAGES, VIEWS)
    evaluate_by_instance(made, "instances", packed_dataset(folder, 2, seed=0), queries, [cached(1, 30), cached(2, 5)])
    return made, queries, results(made.out)


def by_loop(queries: Representations, others: Sequence[Representations]) -> list[bool]:
    gallery = [row / np.linalg.norm(row) for each in (queries, *others) for row in each.clean.astype(np.float64)]
    correct = []
    for number in range(1, 1 + VIEWS):
        for image, query in enumerate(queries.views[number].astype(np.float64)):
            cosines = [float(query @ item) for item in gallery]
            correct.append(cosines.index(max(cosines)) == image)
    return correct


def test_a_view_is_right_where_the_nearest_of_all_clean_images_is_its_own(
    judged: tuple[Run, Representations, dict[str, Any]],
) -> None:
    made, queries, found = judged
    correct = np.array(by_loop(queries, [cached(1, 30), cached(2, 5)]))
    flat = queries.features[1:].reshape(-1, DIMENSION)

    assert 0.1 < correct.mean() < 0.9
    assert (found["images"], found["views"], found["gallery"]) == (IMAGES, VIEWS, IMAGES + 35)
    assert found["recall_at_1"] == pytest.approx(correct.mean())
    low, high = found["recall_at_1_interval"]
    assert low < found["recall_at_1"] < high
    scores = {
        "head": predict(made.head.module, flat).astype(np.float64),
        "inverse_norm": -np.linalg.norm(flat.astype(np.float64), axis=1),
    }
    for name, score in scores.items():
        row = found["scores"][name]
        assert row["r_auroc"] == pytest.approx(metrics.r_auroc(score, correct)), name
        assert row["aurc"] == pytest.approx(metrics.aurc(score, 1.0 - correct)), name
        assert row["r_auroc_interval"][0] <= row["r_auroc"] <= row["r_auroc_interval"][1]


def test_a_view_wins_where_it_is_less_certain_than_its_own_image(
    judged: tuple[Run, Representations, dict[str, Any]],
) -> None:
    made, queries, found = judged

    original = predict(made.head.module, queries.features[0])
    wins = [predict(made.head.module, queries.features[number]) > original for number in range(1, 1 + VIEWS)]
    assert found["scores"]["head"]["view_win_rate"] == pytest.approx(np.mean(wins))


def test_the_lead_of_the_head_is_the_difference_with_an_interval_around_it(
    judged: tuple[Run, Representations, dict[str, Any]],
) -> None:
    scores = judged[2]["scores"]

    assert "head_minus_this_r_auroc" not in scores["head"]
    for name in ("class_entropy", "max_probability", "inverse_norm"):
        lead = scores[name]["head_minus_this_r_auroc"]
        assert lead["value"] == pytest.approx(scores["head"]["r_auroc"] - scores[name]["r_auroc"])
        assert lead["low"] < lead["value"] < lead["high"]


def test_the_montage_shows_the_views_and_not_the_images(
    judged: tuple[Run, Representations, dict[str, Any]], tmp_path: Path
) -> None:
    made, queries, _ = judged
    uncertainty = predict(made.head.module, queries.features[1:].reshape(-1, DIMENSION))
    number, image = divmod(int(uncertainty.argmin()), IMAGES)
    source = packed_dataset(tmp_path, 2, seed=0).image(image)
    expected = Image.fromarray(view(source, image, number + 1, AUGMENTATION, made.backbone.preprocessing))

    with Image.open(made.out / "instances-montage.png") as montage:
        tile = np.asarray(montage.crop((0, 0, 96, 96)))

    assert np.array_equal(tile, np.asarray(expected.resize((96, 96))))
    with Image.open(made.out / "instances-risk-coverage.png") as plot:
        assert plot.size == (720, 480)


@pytest.mark.parametrize(("order", "recall"), [(1, 1.0), (-1, 0.0)])
def test_views_that_are_all_right_or_all_wrong_leave_nothing_to_rank(order: int, recall: float, tmp_path: Path) -> None:
    made, queries = run(tmp_path / "out"), cached(0, 2, 1)
    queries.features[1] = queries.features[0, ::order]

    evaluate_by_instance(made, "instances", packed_dataset(tmp_path, 1, seed=0), queries, [cached(1, 30)])

    assert results(made.out)["recall_at_1"] == recall
    assert results(made.out)["scores"] == {}
