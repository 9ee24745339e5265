"""The representations that a bench works on, made once for each backbone and read as memory maps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.augment import Augmentation
from models.dataset import Dataset, limited_index, select
from models.datasets import open_dataset
from models.degrade import degrade
from models.methods.fit import Examples, side_by_side
from models.representations import Representations, cache_representations, load_representations
from models.targets import TARGETS
from scripts.bench.plan import DEGRADED, JITTER, KINDS, MIN_SCALE, SEVERITIES, VIEWS, Entrant, Plan
from uncertainty.neighbours import nearest_neighbour

Array = TypeVar("Array", NDArray[np.float32], NDArray[np.int64])


def make_caches(plan: Plan, entrant: Entrant, workers: int, device: str) -> None:
    """Write whatever the plan needs of a backbone and its folder does not hold yet."""

    def cache(name: str, dataset: Dataset, index: NDArray[np.int64] | None = None, views: int = 0) -> None:
        cache_representations(
            entrant.backbone,
            dataset,
            plan.cache(entrant.name, name),
            augmented_views=views,
            augmentation=Augmentation(MIN_SCALE, JITTER, degraded=DEGRADED),
            index=index,
            layers=True,
            workers=workers,
            device=device,
        )

    for name, spec in zip(plan.train_caches(entrant.name), entrant.train, strict=True):
        train = open_dataset(spec)
        cache(name, train, limited_index(len(train), plan.limit), plan.views)
    for data in plan.sets:
        whole = open_dataset(data.spec)
        index = limited_index(len(whole), plan.limit)
        some = index[sampled_rows(plan, index.size)]
        cache(data.name, whole, index)
        cache(f"{data.name}-views", whole, some, views=VIEWS)
        cache(f"{data.name}-degraded", degraded(whole, some))
    if plan.inside is not None:
        inside = open_dataset(plan.inside.spec)
        cache(plan.inside.name, inside, limited_index(len(inside), plan.limit))


def sampled_rows(plan: Plan, count: int) -> NDArray[np.int64]:
    """Which (m,) of a set's `count` cached images are also cached degraded, and in augmented views."""
    return limited_index(count, plan.sample)


def degraded(dataset: Dataset, index: NDArray[np.int64]) -> Dataset:
    """The images at `index` (m,) degraded: kind by kind, severity by severity, (KINDS x SEVERITIES x m) in all."""
    originals = select(dataset, index)

    def image(item: int) -> Image.Image:
        step, position = divmod(item, index.size)
        kind, severity = divmod(step, len(SEVERITIES))
        return degrade(originals.image(position), KINDS[kind], SEVERITIES[severity], seed=position)

    copies = len(KINDS) * len(SEVERITIES)
    return replace(
        originals,
        name=f"{dataset.name}, degraded",
        labels=np.tile(originals.labels, copies),
        image=image,
        fingerprint=f"{originals.fingerprint}-degraded-{KINDS}-{SEVERITIES}",
    )


def open_cache(plan: Plan, entrant: Entrant, name: str) -> Representations:
    """The representations of a set behind a backbone."""
    return load_representations(plan.cache(entrant.name, name), entrant.hash)


def examples(plan: Plan, entrant: Entrant, layers: bool, target: str | None) -> Examples:
    """What methods are trained on behind a backbone, with the losses to predict where there is a `target`."""
    parts, classes = [], []
    for name in plan.train_caches(entrant.name):
        cached = open_cache(plan, entrant, name)
        classes.append(cached.description["classes"])
        losses = target_losses(plan, entrant, name, target) if target else None
        parts.append(Examples(cached.features if layers else cached.views, cached.labels, losses))
    return side_by_side(parts, classes)


def target_losses(plan: Plan, entrant: Entrant, name: str, target: str) -> NDArray[np.float32]:
    """The losses (1 + k, n) that a head is to predict on a training cache, computed once and kept beside it."""
    path = plan.cache(entrant.name, name) / f"target-{target}.npy"
    return _kept(path, lambda: TARGETS[target](open_cache(plan, entrant, name), entrant.backbone))


def own_neighbours(plan: Plan, entrant: Entrant, name: str) -> NDArray[np.int64]:
    """The nearest neighbour (n,) of each image of a set by the backbone's own embedding, computed once."""
    path = plan.cache(entrant.name, name) / "neighbours.npy"
    return _kept(path, lambda: nearest_neighbour(np.asarray(open_cache(plan, entrant, name).clean, np.float32))[0])


def _kept(path: Path, make: Callable[[], Array]) -> Array:
    """The array in a file, which is made where it is not there, and never left half-written."""
    if not path.is_file():
        partial = path.with_name(f".{path.name}.partial.npy")
        np.save(partial, make())
        partial.replace(path)
    array: Array = np.load(path)
    return array
