"""The nearest items in Milvus: through its index, or exactly.

An exact search of few items compares their embeddings here. One of many is left to Milvus, in `BUCKETS` searches for
everything above a score that all are above, among about 1 in `BUCKETS` items each: where a filter leaves so few of a
segment, Milvus compares every vector that is left instead of walking its graph, and among rows that are not in a graph
yet it visits every cell instead of a few. What neither holds for is a segment that is sealed and whose graph is not
built and loaded yet (`settled`); then everything is compared here, which takes long.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Match
from service.gallery.milvus.collection import BUCKETS, MATCH_FIELDS, to_match
from service.gallery.milvus.expressions import both

FEW: Final = 4096
EF_SEARCH: Final = 512
MAX_EF: Final = 32_768
BELOW_EVERY_SCORE: Final = -1.01

Records = list[dict[str, Any]]
Query = Callable[..., Awaitable[Records]]


async def count(query: Query, expression: str) -> int:
    """Number of items an expression holds for."""
    return int((await query(expression, ["count(*)"]))[0]["count(*)"])


async def through_index(search: Query, unit: NDArray[np.float32], limit: int, expression: str) -> list[Match]:
    """The nearest items, of which some may be missed."""
    ef = min(MAX_EF, max(EF_SEARCH, 2 * limit))
    return [_match(hit) for hit in await search(**_arguments(unit, limit, expression, {"ef": ef}))]


async def in_buckets(search: Query, unit: NDArray[np.float32], limit: int, expression: str) -> list[Match]:
    """The nearest items, none missed, each bucket searched for itself."""
    everything = {"ef": min(MAX_EF, max(EF_SEARCH, limit)), "radius": BELOW_EVERY_SCORE}
    parts = await asyncio.gather(
        *(
            search(**_arguments(unit, limit, both(expression, f"bucket == {number}"), everything))
            for number in range(BUCKETS)
        )
    )
    hits = (hit for part in parts for hit in part)
    return [_match(hit) for hit in heapq.nlargest(limit, hits, key=lambda hit: hit["distance"])]


def among(records: Sequence[Mapping[str, Any]], unit: NDArray[np.float32], limit: int) -> list[Match]:
    """The nearest of these records of `ITEM_FIELDS`, in float64."""
    if not records:
        return []
    matrix = np.array([record["embedding"] for record in records], dtype=np.float64)  # (n, D)
    query = unit.astype(np.float64)
    scores = matrix @ query / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    best = np.argsort(-scores, kind="stable")[:limit]
    return [to_match(float(scores[n]), records[n]) for n in best]


def _arguments(unit: NDArray[np.float32], limit: int, expression: str, params: Mapping[str, float]) -> dict[str, Any]:
    return {
        "data": [unit],
        "filter": expression,
        "limit": limit,
        "output_fields": MATCH_FIELDS,
        "search_params": {"metric_type": "COSINE", "params": dict(params)},
    }


def _match(hit: Mapping[str, Any]) -> Match:
    return to_match(hit["distance"], hit["entity"])
