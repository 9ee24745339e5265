"""Sections that compare with what is published: the tables of the papers, and R-AUROC against human agreement."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.methods.registry import METHODS
from scripts.bench import published
from scripts.bench.standings import Results, Standing, backbones, headline_sets, standings
from scripts.bench.tables import ABSENT, Column, bounds, figures, joined, number, table
from uncertainty import metrics
from uncertainty.bootstrap import cluster_bootstrap

Here = Mapping[str, Mapping[str, Standing]]  # by backbone and method

DIFFERENT = (
    "Data, backbones and training differ: the published models were trained on ImageNet-1k or 21k and judged on CUB, "
    "CARS and SOP, those here are the frozen backbones and the sets above, so that the order of methods may be "
    "compared, but hardly the size of a figure."
)
VERDICTS = (
    (0.75, "reproduced"),
    (0.6, "reproduced in tendency"),
    (0.3, "reproduced only in part: the relation has the same sign and is clearly weaker"),
    (-0.3, "refuted here: there is no clear relation"),
    (-1.0, "refuted here: the relation is reversed"),
)


def published_section(results: Results) -> str:
    """The published figures beside those here, by method and by data set."""
    here = {name: _by_method(standings(results, name, headline_sets(results))) for name in backbones(results)}
    if not here:
        return ""
    parts = [
        "## Published figures beside these",
        f"{DIFFERENT} Figures here are means over the reported sets, behind the backbone that a column names.",
        f"{published.URL}, means over three seeds:",
        url_table(here),
        order_table(here),
        f"{published.PVU}, means over CUB, CARS and SOP, beside the same ranking head here:",
        sizes_table(here),
        "The same by data set, R-AUROC of ViT-Base:",
        sets_table(results),
        "Single figures:",
        single_table(here),
    ]
    return joined(parts)


def _by_method(found: Sequence[Standing]) -> dict[str, Standing]:
    return {standing.method: standing for standing in found}


def url_table(here: Here) -> str:
    """R-AUROC and R@1 by method, published and here, in the published order of ResNet-50."""
    methods = {method.published: name for name, method in METHODS.items() if method.published}
    columns = []
    for title, key in (("R-AUROC", "r_auroc"), ("R@1", "recall_at_1")):
        for model, rows in published.URL_METHODS.items():
            values = [getattr(rows[name], key) for name in published.URL_METHODS["ResNet-50"]]
            columns.append(figures(f"{model} {title}", values))
        for backbone, found in here.items():
            ours = [_figure(found, methods.get(name), key) for name in published.URL_METHODS["ResNet-50"]]
            columns.append(figures(f"{backbone} {title}", ours))
    return table("method", list(published.URL_METHODS["ResNet-50"]), columns)


def order_table(here: Here) -> str:
    """Spearman between the published R-AUROC of methods and that behind each backbone."""
    values = {model: {name: row.r_auroc for name, row in rows.items()} for model, rows in published.URL_METHODS.items()}
    ours = {name: {_published(method): each.r_auroc for method, each in found.items()} for name, found in here.items()}
    everything = {**values, **ours}
    columns = [
        figures(
            model, [_agreement(row, rows) if row is not rows else math.nan for row in everything.values()], best=None
        )
        for model, rows in values.items()
    ]
    text = "Whether the order of methods is the same, as rank correlation of their R-AUROC:"
    return f"{text}\n\n{table('beside', list(everything), columns)}"


def _published(method: str) -> str:
    return METHODS[method].published or method


def _agreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    common = sorted(first.keys() & second.keys())
    return _spearman(np.array([first[name] for name in common]), np.array([second[name] for name in common]))


def sizes_table(here: Here) -> str:
    """The published ViTs by size, and the ranking head here."""
    rows = {f"{size}, published": (row.r_auroc, row.recall_at_1) for size, row in published.PVU_SIZES.items()}
    for name, found in here.items():
        rows[f"{name}, here"] = _figure(found, "pvu", "r_auroc"), _figure(found, "pvu", "recall_at_1")
    titles = enumerate(("R-AUROC", "R@1"))
    columns = [figures(title, [row[place] for row in rows.values()], best=None) for place, title in titles]
    return table("backbone", list(rows), columns)


def sets_table(results: Results) -> str:
    """The published ViT-Base by data set, and the ranking head here on sets of the same name."""
    ours = {each["name"]: published.published_set(each["name"]) for each in results["sets"]}
    columns = [figures("ViT-Base, published", list(published.PVU_SETS.values()), best=None)]
    for backbone in backbones(results):
        rows = [row for row in results["methods"] if row["backbone"] == backbone and row["method"] == "pvu"]
        found = [
            ", ".join(f"{number(row['r_auroc'])} ({row['set']})" for row in rows if ours[row["set"]] == name) or ABSENT
            for name in published.PVU_SETS
        ]
        columns.append(Column(f"{backbone}, here", tuple(found)))
    return table("set", list(published.PVU_SETS), columns)


def single_table(here: Here) -> str:
    """Figures that stand alone, each with its source and its like here."""
    rows = (
        (published.REFERENCE, None, "r_auroc"),
        (published.HUMAN_HEAD, "pvu", "human_spearman"),
        (published.HUMAN_ENTROPY, "ce", "human_spearman"),
        (published.HUMAN_BEST, None, "human_spearman"),
        (published.OOD_HEAD, "pvu", "ood_auroc"),
    )
    columns = [Column("published", tuple(number(figure.value) for figure, _, _ in rows))]
    for backbone, found in here.items():
        cells = [number(_figure(found, method, key)) if method else _best(found, key) for _, method, key in rows]
        columns.append(Column(f"{backbone}, here", tuple(cells)))
    columns.append(Column("source", tuple(figure.source for figure, _, _ in rows), words=True))
    return table("figure", [figure.of for figure, _, _ in rows], columns)


def _best(found: Mapping[str, Standing], key: str) -> str:
    value = {standing.label: standing.mean(key) for standing in found.values() if not math.isnan(standing.mean(key))}
    best = max(value, key=lambda label: value[label], default=None)
    return ABSENT if best is None else f"{number(value[best])} (best: {best})"


def _figure(found: Mapping[str, Standing], method: str | None, key: str) -> float:
    return found[method].mean(key) if method is not None and method in found else math.nan


def human_section(results: Results, images: Mapping[str, str]) -> str:
    """Whether methods with a high R-AUROC agree with people, as the thesis finds."""
    points = results["human"].get("points")
    if not points:
        return ""
    names = list(dict.fromkeys(point["backbone"] for point in points))
    groups = {"all": points} | {name: [p for p in points if p["backbone"] == name] for name in names}
    titles = {"r_auroc": "same set", "r_auroc_elsewhere": "other sets"}
    columns = [_correlations(results["human"], title, key, groups) for key, title in titles.items()]
    columns.append(Column("runs", tuple(str(len(group)) for group in groups.values())))
    intro = (
        "Each run is a point: its R-AUROC, and the Spearman of its uncertainty with the entropy of people's votes. "
        "R-AUROC is that of the set with votes, as in the published plot, or the mean over all sets without, which is "
        "harder. Intervals resample methods, since the runs of one are no independent draws."
    )
    defined = {title: results["human"].get(f"spearman_{key}") for key, title in titles.items()}
    verdicts = "\n".join(f"- {verdict(value, title)}" for title, value in defined.items() if value is not None)
    found = table("runs behind", list(groups), columns)
    parts = ["## R-AUROC and human agreement", intro, images.get("human", ""), found, verdicts]
    known = published.HUMAN_CORRELATION
    return joined([*parts, f"Published: {number(known.value, 2)}, {known.of}: {known.source}."])


def verdict(spearman: float, title: str) -> str:
    """Whether the thesis's rank correlation is reproduced, in words that follow from the one found."""
    words = next(words for least, words in VERDICTS if spearman >= least)
    found = f"the thesis's rank correlation of {number(published.HUMAN_CORRELATION.value, 2)} is {words}"
    return f"R-AUROC on the {title}: Spearman {number(spearman)}; {found}."


def _correlations(human: Mapping[str, Any], title: str, key: str, groups: Mapping[str, Sequence[Any]]) -> Column:
    """Spearman of all runs, with an interval over resampled methods, and of those behind each backbone."""
    value = [human.get(f"spearman_{key}", math.nan), *(_correlation(group, key) for group in list(groups.values())[1:])]
    return figures(title, value, best=None, notes=[_over_methods(group, key) for group in groups.values()])


def _columns(points: Sequence[Any], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([point[key] for point in points]), np.array([point["human_spearman"] for point in points])


def _correlation(points: Sequence[Any], key: str) -> float:
    return _spearman(*_columns(points, key))


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Rank correlation, NaN where it is undefined."""
    if min(np.unique(first).size, np.unique(second).size) < 2:
        return math.nan
    return metrics.spearman(first, second)


def _over_methods(points: Sequence[Any], key: str) -> str:
    """Interval of the rank correlation over resampled methods; nothing where there are too few."""
    first, second = _columns(points, key)
    methods, cluster = np.unique([point["method"] for point in points], return_inverse=True)
    if methods.size < 2 or math.isnan(_spearman(first, second)):
        return ""
    found = cluster_bootstrap(lambda items: metrics.spearman(first[items], second[items]), cluster)
    return bounds(found.low, found.high)
