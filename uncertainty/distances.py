"""Query-only scores of an image against the training embeddings, or against its own other views.

Each is (n,), higher is less sure, depends on directions alone, and is computed in blocks of rows: no (n, train) matrix
ever exists.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, Integers, require_matrix
from uncertainty.neighbours import k_nearest, unit_rows
from uncertainty.novelty import NoveltyModel, fit_novelty, ledoit_wolf, novelty

BLOCK = 4096  # rows a block: 32 MB of float64 embeddings of 1,000 dimensions
SEARCH_BLOCK = 256  # queries a block: 100 MB of float32 cosines to 100,000 training images


@dataclass(frozen=True)
class RelativeNoveltyModel:
    """Mahalanobis++ to the classes, and to one `background` Gaussian of all training embeddings, a single centroid."""

    classes: NoveltyModel
    background: NoveltyModel


@dataclass(frozen=True)
class LeverageModel:
    """`root` (d, d) symmetric, (ridge I + Z'Z)^-1/2 of the unit training embeddings Z."""

    root: NDArray[np.float64]
    ridge: float


def fit_relative_novelty(embeddings: Floats, labels: Integers, shrinkage: float | None = None) -> RelativeNoveltyModel:
    """Fit class means with one shared covariance, and one background mean and covariance, to unit embeddings.

    Args:
        embeddings: (n, d) of the training set; normalised here.
        labels: (n,) class of each.
        shrinkage: share in [0, 1] of each covariance that is replaced by a multiple of the identity with its trace;
            by default that of Ledoit and Wolf, of its own for each of the two.

    Raises:
        ValueError: as `fit_novelty`, and where the shrunk background covariance is singular.

    Source: Ren et al., "A Simple Fix to Mahalanobis Distance", arXiv:2106.09022, on the normalised embeddings of
    Mueller & Hein, arXiv:2505.18032; the papers use no shrinkage.
    """
    return RelativeNoveltyModel(fit_novelty(embeddings, labels, shrinkage), _fit_background(embeddings, shrinkage))


def relative_novelty(model: RelativeNoveltyModel, embeddings: Floats) -> NDArray[np.float64]:
    """(n, d) -> (n,) squared distance to the nearest class less that to the background; negative where a class is near.

    Directions in which every training image varies count in both distances and cancel.
    """
    difference: NDArray[np.float64] = novelty(model.classes, embeddings) - novelty(model.background, embeddings)
    return difference


def knn_distance(train: Floats, embeddings: Floats, k: int = 50, block: int = SEARCH_BLOCK) -> NDArray[np.float64]:
    """1 - cosine, in [0, 2], to the `k`-th nearest training embedding.

    An embedding that is itself in the training set finds itself at distance 0, as one of the k.

    Args:
        train: (t, d), t >= k; normalised here.
        embeddings: (n, d) queries; normalised here.
        k: which neighbour; the paper's 50 suits tens of thousands of training images, larger sets take a larger one.
        block: queries compared at a time.

    Raises:
        ValueError: where there are fewer than `k` training embeddings, or shapes or values do not fit.

    Source: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors" (ICML 2022), arXiv:2204.06507; half
    the square of its Euclidean distance between unit vectors, which ranks alike.
    """
    _, cosine = k_nearest(embeddings, k, gallery=train, block=block)
    return np.clip(1.0 - cosine[:, -1].astype(np.float64), 0.0, 2.0)  # rounding may put a cosine above 1


def fit_leverage(train: Floats, ridge: float = 1.0) -> LeverageModel:
    """Factor ridge I + Z'Z of the unit training embeddings Z.

    Args:
        train: (t, d); normalised here.
        ridge: lambda > 0, in images: the default weighs as much as one training image along every axis.

    Raises:
        ValueError: unless the ridge is positive and the embeddings have directions.

    Source: the leverage of ridge regression, Alaoui & Mahoney (NeurIPS 2015), arXiv:1411.0306.
    """
    require_matrix("train", train)
    if not (ridge > 0.0 and np.isfinite(ridge)):
        raise ValueError(f"ridge must be positive and finite, not {ridge}")
    gram = ridge * np.eye(train.shape[1])
    for rows in _unit_blocks(train):
        gram += rows.T @ rows
    return LeverageModel(_inverse_root(*np.linalg.eigh(gram)), ridge)


def leverage(model: LeverageModel, embeddings: Floats) -> NDArray[np.float64]:
    """(n, d) -> (n,) z'(ridge I + Z'Z)^-1 z in (0, 1 / ridge]: how little training data lies along the unit row z.

    Up to a factor, the posterior variance of any linear read-out of the embedding.
    """
    require_matrix("embeddings", embeddings)
    return np.concatenate([np.sum((rows @ model.root) ** 2, axis=1) for rows in _unit_blocks(embeddings)])


def dispersion(views: Floats) -> NDArray[np.float64]:
    """(v, n, d) embeddings of v augmented views of n images -> (n,) 1 - length of the mean unit vector, in [0, 1].

    Raises:
        ValueError: unless there are at least two views, finite and without zero rows.

    Source: the circular variance of Mardia & Jupp, "Directional Statistics" (2000), on the sphere.
    """
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"views must be a (v, n, d) array of at least two views, not of shape {views.shape}")
    total = np.zeros(views.shape[1:])  # (n, d)
    for view in views:
        total += unit_rows(view)
    length: NDArray[np.float64] = np.linalg.norm(total, axis=1) / views.shape[0]  # (n,)
    return np.clip(1.0 - length, 0.0, 1.0)


def _fit_background(embeddings: Floats, shrinkage: float | None) -> NoveltyModel:
    """One Gaussian of all unit embeddings, in two passes so that only a block is held in float64."""
    count, dimension = embeddings.shape
    mean = sum((rows.sum(axis=0) for rows in _unit_blocks(embeddings)), np.zeros(dimension)) / count
    scatter, fourth = np.zeros((dimension, dimension)), 0.0
    for rows in _unit_blocks(embeddings):
        residuals = rows - mean
        scatter += residuals.T @ residuals
        fourth += float(np.sum(np.sum(residuals**2, axis=1) ** 2))
    covariance = scatter / count
    amount = ledoit_wolf(covariance, fourth / count, count) if shrinkage is None else shrinkage
    values, vectors = np.linalg.eigh(covariance)
    shrunk = (1.0 - amount) * values + amount * values.mean()  # the identity has every eigenvector
    if shrunk[0] <= shrunk[-1] * dimension * np.finfo(np.float64).eps:
        raise ValueError("the background covariance is singular; give more images, or more shrinkage")
    whitening = _inverse_root(shrunk, vectors)
    return NoveltyModel(whitening, mean[None, :] @ whitening, amount)


def _inverse_root(values: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric M^-1/2 of a matrix of positive eigenvalues (d,) and eigenvectors (d, d)."""
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root


def _unit_blocks(embeddings: Floats) -> Iterator[NDArray[np.float64]]:
    """Blocks of at most BLOCK rows, in float64 and of unit length."""
    for start in range(0, embeddings.shape[0], BLOCK):
        yield np.asarray(unit_rows(embeddings[start : start + BLOCK].astype(np.float64)), dtype=np.float64)
