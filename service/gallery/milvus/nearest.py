"""The nearest items in Milvus: through its index, or exactly.

Where a filter leaves less than 7 % of a segment, Milvus compares every vector that is left, instead of walking its
graph, where it would miss many. So a search with a filter that fewer than half of the items pass is made in parts at
once, each of so few items, and an exact one in `EXACT_PARTS`, which misses none (2.3.5: measured).

That holds for rows that are in a graph. Those that are not yet are compared one by one while they are few (`SMALL`);
of more, Milvus looks into some cells only. An exact search then compares everything here, which takes long (`settled`).
One of few items does so at any time.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Match
from service.gallery.milvus.collection import MATCH_FIELDS, bucket_ranges, to_match
from service.gallery.milvus.expressions import both
from service.gallery.options import Consistency

FEW: Final = 4096  # items that an exact search compares here
SMALL: Final = 2000  # rows in no graph that Milvus compares one by one: it does so below 2048
EF_SEARCH: Final = 512
MAX_EF: Final = 32_768
EXACT_PARTS: Final = 32
COMPARED: Final = 0.05  # of the items: of so few in every segment, more or less, Milvus compares them all
GRAPH_FROM: Final = 0.5  # of the items: where more pass, the graph finds nearly all of the nearest

Records = list[dict[str, Any]]
Query = Callable[..., Awaitable[Records]]
Scored = tuple[float, str]


async def count(query: Query, expression: str, **options: Any) -> int:
    """Number of items an expression holds for."""
    return int((await query(expression, ["count(*)"], **options))[0]["count(*)"])


async def through_index(
    query: Query, search: Query, unit: NDArray[np.float32], limit: int, expression: str
) -> list[Match]:
    """The nearest items, of which some may be missed."""
    parts = await _parts(query, expression) if expression else 1
    hits = await _in_parts(search, unit, limit, expression, parts, MATCH_FIELDS)
    return [to_match(hit["distance"], hit["entity"]) for hit in hits]


async def _parts(query: Query, expression: str) -> int:
    """In how many parts to search, by the share of items that pass: as it was lately, which waits for nothing."""
    passing, everything = await asyncio.gather(
        *(count(query, one, level=Consistency.BOUNDED) for one in (expression, ""))
    )
    if passing > GRAPH_FROM * everything:
        return 1
    return next((parts for parts in (1, 2, 4, 8) if passing <= COMPARED * everything * parts), 16)


async def in_buckets(search: Query, unit: NDArray[np.float32], limit: int, expression: str) -> list[Scored]:
    """The nearest items, none missed where `settled`."""
    hits = await _in_parts(search, unit, limit, expression, EXACT_PARTS, ["id"])
    return [(hit["distance"], hit["id"]) for hit in hits]


async def _in_parts(
    search: Query, unit: NDArray[np.float32], limit: int, expression: str, parts: int, fields: list[str]
) -> list[dict[str, Any]]:
    arguments = {
        "data": [unit],
        "limit": limit,
        "output_fields": fields,
        "search_params": {"metric_type": "COSINE", "params": {"ef": min(MAX_EF, max(EF_SEARCH, 2 * limit))}},
    }
    searches = [search(filter=both(expression, part), **arguments) for part in bucket_ranges(parts)]
    return heapq.nlargest(
        limit, (hit for part in await asyncio.gather(*searches) for hit in part), key=itemgetter("distance")
    )


def best_of(
    records: Sequence[Mapping[str, Any]], unit: NDArray[np.float32], limit: int, others: Sequence[Scored]
) -> list[Scored]:
    """The nearest of these records, compared in float64, and of others already scored."""
    matrix = np.array([record["embedding"] for record in records], dtype=np.float64)  # (n, D)
    query = unit.astype(np.float64)
    scores = matrix @ query / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    scored = zip(scores.tolist(), (record["id"] for record in records), strict=True)
    return heapq.nlargest(limit, [*others, *scored])


async def settled(query: Query, segments: Awaitable[Sequence[Any]]) -> bool:
    """Whether every row is in a graph, or one of so few that Milvus compares them all.

    Rows are in no graph while their segment grows, and until the graph of a sealed one is built and loaded.
    """
    everything, sealed, loaded = await asyncio.gather(count(query, ""), count(query, "", ignore_growing=True), segments)
    every_segment_listed = sealed <= sum(one.num_rows for one in loaded)
    in_graphs = all(one.index_id or one.num_rows < SMALL for one in loaded)
    return everything - sealed < SMALL and every_segment_listed and in_graphs
