"""Items in one collection of Milvus, searched through an HNSW index, or exactly in one of two ways (nearest.py).

A write returns when it is in Milvus's log, so the death of the server or of this process loses nothing acknowledged.
How soon a read sees it is a choice, `Consistency`; what a write itself has to read is always read strongly.

Milvus has no ORDER BY, but a query with a limit gives the first items in order of primary key, so whatever runs over
many items goes through them in that order, one part after the other.
"""

import asyncio
import heapq
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import GalleryError, Item, Match
from service.gallery.filters import Where
from service.gallery.milvus import nearest
from service.gallery.milvus.collection import ITEM_FIELDS, MATCH_FIELDS, in_parts, to_item, to_match, to_record
from service.gallery.milvus.connection import Connection
from service.gallery.milvus.expressions import beyond, both, one_of, to_expression
from service.gallery.milvus.nearest import Scored
from service.gallery.options import Consistency
from service.gallery.rows import Row

logger = logging.getLogger(__name__)

PART: Final = 16_384  # most rows that a query with a limit gives
ITEMS_PART: Final = 500  # with embeddings and payloads of 64 kB each, below the 64 MB of an answer
IDS_PER_STATEMENT: Final = 500
SEAL_FROM: Final = 1024  # rows that this process wrote since it last had any sealed
INDEX_POLL_S: Final = 0.5
DELETE_SETTLES_S: Final = 30.0

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
        self._consistency = consistency
        self._deleted_at = -math.inf
        self._unsealed = 0  # rows of this process, since the last time
        self._sealing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Let go of the connection; the collection stays loaded."""
        if self._sealing is not None:
            self._sealing.cancel()
            await asyncio.wait([self._sealing])
        await self._connection.close()

    def check(self, row: Row) -> None:
        """Refuse a row that Milvus has no room for.

        Raises:
            NoRoom: saying how long it is, and may be.
        """
        to_record(row)

    async def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are kept."""
        parts = [await self._query(one_of(part), ["id"], level=Consistency.STRONG) for part in _split(ids)]
        return {record["id"] for part in parts for record in part}

    async def commit(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        """Store rows, each in place of the one of its id, and delete ids.

        All at once as far as they fit one request each; with more, a failure may leave a part of them stored.
        """
        records = await asyncio.to_thread(lambda: [to_record(row) for row in rows])
        for part in in_parts(records):
            await self._connection.call("upsert", data=part)
        await self._delete(deleted)
        self._seal_in_time(len(records))

    async def delete_where(self, where: Where) -> int:
        """Delete every item that passes; the number deleted: they are found first, as Milvus deletes by id."""
        deleted = 0
        async for part in self._sweep(to_expression(where), ["id"], level=Consistency.STRONG):
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
            part = await self._query(both(to_expression(where, bound), beyond(last)), ["id", "uncertainty"], limit=PART)
            best = heapq.nsmallest(limit + offset, [*best, *((one["uncertainty"], one["id"]) for one in part)])
            if len(part) < PART:
                return [item_id for _, item_id in best[offset:]]
            last = part[-1]["id"]
            bound = best[-1][0] if len(best) == limit + offset else math.inf

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items by id, of those that come after one id, or of all."""
        items: list[Item] = []
        while len(items) < limit:
            wanted = min(ITEMS_PART, limit - len(items))
            part = await self._query(beyond(items[-1].id if items else after), ITEM_FIELDS, limit=wanted)
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
            return await nearest.through_index(self._query, self._search, unit, limit, expression)
        if await nearest.count(self._query, expression) > nearest.FEW and await self._settled():
            return await self._matches(await nearest.in_buckets(self._search, unit, limit, expression))
        return await self._matches(await self._compare(unit, limit, expression))

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        async for part in self._sweep("", ["id", "uncertainty"]):
            yield [(record["id"], record["uncertainty"]) for record in part]

    async def maintain(self) -> None:
        """Seal what came since the last time, and wait until its graph is built and loaded."""
        await self._connection.call("flush")
        while not await self._indexed():  # noqa: ASYNC110 - it happens in the server
            await asyncio.sleep(INDEX_POLL_S)

    async def _indexed(self) -> bool:
        index = await self._connection.call("describe_index", index_name="embedding")
        return not index["pending_index_rows"] and await self._settled()

    async def _settled(self) -> bool:
        return await nearest.settled(self._query, self._connection.loaded_segments())

    async def _compare(self, unit: NDArray[np.float32], limit: int, expression: str) -> list[Scored]:
        """The nearest items, every embedding compared here."""
        best: list[Scored] = []
        async for part in self._sweep(expression, ["id", "embedding"], nearest.FEW):
            best = await asyncio.to_thread(nearest.best_of, part, unit, limit, best)
        return best

    async def _matches(self, scored: Sequence[Scored]) -> list[Match]:
        scores = {item_id: score for score, item_id in scored}
        found = [await self._query(one_of(part), MATCH_FIELDS) for part in _split(list(scores))]
        return [to_match(scores[record["id"]], record) for records in found for record in records]

    def _seal_in_time(self, rows: int) -> None:
        """Have rows sealed before they are so many that Milvus stops comparing them all."""
        self._unsealed += rows
        if self._unsealed >= SEAL_FROM and (self._sealing is None or self._sealing.done()):
            self._sealing = asyncio.create_task(self._seal())

    async def _seal(self) -> None:
        while self._unsealed >= SEAL_FROM:
            self._unsealed = 0
            try:
                await self._connection.call("flush")
            except GalleryError as error:
                logger.warning("sealing put off: %s", error)

    async def _delete(self, ids: Sequence[str]) -> None:
        for part in _split(ids):
            self._deleted_at = time.monotonic()
            await self._connection.call("delete", filter=one_of(part))
            self._deleted_at = time.monotonic()

    @property
    def _level(self) -> Consistency:
        """Of a read: strong for a while after a delete, as Milvus 2.3 does not count it among what a session wrote."""
        recent = time.monotonic() - self._deleted_at < DELETE_SETTLES_S
        return Consistency.STRONG if recent and self._consistency is Consistency.SESSION else self._consistency

    async def _sweep(
        self, expression: str, fields: list[str], size: int = PART, level: Consistency | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """What an expression holds for, in parts, in order of id."""
        last: str | None = None
        while True:
            part = await self._query(both(expression, beyond(last)), fields, limit=size, level=level)
            if part:
                yield part
            if len(part) < size:
                return
            last = part[-1]["id"]

    async def _query(
        self, expression: str, fields: list[str], *, level: Consistency | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        found = await self._connection.call(
            "query",
            filter=expression,
            output_fields=fields,
            consistency_level=(level or self._level).capitalize(),
            **options,
        )
        return list(found)

    async def _search(self, **arguments: Any) -> list[dict[str, Any]]:
        found = await self._connection.call("search", consistency_level=self._level.capitalize(), **arguments)
        return list(found[0])


def _split(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT)]
