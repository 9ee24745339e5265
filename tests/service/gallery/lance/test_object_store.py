"""A gallery on an object store: moto's S3, over the network, with signatures checked."""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from service.gallery import open_gallery
from service.gallery.base import Gallery, GalleryError, GalleryUnavailable
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions, open_lance_engine
from service.gallery.lance.maintenance import Upkeep
from service.gallery.options import EngineOptions
from tests.service.bundle_factory import make_bundle
from tests.service.gallery.lance.object_store import ObjectStore, object_store
from tests.service.gallery.oracle import (
    BUNDLE,
    DIMENSION,
    expected_scores,
    item,
    items_in_clusters,
    same_item,
    vector_of,
)
from tests.service.images import png
from tests.service.process import PATIENCE_S, REPOSITORY, ready_client, serving

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def location() -> str:
    return f"s3://bucket/deep/gallery-{next(NUMBERS)}"


async def open_there(location: str, store: ObjectStore, bundle_hash: str = BUNDLE, **changes: str) -> Gallery:
    options = EngineOptions(storage={**store.storage, **changes})
    return await open_gallery(location, dimension=DIMENSION, bundle_hash=bundle_hash, options=options)


async def test_what_is_written_is_found_and_is_there_again(store: ObjectStore, location: str) -> None:
    items = items_in_clusters(300)
    gallery = await open_there(location, store)
    await gallery.upsert(items)
    await gallery.upsert([item("item-7", 0.1, replaced=True)])
    assert await gallery.delete(["item-1", "missing"]) == 1
    assert await gallery.delete_where({"rank": {"lt": 0}}) == 0
    await gallery.close()

    gallery = await open_there(location, store)
    assert await gallery.count() == 299
    assert same_item(await gallery.get("item-7"), item("item-7", 0.1, replaced=True))
    assert await gallery.get("item-1") is None
    left = [one for one in items if one.id not in ("item-1", "item-7")]
    found = await gallery.search(vector_of("q"), 10, where={"group": "g3"}, max_uncertainty=0.8)
    wanted = expected_scores(left, vector_of("q"), 10, {"group": "g3"}, 0.8)
    assert [match.score for match in found.matches] == pytest.approx(wanted, abs=1e-5)
    assert [one.id for one in await gallery.page(3)] == [
        one.id for one in sorted([*left, item("item-7", 0.1)], key=lambda one: (one.uncertainty, one.id))[:3]
    ]
    await gallery.close()


async def test_upkeep_builds_the_index_there(store: ObjectStore, location: str) -> None:
    options = LanceOptions(upkeep=Upkeep(index_from_rows=200, keep_versions_s=0.05), storage=store.storage)
    engine = await open_lance_engine(location, dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
    gallery = CheckedGallery(engine, DIMENSION)
    items = items_in_clusters(400)
    await gallery.upsert(items)
    await gallery.maintain()
    assert engine.approximate
    found = await gallery.search(items[5].embedding, 5)
    assert found.matches[0].id == "item-5"
    await gallery.close()


async def test_the_gallery_of_another_bundle_is_refused(store: ObjectStore, location: str) -> None:
    await (await open_there(location, store)).close()
    with pytest.raises(GalleryError, match="another bundle"):
        await open_there(location, store, bundle_hash="sha256:" + "b" * 64)


async def write_beside(location: str, store: ObjectStore, name: str, rounds: int) -> None:
    """A process that writes, until it is done."""
    command = ("-m", "tests.service.gallery.lance.write_beside", location, json.dumps(store.storage), name, str(rounds))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=REPOSITORY)
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 0


async def test_processes_that_write_at_once_lose_nothing(store: ObjectStore, location: str) -> None:
    names, rounds = ("a", "b", "c"), 12
    await asyncio.gather(*(write_beside(location, store, name, rounds) for name in names))
    gallery = await open_there(location, store)
    ids = [one.id for one in await gallery.walk(None, 1000)]
    kept = [number for number in range(rounds) if number % 3]
    assert ids == sorted(
        [f"{name}-{number}" for name in names for number in kept] + [f"shared-{number}" for number in range(rounds)]
    )
    for number in range(rounds):
        shared = await gallery.get(f"shared-{number}")
        assert any(same_item(shared, item(f"shared-{number}", by=name)) for name in names)
    await gallery.close()


async def test_what_one_has_open_another_writes(store: ObjectStore, location: str) -> None:
    first, second = await open_there(location, store), await open_there(location, store)
    for n in range(5):
        await (first, second)[n % 2].upsert([item(f"i{n}")])
        assert await first.count() == await second.count() == n + 1
    await first.close()
    await second.close()


async def test_without_conditional_writes_nothing_is_written(store: ObjectStore, location: str) -> None:
    with pytest.raises(GalleryError, match="conditional put is disabled"):
        await open_there(location, store, aws_conditional_put="disabled")


@pytest.mark.parametrize(
    ("changes", "bucket", "kind", "message"),
    [
        ({"aws_secret_access_key": "wrong"}, "bucket", GalleryError, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "nobody"}, "bucket", GalleryError, "InvalidAccessKeyId"),
        ({}, "another", GalleryError, "NoSuchBucket"),
        ({"allow_http": "false"}, "bucket", GalleryError, "allow_http"),
        ({"aws_endpoint": "http://127.0.0.1:9"}, "bucket", GalleryUnavailable, "CANDOR_GALLERY_STORAGE"),
    ],
)
async def test_a_store_that_cannot_be_used_is_told_in_short(
    store: ObjectStore, changes: dict[str, str], bucket: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(GalleryError, match=message) as told:
        async with asyncio.timeout(PATIENCE_S):
            await open_there(f"s3://{bucket}/gallery", store, **changes)
    assert type(told.value) is kind
    assert len(str(told.value)) < 500


async def test_a_store_that_never_answers_is_given_up(location: str) -> None:
    with object_store() as store:
        store.pause()
        options = LanceOptions(storage=store.storage, open_timeout_s=1.0)
        with pytest.raises(GalleryUnavailable, match="no answer within 1 s"):
            async with asyncio.timeout(PATIENCE_S):
                await open_lance_engine(location, dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
        store.resume()
        gallery = await open_there(location, store)
        assert await gallery.count() == 0
        await gallery.close()


async def test_a_store_that_goes_away_is_unavailable(location: str) -> None:
    with object_store() as store:
        gallery = await open_there(location, store)
        await gallery.upsert([item("a")])
        store.kill()
        for attempt in (
            gallery.count,
            partial(gallery.upsert, [item("b")]),
            partial(gallery.search, vector_of("q"), 1),
            partial(gallery.delete, ["a"]),
        ):
            with pytest.raises(GalleryUnavailable):
                async with asyncio.timeout(PATIENCE_S):
                    await attempt()
        await gallery.close()


def test_the_server_keeps_its_gallery_there(store: ObjectStore, location: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    settings = {
        "CANDOR_GALLERY": location,
        "CANDOR_GALLERY_STORAGE": json.dumps(dict(store.storage)),
        "CANDOR_POLICIES": str(tmp_path / "policies.sqlite"),
        "CANDOR_AUTOTUNE": "false",
    }
    headers = {"content-type": "image/png"}
    with serving(bundle, tmp_path, **settings) as server, ready_client(server) as client:
        for seed in range(3):
            assert client.put(f"/gallery/{seed}", content=png(seed), headers=headers).status_code == 200
        assert client.delete("/gallery/2").status_code == 200
    with serving(bundle, tmp_path, "--workers", "2", **settings) as server, ready_client(server) as client:
        found = client.post("/retrieve", content=png(1), headers=headers).json()
        page = client.get("/gallery").json()
    assert found["matches"][0]["id"] == "1"
    assert (page["count"], page["engine"]) == (2, "lancedb")
    with serving(make_bundle(tmp_path / "other", scale=2.0), tmp_path, **settings) as server:
        assert server.wait() == 1
    assert "another bundle" in server.errors
    assert "Traceback" not in server.errors
