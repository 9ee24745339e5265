"""The plots of a bench's report, each a PNG; those whose data is not in the results are not drawn.

Colours are those of Okabe and Ito, which people with any common colour vision can tell apart.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.methods.registry import METHODS
from scripts.bench.standings import FAMILIES, Results, Standing, backbones, family, headline_sets, shipped, standings
from scripts.bench.tables import number
from scripts.bench.trends import CONFLICT, CURVED, by_epoch, by_images

BLACK, GREY, VERMILION = "#000000", "#BBBBBB", "#D55E00"
OTHER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
COLOURS = ("#0072B2", VERMILION, "#009E73", "#E69F00", "#CC79A7", "#56B4E9", BLACK)
FAMILY_COLOURS = dict(zip(FAMILIES, ("#0072B2", "#E69F00", "#009E73", VERMILION, "#7F7F7F"), strict=True))
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
HIGHLIGHTED = 7  # risk-coverage curves that a reader can still tell apart
DPI = 110


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Draw all there is data for below a folder: path by name."""
    wanted: dict[str, Callable[[], Figure]] = {}
    if results["methods"]:
        wanted["bars"] = partial(bars, results)
    if results["human"].get("points"):
        wanted["human"] = partial(human, results["human"])
    for backbone in backbones(results):
        if any(curve["backbone"] == backbone for curve in results["curves"]):
            wanted[f"curves-{backbone}"] = partial(curves, results, backbone)
    if by_epoch(results, CONFLICT, "accuracy"):
        wanted["conflict"] = partial(conflict, results)
    if results["scaling"]:
        wanted["scaling"] = partial(scaling, results)
    return {name: _saved(figure(), folder / f"{_slug(name)}.png") for name, figure in wanted.items()}


def bars(results: Results) -> Figure:
    """Mean R-AUROC over the reported sets with its interval, as bars from chance; a panel for each backbone."""
    names = backbones(results)
    ranked = {name: standings(results, name, headline_sets(results)) for name in names}
    height = 1.3 + 0.21 * max(len(found) for found in ranked.values())
    figure = Figure(figsize=(0.6 + 4.1 * len(names), height), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False, sharex=True)[0]
    for panel, name in zip(axes, names, strict=True):
        _bar_panel(panel, ranked[name], shipped(results))
        panel.set_title(name, fontsize=10)
    present = {family(standing.method) for found in ranked.values() for standing in found}
    patches = [Patch(color=FAMILY_COLOURS[each], label=each) for each in FAMILIES if each in present]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(5, 2 * len(names)), fontsize=8, frameon=False)
    return figure


def _bar_panel(panel: Axes, ranked: Sequence[Standing], own: str | None) -> None:
    place = np.arange(len(ranked))
    value = np.array([standing.r_auroc for standing in ranked])
    bounds = np.array([standing.interval for standing in ranked]).T  # (2, methods)
    error = np.abs(bounds - value)
    colours = [FAMILY_COLOURS[family(standing.method)] for standing in ranked]
    panel.barh(place, value - 0.5, left=0.5, color=colours, height=0.72)
    panel.errorbar(value, place, xerr=error, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    panel.axvline(0.5, color="#333333", linewidth=0.8)
    panel.set_yticks(place, [standing.label for standing in ranked], fontsize=8)
    for label, standing in zip(panel.get_yticklabels(), ranked, strict=True):
        label.set_fontweight("bold" if standing.method == own else "normal")
    panel.set(xlabel="mean R-AUROC", ylim=(len(ranked) - 0.4, -0.6))
    panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panel.grid(axis="x", color="#E5E5E5", linewidth=0.6)
    _quiet(panel)


def human(found: Mapping[str, Any]) -> Figure:
    """Human agreement against R-AUROC, a point for each run: on the same set, and on the sets without votes."""
    points = found["points"]
    names = list(dict.fromkeys(point["backbone"] for point in points))
    marker = {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}
    groups: dict[tuple[str, str], list[Any]] = {}
    for point in points:
        groups.setdefault((family(point["method"]), point["backbone"]), []).append(point)
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    titles = {"r_auroc": "R-AUROC on the set with votes", "r_auroc_elsewhere": "mean R-AUROC on the other sets"}
    for panel, (key, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for (kind, name), group in groups.items():
            x, y = zip(*((point[key], point["human_spearman"]) for point in group), strict=True)
            panel.scatter(x, y, s=26, alpha=0.75, linewidths=0, color=FAMILY_COLOURS[kind], marker=marker[name])
        panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        panel.axvline(0.5, color=GREY, linewidth=0.8, zorder=0)
        panel.axhline(0.0, color=GREY, linewidth=0.8, zorder=0)
        panel.set_xlabel(title)
        panel.set_title(
            f"Spearman {number(found.get(f'spearman_{key}', math.nan), 2)}, {len(points)} runs", fontsize=10
        )
        _quiet(panel)
    figure.axes[0].set_ylabel("human agreement (Spearman)")
    present = {kind for kind, _ in groups}
    handles = [Line2D([], [], color=c, marker="s", ls="", label=f) for f, c in FAMILY_COLOURS.items() if f in present]
    handles += [Line2D([], [], color="#333333", marker=marker[name], ls="", label=name) for name in names]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return figure


def curves(results: Results, backbone: str) -> Figure:
    """Selective risk by coverage, a panel for each reported set; a few methods stand out, the others are grey."""
    sets = headline_sets(results)
    found = [curve for curve in results["curves"] if curve["backbone"] == backbone and curve["set"] in sets]
    style = _highlighted(results, backbone)
    figure, panels = _grid(len(sets))
    for panel, name in zip(panels, sets, strict=True):
        here = [curve for curve in found if curve["set"] == name]
        for curve in sorted(here, key=lambda curve: curve["method"] in style):
            plain = {"color": GREY, "linewidth": 0.6, "alpha": 0.7}
            panel.plot(curve["coverage"], curve["risk"], **style.get(curve["method"], plain))
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="coverage", ylabel="share of wrong answers", xlim=(0.0, 1.0))
        _quiet(panel)
    handles = [Line2D([], [], label=METHODS[method].label, **chosen) for method, chosen in style.items()]
    if any(curve["method"] not in style for curve in found):
        handles.append(Line2D([], [], color=GREY, linewidth=0.6, label="other methods"))
    figure.legend(handles=handles, loc="outside lower center", ncols=_beside(sets), fontsize=8, frameon=False)
    return figure


def _highlighted(results: Results, backbone: str) -> dict[str, dict[str, Any]]:
    """Line styles of the shipped method, class entropy and the best others."""
    ranked = [standing.method for standing in standings(results, backbone, headline_sets(results))]
    fixed: dict[str | None, dict[str, Any]] = {
        "ce": {"color": BLACK, "linestyle": "--", "linewidth": 1.4},
        shipped(results): {"color": VERMILION, "linewidth": 2.4},
    }
    others = [method for method in ranked if method not in fixed][: HIGHLIGHTED - len(fixed)]
    style = {
        method: {"color": OTHER_COLOURS[place], "linestyle": STYLES[place % len(STYLES)], "linewidth": 1.4}
        for place, method in enumerate(others)
    }
    return {method: fixed.get(method) or style[method] for method in ranked if method in fixed or method in style}


def conflict(results: Results) -> Figure:
    """Losspred by epoch with StopGrad, joint gradient and PCGrad: mean over seeds, in the range of the seeds."""
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    for panel, (key, title) in zip(figure.subplots(1, len(CURVED)), CURVED.items(), strict=True):
        for place, (method, by_seed) in enumerate(by_epoch(results, CONFLICT, key).items()):
            _band(panel, range(1, by_seed.shape[1] + 1), list(by_seed.T), CONFLICT[method], place)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _quiet(panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def scaling(results: Results) -> Figure:
    """R-AUROC by number of training images, mean over seeds in their range: over the reported sets, then by set."""
    sets = headline_sets(results)
    panels_of = {"mean of the reported sets": sets, **({name: [name] for name in sets} if len(sets) > 1 else {})}
    figure, panels = _grid(len(panels_of))
    for panel, (title, names) in zip(panels, panels_of.items(), strict=True):
        for place, (method, found) in enumerate(by_images(results, names).items()):
            _band(panel, list(found), list(found.values()), METHODS[method].label, place)
        panel.set_title(title, fontsize=10)
        panel.set(xlabel="training images", ylabel="R-AUROC", xscale="log")
        _quiet(panel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_beside(sets), fontsize=8, frameon=False)
    return figure


def _band(panel: Axes, x: Sequence[int], by_seed: Sequence[NDArray[np.float64]], label: str, place: int) -> None:
    """The mean over seeds at each x as a line, their range around it; `place` chooses colour, dashes and marker."""
    middle, low, high = ([float(reduce(values)) for values in by_seed] for reduce in (np.mean, np.min, np.max))
    colour, dashes = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
    marker = MARKERS[place % len(MARKERS)]
    panel.plot(x, middle, color=colour, linestyle=dashes, marker=marker, markersize=4, label=label)
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of two or three."""
    columns = min(2 if count == 4 else 3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.7 * columns + 0.4, 2.9 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in axes[count:]:
        panel.set_axis_off()
    return figure, axes[:count]


def _beside(sets: Sequence[str]) -> int:
    """How many labels fit beside each other below the panels of some sets."""
    return 2 if len(sets) == 1 else 4


def _quiet(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8)


def _slug(name: str) -> str:
    """A name that is one in any file system and any link."""
    return re.sub(r"[^\w.-]+", "-", name)


def _saved(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
