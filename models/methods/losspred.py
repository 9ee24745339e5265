"""Losspred: a classifier, and beside it a scalar that is trained to predict the classifier's own loss."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Head, PositiveScalar, Projection, Sizes


class LossPrediction(Head):
    """Cross-entropy on a projection, and mean squared error between u and that cross-entropy.

    `gradient` says what the second loss may move: with `stop` only its own layers (StopGrad), with `joint` the
    projection, or the backbone, as well.

    Source: Yoo & Kweon (CVPR 2019), arXiv:1905.03677; as in the URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes, projection: int = 256, gradient: Literal["stop", "joint"] = "stop") -> None:
        super().__init__(sizes)
        self.gradient = gradient
        self.projection = Projection(sizes, projection)
        self.classifier = nn.Linear(projection, sizes.classes)
        self.scalar = PositiveScalar(Sizes(projection, projection, sizes.classes))

    def forward(self, features: Tensor) -> Tensor:
        """Predicted cross-entropy (b,)."""
        uncertainty: Tensor = self.scalar(self.projection(features))
        return uncertainty

    def embed(self, features: Tensor) -> Tensor:
        """Direction of the projection, (b, p)."""
        return F.normalize(self.projection(features), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Of the classifier: (b, f) -> (b, c)."""
        logits: Tensor = self.classifier(self.projection(features))
        return logits

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy, and the squared error of its prediction."""
        flat = batch.flat()
        projected = self.projection(flat.features[0])  # (v b, p)
        loss = F.cross_entropy(self.classifier(projected), flat.labels, reduction="none")  # (v b,)
        seen = projected.detach() if self.gradient == "stop" else projected
        return loss.mean(), F.mse_loss(self.scalar(seen), loss.detach())

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f), and the scalar's input by their first projection."""
        self.projection.fit(features)
        with torch.no_grad():
            self.scalar.standardise.fit(self.projection(features))
