"""Commits: how many versions of the table writes make, and that each is on disk before it is acknowledged."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions
from tests.service.gallery.lance.opened import engine_of, open_lance
from tests.service.gallery.oracle import item, same_item
from tests.service.gallery.places import BY_HAND


async def test_nothing_to_do_is_no_commit(gallery: CheckedGallery) -> None:
    versions = (await engine_of(gallery).stats()).versions
    await gallery.upsert([])
    assert await gallery.delete([]) == 0
    assert await gallery.delete(["missing"]) == 0
    assert (await engine_of(gallery).stats()).versions == versions


async def test_concurrent_upserts_share_commits(gallery: CheckedGallery) -> None:
    before = (await engine_of(gallery).stats()).versions
    await asyncio.gather(*(gallery.upsert([item(f"i{n}")]) for n in range(200)))
    assert (await engine_of(gallery).stats()).versions - before <= 5
    assert await gallery.count() == 200
    for n in (0, 99, 199):
        assert same_item(await gallery.get(f"i{n}"), item(f"i{n}"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files from /proc")
async def test_each_commit_is_synced_before_it_is_acknowledged(
    gallery: CheckedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "service.gallery.lance.disk.os.fsync",
        lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")),
    )
    await gallery.upsert([item("a")])
    assert any(path.endswith(".manifest") for path in synced)
    assert any(path.endswith(".lance") and "/data/" in path for path in synced)
    assert any(path.endswith("/_versions") for path in synced)
    synced.clear()
    await gallery.delete(["a"])
    assert any(path.endswith(".manifest") for path in synced)


async def test_syncing_can_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.lance.disk.os.fsync", lambda _: pytest.fail("synced"))
    options = LanceOptions(upkeep=BY_HAND.upkeep, sync=False)
    gallery = await open_lance(str(tmp_path), options)
    await gallery.upsert([item("a")])
    assert await gallery.count() == 1
    await gallery.close()
