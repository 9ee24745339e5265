from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.methods.pcgrad import backward_pcgrad, projected

Doubles = NDArray[np.float64]


def gradient_after(*gradients: list[float]) -> list[float]:
    """What remains of losses with these gradients, in a parameter of their size."""
    parameter = nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    backward_pcgrad([parameter @ torch.tensor(g, dtype=torch.float64) for g in gradients], [parameter])
    assert parameter.grad is not None
    found: list[float] = parameter.grad.tolist()
    return found


def projected_by_numpy(own: Doubles, others: list[Doubles]) -> Doubles:
    for other in others:
        if own @ other < 0:
            own = own - own @ other / (other @ other) * other
    return own


def test_two_conflicting_gradients_each_lose_what_goes_against_the_other() -> None:
    # (1, 0) onto the normal plane of (-1, 1) is (1/2, 1/2); (-1, 1) onto that of (1, 0) is (0, 1).
    assert gradient_after([1.0, 0.0], [-1.0, 1.0]) == pytest.approx([0.5, 1.5])


def test_agreeing_and_orthogonal_gradients_are_summed() -> None:
    assert gradient_after([1.0, 2.0], [3.0, 0.5]) == [4.0, 2.5]
    assert gradient_after([1.0, 0.0], [0.0, 2.0]) == [1.0, 2.0]


def test_opposite_gradients_cancel() -> None:
    assert gradient_after([2.0, -2.0], [-1.0, 1.0]) == pytest.approx([0.0, 0.0])


def test_a_gradient_of_zero_changes_nothing() -> None:
    assert gradient_after([1.0, -2.0], [0.0, 0.0]) == [1.0, -2.0]
    assert gradient_after([0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]


def test_a_single_loss_keeps_its_gradient() -> None:
    assert gradient_after([1.0, -2.0]) == [1.0, -2.0]


def test_a_parameter_of_one_loss_keeps_that_gradient_where_the_shared_ones_agree_and_one_of_none_gets_zero() -> None:
    shared, own, idle = (nn.Parameter(torch.ones(size, dtype=torch.float64)) for size in ((2, 2), (3,), (2,)))

    backward_pcgrad([shared.sum() + own.sum(), 2 * shared.sum()], [shared, own, idle])

    assert [None if p.grad is None else p.grad.tolist() for p in (shared, own, idle)] == [
        [[3.0, 3.0], [3.0, 3.0]],
        [1.0, 1.0, 1.0],
        [0.0, 0.0],
    ]


def test_a_conflict_is_one_of_all_parameters_together() -> None:
    first, second = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))

    backward_pcgrad([first + 2 * second, -first + 2 * second], [first, second])  # products -1 + 4 > 0

    assert first.grad is not None
    assert second.grad is not None
    assert (first.grad.item(), second.grad.item()) == (0.0, 4.0)


def test_three_losses_are_projected_on_each_others_own_gradients_in_some_order() -> None:
    gradients = [np.array(g) for g in ([1.0, 0.2, -0.5], [-1.0, 0.3, 0.1], [0.4, -1.0, -0.2])]
    others = [[gradients[j] for j in range(3) if j != i] for i in range(3)]
    orders = [list(permutations(rest)) for rest in others]
    possible = [
        sum(projected_by_numpy(own, list(order)) for own, order in zip(gradients, chosen, strict=True))
        for chosen in product(*orders)
    ]

    torch.manual_seed(0)
    for _ in range(10):
        found = np.array(gradient_after(*[g.tolist() for g in gradients]))
        assert any(np.allclose(found, each) for each in possible)


def test_others_are_taken_in_random_order() -> None:
    own = torch.tensor([1.0, 0.2, -0.5])
    others = [torch.tensor([-1.0, 0.3, 0.1]), torch.tensor([-0.4, -1.0, 0.2])]

    torch.manual_seed(0)
    found = {tuple(projected(own, others).tolist()) for _ in range(20)}

    assert len(found) == 2


def test_descent_of_two_quadratics_follows_a_numpy_reimplementation() -> None:
    rng = np.random.default_rng(0)
    factors, goals = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3))
    expected = rng.normal(size=4)
    parameter = nn.Parameter(torch.from_numpy(expected.copy()))
    conflicts = 0

    def loss(task: int) -> Tensor:
        residual = torch.from_numpy(factors[task]) @ parameter - torch.from_numpy(goals[task])
        return residual.square().sum() / 2

    for _ in range(50):
        first, second = (a.T @ (a @ expected - b) for a, b in zip(factors, goals, strict=True))
        conflicts += first @ second < 0
        expected = expected - 0.05 * (projected_by_numpy(first, [second]) + projected_by_numpy(second, [first]))
        backward_pcgrad([loss(0), loss(1)], [parameter])
        assert parameter.grad is not None
        parameter.detach().sub_(0.05 * parameter.grad)

    assert conflicts > 0
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9)
