"""What the classifiers share: a standardised input, and the entropy of the predicted classes as uncertainty."""

import math

from torch import Tensor
from torch.nn import functional as F

from models.methods.base import Head, Sizes, Standardise, entropy_of


class Classifier(Head):
    """A classifier of the pooled pre-logits; uncertain where its classes are. A subclass defines what is left open.

    `width` is d + 1, the size of its standardised input.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.width = sizes.dimension + 1
        self.standardise = Standardise(Sizes(sizes.dimension, sizes.dimension, sizes.classes))

    def forward(self, features: Tensor) -> Tensor:
        """Class entropy (b,)."""
        return entropy_of(self.log_probability(features))

    def log_probability(self, features: Tensor) -> Tensor:
        """Log of the predicted class probabilities, deterministic: (b, f) -> (b, c)."""
        raise NotImplementedError

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f)."""
        self.standardise.fit(self.pooled(features))

    def inputs(self, features: Tensor) -> Tensor:
        """Standardised pre-logits: (b, f) -> (b, d + 1)."""
        standardised: Tensor = self.standardise(self.pooled(features))
        return standardised


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Log of the mean of s softmaxes: (s, b, c) -> (b, c)."""
    return F.log_softmax(logits, dim=2).logsumexp(dim=0) - math.log(len(logits))
