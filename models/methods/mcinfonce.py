"""MCInfoNCE: contrast over samples of each image's von Mises-Fisher distribution, whose spread is the uncertainty."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Head, PositiveScalar, Projection, Sizes
from models.vmf import concentration_of, sample_vmf

START_LENGTH = 0.5


class VonMisesFisherHead(Head):
    """Each image as a distribution vMF(mu, kappa) on the sphere of a projection of e, with uncertainty 1 / kappa of e.

    At first every image has about the kappa, `start`, with which the mean of its distribution has length 0.5: so the
    samples of an image keep together as well in one dimension as in another.
    """

    def __init__(self, sizes: Sizes, projection: int = 128) -> None:
        super().__init__(sizes)
        self.start = concentration_of(START_LENGTH, projection)
        self.projection = Projection(sizes, projection)
        self.scalar = PositiveScalar(Sizes(sizes.dimension, sizes.dimension, sizes.classes))
        bias = self.scalar.layers[-1].get_parameter("bias")
        nn.init.constant_(bias, math.log(math.expm1(1 / self.start)))  # what softplus takes to 1 / start

    def forward(self, features: Tensor) -> Tensor:
        """1 / kappa (b,)."""
        uncertainty: Tensor = self.scalar(self.pooled(features))
        return uncertainty

    def embed(self, features: Tensor) -> Tensor:
        """Mean direction mu, (b, p)."""
        return F.normalize(self.projection(features), dim=1)

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The images' mu (b, p) and kappa (b,)."""
        return self.embed(features), 1 / self(features)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f)."""
        self.projection.fit(features)
        self.scalar.standardise.fit(self.pooled(features))

    def class_directions(self, features: Tensor, labels: Tensor) -> Tensor:
        """Direction of the mean projection of each class (c, p), random for a class without images."""
        with torch.no_grad():
            projected = self.projection(features)  # (n, p)
        total = 1e-3 * torch.randn(self.sizes.classes, projected.shape[1]).to(projected)
        return F.normalize(total.index_add(0, labels, projected), dim=1)


class MCInfoNCE(VonMisesFisherHead):
    """Tell an image's other view from the views of other images, over samples of their distributions.

    The inverse temperature is learnt, from 16 up or down.

    Source: Kirchhof, Kasneci & Oh, "Probabilistic Contrastive Learning Recovers the Correct Aleatoric Uncertainty of
    Ambiguous Inputs" (ICML 2023), arXiv:2302.02865; as negatives, both views of the batch's other images.
    """

    def __init__(
        self, sizes: Sizes, projection: int = 128, samples: int = 16, inverse_temperature: float = 16.0
    ) -> None:
        super().__init__(sizes, projection)
        self.samples = samples
        self.log_inverse_temperature = nn.Parameter(torch.tensor(math.log(inverse_temperature)))

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Contrast between views 0 and 1."""
        first, second = (sample_vmf(*self.distribution(view), self.samples) for view in batch.features[:2])
        return (mc_info_nce(first, second, self.log_inverse_temperature.exp()),)


def mc_info_nce(first: Tensor, second: Tensor, inverse_temperature: Tensor) -> Tensor:
    """Minus the log of the share that its other view has in an image's softmax, averaged over samples inside the log.

    `first` and `second` are samples (s, b, p) of the two views; each view is compared with all views but itself.
    """
    samples = torch.cat([first, second], dim=1)  # (s, 2 b, p)
    cosine = samples @ samples.transpose(1, 2)  # (s, 2 b, 2 b)
    index = torch.arange(cosine.shape[1], device=cosine.device)
    other = index.roll(first.shape[1])
    itself = index[:, None] == index
    log_share = (inverse_temperature * cosine).masked_fill(itself, -math.inf).log_softmax(dim=2)
    log_likelihood = log_share[:, index, other].logsumexp(dim=0) - math.log(len(samples))  # (2 b,)
    return -log_likelihood.mean()
