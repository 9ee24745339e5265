"""What a bench compares: backbones, methods, seeds and data sets, and where each of its files lies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from models.backbone import Backbone, load_backbone
from models.methods.registry import METHODS

SEVERITIES = (1 / 3, 2 / 3, 1.0)
KINDS = ("crop", "blur", "noise", "jpeg")
MIN_SCALE, JITTER, DEGRADED = 0.08, 0.4, 0.3  # of the augmented views
VIEWS = 8  # augmented passes that augmentation dispersion takes


@dataclass(frozen=True)
class DataSet:
    """Labelled images, named by a spec of `models.datasets`, with human `votes` (a file) where there are any.

    On `validation` sets methods may be chosen; on the others they are only reported.
    """

    name: str
    spec: str
    votes: Path | None = None
    validation: bool = False


@dataclass(frozen=True)
class Entrant:
    """A frozen backbone, and specs of the images that methods train on behind it, each with classes of its own."""

    name: str
    folder: Path
    train: tuple[str, ...]

    @property
    def backbone(self) -> Backbone:
        """The backbone, loaded once in a process."""
        return _load(self.folder)

    @property
    def hash(self) -> str:
        """The backbone's hash, computed once in a process."""
        return _hash(self.folder)


@dataclass(frozen=True)
class Run:
    """One training of one method behind one backbone; `images` limits the training set."""

    entrant: str
    method: str
    seed: int
    images: int | None = None

    @property
    def key(self) -> str:
        """Its place below the folder of runs."""
        suffix = f"-{self.images}" if self.images else ""
        return f"{self.entrant}/{self.method}/{self.seed}{suffix}"


@dataclass(frozen=True)
class Trainable:
    """The part in which methods train a small backbone from scratch, so that their losses shape it.

    Specs of `models.datasets`: `train`, at most `limit` of its images; `unseen`, images of other classes, to search
    within; `seen`, held-out images of the classes trained on. `model` and `args` are timm's, `size` is in pixels.
    """

    train: str
    unseen: str
    seen: str
    model: str = "resnet18"
    args: Mapping[str, Any] = field(default_factory=lambda: {"channels": (16, 32, 64, 128)})
    size: int = 32
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    seeds: int = 3
    limit: int | None = None


@dataclass(frozen=True)
class Plan:
    """A whole bench. `inside` is a set the backbones know, which foreign sets are told apart from."""

    out: Path
    entrants: tuple[Entrant, ...]
    sets: tuple[DataSet, ...]
    inside: DataSet | None
    methods: tuple[str, ...]
    seeds: int
    epochs: int
    views: int
    sample: int
    scaling: tuple[int, ...]
    scaled: tuple[str, ...]
    limit: int | None
    trainable: Trainable | None = None

    def entrant(self, name: str) -> Entrant:
        """The backbone of that name."""
        return next(each for each in self.entrants if each.name == name)

    def cache(self, entrant: str, name: str) -> Path:
        """Folder of the representations of a set behind a backbone."""
        return self.out / "caches" / entrant / name

    def train_caches(self, entrant: str) -> list[str]:
        """Names of the caches of a backbone's training images, one for each spec."""
        return [f"train-{number}" for number in range(len(self.entrant(entrant).train))]

    def run_folder(self, run: Run) -> Path:
        """Folder of a run's figures and scores."""
        return self.out / "runs" / run.key

    def runs(self) -> Iterator[Run]:
        """Every run of the comparison, seed by seed, so that an interrupted bench has the first seeds of all.

        A method with nothing to train by chance has one run.
        """
        for seed in range(self.seeds):
            for entrant in self.entrants:
                for method in self.methods:
                    if METHODS[method].trains or seed == 0:
                        yield Run(entrant.name, method, seed)

    def scaling_runs(self) -> Iterator[Run]:
        """Trainings of some methods behind the first backbone on fewer images."""
        for seed in range(min(3, self.seeds)):
            for method in self.scaled:
                for images in self.scaling:
                    yield Run(self.entrants[0].name, method, seed, images)


@cache
def _load(folder: Path) -> Backbone:
    return load_backbone(folder)


@cache
def _hash(folder: Path) -> str:
    return _load(folder).hash
