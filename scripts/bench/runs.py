"""One run of a bench: train one method behind one backbone, score every set, and keep figures and scores."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.heads import embed, predict
from models.methods.base import Head, Sizes
from models.methods.fit import CachedBatches, Schedule, fit
from models.methods.registry import METHODS, make_head
from scripts.bench.caches import examples, open_cache, own_neighbours, sampled_rows
from scripts.bench.plan import KINDS, SEVERITIES, DataSet, Entrant, Plan, Run
from scripts.common import write_json
from uncertainty import metrics, robustness
from uncertainty.neighbours import nearest_neighbour

Scores = NDArray[np.float32]

FIGURES, SCORES = "figures.json", "scores.npz"
STATISTICS = 20_000  # images that means and covariances are taken from


def finished(plan: Plan, run: Run) -> bool:
    """Whether the run's figures are there."""
    return (plan.run_folder(run) / FIGURES).is_file()


def perform(plan: Plan, run: Run) -> None:
    """Train, score and write; the figures come last, so that a run with figures is whole."""
    torch.set_num_threads(1)
    entrant = plan.entrant(run.entrant)
    started, cpu_started = time.perf_counter(), time.process_time()
    head = trained(plan, entrant, run)
    train_s = time.perf_counter() - started
    folder = plan.run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"train_s": train_s, "sets": {}}
    kept: dict[str, NDArray[Any]] = {}
    inside = None if plan.inside is None else predict(head, _features(plan, entrant, plan.inside.name, head))
    for data in plan.sets:
        uncertainty, correct, us_per_image = scored(plan, entrant, head, data)
        row = ranking(uncertainty, correct)
        row |= robust(plan, entrant, head, data, uncertainty)
        row |= human(plan, entrant, data, uncertainty)
        if inside is not None:
            row["ood_auroc"] = robustness.ood_auroc(inside, uncertainty)
        figures["sets"][data.name] = {**row, "us_per_image": us_per_image}
        kept |= {f"{data.name}/uncertainty": uncertainty, f"{data.name}/correct": correct}
    np.savez(folder / SCORES, allow_pickle=False, **kept)
    write_json(folder / FIGURES, figures | {"cpu_s": time.process_time() - cpu_started})


def trained(plan: Plan, entrant: Entrant, run: Run) -> Head:
    """A head of the run's method, trained on the backbone's training cache, or on `run.images` of its images."""
    method = METHODS[run.method]
    learned = examples(plan, entrant, method.layers, method.target)
    if run.images:
        chosen = np.random.default_rng(run.seed).permutation(learned.labels.size)[: run.images]
        learned = learned.rows(np.sort(chosen))
    schedule = Schedule(**{"epochs": plan.epochs, **method.schedule, "seed": run.seed})
    dimension = open_cache(plan, entrant, plan.train_caches(entrant.name)[0]).dimension
    sizes = Sizes(dimension, learned.features.shape[2], int(learned.labels.max()) + 1)
    torch.manual_seed(run.seed)
    head = make_head(run.method, sizes)
    statistics = learned.clean(STATISTICS, run.seed)
    head.prepare(*statistics)
    if method.trains:
        fit(head, CachedBatches(learned, schedule), schedule, surgery=method.surgery)
    head.finish(*statistics)
    return head


def scored(plan: Plan, entrant: Entrant, head: Head, data: DataSet) -> tuple[Scores, NDArray[np.bool_], float]:
    """Uncertainty (n,), whether the nearest neighbour is of the right class (n,), and microseconds an image."""
    features, labels = _features(plan, entrant, data.name, head), open_cache(plan, entrant, data.name).labels
    started = time.perf_counter()
    uncertainty = predict(head, features)
    us_per_image = 1e6 * (time.perf_counter() - started) / labels.size
    if type(head).embed is Head.embed:  # the backbone's own embedding
        neighbour = own_neighbours(plan, entrant, data.name)
    else:
        neighbour, _ = nearest_neighbour(embed(head, features))
    return uncertainty, labels[neighbour] == labels, us_per_image


def ranking(uncertainty: Scores, correct: NDArray[np.bool_]) -> dict[str, float]:
    """How well uncertainty (n,) tells wrong neighbours from right ones."""
    wrong = 1.0 - correct
    return {
        "recall_at_1": float(correct.mean()),
        "r_auroc": metrics.r_auroc(uncertainty, correct),
        "aurc": metrics.aurc(uncertainty, wrong),
        "augrc": metrics.augrc(uncertainty, wrong),
    }


def robust(plan: Plan, entrant: Entrant, head: Head, data: DataSet, uncertainty: Scores) -> dict[str, float]:
    """By kind of degradation: share of degraded images that are less certain, and agreement with the severity."""
    cached = open_cache(plan, entrant, data.name)
    original = uncertainty[sampled_rows(plan, cached.index.size)]  # (m,)
    worse = predict(head, _features(plan, entrant, f"{data.name}-degraded", head))
    worse = worse.reshape(len(KINDS), len(SEVERITIES), original.size)  # (kinds, severities, m)
    rows: dict[str, float] = {}
    for kind, scores in zip(KINDS, worse, strict=True):
        rows[f"{kind}_win_rate"] = float(np.mean([metrics.win_rate(original, each) for each in scores]))
        rows[f"{kind}_monotonicity"] = robustness.monotonicity(np.concatenate([original[None], scores]))
    return rows


def human(plan: Plan, entrant: Entrant, data: DataSet, uncertainty: Scores) -> dict[str, float]:
    """Agreement with human votes, where the set has any."""
    if data.votes is None:
        return {}
    with np.load(data.votes, allow_pickle=False) as arrays:
        votes = arrays["counts"].astype(np.float64)[open_cache(plan, entrant, data.name).index]  # (n, c)
    return {
        "human_spearman": metrics.spearman(uncertainty, robustness.vote_entropy(votes)),
        "ambiguity_auroc": robustness.ambiguity_auroc(uncertainty, votes),
    }


def _features(plan: Plan, entrant: Entrant, name: str, head: Head) -> NDArray[np.floating]:
    """Clean features (n, f) of a set, as wide as the head takes them."""
    features: NDArray[np.floating] = open_cache(plan, entrant, name).features[0]
    return features[:, : head.sizes.features]
