"""A data set, labelled images that are decoded one at a time, and data sets made of others."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.selections import DatasetError


@dataclass(frozen=True)
class Dataset:
    """Labelled images, decoded one at a time.

    `labels` is (n,) int64, indices into `classes`; `image(i)` decodes image i to RGB; `fingerprint` changes with the
    content: all of it where it is packed, else the files' names and sizes, or torchvision's labels.
    """

    name: str
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    image: Callable[[int], Image.Image]
    fingerprint: str

    def __len__(self) -> int:
        return int(self.labels.size)


def concatenate(parts: Sequence[Dataset], name: str) -> Dataset:
    """Data sets of the same classes, one after the other."""
    first = parts[0]
    if any(part.classes != first.classes for part in parts):
        raise DatasetError(f"{name}: the parts do not have the same classes; open them as separate data sets")
    ends = np.cumsum([len(part) for part in parts])

    def image(index: int) -> Image.Image:
        part = int(np.searchsorted(ends, index, side="right"))
        return parts[part].image(index - int(ends[part - 1]) if part else index)

    labels = np.concatenate([part.labels for part in parts])
    return Dataset(name, labels, first.classes, image, digest(*(part.fingerprint for part in parts)))


def select(dataset: Dataset, index: NDArray[np.int64]) -> Dataset:
    """The images at `index` (m,), in that order."""
    index = np.asarray(index, dtype=np.int64)
    return Dataset(
        dataset.name,
        dataset.labels[index],
        dataset.classes,
        lambda i: dataset.image(int(index[i])),
        digest(dataset.fingerprint, index.tobytes()),
    )


def select_classes(dataset: Dataset, classes: Sequence[str], name: str) -> Dataset:
    """Only the images of `classes`, whose labels become their positions in that list."""
    position = {c: i for i, c in enumerate(classes)}
    new_label = np.array([position.get(c, -1) for c in dataset.classes], dtype=np.int64)
    kept = select(dataset, np.flatnonzero(new_label[dataset.labels] >= 0))
    return Dataset(name, new_label[kept.labels], tuple(classes), kept.image, digest(kept.fingerprint, *classes))


def select_images(dataset: Dataset, index: NDArray[np.int64]) -> Dataset:
    """The images at `index` (m,), in that order, and of the classes only those that occur among them."""
    kept = select(dataset, index)
    return select_classes(kept, [kept.classes[label] for label in np.unique(kept.labels)], name=dataset.name)


def reduced(dataset: Dataset, side: str, name: str) -> Dataset:
    """Every image reduced by averaging to a short side of at most `side` pixels, as if it had been taken so."""
    if not side.isdigit() or int(side) < 1:
        raise DatasetError(f"~{side}: expected the largest short side in pixels, e.g. ~32")
    pixels = int(side)

    def image(index: int) -> Image.Image:
        full = dataset.image(index)
        factor = min(1.0, pixels / min(full.size))
        size = (max(1, round(full.width * factor)), max(1, round(full.height * factor)))
        return full if factor == 1.0 else full.resize(size, Image.Resampling.BOX)

    return Dataset(name, dataset.labels, dataset.classes, image, digest(dataset.fingerprint, side))


def limited_index(count: int, limit: int | None, seed: int = 0) -> NDArray[np.int64]:
    """Positions of at most `limit` of `count` images, drawn at random without replacement and in ascending order."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def digest(*parts: str | bytes) -> str:
    """Hash of parts in their order, each of any length."""
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return found.hexdigest()
