r"""Measure a backbone and its head on labelled data: retrieval, selective risk, crops, human votes, beside baselines.

    candor evaluate --backbone runs/backbone --head runs/head --data cub='cub.npz@50-99' \
        --data cifar10=cifar10/test.npz --votes cifar10=cifar10h-test.npz --out runs/evaluation

A query's answer is its nearest neighbour among all other images of the set, excluded by index; it is right when the
classes agree. Writes results.json, and for each data set a risk-coverage plot and a montage of the most and least
certain images.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from models.backbone import Backbone, classify, load_backbone
from models.dataset import Dataset, limited_index, select
from models.datasets import open_dataset
from models.heads import TrainedHead, embed, load_head, predict
from models.representations import cache_representations
from scripts.common import (
    add_compute_arguments,
    command_line,
    current_commit,
    log_to_stderr,
    named_path,
    parser,
    write_json,
)
from scripts.pictures import montage, plot_risk_coverage
from uncertainty import metrics
from uncertainty.bootstrap import cluster_bootstrap
from uncertainty.neighbours import nearest_neighbour
from uncertainty.robustness import vote_entropy

Scores = dict[str, NDArray[np.float64]]

RISK = 0.1
HEAD = "head"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    matplotlib.use("agg")
    backbone = load_backbone(options.backbone)
    head = load_head(options.head, backbone.hash)
    votes = dict(options.votes)
    unknown = sorted(set(votes) - {name for name, _ in options.data})
    if unknown:
        raise SystemExit(f"--votes for {', '.join(unknown)}, but no --data of that name")
    results: dict[str, Any] = {
        "command": command_line(),
        "commit": current_commit(),
        "backbone": backbone.hash,
        "risk": RISK,
        "data": {},
    }
    for name, spec in options.data:
        whole = open_dataset(spec)
        index = limited_index(len(whole), options.limit)
        dataset = select(whole, index)
        run = Run(backbone, head, options.out, options.workers, options.device)
        counts = _votes(votes[name], len(whole))[index] if name in votes else None
        results["data"][name] = evaluate(run, name, dataset, options.crops, counts, options.repetitions)
        write_json(options.out / "results.json", results)
        log_to_stderr().info("%s", _summary(name, results["data"][name]))


@dataclass(frozen=True)
class Run:
    """Backbone and head over any data set, with caches and results in the folder `out`."""

    backbone: Backbone
    head: TrainedHead
    out: Path
    workers: int
    device: str

    def represent(self, name: str, dataset: Dataset) -> NDArray[np.float32]:
        """Clean features (n, f) as the head takes them, cached under that name."""
        folder = self.out / "cache" / name
        cached = cache_representations(
            self.backbone,
            dataset,
            folder,
            layers=self.head.layers,
            dtype="float32",
            workers=self.workers,
            device=self.device,
        )
        return np.array(cached.features[0], dtype=np.float32)

    def scores(self, features: NDArray[np.float32]) -> Scores:
        """The head and every baseline that needs no gallery, each (n,), of features (n, f); higher is less sure."""
        representation = features[:, : self.head.module.sizes.dimension]  # (n, d)
        with torch.inference_mode():
            logits = classify(self.backbone.module, torch.from_numpy(representation))  # (n, c)
            log_probability = F.log_softmax(logits.double(), dim=1)
        entropy = -(log_probability.exp() * log_probability).sum(dim=1)
        return {
            HEAD: predict(self.head.module, features).astype(np.float64),
            "class_entropy": entropy.numpy(),
            "max_probability": 1.0 - log_probability.max(dim=1).values.exp().numpy(),
            "inverse_norm": 1.0 / np.linalg.norm(representation.astype(np.float64), axis=1),
        }


def evaluate(
    run: Run, name: str, dataset: Dataset, crops: int, votes: NDArray[np.float64] | None, repetitions: int
) -> dict[str, Any]:
    """Every figure of one data set; `votes` is (n, c) human votes by class.

    Where all answers are right, or all wrong, there is nothing to rank: the figures of the scores are left out.
    """
    features = run.represent(name, dataset)
    neighbour, _ = nearest_neighbour(embed(run.head.module, features))
    correct = dataset.labels[neighbour] == dataset.labels
    recall = cluster_bootstrap(lambda i: float(np.mean(correct[i])), dataset.labels, repetitions)
    found: dict[str, Any] = {
        "images": len(dataset),
        "classes": len(dataset.classes),
        "recall_at_1": metrics.recall_at_1(dataset.labels, neighbour),
        "recall_at_1_interval": [recall.low, recall.high],
        "scores": {},
    }
    if not 0 < correct.sum() < correct.size:
        return found
    scores = run.scores(features)
    table = {key: selective(score, correct, dataset.labels, repetitions) for key, score in scores.items()}
    for key, difference in _against_head(scores, correct, dataset.labels, repetitions).items():
        table[key]["head_minus_this_r_auroc"] = difference
    for key, rate in _crop_win_rates(run, name, dataset, scores, crops).items():
        table[key]["crop_win_rate"] = rate
    if votes is not None:
        human = vote_entropy(votes)
        for key, score in scores.items():
            table[key]["human_spearman"] = metrics.spearman(score, human)
    plot_risk_coverage(scores, HEAD, correct, run.out / f"{name}-risk-coverage.png", name)
    montage(dataset, scores[HEAD], run.out / f"{name}-montage.png")
    return {**found, "scores": table}


def selective(
    score: NDArray[np.float64], correct: NDArray[np.bool_], labels: NDArray[np.int64], repetitions: int
) -> dict[str, Any]:
    """How well a score (n,) tells right answers from wrong ones."""
    wrong = 1.0 - correct
    interval = cluster_bootstrap(lambda i: metrics.r_auroc(score[i], correct[i]), labels, repetitions)
    return {
        "r_auroc": metrics.r_auroc(score, correct),
        "r_auroc_interval": [interval.low, interval.high],
        "aurc": metrics.aurc(score, wrong),
        "e_aurc": metrics.e_aurc(score, wrong),
        "augrc": metrics.augrc(score, wrong),
        "coverage_at_risk": metrics.coverage_at_risk(score, wrong, RISK),
    }


def _against_head(
    scores: Scores, correct: NDArray[np.bool_], labels: NDArray[np.int64], repetitions: int
) -> dict[str, dict[str, float]]:
    """The head's lead over each baseline in R-AUROC, with the interval of the paired difference."""

    def lead(key: str, items: NDArray[np.intp]) -> float:
        head, baseline = (metrics.r_auroc(scores[name][items], correct[items]) for name in (HEAD, key))
        return head - baseline

    everything = np.arange(correct.size)
    leads = {}
    for key in scores.keys() - {HEAD}:
        interval = cluster_bootstrap(partial(lead, key), labels, repetitions)
        leads[key] = {"value": lead(key, everything), "low": interval.low, "high": interval.high}
    return leads


def _crop_win_rates(run: Run, name: str, dataset: Dataset, scores: Scores, crops: int) -> dict[str, float]:
    """Share of images whose centre crop, of a side p ~ U(.1, .75) of the original's, is the less certain one."""
    index = limited_index(len(dataset), crops)
    share = np.random.default_rng(0).uniform(0.1, 0.75, size=index.size)
    originals = select(dataset, index)

    def cropped(i: int) -> Image.Image:
        image = originals.image(i)
        width, height = (max(1, round(side * share[i])) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    fingerprint = f"{originals.fingerprint}-crops"
    degraded = replace(originals, name=f"{name}, centre crops", image=cropped, fingerprint=fingerprint)
    found = run.scores(run.represent(f"{name}-crops", degraded))
    return {key: metrics.win_rate(scores[key][index], found[key]) for key in scores}


def _votes(path: str, count: int) -> NDArray[np.float64]:
    """Human votes (n, c), row i for image i of the whole data set."""
    with np.load(path, allow_pickle=False) as arrays:
        counts: NDArray[np.float64] = arrays["counts"].astype(np.float64)
    if len(counts) != count:
        raise SystemExit(f"{path} holds votes on {len(counts)} images, and the data set has {count}")
    return counts


def _summary(name: str, found: Mapping[str, Any]) -> str:
    lines = [f"{name}: {found['images']} images, R@1 {found['recall_at_1']:.3f}"]
    for key, row in found["scores"].items():
        low, high = row["r_auroc_interval"]
        human = f"  human {row['human_spearman']:.3f}" if "human_spearman" in row else ""
        lines.append(
            f"  {key:16s} R-AUROC {row['r_auroc']:.3f} [{low:.3f}, {high:.3f}]  AURC {row['aurc']:.3f}  "
            f"crop {row['crop_win_rate']:.3f}{human}"
        )
    if not found["scores"]:
        lines.append("  every answer is of one kind, right or wrong: there is nothing to rank")
    return "\n".join(lines)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("evaluate", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument("--head", type=Path, required=True, help="head folder")
    arguments.add_argument("--data", type=named_path, action="append", required=True, metavar="NAME=SPEC")
    votes_help = "human votes on a data set: .npz with counts (n, c)"
    arguments.add_argument(
        "--votes", type=named_path, action="append", default=[], metavar="NAME=FILE", help=votes_help
    )
    arguments.add_argument("--limit", type=int, help="at most this many images of each set")
    arguments.add_argument("--crops", type=int, default=2000, help="images of each set to compare with their crops")
    arguments.add_argument("--repetitions", type=int, default=200, help="bootstrap resamples of whole classes")
    arguments.add_argument("--out", type=Path, required=True, help="results folder to write")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()
