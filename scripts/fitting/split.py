"""Which of a user's images train the head, which are the reference, and which are only reported on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.dataset import Dataset
from models.datasets import UNLABELLED
from models.errors import UserError
from models.selections import DatasetError
from scripts.common import write_json
from scripts.fitting.ledger import read_json

UNSEEN_CLASSES, SEEN_CLASSES, INSTANCES = "unseen-classes", "seen-classes", "instances"
MIN_IMAGES = 20  # below that, parts of the split are empty
MIN_CLASSES = 10  # from that many on, some are held out
NAMED = 10  # of what is wrong


class FitError(UserError):
    """Images that a head cannot be fitted to; the message says what to change."""


@dataclass(frozen=True)
class Split:
    """Positions of images, each (m,) and ascending, that have nothing in common; `unseen` are the classes held out."""

    kind: str
    training: NDArray[np.int64]
    reference: NDArray[np.int64]
    evaluation: NDArray[np.int64]
    unseen: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In words."""
        held = {
            UNSEEN_CLASSES: f"of {len(self.unseen)} classes kept unseen",
            SEEN_CLASSES: "of the same classes",
            INSTANCES: "",
        }[self.kind]
        return " ".join(
            f"{self.training.size} images to learn from, {self.reference.size} for reference, "
            f"{self.evaluation.size} to report on {held}".split()
        )


def require_usable(dataset: Dataset) -> None:
    """Refuse what cannot be divided.

    Raises:
        FitError: for a single class, for classes of a single image (an image needs another one to be found), or for
            too few images.
    """
    count = np.bincount(dataset.labels, minlength=len(dataset.classes))
    present = [name for name, images in zip(dataset.classes, count, strict=True) if images]
    lonely = [name for name, images in zip(dataset.classes, count, strict=True) if images == 1]
    if dataset.classes != UNLABELLED and len(present) == 1:
        raise FitError(
            f"{dataset.name} has the one class {present[0]}: give at least two, or name the folder of its images "
            "itself, which then need no classes"
        )
    if lonely and dataset.classes != UNLABELLED:
        raise FitError(f"{dataset.name}: classes of a single image, add another or take them out: {named(lonely)}")
    if len(dataset) < MIN_IMAGES:
        raise FitError(f"{dataset.name} has {len(dataset)} images, and at least {MIN_IMAGES} are needed")


def require_readable(dataset: Dataset, workers: int) -> None:
    """Decode every image once.

    Raises:
        FitError: with the names of those that cannot be decoded.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:  # Pillow lets other threads run while it decodes
        found = pool.map(lambda i: _problem(dataset, i), range(len(dataset)))
        problems = [each for each in tqdm(found, "check images", len(dataset), unit="img") if each]
    if problems:
        raise FitError(f"{len(problems)} images cannot be read; mend or remove them: {named(problems, '; ')}")


def divide(dataset: Dataset, seed: int) -> Split:
    """A fifth to report on, of what remains a tenth for reference, and the rest to train on; equal seeds, equal splits.

    The fifth is one of the classes, five of them at least, where there are ten or more; of the images of each class
    where there are fewer; and of all images where none has a class.

    Raises:
        FitError: where no class has enough images for its fifth.
    """
    rng = np.random.default_rng(seed)
    present = np.unique(dataset.labels)
    unseen = np.empty(0, dtype=np.int64)
    if dataset.classes == UNLABELLED:
        kind, evaluation = INSTANCES, rng.permutation(len(dataset))[: len(dataset) // 5]
    elif present.size >= MIN_CLASSES:
        unseen = np.sort(rng.permutation(present)[: max(5, present.size // 5)])
        kind, evaluation = UNSEEN_CLASSES, np.flatnonzero(np.isin(dataset.labels, unseen))
    else:
        kind, evaluation = SEEN_CLASSES, _fifth_of_each(dataset.labels, rng)
    rest = np.setdiff1d(np.arange(len(dataset)), evaluation)
    reference = np.sort(rng.permutation(rest)[: max(2, rest.size // 10)])
    names = tuple(dataset.classes[label] for label in unseen)
    return Split(kind, np.setdiff1d(rest, reference), reference, np.sort(evaluation), names)


def keep_split(split: Split, dataset: Dataset, seed: int, path: Path) -> None:
    """Write the split as JSON that specs can name: `DATA@FILE#training`, `#reference`, `#evaluation`.

    Raises:
        FitError: when the file is there, and of other images or another seed.
    """
    content = {
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "seed": seed,
        "kind": split.kind,
        "unseen_classes": list(split.unseen),
        **{name: getattr(split, name).tolist() for name in ("training", "reference", "evaluation")},
    }
    found = read_json(path)
    if found and found != content:
        differing = [key for key in ("data", "fingerprint", "seed") if found.get(key) != content[key]]
        raise FitError(f"{path} was made with another {', '.join(differing or ['split'])}; choose another --out")
    write_json(path, content)


def _fifth_of_each(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A fifth, two at least, of the images of each class that has five or more, so that each can find another."""
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    chosen = [each[: max(2, each.size // 5)] for each in members if each.size >= 5]
    if len(chosen) < 2:
        raise FitError("fewer than two classes have five images or more: too few to hold any out")
    return np.concatenate(chosen)


def _problem(dataset: Dataset, index: int) -> str:
    """What is wrong with an image, if anything."""
    try:
        dataset.image(index)
    except (DatasetError, OSError) as error:
        return str(error)
    return ""


def named(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return separator.join([*names[:NAMED], *more])
