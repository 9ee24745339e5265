"""MC-dropout: a classifier that keeps its dropout at inference, and is uncertain where its passes are."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.classifier import Classifier, log_mean_softmax


class McDropout(Classifier):
    """A classifier of one hidden layer with dropout before both of its layers.

    The uncertainty is the entropy of the mean softmax of `passes`, whose masks are drawn once and then kept, so that an
    image has one score.

    Source: Gal & Ghahramani (ICML 2016), arXiv:1506.02142.
    """

    input_masks: Tensor
    hidden_masks: Tensor

    def __init__(self, sizes: Sizes, hidden: int = 256, rate: float = 0.2, passes: int = 10) -> None:
        super().__init__(sizes)
        self.rate = rate
        self.hidden = nn.Linear(self.width, hidden)
        self.classifier = nn.Linear(hidden, sizes.classes)
        # Dropout of ones is a mask: zero, or 1 / (1 - rate).
        self.register_buffer("input_masks", F.dropout(torch.ones(passes, 1, self.width), rate))
        self.register_buffer("hidden_masks", F.dropout(torch.ones(passes, 1, hidden), rate))

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """Cross-entropy over every view, each with masks of its own."""
        flat = batch.flat()
        inputs = F.dropout(self.inputs(flat.features[0]), self.rate)
        hidden = F.dropout(F.relu(self.hidden(inputs)), self.rate)
        return (F.cross_entropy(self.classifier(hidden), flat.labels),)

    def log_probability(self, features: Tensor) -> Tensor:
        """Log of the mean softmax of the passes: (b, f) -> (b, c)."""
        inputs = self.inputs(features) * self.input_masks  # (s, b, d + 1)
        hidden = F.relu(self.hidden(inputs)) * self.hidden_masks  # (s, b, h)
        return log_mean_softmax(self.classifier(hidden))
