"""Galleries and splits in a table, in words, and as a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt


def summarise(galleries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one set."""
    splits = [split for gallery in galleries for split in gallery["splits"]]
    redrawn = [draw for gallery in galleries for draw in gallery["redrawn"]]
    ranked = {name: [split["r_auroc"][name] for split in splits] for name in splits[0]["r_auroc"]}
    return {
        "galleries": len(galleries),
        "items": [gallery["items"] for gallery in galleries],
        "queries": [gallery["queries"] for gallery in galleries],
        "splits": len(splits),
        "draws": len(redrawn),
        "followed": [gallery["followed"] for gallery in galleries],
        "agrees": all(gallery["agrees"] for gallery in galleries),
        "base_risk": _mean([split["base_risk"] for split in splits]),
        "ece": _mean([split["ece"] for split in splits]),
        "r_auroc": {
            name: {"mean": _mean(values), "beaten_in": float(np.mean(np.array(ranked["score"]) > values))}
            for name, values in ranked.items()
        },
        "targets": [
            _target([split["targets"][place] for split in splits], [draw["targets"][place] for draw in redrawn])
            for place in range(len(splits[0]["targets"]))
        ],
        "watched": [gallery["watched"] for gallery in galleries],
    }


def _target(splits: Sequence[Mapping[str, Any]], redrawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = {name: splits[0][name] for name in ("alpha", "delta", "k")}
    feasible = float(np.mean([split["feasible"] for split in splits]))
    if "missed_by_part" in splits[0]:
        parts = range(len(splits[0]["missed_by_part"]))
        return named | {
            "feasible": feasible,
            "missed_by_part": [_mean(_there(split["missed_by_part"][part] for split in splits)) for part in parts],
            "k_by_part": [_mean(_there(split["k_by_part"][part] for split in splits)) for part in parts],
            "without_number": [
                float(np.mean([split["k_by_part"][part] is None for split in splits])) for part in parts
            ],
        }
    return named | {
        "feasible": feasible,
        "coverage": _mean([split["coverage"] for split in splits]),
        "risk": _mean(_there(split["risk"] for split in splits)),
        "broken_on_test": _broken(splits, named["alpha"]),
        "broken": _broken(redrawn, named["alpha"]),
        "standard_error": float(np.sqrt(named["delta"] * (1 - named["delta"]) / len(redrawn))),
        "standard_error_on_test": float(np.sqrt(named["delta"] * (1 - named["delta"]) / len(splits))),
    }


def _broken(found: Sequence[Mapping[str, Any]], alpha: float) -> float:
    return float(np.mean([each["risk"] is not None and each["risk"] > alpha for each in found]))


def _there(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def as_markdown(result: Mapping[str, Any]) -> str:
    """Every figure, in tables."""
    bundle, machine = result["bundle"], result["machine"]
    lines = [
        "# Certified policies on real images, over HTTP",
        "",
        f"Bundle {bundle['name']} ({bundle['backbone']}, {bundle['size']} px), {machine['processor']}.",
        "One query in ten is of a class that the gallery lacks.",
        "",
        "Broken: draws of certification queries, with replacement, whose threshold has a risk above alpha over all the",
        "queries drawn from, which is what delta is about. Broken on test: splits whose test queries show a risk above",
        "alpha, which chance among the test queries adds to.",
    ]
    for name, found in result["sets"].items():
        lines += ["", f"## {name}", "", *_promises(found), "", *_ranking(found), "", *_watched(found)]
    return "\n".join(lines) + "\n"


def _promises(found: Mapping[str, Any]) -> list[str]:
    agrees = "accept the same" if found["agrees"] else "DO NOT accept the same"
    lines = [
        f"{found['galleries']} galleries of {found['items'][0]} items and {found['queries'][0]} queries;",
        f"{found['splits']} splits, {found['draws']} draws.",
        f"{100 * found['base_risk']:.1f} % of best matches are wrong.",
        f"The server and the same policy made offline {agrees} test queries.",
        f"Calibration error of `p_correct` {found['ece']:.3f}.",
        "",
        "| alpha | delta | k | certified | coverage | mean risk "
        "| broken on test | delta + 3 s.e. | broken | delta + 3 s.e. |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for target in found["targets"]:
        if "missed_by_part" in target:
            continue
        limits = [target["delta"] + 3 * target[name] for name in ("standard_error_on_test", "standard_error")]
        cells = [
            *(str(target[name]) for name in ("alpha", "delta", "k")),
            *(_number(target[name]) for name in ("feasible", "coverage", "risk")),
            *map(_number, (target["broken_on_test"], limits[0], target["broken"], limits[1])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for target in (target for target in found["targets"] if "missed_by_part" in target):
        lines += [
            "",
            f"Sets that hold a right match with probability {1 - target['alpha']:g}, by fifth of uncertainty:",
            "",
            "| | surest | | | | least sure |",
            "|---|---:|---:|---:|---:|---:|",
            "| without a right match | " + " | ".join(map(_number, target["missed_by_part"])) + " |",
            "| matches | " + " | ".join(map(_number, target["k_by_part"])) + " |",
            "| splits where no number would do | " + " | ".join(map(_number, target["without_number"])) + " |",
        ]
    return lines


def _ranking(found: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {each['mean']:.3f} | {'' if name == 'score' else format(each['beaten_in'], '.2f')} |"
        for name, each in found["r_auroc"].items()
    ]
    return [
        "| judged by | R-AUROC, mean of splits | splits where the match score is better |",
        "|---|---:|---:|",
        *rows,
    ]


def _watched(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Watched over HTTP, for each gallery the first split that could be certified, at alpha "
        f"{'; '.join(map(str, found['followed']))}; every accepted answer judged until the alarm:",
        "",
        "| what happens | queries | risk of accepted | audits until alarm | drifted inputs | status |",
        "|---|---|---|---|---|---|",
    ]
    for phase in found["watched"][0]:
        each = [watched[phase] for watched in found["watched"]]
        columns = (
            [one["queries"] for one in each],
            [_number(one["risk"]) for one in each],
            [f"{one['audits_until_alarm'] or 'none'} of {one['accepted']}" for one in each],
            [", ".join(one["drifted"]) or "none" for one in each],
            [one["status"] for one in each],
        )
        lines.append(f"| {phase} | " + " | ".join("; ".join(map(str, column)) for column in columns) + " |")
    seconds = [watched["a gallery four times the size"]["stale_after_s"] for watched in found["watched"]]
    statuses = sorted({s for watched in found["watched"] for s in watched["a gallery four times the size"]["statuses"]})
    return [
        *lines,
        "",
        f"Stale {max(seconds)} s at most after the last distractor was stored;",
        f"answers then said {', '.join(statuses)}.",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 1 else f"{value:.1f}"


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The risk of each split's test queries against its coverage, for the promises about best matches."""
    matplotlib.use("agg")
    figure, panels = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.8), layout="constrained", squeeze=False)
    for axes, (name, galleries) in zip(panels[0], found.items(), strict=True):
        splits = [split for gallery in galleries for split in gallery["splits"]]
        for place, colour in ((0, "tab:blue"), (1, "tab:orange")):
            kept = [split["targets"][place] for split in splits if split["targets"][place]["risk"] is not None]
            alpha = splits[0]["targets"][place]["alpha"]
            axes.scatter(
                [each["coverage"] for each in kept],
                [each["risk"] for each in kept],
                s=8,
                color=colour,
                label=f"at most {100 * alpha:g} % wrong",
            )
            axes.axhline(alpha, color=colour, linestyle=":", linewidth=1)
        axes.set(title=name, xlabel="coverage of the test queries", ylabel="risk of those accepted", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
