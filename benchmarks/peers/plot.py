"""The result as a picture: throughput with the limit, CPU per image, and latency, model by model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.catalogue import CANDOR_NAME
from benchmarks.peers.report import LIMIT

matplotlib.use("Agg")

OURS, THEIRS, SECOND, LINE = "#1f6f8b", "#b8bfc6", "#5f6b76", "#c0392b"
WIDTH = 3.6  # inches a model


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw a column of three panels per model."""
    models = list(result["summary"])
    figure = Figure(figsize=(1.6 + WIDTH * max(1, len(models)), 8.4), layout="constrained")
    grid = figure.subplots(3, max(1, len(models)), squeeze=False)
    for column, model in enumerate(models):
        rows = result["summary"][model]
        names = [name for name in rows if name != LIMIT]
        labels = [result["servers"][name]["label"] for name in names]
        throughput, cpu, latency = (grid[row][column] for row in range(3))
        throughput.set_title(model, pad=14)
        _bars(throughput, names, rows, "images_per_second", rows.get(LIMIT))
        _bars(cpu, names, rows, "cpu_ms_per_image", rows.get(LIMIT))
        _latencies(latency, names, rows)
        for axes in (throughput, cpu, latency):
            axes.set_yticks(range(len(names)), labels if column == 0 else [""] * len(names))
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
    concurrency = result["plan"]["concurrency"]
    for row, text in enumerate(
        ("images per second", "server CPU ms per image", f"ms, p50 and p99 at {concurrency} connections")
    ):
        for axes in grid[row]:
            axes.set_xlabel(text)
    figure.savefig(path, dpi=110)


def _bars(
    axes: Axes,
    names: Sequence[str],
    rows: Mapping[str, Mapping[str, Any]],
    value: str,
    limit: Mapping[str, Any] | None,
) -> None:
    values = [float(rows[name].get(value, 0.0)) for name in names]
    axes.barh(range(len(names)), values, color=[OURS if name == CANDOR_NAME else THEIRS for name in names])
    for number, (name, each) in enumerate(zip(names, values, strict=True)):
        text = "failed" if "error" in rows[name] else f"{each:.3g}"
        axes.text(each, number, f" {text}", va="center", fontsize=8)
    if limit is not None:
        axes.axvline(limit[value], color=LINE, linestyle="--", linewidth=1.2)
        axes.text(limit[value], -0.62, "limit", color=LINE, fontsize=8, ha="center")
    axes.margins(x=0.16)


def _latencies(axes: Axes, names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> None:
    for number, name in enumerate(names):
        latency = rows[name].get("latency_ms")
        if not latency:
            continue
        colour = OURS if name == CANDOR_NAME else SECOND
        axes.plot([latency["p50"], latency["p99"]], [number, number], color=colour, linewidth=2)
        axes.plot(latency["p50"], number, "o", color=colour)
        axes.plot(latency["p99"], number, "|", color=colour, markersize=12)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
