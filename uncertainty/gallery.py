"""Gallery-aware scores: how sure a retrieved label is, from the cosines and labels of a query's nearest gallery images.

Each score is (n,), higher is less sure. They are known only once the gallery is searched, unlike the head's uncertainty
and novelty, which are the image's own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, Integers, require_matrix, require_rows
from uncertainty.neighbours import BLOCK, k_nearest

# The best mean R-AUROC of match_uncertainty on validation classes of Tiny-ImageNet and CUB, MobileNetV2 embeddings.
NEIGHBOURS = 20
TEMPERATURE = 0.04  # in cosine; there the nearest and the 20th neighbour lie some 0.07 apart


@dataclass(frozen=True)
class Neighbours:
    """The k nearest gallery images of n queries: `cosine` (n, k), nearest first, and `label` (n, k).

    Raises:
        ValueError: unless both are of one shape (n, k), finite and non-empty, and each row of cosines descends.
    """

    cosine: Floats
    label: Integers

    def __post_init__(self) -> None:
        require_matrix("cosine", self.cosine)
        require_matrix("label", self.label)
        if self.cosine.shape != self.label.shape:
            raise ValueError(f"cosine is of shape {self.cosine.shape}, but label of {self.label.shape}")
        if (self.cosine[:, 1:] > self.cosine[:, :-1]).any():
            raise ValueError("cosine must descend along each row: nearest first")


def neighbours(embeddings: Floats, labels: Integers, k: int = NEIGHBOURS, block: int = BLOCK) -> Neighbours:
    """Each image's `k` nearest others: one set as its own gallery, each left out of its own search by index.

    Args:
        embeddings: (n, d), n > k; normalised here.
        labels: (n,) class of each.
        k: neighbours wanted.
        block: images compared at a time.

    Raises:
        ValueError: where there are fewer than `k` others, or shapes or values do not fit.
    """
    require_matrix("embeddings", embeddings)
    require_rows(embeddings.shape[0], labels=labels)
    index, cosine = k_nearest(embeddings, k, block=block)
    return Neighbours(cosine, labels[index])  # (n, k) both


def top_cosine(near: Neighbours) -> NDArray[np.float64]:
    """1 - cosine of the nearest gallery image, in [0, 2]."""
    return np.clip(1.0 - near.cosine[:, 0].astype(np.float64), 0.0, 2.0)  # rounding may put a cosine above 1


def class_margin(near: Neighbours) -> NDArray[np.float64]:
    """Minus the cosine margin of the nearest image over the nearest of another label, at most 0.

    Where all k neighbours share one label, the nearest of another is at most as near as the k-th, whose cosine is then
    taken. So the score is exact where the search reached a second label, and else an upper bound.
    """
    cosine = near.cosine.astype(np.float64)
    other = near.label != near.label[:, :1]  # (n, k)
    first = np.where(other.any(axis=1), other.argmax(axis=1), cosine.shape[1] - 1)  # (n,), column of the rival
    rival: NDArray[np.float64] = np.take_along_axis(cosine, first[:, None], axis=1)[:, 0]
    return rival - cosine[:, 0]


def label_agreement(near: Neighbours) -> NDArray[np.float64]:
    """1 - share of the k neighbours that have the label of the nearest, in [0, 1 - 1/k]."""
    share: NDArray[np.float64] = np.mean(near.label != near.label[:, :1], axis=1)
    return share


def label_entropy(near: Neighbours, temperature: float = np.inf) -> NDArray[np.float64]:
    """Entropy in nats of the labels among the k neighbours, from 0 to ln k.

    Args:
        near: the neighbours.
        temperature: neighbours weigh exp(cosine / temperature); infinite, the default, weighs all alike.

    Raises:
        ValueError: unless the temperature is positive.
    """
    weight = _weights(near, temperature)
    share = weight / weight.sum(axis=1, keepdims=True)  # (n, k)
    of_label = np.zeros_like(share)  # (n, k), summed share of each neighbour's label
    for column in range(share.shape[1]):
        of_label += share[:, column, None] * (near.label == near.label[:, column, None])
    logarithm = np.log(of_label, where=of_label > 0.0, out=np.zeros_like(share))  # a far neighbour's weight may be 0
    entropy: NDArray[np.float64] = 0.0 - np.sum(share * logarithm, axis=1)  # a minus sign would make -0.0
    return np.maximum(entropy, 0.0)  # rounding may sum shares to more than 1


def match_uncertainty(near: Neighbours, temperature: float = TEMPERATURE) -> NDArray[np.float64]:
    """Minus the log of the weighted share of the neighbours that have the nearest's label; in [0, ln(k + 1)].

    Neighbours weigh exp(cosine / temperature). One more, of a label of its own and as near as the k-th, stands for the
    rest of the gallery: so queries whose k neighbours all agree do not tie, but rank by their margin over the rest.
    Adding a constant to every cosine changes nothing.

    Args:
        near: the neighbours, best 10 to 50 each; a single one always scores ln 2.
        temperature: in cosine; a backbone whose neighbours lie further apart wants a higher one.

    Raises:
        ValueError: unless the temperature is positive.

    Source: the softmax-weighted neighbour vote of Wu et al. (CVPR 2018), arXiv:1805.01978, which has no such extra one.
    """
    weight = _weights(near, temperature)
    alike = np.sum(weight, axis=1, where=near.label == near.label[:, :1])  # (n,), 1 or more: the nearest weighs 1
    surprise: NDArray[np.float64] = np.log((weight.sum(axis=1) + weight[:, -1]) / alike)
    return surprise


def _weights(near: Neighbours, temperature: float) -> NDArray[np.float64]:
    """exp(cosine / temperature) in units of the nearest neighbour's: (n, k), 1 first, then in [0, 1]."""
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    cosine = near.cosine.astype(np.float64)
    weight: NDArray[np.float64] = np.exp((cosine - cosine[:, :1]) / temperature)
    return weight
