"""Heads ready to test: prepared, in float64, or after a short fit; and the classifiers' arithmetic in numpy."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.methods.base import Batch, Head
from models.methods.fit import CachedBatches, Schedule, fit
from tests.models.methods.problem import SIZES, batch, examples, unit
from uncertainty.metrics import spearman

Doubles = NDArray[np.float64]
AnyHead = TypeVar("AnyHead", bound=Head)


def prepared(make: Callable[..., AnyHead], seed: int = 0, double: bool = True) -> AnyHead:
    """A new head that has seen the training features."""
    torch.manual_seed(seed)
    head = make(SIZES)
    head.prepare(*examples()[0].clean(400, seed=0))
    return head.double() if double else head


def fitted(make: Callable[..., AnyHead], count: int = 800, schedule: Schedule | None = None) -> AnyHead:
    """A head after a short fit."""
    torch.manual_seed(0)
    head, made = make(SIZES), examples(count)[0]
    chosen = schedule or Schedule(epochs=16, batch_size=64, learning_rate=3e-3)
    clean = made.clean(count, seed=0)
    head.prepare(*clean)
    fit(head, CachedBatches(made, chosen), chosen)
    head.finish(*clean)
    return head


def noise_rank_correlation(head: Head) -> float:
    """Spearman correlation of uncertainty and true noise on images the head has not seen."""
    unseen, noise = examples(400, seed=1)
    with torch.inference_mode():
        return spearman(head(torch.from_numpy(unseen.features[0])).numpy(), noise)


def without_gradient(head: Head, made: Batch) -> list[str]:
    """Names of the parameters that the head's losses do not move."""
    torch.autograd.backward(torch.stack(head.losses(made)).sum())
    return [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]


def feature_gradient(head: Head, made: Batch) -> Tensor:
    """Gradient of the summed losses with respect to the batch's features, as a backbone would get it."""
    features = made.features.clone().requires_grad_()
    total = torch.stack(head.losses(Batch(features, made.labels, made.targets))).sum()
    return torch.autograd.grad(total, features)[0]


def extreme_features() -> Tensor:
    """Pre-logits (12, d) of length 1e-4 and 1e4, and zero."""
    direction = unit(torch.from_numpy(examples(4, seed=3)[0].features[0]))
    return torch.cat([1e-4 * direction, 1e4 * direction, 0 * direction])


def standardised(features: Tensor) -> Doubles:
    """Inputs (n, d + 1) of a head that `prepared` made: direction and log length in units of the training spread."""
    train = parts(examples()[0].features[0].astype(np.float64))
    deviation = train.std(axis=0, ddof=1) + 1e-6
    inputs: Doubles = (parts(features.numpy()) - train.mean(axis=0)) / deviation
    return inputs


def parts(features: Doubles) -> Doubles:
    """Direction and log length (n, d + 1) of features (n, d)."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.concatenate([features / length, np.log(length)], axis=1)


def linear(layer: nn.Linear, inputs: Doubles) -> Doubles:
    """Inputs (..., i) through a linear layer."""
    bias = 0.0 if layer.bias is None else array(layer.bias)
    outputs: Doubles = inputs @ array(layer.weight).T + bias
    return outputs


def array(tensor: Tensor) -> Doubles:
    """A tensor without its gradient."""
    return tensor.detach().double().numpy()


def softmax(logits: Doubles) -> Doubles:
    """Probabilities (c,) of logits (c,)."""
    raised = np.exp(logits - logits.max())
    probability: Doubles = raised / raised.sum()
    return probability


def entropy(probability: Doubles) -> float:
    """Entropy in nats of (c,)."""
    return float(-sum(p * np.log(p) for p in probability))


def double_batch(count: int = 6) -> tuple[Batch, Tensor, list[int]]:
    """A batch of two views in float64, and its 2 count images one by one: features (2 count, d) and labels."""
    made = batch(count)
    return made, torch.cat([made.features[0], made.features[1]]), [*made.labels.tolist(), *made.labels.tolist()]
