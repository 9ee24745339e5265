"""Items in one collection of Milvus, searched through an HNSW index, or exactly in one of two ways (nearest.py).

A write returns when it is in Milvus's log, so the death of the server or of this process loses nothing acknowledged.
How soon a read sees it is a choice, `Consistency`; what a write itself has to read is always read strongly.

Milvus has no ORDER BY, but a query with a limit gives the first items in order of primary key, so whatever runs over
many items goes through them in that order, one part after the other.
"""

import asyncio
import heapq
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Item, Match
from service.gallery.filters import Where
from service.gallery.milvus import nearest
from service.gallery.milvus.collection import ITEM_FIELDS, in_parts, to_item, to_record
from service.gallery.milvus.connection import Connection
from service.gallery.milvus.expressions import after, both, one_of, to_expression
from service.gallery.options import Consistency
from service.gallery.rows import Row

PART: Final = 16_384  # most rows that a query with a limit gives
ITEMS_PART: Final = 500  # with embeddings and payloads of 64 kB each, below the 64 MB of an answer
IDS_PER_STATEMENT: Final = 500
INDEX_POLL_S: Final = 0.5

Order = tuple[float, str]


class MilvusEngine:
    """`Engine` over one collection; made by `open_engine`.

    Args:
        connection: to the server, the collection there and loaded.
        consistency: of reads.
    """

    name = "milvus"
    approximate = True

    def __init__(self, connection: Connection, consistency: Consistency) -> None:
        self._connection = connection
        self._level = consistency.value.capitalize()

    async def close(self) -> None:
        """Let go of the connection; the collection stays loaded."""
        await self._connection.close()

    def check(self, row: Row) -> None:
        """Refuse a row that Milvus has no room for.

        Raises:
            ValueError: saying how long it is, and may be.
        """
        to_record(row)

    async def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are kept."""
        parts = [await self._query(one_of(part), ["id"], level="Strong") for part in _split(ids)]
        return {record["id"] for part in parts for record in part}

    async def commit(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        """Store rows, each in place of the one of its id, and delete ids.

        All at once as far as they fit one request each; with more, a failure may leave a part of them stored.
        """
        records = await asyncio.to_thread(lambda: [to_record(row) for row in rows])
        for part in in_parts(records):
            await self._connection.call("upsert", data=part)
        await self._delete(deleted)

    async def delete_where(self, where: Where) -> int:
        """Delete every item that passes; the number deleted: they are found first, as Milvus deletes by id."""
        deleted = 0
        async for part in self._sweep(to_expression(where), ["id"], level="Strong"):
            await self._delete([record["id"] for record in part])
            deleted += len(part)
        return deleted

    async def items(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids that are kept, in any order."""
        return [to_item(record) for part in _split(ids) for record in await self._query(one_of(part), ITEM_FIELDS)]

    async def count(self, where: Where) -> int:
        """Number of items that pass."""
        return await nearest.count(self._query, to_expression(where))

    async def page(self, limit: int, offset: int, where: Where) -> list[str]:
        """Ids of items that pass, from the least to the most uncertain, ties by id.

        Each part is read only as far as it can change the answer: up to the uncertainty of the last item so far.
        """
        best: list[Order] = []
        last, bound = None, math.inf
        while True:
            part = await self._query(
                both(to_expression(where, bound), after(last)), ["id", "uncertainty"], limit=PART
            )
            best = heapq.nsmallest(limit + offset, [*best, *((one["uncertainty"], one["id"]) for one in part)])
            if len(part) < PART:
                return [item_id for _, item_id in best[offset:]]
            last = part[-1]["id"]
            bound = best[-1][0] if len(best) == limit + offset else math.inf

    async def walk(self, after_id: str | None, limit: int) -> list[Item]:
        """The first `limit` items by id, of those that come after one id, or of all."""
        items: list[Item] = []
        while len(items) < limit:
            wanted = min(ITEMS_PART, limit - len(items))
            part = await self._query(after(items[-1].id if items else after_id), ITEM_FIELDS, limit=wanted)
            items += map(to_item, part)
            if len(part) < wanted:
                break
        return items

    async def nearest(
        self, unit: NDArray[np.float32], limit: int, where: Where, max_uncertainty: float, *, exact: bool
    ) -> list[Match]:
        """The `limit` items nearest to a unit (D,) vector that pass and are no more uncertain; in any order."""
        if max_uncertainty == -math.inf:
            return []
        expression = to_expression(where, max_uncertainty)
        if not exact:
            return await nearest.through_index(self._search, unit, limit, expression)
        if await nearest.count(self._query, expression) > nearest.FEW:
            return await nearest.in_buckets(self._search, unit, limit, expression)
        found = [record async for part in self._sweep(expression, ITEM_FIELDS, ITEMS_PART) for record in part]
        return await asyncio.to_thread(nearest.among, found, unit, limit)

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        async for part in self._sweep("", ["id", "uncertainty"]):
            yield [(record["id"], record["uncertainty"]) for record in part]

    async def maintain(self) -> None:
        """Seal what came since the last time, and wait until it is in the index."""
        await self._connection.call("flush")
        while True:
            state = await self._connection.call("describe_index", index_name="embedding")
            if state["state"] == "Finished" and not state["pending_index_rows"]:
                return
            await asyncio.sleep(INDEX_POLL_S)

    async def _delete(self, ids: Sequence[str]) -> None:
        for part in _split(ids):
            await self._connection.call("delete", filter=one_of(part))

    async def _sweep(
        self, expression: str, fields: list[str], size: int = PART, level: str | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """What an expression holds for, in parts, in order of id."""
        last: str | None = None
        while True:
            part = await self._query(both(expression, after(last)), fields, limit=size, level=level)
            if part:
                yield part
            if len(part) < size:
                return
            last = part[-1]["id"]

    async def _query(
        self, expression: str, fields: list[str], *, limit: int | None = None, level: str | None = None
    ) -> list[dict[str, Any]]:
        bound = {} if limit is None else {"limit": limit}
        found = await self._connection.call(
            "query", filter=expression, output_fields=fields, consistency_level=level or self._level, **bound
        )
        return list(found)

    async def _search(self, **arguments: Any) -> list[dict[str, Any]]:
        found = await self._connection.call("search", consistency_level=self._level, **arguments)
        return list(found[0])


def _split(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT)]
