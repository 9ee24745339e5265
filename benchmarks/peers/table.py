"""The result as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.catalogue import CANDOR_NAME
from benchmarks.peers.plan import CONCURRENCIES, IMAGES_IN_FLIGHT, IMAGES_PER_REQUEST, LARGE, LARGE_CONCURRENCY, SIZES
from benchmarks.peers.report import LIMIT

MIB = 2**20
CELL = "img/s (CPU ms/img, p99 ms of a request)"


def as_markdown(result: Mapping[str, Any]) -> str:
    """Tables of speed by model, of overload, of growth, and of how each server was set up."""
    parts = [_head(result)]
    for model, rows in result["summary"].items():
        parts += [f"### {model}", _speed(result, model, rows)]
    parts += [part for part in (_overload(result), *_growth(result)) if part]
    parts += ["### Setups", _setups(result)]
    return "\n\n".join(parts)


def _head(result: Mapping[str, Any]) -> str:
    machine, plan = result["machine"], result["plan"]
    others = [
        unit[load]["other_cores"]
        for unit in result["units"].values()
        for load in ("many", "lone")
        if load in unit and "other_cores" in unit[load]
    ]
    return (
        f"`{result['command']}`, {result['created']}, {machine['processor']}, {machine['usable_cores']} cores, client "
        f"on the same cores; medians of {plan['rounds']} rounds, other work up to {max(others, default=0.0):.2f} "
        f"cores. {result['photos']['count']} photos; `x limit` is relative to a bare loop of decode and session in the "
        f"same round. Open loop: Poisson arrivals at {100 * plan['open_share']:.0f} % of the server's own capacity. "
        "MiB: the peak proportional set size of the process tree."
        f"{measured_apart(result)}"
    )


def measured_apart(result: Mapping[str, Any]) -> str:
    """Who was measured before a change of the code, and not again after it."""
    latest = next(
        (each.get("sources") for key, each in result["units"].items() if key.endswith(f"/{CANDOR_NAME}")), None
    )
    apart = {
        name
        for key, unit in result["units"].items()
        for name in key.split("/")
        if name in result["servers"] and unit.get("sources") != latest
    }
    if not apart:
        return ""
    labels = ", ".join(result["servers"][name]["label"] for name in sorted(apart))
    return f" Measured before changes that do not concern them, and not again after those: {labels}."


def _speed(result: Mapping[str, Any], model: str, rows: Mapping[str, Any]) -> str:
    count = result["plan"]["concurrency"]
    columns = [
        "",
        "img/s",
        "x limit",
        "CPU ms/img",
        "x limit",
        f"p50 / p95 / p99 ms at {count}",
        "p50 ms alone",
        "open loop p50 / p99 ms",
        "MiB",
        "cold start s, least (most)",
    ]
    lines = []
    for name, row in rows.items():
        if name == LIMIT:
            alone = f"{row['lone_ms']['p50']:.1f}"
            numbers = [f"{row['images_per_second']:.1f}", "1", f"{row['cpu_ms_per_image']:.2f}", "1"]
            lines.append([f"limit ({row['yardstick']})", *numbers, "", alone, "", "", ""])
        elif "error" in row:
            lines.append([result["servers"][name]["label"], f"failed: {_one_line(row['error'])}", *[""] * 8])
        else:
            lines.append([result["servers"][name]["label"], *_numbers(row)])
    return _markdown(columns, lines)


def _numbers(row: Mapping[str, Any]) -> list[str]:
    ratio = {
        name: f"{row[name]['median']:.2f}" if name in row else ""
        for name in ("throughput_over_limit", "cpu_over_limit")
    }
    return [
        f"{row['images_per_second']:.1f}",
        ratio["throughput_over_limit"],
        f"{row['cpu_ms_per_image']:.2f}",
        ratio["cpu_over_limit"],
        _latencies(row["latency_ms"], "p50", "p95", "p99"),
        f"{row['lone']['latency_ms']['p50']:.1f}",
        _latencies(row["open"]["latency_ms"], "p50", "p99"),
        f"{row['peak_pss'] / MIB:.0f}",
        f"{row['cold_start_s']['min']:.1f} ({row['cold_start_s']['max']:.1f})",
    ]


def _overload(result: Mapping[str, Any]) -> str:
    lines = []
    for model, rows in result["summary"].items():
        for name, row in rows.items():
            if "overload" not in row:
                continue
            found, label = row["overload"], result["servers"][name]["label"]
            if "error" in found:
                lines.append([model, label, f"failed: {_one_line(found['error'])}", *[""] * 5])
                continue
            results = ", ".join(f"{kind}: {count}" for kind, count in found["results"].items())
            share = f"{found['goodput_over_capacity']:.2f}"
            p99 = f"{found['latency_ms']['p99']:.0f}" if found["latency_ms"] else ""
            alive = "yes" if found["alive"] else "died"
            lines.append(
                [model, label, f"{found['rate']:.0f}", results, share, p99, f"{found['peak_pss'] / MIB:.0f}", alive]
            )
    if not lines:
        return ""
    plan = result["plan"]
    title = (
        f"### Overload\n\n{plan['overload_factor']:g} x each server's own capacity for {plan['overload_s']:g} s; "
        f"clients give up after {plan['patience_s']:g} s."
    )
    columns = ["model", "", "offered /s", "results", "goodput / capacity", "p99 ms of 200s", "MiB", "alive"]
    return f"{title}\n\n{_markdown(columns, lines)}"


def _growth(result: Mapping[str, Any]) -> list[str]:
    found = {name: result["units"].get(f"growth/{name}", {}) for name in result["servers"]}
    good = {name: unit for name, unit in found.items() if "sizes" in unit}
    parts = []
    if good:
        sizes = [[_label(result, name), *(_rate(unit["sizes"][size]) for size in SIZES)] for name, unit in good.items()]
        counts = [
            [_label(result, name), *(_rate(unit["concurrency"][str(count)]) for count in CONCURRENCIES)]
            for name, unit in good.items()
        ]
        parts += [
            f"### As images grow\n\nDefault bundle; {LARGE} at {LARGE_CONCURRENCY} connections; {CELL}.\n\n"
            + _markdown(["", *SIZES], sizes),
            f"### As connections grow\n\nDefault bundle; {CELL}.\n\n"
            + _markdown(["", *map(str, CONCURRENCIES)], counts),
        ]
    several = result["units"].get("images-per-request/candor", {})
    known = [str(count) for count in IMAGES_PER_REQUEST if str(count) in several]
    if known:
        parts.append(
            f"### As requests grow\n\ncandor, default bundle, multipart, {IMAGES_IN_FLIGHT} images in flight; "
            f"{CELL}.\n\n"
            + _markdown(["images per request", *known], [["candor", *(_rate(several[count]) for count in known)]])
        )
    return parts


def _setups(result: Mapping[str, Any]) -> str:
    lines = []
    for name, server in result["servers"].items():
        version = result["versions"][name].get(server["package"], "")
        kept = [
            f"{model}: {row[name]['setup']}" for model, row in result["summary"].items() if "setup" in row.get(name, {})
        ]
        lines.append([server["label"], version, server["advice"], "; ".join(kept)])
    return _markdown(["", "version", "as documented", "kept"], lines)


def _label(result: Mapping[str, Any], name: str) -> str:
    label: str = result["servers"][name]["label"]
    return label


def _rate(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return "failed"
    p99 = row["latency_ms"]["p99"]
    return f"{row['images_per_second']:.1f} ({row['cpu_ms_per_image']:.2f}, {p99:.0f})"


def _latencies(latency_ms: Mapping[str, float], *names: str) -> str:
    return " / ".join(f"{latency_ms[name]:.1f}" for name in names) if latency_ms else ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])
