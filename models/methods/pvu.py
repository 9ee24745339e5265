"""The head of a published Pretrained Visual Uncertainties checkpoint, weight for weight."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.losses import neighbour_ranking
from models.methods.base import Batch, Head, Sizes


class PvuHead(Head):
    """Three linear layers with LeakyReLU between them on the pooled pre-logits e as they are, then Softplus + 1e-6.

    The published training multiplies u by a factor that its files do not hold, so u is known up to its unit alone;
    ranks and percentiles do not depend on it. Trained further, no gradient reaches the features (StopGrad).

    Source: Kirchhof et al., arXiv:2402.16569.
    """

    def __init__(self, sizes: Sizes, hidden: int = 512) -> None:
        super().__init__(sizes)
        self.layers = nn.Sequential(
            nn.Linear(sizes.dimension, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Predicted loss of the classifier, up to its unit, (b,)."""
        return F.softplus(self.layers(self.pooled(features))).squeeze(1) + 1e-6

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """The ranking loss over neighbouring pairs, of all views of the batch together."""
        flat = batch.flat()
        return (neighbour_ranking(self(flat.features[0].detach()), flat.targets[0]),)
