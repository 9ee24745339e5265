import math

import numpy as np
import pytest

from models.schedule import warm_cosine


@pytest.mark.parametrize("total", [1, 2, 19, 20, 1000])
def test_the_factor_is_linear_over_the_first_steps_and_then_half_a_cosine(total: int) -> None:
    for step in range(total):
        done = (step + 0.5) / total  # the middle of the step
        expected = done / 0.05 if done < 0.05 else math.cos(math.pi / 2 * (done - 0.05) / 0.95) ** 2

        assert warm_cosine(step, total) == pytest.approx(expected, abs=1e-12)


def test_every_step_of_any_training_learns_and_none_more_than_the_rate() -> None:
    for total in (1, 2, 7, 300):
        factors = [warm_cosine(step, total) for step in range(total)]

        assert all(0 < factor <= 1 for factor in factors)


def test_it_rises_while_warm_and_only_falls_afterwards() -> None:
    factors = np.array([warm_cosine(step, 1000, warm=0.2) for step in range(1000)])

    assert (np.diff(factors[:200]) > 0).all()
    assert (np.diff(factors[200:]) < 0).all()
    assert factors.max() == pytest.approx(1.0, abs=1e-2)
    assert factors[0] < 0.01
    assert factors[-1] < 1e-5
    assert factors[599:601].mean() == pytest.approx(0.5, abs=1e-6)  # half-way down
