"""A head that learns to predict a loss it is given, of the classifier or of retrieval, and touches nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models import losses
from models.methods.base import Batch, Head, PositiveScalar, Sizes

OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ranking": losses.pairwise_ranking,
    "neighbour-ranking": losses.neighbour_ranking,
    "mse": losses.squared_error,
}


class PredictedLoss(Head):
    """The mean of `members` small networks, each trained by itself to predict the batch's targets.

    `objective` is a key of OBJECTIVES. No gradient reaches the features (StopGrad), and the embedding stays the
    backbone's.

    Raises:
        ValueError: for an objective that there is not.

    Source: Kirchhof et al., arXiv:2402.16569, which is one member with `neighbour-ranking` and the classifier's loss.
    """

    def __init__(
        self, sizes: Sizes, objective: str = "ranking", hidden: int = 512, dropout: float = 0.0, members: int = 1
    ) -> None:
        super().__init__(sizes)
        if objective not in OBJECTIVES:
            raise ValueError(f"the objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
        self.objective = objective
        self.members = nn.ModuleList(PositiveScalar(sizes, hidden, dropout) for _ in range(members))

    def forward(self, features: Tensor) -> Tensor:
        """Mean prediction (b,)."""
        return torch.stack(self._predictions(features)).mean(dim=0)

    def losses(self, batch: Batch) -> tuple[Tensor, ...]:
        """The objective of each member, over all views of the batch together."""
        flat = batch.flat()
        compare = OBJECTIVES[self.objective]
        return tuple(compare(predicted, flat.targets[0]) for predicted in self._predictions(flat.features[0].detach()))

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Standardise by the training features (n, f)."""
        for member in self._scalars():
            member.standardise.fit(features)

    def _predictions(self, features: Tensor) -> list[Tensor]:
        return [member(features) for member in self._scalars()]

    def _scalars(self) -> list[PositiveScalar]:
        return [member for member in self.members if isinstance(member, PositiveScalar)]
