"""The result as one picture: engines side by side, stalls beside upkeep, and growth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.retrieval.report import PHASES, TITLES, engines

STALL_GOAL_MS = 50.0


def plot(result: Mapping[str, Any], out: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(17, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _plot_engines(left, result)
    _plot_beside(middle, result["beside"])
    _plot_growth(right, result["growth"])
    plan = result["plan"]
    figure.suptitle(f"POST /retrieve by vector: {plan['rows']:,} items of {plan['dimension']} dimensions, 10 nearest")
    figure.savefig(out, dpi=120)


def _plot_engines(axes: Axes, result: Mapping[str, Any]) -> None:
    series = {"candor, HTTP": _over_http(result["overhead"])}
    series |= {each["name"]: each["conditions"] for each in engines(result) if "unavailable" not in each}
    positions, width = np.arange(len(TITLES)), 0.8 / len(series)
    for number, (name, conditions) in enumerate(series.items()):
        p50 = [conditions[condition]["latency_ms"]["p50"] for condition in TITLES]
        bars = axes.bar(positions + number * width, p50, width, label=name)
        recalls = [f"{conditions[condition]['recall_at_10']:.2f}" for condition in TITLES]
        axes.bar_label(bars, recalls, fontsize=6, rotation=90, padding=2)
    titles = [title.replace(", ", ",\n").replace(" ≤", "\n≤") for title in TITLES.values()]
    axes.set_xticks(positions + width * (len(series) - 1) / 2, titles, fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.3)
    axes.set(ylabel="p50, ms", title="One search at a time; recall@10 on the bars")
    axes.legend(fontsize=8, ncols=2)


def _over_http(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alone = (row for row in rows if row["concurrency"] == 1 and row["encoding"] == "base64")
    return {row["condition"]: row["http"] for row in alone}


def _plot_beside(axes: Axes, phases: Mapping[str, Any]) -> None:
    bars = {
        "search p50": [phases[name]["search"]["latency_ms"]["p50"] for name in PHASES],
        "search p99": [phases[name]["search"]["latency_ms"]["p99"] for name in PHASES],
        "/healthz p99": [phases[name]["probe"]["latency_ms"]["p99"] for name in PHASES],
        "/healthz max": [phases[name]["probe"]["latency_ms"]["max"] for name in PHASES],
        "control max": [phases[name]["control"]["latency_ms"]["max"] for name in PHASES],
    }
    positions, width = np.arange(len(PHASES)), 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        axes.bar(positions + number * width, values, width, label=name)
    axes.axhline(STALL_GOAL_MS, color="black", linestyle=":", linewidth=1, label="goal for stalls")
    axes.set_xticks(positions + 0.32, ["nothing\nbeside", "writes and\nupkeep", "first index\nbuilt"], fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.3)
    axes.set(ylabel="ms", title="While the server also writes")
    axes.legend(fontsize=8, ncols=2)


def _plot_growth(axes: Axes, sizes: Sequence[Mapping[str, Any]]) -> None:
    for concurrency, style in (("1", "o-"), ("16", "s--")):
        for percentile in ("p50", "p99"):
            values = [size["concurrency"][concurrency]["latency_ms"][percentile] for size in sizes]
            label = f"{percentile}, {concurrency} at a time"
            axes.plot([size["rows"] for size in sizes], values, style, label=label)
    for size in sizes:
        note = f"{size['dimension']}-d\nrecall {size['concurrency']['1']['recall_at_10']:.3f}"
        axes.annotate(note, (size["rows"], size["concurrency"]["1"]["latency_ms"]["p50"]), (0, -24), fontsize=7,
                      textcoords="offset points", ha="center")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.15, y=0.3)
    axes.set(xlabel="items", ylabel="ms", title="As the gallery grows")
    axes.legend(fontsize=8, ncols=2)
