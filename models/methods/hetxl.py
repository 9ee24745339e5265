"""HET-XL: a classifier of an embedding with Gaussian noise, whose covariance the embedding itself decides."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.classifier import Classifier, log_mean_softmax

MIN_VARIANCE = 1e-6
TEMPERATURES = (0.05, 5.0)


class HetXl(Classifier):
    """Softmax averaged over x + eps, eps ~ N(0, V(x) V(x)' + diag d(x)), x the standardised pre-logits (b, w).

    V(x) = v(x) 1' * V elementwise, the parameter-efficient form, with V of `rank` r columns; d(x) is a Softplus. The
    temperature is learned, by a sigmoid inside TEMPERATURES, from 1. Training draws new noise for each image;
    inference uses the same `samples` draws for all.

    Source: Collier et al. (ICLR 2023), arXiv:2301.12860; v(x) 1' * V from Collier et al. (CVPR 2021), arXiv:2105.10305.
    """

    common_draws: Tensor
    own_draws: Tensor

    def __init__(self, sizes: Sizes, rank: int = 15, samples: int = 16) -> None:
        super().__init__(sizes)
        low, high = TEMPERATURES
        self.classifier = nn.Linear(self.width, sizes.classes)
        self.loading = nn.Linear(self.width, self.width)
        self.variance = nn.Linear(self.width, self.width)
        self.factors = nn.Parameter(torch.randn(self.width, rank) / math.sqrt(rank))
        self.temperature_logit = nn.Parameter(torch.tensor((1 - low) / (high - low)).logit())
        self.register_buffer("common_draws", torch.randn(samples, 1, rank))
        self.register_buffer("own_draws", torch.randn(samples, 1, self.width))

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy of the averaged softmax, over every view."""
        flat = batch.flat()
        inputs = self.inputs(flat.features[0])
        images, samples, rank = len(inputs), *self.common_draws.shape[::2]
        common = torch.randn(samples, images, rank, dtype=inputs.dtype, device=inputs.device)
        own = torch.randn(samples, images, self.width, dtype=inputs.dtype, device=inputs.device)
        return (F.nll_loss(log_mean_softmax(self.logits(inputs, common, own)), flat.labels),)

    def log_probability(self, features: Tensor) -> Tensor:
        """Log of the softmax averaged over the fixed draws: (b, f) -> (b, c)."""
        return log_mean_softmax(self.logits(self.inputs(features), self.common_draws, self.own_draws))

    def logits(self, inputs: Tensor, common: Tensor, own: Tensor) -> Tensor:
        """Of inputs (b, w) under standard normal draws (s, b or 1, r) and (s, b or 1, w): (s, b, c)."""
        noisy = inputs + self.noise(inputs, common, own)  # (s, b, w)
        logits: Tensor = self.classifier(noisy) / self.temperature()
        return logits

    def noise(self, inputs: Tensor, common: Tensor, own: Tensor) -> Tensor:
        """Eps (s, b, w) of inputs (b, w) from standard normal draws, as in `logits`."""
        deviation = (F.softplus(self.variance(inputs)) + MIN_VARIANCE).sqrt()  # (b, w)
        correlated: Tensor = self.loading(inputs) * (common @ self.factors.T)  # (s, b, w)
        return correlated + deviation * own

    def temperature(self) -> Tensor:
        """The learned temperature, ()."""
        low, high = TEMPERATURES
        return low + (high - low) * self.temperature_logit.sigmoid()
