"""A small problem that every method can learn: classes on a sphere, some images blurred towards the middle."""

import numpy as np
import torch
from torch import Tensor

from models.methods.base import Batch, Sizes
from models.methods.fit import CachedBatches, Examples, Schedule

SIZES = Sizes(dimension=12, features=12, classes=4)


def examples(count: int = 400, seed: int = 0, views: int = 3) -> tuple[Examples, np.ndarray]:
    """Examples (v, n, 12) and the noise (n,) in each image, which an uncertainty should follow."""
    rng = np.random.default_rng(seed)
    centres = 3.0 * np.random.default_rng(99).normal(size=(SIZES.classes, SIZES.dimension))
    labels = rng.integers(SIZES.classes, size=count)
    others = (labels + rng.integers(1, SIZES.classes, size=count)) % SIZES.classes
    noise = rng.uniform(0.0, 0.5, size=count)
    mixed = (1 - noise[:, None]) * centres[labels] + noise[:, None] * centres[others]  # (n, 12)
    features = mixed + 0.3 * rng.normal(size=(views, count, SIZES.dimension))  # (v, n, 12)
    targets = np.repeat(noise[None], views, axis=0)
    return Examples(features.astype(np.float32), labels, targets.astype(np.float32)), noise


def batch(count: int = 16, seed: int = 0, double: bool = True) -> Batch:
    """One batch of two views."""
    made, _ = examples(count, seed)
    found = next(CachedBatches(made, Schedule(batch_size=count, seed=seed))(0))
    return Batch(found.features.double(), found.labels, found.targets.double()) if double else found


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
