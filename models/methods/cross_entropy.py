"""CE: a linear classifier, and the entropy of its softmax as uncertainty."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.classifier import Classifier


class CrossEntropy(Classifier):
    """Cross-entropy of a linear probe.

    Source: the CE baseline of the URL benchmark, arXiv:2307.03810.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.classifier = nn.Linear(self.width, sizes.classes)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy over every view."""
        flat = batch.flat()
        return (F.cross_entropy(self.logits(flat.features[0]), flat.labels),)

    def log_probability(self, features: Tensor) -> Tensor:
        """Log softmax: (b, f) -> (b, c)."""
        return F.log_softmax(self.logits(features), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """(b, f) -> (b, c)."""
        logits: Tensor = self.classifier(self.inputs(features))
        return logits
