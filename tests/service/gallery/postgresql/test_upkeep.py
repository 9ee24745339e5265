"""The vector index: when it is built, by whom, what a death leaves of it, and that searches go through it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.gallery.base import GalleryUnavailable, Item
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter
from service.gallery.postgresql.maintenance import LOCK, LOCK_SPACE, Upkeep
from service.gallery.postgresql.sql import to_sql
from tests.service.gallery.oracle import item, items_in_clusters, unit, vector_of
from tests.service.gallery.postgresql.opened import engine_of, open_postgres
from tests.service.gallery.postgresql.test_opening import schema_of
from tests.service.gallery.servers.postgresql import PostgresPlace

EAGER = Upkeep(index_from_rows=100, tick_s=0.05)


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 120) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


def indexes(place: PostgresPlace, location: str) -> list[str]:
    """Name and whether it is valid, of each vector index."""
    schema = schema_of(location).strip('"')
    return place.server.sql(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        f"WHERE relname LIKE '%embedding' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{schema}')"
    ).splitlines()


async def plan(gallery: CheckedGallery, where: dict[str, Any] | None = None, dimension: int = 16) -> str:
    """How PostgreSQL runs a search that need not be exact."""
    engine, lines = engine_of(gallery), list[str]()
    fetch = engine._connections.fetch_planned

    async def explaining(sql: str, *values: Any, settings: str = "") -> list[Any]:
        records = await fetch(f"EXPLAIN {sql}", *values, settings=settings)
        lines.extend(record[0] for record in records)
        return await fetch(sql, *values, settings=settings)

    engine._connections.fetch_planned = explaining  # type: ignore[method-assign]
    await engine.nearest(vector_of("query", dimension), 10, parse_filter(where), np.inf, exact=False)
    engine._connections.fetch_planned = fetch  # type: ignore[method-assign]
    return "\n".join(lines)


async def test_no_index_is_built_below_the_threshold(
    place: PostgresPlace, location: str, gallery: CheckedGallery
) -> None:
    await gallery.upsert(items_in_clusters(999))
    await gallery.maintain()
    assert indexes(place, location) == []
    assert not engine_of(gallery).approximate
    await gallery.upsert([item("the thousandth")])
    await gallery.maintain()
    assert indexes(place, location) == ["candor_items_embedding|t"]
    assert engine_of(gallery).approximate


async def test_searches_go_through_the_index_unless_few_items_pass(place: PostgresPlace, location: str) -> None:
    gallery = await place.open(location, dimension=256)
    made = items_in_clusters(4000, dimension=256)
    items = [replace(one, payload={**one.payload, "few": n % 500}) for n, one in enumerate(made)]
    for start in range(0, 4000, 1000):
        await gallery.upsert(items[start : start + 1000])
    await gallery.maintain()
    assert "Index Scan using candor_items_embedding" in await plan(gallery, dimension=256)
    assert "Index Scan using candor_items_embedding" in await plan(gallery, {"group": {"ne": "g1"}}, dimension=256)
    assert "candor_items_tokens" in await plan(gallery, {"few": 7}, dimension=256)
    await gallery.close()


async def test_an_exact_search_does_not_go_through_the_index(gallery: CheckedGallery) -> None:
    await gallery.upsert(items_in_clusters(1000))
    await gallery.maintain()
    engine = engine_of(gallery)
    sql = engine._exact_sql(to_sql(parse_filter(None)))
    records = await engine._connections.fetch_planned(f"EXPLAIN {sql}", vector_of("query"), 10)
    assert "embedding on" not in "\n".join(record[0] for record in records)


async def test_the_index_comes_by_itself_is_built_once_and_the_others_follow(
    place: PostgresPlace, location: str
) -> None:
    galleries = [await open_postgres(location, place.options, EAGER) for _ in range(3)]

    async def all_know() -> bool:
        return all(engine_of(gallery).approximate for gallery in galleries)

    for start in range(0, 300, 50):
        writer = galleries[start // 50 % 3]
        await writer.upsert([item(f"i{n}") for n in range(start, start + 50)])
    await eventually(all_know)
    assert indexes(place, location) == ["candor_items_embedding|t"]
    assert [engine_of(gallery)._maintenance.last_error for gallery in galleries] == [None] * 3
    for gallery in galleries:
        assert (await gallery.search(vector_of("i299"), 1)).matches[0].id == "i299"
        await gallery.close()


async def test_writes_go_on_while_the_index_is_built(place: PostgresPlace, location: str) -> None:
    gallery, other = await place.open(location), await place.open(location)
    items = items_in_clusters(4000)
    for start in range(0, 4000, 1000):
        await gallery.upsert(items[start : start + 1000])
    building, written = asyncio.create_task(gallery.maintain()), 0
    while not building.done():
        await other.upsert([item(f"during-{written}")])
        written += 1
    await building
    assert written > 1
    for n in range(written):
        assert (await gallery.search(vector_of(f"during-{n}"), 1)).matches[0].id == f"during-{n}"
    for one in (gallery, other):
        await one.close()


async def test_an_index_that_was_left_unfinished_is_built_anew(place: PostgresPlace, location: str) -> None:
    """Its build waits for a transaction that wrote before it, and is given up with the gallery that began it."""
    gallery = await open_postgres(location, place.options, EAGER)

    async def begun() -> bool:
        return indexes(place, location) == ["candor_items_embedding|f"]

    holder = await engine_of(gallery)._maintenance._address.connect()
    async with holder.transaction():
        await holder.execute("LOCK TABLE candor_items IN ROW EXCLUSIVE MODE")
        await gallery.upsert(items_in_clusters(1000))
        await eventually(begun)
        await gallery.close()
    await holder.close()

    again = await place.open(location)
    assert await begun()
    assert not engine_of(again).approximate
    assert (await again.search(items_in_clusters(1000)[7].embedding, 1)).matches[0].id == "item-7"
    await again.maintain()
    assert indexes(place, location) == ["candor_items_embedding|t"]
    assert engine_of(again).approximate
    await again.close()


async def test_one_process_builds_at_a_time_and_the_other_waits(
    place: PostgresPlace, location: str, gallery: CheckedGallery
) -> None:
    await gallery.upsert(items_in_clusters(1000))
    holder = await engine_of(gallery)._maintenance._address.connect()
    assert await holder.fetchval(LOCK, LOCK_SPACE, '"candor_items"')
    waiting = asyncio.create_task(gallery.maintain())
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert not done
    assert indexes(place, location) == []
    await holder.close()
    await waiting
    assert indexes(place, location) == ["candor_items_embedding|t"]


async def test_a_failure_is_visible_and_tried_again(
    place: PostgresPlace, location: str, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = await open_postgres(location, place.options, EAGER)
    maintenance = engine_of(gallery)._maintenance

    async def failed() -> bool:
        return maintenance.last_error is not None

    async def recovered() -> bool:
        return maintenance.last_error is None

    place.kill()
    try:
        with caplog.at_level(logging.WARNING):
            await eventually(failed)
        assert "put off" in caplog.text
    finally:
        place.start()
    await eventually(recovered)
    await gallery.close()


@pytest.mark.parametrize(("dimension", "indexed"), [(2500, True), (4000, True), (4001, False)])
async def test_many_dimensions_are_indexed_as_far_as_pgvector_can(
    place: PostgresPlace, location: str, dimension: int, indexed: bool
) -> None:
    gallery = await open_postgres(location, place.options, Upkeep(index_from_rows=100, tick_s=3600), dimension)
    random = np.random.default_rng(0)
    items = [Item(f"i{n}", unit(random.normal(size=dimension)), 0.5, {}) for n in range(120)]
    await gallery.upsert(items)
    await gallery.maintain()
    assert indexes(place, location) == (["candor_items_embedding|t"] if indexed else [])
    for one in items[:5]:
        found = await gallery.search(one.embedding, 3)
        assert found.matches[0].id == one.id
        assert found.matches[0].score == pytest.approx(1.0, abs=1e-6)
        assert len(found.matches) == 3
    await gallery.close()


async def test_an_index_that_somebody_dropped_is_missed_by_nobody(
    place: PostgresPlace, location: str, gallery: CheckedGallery
) -> None:
    await gallery.upsert(items_in_clusters(1000))
    await gallery.maintain()
    place.server.sql(f"DROP INDEX {schema_of(location)}.candor_items_embedding")
    assert (await gallery.search(items_in_clusters(1000)[7].embedding, 1)).matches[0].id == "item-7"


async def test_upkeep_without_the_engine_says_so(place: PostgresPlace, gallery: CheckedGallery) -> None:
    place.kill()
    try:
        with pytest.raises(GalleryUnavailable):
            await gallery.maintain()
    finally:
        place.start()
