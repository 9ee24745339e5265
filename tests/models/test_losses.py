import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses import cosine_distillation, neighbour_ranking, pairwise_ranking, squared_error

Ranking = Callable[[Tensor, Tensor], Tensor]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def hinge_by_loop(uncertainty: list[float], loss: list[float], pairs: list[tuple[int, int]], margin: float) -> float:
    terms = [
        max(0.0, margin - sign(loss[i] - loss[j]) * (uncertainty[i] - uncertainty[j]))
        for i, j in pairs
        if loss[i] != loss[j]
    ]
    return sum(terms) / len(terms) if terms else 0.0


def batch(count: int, seed: int, ties: bool) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    loss = torch.randint(0, 3, (count,)).double() if ties else torch.randn(count).double().exp()
    return torch.rand(count, dtype=torch.float64), loss


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 16])
@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_ranking_over_all_pairs_is_the_double_loop(count: int, ties: bool, margin: float) -> None:
    uncertainty, loss = batch(count, seed=count, ties=ties)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]

    expected = hinge_by_loop(uncertainty.tolist(), loss.tolist(), pairs, margin)

    assert float(pairwise_ranking(uncertainty, loss, margin)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_ranking_of_neighbours_is_the_loop_over_items_0_and_1_then_2_and_3(count: int, ties: bool) -> None:
    uncertainty, loss = batch(count, seed=count, ties=ties)
    pairs = [(i, i + 1) for i in range(0, count - 1, 2)]

    expected = hinge_by_loop(uncertainty.tolist(), loss.tolist(), pairs, 0.1)

    assert float(neighbour_ranking(uncertainty, loss)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ranking", [pairwise_ranking, neighbour_ranking])
def test_a_right_order_beyond_the_margin_costs_nothing_and_pulls_nowhere(ranking: Ranking) -> None:
    uncertainty = torch.tensor([0.1, 0.4, 0.8, 1.2], requires_grad=True)

    value = ranking(uncertainty, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    torch.autograd.backward(value)

    assert value.item() == 0.0
    assert uncertainty.grad is not None
    assert (uncertainty.grad == 0).all()


@pytest.mark.parametrize("ranking", [pairwise_ranking, neighbour_ranking])
def test_a_wrong_order_pushes_the_image_of_higher_loss_up(ranking: Ranking) -> None:
    uncertainty = torch.tensor([1.0, 0.5], requires_grad=True)

    torch.autograd.backward(ranking(uncertainty, torch.tensor([0.0, 1.0])))

    assert uncertainty.grad is not None
    assert uncertainty.grad.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("ranking", [pairwise_ranking, neighbour_ranking])
def test_pairs_of_equal_loss_say_nothing(ranking: Ranking) -> None:
    uncertainty = torch.tensor([0.3, 0.9, 0.1], requires_grad=True)

    value = ranking(uncertainty, torch.tensor([2.0, 2.0, 2.0]))
    torch.autograd.backward(value)

    assert value.item() == 0.0
    assert uncertainty.grad is not None
    assert (uncertainty.grad == 0).all()


def test_squared_error_is_the_mean_of_squares() -> None:
    assert float(squared_error(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5]))) == pytest.approx(2.125)


def test_cosine_distillation_is_one_minus_the_mean_cosine() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 8), torch.randn(5, 8)
    unit = [F.normalize(value, dim=1) for value in (student, teacher)]

    assert float(cosine_distillation(student, teacher)) == pytest.approx(1 - float((unit[0] * unit[1]).sum(1).mean()))
    assert float(cosine_distillation(3 * teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert math.isclose(float(cosine_distillation(-teacher, teacher)), 2.0, rel_tol=1e-6)
