"""Sections that follow a quantity: risk over coverage, figures over epochs, R-AUROC over training-set size."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.methods.registry import METHODS
from scripts.bench import published
from scripts.bench.standings import Results, backbones, deviation, headline_sets, mean
from scripts.bench.tables import Column, figures, joined, number, table

CONFLICT = {
    "losspred": "StopGrad",
    "losspred-joint": "joint gradient",
    "losspred-pcgrad": "joint gradient, PCGrad",
}
CURVED = {"accuracy": "accuracy", "correctness_auroc": "correctness AUROC", "r_auroc": "R-AUROC, unseen classes"}
Seeds = NDArray[np.float64]


def curves_section(results: Results, images: Mapping[str, str]) -> str:
    """Risk-coverage curves of the first seed."""
    drawn = {name: images[f"curves-{name}"] for name in backbones(results) if f"curves-{name}" in images}
    text = (
        "Share of wrong answers among the queries that are answered, the least certain refused first; first seed of "
        "each method. The right end of a curve is 1 - R@1, and methods with an embedding of their own end elsewhere."
    )
    parts = [f"### Curves behind {name}\n\n{image}" for name, image in drawn.items()]
    return joined(["## Risk and coverage", text, *parts]) if drawn else ""


def by_epoch(results: Results, methods: Sequence[str] | Mapping[str, str], key: str) -> dict[str, Seeds]:
    """By method, a figure of the trainable backbone: (seeds, epochs); without methods that do not have it."""
    found = {}
    for method in methods:
        runs = [row["epochs"] for row in results["trainable"] if row["method"] == method]
        if runs and all(key in epoch for run in runs for epoch in run):
            found[method] = np.array([[epoch[key] for epoch in run] for run in runs])
    return found


def trainable_section(results: Results, images: Mapping[str, str]) -> str:
    """What methods do to a backbone that they train: StopGrad against joint gradients, and where all of them end."""
    rows = results["trainable"]
    if not rows:
        return ""
    intro = (
        f"Here each method trains a small backbone from scratch on {rows[0]['images']:,} images. Accuracy and "
        "correctness AUROC are on new images of the classes trained on, R-AUROC and R@1 on classes never seen."
    )
    text = "\n".join(f"- {line}" for line in conflict_lines(results))
    figure = images.get("conflict", "")
    ends = f"After the last epoch, mean over seeds ± standard deviation:\n\n{end_table(results)}"
    return joined(["## A backbone that trains too", intro, figure, text, ends])


def end_table(results: Results) -> str:
    """Figures of every trainable method after its last epoch, the highest R-AUROC first."""
    methods = list(dict.fromkeys(row["method"] for row in results["trainable"]))
    keys = {
        "r_auroc": "R-AUROC",
        "recall_at_1": "R@1",
        "accuracy": "accuracy",
        "correctness_auroc": "correctness AUROC",
    }
    ends = {key: {m: seeds[:, -1] for m, seeds in by_epoch(results, methods, key).items()} for key in keys}
    order = sorted(methods, key=lambda method: -mean(ends["r_auroc"][method]))
    columns = [
        _over_seeds(title, [ends[key].get(method, np.empty(0)) for method in order]) for key, title in keys.items()
    ]
    seconds = [mean([row["seconds"] for row in results["trainable"] if row["method"] == method]) for method in order]
    count = tuple(str(len(ends["r_auroc"][method])) for method in order)
    columns += [figures("s, with judging", seconds, best="low", digits=1), Column("seeds", count)]
    return table("method", [METHODS[method].label for method in order], columns)


def conflict_lines(results: Results) -> list[str]:
    """How joint gradients differ from StopGrad at the end, and whether that is the thesis's gradient conflict."""
    lines = []
    for method in ("losspred-joint", "losspred-pcgrad"):
        differences = {key: _less_stopgrad(results, method, key) for key in CURVED}
        told = [f"{CURVED[key]} {_difference(each)}" for key, each in differences.items() if each.size]
        if told:
            lines.append(f"{CONFLICT[method]} less StopGrad at the end: {', '.join(told)}.")
        if told and method == "losspred-joint":
            lines.append(f"The gradient conflict is {conflict_verdict(differences)}. Published: {published.CONFLICT}")
    return lines


def _less_stopgrad(results: Results, method: str, key: str) -> Seeds:
    """A figure after the last epoch less that of StopGrad, for each seed that both have: (seeds,)."""
    own, stop = (
        {row["seed"]: row["epochs"][-1] for row in results["trainable"] if row["method"] == name and row["epochs"]}
        for name in (method, "losspred")
    )
    seeds = [seed for seed in own if seed in stop and key in own[seed] and key in stop[seed]]
    return np.array([own[seed][key] - stop[seed][key] for seed in seeds])


def _difference(by_seed: Seeds) -> str:
    sure = "" if clear(by_seed) else " (within the noise of seeds)"
    return f"{number(mean(by_seed), signed=True)} ± {number(deviation(by_seed))}{sure}"


def clear(differences: Seeds) -> bool:
    """Whether the mean of paired differences by seed (s,) is not zero, by Student's t test at 5 %."""
    limit = stats.t.ppf(0.975, len(differences) - 1) * deviation(differences) / np.sqrt(len(differences))
    return bool(abs(mean(differences)) > limit)


def conflict_verdict(differences: Mapping[str, Seeds]) -> str:
    """In words, from the differences in accuracy and correctness AUROC, each (seeds,): the thesis has both fall."""
    judged = {key: differences[key] for key in ("accuracy", "correctness_auroc")}
    if any(len(each) < 2 for each in judged.values()):
        return "undecided: it takes both figures of two seeds"
    lower = [CURVED[key] for key, each in judged.items() if clear(each) and mean(each) < 0.0]
    if len(lower) == len(judged):
        return "reproduced: accuracy and correctness AUROC are both lower with the joint gradient"
    if lower:
        return f"reproduced in part: only {lower[0]} is clearly lower with the joint gradient"
    return "not reproduced: neither accuracy nor correctness AUROC is clearly lower with the joint gradient"


def by_images(results: Results, sets: Sequence[str]) -> dict[str, dict[int, Seeds]]:
    """By method and number of training images, mean R-AUROC over the sets behind the first backbone, (seeds,).

    The last number is that of all training images, from the runs of the comparison.
    """
    first = results["backbones"][0]
    found: dict[str, dict[int, Seeds]] = {}
    for method in dict.fromkeys(row["method"] for row in results["scaling"]):
        rows = [row for row in results["scaling"] if row["method"] == method and row["set"] in sets]
        found[method] = {count: _by_seed(rows, count) for count in sorted({row["images"] for row in rows})}
        whole = {row["set"]: row["r_auroc_by_seed"] for row in results["methods"] if _is(row, first["name"], method)}
        if whole:
            found[method][first["train_images"]] = np.mean([whole[name] for name in sets], axis=0)
    return found


def _is(row: Mapping[str, object], backbone: str, method: str) -> bool:
    return row["backbone"] == backbone and row["method"] == method


def _by_seed(rows: Sequence[Mapping[str, float]], count: int) -> Seeds:
    """Mean over sets of the rows with so many images, for each seed: (seeds,)."""
    there = [row for row in rows if row["images"] == count]
    seeds = sorted({row["seed"] for row in there})
    return np.array([mean([row["r_auroc"] for row in there if row["seed"] == seed]) for seed in seeds])


def scaling_section(results: Results, images: Mapping[str, str]) -> str:
    """R-AUROC by number of training images."""
    if not results["scaling"]:
        return ""
    found = by_images(results, headline_sets(results))
    counts = sorted({count for method in found.values() for count in method})
    columns = [
        _over_seeds(f"{count:,}", [method.get(count, np.empty(0)) for method in found.values()]) for count in counts
    ]
    text = (
        f"Mean R-AUROC over the reported sets behind {results['backbones'][0]['name']}, by number of training images, "
        "± standard deviation over seeds."
    )
    names = [METHODS[method].label for method in found]
    return joined(["## Training-set size", text, images.get("scaling", ""), table("method", names, columns)])


def _over_seeds(title: str, by_seed: Sequence[Seeds]) -> Column:
    notes = [f"± {number(deviation(each))}" if len(each) > 1 else "" for each in by_seed]
    return figures(title, [mean(each) for each in by_seed], notes=notes)
