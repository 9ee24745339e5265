"""The report of a bench, for a researcher to read: report.md, and its plots beside it.

A section whose data is not in the results is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from models.methods.registry import METHODS
from scripts.bench.comparisons import human_section, published_section
from scripts.bench.plots import draw
from scripts.bench.rankings import gallery_section, leads_section, methods_section
from scripts.bench.standings import Results
from scripts.bench.tables import Column, joined, listed, number, table
from scripts.bench.trends import curves_section, scaling_section, trainable_section


def write_report(results: Results, out: Path) -> None:
    """Write `out/report.md` and the plots that it shows, below `out/plots/`."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw(results, out / "plots")
    images = {name: f"![{name}]({path.relative_to(out).as_posix()})" for name, path in drawn.items()}
    (out / "report.md").write_text(report(results, images), encoding="utf-8")


def report(results: Results, images: Mapping[str, str]) -> str:
    """The text, with each of the images, links by name, where it belongs."""
    sections = [
        "# Uncertainty bench",
        run_section(results),
        methods_section(results, images),
        gallery_section(results),
        leads_section(results),
        published_section(results),
        human_section(results, images),
        curves_section(results, images),
        trainable_section(results, images),
        scaling_section(results, images),
    ]
    return joined(sections) + "\n"


def run_section(results: Results) -> str:
    """What was run: the command, its settings, backbones and sets."""
    command = results["command"].replace(" --", " \\\n    --")
    sets = results["sets"]
    roles = tuple("choosing" if each["validation"] else "reporting" for each in sets)
    described = [_text("images", sets, "images"), _text("classes", sets, "classes"), Column("for", roles, words=True)]
    parts = [
        f"## What was run\n\n```console\n$ {command}\n```",
        "\n".join(f"- {line}" for line in [*_settings(results), *_cost(results), *_unfinished(results)]),
        table("backbone", [each["name"] for each in results["backbones"]], _backbone_columns(results["backbones"])),
        table("set", [each["name"] for each in sets], described),
    ]
    return joined(parts)


def _settings(results: Results) -> list[str]:
    settings = results["settings"]
    severities = listed([number(severity, 2) for severity in settings["severities"]])
    choosing = [each["name"] for each in results["sets"] if each["validation"]]
    return [
        f"commit: {results['commit'] or 'unknown'}",
        f"seeds of each method behind each backbone: {settings['seeds']}; epochs: {settings['epochs']}, unless the "
        f"method asks for others; augmented views of each training image: {settings['views']}",
        f"degradations: {listed(list(settings['kinds']))}, each at severities {severities}, of {settings['sample']} "
        "images of each set",
        f"methods may be chosen on {listed(choosing) or 'no set'}; the other sets are only reported",
    ]


def _cost(results: Results) -> list[str]:
    """Absent from a summary of before it was measured."""
    cost = results.get("cost", {})
    minutes = "training and scoring from cached representations: {runs:,} runs, {minutes:.0f} minutes of one core"
    return [minutes.format(runs=cost["runs"], minutes=cost["cpu_s"] / 60)] if cost else []


def _unfinished(results: Results) -> list[str]:
    asked = results["settings"]["seeds"]
    trained = [row for row in results["methods"] if METHODS[row["method"]].trains]  # the others have one run
    few = {(row["backbone"], row["method"]): row["seeds"] for row in trained if row["seeds"] < asked}
    return [f"unfinished: {METHODS[method].label} behind {name}, seeds: {n}" for (name, method), n in few.items()]


def _backbone_columns(rows: Sequence[Mapping[str, object]]) -> list[Column]:
    return [
        _text("model", rows, "model"),
        _text("parameters", rows, "parameters"),
        _text("dimension", rows, "dimension"),
        _text("its own training data", rows, "data"),
        _text("images that methods train on", rows, "train_images"),
        Column("hash", tuple(str(row["hash"])[:19] for row in rows), words=True),
    ]


def _text(title: str, rows: Sequence[Mapping[str, object]], key: str) -> Column:
    counts = all(isinstance(row[key], int) for row in rows)
    return Column(title, tuple(f"{row[key]:,}" if counts else str(row[key]) for row in rows), words=not counts)
