"""HIB: embeddings as Gaussians, wide where it is uncertain whether two images match."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Head, PositiveScalar, Projection, Sizes


class Hib(Head):
    """Hedged instance embedding: z ~ N(mu, u^2 / p I) around a direction mu of p dimensions, with one scale u.

    Two images match with the mean of sigmoid(a z_i.z_j + b) over `samples` s pairs of draws, the k-th of one image with
    the k-th of the other; a > 0 and b are learned. The Gaussian is the original's, the product of URL: in many
    dimensions the distance between draws hardly varies, and there would be nothing to hedge. The prior is
    N(0, I / p), of the same mean square as a direction.

    Source: Oh et al., "Modeling Uncertainty with Hedged Instance Embedding" (ICLR 2019), arXiv:1810.00319; as in the
    URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes, projection: int = 128, samples: int = 8, prior_weight: float = 1e-4) -> None:
        super().__init__(sizes)
        self.samples = samples
        self.prior_weight = prior_weight
        self.projection = Projection(sizes, projection)
        self.scalar = PositiveScalar(sizes)
        self.log_slope = nn.Parameter(torch.tensor(math.log(16.0)))
        self.offset = nn.Parameter(torch.tensor(-8.0))

    def forward(self, features: Tensor) -> Tensor:
        """Scale u (b,)."""
        scale: Tensor = self.scalar(features)
        return scale

    def embed(self, features: Tensor) -> Tensor:
        """Direction mu of the projection, (b, p)."""
        return F.normalize(self.projection(features), dim=1)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy of matching the images of one label, all views together, and the weighted prior divergence."""
        flat = batch.flat()
        direction, scale = self.embed(flat.features[0]), self.scalar(flat.features[0])  # (v b, p), (v b,)
        draws = torch.randn(self.samples, *direction.shape, dtype=scale.dtype, device=scale.device)
        points = direction + scale[:, None] * draws / math.sqrt(direction.shape[1])  # (s, v b, p)
        divergence = prior_divergence(direction, scale).mean()
        return (match_loss(self.match_logits(points), flat.labels) + self.prior_weight * divergence,)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f)."""
        self.projection.fit(features)
        self.scalar.standardise.fit(features)

    def match_logits(self, points: Tensor) -> Tensor:
        """Of all pairs of points of a draw: (s, n, p) -> (s, n, n)."""
        return self.log_slope.exp() * points @ points.transpose(1, 2) + self.offset


def match_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the mean match probability of every pair; matches and others weigh half each.

    Logits (s, n, n) of s draws, labels (n,); no image is paired with itself.
    """
    same = labels[:, None] == labels  # (n, n)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    match, other = (F.logsigmoid(signed).logsumexp(dim=0) - math.log(len(logits)) for signed in (logits, -logits))
    return -(_mean_where(match, same & ~itself) + _mean_where(other, ~same)) / 2


def prior_divergence(mean: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2 / p I) || N(0, I / p)): (n, p), (n,) -> (n,)."""
    return mean.shape[1] * (mean.square().sum(dim=1) + scale.square() - 1 - 2 * scale.log()) / 2


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values (n, n), or 0 where there are none."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
