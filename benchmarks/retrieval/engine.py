"""The gallery's engine called directly, without HTTP: through candor's own gallery, and as LanceDB's own query."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lancedb
import uvloop

from benchmarks.cpu_time import metered
from benchmarks.retrieval.corpus_files import read_corpus
from benchmarks.retrieval.data import Condition, K, Vectors
from benchmarks.retrieval.filling import BY_HAND
from benchmarks.retrieval.measure import memory_mib, search_figures
from benchmarks.retrieval.wire import row_of
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter
from service.gallery.lance.engine import EF_SEARCH, REFINE_FACTOR, LanceOptions, open_lance_engine
from service.gallery.lance.sql import literal, to_sql
from service.gallery.lance.table import MATCH_COLUMNS, TABLE

Way = Literal["gallery", "lancedb"]
Search = Callable[[Vectors], Awaitable[list[str]]]
WARM_UP = 100  # queries


@dataclass(frozen=True)
class EngineTask:
    """What one process does with a gallery's folder: searches of one kind, so many at a time, for that long."""

    way: Way
    folder: Path
    bundle_hash: str
    corpus_folder: Path
    condition: Condition
    concurrency: int
    seconds: float


def engine_round(task: EngineTask) -> dict[str, Any]:
    """Search in this process: the figures of `search_figures`, and this process's memory."""
    files = read_corpus(task.corpus_folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the loop that the server runs on
        opened = _OPENERS[task.way](task, files.corpus.dimension)
        search = runner.run(opened.__aenter__())
        runner.run(_warm_up(search, files.queries))
        (latencies, found), usage = metered(lambda: runner.run(_search_all(search, files.queries, task)), os.getpid())
        memory = memory_mib(os.getpid())
        runner.run(opened.__aexit__(None, None, None))
    rows = {position: [row_of(name) for name in names] for position, names in found.items()}
    return {**search_figures(latencies, usage, rows, files.truth[task.condition.name]), "memory_mib": memory}


@asynccontextmanager
async def _candor_gallery(task: EngineTask, dimension: int) -> AsyncIterator[Search]:
    engine = await open_lance_engine(
        str(task.folder), dimension=dimension, bundle_hash=task.bundle_hash, options=LanceOptions(upkeep=BY_HAND)
    )
    gallery = CheckedGallery(engine, dimension)

    async def search(query: Vectors) -> list[str]:
        condition = task.condition
        found = await gallery.search(query, K, where=condition.where or None, max_uncertainty=condition.max_uncertainty)
        return [match.id for match in found.matches]

    try:
        yield search
    finally:
        await gallery.close()


@asynccontextmanager
async def _lancedb_table(task: EngineTask, dimension: int) -> AsyncIterator[Search]:
    """LanceDB as its users call it, with the effort that candor asks of it; one query, filters before the search."""
    connection = await lancedb.connect_async(str(task.folder))
    table = await connection.open_table(TABLE)
    sql = _sql(task.condition)

    async def search(query: Vectors) -> list[str]:
        nearest = table.query().nearest_to(query).distance_type("cosine").limit(K)
        nearest = nearest.ef(EF_SEARCH).refine_factor(REFINE_FACTOR)
        found = await (nearest.where(sql) if sql else nearest).select(MATCH_COLUMNS).to_arrow()
        return [record["id"] for record in found.to_pylist()]

    yield search
    table.close()


_OPENERS = {"gallery": _candor_gallery, "lancedb": _lancedb_table}


def _sql(condition: Condition) -> str | None:
    bound = condition.max_uncertainty
    parts = (to_sql(parse_filter(condition.where)), None if bound is None else f"uncertainty <= {literal(bound)}")
    return " AND ".join(part for part in parts if part) or None


async def _warm_up(search: Search, queries: Vectors) -> None:
    for query in queries[:WARM_UP]:
        await search(query)


async def _search_all(search: Search, queries: Vectors, task: EngineTask) -> tuple[list[float], dict[int, list[str]]]:
    """Latencies in seconds, and the ids that each query found, by its position."""
    latencies: list[float] = []
    found: dict[int, list[str]] = {}
    positions, ends = itertools.cycle(range(len(queries))), time.perf_counter() + task.seconds

    async def one_after_another(taken: Iterator[int]) -> None:
        for position in taken:
            started = time.perf_counter()
            found[position] = await search(queries[position])
            now = time.perf_counter()
            latencies.append(now - started)
            if now >= ends:
                return

    await asyncio.gather(*(one_after_another(positions) for _ in range(task.concurrency)))
    return latencies, found
