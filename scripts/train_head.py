"""Train an uncertainty head behind a frozen backbone, on cached representations, by any of the methods.

    candor train-head --backbone runs/backbone --cache runs/cache --out runs/head

The cached images should be ones the backbone was not trained on: its loss on its own training images is optimistic.
Where the cache holds all layers (`candor cache-representations --layers`), `--layers` lets the head see them.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.backbone import Backbone, load_backbone
from models.heads import embed, predict, save_head
from models.methods.base import Head, Sizes
from models.methods.fit import CachedBatches, Examples, Schedule, fit, side_by_side
from models.methods.registry import METHODS, make_head
from models.representations import Representations, load_representations
from models.targets import TARGETS, TargetError
from scripts.common import command_line, current_commit, json_object, log_to_stderr, parser, write_json
from uncertainty.metrics import r_auroc, recall_at_1, spearman
from uncertainty.neighbours import nearest_neighbour

LEAST_SPREAD = 1e-5  # of losses that can be told apart, relative to the largest: float32 has noise below
STATISTICS = 20_000  # images that means and covariances are taken from


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    backbone = load_backbone(options.backbone)
    caches = [load_representations(folder, backbone.hash) for folder in options.cache]
    target = options.target or METHODS[options.method].target
    chosen = {each.name: getattr(options, each.name) for each in fields(Schedule)}
    given = {key: value for key, value in chosen.items() if value is not None}
    schedule = Schedule(**{**METHODS[options.method].schedule, **given})
    examples = joined(caches, backbone, target, options.layers or METHODS[options.method].layers)
    if examples.targets is not None and _all_alike(examples.targets[0]):
        raise TargetError(f"all images have the same {target} loss: there is nothing to learn")
    kept, held_back = split(examples, options.held_back, schedule.seed)
    sizes = Sizes(caches[0].dimension, examples.features.shape[2], int(examples.labels.max()) + 1)
    head, history = train_head(options.method, sizes, kept, schedule, options.options)
    description = {
        "backbone_hash": backbone.hash,
        "data": [cached.description["dataset"] for cached in caches],
        "training": {"method": options.method, "target": target, **asdict(schedule), **options.options},
        "command": command_line(),
        "commit": current_commit(),
    }
    save_head(head, options.method, {**METHODS[options.method].options, **options.options}, options.out, description)
    results = {"history": history, "held_back": judged(head, held_back), "images": kept.labels.size}
    write_json(options.out / "training.json", {**description, **results, "views": len(kept.features)})
    log_to_stderr().info("%s: %s", options.out, json.dumps(results["held_back"]))


def joined(caches: Sequence[Representations], backbone: Backbone, target: str | None, layers: bool) -> Examples:
    """Several caches of equally many views side by side, each with its own target losses; one name, one class."""
    if len({len(cached.views) for cached in caches}) > 1:
        raise SystemExit("the caches have different numbers of views; cache them with the same --views")
    if layers and not all(cached.description["layers"] for cached in caches):
        raise SystemExit("a head that sees all layers needs caches made with `candor cache-representations --layers`")
    return side_by_side(
        [
            Examples(
                cached.features if layers else cached.views,
                cached.labels,
                TARGETS[target](cached, backbone) if target else None,
            )
            for cached in caches
        ],
        [cached.description["classes"] for cached in caches],
    )


def split(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """The examples to train on, and the `share` of the images held back."""
    order = np.random.default_rng(seed).permutation(examples.labels.size)
    kept, held_back = np.split(order, [order.size - max(2, int(order.size * share))])
    return examples.rows(np.sort(kept)), examples.rows(np.sort(held_back))


def train_head(
    method: str, sizes: Sizes, examples: Examples, schedule: Schedule, options: dict[str, Any]
) -> tuple[Head, list[dict[str, float]]]:
    """Fit a new head of a method, and return it in evaluation mode with its mean loss by epoch."""
    torch.manual_seed(schedule.seed)
    try:
        head = make_head(method, sizes, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"{method} cannot be made with --options {json.dumps(options)}: {error}") from error
    statistics = examples.clean(STATISTICS, schedule.seed)
    head.prepare(*statistics)
    history: list[dict[str, float]] = []
    epochs = schedule.epochs if METHODS[method].trains else 0
    with tqdm(total=epochs, desc=f"train {method}", unit="epoch") as bar:

        def after_epoch(epoch: int, loss: float) -> None:
            history.append({"epoch": epoch + 1, "loss": loss})
            bar.update()

        if epochs:
            batches = CachedBatches(examples, schedule)
            fit(head, batches, schedule, surgery=METHODS[method].surgery, after_epoch=after_epoch)
    head.eval()
    head.finish(*statistics)
    return head, history


def judged(head: Head, examples: Examples) -> dict[str, float]:
    """R@1 and R-AUROC among the examples' clean views, and Spearman with the target where there is one."""
    features = examples.features[0]
    uncertainty = predict(head, features)
    neighbour, _ = nearest_neighbour(embed(head, features))
    correct = examples.labels[neighbour] == examples.labels
    figures = {"recall_at_1": recall_at_1(examples.labels, neighbour)}
    if 0 < correct.sum() < correct.size:
        figures["r_auroc"] = r_auroc(uncertainty, correct)
    if examples.targets is not None and np.ptp(examples.targets[0]) > 0:
        figures["spearman"] = spearman(uncertainty, examples.targets[0])
    return figures


def _all_alike(losses: NDArray[np.float32]) -> bool:
    return bool(np.ptp(losses) < LEAST_SPREAD * max(1.0, float(np.abs(losses).max())))


def _arguments() -> argparse.ArgumentParser:
    defaults = Schedule()
    arguments = parser("train-head", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument(
        "--cache",
        type=Path,
        action="append",
        required=True,
        help="cache folder; may be repeated: classes of one name are one class",
    )
    arguments.add_argument("--method", choices=tuple(METHODS), default="retrieval")
    arguments.add_argument("--options", type=json_object, default={}, help="JSON options of the method's head")
    arguments.add_argument("--target", choices=tuple(TARGETS), help="the loss to predict, instead of the method's own")
    arguments.add_argument("--layers", action="store_true", help="let the head see the statistics of all layers")
    arguments.add_argument("--epochs", type=int, help=f"default {defaults.epochs}, or what the method asks for")
    arguments.add_argument("--batch-size", type=int, help=f"default {defaults.batch_size}")
    arguments.add_argument("--learning-rate", type=float, help=f"default {defaults.learning_rate}")
    arguments.add_argument("--weight-decay", type=float, help=f"default {defaults.weight_decay}")
    arguments.add_argument("--views", type=int, help=f"views of each image in a batch; default {defaults.views}")
    arguments.add_argument("--held-back", type=float, default=0.1, help="share of images not trained on")
    arguments.add_argument("--seed", type=int, default=defaults.seed)
    arguments.add_argument("--out", type=Path, required=True, help="head folder to write")
    return arguments


if __name__ == "__main__":
    main()
