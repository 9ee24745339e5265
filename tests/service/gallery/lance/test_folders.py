"""Folders: which are taken, and what is refused."""

from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from service.gallery import folder_of, open_gallery
from service.gallery.base import GalleryError
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item, same_item


async def test_folders_are_made_as_deep_as_needed(tmp_path: Path) -> None:
    location = str(tmp_path / "not" / "there" / "yet")
    gallery = await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE)
    await gallery.upsert([item("a")])
    await gallery.close()
    gallery = await open_gallery(f"file://{location}", dimension=DIMENSION, bundle_hash=BUNDLE)
    assert same_item(await gallery.get("a"), item("a"))
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


async def test_a_foreign_table_does_not_open(tmp_path: Path) -> None:
    db = await lancedb.connect_async(str(tmp_path))
    await db.create_table("items", pa.table({"id": ["a"]}))
    with pytest.raises(GalleryError, match="not a gallery"):
        await open_gallery(str(tmp_path), dimension=DIMENSION, bundle_hash=BUNDLE)


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


def test_a_folder_is_known_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for location in (str(tmp_path / "a b"), "a b", f"file://{tmp_path}/a%20b"):
        assert folder_of(location) == tmp_path / "a b"
    assert folder_of("s3://bucket/a") is None
