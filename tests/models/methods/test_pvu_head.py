from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.heads import embed, predict
from models.methods.base import Batch, Sizes
from models.methods.fit import CachedBatches, Schedule, fit
from models.methods.pvu import PvuHead
from tests.models.methods.making import array, linear
from tests.models.methods.problem import SIZES, batch, examples
from tests.models.test_losses import hinge_by_loop
from uncertainty.metrics import spearman


def made(sizes: Sizes = SIZES, hidden: int = 16) -> PvuHead:
    torch.manual_seed(0)
    return PvuHead(sizes, hidden).eval()


def by_hand(head: PvuHead, rows: np.ndarray) -> np.ndarray:
    """Uncertainty (n,) of pooled pre-logits (n, d) in float64."""
    layers = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    values = rows
    for layer in layers[:-1]:
        values = linear(layer, values)
        values = np.where(values > 0, values, 0.01 * values)
    uncertainty: np.ndarray = np.log1p(np.exp(linear(layers[-1], values)[:, 0])) + 1e-6
    return uncertainty


@pytest.mark.parametrize("length", [0.01, 1.0, 10.0])
def test_uncertainty_is_that_of_three_layers_on_the_features_as_they_are(length: float) -> None:
    head, values = made(), length * torch.randn(9, 12)

    found = array(head(values))

    assert found.shape == (9,)
    assert np.allclose(found, by_hand(head, array(values)), rtol=1e-5)
    assert (found > 0).all()


def test_only_the_pooled_pre_logits_are_looked_at() -> None:
    head, values = made(Sizes(dimension=12, features=15, classes=4)), torch.randn(5, 15)

    assert np.allclose(array(head(values)), by_hand(head, array(values[:, :12])), rtol=1e-5)
    assert torch.allclose(head.embed(values), values[:, :12] / values[:, :12].norm(dim=1, keepdim=True))


def test_a_head_that_is_sure_of_everything_stays_above_zero() -> None:
    head = made()
    nn.init.constant_(list(head.parameters())[-1], -1000.0)

    assert torch.equal(head(torch.randn(5, 12)), torch.full((5,), 1e-6))


@pytest.mark.parametrize("count", [5, 8])
def test_the_loss_ranks_neighbours_among_all_views(count: int) -> None:
    seen, head = batch(count), made().double()
    rows = torch.cat([seen.features[0], seen.features[1]])
    targets = [float(seen.targets[view, image]) for view in range(2) for image in range(count)]

    (found,) = head.losses(seen)

    pairs = [(i, i + 1) for i in range(0, 2 * count - 1, 2)]
    uncertainty = [head(row[None]).item() for row in rows]
    assert found.item() == pytest.approx(hinge_by_loop(uncertainty, targets, pairs, margin=0.1), abs=1e-12)


def test_the_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    seen, head, step = batch(16), made(hidden=4).double(), 1e-6
    torch.autograd.backward(head.losses(seen))

    for parameter in head.parameters():
        assert parameter.grad is not None
        direction = torch.randn_like(parameter)
        expected = (parameter.grad * direction).sum().item()
        with torch.no_grad():
            losses = [head.losses(seen)[0].item() for _ in stepped(parameter, direction, step)]
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def stepped(parameter: Tensor, direction: Tensor, step: float) -> Iterator[float]:
    """The parameter a step ahead, then a step behind, then where it was."""
    for move in (step, -2 * step):
        parameter.add_(direction, alpha=move)
        yield move
    parameter.add_(direction, alpha=step)


def test_no_gradient_reaches_the_features() -> None:
    features = torch.randn(1, 8, 12, requires_grad=True)
    head = made()

    torch.autograd.backward(head.losses(Batch(features, torch.arange(8), torch.arange(8.0)[None])))

    assert features.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


def test_trained_further_it_ranks_unseen_images_by_their_noise() -> None:
    head, (known, _), (unseen, noise) = made(hidden=32), examples(400), examples(300, seed=1)
    before = spearman(predict(head, unseen.features[0]), noise)
    schedule = Schedule(epochs=10, batch_size=50, learning_rate=3e-3)

    fit(head, CachedBatches(known, schedule), schedule)

    assert spearman(predict(head, unseen.features[0]), noise) > max(0.8, before + 0.1)
    assert np.allclose(np.linalg.norm(embed(head, unseen.features[0]), axis=1), 1.0, atol=1e-6)
