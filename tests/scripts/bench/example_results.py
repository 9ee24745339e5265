"""A summary as a whole bench would write it, made by chance from a seed: no measurement, but of real size and shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.methods.registry import METHODS
from uncertainty import metrics

BACKBONES = ("default", "mobilenetv2", "vit-small")
KINDS = ("crop", "blur", "noise", "jpeg")
VOTED = "cifar10-test"
SETS: dict[str, tuple[int, int, bool]] = {  # images, classes, validation
    "tiny-held": (5000, 20, True),
    "cub-0-49": (2889, 50, True),
    "cub-50-99": (3013, 50, False),
    VOTED: (10000, 10, False),
    "cifar100": (10000, 100, False),
    "tiny-unseen": (1000, 20, False),
}
SHIPPED = "retrieval"
QUALITY = {"retrieval": 0.13, "probe-loss": 0.09, "pvu": 0.075, "losspred": 0.07, "ce": 0.045, "ensemble": 0.05}
SCORES = ("1 - top-1 cosine", "class margin", "label entropy", "label agreement", "augmentation dispersion")


def example_results(
    seed: int = 0,
    backbones: Sequence[str] = BACKBONES,
    methods: Sequence[str] = tuple(METHODS),
    sets: Sequence[str] = tuple(SETS),
    seeds: int = 5,
) -> dict[str, Any]:
    """A summary of every section."""
    rng = np.random.default_rng(seed)
    rows = [_row(rng, name, method, data, seeds) for name in backbones for method in methods for data in sets]
    spec = "'tiny/train-[0-9].npz@splits.json:upstream'"
    return {
        "command": f"candor bench-uncertainty --backbone {backbones[0]}=runs/backbone --train {spec} --out runs/bench",
        "commit": "0123456789ab",
        "settings": {
            "seeds": seeds,
            "epochs": 5,
            "views": 3,
            "sample": 500,
            "kinds": list(KINDS),
            "severities": [1 / 3, 2 / 3, 1.0],
        },
        "backbones": [_backbone(name) for name in backbones],
        "sets": [_set(name) for name in sets],
        "methods": rows,
        "gallery": [_gallery(rng, name, data, score) for name in backbones for data in sets for score in SCORES],
        "leads": {name: {data: _leads(rows, rng, name, data) for data in sets} for name in backbones},
        "human": _human(rows),
        "scaling": _scaling(rng, sets),
        "curves": [_curve(row) for row in rows],
        "trainable": _trainable(rng, methods),
    }


def _backbone(name: str) -> dict[str, Any]:
    described = {"model": "mobilenetv2_100", "parameters": 2_223_872, "dimension": 1280, "train_images": 90_000}
    return {"name": name, **described, "hash": "sha256:" + "0a1b" * 16, "data": "tiny-imagenet, 180 classes"}


def _set(name: str) -> dict[str, Any]:
    images, classes, validation = SETS[name]
    return {"name": name, "images": images, "classes": classes, "validation": validation}


def _row(rng: np.random.Generator, backbone: str, method: str, data: str, seeds: int) -> dict[str, Any]:
    quality = QUALITY.get(method, 0.02) + 0.02 * BACKBONES.index(backbone) + 0.012 * list(SETS).index(data)
    by_seed = 0.5 + quality + rng.normal(0, 0.015) + rng.normal(0, 0.004 if METHODS[method].trains else 0.0, seeds)
    value, half = float(by_seed.mean()), 0.012 + 0.01 * rng.random(2)
    recall = 0.55 + 0.05 * list(SETS).index(data) - (0.1 if method in ("hib", "elk", "mcinfonce") else 0.0)
    risk = (1 - recall) * (1.45 - value)
    row = {
        "backbone": backbone,
        "method": method,
        "label": METHODS[method].label,
        "set": data,
        "seeds": seeds,
        "recall_at_1": recall,
        "r_auroc": value,
        "aurc": risk,
        "augrc": 0.6 * risk,
        **{f"{kind}_win_rate": float(0.5 + 3 * quality * rng.random()) for kind in KINDS},
        **{f"{kind}_monotonicity": float(4 * quality * rng.random() - 0.05) for kind in KINDS},
        "ood_auroc": float(rng.uniform(0.2, 0.9)),
        "us_per_image": float(rng.uniform(1, 90)),
        "r_auroc_interval": [value - half[0], value + half[1]],
        "r_auroc_by_seed": by_seed.tolist(),
        "train_s": float(rng.uniform(5, 60)) if METHODS[method].trains else 0.02,
    }
    if data == VOTED:
        row["human_spearman"] = 1.4 * (value - 0.5) + float(rng.normal(0, 0.04))
        row["ambiguity_auroc"] = 0.5 + 0.8 * (value - 0.5)
    return row


def _gallery(rng: np.random.Generator, backbone: str, data: str, score: str) -> dict[str, Any]:
    value = 0.6 + 0.07 * SCORES.index(score) % 0.3 + float(rng.normal(0, 0.01))
    return {
        "backbone": backbone,
        "set": data,
        "score": score,
        "images": 500 if score == "augmentation dispersion" else SETS[data][0],
        "r_auroc": value,
        "r_auroc_interval": [value - 0.02, value + 0.02],
        "aurc": 0.4 - 0.3 * value,
    }


def _leads(rows: list[dict[str, Any]], rng: np.random.Generator, backbone: str, data: str) -> dict[str, Any]:
    here = {row["method"]: row["r_auroc"] for row in rows if row["backbone"] == backbone and row["set"] == data}
    if SHIPPED not in here:
        return {}
    return {
        method: {
            "value": here[SHIPPED] - value,
            "low": here[SHIPPED] - value - float(rng.uniform(0.01, 0.05)),
            "high": here[SHIPPED] - value + float(rng.uniform(0.01, 0.05)),
        }
        for method, value in here.items()
        if method != SHIPPED
    }


def _human(rows: list[dict[str, Any]]) -> dict[str, Any]:
    points = []
    for row in [each for each in rows if each["set"] == VOTED]:
        same = [each for each in rows if (each["backbone"], each["method"]) == (row["backbone"], row["method"])]
        elsewhere = np.mean([each["r_auroc_by_seed"] for each in same if each["set"] != VOTED], axis=0)
        for value, other in zip(row["r_auroc_by_seed"], elsewhere, strict=True):
            point = {key: row[key] for key in ("backbone", "method", "set")}
            agreement = row["human_spearman"] + 2 * (value - row["r_auroc"])
            points.append({**point, "r_auroc": value, "r_auroc_elsewhere": float(other), "human_spearman": agreement})
    if not points:
        return {"points": []}
    columns = {key: np.array([point[key] for point in points]) for key in ("r_auroc", "r_auroc_elsewhere")}
    human = np.array([point["human_spearman"] for point in points])
    return {"points": points, **{f"spearman_{key}": metrics.spearman(x, human) for key, x in columns.items()}}


def _scaling(rng: np.random.Generator, sets: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "method": method,
            "images": images,
            "seed": seed,
            "set": data,
            "r_auroc": 0.5 + QUALITY[method] * np.log10(images / 300) / 2.5 + float(rng.normal(0, 0.006)),
        }
        for method in (SHIPPED, "pvu", "losspred", "ce")
        for images in (1000, 3000, 10_000, 30_000)
        for seed in range(3)
        for data in sets
    ]


def _curve(row: dict[str, Any], points: int = 100) -> dict[str, Any]:
    coverage = np.linspace(0.02, 1.0, points)
    risk = (1 - row["recall_at_1"]) * (1 - 2 * (row["r_auroc"] - 0.5) * (1 - coverage))
    key = {"backbone": row["backbone"], "set": row["set"], "method": row["method"]}
    return {**key, "coverage": coverage.round(4).tolist(), "risk": risk.round(5).tolist()}


def _trainable(rng: np.random.Generator, methods: Sequence[str], epochs: int = 12) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        if METHODS[method].trains and METHODS[method].target is None:
            for seed in range(3):
                row = {"method": method, "label": METHODS[method].label, "seed": seed, "images": 20_000}
                run = [_epoch(rng, method, epoch, epochs) for epoch in range(1, epochs + 1)]
                rows.append({**row, "seconds": float(rng.uniform(300, 900)), "epochs": run})
    return rows


def _epoch(rng: np.random.Generator, method: str, epoch: int, epochs: int) -> dict[str, float]:
    cost = {"losspred-joint": 0.05, "losspred-pcgrad": 0.02}.get(method, 0.0)
    done = 1 - np.exp(-4 * epoch / epochs)
    noise = rng.normal(0, 0.004, 4)
    row = {
        "epoch": epoch,
        "loss": 4 - 3 * done,
        "recall_at_1": 0.3 * done + noise[0],
        "r_auroc": 0.5 + 0.08 * done + noise[1],
    }
    if method in ("infonce", "mcinfonce", "elk", "nivmf", "hib"):
        return row
    classified = {"accuracy": (0.5 - cost) * done + noise[2], "correctness_auroc": 0.7 + (0.1 - cost) * done + noise[3]}
    return {**row, **classified}
