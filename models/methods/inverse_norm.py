"""1/|e|: a short representation is an uncertain one, with nothing learned."""

from torch import Tensor

from models.methods.base import MIN_LENGTH, Fitted


class InverseNorm(Fitted):
    """The inverse length of the pooled pre-logits.

    Source: the uncertainty of InfoNCE in the URL benchmark, arXiv:2307.03810, here of the backbone as it is.
    """

    def forward(self, features: Tensor) -> Tensor:
        """1/|e| (b,)."""
        length: Tensor = self.pooled(features).norm(dim=1)
        return 1.0 / length.clamp_min(MIN_LENGTH)
