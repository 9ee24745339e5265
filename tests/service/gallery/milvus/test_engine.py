"""What is special to Milvus: its room, its parts, its graph, its consistency, and what it refuses."""

import json
import socket
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from service.gallery import open_gallery
from service.gallery.base import GalleryError, GalleryUnavailable, Item, NoRoom
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter
from service.gallery.milvus import MilvusEngine, engine, nearest
from service.gallery.options import Consistency, EngineOptions
from tests.service.gallery.oracle import BUNDLE, DIMENSION, expected_scores, item, same_item, unit, vector_of
from tests.service.gallery.places import Place

pytestmark = pytest.mark.parametrize("place", ["milvus"], indirect=True, scope="session")

ROOM = 65_535


def payload_of(size: int) -> dict[str, str]:
    """One that takes so many bytes as JSON."""
    return {"a": "ü" * ((size - 9) // 2) + "x" * ((size - 9) % 2)}


async def test_a_payload_as_long_as_there_is_room_for_comes_back(gallery: CheckedGallery) -> None:
    stored = Item("full", vector_of("full"), 0.5, {"a": ["x" * (ROOM - 16), "y"]})
    assert len(json.dumps(stored.payload)) == ROOM
    await gallery.upsert([stored])
    assert same_item(await gallery.get("full"), stored)


@pytest.mark.parametrize(
    "payload",
    [payload_of(ROOM + 1), {"many": list(range(4097))}, {f"n{n}": n for n in range(1600)}],
    ids=["bytes", "values", "numbers"],
)
async def test_a_payload_beyond_the_room_is_refused_before_anything_is_written(
    gallery: CheckedGallery, payload: dict[str, Any]
) -> None:
    with pytest.raises(NoRoom, match=r"payload.*Milvus keeps"):
        await gallery.upsert([item("good"), Item("long", vector_of("long"), 0.5, payload)])
    assert await gallery.count() == 0


async def test_many_long_rows_go_in_several_requests(gallery: CheckedGallery) -> None:
    items = [Item(f"i{n}", vector_of(f"i{n}"), n, {"a": "x" * 60_000}) for n in range(80)]
    await gallery.upsert(items)
    assert await gallery.count() == 80
    assert same_item(await gallery.get("i79"), items[79])


async def test_what_runs_over_many_items_goes_in_parts(
    gallery: CheckedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PART", "ITEMS_PART", "IDS_PER_STATEMENT"):
        monkeypatch.setattr(engine, name, 7)
    items = [item(f"i{n:02d}", uncertainty=(n * 7) % 10, even=n % 2) for n in range(50)]
    await gallery.upsert(items)
    ordered = [one.id for one in sorted(items, key=lambda one: (one.uncertainty, one.id))]
    for offset in (0, 3, 20, 45, 60):
        assert [one.id for one in await gallery.page(10, offset)] == ordered[offset : offset + 10]
    assert [one.id for one in await gallery.walk("i09", 20)] == [f"i{n}" for n in range(10, 30)]
    assert [one.id for one in await gallery.walk(None, 100)] == [one.id for one in items]
    assert sorted([one async for part in gallery.scan() for one in part]) == [
        (one.id, one.uncertainty) for one in items
    ]
    assert await gallery.delete_where({"even": 1}) == 25
    assert await gallery.count() == 25


async def test_an_exact_search_misses_nothing_whether_the_graph_is_built_or_not(gallery: CheckedGallery) -> None:
    """Vectors of no structure, the hardest for a graph and for cells; half of them pass the filter."""
    vectors = unit(np.random.default_rng(0).normal(size=(9000, DIMENSION)))
    items = [Item(f"i{n}", vector, 0.5, {"half": n % 2}) for n, vector in enumerate(vectors)]
    await gallery.upsert(items)
    assert len(items) // 2 > nearest.FEW

    async def check() -> None:
        for where in (None, {"half": 1}):
            query = vector_of(f"query {where}")
            found = await gallery._engine.nearest(query, 50, parse_filter(where), np.inf, exact=True)
            scores = sorted((match.score for match in found), reverse=True)
            np.testing.assert_allclose(scores, expected_scores(items, query, 50, where), atol=2e-6)

    await check()
    await gallery.maintain()
    assert isinstance(gallery._engine, MilvusEngine)
    assert await gallery._engine._settled()
    await check()


async def test_maintaining_few_items_or_none_ends(gallery: CheckedGallery) -> None:
    await gallery.maintain()
    await gallery.upsert([item("a")])
    await gallery.maintain()
    assert await gallery.count() == 1


async def test_a_session_sees_what_it_wrote_and_deleted(place: Place, location: str) -> None:
    gallery = await _open(location, replace(place.options, consistency=Consistency.SESSION))
    for n in range(5):
        await gallery.upsert([item("a", uncertainty=n)])
        found = await gallery.get("a")
        assert found is not None
        assert found.uncertainty == n
        assert await gallery.delete(["a"]) == 1
        assert await gallery.count() == 0
    await gallery.close()


async def test_a_bounded_read_never_fails_for_being_behind(place: Place, location: str) -> None:
    gallery = await _open(location, replace(place.options, consistency=Consistency.BOUNDED))
    await gallery.upsert([item(f"i{n}") for n in range(5)])
    assert len((await gallery.search(vector_of("i0"), 5)).matches) <= 5
    assert await gallery.delete(["i0", "i1", "missing"]) == 2  # what a write reads is never behind
    await gallery.close()


async def test_a_collection_loaded_in_another_number_of_replicas_is_left_alone(place: Place, location: str) -> None:
    gallery = await _open(location, place.options)
    await gallery.upsert([item("a")])
    with pytest.raises(GalleryError, match=r"loaded in 1 replicas, not 2: set CANDOR_GALLERY_REPLICAS=1"):
        await _open(location, replace(place.options, replicas=2))
    assert await gallery.count() == 1
    await gallery.close()


async def test_more_replicas_than_the_server_has_nodes_are_refused(place: Place, location: str) -> None:
    with pytest.raises(GalleryError, match=r"cannot be loaded in 2 replicas: .*nodes"):
        await _open(location, replace(place.options, replicas=2))


async def test_a_collection_that_is_no_gallery_does_not_open(place: Place, location: str) -> None:
    client = MilvusClient(uri=location.rpartition("/")[0].replace("milvus", "http"), dedicated=True)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
    client.create_collection(location.rpartition("/")[2], schema=schema)
    client.close()
    with pytest.raises(GalleryError, match="not a gallery of format 1"):
        await _open(location, place.options)


async def test_a_server_that_is_not_there_is_named_without_the_password(place: Place) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(GalleryUnavailable, match=server) as refused:
            await _open(f"milvus://me:hidden@{server}/items", replace(place.options, timeout_s=1))
    assert "hidden" not in str(refused.value)


async def test_a_closed_gallery_leaves_no_thread(place: Place, location: str) -> None:
    before = {thread.name for thread in threading.enumerate()}
    gallery = await _open(location, place.options)
    await gallery.upsert([item("a")])
    await gallery.maintain()
    await gallery.close()
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if not name.startswith("asyncio_")}  # the loop's own end with the loop


async def _open(location: str, options: EngineOptions) -> CheckedGallery:
    gallery = await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
    assert isinstance(gallery, CheckedGallery)
    return gallery
