"""Mahalanobis++ as an uncertainty: distance to the nearest training class, plain or relative to the background."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.methods.base import Fitted, Sizes
from uncertainty.distances import fit_relative_novelty
from uncertainty.novelty import NoveltyModel


class Mahalanobis(Fitted):
    """Squared distance of the whitened direction to the nearest class mean; `relative` takes that to all images off it.

    Source: Mueller & Hein, arXiv:2505.18032; the relative form is that of Ren et al., arXiv:2106.09022.
    """

    whitening: Tensor
    centroids: Tensor
    background_whitening: Tensor
    background: Tensor

    def __init__(self, sizes: Sizes, relative: bool = False) -> None:
        super().__init__(sizes)
        self.relative = relative
        self.register_buffer("whitening", torch.eye(sizes.dimension))
        self.register_buffer("centroids", torch.zeros(sizes.classes, sizes.dimension))
        self.register_buffer("background_whitening", torch.eye(sizes.dimension))
        self.register_buffer("background", torch.zeros(1, sizes.dimension))

    def forward(self, features: Tensor) -> Tensor:
        """Squared distance (b,), less the one to the background where it is relative."""
        direction = self.embed(features)  # (b, d)
        distance = nearest_square(direction, self.whitening, self.centroids)
        if self.relative:
            distance = distance - nearest_square(direction, self.background_whitening, self.background)
        return distance.float()

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Fit class means, shared covariance and background to training features (n, f)."""
        model = fit_relative_novelty(self.pooled(features).numpy(), labels.numpy())
        self._take(self.whitening, self.centroids, model.classes)
        self._take(self.background_whitening, self.background, model.background)

    @staticmethod
    def _take(whitening: Tensor, centroids: Tensor, model: NoveltyModel) -> None:
        whitening.copy_(_float(model.whitening))
        centroids[: len(model.centroids)] = _float(model.centroids)
        centroids[len(model.centroids) :] = _float(model.centroids[:1])  # a class without images is never nearer


def nearest_square(direction: Tensor, whitening: Tensor, centroids: Tensor) -> Tensor:
    """Squared distance (b,) of whitened directions (b, d) to the nearest of c whitened centroids (c, d).

    In float64 until the end, because it is a small difference of large squares.
    """
    whitened, means = direction.double() @ whitening.double(), centroids.double()  # (b, d), (c, d)
    squares = whitened.square().sum(dim=1, keepdim=True) + means.square().sum(dim=1)  # (b, c)
    return (squares - 2.0 * whitened @ means.T).min(dim=1).values.clamp_min(0.0)


def _float(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).float()
