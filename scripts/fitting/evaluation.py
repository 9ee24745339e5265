"""How well the head ranks views of images that were held out, where there are no classes to judge by.

It writes a results.json of the form that `candor evaluate` writes. Where all answers are right, or all wrong, there is
nothing to rank: the figures of the scores are left out.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.augment import Augmentation, view
from models.dataset import Dataset
from models.heads import embed
from models.representations import Representations
from scripts.bench.intervals import interval
from scripts.common import command_line, current_commit, write_json
from scripts.evaluate import HEAD, RISK, Run, Scores, selective
from scripts.pictures import montage, plot_risk_coverage
from uncertainty import metrics
from uncertainty.bootstrap import auroc_resamples, cluster_bootstrap
from uncertainty.neighbours import k_nearest

REPETITIONS = 200  # bootstrap resamples


def evaluate_by_instance(
    run: Run, name: str, dataset: Dataset, queries: Representations, others: Sequence[Representations]
) -> None:
    """Whether augmented views of unseen images find their own image among the clean views of all images.

    The views are those of `queries`; the gallery is their clean views and those of `others`.
    """
    views, images = queries.views.shape[0] - 1, queries.index.size
    width = run.head.module.sizes.features
    clean = [np.array(each.features[0, :, :width], dtype=np.float32) for each in (queries, *others)]
    gallery = embed(run.head.module, np.concatenate(clean))  # (g, d'), the queries' own images first
    features = np.array(queries.features[1:, :, :width], dtype=np.float32).reshape(-1, width)  # (v n, f)
    nearest, _ = k_nearest(embed(run.head.module, features), 1, gallery)
    own = np.tile(np.arange(images), views)  # (v n,)
    correct = nearest[:, 0] == own
    found = {"images": images, "views": views, "gallery": len(gallery), **_recall(correct, own)}
    if not 0 < correct.sum() < correct.size:
        _write(run, name, found)
        return
    run.out.mkdir(parents=True, exist_ok=True)
    scores, originals = run.scores(features), run.scores(clean[0])
    found["scores"] = _judged(scores, originals, correct, own)
    plot_risk_coverage(scores, HEAD, correct, run.out / f"{name}-risk-coverage.png", name)
    pictured = replace(dataset, image=partial(_view, run, dataset, queries))
    montage(pictured, scores[HEAD], run.out / f"{name}-montage.png")
    _write(run, name, found)


def _judged(scores: Scores, originals: Scores, correct: NDArray[np.bool_], own: NDArray[np.int64]) -> dict[str, Any]:
    """The figures of each score of the views (v n,), whose images are `own` (v n,) of the `originals` (n,)."""
    table = {key: selective(score, correct, own, REPETITIONS) for key, score in scores.items()}
    resampled = {key: auroc_resamples(-score, correct, own, REPETITIONS) for key, score in scores.items()}
    for key, score in scores.items():
        table[key]["view_win_rate"] = metrics.win_rate(originals[key][own], score)
        if key != HEAD:
            low, high = interval(resampled[HEAD] - resampled[key])
            value = table[HEAD]["r_auroc"] - table[key]["r_auroc"]
            table[key]["head_minus_this_r_auroc"] = {"value": value, "low": low, "high": high}
    return table


def _recall(correct: NDArray[np.bool_], clusters: NDArray[np.int64]) -> dict[str, Any]:
    found = cluster_bootstrap(lambda items: float(np.mean(correct[items])), clusters, REPETITIONS)
    return {"recall_at_1": float(correct.mean()), "recall_at_1_interval": [found.low, found.high], "scores": {}}


def _view(run: Run, dataset: Dataset, queries: Representations, item: int) -> Image.Image:
    """The augmented view that query `item` was made from."""
    number, row = divmod(item, queries.index.size)
    index = int(queries.index[row])
    augmentation = Augmentation(**queries.description["augmentation"])
    return Image.fromarray(view(dataset.image(index), index, number + 1, augmentation, run.backbone.preprocessing))


def _write(run: Run, name: str, found: dict[str, Any]) -> None:
    made = {"command": command_line(), "commit": current_commit(), "backbone": run.backbone.hash, "risk": RISK}
    write_json(run.out / "results.json", {**made, "data": {name: found}})
