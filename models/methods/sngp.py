"""SNGP: a Gaussian process on random features as last layer, less sure the further an image is from the training."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.classifier import Classifier

ROWS_AT_ONCE = 4096
ROWS_FOR_LENGTH = 1000


class Sngp(Classifier):
    """The Gaussian process layer: k random cosine features of an RBF kernel, linear weights, Laplace covariance.

    The kernel's length scale is the median distance of training inputs; the logits are divided by
    sqrt(1 + pi / 8 * variance), the mean-field form. The spectral norms that SNGP asks of the backbone are not here:
    what the backbone is, it stays.

    Source: Liu et al. (NeurIPS 2020), arXiv:2006.10108.
    """

    frequencies: Tensor
    phases: Tensor
    length: Tensor
    covariance: Tensor

    def __init__(self, sizes: Sizes, count: int = 1024, ridge: float = 1.0) -> None:
        super().__init__(sizes)
        self.ridge = ridge
        self.classifier = nn.Linear(count, sizes.classes, bias=False)
        self.register_buffer("frequencies", torch.randn(count, self.width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(count))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("covariance", torch.eye(count) / ridge)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy over every view."""
        flat = batch.flat()
        return (F.cross_entropy(self.classifier(self.cosines(flat.features[0])), flat.labels),)

    def log_probability(self, features: Tensor) -> Tensor:
        """Log softmax of the mean-field logits: (b, f) -> (b, c)."""
        cosines = self.cosines(features)
        spread = (1 + math.pi / 8 * self.variance(cosines)).sqrt()  # (b,)
        return F.log_softmax(self.classifier(cosines) / spread[:, None], dim=1)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f), and take the length scale from up to 1000 of them."""
        super().prepare(features, labels)
        some = features[:: -(-len(features) // ROWS_FOR_LENGTH)]
        self.length.copy_(torch.pdist(self.inputs(some)).median())

    def finish(self, features: Tensor, labels: Tensor) -> None:
        """Invert the exact precision, ridge I + sum of p (1 - p) phi phi' over features (n, f), p the top probability.

        The one covariance stands for those of all classes, as in the paper's upper bound.
        """
        with torch.no_grad():
            precision = self.ridge * torch.eye(len(self.phases), dtype=torch.float64, device=features.device)
            for rows in torch.split(features, ROWS_AT_ONCE):
                cosines = self.cosines(rows)  # (m, k)
                top = self.classifier(cosines).softmax(dim=1).amax(dim=1)  # (m,)
                weighted = ((top * (1 - top)).sqrt()[:, None] * cosines).double()
                precision += weighted.T @ weighted
            self.covariance.copy_(torch.cholesky_inverse(torch.linalg.cholesky(precision)))

    def cosines(self, features: Tensor) -> Tensor:
        """Random features phi: (b, f) -> (b, k)."""
        angles = F.linear(self.inputs(features) / self.length, self.frequencies, self.phases)
        return math.sqrt(2 / len(self.phases)) * angles.cos()

    def variance(self, cosines: Tensor) -> Tensor:
        """Posterior variance phi' covariance phi of a logit: (b, k) -> (b,)."""
        return ((cosines @ self.covariance) * cosines).sum(dim=1)
