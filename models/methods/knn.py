"""kNN distance: how far the k-th nearest training image is."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.methods.base import Fitted, Sizes


class KnnDistance(Fitted):
    """1 - cosine to the k-th nearest of `bank` training images.

    Source: Sun et al. (ICML 2022), arXiv:2204.06507, by cosine; `uncertainty.distances.knn_distance` over a bank.
    """

    bank: Tensor

    def __init__(self, sizes: Sizes, k: int = 50, bank: int = 5000) -> None:
        super().__init__(sizes)
        self.k = k
        self.register_buffer("bank", torch.zeros(bank, sizes.dimension))

    def forward(self, features: Tensor) -> Tensor:
        """1 - cosine (b,)."""
        cosine = self.embed(features) @ self.bank.T  # (b, bank)
        return 1.0 - cosine.topk(self.k, dim=1).values[:, -1]

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Keep evenly spaced training features (n, f); where there are fewer than the bank holds, some repeatedly."""
        kept = torch.linspace(0, len(features) - 1, len(self.bank)).round().long()
        self.bank.copy_(F.normalize(self.pooled(features[kept]), dim=1))
