from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.methods.base import Batch
from models.methods.cross_entropy import CrossEntropy
from models.methods.fit import CachedBatches, Examples, Schedule, fit, side_by_side
from models.methods.losspred import LossPrediction
from models.methods.mc_dropout import McDropout
from tests.models.methods.problem import SIZES, examples

SHORT = Schedule(epochs=2, batch_size=32, learning_rate=1e-2)


def numbered(count: int, views: int) -> Examples:
    """Features (v, n, 1) that say their image and view as image + view / 10; targets are ten times that."""
    features = (np.arange(count) + np.arange(views)[:, None] / 10)[..., None]
    return Examples(features.astype(np.float32), np.arange(count) % 3, (10 * features[..., 0]).astype(np.float32))


def one_epoch(made: Examples, schedule: Schedule, epoch: int = 0) -> list[Batch]:
    return list(CachedBatches(made, schedule)(epoch))


def images_of(made: Batch) -> Tensor:
    """The image (v, b) that each row of a numbered batch shows."""
    return made.features[..., 0].floor().long()


def views_of(made: Batch) -> Tensor:
    """The view (v, b) that each row of a numbered batch shows."""
    return (10 * (made.features[..., 0] % 1)).round().long()


def weights(head: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in head.parameters()])


def trained(schedule: Schedule, surgery: bool = False) -> Tensor:
    torch.manual_seed(0)
    head = LossPrediction(SIZES, projection=4, gradient="joint")
    fit(head, CachedBatches(examples()[0], schedule), schedule, surgery=surgery)
    return weights(head)


def test_an_epoch_is_whole_batches_of_images_that_come_once() -> None:
    batches = one_epoch(numbered(70, views=4), Schedule(batch_size=16))
    seen = torch.cat([images_of(made)[0] for made in batches])

    assert len(batches) == len(CachedBatches(numbered(70, views=4), Schedule(batch_size=16))) == 4
    assert all(made.features.shape == (2, 16, 1) for made in batches)
    assert len(set(seen.tolist())) == 64


def test_the_views_of_a_batch_are_different_ones_of_the_same_image() -> None:
    batches = one_epoch(numbered(64, views=4), Schedule(batch_size=16, views=3))

    for made in batches:
        assert (images_of(made) == images_of(made)[0]).all()
        assert all(len(set(views.tolist())) == 3 for views in views_of(made).T)
    assert set(torch.cat([views_of(made) for made in batches]).flatten().tolist()) == {0, 1, 2, 3}


def test_views_repeat_where_there_are_too_few() -> None:
    (made,) = one_epoch(numbered(8, views=2), Schedule(batch_size=8, views=5))

    assert made.features.shape == (5, 8, 1)
    assert made.targets.shape == (5, 8)
    assert all(sorted(views.tolist()) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1]) for views in views_of(made).T)


def test_classes_of_one_name_are_one_class_side_by_side() -> None:
    parts = numbered(6, views=2), numbered(4, views=2)

    joined = side_by_side(parts, [("a", "b", "c"), ("d", "e", "a")])

    assert joined.labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 3]


def test_labels_and_targets_are_those_of_the_image_and_view() -> None:
    for made in one_epoch(numbered(64, views=4), Schedule(batch_size=16)):
        assert torch.equal(made.labels, images_of(made)[0] % 3)
        torch.testing.assert_close(made.targets, 10 * made.features[..., 0])


def test_examples_without_targets_give_empty_ones_and_half_precision_becomes_single() -> None:
    half = Examples(numbered(8, views=2).features.astype(np.float16), np.zeros(8, dtype=np.int64))

    (made,) = one_epoch(half, Schedule(batch_size=8))

    assert made.targets.shape == (2, 0)
    assert made.features.dtype == torch.float32
    assert made.flat().targets.shape == (1, 0)


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    batches = one_epoch(numbered(5, views=2), Schedule(batch_size=16))

    assert [made.features.shape for made in batches] == [(2, 5, 1)]
    assert sorted(images_of(batches[0])[0].tolist()) == [0, 1, 2, 3, 4]


def test_batches_depend_on_seed_and_epoch_and_on_nothing_else() -> None:
    made = numbered(64, views=4)

    def features(seed: int, epoch: int) -> Tensor:
        return torch.stack([each.features for each in one_epoch(made, Schedule(batch_size=16, seed=seed), epoch)])

    assert torch.equal(features(0, 1), features(0, 1))
    assert not torch.equal(features(0, 0), features(0, 1))
    assert not torch.equal(features(0, 0), features(1, 0))


def test_clean_features_are_view_zero_of_distinct_images_in_order() -> None:
    features, labels = numbered(50, views=3).clean(20, seed=0)

    images = features[:, 0].long()
    assert torch.equal(features[:, 0], images.float())
    assert images.tolist() == sorted(set(images.tolist()))
    assert torch.equal(labels, images % 3)
    assert len(numbered(50, views=3).clean(80, seed=0)[0]) == 50


@pytest.mark.parametrize("surgery", [False, True])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(surgery: bool) -> None:
    first = trained(SHORT, surgery)

    assert torch.equal(trained(SHORT, surgery), first)
    assert not torch.equal(trained(Schedule(2, 32, 1e-2, seed=1), surgery), first)


def test_what_was_drawn_before_a_fit_does_not_change_the_noise_drawn_in_it() -> None:
    found = []
    for drawn_before in (1, 2):
        torch.manual_seed(0)
        head = McDropout(SIZES, hidden=8)
        torch.rand(drawn_before)
        found.append(weights(fit(head, CachedBatches(examples()[0], SHORT), SHORT)))

    assert torch.equal(found[0], found[1])


def test_surgery_trains_otherwise_than_the_sum() -> None:
    assert not torch.allclose(trained(SHORT, surgery=True), trained(SHORT), atol=1e-4)


def test_a_fit_lowers_the_loss_reports_each_epoch_and_ends_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    head = CrossEntropy(SIZES)
    schedule = Schedule(epochs=5, batch_size=32, learning_rate=0.1)
    told: list[tuple[int, float]] = []

    found = fit(
        head,
        CachedBatches(examples()[0], schedule),
        schedule,
        after_epoch=lambda epoch, loss: told.append((epoch, loss)),
    )

    assert found is head
    assert not head.training
    assert [epoch for epoch, _ in told] == [0, 1, 2, 3, 4]
    assert told[-1][1] < 0.5 * told[0][1]


def test_the_reported_loss_is_the_mean_over_the_epochs_batches() -> None:
    torch.manual_seed(0)
    head = CrossEntropy(SIZES)
    schedule = Schedule(epochs=1, batch_size=64, learning_rate=0.0)
    batches = CachedBatches(examples()[0], schedule)
    expected = np.mean([head.losses(made)[0].item() for made in batches(0)])
    told: list[float] = []

    fit(head, batches, schedule, after_epoch=lambda epoch, loss: told.append(loss))

    assert told == [pytest.approx(float(expected), rel=1e-5)]


@pytest.mark.parametrize("surgery", [False, True])
def test_a_frozen_parameter_does_not_move(surgery: bool) -> None:
    torch.manual_seed(0)
    head = LossPrediction(SIZES, projection=4)
    head.projection.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in head.named_parameters()}

    fit(head, CachedBatches(examples()[0], SHORT), SHORT, surgery=surgery)

    for name, parameter in head.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("projection.")


class Pixels:
    """Batches of "images" (v, b, 2, 6), the features in a shape that only a backbone can read."""

    def __init__(self, schedule: Schedule) -> None:
        self._cached = CachedBatches(examples()[0], schedule)

    def __len__(self) -> int:
        return len(self._cached)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        for made in self._cached(epoch):
            yield Batch(made.features.reshape(*made.features.shape[:2], 2, 6), made.labels, made.targets)


@pytest.mark.parametrize("surgery", [False, True])
def test_a_trainable_backbone_learns_with_the_head(surgery: bool) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 12))
    head = LossPrediction(SIZES, projection=4)
    before, head_before = weights(backbone), weights(head)

    fit(head, Pixels(SHORT), SHORT, backbone=backbone, surgery=surgery)

    assert not torch.equal(weights(backbone), before)
    assert not torch.equal(weights(head), head_before)
    assert not backbone.training
