"""Connections: time limits, a pool that is exhausted, a server that hangs, and writes that get in each other's way."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.checked import CheckedGallery
from service.gallery.postgresql import connections as module
from tests.service.gallery.oracle import item, items_in_clusters
from tests.service.gallery.postgresql.opened import engine_of, open_postgres
from tests.service.gallery.postgresql.test_opening import schema_of
from tests.service.gallery.servers.postgresql import USER, PostgresPlace

SHORT_S = 0.5
CALLS: list[Callable[[CheckedGallery], Awaitable[Any]]] = [
    lambda gallery: gallery.upsert([item("b")]),
    lambda gallery: gallery.get("a"),
    lambda gallery: gallery.count(),
]


async def test_a_server_that_hangs_is_given_up_and_used_again_once_it_goes_on(
    place: PostgresPlace, location: str
) -> None:
    gallery = await open_postgres(location, replace(place.options, timeout_s=SHORT_S))
    await gallery.upsert([item("a")])
    place.server.freeze(frozen=True)
    try:
        for call in CALLS:
            with pytest.raises(GalleryUnavailable, match=r"127\.0\.0\.1.*did not answer in time"):
                async with asyncio.timeout(60):
                    await call(gallery)
        with pytest.raises(GalleryUnavailable):
            await open_postgres(location, replace(place.options, timeout_s=SHORT_S))
    finally:
        place.server.freeze(frozen=False)
    for call in CALLS:
        await call(gallery)
    await gallery.close()


async def test_a_gallery_closes_while_the_server_hangs(place: PostgresPlace, location: str) -> None:
    gallery = await open_postgres(location, replace(place.options, timeout_s=SHORT_S))
    await gallery.upsert([item("a")])
    place.server.freeze(frozen=True)
    try:
        async with asyncio.timeout(60):
            await gallery.close()
    finally:
        place.server.freeze(frozen=False)


async def test_calls_wait_for_a_connection_and_no_longer_than_they_may(place: PostgresPlace, location: str) -> None:
    gallery = await open_postgres(location, replace(place.options, pool=1, timeout_s=SHORT_S))
    assert await asyncio.gather(*(gallery.count() for _ in range(20))) == [0] * 20
    async with engine_of(gallery)._connections._pool.acquire():
        with pytest.raises(GalleryUnavailable, match="in time"):
            await gallery.count()
    assert await gallery.count() == 0
    await gallery.close()


async def test_a_caller_that_leaves_gives_its_connection_back(place: PostgresPlace, location: str) -> None:
    gallery = await open_postgres(location, replace(place.options, pool=1))
    for _ in range(3):
        task = asyncio.create_task(gallery.count())
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await gallery.count() == 0
    await gallery.close()


async def test_a_statement_limit_of_the_server_is_a_time_out_but_not_of_upkeep(
    place: PostgresPlace, location: str
) -> None:
    gallery = await place.open(f"{location}&statement_timeout=1500")
    holder = await engine_of(gallery)._maintenance._address.connect()
    async with holder.transaction():
        await holder.execute("LOCK TABLE candor_items")
        with pytest.raises(GalleryUnavailable, match="statement timeout"):
            await gallery.count()
        upkeep = asyncio.create_task(gallery.maintain())
        done, _ = await asyncio.wait([upkeep], timeout=2)
        assert not done
    await upkeep
    await holder.close()
    await gallery.close()


async def test_writes_that_lock_each_other_are_tried_again(gallery: CheckedGallery) -> None:
    connections, attempts = engine_of(gallery)._connections, list[int]()
    await gallery.upsert([item("a"), item("b")])
    table = engine_of(gallery)._table
    both = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        async def action(connection: Any) -> None:
            attempts.append(1)
            update = f"UPDATE {table} SET uncertainty = uncertainty + 1 WHERE id = $1"
            await connection.execute(update, first)
            if len(attempts) <= 2:
                await both.wait()
            await connection.execute(update, second)

        await connections.write(action)

    await asyncio.gather(lock("a", "b"), lock("b", "a"))
    assert len(attempts) == 3
    for one in ("a", "b"):
        found = await gallery.get(one)
        assert found is not None
        assert found.uncertainty == item(one).uncertainty + 2


async def test_a_conflict_that_does_not_end_is_one_to_come_back_for(
    gallery: CheckedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)

    async def lose(_: Any) -> None:
        raise asyncpg.SerializationError("could not serialize access")

    with pytest.raises(GalleryUnavailable, match="serialize"):
        await engine_of(gallery)._connections.write(lose)


async def test_what_the_database_refuses_is_an_error_and_not_a_time_out(
    place: PostgresPlace, location: str, gallery: CheckedGallery
) -> None:
    place.server.sql(f"DROP TABLE {schema_of(location)}.candor_items")
    with pytest.raises(GalleryError, match="does not exist") as refused:
        await gallery.count()
    assert not isinstance(refused.value, GalleryUnavailable)


async def test_a_server_that_became_a_standby_is_left(
    place: PostgresPlace, gallery: CheckedGallery, location: str
) -> None:
    """A failover, as a client sees it: its old connections can only read, new ones can write."""
    place.server.sql(f"ALTER ROLE {USER} SET default_transaction_read_only = on")
    later = await open_postgres(location, replace(place.options, pool=1))
    place.server.sql(f"ALTER ROLE {USER} RESET default_transaction_read_only")
    with pytest.raises(GalleryUnavailable, match="read-only"):
        await later.upsert([item("a")])
    await later.upsert([item("a")])
    assert await gallery.count() == 1
    await later.close()


async def test_scans_come_in_parts(gallery: CheckedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.postgresql.engine.SCAN_PART", 70)
    items = items_in_clusters(500)
    await gallery.upsert(items)
    parts = [part async for part in gallery.scan()]
    assert [len(part) for part in parts] == [70] * 7 + [10]
    assert sorted(one for part in parts for one, _ in part) == sorted(one.id for one in items)
