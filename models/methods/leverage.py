"""Leverage: how little training data lies along the direction of an image."""

import torch
from torch import Tensor

from models.methods.base import Fitted, Sizes
from uncertainty.distances import fit_leverage


class Leverage(Fitted):
    """z'(I + Z'Z)^-1 z of the direction z, with Z those of the training images.

    Source: Alaoui & Mahoney (NeurIPS 2015), arXiv:1411.0306, as fitted by `uncertainty.distances.fit_leverage`.
    """

    root: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.register_buffer("root", torch.eye(sizes.dimension))

    def forward(self, features: Tensor) -> Tensor:
        """Leverage (b,)."""
        return (self.embed(features) @ self.root).square().sum(dim=1)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Factor the second moment of the directions of training features (n, f)."""
        self.root.copy_(torch.from_numpy(fit_leverage(self.pooled(features).numpy()).root).float())
