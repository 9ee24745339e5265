"""Ensemble: several linear classifiers on one representation, and the entropy of their mean softmax."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.classifier import Classifier, log_mean_softmax


class Ensemble(Classifier):
    """A shallow ensemble: `members` linear probes, each with a start of its own.

    On a shared, frozen representation every member has the same convex loss, so each sees a bootstrap of the batch, its
    images drawn with replacement, to differ from the others.

    Source: Lakshminarayanan et al. (NeurIPS 2017), arXiv:1612.01474; shallow as in the URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes, members: int = 10) -> None:
        super().__init__(sizes)
        self.members = members
        self.classifiers = nn.Linear(self.width, members * sizes.classes)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Mean over the members of each one's cross-entropy over every view of the images of its bootstrap."""
        images, flat = len(batch.labels), batch.flat()
        log_probability = F.log_softmax(self.logits(flat.features[0]), dim=2)  # (m, v b, c)
        chosen = flat.labels.expand(self.members, -1)[..., None]  # (m, v b, 1)
        loss = -log_probability.gather(2, chosen).view(self.members, -1, images).mean(dim=1)  # (m, b)
        drawn = torch.randint(images, (self.members, images), device=loss.device)
        return (loss.gather(1, drawn).mean(),)

    def log_probability(self, features: Tensor) -> Tensor:
        """Log of the mean softmax of the members: (b, f) -> (b, c)."""
        return log_mean_softmax(self.logits(features))

    def logits(self, features: Tensor) -> Tensor:
        """Of each member: (b, f) -> (m, b, c)."""
        logits: Tensor = self.classifiers(self.inputs(features))  # (b, m c)
        return logits.view(-1, self.members, self.sizes.classes).transpose(0, 1)
