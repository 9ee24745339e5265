"""report.md: what was done, what came of it, how to serve it, and what to be careful with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.backbone import Backbone, load_backbone
from models.bundle import load_bundle
from models.dataset import Dataset
from models.heads import load_head
from scripts.evaluate import HEAD
from scripts.fitting.ledger import read_json
from scripts.fitting.plan import RESULTS, Plan
from scripts.fitting.split import INSTANCES, SEEN_CLASSES, UNSEEN_CLASSES, Split, named

FEW_IMAGES, FEW_CLASSES, FEW_REFERENCE, FEW_ANSWERS = 1000, 20, 200, 100
LABELS = {
    "head": "**head**",
    "class_entropy": "class entropy",
    "max_probability": "max-probability",
    "inverse_norm": "1/\\|e\\|",
}
WIN_RATES = {"crop_win_rate": "crop less certain", "view_win_rate": "view less certain"}
HEADER = ["score", "R-AUROC", "lead of the head", "AURC", "coverage at 10 % risk"]


@dataclass(frozen=True)
class Facts:
    """All that a report says: `found` are the figures of the evaluation, `head` is what the head's folder says."""

    data: str
    split: Split
    classes: int
    backbone: Backbone
    head: Mapping[str, Any]
    trained: bool
    found: Mapping[str, Any]

    @property
    def scores(self) -> Mapping[str, Any]:
        """Figures by score; none where there was nothing to rank."""
        scores: Mapping[str, Any] = self.found["scores"]
        return scores


def write_report(out: Path, plan: Plan, split: Split, dataset: Dataset) -> str:
    """Write OUT/report.md, and return its first figures in a sentence."""
    backbone = load_backbone(plan.backbone)
    head = load_head(plan.head, backbone.hash).description
    found = read_json(out / RESULTS)["data"][split.kind]
    classes = np.unique(dataset.labels[split.training]).size
    facts = Facts(dataset.name, split, int(classes), backbone, head, plan.trains, found)
    manifest = load_bundle(out / "bundle").manifest
    lines = [f"# {manifest.name}", f"`{manifest.command}`", done(facts), "## Measured", measured(facts)]
    lines += [figures(facts), pictures(facts)] if facts.scores else []
    lines += ["## Read with care", "\n".join(f"- {each}" for each in cautions(facts))]
    lines += ["## Serve it", serving(facts, out / "bundle"), "## Files", files(out)]
    (out / "report.md").write_text("\n\n".join(lines) + "\n")
    return measured(facts)


def done(facts: Facts) -> str:
    """Backbone, head and split in words."""
    backbone, split, training = facts.backbone, facts.split, facts.head["training"]
    source = backbone.training
    first = (
        f"The backbone **{backbone.name}** ({backbone.preprocessing.size} px; trained on: "
        f"{source.get('data', 'unknown')}; licence: {source.get('licence', 'unknown')}) is used as it is."
    )
    of_classes = "" if split.kind == INSTANCES else f" of {facts.classes} classes"
    second = f"The head was brought along (method {facts.head['method']}) and has learned nothing from these images."
    if facts.trained:
        target = f", to predict the {training['target']} loss of a view" if training["target"] else ""
        second = (
            f"The head (method {facts.head['method']}) was trained on {split.training.size} images{of_classes} of "
            f"`{facts.data}`{target}."
        )
    third = f"Percentiles refer to {split.reference.size} other images{of_classes}."
    unseen = f", those of {named(split.unseen)}," if split.unseen else ""
    return f"{first} {second} {third} The figures are of {split.evaluation.size} images{unseen} used for nothing else."


def measured(facts: Facts) -> str:
    """What was asked of the images held out, and how often the answer was right."""
    found = facts.found
    low, high = found["recall_at_1_interval"]
    recall = f"{found['recall_at_1']:.3f} [{low:.3f}, {high:.3f}]"
    if facts.split.kind == INSTANCES:
        text = (
            "These images have no classes, so what is measured is whether a view finds its own image: "
            f"{found['views']} augmented views of each of {found['images']} unseen images, searched among all "
            f"{found['gallery']} images, do with R@1 {recall}."
        )
    else:
        known = "unseen classes" if facts.split.kind == UNSEEN_CLASSES else "classes that the head has seen"
        text = (
            f"Among {found['images']} images of {found['classes']} {known}, the nearest neighbour is of the right "
            f"class with R@1 {recall}."
        )
    if not facts.scores:
        every = "Every" if found["recall_at_1"] else "No"
        return f"{text} {every} answer was right, so there is nothing for a score to tell apart."
    row = facts.scores[HEAD]
    return f"{text} R-AUROC of the head: {row['r_auroc']:.3f} {_interval(row['r_auroc_interval'])}."


def figures(facts: Facts) -> str:
    """The table of scores, and how to read it."""
    rate = next(key for key in WIN_RATES if key in facts.scores[HEAD])
    header = [*HEADER, WIN_RATES[rate]]
    rows = [_row(name, row, rate) for name, row in facts.scores.items()]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])
    degraded = "a centre crop" if rate == "crop_win_rate" else "an augmented view"
    unit = "images" if facts.split.kind == INSTANCES else "classes"
    return (
        f"{table}\n\nR-AUROC is the chance that of a right answer and a wrong one the wrong has the higher score: 0.5 "
        "says nothing, 1 everything. AURC is the mean share of wrong answers over all coverages, lower is better. The "
        f"last column is how often {degraded} is less certain than the image. Intervals are 95 % bootstrap intervals "
        f"over whole {unit}."
    )


def pictures(facts: Facts) -> str:
    """The plot and the montage."""
    kind = facts.split.kind
    what = "views" if kind == INSTANCES else "images"
    return (
        f"![Selective risk against coverage](evaluation/{kind}-risk-coverage.png)\n\n"
        f"The {what} that the head is surest of (above) and least sure of (below):\n\n"
        f"![Most and least certain {what}](evaluation/{kind}-montage.png)"
    )


def cautions(facts: Facts) -> Iterator[str]:
    """What keeps these figures from saying more."""
    split, kind = facts.split, facts.split.kind
    if kind == INSTANCES:
        yield (
            "Without classes, uncertainty says how well a view finds its own image. Whether images of one kind find "
            "each other was neither learned nor measured: sort some of them into class folders to know."
        )
    if kind == SEEN_CLASSES:
        yield "With fewer than ten classes none was held out: on classes that the head has not seen, expect less."
    if kind == UNSEEN_CLASSES and len(split.unseen) < FEW_CLASSES:
        yield f"The figures come from {len(split.unseen)} classes; others may be easier or harder: mind the intervals."
    if facts.trained and split.training.size < FEW_IMAGES:
        yield f"{split.training.size} images are few to learn from; a few thousand make a steadier ranking."
    if not facts.trained:
        yield "The head was made elsewhere; its uncertainty on these images is as good as the figures above, no better."
    if split.reference.size < FEW_REFERENCE:
        step = 100 / split.reference.size
        yield f"Percentiles refer to {split.reference.size} images, and so are known to {step:.1f} % at best."
    yield from _rank_cautions(facts)
    yield (
        f"The backbone was trained on: {facts.backbone.training.get('data', 'unknown')}. Where it has seen these "
        "classes or these very images, figures on new ones will be lower."
    )
    yield "Neither uncertainty nor its percentile is a probability of being wrong."


def serving(facts: Facts, bundle: Path) -> str:
    """Two commands."""
    return (
        f"```console\n$ candor serve --bundle {bundle}\n$ curl -s -H 'Content-Type: image/jpeg' --data-binary "
        "@photo.jpg 'localhost:8000/embed?max_percentile=0.9'\n```\n\nThe second abstains on what is less certain than "
        f"90 % of the {facts.split.reference.size} reference images."
    )


def files(out: Path) -> str:
    """Which stages ran, and for how long."""
    stages = read_json(out / "stages.json")["stages"]
    rows = [f"| {stage['name']} | {stage['seconds']:.1f} |" for stage in stages]
    table = "\n".join(["| stage | seconds |", "|---|---|", *rows])
    return (
        "`split.json` says which images were which, `evaluation/results.json` has every figure, `stages.json` the "
        f"commands.\n\n{table}"
    )


def _rank_cautions(facts: Facts) -> Iterator[str]:
    """What the figures of the scores leave open."""
    if not facts.scores:
        yield "How well the head ranks was not measured: that takes right answers and wrong ones."
        return
    queries = facts.found["images"] * facts.found.get("views", 1)
    right = round(facts.found["recall_at_1"] * queries)
    if min(right, queries - right) < FEW_ANSWERS:
        yield f"All scores are judged by {right} right answers and {queries - right} wrong ones: few of a kind."
    low, high = facts.scores[HEAD]["r_auroc_interval"]
    if low <= 0.5:
        yield f"The head's R-AUROC may be no better than chance: its interval {_interval([low, high])} includes 0.5."
    leads = {name: row["head_minus_this_r_auroc"] for name, row in facts.scores.items() if name != HEAD}
    rivals = [LABELS.get(name, name) for name, lead in leads.items() if lead["low"] <= 0]
    if rivals:
        yield f"On these images the head is not surely better than: {', '.join(rivals)}."


def _row(name: str, row: Mapping[str, Any], rate: str) -> list[str]:
    lead = row.get("head_minus_this_r_auroc")
    return [
        LABELS.get(name, name),
        f"{row['r_auroc']:.3f} {_interval(row['r_auroc_interval'])}",
        f"{lead['value']:+.3f} {_interval([lead['low'], lead['high']])}" if lead else "",
        f"{row['aurc']:.3f}",
        f"{row['coverage_at_risk']:.3f}",
        f"{row[rate]:.3f}",
    ]


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
