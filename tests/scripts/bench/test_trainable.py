import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone import create_backbone
from models.errors import UserError
from models.methods.base import Sizes, Standardise
from models.methods.losspred import LossPrediction
from models.methods.registry import METHODS, make_head
from models.methods.sngp import Sngp
from models.preprocess import Preprocessing
from models.selections import DatasetError
from scripts import bench_uncertainty
from scripts.bench import trainable
from scripts.bench.pixels import PreLogits, represented
from scripts.bench.plan import Plan, Trainable
from scripts.bench.trainable import Data, TrainableRun
from tests.models.methods.problem import SIZES, batch, examples
from tests.offline import CLASSES, pictures, write_packed

OWN_LOSS = {
    "ce", "infonce", "mcinfonce", "elk", "nivmf", "hib", "hetxl", "losspred", "losspred-joint", "losspred-pcgrad",
    "mc-dropout", "ensemble", "sngp",
}  # fmt: skip
CLASSIFYING = {"ce", "hetxl", "losspred", "losspred-joint", "losspred-pcgrad", "mc-dropout", "ensemble", "sngp"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Trainable:
    """Four classes to train on, two others, some of each held out; many images are too faint to tell."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("train", "held")):
        write_packed(folder / f"{name}.npz", *pictures(per_class=12, seed=seed, faintest=0.0))
    return Trainable(
        train=f"{folder}/train.npz@0-3",
        unseen=f"{folder}/held.npz@4-5",
        seen=f"{folder}/held.npz@0-3",
        model="test_resnet",
        args={},
        epochs=2,
        batch_size=16,
        seeds=2,
    )


@pytest.fixture(scope="module")
def data(part: Trainable) -> Data:
    return trainable.read_data(part)


def plan(out: Path, part: Trainable | None, methods: tuple[str, ...] = tuple(METHODS)) -> Plan:
    """A bench of nothing but the trainable part."""
    nothing: tuple[Any, ...] = ()
    return Plan(out, nothing, nothing, None, methods, 1, 1, 1, 1, nothing, nothing, None, part)


def untrained(part: Trainable) -> PreLogits:
    torch.manual_seed(0)
    return PreLogits(create_backbone(part.model, classes=(), preprocessing=Preprocessing(part.size)).module)


def test_methods_that_train_by_a_loss_of_their_own_run_once_for_each_seed(tmp_path: Path, part: Trainable) -> None:
    runs = list(trainable.trainable_runs(plan(tmp_path, part)))

    assert {run.method for run in runs} == OWN_LOSS
    assert len(runs) == len(set(runs)) == 2 * len(OWN_LOSS)
    assert [run.seed for run in runs] == [0] * len(OWN_LOSS) + [1] * len(OWN_LOSS)


def test_only_the_methods_of_the_plan_run(tmp_path: Path, part: Trainable) -> None:
    runs = trainable.trainable_runs(plan(tmp_path, part, ("knn", "hib", "retrieval")))

    assert list(runs) == [TrainableRun("hib", 0), TrainableRun("hib", 1)]


def test_a_bench_without_the_part_has_no_runs_tasks_or_rows(tmp_path: Path) -> None:
    without = plan(tmp_path, None)

    assert list(trainable.trainable_runs(without)) == []
    assert trainable.trainable_tasks(without) == []
    assert trainable.trainable_rows(without) == []


@pytest.mark.parametrize("method", sorted(OWN_LOSS))
def test_every_method_trains_its_backbone_and_is_judged_after_each_epoch(
    method: str, part: Trainable, data: Data
) -> None:
    epochs = trainable.train_from_scratch(part, data, TrainableRun(method, 0))

    keys = {"epoch", "loss", "recall_at_1", "r_auroc"}
    if method in CLASSIFYING:
        keys |= {"accuracy", "correctness_auroc"}
    assert [set(epoch) for epoch in epochs] == [keys, keys]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(np.isfinite(value) for epoch in epochs for value in epoch.values())


def test_a_backbone_learns_to_classify_and_its_entropy_to_tell_faint_images(part: Trainable, data: Data) -> None:
    longer = replace(part, epochs=8, batch_size=8)

    epochs = trainable.train_from_scratch(longer, data, TrainableRun("ce", 0))

    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert epochs[-1]["accuracy"] > 0.6  # chance is 0.25
    assert epochs[-1]["correctness_auroc"] > 0.65
    assert epochs[-1]["recall_at_1"] > 0.6  # chance is 0.5


def test_a_run_depends_on_its_seed_alone(part: Trainable, data: Data) -> None:
    short = replace(part, epochs=1)
    first = trainable.train_from_scratch(short, data, TrainableRun("losspred-pcgrad", 0))
    torch.manual_seed(77)

    assert trainable.train_from_scratch(short, data, TrainableRun("losspred-pcgrad", 0)) == first
    assert trainable.train_from_scratch(short, data, TrainableRun("losspred-pcgrad", 1)) != first


def test_stopgrad_joint_and_pcgrad_are_three_trainings(part: Trainable, data: Data) -> None:
    runs = [TrainableRun(method, 0) for method in ("losspred", "losspred-joint", "losspred-pcgrad")]

    losses = [trainable.train_from_scratch(replace(part, epochs=1), data, run)[0]["loss"] for run in runs]

    assert len(set(losses)) == 3


def test_a_run_writes_its_figures_and_is_not_done_again(tmp_path: Path, part: Trainable) -> None:
    made = plan(tmp_path, replace(part, limit=40), ("ce",))
    first, second = trainable.trainable_tasks(made)

    first()

    (row,) = trainable.trainable_rows(made)
    kept = json.loads((tmp_path / "trainable" / "ce" / "0" / "figures.json").read_text())
    assert kept == {key: row[key] for key in ("images", "seconds", "epochs")}
    assert (row["method"], row["label"], row["seed"], row["images"]) == ("ce", "CE entropy", 0, 40)
    assert row["seconds"] > 0
    assert len(row["epochs"]) == 2
    assert len(trainable.trainable_tasks(made)) == 1

    second()

    assert trainable.trainable_tasks(made) == []
    assert [row["seed"] for row in trainable.trainable_rows(made)] == [0, 1]


def test_a_task_reaches_another_process_whole(tmp_path: Path, part: Trainable) -> None:
    for task in trainable.trainable_tasks(plan(tmp_path, part)):
        assert isinstance(task, partial)
        assert pickle.loads(pickle.dumps(task)).args == task.args


def asked_for(*more: str) -> Plan:
    """What the command plans with these arguments."""
    usual = ["--backbone", "a=b", "--train", "c", "--data", "d=e", "--out", "f"]
    return bench_uncertainty._plan(bench_uncertainty._arguments().parse_args([*usual, *more]))


def test_the_commands_options_ask_for_the_part() -> None:
    sets = ["--trainable", "train", "--trainable-unseen", "unseen", "--trainable-seen", "seen"]

    asked = asked_for(*sets, "--trainable-epochs", "7", "--trainable-seeds", "1", "--trainable-limit", "99")

    assert asked.trainable == Trainable("train", "unseen", "seen", epochs=7, seeds=1, limit=99)
    assert asked_for(*sets).trainable == Trainable("train", "unseen", "seen")
    assert asked_for().trainable is None


@pytest.mark.parametrize("given", [["--trainable-unseen", "unseen"], ["--trainable-seen", "seen"]])
def test_the_part_needs_sets_to_be_judged_on(given: list[str]) -> None:
    with pytest.raises(UserError, match="needs --trainable-unseen and --trainable-seen to be judged on"):
        asked_for("--trainable", "train", *given)


def test_a_run_that_stops_half_way_leaves_no_figures(
    tmp_path: Path, part: Trainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, part, ("ce",))

    def stop(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainable, "judged", stop)
    with pytest.raises(KeyboardInterrupt):
        trainable.trainable_tasks(made)[0]()

    assert trainable.trainable_rows(made) == []
    assert len(trainable.trainable_tasks(made)) == 2


def test_held_out_images_of_other_classes_are_refused_before_anything_runs(part: Trainable) -> None:
    with pytest.raises(UserError, match=r"has other classes than .*; held-out images must be of the same"):
        trainable.require_readable(replace(part, seen=part.unseen))


def test_a_set_that_is_not_there_is_told_before_anything_runs(part: Trainable) -> None:
    with pytest.raises(DatasetError, match="no such folder or file"):
        trainable.require_readable(replace(part, unseen="nowhere"))


def test_sets_that_fit_are_let_through(part: Trainable) -> None:
    trainable.require_readable(part)


def standardised_inputs(head: LossPrediction, features: Tensor) -> Tensor:
    """What the projection's linear layer sees."""
    seen: list[Tensor] = []
    handle = head.projection.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.projection(features)
    handle.remove()
    return seen[0]


def test_standardisation_follows_features_that_move() -> None:
    torch.manual_seed(0)
    head = LossPrediction(SIZES, projection=4)
    clean, labels = examples()[0].clean(400, seed=0)
    head.prepare(clean, labels)
    trainable.follow_backbone(head)
    moved = 3 * clean.roll(1, dims=1).square() + 1

    for _ in range(200):
        training = standardised_inputs(head.train(), moved)
    judging = standardised_inputs(head.eval(), moved)

    for inputs in (training, judging):
        torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(13), atol=1e-2, rtol=0.0)
        torch.testing.assert_close(inputs.std(dim=0), torch.ones(13), atol=1e-2, rtol=0.0)


def test_before_any_step_a_following_head_scores_as_one_that_does_not(part: Trainable) -> None:
    for method in sorted(OWN_LOSS):
        torch.manual_seed(0)
        head = make_head(method, SIZES)
        clean, labels = examples()[0].clean(400, seed=0)
        head.prepare(clean, labels)
        before = head.eval()(clean)

        trainable.follow_backbone(head)

        torch.testing.assert_close(head.eval()(clean), before, atol=1e-3, rtol=1e-3)
        standardisations = sum(isinstance(module, Standardise) for module in head.modules())
        assert sum(isinstance(module, nn.BatchNorm1d) for module in head.modules()) == standardisations > 0


def test_figures_are_those_of_brute_force(part: Trainable, data: Data) -> None:
    backbone = untrained(part)
    head = trainable.new_head("losspred", backbone, data.train)
    assert isinstance(head, LossPrediction)

    found = trainable.judged(head, backbone, data)

    with torch.no_grad():
        features = represented(backbone, data.unseen.images)
        embedding, uncertainty = F.normalize(head.projection(features), dim=1).double(), head(features).tolist()
        seen = represented(backbone, data.seen.images)
        right = (head.classifier(head.projection(seen)).argmax(dim=1).numpy() == data.seen.labels).tolist()
        doubt = head(seen).tolist()
    hits = []
    for query, label in enumerate(data.unseen.labels):
        others = [other for other in range(len(embedding)) if other != query]
        nearest = max(others, key=lambda other: float(embedding[query] @ embedding[other]))
        hits.append(bool(data.unseen.labels[nearest] == label))
    assert found["recall_at_1"] == pytest.approx(np.mean(hits))
    assert found["r_auroc"] == pytest.approx(auroc_by_pairs(uncertainty, hits))
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["correctness_auroc"] == pytest.approx(auroc_by_pairs(doubt, right))


def auroc_by_pairs(uncertainty: list[float], correct: list[bool]) -> float:
    pairs = [
        (wrong > right) + (wrong == right) / 2
        for wrong, miss in zip(uncertainty, correct, strict=True)
        for right, hit in zip(uncertainty, correct, strict=True)
        if hit and not miss
    ]
    return float(np.mean(pairs))


def test_sngp_is_judged_with_the_covariance_of_the_backbone_as_it_is(part: Trainable, data: Data) -> None:
    backbone = untrained(part)
    head = trainable.new_head("sngp", backbone, data.train)
    assert isinstance(head, Sngp)
    before = head.covariance.clone()

    trainable.judged(head, backbone, data)

    judged_with = head.covariance.clone()
    assert not torch.equal(judged_with, before)
    head.finish(represented(backbone, data.train.images), torch.from_numpy(data.train.labels))
    assert torch.equal(head.covariance, judged_with)


def test_logits_of_losspred_are_those_whose_cross_entropy_it_minimises() -> None:
    torch.manual_seed(0)
    head = LossPrediction(SIZES, projection=4)
    head.prepare(*examples()[0].clean(400, seed=0))
    made = batch(double=False)

    logits = head.logits(made.flat().features[0])

    assert logits.shape == (32, 4)
    torch.testing.assert_close(F.cross_entropy(logits, made.labels.repeat(2)), head.losses(made)[0])
    assert trainable.class_scores(head, made.features[0]) is not None


def test_a_classifying_head_names_the_class_it_finds_most_probable() -> None:
    torch.manual_seed(0)
    head = make_head("ensemble", SIZES)
    features = examples()[0].clean(30, seed=0)[0]

    scores = trainable.class_scores(head, features)

    assert scores is not None
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(30))
    assert trainable.class_scores(make_head("infonce", Sizes(12, 12, len(CLASSES))), features) is None
