"""What a backbone is trained on: images in augmented views, and a teacher's representations of the same views."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.augment import Augmentation
from models.backbone import represent
from models.dataset import Dataset, limited_index
from models.datasets import open_dataset
from models.preprocess import Preprocessing
from models.representations import DESCRIPTION_FILE as CACHE_FILE
from models.representations import load_representations
from models.views import Views, view_batches


@dataclass(frozen=True)
class Schedule:
    """What decides a run beside its model and data: equal schedules give equal weights."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    teacher_weight: float
    seed: int


@dataclass(frozen=True)
class Teacher:
    """Another backbone's representations of the same views: `views` (1 + k, n, d), `mean` and `scale` (d,)."""

    hash: str
    views: NDArray[np.floating]
    augmentation: Augmentation
    mean: Tensor
    scale: Tensor

    def targets(self, number: int, rows: NDArray[np.int64]) -> Tensor:
        """(b, d) standardised representations of view `number` of the images in these rows."""
        return (torch.from_numpy(self.views[number, rows].astype(np.float32)) - self.mean) / self.scale


@dataclass(frozen=True)
class Images:
    """The images to train on: positions `index` (n,) of a data set, in the views of an augmentation."""

    dataset: Dataset
    index: NDArray[np.int64]
    augmentation: Augmentation
    preprocessing: Preprocessing


def load_teacher(folder: Path, fingerprint: str) -> Teacher:
    """The teacher whose cache a folder holds, of the images of this fingerprint, standardised over its first view."""
    cached = load_representations(folder, json.loads((folder / CACHE_FILE).read_text())["backbone_hash"])
    if cached.description["fingerprint"] != fingerprint:
        raise SystemExit(f"{folder} holds other images; cache the teacher on the same --data and --limit")
    if len(cached.views) < 2:
        raise SystemExit(f"{folder} has no augmented views; cache the teacher with --views 3 or so")
    sample = torch.from_numpy(np.array(cached.views[1], dtype=np.float32))  # (n, d)
    augmentation = Augmentation(**cached.description["augmentation"])
    mean, scale = sample.mean(dim=0), sample.std(dim=0) + 1e-3
    return Teacher(cached.description["backbone_hash"], cached.views, augmentation, mean, scale)


def validation_images(spec: str | None, limit: int | None, preprocessing: Preprocessing) -> Images | None:
    """At most `limit` images to measure the accuracy on, where a spec names any."""
    if not spec:
        return None
    dataset = open_dataset(spec)
    return Images(dataset, limited_index(len(dataset), limit), Augmentation(), preprocessing)


def batches(
    images: Images, teacher: Teacher | None, schedule: Schedule, epoch: int, skipped: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The rest of an epoch after `skipped` batches: pixels (b, h, w, 3), labels (b,), the teacher's targets (b, d)."""
    size = min(schedule.batch_size, images.index.size)
    order = np.random.default_rng((schedule.seed, epoch)).permutation(images.index.size)
    order = order[skipped * size : images.index.size // size * size]
    number = 1 + epoch % (len(teacher.views) - 1) if teacher else 1 + epoch
    numbers = np.full(order.size, number)
    views = Views(images.dataset, images.index[order], numbers, images.augmentation, images.preprocessing)
    for rows, pixels in zip(order.reshape(-1, size), view_batches(views, size, workers), strict=True):
        labels = torch.from_numpy(images.dataset.labels[images.index[rows]])
        yield pixels, labels, teacher.targets(number, rows) if teacher else None


def flipped(pixels: Tensor) -> Tensor:
    """Mirror each image (b, h, w, 3) with probability one half, which a teacher's representation hardly notices."""
    mirrored = torch.rand(len(pixels)) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)


def with_projection(module: nn.Module, preprocessing: Preprocessing, teacher: Teacher | None) -> nn.ModuleDict:
    """The backbone and, for a teacher, a linear map from its representations to the teacher's."""
    model = nn.ModuleDict({"backbone": module})
    if teacher:
        side = preprocessing.size
        with torch.inference_mode():
            example = represent(module.eval(), torch.zeros(1, side, side, 3, dtype=torch.uint8), preprocessing)
        model["projection"] = nn.Linear(example.shape[1], teacher.views.shape[2])
    return model
