"""Items in one table of PostgreSQL, searched exactly until an index pays.

Each commit is one transaction, on disk before it is acknowledged. Any number of processes may write: rows are locked in
order of id, and what still gets into each other's way is tried again.

Searches are exact scans until `Upkeep.index_from_rows`, then go through pgvector's HNSW index. It holds the embeddings
at half precision: smaller, and the only kind that takes more than 2,000 dimensions. A search takes more items from it
than it needs, and ranks them by the embeddings themselves. pgvector's `relaxed_order` then finds more than
`strict_order`, which drops what comes out of order when a filter makes it look further.
"""

import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Item, Match
from service.gallery.filters import Where
from service.gallery.postgresql.address import Address
from service.gallery.postgresql.connections import PLAN_EACH, Connections
from service.gallery.postgresql.maintenance import Maintenance, Upkeep
from service.gallery.postgresql.sql import Sql, quote, to_sql
from service.gallery.postgresql.table import COLUMNS, ITEM_COLUMNS, to_item, to_match, to_record
from service.gallery.rows import Row

MIN_EF_SEARCH: Final = 200
MAX_EF_SEARCH: Final = 1000  # pgvector's; for more items it goes on by itself
REFINE_FACTOR: Final = 4
MOST_MORE: Final = 300  # items beyond the limit
INDEX_SETTINGS: Final = (
    "SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.max_scan_tuples = 20000; "
    "SET LOCAL hnsw.scan_mem_multiplier = 4; SET LOCAL hnsw.ef_search = "
)
SCAN_PART: Final = 10_000


class PostgresEngine:
    """`Engine` over one table; made by `open_postgres_engine`."""

    name = "postgresql"

    def __init__(self, connections: Connections, address: Address, table: str, dimension: int, upkeep: Upkeep) -> None:
        self._connections = connections
        self._maintenance = Maintenance(connections, address, table, dimension, upkeep)
        self._table = quote(table)
        self._dimension = dimension

    async def start(self) -> None:
        """Begin background upkeep."""
        await self._maintenance.start()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._maintenance.close()
        await self._connections.close()

    @property
    def approximate(self) -> bool:
        """Whether there is an index to search through."""
        return self._maintenance.indexed

    async def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are kept."""
        sql = f"SELECT id FROM {self._table} WHERE id = ANY($1::text[])"
        return {record["id"] for record in await self._connections.fetch(sql, list(ids))}

    async def commit(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        """Store rows, each in place of the one of its id, and delete ids."""
        records = [to_record(row) for row in sorted(rows, key=lambda row: row.id)]

        async def change(connection: Any) -> None:
            if deleted:
                await connection.execute(self._delete_sql(), list(deleted))
            if records:
                await connection.executemany(self._upsert_sql(), records)

        await self._connections.write(change)

    async def delete_where(self, where: Where) -> int:
        """Delete every item that passes; the number deleted."""
        sql = to_sql(where)

        async def change(connection: Any) -> int:
            await connection.execute(PLAN_EACH)
            status: str = await connection.execute(f"DELETE FROM {self._table} WHERE {sql.text}", *sql.values)
            return int(status.split()[-1])

        return await self._connections.write(change)

    async def items(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids that are kept, in any order."""
        sql = f"SELECT {ITEM_COLUMNS} FROM {self._table} WHERE id = ANY($1::text[])"
        return [to_item(record) for record in await self._connections.fetch(sql, list(ids))]

    async def count(self, where: Where) -> int:
        """Number of items that pass."""
        sql = to_sql(where)
        text = f"SELECT count(*) FROM {self._table} WHERE {sql.text}"
        records = await self._connections.fetch_planned(text, *sql.values)
        return int(records[0]["count"])

    async def page(self, limit: int, offset: int, where: Where) -> list[str]:
        """Ids of items that pass, from the least to the most uncertain, ties by id."""
        sql = to_sql(where, first=3)
        text = f"SELECT id FROM {self._table} WHERE {sql.text} ORDER BY uncertainty, id LIMIT $1 OFFSET $2"
        return [record["id"] for record in await self._connections.fetch_planned(text, limit, offset, *sql.values)]

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items by id, of those that come after one id, or of all."""
        sql = f"SELECT {ITEM_COLUMNS} FROM {self._table} WHERE id > $1 ORDER BY id LIMIT $2"
        return [to_item(record) for record in await self._connections.fetch(sql, after or "", limit)]

    async def nearest(
        self, unit: NDArray[np.float32], limit: int, where: Where, max_uncertainty: float, *, exact: bool
    ) -> list[Match]:
        """The `limit` items nearest to a unit (D,) vector that pass and are no more uncertain; in any order."""
        condition = _within(to_sql(where, first=3), max_uncertainty, number=3)
        values = (unit, limit, *condition.values)
        if exact:
            records = await self._connections.fetch_planned(self._exact_sql(condition), *values)
        else:
            candidates = limit + min((REFINE_FACTOR - 1) * limit, MOST_MORE)
            ef = min(max(MIN_EF_SEARCH, candidates), MAX_EF_SEARCH)
            text, settings = self._approximate_sql(condition, candidates), f"{PLAN_EACH}; {INDEX_SETTINGS}{ef}"
            records = await self._connections.fetch_planned(text, *values, settings=settings)
        return [to_match(record) for record in records]

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        sql = f"SELECT id, uncertainty FROM {self._table} WHERE id > $1 ORDER BY id LIMIT {SCAN_PART}"
        after = ""  # before every id
        while records := await self._connections.fetch(sql, after):
            yield [(record["id"], record["uncertainty"]) for record in records]
            after = records[-1]["id"]

    async def maintain(self) -> None:
        """Do now what the background upkeep would do next."""
        await self._maintenance.run_once()

    def _upsert_sql(self) -> str:
        names = COLUMNS[1:]
        places = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
        updates = ", ".join(f"{name} = excluded.{name}" for name in names)
        insert = f"INSERT INTO {self._table} ({', '.join(COLUMNS)}) VALUES ({places})"
        return f"{insert} ON CONFLICT (id) DO UPDATE SET {updates}"

    def _delete_sql(self) -> str:
        in_order = f"SELECT id FROM {self._table} WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
        return f"DELETE FROM {self._table} WHERE id IN ({in_order})"

    def _exact_sql(self, condition: Sql) -> str:
        """A search that the index, which is on another expression, cannot serve."""
        return (
            f"SELECT id, uncertainty, payload, embedding <=> $1 AS distance FROM {self._table} "
            f"WHERE {condition.text} ORDER BY distance LIMIT $2"
        )

    def _approximate_sql(self, condition: Sql, candidates: int) -> str:
        half = f"halfvec({self._dimension})"
        near = (
            f"SELECT id, uncertainty, payload, embedding FROM {self._table} WHERE {condition.text} "
            f"ORDER BY embedding::{half} <=> $1::vector::{half} LIMIT {candidates}"
        )
        return (
            f"SELECT id, uncertainty, payload, embedding <=> $1 AS distance FROM ({near}) AS near "
            "ORDER BY distance LIMIT $2"
        )


def _within(sql: Sql, max_uncertainty: float, *, number: int) -> Sql:
    """A condition that is also on uncertainty; `number` is that of its first parameter."""
    if max_uncertainty == math.inf:
        return sql
    bound = f"uncertainty <= ${number + len(sql.values)}::float8"
    return Sql(f"{sql.text} AND {bound}", (*sql.values, max_uncertainty))
