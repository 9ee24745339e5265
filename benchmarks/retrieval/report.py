"""The result as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.retrieval.data import CONDITIONS

LIBRARIES = ("candor", "lancedb", "pyarrow", "numpy", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "pydantic")
TITLES = {condition.name: condition.title for condition in CONDITIONS}
PHASES = {
    "quiet": "nothing beside",
    "writes": "writes and upkeep beside",
    "index_build": "writes and the first index's build beside",
}
Row = Sequence[object]


def as_markdown(result: Mapping[str, Any]) -> str:
    """The tables."""
    plan, machine = result["plan"], result["machine"]
    return "\n".join(
        [
            f"`{result['command']}`, {result['created'][:10]}: {plan['rows']:,} items of {plan['dimension']} "
            f"dimensions, the 10 nearest with their payloads; {machine['processor']}, {machine['usable_cores']} cores, "
            f"LanceDB {result['versions'].get('lancedb')}. Medians of {plan['rounds']} rounds of "
            f"{plan['seconds']:g} s in which the three take turns. Overhead is p50 over HTTP less p50 of candor's "
            "gallery in process.",
            "",
            "### Over HTTP and in process",
            "",
            *_overhead_table(result["overhead"]),
            "",
            "### While writes and index upkeep run beside",
            "",
            *_beside_table(result["beside"]),
            "",
            "A probe asks `/healthz` 100 times a second; control is the same probe of an idle server on this machine.",
            "",
            "### Engines called directly",
            "",
            *_peer_tables(result),
            "",
            "### As the gallery grows",
            "",
            *_growth_table(result["growth"]),
            "",
        ]
    )


def _overhead_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = ["search", "at a time", "HTTP p50 / p95 / p99 ms", "gallery p50 / p99", "LanceDB p50 / p99", "overhead ms"]
    heads += ["queries/s: HTTP", "gallery", "CPU ms: server", "gallery", "recall@10: HTTP", "LanceDB"]
    return _table(heads, [_overhead_row(row) for row in rows])


def _overhead_row(row: Mapping[str, Any]) -> Row:
    http, gallery, lance, added = (row[name] for name in ("http", "gallery", "lancedb", "overhead_ms"))
    spelling = ", as numbers" if row["encoding"] == "float" else ""
    return (
        TITLES[row["condition"]] + spelling,
        row["concurrency"],
        _ms(http, "p50", "p95", "p99"),
        _ms(gallery, "p50", "p99"),
        _ms(lance, "p50", "p99"),
        f"{added['median']:.2f} ({added['min']:.2f} to {added['max']:.2f})",
        *(f"{each['queries_per_second']:.0f}" for each in (http, gallery)),
        *(f"{each['cpu_ms_per_query']:.2f}" for each in (http, gallery)),
        *(f"{each['recall_at_10']:.3f}" for each in (http, lance)),
    )


def _beside_table(phases: Mapping[str, Any]) -> list[str]:
    heads = ["", "search p50 / p99 / max ms", "recall@10", "`/healthz` p99 / max ms", "control p99 / max ms"]
    heads += ["items written/s", "upsert p50 / p99 / max ms", "refused", "rows not indexed at the end"]
    return _table(heads, [_beside_row(title, phases[name]) for name, title in PHASES.items()])


def _beside_row(title: str, phase: Mapping[str, Any]) -> Row:
    writes = phase.get("writes")
    return (
        title,
        _ms(phase["search"], "p50", "p99", "max"),
        f"{phase['search']['recall_at_10']:.3f}",
        _ms(phase["probe"], "p99", "max"),
        _ms(phase["control"], "p99", "max"),
        f"{writes['items_per_second']:.0f}" if writes else "",
        _ms(writes, "p50", "p99", "max") if writes else "",
        sum(writes["refused"].values()) if writes else "",
        "all" if phase["unindexed_rows_at_end"] is None else phase["unindexed_rows_at_end"],
    )


def engines(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The engines called directly, candor's first: figures of each and its conditions, or why there are none."""
    alone = {
        row["condition"]: row["gallery"]
        for row in result["overhead"]
        if row["concurrency"] == 1 and row["encoding"] == "base64"
    }
    size = next(each for each in result["growth"] if each["rows"] == result["plan"]["rows"])
    own = {
        "name": "candor's gallery (LanceDB)",
        "version": result["versions"].get("lancedb"),
        "memory_mib": alone["none"]["memory_mib"],
        "conditions": alone,
        **{name: size[name] for name in ("fill_rows_per_second", "index_build_s", "disk_mib")},
    }
    return [own, *result["peers"]]


def _peer_tables(result: Mapping[str, Any]) -> list[str]:
    there = [each for each in engines(result) if "unavailable" not in each]
    heads = ["p50 / p99 ms, recall@10", *(each["name"] for each in there)]
    rows = [[title, *(_searched(each["conditions"].get(name)) for each in there)] for name, title in TITLES.items()]
    facts = {
        "version": "version",
        "fill_rows_per_second": "rows filled/s",
        "index_build_s": "index s",
        "disk_mib": "disk MiB",
        "memory_mib": "memory MiB",
    }
    rows += [[title, *(_plain(each.get(name)) for each in there)] for name, title in facts.items()]
    missing = [f"Not measured: {each['name']}, {each['unavailable']}" for each in result["peers"] if each not in there]
    return [*_table(heads, rows), *(line for reason in missing for line in ("", reason))]


def _searched(figures: Mapping[str, Any] | None) -> str:
    return f"{_ms(figures, 'p50', 'p99')}, {figures['recall_at_10']:.3f}" if figures else ""


def _growth_table(sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = [
        "items",
        "dimensions",
        "p50 / p99 ms",
        "p50 / p99 ms, 16 at a time",
        "queries/s, 16 at a time",
        "recall@10",
    ]
    heads += ["rows filled/s", "index s", "disk MiB", "server MiB"]
    return _table(heads, [_growth_row(each) for each in sizes])


def _growth_row(size: Mapping[str, Any]) -> Row:
    alone, many = size["concurrency"]["1"], size["concurrency"]["16"]
    return (
        f"{size['rows']:,}",
        size["dimension"],
        _ms(alone, "p50", "p99"),
        _ms(many, "p50", "p99"),
        f"{many['queries_per_second']:.0f}",
        f"{alone['recall_at_10']:.3f}",
        *(_plain(size[name]) for name in ("fill_rows_per_second", "index_build_s", "disk_mib", "server_memory_mib")),
    )


def _table(heads: Sequence[str], rows: Iterable[Row]) -> list[str]:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _ms(figures: Mapping[str, Any], *names: str) -> str:
    return " / ".join(f"{figures['latency_ms'][name]:.2f}" for name in names)


def _plain(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value or "")
