"""Tiny networks on one thread: on busy cores, threads that wait for each other take minutes."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
