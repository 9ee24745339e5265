import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.backbone import load_backbone
from models.heads import load_head
from models.representations import Representations, load_representations
from models.targets import classification_loss, retrieval_loss
from scripts import cache_representations, train_head
from scripts.train_head import HeadTraining, joined, predict
from tests.scripts.conftest import IN_TORCH, Stages
from uncertainty.metrics import spearman


def problem(count: int, seed: int = 0, views: int = 2) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Representations (v, n, 8), and losses (v, n) that follow from their direction."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(views, count, 8)).astype(np.float32)
    direction = values / np.linalg.norm(values, axis=2, keepdims=True)
    return values, np.exp(1.5 * direction[:, :, 0] - direction[:, :, 1]).astype(np.float32)


@pytest.mark.parametrize("loss", ["ranking", "neighbour-ranking", "mse"])
def test_a_loss_that_the_representation_shows_is_learned(loss: str) -> None:
    training = HeadTraining(loss=loss, epochs=12, batch_size=64, hidden=64, learning_rate=3e-3)

    head, results = train_head.train_head(*problem(1500), training)

    unseen, losses = problem(500, seed=1, views=1)
    assert spearman(predict(head, unseen[0]), losses[0]) > 0.95
    assert results["held_back"]["held_back_spearman"] > 0.95
    assert not head.training


def test_a_loss_without_a_cause_is_not_learned() -> None:
    views, _ = problem(600)
    losses = np.random.default_rng(5).exponential(size=views.shape[:2]).astype(np.float32)

    _, results = train_head.train_head(views, losses, HeadTraining(epochs=3, batch_size=64, hidden=32))

    assert abs(results["held_back"]["held_back_spearman"]) < 0.4


def test_images_held_back_are_not_trained_on() -> None:
    views, losses = problem(200)
    training = HeadTraining(epochs=2, batch_size=30, hidden=16, held_back=0.25)
    held_back = np.random.default_rng(training.seed).permutation(200)[150:]
    other = losses.copy()
    other[:, held_back] *= 1e3

    first, _ = train_head.train_head(views, losses, training)
    second, _ = train_head.train_head(views, other, training)

    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_the_same_seed_gives_the_same_head_and_another_gives_another() -> None:
    views, losses = problem(120)
    weights = [
        train_head.train_head(views, losses, HeadTraining(epochs=2, batch_size=30, hidden=16, seed=seed))[
            0
        ].state_dict()
        for seed in (0, 0, 1)
    ]

    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


def test_fewer_images_than_a_batch_are_enough() -> None:
    head, results = train_head.train_head(*problem(20), HeadTraining(epochs=2, batch_size=256, hidden=16))

    assert len(results["history"]) == 2
    assert np.isfinite(predict(head, problem(20)[0][0])).all()


def test_a_prediction_is_made_in_evaluation_mode_for_either_precision() -> None:
    head, _ = train_head.train_head(*problem(100), HeadTraining(epochs=1, batch_size=30, hidden=16, dropout=0.5))
    head.train()
    values = problem(50)[0][0]

    assert np.array_equal(predict(head, values), predict(head, values))
    assert np.allclose(predict(head, values.astype(np.float16)), predict(head, values), atol=1e-2)


def test_the_stage_writes_a_head_for_its_backbone(with_head: Stages) -> None:
    backbone = load_backbone(with_head.root / "backbone")
    head = load_head(with_head.root / "head", backbone.hash)
    training = json.loads((with_head.root / "head" / "training.json").read_text())

    assert head.description["training"]["target"] == "retrieval"
    assert head.description["data"] == [with_head.path("held.npz")]
    assert (training["images"], training["views"]) == (120, 3)
    assert len(training["history"]) == training["training"]["epochs"]
    assert training["held_back"] == training["history"][-1]
    assert training["history"][-1]["loss"] < training["history"][0]["loss"]


def test_the_head_ranks_what_it_was_trained_for(with_head: Stages) -> None:
    backbone = load_backbone(with_head.root / "backbone")
    cached = load_representations(with_head.root / "held-cache", backbone.hash)

    uncertainty = predict(load_head(with_head.root / "head", backbone.hash).module, cached.clean)

    assert spearman(uncertainty, retrieval_loss(cached)[0]) > 0.4


def caches(stages: Stages, *names: str) -> list[Representations]:
    backbone = load_backbone(stages.root / "backbone")
    return [load_representations(stages.root / f"{name}-cache", backbone.hash) for name in names]


@pytest.mark.parametrize("target", ["retrieval", "classification"])
def test_caches_are_joined_side_by_side_each_with_its_own_targets(target: str, cached: Stages) -> None:
    backbone = load_backbone(cached.root / "backbone")
    found = caches(cached, "train", "reference")

    views, losses = joined(found, backbone, target)

    expected: list[Any] = [
        retrieval_loss(each) if target == "retrieval" else classification_loss(each, backbone.module) for each in found
    ]
    assert views.shape == (1, 192 + 60, 96)
    assert np.array_equal(losses, np.concatenate(expected, axis=1))
    assert np.array_equal(views[0, 192:], found[1].clean)


def test_caches_of_different_numbers_of_views_are_not_joined(cached: Stages) -> None:
    with pytest.raises(SystemExit, match="different numbers of views; cache them with the same --views"):
        joined(caches(cached, "held", "train"), load_backbone(cached.root / "backbone"), "retrieval")


def test_a_classifiers_loss_needs_its_own_classes(cached: Stages, tmp_path: Path) -> None:
    data = ["--data", f"{cached.path('held.npz')}@0-2", "--out", str(tmp_path / "cache")]
    cache_representations.main([*cached.frozen, *data, *IN_TORCH])
    arguments = [*cached.frozen, "--cache", str(tmp_path / "cache"), "--target", "classification"]

    with pytest.raises(SystemExit, match="needs the backbone's own classes; try --target retrieval"):
        train_head.main([*arguments, "--out", str(tmp_path / "head")])
