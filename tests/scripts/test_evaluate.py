import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.backbone import load_backbone
from models.dataset import Dataset, limited_index, select
from models.datasets import open_dataset
from models.heads import embed, load_head, predict
from models.preprocess import preprocess
from models.representer import representer
from scripts import evaluate, train_head
from tests.offline import TORCH, pictures, write_packed
from tests.scripts.conftest import IN_TORCH, Stages
from uncertainty import metrics

CROPS = 30
SCORES = ["head", "class_entropy", "max_probability", "inverse_norm"]


def arguments(stages: Stages, out: Path, *more: str) -> list[str]:
    settings = ["--crops", str(CROPS), "--repetitions", "20", *IN_TORCH]
    return [*stages.judged, "--out", str(out), *settings, *more]


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Votes of 20 people on 72 images, most of them for the right class."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet([0.5] * 6, size=72)
    counts = np.stack([rng.multinomial(20, p) for p in share])
    path = tmp_path_factory.mktemp("votes") / "votes.npz"
    np.savez(path, counts=counts)
    return path


@pytest.fixture(scope="module")
def run(with_head: Stages, votes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation on two data sets, one of them with votes."""
    out = tmp_path_factory.mktemp("evaluation")
    data = ["--data", f"odd={with_head.path('test.npz')}", "--data", f"held={with_head.path('held.npz')}@1-4"]
    evaluate.main(arguments(with_head, out, *data, "--votes", f"odd={votes}"))
    return out


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


class Direct:
    """Every quantity of one data set, computed with none of the stage's own functions."""

    def __init__(self, stages: Stages, dataset: Dataset) -> None:
        self._backbone = load_backbone(stages.root / "backbone")
        self._head = load_head(stages.root / "head", self._backbone.hash).module
        self.dataset = dataset
        self.representation = self._represent([dataset.image(i) for i in range(len(dataset))])
        self.scores = self._score(self.representation)
        unit = self.representation / np.linalg.norm(self.representation, axis=1, keepdims=True)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -2.0)
        self.correct = dataset.labels[cosine.argmax(axis=1)] == dataset.labels

    def crop_win_rate(self, name: str) -> float:
        index = limited_index(len(self.dataset), CROPS)
        share = np.random.default_rng(0).uniform(0.1, 0.75, size=CROPS)
        crops = [centre_crop(self.dataset.image(int(i)), p) for i, p in zip(index, share, strict=True)]
        wins = self._score(self._represent(crops))[name] > self.scores[name][index]
        return float(np.mean(wins))

    def _represent(self, images: list[Image.Image]) -> NDArray[np.float32]:
        pixels = np.stack([preprocess(image, self._backbone.preprocessing) for image in images])
        return representer(self._backbone, TORCH)(torch.from_numpy(pixels))

    def _score(self, representation: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        classifier = dict(self._backbone.module.named_modules())["fc"]
        with torch.inference_mode():
            probability = classifier(torch.from_numpy(representation)).double().softmax(dim=1).numpy()
        return {
            "head": predict(self._head, representation),
            "class_entropy": -(probability * np.log(probability)).sum(axis=1),
            "max_probability": -probability.max(axis=1),
            "inverse_norm": -np.linalg.norm(representation, axis=1),
        }


def centre_crop(image: Image.Image, share: float) -> Image.Image:
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@pytest.fixture(scope="module")
def direct(with_head: Stages) -> dict[str, Direct]:
    specs = {"odd": with_head.path("test.npz"), "held": f"{with_head.path('held.npz')}@1-4"}
    return {name: Direct(with_head, open_dataset(spec)) for name, spec in specs.items()}


@pytest.mark.parametrize("name", ["odd", "held"])
def test_retrieval_is_that_of_the_nearest_other_image(
    name: str, results: dict[str, Any], direct: dict[str, Direct]
) -> None:
    found, expected = results["data"][name], direct[name]

    assert found["recall_at_1"] == pytest.approx(np.mean(expected.correct))
    assert 0.2 < found["recall_at_1"] < 1.0
    assert (found["images"], found["classes"]) == {"odd": (72, 6), "held": (80, 4)}[name]
    low, high = found["recall_at_1_interval"]
    assert low <= found["recall_at_1"] <= high
    assert low < high


@pytest.mark.parametrize("name", ["odd", "held"])
@pytest.mark.parametrize("score", SCORES)
def test_figures_are_those_of_the_metrics(
    score: str, name: str, results: dict[str, Any], direct: dict[str, Direct]
) -> None:
    found, expected = results["data"][name]["scores"][score], direct[name]
    wrong = 1.0 - expected.correct
    uncertainty = expected.scores[score].astype(np.float64)

    figures = {
        "r_auroc": metrics.r_auroc(uncertainty, expected.correct),
        "aurc": metrics.aurc(uncertainty, wrong),
        "e_aurc": metrics.e_aurc(uncertainty, wrong),
        "augrc": metrics.augrc(uncertainty, wrong),
        "coverage_at_risk": metrics.coverage_at_risk(uncertainty, wrong, 0.1),
        "crop_win_rate": expected.crop_win_rate(score),
    }
    for key, value in figures.items():
        assert found[key] == pytest.approx(value, abs=2e-3), key
    low, high = found["r_auroc_interval"]
    assert low <= found["r_auroc"] <= high


@pytest.mark.parametrize("name", ["odd", "held"])
def test_the_head_is_compared_with_each_baseline(name: str, results: dict[str, Any]) -> None:
    scores = results["data"][name]["scores"]

    assert list(scores) == SCORES
    assert "head_minus_this_r_auroc" not in scores["head"]
    for key in SCORES[1:]:
        lead = scores[key]["head_minus_this_r_auroc"]
        assert lead["value"] == pytest.approx(scores["head"]["r_auroc"] - scores[key]["r_auroc"])
        assert lead["low"] <= lead["value"] <= lead["high"]


def test_human_disagreement_is_the_entropy_of_the_votes(
    results: dict[str, Any], direct: dict[str, Direct], votes: Path
) -> None:
    share = np.load(votes)["counts"] / 20
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in share]

    for key in SCORES:
        expected = metrics.spearman(direct["odd"].scores[key].astype(np.float64), np.array(entropy))
        assert results["data"]["odd"]["scores"][key]["human_spearman"] == pytest.approx(expected, abs=2e-3)
        assert "human_spearman" not in results["data"]["held"]["scores"][key]


def test_results_say_how_they_were_made(results: dict[str, Any], with_head: Stages) -> None:
    assert results["backbone"] == load_backbone(with_head.root / "backbone").hash
    assert results["risk"] == 0.1
    assert results["command"].startswith("candor")


@pytest.mark.parametrize("name", ["odd", "held"])
def test_a_plot_and_a_montage_are_drawn_of_each_set(name: str, run: Path) -> None:
    with Image.open(run / f"{name}-risk-coverage.png") as plot, Image.open(run / f"{name}-montage.png") as montage:
        assert plot.size == (720, 480)
        assert montage.size == (12 * 96, 4 * 96 + 12)


def test_the_montage_begins_with_the_surest_image_and_ends_with_the_least_sure(
    run: Path, direct: dict[str, Direct]
) -> None:
    order = np.argsort(direct["odd"].scores["head"], kind="stable")
    with Image.open(run / "odd-montage.png") as montage:
        tiles = [np.asarray(montage.crop((0, top, 96, top + 96))) for top in (0, 2 * 96 + 12)]

    for tile, i in zip(tiles, (order[0], order[-1]), strict=True):
        assert np.array_equal(tile, np.asarray(direct["odd"].dataset.image(int(i)).resize((96, 96))))


def test_a_second_evaluation_gives_the_same_figures(
    results: dict[str, Any], with_head: Stages, votes: Path, tmp_path: Path
) -> None:
    data = ["--data", f"odd={with_head.path('test.npz')}", "--votes", f"odd={votes}"]
    evaluate.main(arguments(with_head, tmp_path, *data))

    again = json.loads((tmp_path / "results.json").read_text())
    assert again["data"]["odd"] == results["data"]["odd"]


def test_a_limit_takes_the_votes_of_the_images_it_takes(with_head: Stages, votes: Path, tmp_path: Path) -> None:
    whole = open_dataset(with_head.path("test.npz"))
    index = limited_index(len(whole), 50)
    limited = Direct(with_head, select(whole, index))
    share = np.load(votes)["counts"][index] / 20
    entropy = np.array([-sum(p * math.log(p) for p in row if p > 0) for row in share])

    data = ["--data", f"odd={with_head.path('test.npz')}", "--votes", f"odd={votes}", "--limit", "50"]
    evaluate.main(arguments(with_head, tmp_path, *data))

    found = json.loads((tmp_path / "results.json").read_text())["data"]["odd"]
    assert found["images"] == 50
    expected = metrics.spearman(limited.scores["class_entropy"], entropy)
    assert found["scores"]["class_entropy"]["human_spearman"] == pytest.approx(expected, abs=2e-3)


def test_votes_on_another_number_of_images_are_refused(with_head: Stages, votes: Path, tmp_path: Path) -> None:
    data = ["--data", f"held={with_head.path('held.npz')}", "--votes", f"held={votes}"]

    with pytest.raises(SystemExit, match=r"votes\.npz holds votes on 72 images, and the data set has 120"):
        evaluate.main(arguments(with_head, tmp_path, *data))


def test_votes_on_an_unknown_set_are_refused(with_head: Stages, votes: Path, tmp_path: Path) -> None:
    data = ["--data", f"held={with_head.path('held.npz')}", "--votes", f"odd={votes}"]

    with pytest.raises(SystemExit, match="--votes for odd, but no --data of that name"):
        evaluate.main(arguments(with_head, tmp_path, *data))


@pytest.mark.parametrize("data", ["held.npz", "=held.npz", "held="])
def test_a_set_without_a_name_or_a_place_is_a_usage_error(
    data: str, with_head: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(arguments(with_head, tmp_path, "--data", data))

    assert "expected NAME=VALUE" in capsys.readouterr().err


def judging(stages: Stages, head: str, out: Path) -> list[str]:
    """Evaluate another head on the first of the data sets."""
    judged = [*stages.frozen, "--head", head, "--data", f"odd={stages.path('test.npz')}", "--out", str(out)]
    return [*judged, "--crops", str(CROPS), "--repetitions", "20", *IN_TORCH]


def test_a_head_that_sees_all_layers_changes_its_own_figures_alone(
    with_layers: Stages, results: dict[str, Any], direct: dict[str, Direct], tmp_path: Path
) -> None:
    evaluate.main(judging(with_layers, with_layers.path("head-layers"), tmp_path))

    found = json.loads((tmp_path / "results.json").read_text())["data"]["odd"]
    backbone = load_backbone(with_layers.root / "backbone")
    dataset = direct["odd"].dataset
    pixels = np.stack([preprocess(dataset.image(i), backbone.preprocessing) for i in range(len(dataset))])
    features = representer(backbone, TORCH, layers=True)(torch.from_numpy(pixels))  # (n, f)
    uncertainty = predict(load_head(with_layers.root / "head-layers", backbone.hash).module, features)
    expected = metrics.r_auroc(uncertainty, direct["odd"].correct)
    assert found["scores"]["head"]["r_auroc"] == pytest.approx(expected, abs=2e-3)
    assert found["scores"]["head"]["r_auroc"] != pytest.approx(results["data"]["odd"]["scores"]["head"]["r_auroc"])
    assert found["recall_at_1"] == results["data"]["odd"]["recall_at_1"]
    for score in SCORES[1:]:
        for key in ("r_auroc", "aurc", "crop_win_rate"):
            expected = results["data"]["odd"]["scores"][score][key]
            assert found["scores"][score][key] == pytest.approx(expected, abs=2e-3)


def test_retrieval_is_by_the_embedding_that_the_head_learned(
    with_head: Stages, direct: dict[str, Direct], tmp_path: Path
) -> None:
    arguments = [*with_head.frozen, "--cache", with_head.path("held-cache"), "--method", "losspred", "--epochs", "3"]
    train_head.main([*arguments, "--options", '{"projection": 3}', "--out", str(tmp_path / "head")])
    evaluate.main(judging(with_head, str(tmp_path / "head"), tmp_path))

    backbone = load_backbone(with_head.root / "backbone")
    head = load_head(tmp_path / "head", backbone.hash).module
    unit = embed(head, direct["odd"].representation)  # (n, 3)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2.0)
    labels = direct["odd"].dataset.labels
    correct = labels[cosine.argmax(axis=1)] == labels
    found = json.loads((tmp_path / "results.json").read_text())["data"]["odd"]
    assert found["recall_at_1"] == pytest.approx(correct.mean())
    assert abs(correct.mean() - direct["odd"].correct.mean()) > 0.03
    expected = metrics.r_auroc(direct["odd"].scores["class_entropy"], correct)
    assert found["scores"]["class_entropy"]["r_auroc"] == pytest.approx(expected, abs=2e-3)


def test_classes_that_are_never_confused_leave_nothing_to_rank(with_head: Stages, tmp_path: Path) -> None:
    images, labels = pictures(1, seed=0)
    path = write_packed(tmp_path / "twins.npz", images * 2, np.tile(labels, 2))

    evaluate.main(arguments(with_head, tmp_path, "--data", f"twins={path}"))

    found = json.loads((tmp_path / "results.json").read_text())["data"]["twins"]
    assert (found["images"], found["classes"], found["recall_at_1"], found["scores"]) == (12, 6, 1.0, {})
