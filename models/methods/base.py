"""What every method is: a head behind a backbone, with its losses; representations in, a scalar uncertainty out.

In shapes, b images in v augmented views each, f features of which the first d are the pooled pre-logits e, c classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_LENGTH = 1e-12


@dataclass(frozen=True)
class Batch:
    """One step's images: `features` (v, b, f), `labels` (b,), and the loss each view has, `targets` (v, b).

    `targets` is empty, (v, 0), for methods that do not ask for one.
    """

    features: Tensor
    labels: Tensor
    targets: Tensor

    def flat(self) -> "Batch":
        """Every view as an image of its own: (1, v b, f), (v b,), (1, v b)."""
        views = len(self.features)
        return Batch(self.features.flatten(0, 1)[None], self.labels.repeat(views), self.targets.flatten()[None])


@dataclass(frozen=True)
class Sizes:
    """What a head must fit: `dimension` d of e, `features` f, `classes` c of the training labels."""

    dimension: int
    features: int
    classes: int


class Head(nn.Module):
    """Base of all methods. A subclass defines `forward` and `losses`, and whichever of the others it needs."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, features: Tensor) -> Tensor:
        """Raw uncertainty (b,) of features (b, f), higher is less sure; deterministic, so that a graph can hold it."""
        raise NotImplementedError

    def embed(self, features: Tensor) -> Tensor:
        """Embedding (b, d') of unit length of features (b, f): the backbone's own, unless the method learns another."""
        return F.normalize(self.pooled(features), dim=1)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """One scalar for each task of the method, to be minimised together."""
        raise NotImplementedError

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Take statistics of clean training features (n, f) and labels (n,) before the first step."""

    def finish(self, features: Tensor, labels: Tensor) -> None:
        """Take statistics of the same features after the last step."""

    def pooled(self, features: Tensor) -> Tensor:
        """The pooled pre-logits e (b, d) among features (b, f)."""
        return features[:, : self.sizes.dimension]


class Fitted(Head):
    """A head with nothing to train: `prepare` takes all it needs from clean training features."""

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """None."""
        return ()


class Standardise(nn.Module):
    """Features (b, f) to f + 1 inputs of zero mean and unit variance: direction e/|e|, log|e|, and what follows e."""

    mean: Tensor
    scale: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self._dimension = sizes.dimension
        self.register_buffer("mean", torch.zeros(sizes.features + 1))
        self.register_buffer("scale", torch.ones(sizes.features + 1))

    def forward(self, features: Tensor) -> Tensor:
        """(b, f) -> (b, f + 1)."""
        return (self._parts(features) - self.mean) / self.scale

    def fit(self, features: Tensor) -> None:
        """Set mean and scale from training features (n, f)."""
        parts = self._parts(features)
        self.mean.copy_(parts.mean(dim=0))
        self.scale.copy_(parts.std(dim=0) + 1e-6)

    def _parts(self, features: Tensor) -> Tensor:
        pooled, others = features[:, : self._dimension], features[:, self._dimension :]
        length = pooled.norm(dim=1, keepdim=True).clamp_min(MIN_LENGTH)
        return torch.cat([pooled / length, length.log(), others], dim=1)


class PositiveScalar(nn.Module):
    """Features (b, f) to a positive scalar (b,): standardised, two hidden layers with LeakyReLU, Softplus + 1e-6.

    Source: the head of Kirchhof et al., arXiv:2402.16569; the standardised input is ours.
    """

    def __init__(self, sizes: Sizes, hidden: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        self.standardise = Standardise(sizes)
        self.layers = nn.Sequential(
            nn.Linear(sizes.features + 1, hidden),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, f) -> (b,)."""
        return F.softplus(self.layers(self.standardise(features))).squeeze(1) + 1e-6


class Projection(nn.Module):
    """A linear map from e to a smaller space that a method may shape: e/|e| in units of its training spread, (b, p).

    Behind a frozen backbone this is all of the network that the method's loss can move.
    """

    def __init__(self, sizes: Sizes, size: int) -> None:
        super().__init__()
        self._dimension = sizes.dimension
        self.standardise = Standardise(Sizes(sizes.dimension, sizes.dimension, sizes.classes))
        self.linear = nn.Linear(sizes.dimension + 1, size)

    def forward(self, features: Tensor) -> Tensor:
        """(b, f) -> (b, p)."""
        projected: Tensor = self.linear(self.standardise(features[:, : self._dimension]))
        return projected

    def fit(self, features: Tensor) -> None:
        """Set the standardisation from training features (n, f)."""
        self.standardise.fit(features[:, : self._dimension])


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits): (..., c) -> (...)."""
    log_probability = F.log_softmax(logits, dim=-1)
    return -(log_probability.exp() * log_probability).sum(dim=-1)
