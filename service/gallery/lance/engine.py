"""Items in LanceDB, in this process: a folder or an object store, searched exactly until an index pays.

Each commit is one new version of the table, made whole or not at all, so the death of the process loses nothing
acknowledged and leaves nothing half-written. On a local folder each commit's files are also synced to disk before it is
acknowledged (disk.py says what a power cut may still do). Several processes may write: the engine detects conflicts and
the loser tries again.

Searches are exact scans until `Upkeep.index_from_rows`, then go through an HNSW index built in the background.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from lancedb.query import AsyncVectorQuery, ColumnOrdering
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from service.gallery.base import Item, Match
from service.gallery.filters import Where
from service.gallery.lance.disk import FileLock, FolderSync
from service.gallery.lance.failures import RAISED, failure, told
from service.gallery.lance.maintenance import Maintenance, Upkeep, vector_index
from service.gallery.lance.opening import is_local, lock_path, open_in_time
from service.gallery.lance.retry import retrying
from service.gallery.lance.sql import literal, quote, to_sql
from service.gallery.lance.table import ITEM_COLUMNS, MATCH_COLUMNS, schema, to_arrow, to_items
from service.gallery.rows import Row

EF_SEARCH: Final = 64
REFINE_FACTOR: Final = 2
IDS_PER_STATEMENT: Final = 500
VANISHED_WORDS: Final = ("not found",)  # an old version that upkeep deletes while versions are listed


@dataclass(frozen=True)
class LanceOptions:
    """How to keep the table.

    Args:
        upkeep: when to merge files and build indexes.
        sync: flush each commit to disk before acknowledging it; off, writes are faster and a power cut may undo some.
        storage: what the object store needs, as it takes it (keys, region, endpoint).
        open_timeout_s: how long an object store may take to answer when the table is opened.
    """

    upkeep: Upkeep = field(default_factory=Upkeep)
    sync: bool = True
    storage: Mapping[str, str] = field(default_factory=dict)
    open_timeout_s: float = 60.0


@dataclass(frozen=True)
class LanceStats:
    """The table's state, for people and gauges; `upkeep` says what runs in the background now."""

    rows: int
    fragments: int
    versions: int
    vector_index: bool
    unindexed_rows: int
    upkeep: str
    last_error: str | None


class LanceEngine:
    """`Engine` over one LanceDB table; made by `open_lance_engine`."""

    name = "lancedb"

    def __init__(
        self, table: AsyncTable, columns: pa.Schema, upkeep: Upkeep, lock: FileLock, folder: FolderSync | None
    ) -> None:
        self._table = table
        self._columns = columns
        self._folder = folder
        self._writing = asyncio.Lock()
        self._maintenance = Maintenance(table, upkeep, lock, after=self._sync, writing=self._writing)

    async def start(self) -> None:
        """Begin background upkeep."""
        await self._maintenance.start()

    async def close(self) -> None:
        """Let go of the files."""
        await self._maintenance.close()
        self._table.close()
        if self._folder is not None:
            self._folder.close()

    @property
    def approximate(self) -> bool:
        """Whether there is an index to search through."""
        return self._maintenance.indexed

    @told
    async def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are kept."""
        found: set[str] = set()
        for sql in _id_conditions(ids):
            table = await self._table.query().where(sql).select(["id"]).to_arrow()
            found.update(table.column("id").to_pylist())
        return found

    @told
    async def commit(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        """Store rows, each in place of the one of its id, and delete ids."""
        async with self._writing:
            if rows:
                table = await asyncio.to_thread(to_arrow, rows, self._columns)
                await retrying(partial(_merge_insert, self._table, table))
            for sql in _id_conditions(deleted):
                await retrying(partial(self._table.delete, sql))
            await self._sync()
        self._maintenance.committed()

    @told
    async def delete_where(self, where: Where) -> int:
        """Delete every item that passes; the number deleted."""
        async with self._writing:
            deleted: int = (await retrying(partial(self._table.delete, to_sql(where) or "true"))).num_deleted_rows
            await self._sync()
        self._maintenance.committed()
        return deleted

    @told
    async def items(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids that are kept, in any order."""
        queries = [self._table.query().where(sql).select(ITEM_COLUMNS) for sql in _id_conditions(ids)]
        return [item for query in queries for item in to_items(await query.to_arrow())]

    @told
    async def count(self, where: Where) -> int:
        """Number of items that pass."""
        rows: int = await self._table.count_rows(to_sql(where))
        return rows

    @told
    async def page(self, limit: int, offset: int, where: Where) -> list[str]:
        """Ids of items that pass, from the least to the most uncertain, ties by id."""
        query = self._table.query().order_by(_ascending("uncertainty", "id")).select(["id", "uncertainty"])
        sql = to_sql(where)
        ids: list[str] = (
            (await (query.where(sql) if sql else query).offset(offset).limit(limit).to_arrow()).column("id").to_pylist()
        )
        return ids

    @told
    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items by id, of those that come after one id, or of all."""
        query = self._table.query().order_by(_ascending("id")).select(["id"]).limit(limit)
        found = await (query if after is None else query.where(f"id > {quote(after)}")).to_arrow()
        items = await self.items(found.column("id").to_pylist())
        return sorted(items, key=lambda item: item.id)

    @told
    async def nearest(
        self, unit: NDArray[np.float32], limit: int, where: Where, max_uncertainty: float, *, exact: bool
    ) -> list[Match]:
        """The `limit` items nearest to a unit (D,) vector that pass and are no more uncertain; in any order."""
        query: AsyncVectorQuery = self._table.query().nearest_to(unit).distance_type("cosine").limit(limit)
        ef = max(EF_SEARCH, 2 * limit)
        query = query.bypass_vector_index() if exact else query.ef(ef).refine_factor(REFINE_FACTOR)
        bound = None if max_uncertainty == math.inf else f"uncertainty <= {literal(max_uncertainty)}"
        sql = " AND ".join(part for part in (to_sql(where), bound) if part)
        found = await (query.where(sql) if sql else query).select(MATCH_COLUMNS).to_arrow()
        return [_to_match(record) for record in found.to_pylist()]

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        try:
            async for batch in await self._table.query().select(["id", "uncertainty"]).to_batches():
                yield list(zip(batch.column("id").to_pylist(), batch.column("uncertainty").to_pylist(), strict=True))
        except RAISED as error:
            raise failure(error) from error

    async def stats(self) -> LanceStats:
        """The table's state now."""
        table = await self._table.stats()
        index = await vector_index(self._table)
        rows = int(table["num_rows"])
        return LanceStats(
            rows=rows,
            fragments=int(table["fragment_stats"]["num_fragments"]),
            versions=len(await retrying(self._table.list_versions, VANISHED_WORDS)),
            vector_index=index is not None,
            unindexed_rows=rows if index is None else int(index.num_unindexed_rows or 0),
            upkeep=self._maintenance.state,
            last_error=self._maintenance.last_error,
        )

    @told
    async def maintain(self) -> None:
        """Do now what the background upkeep would do next."""
        await self._maintenance.run_once()

    async def _sync(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(self._folder.sync)


async def open_lance_engine(
    location: str, *, dimension: int, bundle_hash: str, options: LanceOptions | None = None
) -> LanceEngine:
    """Open or create the table of one bundle.

    Args:
        location: a folder, or the URL of an object store that LanceDB knows (s3://, gs://, az://).
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how to keep the table, where the defaults do not fit.

    Raises:
        GalleryError: when the place cannot be used, or holds the items of another bundle.
        GalleryUnavailable: when an object store cannot be reached.
    """
    options = options or LanceOptions()
    columns = schema(dimension, bundle_hash)
    table = await open_in_time(location, columns, options.storage, options.open_timeout_s)
    folder = await asyncio.to_thread(FolderSync, Path(location)) if is_local(location) and options.sync else None
    engine = LanceEngine(table, columns, options.upkeep, FileLock(lock_path(location)), folder)
    await engine.start()
    return engine


async def _merge_insert(table: AsyncTable, rows: pa.Table) -> None:
    """Insert or replace by id.

    Not through the id index: on a fully indexed table that path misses two processes inserting one new id at once.
    """
    merge_insert = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    await merge_insert.use_index(False).execute(rows)


def _id_conditions(ids: Sequence[str]) -> list[str]:
    parts = [ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT)]
    return [f"id IN ({', '.join(map(quote, part))})" for part in parts]


def _ascending(*columns: str) -> list[ColumnOrdering]:
    return [ColumnOrdering(column_name=name, ascending=True) for name in columns]


def _to_match(record: Mapping[str, Any]) -> Match:
    score = min(1.0, max(-1.0, 1.0 - record["_distance"]))
    return Match(record["id"], score, record["uncertainty"], json.loads(record["payload"]))
