"""ELK: classes and images as von Mises-Fisher distributions, compared by how much likelihood they share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.mcinfonce import VonMisesFisherHead
from models.vmf import log_normaliser


class ExpectedLikelihoodKernel(VonMisesFisherHead):
    """Cross-entropy over the log expected-likelihood kernel between an image and each class.

    A class has a learnt mean direction, which starts at the mean of its images, and a learnt concentration, which
    starts at that of the images.

    Source: Shi & Jain, "Probabilistic Face Embeddings" (ICCV 2019), arXiv:1904.09658, for the kernel; with von
    Mises-Fisher distributions and class proxies as in the URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes, projection: int = 128) -> None:
        super().__init__(sizes, projection)
        self.direction = nn.Parameter(F.normalize(torch.randn(sizes.classes, projection), dim=1))
        self.log_kappa = nn.Parameter(torch.full((sizes.classes,), math.log(self.start)))

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f), and start each class at its mean."""
        super().prepare(features, labels)
        self.direction.data.copy_(self.class_directions(features, labels))

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy over every view."""
        flat = batch.flat()
        mean, kappa = self.distribution(flat.features[0])
        logits = log_expected_likelihood(mean, kappa, F.normalize(self.direction, dim=1), self.log_kappa.exp())
        return (F.cross_entropy(logits, flat.labels),)


def log_expected_likelihood(mean: Tensor, kappa: Tensor, other_mean: Tensor, other_kappa: Tensor) -> Tensor:
    """Log of the integral of the product of two vMF densities, for every pair: (b, p), (b,), (c, p), (c,) -> (b, c).

    In float64 until the end, because it is a small difference of large logarithms.
    """
    dimension = mean.shape[-1]
    one, two = kappa.double().unsqueeze(1), other_kappa.double().unsqueeze(0)  # (b, 1), (1, c)
    cosine = mean.double() @ other_mean.double().T  # (b, c)
    square = (one - two).square() + 2 * one * two * (1 + cosine)
    joint = square.clamp_min(1e-24).sqrt()  # length of kappa mu + kappa' mu', (b, c)
    log_c = [log_normaliser(value, dimension) for value in (one, two, joint)]
    return (log_c[0] + log_c[1] - log_c[2]).to(mean.dtype)
