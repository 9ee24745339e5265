"""The gallery in LanceDB, in this process: a folder or an object store, exact until an index pays.

Writes are committed in groups (writer.py): each commit is one new version of the table, made whole or not at all, so
the death of the process loses nothing acknowledged and leaves nothing half-written. On a local folder each commit's
files are also synced to disk before it is acknowledged (disk.py says what a power cut may still do). Several processes
may write: the engine detects conflicts and the loser tries again.

Searches are exact scans until `Upkeep.index_from_rows`, then go through an HNSW index built in the background. An
approximate search that comes back with fewer matches than asked for is done again exactly, so none is ever missing.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.query import AsyncVectorQuery, ColumnOrdering
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from service.gallery.base import Filter, FilterError, Found, GalleryError, Item, Match, Removed
from service.gallery.disk import FileLock, FolderSync
from service.gallery.filters import Where, literal, parse_filter, passes, quote, to_sql
from service.gallery.maintenance import Maintenance, Upkeep, ensure_scalar_indexes, vector_index
from service.gallery.opening import is_local, lock_path, open_table
from service.gallery.retry import retrying
from service.gallery.rows import (
    ITEM_COLUMNS,
    MATCH_COLUMNS,
    check_id,
    check_vector,
    schema,
    to_arrow,
    to_items,
    to_row,
)
from service.gallery.writer import Delete, DeleteWhere, GroupWriter, Upsert, Write, ids_to_delete, merge

EF_SEARCH = 64
REFINE_FACTOR = 2
IDS_PER_STATEMENT = 500
VANISHED_WORDS = ("not found",)  # an old version that upkeep deletes while versions are listed


@dataclass(frozen=True)
class LanceOptions:
    """How to keep the table.

    Args:
        upkeep: when to merge files and build indexes.
        sync: flush each commit to disk before acknowledging it; off, writes are faster and a power cut may undo some.
        storage: what the object store needs, as it takes it (keys, region, endpoint).
    """

    upkeep: Upkeep = field(default_factory=Upkeep)
    sync: bool = True
    storage: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class _Conditions:
    """What a match must meet besides being near."""

    where: Where
    max_uncertainty: float
    min_score: float

    def first_failed(self, match: Match) -> str | None:
        """The first field of `Removed` this match counts under."""
        if not passes(self.where, match.payload):
            return "by_filter"
        if match.uncertainty > self.max_uncertainty:
            return "by_uncertainty"
        return "by_score" if match.score < self.min_score else None

    def sql(self) -> str | None:
        """All but the score as SQL."""
        bound = None if self.max_uncertainty == math.inf else f"uncertainty <= {literal(self.max_uncertainty)}"
        return " AND ".join(part for part in (to_sql(self.where), bound) if part) or None


class LanceGallery:
    """`Gallery` over one LanceDB table; made by `open_lance_gallery`."""

    engine = "lancedb"

    def __init__(
        self, table: AsyncTable, columns: pa.Schema, upkeep: Upkeep, lock: FileLock, folder: FolderSync | None
    ) -> None:
        self._table = table
        self._columns = columns
        self._dimension: int = columns.field("embedding").type.list_size
        self._folder = folder
        self._writer = GroupWriter(self._commit)
        self._maintenance = Maintenance(table, upkeep, lock, after=self._sync, writes_held=self._writer.held)
        self._closed = False

    async def start(self) -> None:
        """Begin background upkeep."""
        await self._maintenance.start()

    async def close(self) -> None:
        """Finish what was accepted and let go of the files."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._maintenance.close()
        self._table.close()
        if self._folder is not None:
            self._folder.close()

    async def upsert(self, items: Sequence[Item]) -> None:
        """Store items, replacing those of the same id; the last of equal ids in one call wins.

        Raises:
            ValueError: when one item must not be stored; then none is.
            GalleryError: when the engine fails.
        """
        self._require_open()
        rows = tuple(to_row(item, self._dimension) for item in items)
        if rows:
            await self._writer.submit(Upsert(rows))

    async def delete(self, item_ids: Sequence[str]) -> int:
        """Delete by id; the number of items that were there."""
        self._require_open()
        ids = tuple(check_id(item_id) for item_id in item_ids)
        return await self._writer.submit(Delete(ids)) if ids else 0

    async def delete_where(self, where: Filter) -> int:
        """Delete every item that passes the filter; the number deleted.

        Raises:
            FilterError: also for a filter without conditions, which would delete everything.
        """
        self._require_open()
        sql = to_sql(parse_filter(where))
        if sql is None:
            raise FilterError("a filter without conditions would delete every item")
        return await self._writer.submit(DeleteWhere(sql))

    async def get(self, item_id: str) -> Item | None:
        """The item of that id, or None."""
        self._require_open()
        return next(iter(await self._items([check_id(item_id)])), None)

    async def count(self, where: Filter | None = None) -> int:
        """Number of items, or of those that pass the filter."""
        self._require_open()
        rows: int = await self._table.count_rows(to_sql(parse_filter(where)))
        return rows

    async def page(self, limit: int, offset: int = 0, where: Filter | None = None) -> list[Item]:
        """Items from the least to the most uncertain, ties by id; one deleted meanwhile is left out."""
        self._require_open()
        if offset < 0 or limit < 0:
            raise ValueError("limit and offset must not be negative")
        if limit == 0:
            return []
        order = [ColumnOrdering(column_name=name, ascending=True) for name in ("uncertainty", "id")]
        query = self._table.query().order_by(order).select(["id", "uncertainty"]).offset(offset).limit(limit)
        sql = to_sql(parse_filter(where))
        ids = (await (query.where(sql) if sql else query).to_arrow()).column("id").to_pylist()
        items = {item.id: item for item in await self._items(ids)}
        return [items[item_id] for item_id in ids if item_id in items]

    async def search(
        self,
        vector: NDArray[np.float32],
        limit: int,
        *,
        where: Filter | None = None,
        max_uncertainty: float | None = None,
        min_score: float | None = None,
    ) -> Found:
        """The `limit` nearest items that meet every condition; equal scores in order of id.

        Among items of equal score at the very end of the list, which of them are in it is up to the engine.

        Raises:
            ValueError: for a vector, limit or bound that makes no sense.
            FilterError: for a filter outside the language.
        """
        self._require_open()
        if limit < 1:
            raise ValueError("limit must be at least 1")
        unit = check_vector(vector, self._dimension)
        conditions = _Conditions(
            parse_filter(where),
            _bound("max_uncertainty", max_uncertainty, math.inf),
            _bound("min_score", min_score, -1.0),
        )
        if self._maintenance.indexed:
            found = await self._search(unit, limit, conditions, exact=False)
            if len(found.matches) == limit:
                return found
        return await self._search(unit, limit, conditions, exact=True)

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        self._require_open()
        reader = await self._table.query().select(["id", "uncertainty"]).to_batches()
        async for batch in reader:
            yield list(zip(batch.column("id").to_pylist(), batch.column("uncertainty").to_pylist(), strict=True))

    async def stats(self) -> LanceStats:
        """The table's state now."""
        self._require_open()
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

    async def maintain(self) -> None:
        """Do now what the background upkeep would do next."""
        self._require_open()
        await self._maintenance.run_once()

    def _require_open(self) -> None:
        if self._closed:
            raise GalleryError("the gallery is closed")

    async def _search(self, unit: NDArray[np.float32], limit: int, conditions: _Conditions, *, exact: bool) -> Found:
        sql = conditions.sql()
        # Of all items too, even where few can match: `removed` is of the nearest ones.
        searches = [
            self._nearest(unit, limit, where, exact=exact) for where in ([None] if sql is None else [None, sql])
        ]
        nearest, *matching = await asyncio.gather(*searches)
        failed = [conditions.first_failed(match) for match in nearest]
        removed = Removed(**{name: failed.count(name) for name in ("by_filter", "by_uncertainty", "by_score")})
        found = matching[0] if matching else nearest
        return Found([match for match in found if match.score >= conditions.min_score], removed)

    async def _nearest(self, unit: NDArray[np.float32], limit: int, sql: str | None, *, exact: bool) -> list[Match]:
        query: AsyncVectorQuery = self._table.query().nearest_to(unit).distance_type("cosine").limit(limit)
        ef = max(EF_SEARCH, 2 * limit)
        query = query.bypass_vector_index() if exact else query.ef(ef).refine_factor(REFINE_FACTOR)
        found = await (query.where(sql) if sql else query).select(MATCH_COLUMNS).to_arrow()
        return sorted((_to_match(record) for record in found.to_pylist()), key=lambda match: (-match.score, match.id))

    async def _commit(self, group: Sequence[Write]) -> Sequence[int]:
        """Commit a group as the writer gives it: one `DeleteWhere`, or a run of the others."""
        match group:
            case [DeleteWhere(sql)]:
                counts: Sequence[int] = [(await retrying(partial(self._table.delete, sql))).num_deleted_rows]
            case _:
                counts = await self._commit_by_id(group)
        await self._sync()
        self._maintenance.committed()
        return counts

    async def _commit_by_id(self, group: Sequence[Write]) -> Sequence[int]:
        merged = merge(group, await self._existing(ids_to_delete(group)))
        if merged.rows:
            rows = await asyncio.to_thread(to_arrow, merged.rows, self._columns)
            await retrying(partial(_merge_insert, self._table, rows))
        for sql in _id_conditions(merged.deleted):
            await retrying(partial(self._table.delete, sql))
        return merged.counts

    async def _items(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids that are there, in any order."""
        queries = [self._table.query().where(sql).select(ITEM_COLUMNS) for sql in _id_conditions(ids)]
        return [item for query in queries for item in to_items(await query.to_arrow())]

    async def _existing(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for sql in _id_conditions(ids):
            table = await self._table.query().where(sql).select(["id"]).to_arrow()
            found.update(table.column("id").to_pylist())
        return found

    async def _sync(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(self._folder.sync)


async def open_lance_gallery(
    location: str, *, dimension: int, bundle_hash: str, options: LanceOptions | None = None
) -> LanceGallery:
    """Open or create the gallery of one bundle.

    Args:
        location: a folder, or the URL of an object store that LanceDB knows (s3://, gs://, az://).
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how to keep the table, where the defaults do not fit.

    Raises:
        GalleryError: when the place cannot be used, or holds the items of another bundle.
    """
    options = options or LanceOptions()
    columns = schema(dimension, bundle_hash)
    try:
        table = await open_table(location, columns, options.storage)
        await retrying(partial(ensure_scalar_indexes, table))
    except (OSError, RuntimeError, ValueError) as error:
        raise GalleryError(f"cannot open the gallery at {location}: {error}") from error
    folder = await asyncio.to_thread(FolderSync, Path(location)) if is_local(location) and options.sync else None
    gallery = LanceGallery(table, columns, options.upkeep, FileLock(lock_path(location)), folder)
    await gallery.start()
    return gallery


async def _merge_insert(table: AsyncTable, rows: pa.Table) -> None:
    """Insert or replace by id.

    Not through the id index: on a fully indexed table that path misses two processes inserting one new id at once.
    """
    merge_insert = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    await merge_insert.use_index(False).execute(rows)


def _id_conditions(ids: Sequence[str]) -> list[str]:
    parts = [ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT)]
    return [f"id IN ({', '.join(map(quote, part))})" for part in parts]


def _to_match(record: Mapping[str, Any]) -> Match:
    score = min(1.0, max(-1.0, 1.0 - record["_distance"]))
    return Match(record["id"], score, record["uncertainty"], json.loads(record["payload"]))


def _bound(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if math.isnan(value):
        raise ValueError(f"{name} must be a number")
    return value
