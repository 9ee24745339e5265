"""The one training loop of all methods, on cached representations or through a trainable backbone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.methods.base import Batch, Head
from models.methods.pcgrad import backward_pcgrad
from models.schedule import warm_cosine


@dataclass(frozen=True)
class Schedule:
    """What decides a training beside method and data."""

    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    views: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """What a method learns from: `features` (v, n, f), view 0 clean, `labels` (n,), `targets` (v, n) or None."""

    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    targets: NDArray[np.float32] | None = None

    def rows(self, index: NDArray[np.int64]) -> "Examples":
        """The images at `index` (m,), in that order."""
        targets = None if self.targets is None else self.targets[:, index]
        return Examples(self.features[:, index], self.labels[index], targets)

    def clean(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Clean features (m, f) and labels (m,) of at most `count` images, drawn at random."""
        rows = np.sort(np.random.default_rng(seed).permutation(self.labels.size)[:count])
        return torch.from_numpy(self.features[0, rows].astype(np.float32)), torch.from_numpy(self.labels[rows])


def side_by_side(parts: Sequence[Examples], classes: Sequence[Sequence[str]]) -> Examples:
    """Examples of several data sets together, whose classes have these names: those of one name are one class.

    A single set is passed on as it is, so that a memory map stays one.
    """
    if len(parts) == 1:
        return parts[0]
    number = {name: i for i, name in enumerate(dict.fromkeys(chain.from_iterable(classes)))}
    labels = [np.array([number[name] for name in own])[part.labels] for part, own in zip(parts, classes, strict=True)]
    targets = [part.targets for part in parts if part.targets is not None]
    return Examples(
        np.concatenate([part.features for part in parts], axis=1),
        np.concatenate(labels),
        np.concatenate(targets, axis=1) if targets else None,
    )


class Batches(Protocol):
    """A data set as one epoch after the other."""

    def __len__(self) -> int:
        """Steps of an epoch."""

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; equal epochs, equal batches."""


def fit(
    head: Head,
    batches: Batches,
    schedule: Schedule,
    *,
    backbone: nn.Module | None = None,
    surgery: bool = False,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Head:
    """Train the head in place, and the backbone with it where one is given, and return it in evaluation mode.

    `backbone` maps a batch's `features` (v b, ...) to representations. With `surgery`, the gradients of the
    method's losses are combined by PCGrad instead of summed. `after_epoch` is told the epoch and its mean loss.
    """
    torch.manual_seed(schedule.seed)
    trained = nn.ModuleList([head] if backbone is None else [head, backbone])
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=schedule.weight_decay
    )
    total, step = schedule.epochs * len(batches), 0
    for epoch in range(schedule.epochs):
        trained.train()
        summed = 0.0
        for batch in batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * warm_cosine(step, total)
            losses = head.losses(batch if backbone is None else _represented(backbone, batch))
            optimizer.zero_grad(set_to_none=True)
            if surgery:
                backward_pcgrad(losses, parameters)
            else:
                torch.autograd.backward(torch.stack(losses).sum())
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            summed += float(torch.stack(losses).sum().detach())
            step += 1
        after_epoch(epoch, summed / len(batches))
    trained.eval()
    return head


class CachedBatches:
    """Batches of cached representations: each epoch sees every image once, in `views` random views of it."""

    def __init__(self, examples: Examples, schedule: Schedule) -> None:
        self._examples, self._schedule = examples, schedule
        self._size = min(schedule.batch_size, examples.labels.size)

    def __len__(self) -> int:
        """Whole batches of an epoch."""
        return int(self._examples.labels.size // self._size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Batches of features (views, b, f); the views of an image differ where there are enough of them."""
        examples, views = self._examples, self._schedule.views
        rng = np.random.default_rng((self._schedule.seed, epoch))
        order = rng.permutation(examples.labels.size)[: len(self) * self._size]
        for rows in order.reshape(len(self), self._size):
            shuffled = rng.random((len(examples.features), rows.size)).argsort(axis=0)
            numbers = shuffled[np.arange(views) % len(shuffled)]  # (views, b)
            features = torch.from_numpy(examples.features[numbers, rows].astype(np.float32))  # (views, b, f)
            targets = np.empty((views, 0)) if examples.targets is None else examples.targets[numbers, rows]
            labels = torch.from_numpy(examples.labels[rows])
            yield Batch(features, labels, torch.from_numpy(targets.astype(np.float32)))


def _represented(backbone: nn.Module, batch: Batch) -> Batch:
    views, count = batch.features.shape[:2]
    representation = backbone(batch.features.flatten(0, 1))  # (v b, f)
    return Batch(representation.unflatten(0, (views, count)), batch.labels, batch.targets)
