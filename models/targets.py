"""What an uncertainty head learns to predict: the loss of each cached view, from the classifier or from retrieval."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from models.backbone import classify
from models.representations import Representations
from uncertainty.neighbours import k_nearest

Target = Literal["classification", "retrieval"]


def classification_loss(cached: Representations, module: nn.Module) -> NDArray[np.float32]:
    """Cross-entropy of the frozen classifier on every view: (1 + k, n).

    The cache's labels must be the classifier's classes. Source: the PVU target (arXiv:2402.16569).
    """
    labels = torch.from_numpy(cached.labels)
    with torch.inference_mode():
        losses = [
            F.cross_entropy(classify(module, torch.from_numpy(view.astype(np.float32))), labels, reduction="none")
            for view in cached.views
        ]
    return torch.stack(losses).numpy()


def retrieval_loss(cached: Representations, k: int = 200, temperature: float = 0.1) -> NDArray[np.float32]:
    """Soft nearest-neighbour loss of every view searched among the clean views of all other images: (1 + k, n).

    Minus the log of the share that images of the same class have in the softmax over the `k` nearest; at most
    -log 1e-3, where none of them is near. The image itself is excluded by index, its duplicates are not.

    Source: leave-one-out soft nearest neighbours (Goldberger et al., NeurIPS 2004), cut to the k nearest; both defaults
    are ours, chosen on classes that no figure is reported on.
    """
    clean = np.asarray(cached.clean, dtype=np.float32)
    own = np.arange(len(clean))[:, None]
    k = min(k, len(clean) - 1)
    losses = np.empty(cached.views.shape[:2], dtype=np.float32)
    for number, view in enumerate(cached.views):
        index, cosine = k_nearest(np.asarray(view, dtype=np.float32), k + 1, clean)  # (n, k + 1)
        other = index != own
        other[other.all(axis=1), -1] = False  # k of them, whether or not the image found itself
        weight = np.where(other, np.exp((cosine - cosine[:, :1]) / temperature), 0.0)
        same = cached.labels[index] == cached.labels[:, None]
        share = (weight * same).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-30)
        losses[number] = -np.log(np.maximum(share, 1e-3))
    return losses
