"""From what was measured to what is said of it: medians, and ratios to the limit of the same round."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from benchmarks.machine import installed_versions
from benchmarks.peers.catalogue import CANDOR_NAME, MODELS, Contender
from benchmarks.peers.environments import pinned_versions
from benchmarks.peers.plan import Plan
from benchmarks.peers.store import Store
from benchmarks.rounds import medians, spread

Units = Mapping[str, Mapping[str, Any]]
BARE = ("bare_pool", "bare_processes", "bare_single")
LIMIT = "limit"


def report(contenders: Sequence[Contender], plan: Plan, store: Store) -> dict[str, Any]:
    """The result file, less its head."""
    units = store.all()
    models = [model for model in MODELS if any(key.startswith(f"round-0/{model}/") for key in units)]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": asdict(plan),
        "versions": {
            each.name: installed_versions() if each.name == CANDOR_NAME else pinned_versions(each.name)
            for each in contenders
        },
        "servers": {each.name: _described(each) for each in contenders},
        "models": {model: units[f"round-0/{model}/{LIMIT}"].get("bundle") for model in models if _has(units, model)},
        "summary": {model: summarise_model(units, model, contenders, plan.rounds) for model in models},
        "units": units,
    }


def _has(units: Units, model: str) -> bool:
    return f"round-0/{model}/{LIMIT}" in units


def _described(contender: Contender) -> dict[str, Any]:
    return {
        "label": contender.label,
        "package": contender.package,
        "advice": contender.advice,
        "setups": [asdict(setup) for setup in contender.setups],
    }


def summarise_model(units: Units, model: str, contenders: Sequence[Contender], rounds: int) -> dict[str, Any]:
    """What is said of each server with one model, and of the limit."""
    limits = {number: units.get(f"round-{number}/{model}/{LIMIT}", {}) for number in range(rounds)}
    found: dict[str, Any] = {}
    if done := [each for each in limits.values() if "bare_pool" in each]:
        found[LIMIT] = summarise_limit(done)
    for contender in contenders:
        own = {number: units.get(f"round-{number}/{model}/{contender.name}") for number in range(rounds)}
        present = {number: unit for number, unit in own.items() if unit is not None}
        if present:
            row = summarise_server(present, limits, found.get(LIMIT))
            if "setup" in row:
                row["cold_start_s"] = spread(_cold_starts(units, model, contender, row["setup"], present))
            found[contender.name] = row
            overload = units.get(f"overload/{model}/{contender.name}")
            if overload is not None:
                found[contender.name]["overload"] = dict(overload)
    return found


def _cold_starts(
    units: Units, model: str, contender: Contender, setup: str, rounds: Mapping[int, Mapping[str, Any]]
) -> list[float]:
    """Of every start of the setup; candor's first with a model has it tune itself, which may have been in a trial."""
    trials = [units.get(f"trial/{model}/{contender.name}/{number}", {}) for number in range(len(contender.setups))]
    return [
        unit["cold_start_s"]
        for unit in (*trials, *rounds.values())
        if unit.get("setup") == setup and "error" not in unit
    ]


def summarise_limit(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the bare loop that is faster, and of a lone image."""
    typical = {work: medians([each[work] for each in rounds]) for work in BARE}
    yardstick = max(BARE, key=lambda work: float(typical[work]["images_per_second"]))
    return {
        **typical[yardstick],
        "yardstick": yardstick,
        "lone_ms": typical["bare_single"]["latency_ms"],
        "session": rounds[0]["session"],
    }


def summarise_server(
    rounds: Mapping[int, Mapping[str, Any]],
    limits: Mapping[int, Mapping[str, Any]],
    limit: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Medians of a server's rounds, and its ratios to the limit; where no round succeeded, its error.

    `rounds` and `limits` are by the number of the round; ratios are of rounds of one number.
    """
    good = {number: unit for number, unit in rounds.items() if "error" not in unit}
    errors = [str(unit["error"]) for unit in rounds.values() if "error" in unit]
    if not good:
        return {"error": errors[0]}
    units = list(good.values())
    lone = medians([unit["lone"] for unit in units])
    row: dict[str, Any] = {
        "setup": units[0]["setup"],
        **medians([unit["many"] for unit in units]),
        "lone": lone,
        "open": {
            "rate": statistics.median(unit["open"]["rate"] for unit in units),
            "latency_ms": _median_latency([unit["open"]["latency_ms"] for unit in units]),
            "results": [unit["open"]["results"] for unit in units],
        },
        "peak_pss": max(unit[load]["peak_pss"] for unit in units for load in ("many", "lone", "open")),
        "peak_rss": max(unit[load]["peak_rss"] for unit in units for load in ("many", "lone", "open")),
        "least_cosine": min(unit["least_cosine"] for unit in units),
    }
    if errors:
        row["failed_rounds"] = errors
    if limit is None:
        return row
    yardstick = limit["yardstick"]
    pairs = [(unit["many"], limits[number][yardstick]) for number, unit in good.items() if yardstick in limits[number]]
    if pairs:
        row["throughput_over_limit"] = spread([a["images_per_second"] / b["images_per_second"] for a, b in pairs])
        row["cpu_over_limit"] = spread([a["cpu_ms_per_image"] / b["cpu_ms_per_image"] for a, b in pairs])
    row["lone_overhead_ms"] = lone["latency_ms"]["p50"] - limit["lone_ms"]["p50"]
    return row


def _median_latency(latencies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    known = [each for each in latencies if each]
    return {name: statistics.median(each[name] for each in known) for name in known[0]} if known else {}
