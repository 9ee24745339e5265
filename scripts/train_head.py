"""Train the uncertainty head behind a frozen backbone, on cached representations, to predict a loss.

    candor train-head --backbone runs/backbone --cache runs/cache --out runs/head

The cached images should be ones the backbone was not trained on: its loss on its own training images is optimistic.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from models import losses
from models.backbone import Backbone, load_backbone
from models.heads import UncertaintyHead, save_head
from models.representations import Representations, load_representations
from models.targets import classification_loss, retrieval_loss
from scripts.common import command_line, current_commit, log_to_stderr, parser, warm_cosine, write_json
from uncertainty.metrics import spearman

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ranking": losses.pairwise_ranking,
    "neighbour-ranking": losses.neighbour_ranking,
    "mse": losses.squared_error,
}


@dataclass(frozen=True)
class HeadTraining:
    """What decides the head beside its data."""

    target: str = "retrieval"
    loss: str = "ranking"
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    hidden: int = 512
    dropout: float = 0.0
    held_back: float = 0.1
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    backbone = load_backbone(options.backbone)
    caches = [load_representations(folder, backbone.hash) for folder in options.cache]
    training = HeadTraining(**{key: getattr(options, key) for key in HeadTraining.__dataclass_fields__})
    views, targets = joined(caches, backbone, training.target)
    head, results = train_head(views, targets, training)
    description = {
        "backbone_hash": backbone.hash,
        "data": [cached.description["dataset"] for cached in caches],
        "training": asdict(training),
        "command": command_line(),
        "commit": current_commit(),
    }
    save_head(head, options.out, description)
    write_json(options.out / "training.json", {**description, **results})
    log_to_stderr().info("%s: %s", options.out, json.dumps(results["held_back"]))


def joined(
    caches: Sequence[Representations], backbone: Backbone, target: str
) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Views (1 + k, n, d) and target losses (1 + k, n) of several caches with equally many views, side by side."""
    if len({len(cached.views) for cached in caches}) > 1:
        raise SystemExit("the caches have different numbers of views; cache them with the same --views")
    if target == "classification":
        if any(tuple(cached.description["classes"]) != backbone.classes for cached in caches):
            raise SystemExit("--target classification needs the backbone's own classes; try --target retrieval")
        found = [classification_loss(cached, backbone.module) for cached in caches]
    else:
        found = [retrieval_loss(cached) for cached in caches]
    return np.concatenate([cached.views for cached in caches], axis=1), np.concatenate(found, axis=1)


def train_head(
    views: NDArray[np.floating], targets: NDArray[np.float32], training: HeadTraining
) -> tuple[UncertaintyHead, dict[str, Any]]:
    """Fit a head to views (v, n, d) and their losses (v, n); each epoch sees every image once, in a random view.

    Returns:
        The head in evaluation mode, and its history with the Spearman correlation between uncertainty and loss on the
        clean views of the share of images held back.
    """
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    count, dimension = views.shape[1:]
    order = rng.permutation(count)
    kept, held_back = np.split(order, [count - max(2, int(count * training.held_back))])
    head = UncertaintyHead(dimension, training.hidden, training.dropout)
    head.fit_scaling(torch.from_numpy(views[0, kept].astype(np.float32)))
    objective = LOSSES[training.loss]
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=training.learning_rate, betas=(0.8, 0.95), weight_decay=training.weight_decay
    )
    steps_per_epoch = max(1, kept.size // training.batch_size)
    schedule = partial(warm_cosine, total=training.epochs * steps_per_epoch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    history = []
    for epoch in trange(training.epochs, desc="train head", unit="epoch"):
        head.train()
        shuffled = rng.permutation(kept)[: steps_per_epoch * training.batch_size]
        total = 0.0
        for rows in shuffled.reshape(steps_per_epoch, -1):
            numbers = rng.integers(len(views), size=rows.size)
            representation = torch.from_numpy(views[numbers, rows].astype(np.float32))  # (b, d)
            loss = objective(head(representation), torch.from_numpy(targets[numbers, rows]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
            total += float(loss.detach())
        agreement = spearman(predict(head, views[0, held_back]), targets[0, held_back])
        history.append({"epoch": epoch + 1, "loss": total / steps_per_epoch, "held_back_spearman": agreement})
    return head.eval(), {"history": history, "held_back": history[-1], "images": int(count), "views": len(views)}


def predict(head: UncertaintyHead, representation: NDArray[np.floating]) -> NDArray[np.float32]:
    """Uncertainty (n,) of representations (n, d)."""
    head.eval()
    with torch.inference_mode():
        uncertainty: NDArray[np.float32] = head(torch.from_numpy(representation.astype(np.float32))).numpy()
    return uncertainty


def _arguments() -> argparse.ArgumentParser:
    defaults = HeadTraining()
    arguments = parser("train-head", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument("--cache", type=Path, action="append", required=True, help="cache folder; may be repeated")
    arguments.add_argument("--target", choices=("retrieval", "classification"), default=defaults.target)
    arguments.add_argument("--loss", choices=tuple(LOSSES), default=defaults.loss)
    arguments.add_argument("--epochs", type=int, default=defaults.epochs)
    arguments.add_argument("--batch-size", type=int, default=defaults.batch_size)
    arguments.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    arguments.add_argument("--weight-decay", type=float, default=defaults.weight_decay)
    arguments.add_argument("--hidden", type=int, default=defaults.hidden, help="width of the two hidden layers")
    arguments.add_argument("--dropout", type=float, default=defaults.dropout)
    arguments.add_argument("--held-back", type=float, default=defaults.held_back, help="share of images not trained on")
    arguments.add_argument("--seed", type=int, default=defaults.seed)
    arguments.add_argument("--out", type=Path, required=True, help="head folder to write")
    return arguments


if __name__ == "__main__":
    main()
