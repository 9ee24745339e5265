"""From the figures of single runs to one summary: means over seeds, intervals over whole classes, paired leads.

The summary is a JSON object:

    command, commit     of the bench
    settings            seeds, epochs, views, sample, degradations and severities
    cost                how many runs behind frozen backbones there are, and the seconds of one core that they took
    backbones           name, model, parameters, dimension, training images behind it, hash, data of its own training
    sets                name, images, classes, validation
    methods             a row for each backbone, method and set: every figure's mean over seeds, R-AUROC's interval and
                        its values by seed, seconds to train
    gallery             a row for each backbone, set and gallery-aware score
    leads               by backbone and set, the shipped method's lead in R-AUROC over every other, with intervals
    human               R-AUROC on one set against human agreement on another, a point for each run, and Spearman
    scaling             R-AUROC by number of training images, for each scaled method, set and seed
    curves              selective risk by coverage of the first seed, for each backbone, set and method
    trainable           what `scripts.bench.trainable` measured, where it was asked for
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.methods.registry import METHODS
from scripts.bench.caches import open_cache
from scripts.bench.gallery import gallery_rows
from scripts.bench.intervals import REPETITIONS, interval
from scripts.bench.plan import KINDS, SEVERITIES, DataSet, Entrant, Plan, Run
from scripts.bench.runs import FIGURES, SCORES, finished
from scripts.bench.trainable import trainable_rows
from uncertainty import metrics
from uncertainty.bootstrap import auroc_resamples

SHIPPED = "retrieval"  # the method whose leads are reported


def summary(plan: Plan, command: str, commit: str) -> dict[str, Any]:
    """Everything that the report shows, from the figures of the runs that are there."""
    return {
        "command": command,
        "commit": commit,
        "settings": {
            "seeds": plan.seeds,
            "epochs": plan.epochs,
            "views": plan.views,
            "sample": plan.sample,
            "kinds": KINDS,
            "severities": SEVERITIES,
        },
        "cost": cost(plan),
        "backbones": [_backbone(plan, entrant) for entrant in plan.entrants],
        "sets": [_set(plan, data) for data in plan.sets],
        "methods": method_rows(plan),
        "gallery": [
            row for entrant in plan.entrants for data in plan.sets for row in gallery_rows(plan, entrant, data)
        ],
        "leads": {
            entrant.name: {data.name: leads(plan, entrant, SHIPPED, data) for data in plan.sets}
            for entrant in plan.entrants
        },
        "human": human_points(plan),
        "scaling": scaling_rows(plan),
        "curves": curves(plan),
        "trainable": trainable_rows(plan),
    }


def cost(plan: Plan) -> dict[str, float]:
    """Runs that are there, and the processor time that training and scoring took, caching apart."""
    runs = [run for run in (*plan.runs(), *plan.scaling_runs()) if finished(plan, run)]
    return {"runs": len(runs), "cpu_s": float(sum(figures_of(plan, run)["cpu_s"] for run in runs))}


def _backbone(plan: Plan, entrant: Entrant) -> dict[str, Any]:
    backbone = entrant.backbone
    train = [open_cache(plan, entrant, name) for name in plan.train_caches(entrant.name)]
    return {
        "name": entrant.name,
        "model": backbone.name,
        "parameters": sum(parameter.numel() for parameter in backbone.module.parameters()),
        "dimension": train[0].dimension,
        "train": list(entrant.train),
        "train_images": sum(int(each.labels.size) for each in train),
        "hash": backbone.hash,
        "data": backbone.training.get("data", "unknown"),
    }


def _set(plan: Plan, data: DataSet) -> dict[str, Any]:
    cached = open_cache(plan, plan.entrants[0], data.name)
    classes = int(np.unique(cached.labels).size)
    return {"name": data.name, "images": int(cached.labels.size), "classes": classes, "validation": data.validation}


def method_rows(plan: Plan) -> list[dict[str, Any]]:
    """One row for each backbone, method and set: the mean of every figure over the seeds that are there."""
    return [
        row(plan, entrant, method, data)
        for entrant in plan.entrants
        for method in plan.methods
        if seeds_of(plan, entrant, method)
        for data in plan.sets
    ]


def row(plan: Plan, entrant: Entrant, method: str, data: DataSet) -> dict[str, Any]:
    """Means over seeds; for R-AUROC the spread over seeds too, and the class-clustered interval of the mean."""
    runs = seeds_of(plan, entrant, method)
    figures = [figures_of(plan, run) for run in runs]
    per_seed = [each["sets"][data.name] for each in figures]
    labels = open_cache(plan, entrant, data.name).labels
    scores = [scores_of(plan, run, data) for run in runs]
    low, high = interval(resampled(scores, labels))
    return {
        "backbone": entrant.name,
        "method": method,
        "label": METHODS[method].label,
        "set": data.name,
        "seeds": len(runs),
        **{key: float(np.mean([each[key] for each in per_seed])) for key in per_seed[0]},
        "r_auroc_interval": [low, high],
        "r_auroc_by_seed": [each["r_auroc"] for each in per_seed],
        "train_s": float(np.mean([each["train_s"] for each in figures])),
    }


def leads(plan: Plan, entrant: Entrant, method: str, data: DataSet) -> dict[str, dict[str, float]]:
    """The lead of a method over every other in R-AUROC, with the interval of the paired difference over classes."""
    if not seeds_of(plan, entrant, method):
        return {}
    labels = open_cache(plan, entrant, data.name).labels
    own = [scores_of(plan, run, data) for run in seeds_of(plan, entrant, method)]
    own_values = resampled(own, labels)
    found = {}
    for other in plan.methods:
        theirs = [scores_of(plan, run, data) for run in seeds_of(plan, entrant, other)]
        if theirs and other != method:
            low, high = interval(own_values - resampled(theirs, labels))
            found[other] = {"value": mean_r_auroc(own) - mean_r_auroc(theirs), "low": low, "high": high}
    return found


def human_points(plan: Plan) -> dict[str, Any]:
    """R-AUROC against Spearman with human votes, a point for each run and set with votes, over all backbones.

    The thesis finds a rank correlation of 0.80 between R-AUROC on classes never seen and human agreement.
    """
    points = []
    for run in plan.runs():
        if finished(plan, run):
            sets = figures_of(plan, run)["sets"]
            foreign = [each["r_auroc"] for name, each in sets.items() if "human_spearman" not in each]
            points += [
                {
                    "backbone": run.entrant,
                    "method": run.method,
                    "set": name,
                    "r_auroc": each["r_auroc"],
                    "r_auroc_elsewhere": float(np.mean(foreign)) if foreign else each["r_auroc"],
                    "human_spearman": each["human_spearman"],
                }
                for name, each in sets.items()
                if "human_spearman" in each
            ]
    columns = {key: np.array([point[key] for point in points]) for key in ("r_auroc", "r_auroc_elsewhere")}
    human = np.array([point["human_spearman"] for point in points])
    correlation = {
        f"spearman_{key}": metrics.spearman(values, human)
        for key, values in columns.items()
        if min(np.unique(values).size, np.unique(human).size) > 1  # of one run, it is undefined
    }
    return {"points": points, **correlation}


def curves(plan: Plan, points: int = 40) -> list[dict[str, Any]]:
    """Selective risk at `points` coverages of the first seed of every method, backbone and set."""
    found = []
    for entrant in plan.entrants:
        for method in plan.methods:
            for run in seeds_of(plan, entrant, method)[:1]:
                for data in plan.sets:
                    uncertainty, correct = scores_of(plan, run, data)
                    curve = metrics.selective_risk(uncertainty, 1.0 - correct)
                    coverage = np.linspace(0.02, 1.0, points)
                    risk = np.interp(coverage, curve.coverage, curve.risk)
                    key = {"backbone": entrant.name, "set": data.name, "method": method}
                    found.append({**key, "coverage": coverage.round(4).tolist(), "risk": risk.round(5).tolist()})
    return found


def scaling_rows(plan: Plan) -> list[dict[str, Any]]:
    """R-AUROC by number of training images, for each scaled method, set and seed."""
    rows = []
    for run in plan.scaling_runs():
        if finished(plan, run):
            sets = figures_of(plan, run)["sets"]
            rows += [
                {"method": run.method, "images": run.images, "seed": run.seed, "set": name, "r_auroc": each["r_auroc"]}
                for name, each in sets.items()
            ]
    return rows


Scored = tuple[NDArray[np.float32], NDArray[np.bool_]]


def seeds_of(plan: Plan, entrant: Entrant, method: str) -> list[Run]:
    """The finished runs of a method behind a backbone."""
    runs = [Run(entrant.name, method, seed) for seed in range(plan.seeds)]
    return [run for run in runs if finished(plan, run)]


def figures_of(plan: Plan, run: Run) -> dict[str, Any]:
    """The figures that a run wrote."""
    found: dict[str, Any] = json.loads((plan.run_folder(run) / FIGURES).read_text())
    return found


def scores_of(plan: Plan, run: Run, data: DataSet) -> Scored:
    """Uncertainty (n,) and correctness (n,) of a run on a set."""
    with np.load(plan.run_folder(run) / SCORES, allow_pickle=False) as arrays:
        return arrays[f"{data.name}/uncertainty"], arrays[f"{data.name}/correct"]


def mean_r_auroc(scores: list[Scored]) -> float:
    """Mean over runs."""
    return float(np.mean([metrics.r_auroc(uncertainty, correct) for uncertainty, correct in scores]))


def resampled(scores: list[Scored], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over runs of R-AUROC on each resample of whole classes: (REPETITIONS,), the same resamples for all runs."""
    values = [auroc_resamples(-uncertainty, correct, labels, REPETITIONS) for uncertainty, correct in scores]
    mean: NDArray[np.float64] = np.mean(values, axis=0)
    return mean
