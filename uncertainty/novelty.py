"""Mahalanobis++: how far an embedding lies from every class seen in training, in units of the within-class spread.

A score of its own, apart from uncertainty: it says that an image is unlike the training set, not that its embedding
retrieves badly. Source: Mueller & Hein (ICML 2025), arXiv:2505.18032.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, Integers, require_matrix, require_rows
from uncertainty.neighbours import unit_rows

BLOCK = 4096  # rows a block: 32 MB of float64 distances to 1,000 centroids


@dataclass(frozen=True)
class NoveltyModel:
    """What a graph needs: `whitening` (d, d) symmetric, S^-1/2, and whitened class means `centroids` (c, d)."""

    whitening: NDArray[np.float64]
    centroids: NDArray[np.float64]
    shrinkage: float


@dataclass(frozen=True)
class _Spread:
    """Class means, and the moments of the residuals around them."""

    means: NDArray[np.float64]  # (c, d)
    covariance: NDArray[np.float64]  # (d, d)
    fourth: float  # mean of |residual|^4
    count: int


def fit_novelty(embeddings: Floats, labels: Integers, shrinkage: float | None = None) -> NoveltyModel:
    """Fit class means and one shared covariance to L2-normalised embeddings.

    Args:
        embeddings: (n, d) of the training set; normalised here.
        labels: (n,) class of each.
        shrinkage: share in [0, 1] of the covariance that is replaced by a multiple of the identity with its trace;
            by default that of Ledoit and Wolf.

    Raises:
        ValueError: where shapes or values do not fit, every class has a single distinct embedding, or the shrunk
            covariance is singular.
    """
    require_matrix("embeddings", embeddings)
    require_rows(embeddings.shape[0], labels=labels)
    if shrinkage is not None and not 0.0 <= shrinkage <= 1.0:
        raise ValueError(f"shrinkage must be in [0, 1], not {shrinkage}")
    spread = _spread(embeddings, labels)
    amount = ledoit_wolf(spread.covariance, spread.fourth, spread.count) if shrinkage is None else shrinkage
    whitening = _inverse_root(_shrink(spread.covariance, amount))
    return NoveltyModel(whitening, spread.means @ whitening, amount)


def novelty(model: NoveltyModel, embeddings: Floats) -> NDArray[np.float64]:
    """(n, d) -> (n,) squared distance min_c |a - m_c|^2 of the whitened unit embedding to the nearest class mean.

    The square is kept: only ranks matter, and the graph saves a root.
    """
    whitened = unit_rows(embeddings.astype(np.float64)) @ model.whitening  # (n, d)
    squares = np.sum(model.centroids**2, axis=1)  # (c,)
    nearest = np.empty(whitened.shape[0])
    for start in range(0, whitened.shape[0], BLOCK):
        part = slice(start, start + BLOCK)
        nearest[part] = np.min(squares - 2.0 * whitened[part] @ model.centroids.T, axis=1)
    distance: NDArray[np.float64] = np.maximum(nearest + np.sum(whitened**2, axis=1), 0.0)
    return distance


def ledoit_wolf(covariance: NDArray[np.float64], fourth: float, count: int) -> float:
    """Shrinkage in [0, 1] towards the scaled identity that minimises the expected squared error of the covariance.

    Args:
        covariance: (d, d), mean of x x' over centred samples.
        fourth: mean of |x|^4 over the same samples.
        count: how many samples.

    Source: Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (JMVA 88, 2004).
    """
    dimension = covariance.shape[0]
    square = float(np.sum(covariance**2))
    distance = square - float(np.trace(covariance)) ** 2 / dimension  # |S - m I|^2
    noise = (fourth - square) / count  # expected |S - truth|^2, estimated
    return float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0.0 else 1.0


def _spread(embeddings: Floats, labels: Integers) -> _Spread:
    """Means and residual moments, one class at a time so that only one is held in float64."""
    classes = np.unique(labels)
    dimension = embeddings.shape[1]
    means, scatter, fourth = np.empty((classes.size, dimension)), np.zeros((dimension, dimension)), 0.0
    for index, label in enumerate(classes):
        members = unit_rows(embeddings[labels == label].astype(np.float64))
        means[index] = members.mean(axis=0)
        residuals = members - means[index]
        scatter += residuals.T @ residuals
        fourth += float(np.sum(np.sum(residuals**2, axis=1) ** 2))
    count = embeddings.shape[0]
    return _Spread(means, scatter / count, fourth / count, count)


def _shrink(covariance: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    target = np.eye(covariance.shape[0]) * (np.trace(covariance) / covariance.shape[0])
    shrunk: NDArray[np.float64] = (1.0 - amount) * covariance + amount * target
    return shrunk


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric S^-1/2 of a positive definite matrix (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= values[-1] * values.size * np.finfo(np.float64).eps:
        raise ValueError("the within-class covariance is singular; give more images a class, or more shrinkage")
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root
