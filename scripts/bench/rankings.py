"""Sections that rank: every figure of every method, the scores that see the gallery, the shipped method's leads.

Methods are sorted by mean R-AUROC over the sets that are only reported, since nothing was chosen on those.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from models.methods.registry import METHODS
from scripts.bench.intervals import REPETITIONS
from scripts.bench.standings import Results, Standing, backbones, headline_sets, mean, set_names, shipped, standings
from scripts.bench.tables import Column, bounds, figures, joined, listed, number, table

TITLES = {"jpeg": "JPEG"}
LEGEND = f"""\
R-AUROC: probability that a query whose nearest neighbour has the wrong class is less certain than one whose neighbour \
is right; 0.5 is chance. R@1: share of queries with a right neighbour. AURC, AUGRC: area under the (generalised) \
risk-coverage curve, lower is better. Wins: share of images that are less certain once degraded. Monotonicity: \
Kendall's tau-b between severity and uncertainty. Human: Spearman with the entropy of people's votes. Ambiguity AUROC: \
images that people disagree on against those they agree on. OOD AUROC: the set's images against images like those the \
backbone knows. Intervals (95 %) are of the mean over seeds, from {REPETITIONS} resamples of whole classes; spread is \
the standard deviation over seeds of the mean R-AUROC. The best of a column is bold. The \
plot shows mean R-AUROC from chance up, its interval that of the sets' added in quadrature."""


def methods_section(results: Results, images: Mapping[str, str]) -> str:
    """Every figure of every method, a few tables for each backbone."""
    reported, validation = (set_names(results, validation=chosen) for chosen in (False, True))
    parts = []
    for backbone in backbones(results):
        parts.append(f"### Methods behind {backbone}")
        if reported:
            found = standings(results, backbone, reported)
            names, kinds = _names(results, found), list(results["settings"]["kinds"])
            parts += ["Retrieval, reported sets:", table("method", names, retrieval_columns(found, reported))]
            parts += ["Selective risk, reported sets:", table("method", names, risk_columns(found, reported))]
            parts += ["Degradations, people, foreign images (means over the reported sets) and cost:"]
            parts += [table("method", names, [*robustness_columns(found, kinds), *other_columns(found)])]
        if validation:
            found = standings(results, backbone, validation)
            columns = [*retrieval_columns(found, validation), _mean("mean AURC", found, "aurc", "low")]
            parts += ["Validation sets, which choices rest on:", table("method", _names(results, found), columns)]
    return joined(["## Methods", LEGEND, images.get("bars", ""), *parts]) if parts else ""


def retrieval_columns(found: Sequence[Standing], sets: Sequence[str]) -> list[Column]:
    """R-AUROC by set with its interval, its mean, its spread over seeds, and R@1."""
    columns = []
    for place, name in enumerate(sets):
        columns.append(_r_auroc(name, [standing.rows[place] for standing in found]))
    columns.append(_mean("mean R-AUROC", found, "r_auroc"))
    columns.append(figures("spread", [standing.spread for standing in found], best=None))
    return [*columns, _mean("R@1", found, "recall_at_1")]


def risk_columns(found: Sequence[Standing], sets: Sequence[str]) -> list[Column]:
    """AURC and AUGRC by set, and their means."""
    columns = []
    for title, key in (("AURC", "aurc"), ("AUGRC", "augrc")):
        for place, name in enumerate(sets):
            columns.append(figures(f"{title} {name}", [each.rows[place][key] for each in found], best="low"))
        columns.append(_mean(f"mean {title}", found, key, "low"))
    return columns


def robustness_columns(found: Sequence[Standing], kinds: Sequence[str]) -> list[Column]:
    """Win rates, then monotonicity, by kind of degradation."""
    return [
        _mean(f"{TITLES.get(kind, kind)} {title}", found, f"{kind}_{key}")
        for title, key in (("wins", "win_rate"), ("monotonicity", "monotonicity"))
        for kind in kinds
    ]


def other_columns(found: Sequence[Standing]) -> list[Column]:
    """Agreement with people, foreign images, and cost."""
    return [
        _mean("human", found, "human_spearman"),
        _mean("ambiguity AUROC", found, "ambiguity_auroc"),
        _mean("OOD AUROC", found, "ood_auroc"),
        _mean("train s", found, "train_s", "low", 1),
        _mean("µs / image", found, "us_per_image", "low", 1),
    ]


def gallery_section(results: Results) -> str:
    """Scores that know the gallery's labels, or see more of the query than one view."""
    headline, parts = headline_sets(results), []
    for backbone in [each["name"] for each in results["backbones"]]:
        rows = {(row["score"], row["set"]): row for row in results["gallery"] if row["backbone"] == backbone}
        if rows:
            value = {score: mean([rows[score, name]["r_auroc"] for name in headline]) for score, _ in rows}
            order = sorted(value, key=lambda score: -value[score])
            columns = [
                _r_auroc(_flagged(results, each["name"]), [rows[score, each["name"]] for score in order])
                for each in results["sets"]
            ]
            columns.append(figures("mean R-AUROC", [value[score] for score in order]))
            aurc = [mean([rows[score, name]["aurc"] for name in headline]) for score in order]
            columns.append(figures("mean AURC", aurc, best="low"))
            parts += [f"### Scores behind {backbone}", table("score", order, columns)]
    return joined(["## Gallery-aware scores", _gallery_intro(results), *parts]) if parts else ""


def _gallery_intro(results: Results) -> str:
    size = {each["name"]: each["images"] for each in results["sets"]}
    sampled = sorted({row["score"] for row in results["gallery"] if row["images"] < size[row["set"]]})
    note = f" Judged on a sample of each set: {listed(sampled)}." if sampled else ""
    return (
        "These see more than one view of the query: its neighbours in the gallery and their labels, or augmented views "
        f"of it. They answer another question than the methods above.{note} "
        f"Means are over {listed(headline_sets(results))}."
    )


def leads_section(results: Results) -> str:
    """The shipped method's lead in R-AUROC over every other, and where it is none."""
    own, sets, parts = shipped(results), [each["name"] for each in results["sets"]], []
    for backbone in backbones(results) if own else []:
        leads = results["leads"].get(backbone, {})
        others = [each for each in standings(results, backbone, headline_sets(results)) if each.method != own]
        if all(leads.get(name) for name in sets):
            cells = {name: tuple(_lead(leads[name][each.method]) for each in others) for name in sets}
            columns = [Column(_flagged(results, name), cells[name]) for name in sets]
            parts += [f"### Leads behind {backbone}", table("over", [each.label for each in others], columns)]
            parts.append("\n".join(_in_words(name, leads[name]) for name in sets))
    intro = (
        f"R-AUROC of {METHODS[own].label} less that of each other method, with the 95 % interval of the paired "
        "difference over resampled classes. In italics: the interval includes zero, and neither is shown to be better."
        if own
        else ""
    )
    return joined(["## Leads of the shipped method", intro, *parts]) if parts else ""


def _lead(lead: Mapping[str, float]) -> str:
    text = f"{number(lead['value'], signed=True)} {bounds(lead['low'], lead['high'], signed=True)}"
    return f"*{text}*" if _outcome(lead) == "open" else text


def _outcome(lead: Mapping[str, float]) -> Literal["ahead", "behind", "open"]:
    return "ahead" if lead["low"] > 0.0 else "behind" if lead["high"] < 0.0 else "open"


def _in_words(name: str, leads: Mapping[str, Mapping[str, float]]) -> str:
    found = {
        key: [METHODS[m].label for m, lead in leads.items() if _outcome(lead) == key] for key in ("open", "behind")
    }
    ahead = len(leads) - len(found["open"]) - len(found["behind"])
    text = f"- {name}: ahead of {ahead} of {len(leads)}"
    text += f"; the interval includes zero against: {'; '.join(found['open'])}" if found["open"] else ""
    return text + (f"; behind: {'; '.join(found['behind'])}" if found["behind"] else "") + "."


def _r_auroc(title: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    notes = [bounds(*row["r_auroc_interval"]) for row in rows]
    return figures(title, [row["r_auroc"] for row in rows], notes=notes)


def _mean(
    title: str, found: Sequence[Standing], key: str, best: Literal["high", "low"] = "high", digits: int = 3
) -> Column:
    return figures(title, [standing.mean(key) for standing in found], best=best, digits=digits)


def _names(results: Results, found: Sequence[Standing]) -> list[str]:
    own = shipped(results)
    return [f"{each.label} (shipped)" if each.method == own else each.label for each in found]


def _flagged(results: Results, name: str) -> str:
    return f"{name} (validation)" if name in set_names(results, validation=True) else name
