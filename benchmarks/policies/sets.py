"""Labelled images parted into a gallery and queries, some of which have no match in it, and distractors for later."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from models.dataset import Dataset
from models.datasets import open_dataset

NO_MATCH: Final = 0.1  # share of the queries


@dataclass(frozen=True)
class Setting:
    """A data set, what share of its images is put into the gallery, and the images that are none of its classes."""

    name: str
    images: str
    in_gallery: float
    distractors: str


@dataclass(frozen=True)
class Picture:
    """An image by its place in a data set, and its class."""

    place: int
    label: str


@dataclass(frozen=True)
class Parted:
    """What the gallery holds, and what it is asked: of the queries a share `NO_MATCH` is of classes it lacks."""

    dataset: Dataset
    gallery: tuple[Picture, ...]
    queries: tuple[Picture, ...]


def part(setting: Setting, seed: int) -> Parted:
    """Part a data set at random."""
    rng, dataset = np.random.default_rng(seed), open_dataset(setting.images)
    unknown = rng.choice(len(dataset.classes), max(1, round(NO_MATCH * len(dataset.classes))), replace=False)
    places = rng.permutation(len(dataset))
    is_known = ~np.isin(dataset.labels[places], unknown)
    known, others = places[is_known], places[~is_known]
    count = round(setting.in_gallery * known.size)
    asked = known[count:]
    without = others[: round(asked.size * NO_MATCH / (1 - NO_MATCH))]
    queries = rng.permutation(np.concatenate([asked, without]))
    return Parted(dataset, _pictures(dataset, known[:count]), _pictures(dataset, queries))


def distractors(setting: Setting, count: int) -> tuple[Dataset, tuple[Picture, ...]]:
    """Images that are none of the set's classes."""
    dataset = open_dataset(setting.distractors)
    return dataset, _pictures(dataset, np.random.default_rng(0).permutation(len(dataset))[:count])


def encoded(dataset: Dataset, picture: Picture, blur: float = 0.0) -> bytes:
    """An image as PNG, blurred by a Gaussian of that many pixels."""
    image = dataset.image(picture.place)
    return _png(image.filter(ImageFilter.GaussianBlur(blur)) if blur else image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pictures(dataset: Dataset, places: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[Picture, ...]:
    labels: Sequence[int] = dataset.labels[places].tolist()
    return tuple(Picture(place, dataset.classes[label]) for place, label in zip(places.tolist(), labels, strict=True))
