"""Scores that need more than one representation of the query: its neighbours in the gallery, or its augmented views."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.bench.caches import open_cache, sampled_rows
from scripts.bench.intervals import REPETITIONS, interval
from scripts.bench.plan import DataSet, Entrant, Plan
from uncertainty import gallery, metrics
from uncertainty.bootstrap import auroc_resamples
from uncertainty.distances import dispersion

GALLERY_SCORES: dict[str, Callable[[gallery.Neighbours], NDArray[np.float64]]] = {
    "1 - top-1 cosine": gallery.top_cosine,
    "class margin": gallery.class_margin,
    "label entropy": gallery.label_entropy,
    "label agreement": gallery.label_agreement,
    "match uncertainty": gallery.match_uncertainty,
}
DISPERSION = "augmentation dispersion"


def gallery_rows(plan: Plan, entrant: Entrant, data: DataSet) -> list[dict[str, Any]]:
    """R-AUROC, with interval, of every gallery-aware score of a set searched within itself, and of dispersion.

    Dispersion is that of the views of a sample of the images, judged on that sample.
    """
    cached, views = open_cache(plan, entrant, data.name), open_cache(plan, entrant, f"{data.name}-views")
    near = gallery.neighbours(np.asarray(cached.clean, dtype=np.float32), cached.labels)
    correct = near.label[:, 0] == cached.labels  # (n,)
    everything, some = np.arange(correct.size), sampled_rows(plan, correct.size)
    scores = {name: (score(near), everything) for name, score in GALLERY_SCORES.items()}
    scores[DISPERSION] = dispersion(np.asarray(views.views, dtype=np.float32)), some
    rows = []
    for name, (score, judged) in scores.items():
        if correct[judged].min() == correct[judged].max():
            continue  # a sample without a wrong answer, or without a right one, ranks nothing
        low, high = interval(auroc_resamples(-score, correct[judged], cached.labels[judged], REPETITIONS))
        rows.append(
            {
                "backbone": entrant.name,
                "set": data.name,
                "score": name,
                "images": judged.size,
                "r_auroc": metrics.r_auroc(score, correct[judged]),
                "r_auroc_interval": [low, high],
                "aurc": metrics.aurc(score, 1.0 - correct[judged]),
            }
        )
    return rows
