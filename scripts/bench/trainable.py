"""The part of a bench where each method trains a small backbone from scratch, so that its loss shapes the backbone.

Behind a frozen backbone a loss moves a head alone. Here Losspred without StopGrad can spoil the classifier that it
judges, and the figures by epoch show whether it does.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.backbone import create_backbone
from models.datasets import open_dataset
from models.errors import UserError
from models.heads import embed, predict
from models.methods.base import Head, Sizes, Standardise
from models.methods.classifier import Classifier
from models.methods.fit import Schedule, fit
from models.methods.losspred import LossPrediction
from models.methods.registry import METHODS, make_head
from models.preprocess import Preprocessing
from scripts.bench.pixels import BLOCK, PixelBatches, Pixels, PreLogits, read_pixels, represented
from scripts.bench.plan import Plan, Trainable
from scripts.common import write_json
from uncertainty import metrics
from uncertainty.neighbours import nearest_neighbour

FIGURES = "figures.json"
JUDGED = 5000  # images, at most, that each epoch is judged on, of seen and of unseen classes
STATISTICS = 5000  # images, at most, that a head is prepared on


@dataclass(frozen=True)
class TrainableRun:
    """One training of one method together with a backbone of its own."""

    method: str
    seed: int


@dataclass(frozen=True)
class Data:
    """Images to train on, others of the same classes, `seen`, and some of other classes, `unseen`."""

    train: Pixels
    unseen: Pixels
    seen: Pixels


def trainable_runs(plan: Plan) -> Iterator[TrainableRun]:
    """A run for each seed and each of the plan's methods that trains by a loss of its own; none if not asked for."""
    if plan.trainable is not None:
        for seed in range(plan.trainable.seeds):
            for method in plan.methods:
                if METHODS[method].trains and METHODS[method].target is None:
                    yield TrainableRun(method, seed)


def trainable_finished(plan: Plan, run: TrainableRun) -> bool:
    """Whether the run's figures are there."""
    return figures_path(plan, run).is_file()


def trainable_tasks(plan: Plan) -> list[Callable[[], None]]:
    """What is still to be done, for any process to do."""
    if plan.trainable is None:
        return []
    runs = [run for run in trainable_runs(plan) if not trainable_finished(plan, run)]
    return [partial(perform_trainable, plan.trainable, run, figures_path(plan, run)) for run in runs]


def perform_trainable(trainable: Trainable, run: TrainableRun, path: Path) -> None:
    """Train, judge every epoch, and write the figures to `path` when all is done."""
    torch.set_num_threads(1)
    data = read_data(trainable)
    started = time.perf_counter()
    epochs = train_from_scratch(trainable, data, run)
    seconds = time.perf_counter() - started
    write_json(path, {"images": data.train.labels.size, "seconds": seconds, "epochs": epochs})


def trainable_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row for each finished run: method, label, seed, images, seconds with judging, and a list of epochs.

    An epoch has its number from 1, the mean training loss, recall_at_1 and r_auroc on classes never seen; and, if the
    method classifies, accuracy on seen classes and correctness_auroc, how well its uncertainty tells what is classified
    wrong there.
    """
    return [
        {"method": run.method, "label": METHODS[run.method].label, "seed": run.seed, **_read(figures_path(plan, run))}
        for run in trainable_runs(plan)
        if trainable_finished(plan, run)
    ]


def require_readable(trainable: Trainable) -> None:
    """Open all data sets, so that hours of other runs do not end in an error.

    Raises:
        UserError: when one cannot be opened, or held-out images are not of the classes trained on.
    """
    train, seen, _ = (open_dataset(spec) for spec in (trainable.train, trainable.seen, trainable.unseen))
    if seen.classes != train.classes:
        raise UserError(f"{seen.name} has other classes than {train.name}; held-out images must be of the same")


def read_data(trainable: Trainable) -> Data:
    """The images of all data sets, decoded."""
    return Data(
        read_pixels(trainable.train, trainable.size, trainable.limit),
        read_pixels(trainable.unseen, trainable.size, JUDGED),
        read_pixels(trainable.seen, trainable.size, JUDGED),
    )


def train_from_scratch(trainable: Trainable, data: Data, run: TrainableRun) -> list[dict[str, Any]]:
    """Train backbone and head together, and judge them after every epoch.

    All methods have one schedule: what the registry changes of it is for heads behind a frozen backbone. PCGrad acts on
    all parameters, as in arXiv:2001.06782; whether gradients conflict is decided by those that both losses reach.
    """
    torch.manual_seed(run.seed)
    made = create_backbone(
        trainable.model, classes=(), args=trainable.args, preprocessing=Preprocessing(trainable.size)
    )
    backbone = PreLogits(made.module)
    head = new_head(run.method, backbone, data.train)
    schedule = Schedule(trainable.epochs, trainable.batch_size, trainable.learning_rate, seed=run.seed)
    epochs: list[dict[str, Any]] = []

    def judge(epoch: int, loss: float) -> None:
        epochs.append({"epoch": epoch + 1, "loss": loss, **judged(head, backbone, data)})

    batches, surgery = PixelBatches(data.train, schedule), METHODS[run.method].surgery
    fit(head, batches, schedule, backbone=backbone, surgery=surgery, after_epoch=judge)
    return epochs


def new_head(method: str, backbone: nn.Module, train: Pixels) -> Head:
    """A head of the method, prepared on the untrained backbone and ready for one that moves."""
    features = represented(backbone, train.images[:STATISTICS])  # (m, d)
    dimension = features.shape[1]
    head = make_head(method, Sizes(dimension, dimension, len(train.classes)))
    head.prepare(features, torch.from_numpy(train.labels[:STATISTICS]))
    follow_backbone(head)
    return head


def follow_backbone(head: Head) -> None:
    """Append to every standardisation of a prepared head, in place, a batch norm without weights.

    Standardised by what the untrained backbone gave, a trained one's features would soon be far off; taken anew once an
    epoch, statistics would change the inputs of trained layers at a stroke. With the batch norm they are those of the
    batch while training and running means after, as they are inside the backbone; and whatever else a head prepared in
    standardised units, such as SNGP's length scale, keeps its meaning.
    """
    for parent in list(head.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Standardise):
                setattr(parent, name, nn.Sequential(child, nn.BatchNorm1d(child.mean.numel(), affine=False)))


def judged(head: Head, backbone: nn.Module, data: Data) -> dict[str, float]:
    """Retrieval within classes never seen, leave-one-out, and classification of new images of seen ones."""
    head.eval()
    if type(head).finish is not Head.finish:  # what it takes of the training images has moved with the backbone
        head.finish(represented(backbone, data.train.images), torch.from_numpy(data.train.labels))
    features = represented(backbone, data.unseen.images).numpy()
    neighbour, _ = nearest_neighbour(embed(head, features))
    correct = data.unseen.labels[neighbour] == data.unseen.labels
    row = {"recall_at_1": float(correct.mean()), "r_auroc": metrics.r_auroc(predict(head, features), correct)}
    return row | classified(head, represented(backbone, data.seen.images), data.seen)


def classified(head: Head, features: Tensor, seen: Pixels) -> dict[str, float]:
    """Accuracy on features (n, d), and how uncertainty tells wrong from right; nothing for a head without classes."""
    with torch.inference_mode():
        scores = [class_scores(head, rows) for rows in torch.split(features, BLOCK)]
    predicted = [each.argmax(dim=1) for each in scores if each is not None]
    if not predicted:
        return {}
    right = torch.cat(predicted).numpy() == seen.labels
    uncertainty = predict(head, features.numpy())
    return {"accuracy": float(np.mean(right)), "correctness_auroc": metrics.r_auroc(uncertainty, right)}


def class_scores(head: Head, features: Tensor) -> Tensor | None:
    """Scores (b, c) that are highest for the predicted class of features (b, d), where the head classifies."""
    if isinstance(head, Classifier):
        return head.log_probability(features)
    return head.logits(features) if isinstance(head, LossPrediction) else None


def figures_path(plan: Plan, run: TrainableRun) -> Path:
    """Where a run's figures are kept."""
    return plan.out / "trainable" / run.method / str(run.seed) / FIGURES


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
