from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbone import represent
from models.heads import embed, load_head, predict, save_head
from models.methods.base import Batch, Head, PositiveScalar, Sizes, Standardise
from models.methods.fit import CachedBatches, Schedule, fit
from models.methods.predicted_loss import OBJECTIVES, PredictedLoss
from models.methods.registry import METHODS, make_head
from models.targets import TARGETS
from tests.models.methods.problem import SIZES, batch, examples
from tests.models.test_losses import hinge_by_loop
from tests.offline import tiny_backbone
from uncertainty.metrics import spearman

LAYERS = Sizes(dimension=8, features=12, classes=4)  # the last four of the features are statistics of layers


def features(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3.0, 2.0, (count, 12)).astype(np.float32))


def prepared(sizes: Sizes = SIZES, seed: int = 0, **options: Any) -> Head:
    """A head whose input is standardised by random features, in evaluation mode."""
    torch.manual_seed(seed)
    head = PredictedLoss(sizes, **{"hidden": 16, **options})
    head.prepare(features(100), torch.zeros(100, dtype=torch.int64))
    return head.eval()


def by_hand(values: Tensor, dimension: int) -> np.ndarray:
    """Direction of the first columns, log of their length, and the other columns, in float64."""
    rows = values.double().numpy()
    length = np.linalg.norm(rows[:, :dimension], axis=1, keepdims=True)
    return np.hstack([rows[:, :dimension] / length, np.log(length), rows[:, dimension:]])


@pytest.mark.parametrize("sizes", [SIZES, LAYERS], ids=["pooled", "layers"])
def test_the_input_is_direction_log_length_and_then_what_the_layers_say(sizes: Sizes) -> None:
    values = features(5)

    assert np.allclose(Standardise(sizes)(values), by_hand(values, sizes.dimension), atol=1e-6)


@pytest.mark.parametrize("sizes", [SIZES, LAYERS], ids=["pooled", "layers"])
def test_the_input_has_mean_zero_and_variance_one_over_the_training_features(sizes: Sizes) -> None:
    values, standardise = features(500), Standardise(sizes)
    parts = by_hand(values, sizes.dimension)

    standardise.fit(values)

    assert np.allclose(standardise.mean, parts.mean(axis=0), atol=1e-5)
    assert np.allclose(standardise.scale, parts.std(axis=0, ddof=1), rtol=1e-4, atol=2e-6)
    assert torch.allclose(standardise(values).mean(dim=0), torch.zeros(13), atol=1e-4)
    assert torch.allclose(standardise(values).std(dim=0), torch.ones(13), atol=1e-3)


def test_a_representation_of_length_zero_has_a_finite_uncertainty() -> None:
    assert torch.isfinite(prepared()(torch.zeros(2, 12))).all()


def test_uncertainty_is_one_positive_number_an_image() -> None:
    uncertainty = prepared()(features(20))

    assert uncertainty.shape == (20,)
    assert (uncertainty > 0).all()


def test_a_head_that_is_sure_of_everything_stays_above_zero() -> None:
    head = prepared()
    nn.init.constant_(list(head.parameters())[-1], -1000.0)

    assert (head(features(5)) > 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_gradient_reaches_the_features_or_the_backbone(objective: str) -> None:
    backbone = tiny_backbone()
    head = PredictedLoss(Sizes(96, 96, 6), objective, hidden=16)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    representation = represent(backbone.module, images, backbone.preprocessing)
    representation.retain_grad()
    assert representation.requires_grad

    seen = Batch(representation[None], torch.arange(6), torch.arange(6.0)[None])
    torch.autograd.backward(head.losses(seen))

    assert representation.grad is None
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in head.parameters() if parameter.grad is not None)


def objective_by_loop(objective: str, uncertainty: list[float], target: list[float]) -> float:
    count = len(target)
    if objective == "mse":
        return sum((u - t) ** 2 for u, t in zip(uncertainty, target, strict=True)) / count
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    neighbours = [(i, i + 1) for i in range(0, count - 1, 2)]
    return hinge_by_loop(uncertainty, target, pairs if objective == "ranking" else neighbours, margin=0.1)


@pytest.mark.parametrize("count", [5, 8])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_each_member_compares_its_predictions_over_all_views(objective: str, count: int) -> None:
    seen = batch(count)
    head = prepared(objective=objective, members=2).double()
    views = [seen.features[view, image] for view in range(2) for image in range(count)]
    targets = [float(seen.targets[view, image]) for view in range(2) for image in range(count)]

    found = head.losses(seen)

    assert len(found) == 2
    for member, loss in zip(head.get_submodule("members").children(), found, strict=True):
        uncertainty = [member(row[None]).item() for row in views]
        assert loss.item() == pytest.approx(objective_by_loop(objective, uncertainty, targets), abs=1e-12)
    assert found[0].item() != found[1].item()


def test_uncertainty_is_the_mean_of_the_members_which_differ() -> None:
    head, values = prepared(members=3), features(20)

    alone = [member(values).detach().numpy() for member in head.get_submodule("members").children()]

    assert len(alone) == 3
    assert np.allclose(head(values).detach(), np.mean(alone, axis=0), rtol=1e-6)
    assert np.std(alone, axis=0).min() > 1e-4


def test_each_member_is_trained_by_its_own_loss_alone() -> None:
    head = prepared(members=2)
    first, second = head.get_submodule("members").children()

    torch.autograd.backward(head.losses(batch(double=False))[0])

    assert all(parameter.grad is not None for parameter in first.parameters())
    assert all(parameter.grad is None for parameter in second.parameters())


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fitting_ranks_unseen_images_by_their_noise(objective: str, members: int) -> None:
    torch.manual_seed(0)
    head = PredictedLoss(SIZES, objective, hidden=32, members=members)
    known, _ = examples(400)
    unseen, noise = examples(300, seed=1)
    head.prepare(*known.clean(400, seed=0))
    schedule = Schedule(epochs=30, batch_size=50, learning_rate=3e-3)

    fit(head, CachedBatches(known, schedule), schedule)

    assert spearman(predict(head, unseen.features[0]), noise) > 0.85
    assert np.allclose(np.linalg.norm(embed(head, unseen.features[0]), axis=1), 1.0, atol=1e-6)


def test_the_embedding_stays_the_backbones() -> None:
    values = features(6)

    embedding = prepared(LAYERS).embed(values)

    assert np.allclose(embedding, by_hand(values, 8)[:, :8], atol=1e-6)


def test_statistics_of_layers_move_the_uncertainty_and_not_the_embedding() -> None:
    head, values = prepared(LAYERS, members=2), features(6)
    other = values.clone()
    other[:, 8:] += 1.0

    assert (head(values) - head(other)).abs().min() > 1e-4
    assert torch.equal(head.embed(values), head.embed(other))


def test_dropout_is_for_training_alone() -> None:
    head, values = prepared(dropout=0.5), features(20)
    still = head(values)

    assert torch.equal(head(values), still)
    head.train()
    assert not torch.equal(head(values), still)


def test_the_scaling_of_every_member_is_saved(tmp_path: Path) -> None:
    head = prepared(members=2)
    save_head(head, "retrieval", {"hidden": 16, "dropout": 0.0, "members": 2}, tmp_path, {"backbone_hash": "a"})

    loaded = load_head(tmp_path, "a").module

    for one, other in zip(_members(head), _members(loaded), strict=True):
        assert torch.equal(one.standardise.mean, other.standardise.mean)
        assert torch.equal(one.standardise.scale, other.standardise.scale)
        assert not torch.equal(one.standardise.scale, torch.ones(13))


def _members(head: nn.Module) -> list[PositiveScalar]:
    return [module for module in head.modules() if isinstance(module, PositiveScalar)]


def test_it_is_one_network_of_the_published_depth_and_width_over_all_pairs_unless_asked_otherwise() -> None:
    head = PredictedLoss(LAYERS)

    assert head.objective == "ranking"
    widths = [(layer.in_features, layer.out_features) for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert widths == [(13, 512), (512, 512), (512, 1)]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.make is PredictedLoss])
def test_each_of_its_methods_can_be_made_and_has_a_target_to_predict(method: str) -> None:
    head = make_head(method, LAYERS)

    assert METHODS[method].target in TARGETS
    assert len(head.losses(batch(double=False))) == METHODS[method].options.get("members", 1)


def test_an_objective_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="must be one of ranking, neighbour-ranking, mse, not 'rank'"):
        PredictedLoss(SIZES, "rank")
