"""What can be told of a gallery without opening it, on every engine, and that telling it changes nothing."""

from pathlib import Path

import pytest

from service.gallery import survey_gallery
from service.gallery.base import GalleryError
from service.gallery.lance.disk import FileLock
from service.gallery.lance.opening import lock_path
from service.gallery.survey import Survey
from tests.service.examination import examine
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item, items_in_clusters
from tests.service.gallery.places import SERVERS, Place, ServerPlace
from tests.service.gallery.test_open import OTHER
from tests.service.process import ready_client, serving


async def survey(place: Place, location: str, dimension: int = DIMENSION, bundle_hash: str = BUNDLE) -> Survey:
    return await survey_gallery(location, dimension=dimension, bundle_hash=bundle_hash, options=place.options)


def files(folder: Path | None) -> dict[Path, int]:
    return {} if folder is None else {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


async def test_where_no_gallery_is_none_is_made(place: Place, location: str) -> None:
    first, second = await survey(place, location), await survey(place, location)

    assert first == second
    assert first.items is None
    assert first.writable
    assert first.engine.lower().startswith(place.name)


async def test_a_gallery_is_told_as_it_is(place: Place, location: str) -> None:
    gallery = await place.open(location)
    await gallery.upsert([item(f"i{n}") for n in range(3)])
    await gallery.maintain()
    before = files(place.files)

    found = await survey(place, location)

    assert found.items == 3
    assert found.writable
    assert files(place.files) == before
    await gallery.close()


async def test_the_gallery_of_another_bundle_is_told(place: Place, location: str) -> None:
    await (await place.open(location)).close()

    with pytest.raises(GalleryError, match="another bundle") as refused:
        await survey(place, location, DIMENSION + 1, OTHER)
    assert f"dimension {DIMENSION + 1}" in str(refused.value)


@pytest.mark.parametrize("place", ["lancedb", "postgresql"], indirect=True)
async def test_items_that_no_index_holds_are_counted(place: Place, location: str) -> None:
    gallery = await place.open(location)
    await gallery.upsert(items_in_clusters(1000))
    without = await survey(place, location)
    await gallery.maintain()
    indexed = await survey(place, location)
    await gallery.close()

    assert (without.items, without.unindexed) == (1000, 1000)
    assert (indexed.items, indexed.unindexed) == (1000, 0)


@pytest.mark.parametrize("place", ["lancedb"], indirect=True)
async def test_a_gallery_that_another_process_looks_after_is_told(place: Place, location: str) -> None:
    await (await place.open(location)).close()
    alone = await survey(place, location)
    lock = FileLock(lock_path(location))
    assert lock.acquire()
    held = await survey(place, location)
    lock.release()

    assert not alone.in_use
    assert held.in_use
    assert not (await survey(place, location)).in_use


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
async def test_a_table_that_may_not_be_written_is_told(place: Place, location: str) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    await (await place.open(location)).close()
    connection = await asyncpg.connect(location, user=place.options.user, password=place.options.password)
    await connection.execute(f"REVOKE DELETE ON candor_items FROM {place.options.user}")
    await connection.close()

    assert not (await survey(place, location)).writable


@pytest.mark.parametrize("place", SERVERS, indirect=True)
def test_the_doctor_finds_an_engine_that_runs_and_one_that_is_away(
    place: ServerPlace, location: str, bundle_path: Path, tmp_path: Path
) -> None:
    options = ("--bundle", str(bundle_path), "--gallery", location, "--port", "0")
    settings = {**place.settings, "CANDOR_POLICIES": str(tmp_path / "policies"), "CANDOR_GALLERY_TIMEOUT_S": "5"}
    before = examine(*options, cwd=tmp_path, **settings)
    with serving(bundle_path, location, **settings) as server, ready_client(server):
        running = examine(*options, cwd=tmp_path, **settings)
    place.kill()
    try:
        away = examine(*options, cwd=tmp_path, **settings)
    finally:
        place.start()

    assert before.code == running.code == 0, before.output + running.output
    assert "none yet" in before.one("gallery_to_be_made")["found"]
    assert "0 item(s)" in running.one("gallery_opened")["found"]
    assert away.code == 1
    assert "Start the engine" in away.one("gallery_unreachable")["advice"]
    if place.options.password is not None:
        assert place.options.password not in before.output + running.output + away.output
