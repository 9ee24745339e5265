"""Tiny networks on one thread: on busy cores, threads that wait for each other take minutes."""

import pytest
import torch

from models.methods.base import Head, Sizes
from models.methods.fit import CachedBatches, Examples, Schedule, fit
from models.methods.registry import METHODS, make_head


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def fitted_head(method: str, examples: Examples, sizes: Sizes, seed: int = 0) -> Head:
    """A head of a method after a few steps on the examples, in evaluation mode: nothing of it is as it was made."""
    torch.manual_seed(seed)
    head = make_head(method, sizes)
    statistics = examples.clean(1000, seed)
    head.prepare(*statistics)
    schedule = Schedule(epochs=10, batch_size=24, seed=seed)
    if METHODS[method].trains:
        fit(head, CachedBatches(examples, schedule), schedule, surgery=METHODS[method].surgery)
    head.eval().finish(*statistics)
    return head
