import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backbone import Backbone, load_backbone
from models.heads import load_head, predict
from models.methods.base import Head, Sizes
from models.methods.fit import Examples, Schedule
from models.methods.registry import METHODS
from models.representations import Representations, load_representations
from models.targets import TARGETS, TargetError, classification_loss, scaled_retrieval_loss
from scripts import cache_representations, train_head
from scripts.train_head import joined, judged, split
from tests.scripts.conftest import IN_TORCH, POOLED, SMALL, Stages
from uncertainty.metrics import r_auroc, spearman

SIZES = Sizes(dimension=8, features=8, classes=3)
FAST = Schedule(epochs=2, batch_size=30)
TINY: dict[str, Any] = {"hidden": 16, "dropout": 0.0}


def problem(count: int, seed: int = 0, views: int = 2) -> Examples:
    """Representations (v, n, 8), and losses (v, n) that follow from their direction."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(views, count, 8)).astype(np.float32)
    direction = values / np.linalg.norm(values, axis=2, keepdims=True)
    losses = np.exp(1.5 * direction[:, :, 0] - direction[:, :, 1]).astype(np.float32)
    return Examples(values, rng.integers(3, size=count), losses)


def trained(examples: Examples, schedule: Schedule = FAST, **options: Any) -> Head:
    return train_head.train_head(POOLED, SIZES, examples, schedule, {**TINY, **options})[0]


@pytest.mark.parametrize("objective", ["ranking", "neighbour-ranking", "mse"])
def test_a_loss_that_the_representation_shows_is_learned(objective: str) -> None:
    schedule = Schedule(epochs=12, batch_size=64, learning_rate=3e-3)
    kept, held_back = split(problem(1500), 0.1, seed=0)

    head = trained(kept, schedule, objective=objective, hidden=64)

    unseen = problem(500, seed=1, views=1)
    assert unseen.targets is not None
    assert spearman(predict(head, unseen.features[0]), unseen.targets[0]) > 0.95
    assert judged(head, held_back)["spearman"] > 0.95
    assert not any(module.training for module in head.modules())


def test_a_loss_without_a_cause_is_not_learned() -> None:
    losses = np.random.default_rng(5).exponential(size=(2, 600)).astype(np.float32)
    kept, held_back = split(replace(problem(600), targets=losses), 0.1, seed=0)

    head = trained(kept, Schedule(epochs=3, batch_size=64), hidden=32)

    assert abs(judged(head, held_back)["spearman"]) < 0.4


def test_losses_that_are_all_equal_are_refused(
    with_layers: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "retrieval", lambda cached, backbone: np.ones(cached.views.shape[:2], np.float32))

    with pytest.raises(TargetError, match="the same retrieval loss: there is nothing to learn"):
        train_head.main([*with_layers.frozen, "--cache", with_layers.path("held-layers"), "--out", str(tmp_path)])


def test_targets_that_are_all_equal_have_no_order_to_agree_with() -> None:
    examples = problem(60)
    constant = replace(examples, targets=np.zeros((len(examples.features), 60), np.float32))

    assert "spearman" not in judged(trained(examples), constant)


def test_a_share_of_the_images_is_held_back_with_all_that_belongs_to_them() -> None:
    examples = problem(200)
    examples = replace(examples, features=np.arange(2 * 200 * 8, dtype=np.float32).reshape(2, 200, 8))

    kept, held_back = split(examples, 0.25, seed=3)

    assert (kept.labels.size, held_back.labels.size) == (150, 50)
    images = np.concatenate([kept.features, held_back.features], axis=1)[0, :, 0] / 8  # each its own number
    assert np.array_equal(np.sort(images), np.arange(200))
    for part in (kept, held_back):
        index = (part.features[0, :, 0] / 8).astype(np.int64)
        assert np.array_equal(part.features, examples.features[:, index])
        assert np.array_equal(part.labels, examples.labels[index])
        assert part.targets is not None
        assert examples.targets is not None
        assert np.array_equal(part.targets, examples.targets[:, index])
    assert not np.array_equal(split(examples, 0.25, seed=4)[1].features, held_back.features)


def test_images_held_back_are_not_trained_on() -> None:
    examples = problem(200)
    held_back = np.random.default_rng(0).permutation(200)[150:]
    assert examples.targets is not None
    other = replace(examples, features=examples.features.copy(), targets=examples.targets.copy())
    assert other.targets is not None
    other.features[:, held_back], other.targets[:, held_back] = 7.0, 1e3

    first, second = (trained(split(each, 0.25, seed=0)[0]) for each in (examples, other))

    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_the_same_seed_gives_the_same_head_and_another_gives_another() -> None:
    weights = [trained(problem(120), replace(FAST, seed=seed)).state_dict() for seed in (0, 0, 1)]

    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


def test_fewer_images_than_a_batch_are_enough() -> None:
    schedule = Schedule(epochs=2, batch_size=256)

    head, history = train_head.train_head(POOLED, SIZES, problem(20), schedule, TINY)

    assert [row["epoch"] for row in history] == [1, 2]
    assert np.isfinite([row["loss"] for row in history]).all()
    assert np.isfinite(predict(head, problem(20).features[0])).all()


def test_a_method_without_gradients_is_prepared_and_finished_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, POOLED, replace(METHODS[POOLED], trains=False))

    head, history = train_head.train_head(POOLED, SIZES, problem(60), FAST, TINY)

    assert history == []
    assert not any(module.training for module in head.modules())
    assert not torch.equal(dict(head.named_buffers())["members.0.standardise.scale"], torch.ones(9))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hiden": 3}, "'hiden'"),
        ({"objective": "rank"}, "one of ranking, neighbour-ranking, mse"),
        ({"hidden": -1}, ""),
    ],
)
def test_options_that_a_method_does_not_take_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SystemExit, match=rf"{POOLED} cannot be made with --options \{{.*\}}: .*{named}"):
        train_head.train_head(POOLED, SIZES, problem(20), FAST, options)


def test_a_head_is_judged_by_its_neighbours_and_its_target() -> None:
    examples, head = problem(80), trained(problem(80))
    rows = examples.features[0].astype(np.float64)
    cosine = (rows @ rows.T) / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
    np.fill_diagonal(cosine, -2.0)
    correct = examples.labels[cosine.argmax(axis=1)] == examples.labels

    found = judged(head, examples)

    assert examples.targets is not None
    uncertainty = predict(head, examples.features[0])
    assert found["recall_at_1"] == pytest.approx(correct.mean())
    assert found["r_auroc"] == pytest.approx(r_auroc(uncertainty, correct))
    assert found["spearman"] == pytest.approx(spearman(uncertainty, examples.targets[0]))
    assert judged(head, replace(examples, targets=None)).keys() == {"recall_at_1", "r_auroc"}


def test_where_no_neighbour_is_wrong_there_is_no_r_auroc() -> None:
    examples = replace(problem(20), labels=np.zeros(20, dtype=np.int64))

    assert judged(trained(problem(20)), examples).keys() == {"recall_at_1", "spearman"}


def test_the_stage_writes_a_head_for_its_backbone(with_head: Stages) -> None:
    backbone = load_backbone(with_head.root / "backbone")
    head = load_head(with_head.root / "head", backbone.hash)
    training = json.loads((with_head.root / "head" / "training.json").read_text())

    assert head.description["training"]["target"] == "retrieval"
    assert head.description["training"]["method"] == head.description["method"] == POOLED
    assert head.description["options"] == {**METHODS[POOLED].options, **json.loads(SMALL)}
    assert head.description["data"] == [with_head.path("held.npz")]
    assert head.module.sizes == Sizes(96, 96, 6)
    assert (training["images"], training["views"]) == (108, 3)
    assert len(training["history"]) == training["training"]["epochs"] == 20
    assert training["history"][-1]["loss"] < training["history"][0]["loss"]
    examples = joined(caches(with_head, "held"), backbone, "retrieval", layers=False)
    assert training["held_back"] == pytest.approx(judged(head.module, split(examples, 0.1, seed=0)[1]))


def test_the_stage_trains_on_what_it_does_not_hold_back(with_head: Stages) -> None:
    backbone = load_backbone(with_head.root / "backbone")
    kept, _ = split(joined(caches(with_head, "held"), backbone, "retrieval", layers=False), 0.1, seed=0)
    schedule = Schedule(**{**METHODS[POOLED].schedule, "epochs": 20, "batch_size": 36})

    expected, _ = train_head.train_head(POOLED, Sizes(96, 96, 6), kept, schedule, json.loads(SMALL))

    found = load_head(with_head.root / "head", backbone.hash).module.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.state_dict().items())


def test_the_head_ranks_what_it_was_trained_for(with_head: Stages) -> None:
    backbone = load_backbone(with_head.root / "backbone")
    cached = load_representations(with_head.root / "held-cache", backbone.hash)

    uncertainty = predict(load_head(with_head.root / "head", backbone.hash).module, cached.clean)

    assert spearman(uncertainty, scaled_retrieval_loss(cached)[0]) > 0.4


@pytest.mark.parametrize("method", METHODS)
def test_the_stage_trains_any_method(method: str, with_layers: Stages, tmp_path: Path) -> None:
    arguments = [*with_layers.frozen, "--cache", with_layers.path("held-layers"), "--method", method]
    train_head.main([*arguments, "--epochs", "1", "--seed", "3", "--out", str(tmp_path)])

    head = load_head(tmp_path, load_backbone(with_layers.root / "backbone").hash)
    training = json.loads((tmp_path / "training.json").read_text())
    assert head.layers == METHODS[method].layers
    assert training["training"]["target"] == METHODS[method].target
    usual = asdict(Schedule(**{**METHODS[method].schedule, "epochs": 1, "seed": 3}))
    assert {key: training["training"][key] for key in usual} == usual
    assert len(training["history"]) == METHODS[method].trains
    assert 0 < training["held_back"]["recall_at_1"] <= 1


def test_a_method_may_ask_for_all_layers_and_for_a_schedule_which_arguments_overrule(
    with_layers: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = replace(METHODS[POOLED], layers=True, schedule={"learning_rate": 0.02, "views": 1, "epochs": 7})
    monkeypatch.setitem(METHODS, POOLED, asking)
    arguments = [*with_layers.frozen, "--cache", with_layers.path("held-layers"), "--options", SMALL]

    train_head.main([*arguments, "--method", POOLED, "--epochs", "2", "--out", str(tmp_path)])

    training = json.loads((tmp_path / "training.json").read_text())["training"]
    assert load_head(tmp_path, load_backbone(with_layers.root / "backbone").hash).layers
    assert (training["learning_rate"], training["views"], training["epochs"]) == (0.02, 1, 2)
    assert training["batch_size"] == Schedule.batch_size


def test_another_target_may_be_asked_for(with_layers: Stages, tmp_path: Path) -> None:
    arguments = [*with_layers.frozen, "--cache", with_layers.path("held-layers"), "--target", "classification"]
    train_head.main([*arguments, "--epochs", "1", "--options", SMALL, "--out", str(tmp_path)])

    assert json.loads((tmp_path / "head.json").read_text())["training"]["target"] == "classification"


def test_a_head_may_see_all_layers(with_layers: Stages) -> None:
    backbone = load_backbone(with_layers.root / "backbone")
    (cached,) = caches(with_layers, "held", kind="layers")
    assert cached.description["augmentation"]["degraded"] == 0.5

    head = load_head(with_layers.root / "head-layers", backbone.hash)

    assert head.layers
    assert head.module.sizes == Sizes(96, 905, 6)
    other = np.array(cached.features[0])
    other[:, 96:] = 0.0
    assert not np.allclose(predict(head.module, cached.features[0]), predict(head.module, other), rtol=0.05)


def caches(stages: Stages, *names: str, kind: str = "cache") -> list[Representations]:
    backbone = load_backbone(stages.root / "backbone")
    return [load_representations(stages.root / f"{name}-{kind}", backbone.hash) for name in names]


@pytest.fixture(scope="module")
def backbone(cached: Stages) -> Backbone:
    return load_backbone(cached.root / "backbone")


@pytest.fixture(scope="module")
def three_classes(cached: Stages) -> Representations:
    """A cache of some classes of the data alone."""
    out = cached.path("three-cache")
    cache_representations.main([*cached.frozen, "--data", f"{cached.path('held.npz')}@3-5", "--out", out, *IN_TORCH])
    return caches(cached, "three")[0]


@pytest.mark.parametrize("target", ["retrieval", "classification"])
def test_caches_are_joined_side_by_side_each_with_its_own_targets(
    target: str, cached: Stages, backbone: Backbone
) -> None:
    found = caches(cached, "train", "reference")

    examples = joined(found, backbone, target, layers=False)

    expected: list[Any] = [
        scaled_retrieval_loss(each) if target == "retrieval" else classification_loss(each, backbone) for each in found
    ]
    assert examples.targets is not None
    assert examples.features.shape == (1, 192 + 60, 96)
    assert np.array_equal(examples.targets, np.concatenate(expected, axis=1))
    assert np.array_equal(examples.features[0, 192:], found[1].clean)


def test_classes_of_one_name_are_one_class_in_all_caches(
    cached: Stages, backbone: Backbone, three_classes: Representations
) -> None:
    train, reference = caches(cached, "train", "reference")
    renamed = replace(three_classes, description={**three_classes.description, "classes": ["new", "white", "newer"]})
    assert three_classes.description["classes"] == ["green", "violet", "white"]
    assert train.description["classes"][3:] == ["green", "violet", "white"]

    examples = joined([train, three_classes, reference, renamed], backbone, None, layers=False)

    assert examples.targets is None
    others = np.array([6, 5, 7])[three_classes.labels]
    assert np.array_equal(
        examples.labels, np.concatenate([train.labels, 3 + three_classes.labels, reference.labels, others])
    )


def test_one_cache_is_not_copied(cached: Stages, backbone: Backbone) -> None:
    (held,) = caches(cached, "held")

    examples = joined([held], backbone, "retrieval", layers=False)

    assert np.shares_memory(examples.features, held.features)
    assert np.array_equal(examples.labels, held.labels)


@pytest.mark.parametrize("layers", [False, True])
def test_layers_are_looked_at_only_where_asked(layers: bool, with_layers: Stages, backbone: Backbone) -> None:
    held, reference = caches(with_layers, "held", "reference", kind="layers")

    examples = joined([held, reference], backbone, "retrieval", layers)

    parts = [each.features if layers else each.views for each in (held, reference)]
    assert examples.features.shape[2] == (905 if layers else 96)
    assert np.array_equal(examples.features, np.concatenate(parts, axis=1))
    assert examples.targets is not None
    assert np.array_equal(
        examples.targets, np.concatenate([scaled_retrieval_loss(held), scaled_retrieval_loss(reference)], axis=1)
    )


def test_a_head_of_all_layers_needs_caches_of_all_layers(
    with_layers: Stages, cached: Stages, backbone: Backbone
) -> None:
    mixed = [*caches(with_layers, "reference", kind="layers"), *caches(cached, "held")]

    with pytest.raises(SystemExit, match="different numbers of views"):
        joined(mixed, backbone, None, layers=True)
    with pytest.raises(SystemExit, match="needs caches made with `candor cache-representations --layers`"):
        joined(mixed[1:], backbone, None, layers=True)


def test_caches_of_different_numbers_of_views_are_not_joined(cached: Stages, backbone: Backbone) -> None:
    with pytest.raises(SystemExit, match="different numbers of views; cache them with the same --views"):
        joined(caches(cached, "held", "train"), backbone, "retrieval", layers=False)


def test_a_classifiers_loss_needs_its_own_classes(
    cached: Stages, three_classes: Representations, tmp_path: Path
) -> None:
    arguments = [*cached.frozen, "--cache", cached.path("three-cache"), "--target", "classification"]

    with pytest.raises(TargetError, match="needs the backbone's own classes; try --target"):
        train_head.main([*arguments, "--method", POOLED, "--out", str(tmp_path / "head")])
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("argument", [["--method", "no-such"], ["--target", "no-such"], ["--options", "[1]"]])
def test_what_there_is_not_is_a_usage_error(argument: list[str], cached: Stages, tmp_path: Path) -> None:
    arguments = [*cached.frozen, "--cache", cached.path("held-cache"), "--out", str(tmp_path)]

    with pytest.raises(SystemExit) as raised:
        train_head.main([*arguments, *argument])

    assert raised.value.code == 2
    assert set(TARGETS) >= {method.target for method in METHODS.values() if method.target}
