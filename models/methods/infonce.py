"""InfoNCE: an embedding in which two views of an image find each other; its length says how sure it is."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import MIN_LENGTH, Batch, Head, Projection, Sizes


class InfoNce(Head):
    """Each view has to find its partner among the batch, by cosine times a learned inverse temperature, in both ways.

    No label is used. The uncertainty is 1/|e| of the projected e, whose length the loss leaves free.

    Source: van den Oord et al., arXiv:1807.03748; as in the URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes, projection: int = 128, inverse_temperature: float = 16.0) -> None:
        super().__init__(sizes)
        self.projection = Projection(sizes, projection)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(math.log(inverse_temperature)))

    def forward(self, features: Tensor) -> Tensor:
        """Inverse length of the projection (b,)."""
        length: Tensor = self.projection(features).norm(dim=1)
        return 1 / length.clamp_min(MIN_LENGTH)

    def embed(self, features: Tensor) -> Tensor:
        """Direction of the projection, (b, p)."""
        return F.normalize(self.projection(features), dim=1)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy of finding the other one of views 0 and 1 of each image, mean of both directions."""
        first, second = self.embed(batch.features[0]), self.embed(batch.features[1])  # (b, p)
        similarity = self.log_inverse_temperature.exp() * first @ second.T  # (b, b)
        partner = torch.arange(len(similarity), device=similarity.device)
        forth, back = F.cross_entropy(similarity, partner), F.cross_entropy(similarity.T, partner)
        return ((forth + back) / 2,)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f)."""
        self.projection.fit(features)
