"""What an uncertainty head learns to predict: the loss of each cached view, from a classifier or from retrieval."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.backbone import Backbone, classify
from models.errors import UserError
from models.methods.base import Sizes
from models.methods.cross_entropy import CrossEntropy
from models.methods.fit import CachedBatches, Examples, Schedule, fit
from models.representations import Representations
from uncertainty.neighbours import k_nearest

PROBE_STEPS = 200  # of a probe's training at least: of few images, five epochs would teach it next to nothing


class TargetError(UserError):
    """A target that these images or this backbone cannot give; the message says which can."""


def classification_loss(cached: Representations, backbone: Backbone) -> NDArray[np.float32]:
    """Cross-entropy of the backbone's own classifier on every view: (1 + k, n).

    Raises:
        TargetError: unless the cache's labels are the classifier's classes.

    Source: the PVU target (arXiv:2402.16569).
    """
    if tuple(cached.description["classes"]) != backbone.classes:
        raise TargetError("the target classification needs the backbone's own classes; try --target probe or retrieval")
    labels = torch.from_numpy(cached.labels)
    with torch.inference_mode():
        logits = [classify(backbone.module, torch.from_numpy(view.astype(np.float32))) for view in cached.views]
    return torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits]).numpy()


def retrieval_loss(
    cached: Representations, backbone: Backbone | None = None, k: int = 200, temperature: float = 0.1
) -> NDArray[np.float32]:
    """Soft nearest-neighbour loss of every view searched among the clean views of all other images: (1 + k, n).

    Minus the log of the share that images of the same class have in the softmax over the `k` nearest; at most
    -log 1e-3, where none of them is near. The image itself is excluded by index, its duplicates are not. `backbone` is
    not looked at.

    Source: leave-one-out soft nearest neighbours (Goldberger et al., NeurIPS 2004), cut to the k nearest; both defaults
    are ours, chosen on classes that no figure is reported on.
    """
    return np.stack([_soft_loss(cosine, other, same, temperature) for cosine, other, same in _searches(cached, k)])


def scaled_retrieval_loss(cached: Representations, backbone: Backbone | None = None) -> NDArray[np.float32]:
    """`retrieval_loss` in units of its standard deviation over all views of the data set: (1 + k, n).

    So a head that learns from several data sets minds each of them, whatever its losses are like.
    """
    losses = retrieval_loss(cached)
    return losses / max(float(losses.std()), 1e-3)


def retrieval_error(
    cached: Representations, backbone: Backbone | None = None, k: int = 200, rate: float = 0.1
) -> NDArray[np.float32]:
    """Chance in [0, 1] that a view's nearest neighbour is of another class, in galleries drawn at random: (1 + k, n).

    If a gallery keeps each of the other images' clean views with probability `rate`, the r-th nearest, r = 0, 1, ...,
    is the nearest one kept with probability rate (1 - rate)^r: the error is the share of wrong labels under these
    weights, cut to the `k` nearest. So it counts what R@1 counts, over galleries of other sizes. `backbone` is not
    looked at.
    """
    return np.stack([_galleries_error(other, same, rate) for _, other, same in _searches(cached, k)])


def _searches(
    cached: Representations, k: int
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_]]]:
    """For every view, its k + 1 nearest clean views of the cache, nearest first, in three (n, k + 1) arrays.

    Their cosines; whether each counts, as one of k other images; and whether it has the label of the query.
    """
    clean = np.asarray(cached.clean, dtype=np.float32)
    own = np.arange(len(clean))[:, None]
    k = min(k, len(clean) - 1)
    for view in cached.views:
        index, cosine = k_nearest(np.asarray(view, dtype=np.float32), k + 1, clean)
        other = index != own
        other[other.all(axis=1), -1] = False  # k of them, whether or not the image found itself
        yield cosine, other, cached.labels[index] == cached.labels[:, None]


def _galleries_error(other: NDArray[np.bool_], same: NDArray[np.bool_], rate: float) -> NDArray[np.float32]:
    rank = np.cumsum(other, axis=1) - 1  # among the others, (n, k + 1)
    weight = np.where(other, (1.0 - rate) ** rank, 0.0)
    error: NDArray[np.float32] = ((weight * ~same).sum(axis=1) / weight.sum(axis=1)).astype(np.float32)
    return error


def instance_loss(
    cached: Representations, backbone: Backbone | None = None, k: int = 200, temperature: float = 0.1
) -> NDArray[np.float32]:
    """Soft nearest-neighbour loss with which every view finds its own image among all of them: (1 + v, n).

    An augmented view is searched among the clean views of all images, where that of its own image is the only right
    answer; a clean view among the augmented views of all images, where those of its own are. The rest is as in
    `retrieval_loss`, but no label is looked at, nor `backbone`.

    Raises:
        TargetError: when the cache holds no augmented views.

    Source: instance discrimination (Wu et al., CVPR 2018, arXiv:1805.01978) in the form of `retrieval_loss`.
    """
    clean, augmented = np.asarray(cached.clean, dtype=np.float32), cached.views[1:]
    if not len(augmented):
        raise TargetError("the target instance needs augmented views; cache the images with --views 3")
    own = np.arange(len(clean))[:, None]
    everywhere = augmented.reshape(-1, augmented.shape[2]).astype(np.float32)  # (v n, d), view by view
    galleries = [everywhere, *[clean] * len(augmented)]
    losses = np.empty(cached.views.shape[:2], dtype=np.float32)
    for number, (view, gallery) in enumerate(zip(cached.views, galleries, strict=True)):
        index, cosine = k_nearest(np.asarray(view, dtype=np.float32), min(k, len(gallery)), gallery)  # (n, k)
        losses[number] = _soft_loss(cosine, np.ones_like(index, dtype=bool), index % len(clean) == own, temperature)
    return losses


def _soft_loss(
    cosine: NDArray[np.floating], counted: NDArray[np.bool_], same: NDArray[np.bool_], temperature: float
) -> NDArray[np.floating]:
    """Minus the log (n,) of the share, 1e-3 at least, of what is the same in the softmax over what counts, (n, k)."""
    weight = np.where(counted, np.exp((cosine - cosine[:, :1]) / temperature), 0.0)
    share = (weight * same).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-30)
    loss: NDArray[np.floating] = -np.log(np.maximum(share, 1e-3))
    return loss


def probe_loss(cached: Representations, backbone: Backbone | None = None, folds: int = 2) -> NDArray[np.float32]:
    """Cross-entropy on every view of a linear probe that was trained on the other images: (1 + k, n).

    The images fall into `folds` parts at random; each part's losses come from a probe of the clean and augmented views
    of the others, so that no probe has seen the image it judges. `backbone` is not looked at.
    """
    part = np.random.default_rng(0).integers(folds, size=cached.labels.size)
    losses = np.empty(cached.views.shape[:2], dtype=np.float32)
    for fold in range(folds):
        probe = _probe(cached, np.flatnonzero(part != fold))
        judged = np.flatnonzero(part == fold)
        labels = torch.from_numpy(cached.labels[judged])
        with torch.inference_mode():
            for number in range(len(cached.views)):
                logits = probe.logits(torch.from_numpy(cached.views[number, judged].astype(np.float32)))  # (m, c)
                losses[number, judged] = F.cross_entropy(logits, labels, reduction="none").numpy()
    return losses


def _probe(cached: Representations, rows: NDArray[np.int64]) -> CrossEntropy:
    torch.manual_seed(0)
    examples = Examples(cached.views, cached.labels).rows(rows)
    probe = CrossEntropy(Sizes(cached.dimension, cached.dimension, int(cached.labels.max()) + 1))
    probe.prepare(*examples.clean(len(rows), seed=0))
    steps = max(1, len(rows) // Schedule.batch_size)  # of an epoch
    schedule = Schedule(epochs=max(5, PROBE_STEPS // steps), weight_decay=0.05)
    fit(probe, CachedBatches(examples, schedule), schedule)
    return probe


TARGETS: dict[str, Callable[[Representations, Backbone], NDArray[np.float32]]] = {
    "classification": classification_loss,
    "instance": instance_loss,
    "probe": probe_loss,
    "retrieval": scaled_retrieval_loss,
    "retrieval-error": retrieval_error,
}
