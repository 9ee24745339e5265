"""Opening: which places are taken, and whose items may be served."""

import os
import sys
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from service.gallery import open_gallery
from service.gallery.base import GalleryError
from service.gallery.lance import LanceGallery, LanceOptions, open_lance_gallery
from tests.service.gallery.conftest import BY_HAND
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item, same_item

OTHER = "sha256:" + "b" * 64


async def test_items_survive_closing(tmp_path: Path) -> None:
    location = str(tmp_path / "not" / "there" / "yet")
    for n in range(3):
        gallery = await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE)
        assert gallery.engine == "lancedb"
        assert await gallery.count() == n
        await gallery.upsert([item(f"i{n}", n=n)])
        await gallery.close()
    gallery = await open_gallery(f"file://{location}", dimension=DIMENSION, bundle_hash=BUNDLE)
    for n in range(3):
        assert same_item(await gallery.get(f"i{n}"), item(f"i{n}", n=n))
    await gallery.close()


async def test_a_relative_folder_and_home_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    gallery = await open_gallery("here it's", dimension=DIMENSION, bundle_hash=BUNDLE)
    await gallery.upsert([item("a")])
    await gallery.close()
    gallery = await open_gallery("~/here it's", dimension=DIMENSION, bundle_hash=BUNDLE)
    assert await gallery.count() == 1
    await gallery.close()


async def test_the_gallery_of_another_bundle_does_not_open(tmp_path: Path) -> None:
    gallery = await open_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE)
    await gallery.upsert([item("a")])
    await gallery.close()
    for dimension, bundle_hash in ((DIMENSION, OTHER), (DIMENSION + 1, BUNDLE), (DIMENSION + 1, OTHER)):
        with pytest.raises(GalleryError) as refused:
            await open_gallery(str(tmp_path), dimension=dimension, bundle_hash=bundle_hash)
        for part in (BUNDLE, bundle_hash, f"dimension {DIMENSION}", f"dimension {dimension}", "CANDOR_GALLERY"):
            assert part in str(refused.value)
    gallery = await open_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE)
    assert await gallery.count() == 1
    await gallery.close()


async def test_a_foreign_table_does_not_open(tmp_path: Path) -> None:
    db = await lancedb.connect_async(str(tmp_path))
    await db.create_table("items", pa.table({"id": ["a"]}))
    with pytest.raises(GalleryError, match="not a gallery"):
        await open_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE)


@pytest.mark.parametrize("location", ["postgresql://host/db", "http://host", "s4://bucket"])
async def test_an_unknown_kind_of_place_is_refused(location: str) -> None:
    with pytest.raises(GalleryError, match="s3://"):
        await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE)


async def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError, match="cannot open the gallery"):
        await open_gallery(str(tmp_path / "file"), dimension=DIMENSION, bundle_hash=BUNDLE)


async def test_a_folder_left_by_a_death_while_it_was_made_opens(tmp_path: Path) -> None:
    (tmp_path / "items.lance" / "_versions").mkdir(parents=True)
    gallery = await open_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE)
    await gallery.upsert([item("a")])
    assert await gallery.count() == 1
    await gallery.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files from /proc")
async def test_each_commit_is_synced_before_it_is_acknowledged(
    gallery: LanceGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "service.gallery.disk.os.fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    await gallery.upsert([item("a")])
    assert any(path.endswith(".manifest") for path in synced)
    assert any(path.endswith(".lance") and "/data/" in path for path in synced)
    assert any(path.endswith("/_versions") for path in synced)
    synced.clear()
    await gallery.delete(["a"])
    assert any(path.endswith(".manifest") for path in synced)


async def test_syncing_can_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.disk.os.fsync", lambda _: pytest.fail("synced"))
    options = LanceOptions(upkeep=BY_HAND.upkeep, sync=False)
    gallery = await open_lance_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
    await gallery.upsert([item("a")])
    assert await gallery.count() == 1
    await gallery.close()
