"""nivMF: classes as non-isotropic von Mises-Fisher distributions, which score samples of an image's distribution."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.mcinfonce import VonMisesFisherHead
from models.vmf import log_normaliser, sample_vmf


class NonIsotropicVMF(VonMisesFisherHead):
    """Cross-entropy over the likelihood that samples of an image have in each class, averaged over the samples.

    A class has a learnt direction, which starts at the mean of its images, and for each dimension of the projection a
    learnt concentration, which starts at sqrt(2 p), 16 for p = 128. So the log likelihoods of an image's samples differ
    by about one, in any dimension, and the mean over a few samples is near the integral it stands for. From that of the
    images, 85, it would be ten nats off, and noise would hide from kappa what it should learn.

    Source: Kirchhof et al., "A Non-isotropic Probabilistic Take on Proxy-based Deep Metric Learning" (ECCV 2022),
    arXiv:2207.03784.
    """

    def __init__(self, sizes: Sizes, projection: int = 128, samples: int = 16) -> None:
        super().__init__(sizes, projection)
        self.samples = samples
        self.direction = nn.Parameter(F.normalize(torch.randn(sizes.classes, projection), dim=1))
        self.log_concentration = nn.Parameter(torch.full((sizes.classes, projection), math.log(2 * projection) / 2))

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f), and start each class at its mean."""
        super().prepare(features, labels)
        self.direction.data.copy_(self.class_directions(features, labels))

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy over every view."""
        flat = batch.flat()
        samples = sample_vmf(*self.distribution(flat.features[0]), self.samples)  # (s, v b, p)
        log_density = log_nivmf(samples, F.normalize(self.direction, dim=1), self.log_concentration.exp())
        return (F.cross_entropy(log_density.logsumexp(dim=0) - math.log(self.samples), flat.labels),)


def log_nivmf(points: Tensor, direction: Tensor, concentration: Tensor) -> Tensor:
    """Log density of unit vectors (..., p) in each class's nivMF: directions (c, p), diagonals of K (c, p) -> (..., c).

    A class's z is such that K z / |K z| is vMF(K mu / |K mu|, |K mu|). The change of variables, |K| / |K z|^p, is exact
    here, where the paper takes a constant for it.
    """
    dimension = points.shape[-1]
    centre = concentration * direction  # K mu, (c, p)
    kappa: Tensor = centre.norm(dim=1)  # (c,)
    length = (points.square() @ concentration.square().T).sqrt()  # |K z|, (..., c)
    cosine = points @ (concentration * centre).T / (length * kappa)  # (..., c)
    constant = log_normaliser(kappa, dimension) + concentration.log().sum(dim=1)  # (c,)
    return constant + kappa * cosine - length.log() * dimension
