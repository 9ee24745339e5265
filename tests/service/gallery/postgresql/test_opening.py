"""Opening: what is made, by whom, and what is refused."""

import asyncio
from dataclasses import replace

import pytest

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.options import EngineOptions
from tests.service.gallery.oracle import item, same_item
from tests.service.gallery.postgresql.opened import open_postgres
from tests.service.gallery.servers.postgresql import SUPERUSER, SUPERUSER_PASSWORD, USER, PostgresPlace

ROOT = EngineOptions(user=SUPERUSER, password=SUPERUSER_PASSWORD)


def schema_of(location: str) -> str:
    return location.partition("search_path=")[2].split(",")[0].replace("%22", '"').replace("%20", " ")


async def test_the_extension_is_made_by_who_may_and_by_many_at_once(place: PostgresPlace) -> None:
    place.server.sql("CREATE DATABASE bare")
    location = f"postgresql://127.0.0.1:{place.server.port}/bare"
    place.server.sql(f"GRANT ALL ON SCHEMA public TO {USER}", "bare")
    with pytest.raises(GalleryError, match="superuser run CREATE EXTENSION vector"):
        await open_postgres(location, place.options)
    galleries = await asyncio.gather(*(open_postgres(location, ROOT) for _ in range(8)))
    for n, gallery in enumerate(galleries):
        await gallery.upsert([item(f"i{n}")])
    assert [await gallery.count() for gallery in galleries] == [8] * 8
    for gallery in galleries:
        await gallery.close()
    place.server.sql("DROP DATABASE bare WITH (FORCE)")


async def test_a_table_is_made_by_many_at_once(place: PostgresPlace, location: str) -> None:
    galleries = await asyncio.gather(*(place.open(location) for _ in range(8)))
    await asyncio.gather(*(gallery.upsert([item(f"i{n}")]) for n, gallery in enumerate(galleries)))
    assert await galleries[0].count() == 8
    for gallery in galleries:
        await gallery.close()


@pytest.mark.parametrize("name", ['it\'s a "table"; --', "Tische", "ü" * 24, "select"])
async def test_any_short_name_is_a_table(place: PostgresPlace, location: str, name: str) -> None:
    options = replace(place.options, table=name)
    for n in range(2):
        gallery = await open_postgres(location, options)
        assert await gallery.count() == n
        await gallery.upsert([item(f"i{n}")])
        await gallery.maintain()
        await gallery.close()


@pytest.mark.parametrize("name", ["", "a\0b", "ü" * 25])
async def test_another_name_is_refused(place: PostgresPlace, location: str, name: str) -> None:
    with pytest.raises(GalleryError, match="CANDOR_GALLERY_TABLE"):
        await open_postgres(location, replace(place.options, table=name))


async def test_two_tables_are_two_galleries(place: PostgresPlace, location: str) -> None:
    one, other = [await open_postgres(location, replace(place.options, table=name)) for name in ("one", "other")]
    await one.upsert([item("a")])
    assert await other.count() == 0
    await one.close()
    await other.close()


@pytest.mark.parametrize("comment", ["NULL", "'a note'", '\'{"candor": {"format": "0"}}\'', "'[]'"])
async def test_a_foreign_table_does_not_open(place: PostgresPlace, location: str, comment: str) -> None:
    schema = schema_of(location)
    place.server.sql(f"CREATE TABLE {schema}.candor_items (id int)")
    place.server.sql(f"COMMENT ON TABLE {schema}.candor_items IS {comment}")
    with pytest.raises(GalleryError, match="not a gallery of format 1; set CANDOR_GALLERY_TABLE"):
        await place.open(location)


async def test_a_login_that_may_only_use_the_table_can(place: PostgresPlace, location: str) -> None:
    gallery = await place.open(location)
    schema = schema_of(location)
    place.server.sql(
        "CREATE ROLE guest LOGIN PASSWORD 'guest'; "
        f"GRANT USAGE ON SCHEMA {schema} TO guest; GRANT ALL ON {schema}.candor_items TO guest"
    )
    guest = await open_postgres(location, EngineOptions(user="guest", password="guest"))
    await guest.upsert([item("a")])
    assert same_item(await gallery.get("a"), item("a"))
    for one in (guest, gallery):
        await one.close()


async def test_a_server_that_only_reads_is_one_to_wait_for(place: PostgresPlace, location: str) -> None:
    with pytest.raises(GalleryUnavailable, match="read-only"):
        await place.open(f"{location}&default_transaction_read_only=on")


async def test_more_dimensions_than_pgvector_has_are_refused(place: PostgresPlace, location: str) -> None:
    with pytest.raises(GalleryError, match="16000"):
        await place.open(location, dimension=16_001)
