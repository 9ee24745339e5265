"""The gallery over any engine: checks what goes in, commits writes in groups, and lets no search come back short.

A commit is one call of the engine's, for all the writes that waited while the one before it was in flight (writer.py).
An approximate search that comes back with fewer matches than asked for is done again exactly, so none is ever missing.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Filter, FilterError, Found, GalleryError, Item, Match, Removed
from service.gallery.engine import Engine, Limited
from service.gallery.filters import Where, parse_filter, passes
from service.gallery.rows import check_id, check_vector, to_row
from service.gallery.writer import Delete, DeleteWhere, GroupWriter, Upsert, Write, ids_to_delete, merge

EVERYTHING = Where()


@dataclass(frozen=True)
class _Conditions:
    """What a match must meet besides being near."""

    where: Where
    max_uncertainty: float
    min_score: float

    @property
    def for_engine(self) -> bool:
        """Whether there is any that the engine must look at."""
        return bool(self.where.conditions) or self.max_uncertainty < math.inf

    def first_failed(self, match: Match) -> str | None:
        """The first field of `Removed` this match counts under."""
        if not passes(self.where, match.payload):
            return "by_filter"
        if match.uncertainty > self.max_uncertainty:
            return "by_uncertainty"
        return "by_score" if match.score < self.min_score else None


class CheckedGallery:
    """`Gallery` over an engine, which it owns.

    Args:
        engine: keeps the items.
        dimension: D of their embeddings.
    """

    def __init__(self, engine: Engine, dimension: int) -> None:
        self._engine = engine
        self._dimension = dimension
        self._writer = GroupWriter(self._commit)
        self._closed = False

    @property
    def engine(self) -> str:
        """Name of the engine, for people."""
        return self._engine.name

    async def close(self) -> None:
        """Finish what was accepted and let go of files and connections."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._engine.close()

    def check(self, item: Item) -> None:
        """Return if the engine has room for an item.

        Raises:
            NoRoom: else.
            ValueError: for one that no engine may store.
        """
        if isinstance(self._engine, Limited):
            self._engine.check(to_row(item, self._dimension))

    async def upsert(self, items: Sequence[Item]) -> None:
        """Store items, replacing those of the same id; the last of equal ids in one call wins.

        Raises:
            ValueError: when one item must not be stored (`NoRoom` where the engine has no room for it); then none is.
            GalleryError: when the engine fails.
        """
        self._require_open()
        rows = tuple(to_row(item, self._dimension) for item in items)
        if isinstance(self._engine, Limited):
            for row in rows:
                self._engine.check(row)
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
        condition = parse_filter(where)
        if not condition.conditions:
            raise FilterError("a filter without conditions would delete every item")
        return await self._writer.submit(DeleteWhere(condition))

    async def get(self, item_id: str) -> Item | None:
        """The item of that id, or None."""
        self._require_open()
        return next(iter(await self._engine.items([check_id(item_id)])), None)

    async def get_many(self, item_ids: Sequence[str]) -> list[Item]:
        """Those of the items that are there, each once, in any order."""
        self._require_open()
        ids = list(dict.fromkeys(check_id(item_id) for item_id in item_ids))
        return await self._engine.items(ids) if ids else []

    async def count(self, where: Filter | None = None) -> int:
        """Number of items, or of those that pass the filter."""
        self._require_open()
        return await self._engine.count(parse_filter(where))

    async def page(self, limit: int, offset: int = 0, where: Filter | None = None) -> list[Item]:
        """Items from the least to the most uncertain, ties by id; one deleted meanwhile is left out."""
        self._require_open()
        if offset < 0 or limit < 0:
            raise ValueError("limit and offset must not be negative")
        if limit == 0:
            return []
        ids = await self._engine.page(limit, offset, parse_filter(where))
        items = {item.id: item for item in await self._engine.items(ids)}
        return [items[item_id] for item_id in ids if item_id in items]

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items in order of id, of those that come after one id, or of all."""
        self._require_open()
        return await self._engine.walk(after, limit)

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
        if self._engine.approximate:
            found = await self._search(unit, limit, conditions, exact=False)
            if len(found.matches) == limit:
                return found
        return await self._search(unit, limit, conditions, exact=True)

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""
        self._require_open()
        async for items in self._engine.scan():
            yield items

    async def maintain(self) -> None:
        """Do now what makes searches fast after many writes, and is else done in the background."""
        self._require_open()
        await self._engine.maintain()

    def _require_open(self) -> None:
        if self._closed:
            raise GalleryError("the gallery is closed")

    async def _search(self, unit: NDArray[np.float32], limit: int, conditions: _Conditions, *, exact: bool) -> Found:
        # Of all items too, even where few can match: `removed` is of the nearest ones.
        searches = [self._nearest(unit, limit, EVERYTHING, math.inf, exact=exact)]
        if conditions.for_engine:
            searches.append(self._nearest(unit, limit, conditions.where, conditions.max_uncertainty, exact=exact))
        nearest, *matching = await asyncio.gather(*searches)
        failed = [conditions.first_failed(match) for match in nearest]
        removed = Removed(**{name: failed.count(name) for name in ("by_filter", "by_uncertainty", "by_score")})
        found = matching[0] if matching else nearest
        return Found([match for match in found if match.score >= conditions.min_score], removed)

    async def _nearest(
        self, unit: NDArray[np.float32], limit: int, where: Where, max_uncertainty: float, *, exact: bool
    ) -> list[Match]:
        found = await self._engine.nearest(unit, limit, where, max_uncertainty, exact=exact)
        return sorted(found, key=lambda match: (-match.score, match.id))

    async def _commit(self, group: Sequence[Write]) -> Sequence[int]:
        """Commit a group as the writer gives it: one `DeleteWhere`, or a run of the others."""
        match group:
            case [DeleteWhere(where)]:
                return [await self._engine.delete_where(where)]
            case _:
                to_delete = ids_to_delete(group)
                merged = merge(group, await self._engine.existing(to_delete) if to_delete else set())
                if merged.rows or merged.deleted:
                    await self._engine.commit(merged.rows, merged.deleted)
                return merged.counts


def _bound(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if math.isnan(value):
        raise ValueError(f"{name} must be a number")
    return value
