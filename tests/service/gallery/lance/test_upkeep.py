"""Background upkeep: what it does to the table, and that readers and writers go on meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.gallery.base import GalleryError
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions
from service.gallery.lance.maintenance import MAX_SEGMENTS, Upkeep
from tests.service.gallery.lance.opened import engine_of, open_lance
from tests.service.gallery.oracle import item, items_in_clusters, same_item, vector_of

EAGER = Upkeep(index_from_rows=150, optimize_every=5, keep_versions_s=0.05, tick_s=0.1, rest_per_work=0)


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 300) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_many_writes_leave_few_files_and_bounded_disk(gallery: CheckedGallery, tmp_path: Path) -> None:
    sizes = []
    for _ in range(3):
        for n in range(15):
            await gallery.upsert([item(f"i{n}")])
        await asyncio.sleep(0.1)
        await gallery.maintain()
        await asyncio.sleep(0.1)
        await gallery.maintain()
        sizes.append(size_on_disk(tmp_path))
    stats = await engine_of(gallery).stats()
    assert stats.rows == 15
    assert stats.fragments <= 2
    assert stats.versions <= 10
    assert sizes[-1] <= 2 * sizes[0]


async def test_upkeep_comes_by_itself_and_disturbs_neither_readers_nor_writers(tmp_path: Path) -> None:
    options = LanceOptions(upkeep=EAGER)
    gallery = await open_lance(str(tmp_path), options)
    await gallery.upsert([item("anchor")])
    stop = asyncio.Event()
    reads = 0

    async def read() -> None:
        nonlocal reads
        while not stop.is_set():
            assert (await gallery.search(vector_of("anchor"), 1)).matches[0].id == "anchor"
            assert same_item(await gallery.get("anchor"), item("anchor"))
            reads += 1
            await asyncio.sleep(0.01)

    async def write() -> None:
        for start in range(0, 200, 20):
            await gallery.upsert([item(f"i{n}", n=n) for n in range(start, start + 20)])
            await gallery.delete([f"i{start}"])

    async def is_indexed() -> bool:
        return (await engine_of(gallery).stats()).vector_index

    reader = asyncio.create_task(read())
    await write()
    await eventually(is_indexed)
    await write()
    stop.set()
    await reader
    assert reads > 1
    assert await gallery.count() == 1 + 200 - 10
    for n in (1, 99, 199):
        assert (await gallery.search(vector_of(f"i{n}"), 1)).matches[0].id == f"i{n}"
        assert same_item(await gallery.get(f"i{n}"), item(f"i{n}", n=n))
    await gallery.close()


async def test_no_index_is_built_below_the_threshold(gallery: CheckedGallery) -> None:
    await gallery.upsert(items_in_clusters(999))
    await gallery.maintain()
    assert not (await engine_of(gallery).stats()).vector_index
    await gallery.upsert([item("the thousandth")])
    await gallery.maintain()
    stats = await engine_of(gallery).stats()
    assert stats.vector_index
    assert stats.unindexed_rows == 0


async def test_an_index_in_too_many_pieces_is_built_anew(gallery: CheckedGallery) -> None:
    await gallery.upsert(items_in_clusters(1000))
    await gallery.maintain()
    for n in range(MAX_SEGMENTS):
        await gallery.upsert([item(f"new {n}")])
        await gallery.maintain()
    index = next(one for one in await engine_of(gallery)._table.list_indices() if "embedding" in one.columns)
    assert index.num_segments <= 2
    for n in range(MAX_SEGMENTS):
        assert (await gallery.search(vector_of(f"new {n}"), 1)).matches[0].id == f"new {n}"


async def test_an_index_outlives_its_items(gallery: CheckedGallery) -> None:
    await gallery.upsert(items_in_clusters(1000))
    await gallery.maintain()
    assert await gallery.delete_where({"rank": {"gte": 1}}) == 999
    await gallery.maintain()
    assert len((await gallery.search(vector_of("any"), 10)).matches) == 1
    assert await gallery.delete_where({"rank": 0}) == 1
    await gallery.maintain()
    assert (await gallery.search(vector_of("any"), 10)).matches == []
    await gallery.upsert([item("again")])
    assert (await gallery.search(vector_of("any"), 10)).matches[0].id == "again"


async def test_an_index_is_known_after_reopening(tmp_path: Path) -> None:
    options = LanceOptions(upkeep=Upkeep(index_from_rows=1000, optimize_every=1_000_000))
    for reopened in (False, True):
        gallery = await open_lance(str(tmp_path), options)
        if not reopened:
            await gallery.upsert(items_in_clusters(1000))
            await gallery.maintain()
        assert (await engine_of(gallery).stats()).vector_index
        items = items_in_clusters(1000)
        assert (await gallery.search(items[7].embedding, 1)).matches[0].id == items[7].id
        await gallery.close()


async def test_a_failure_is_visible_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = await open_lance(str(tmp_path), LanceOptions(upkeep=EAGER))
    optimize, errors_seen = engine_of(gallery)._table.optimize, list[str | None]()

    async def fail_once(**kwargs: Any) -> Any:
        errors_seen.append((await engine_of(gallery).stats()).last_error)
        if len(errors_seen) == 1:
            raise RuntimeError("commit conflict")
        return await optimize(**kwargs)

    async def recovered() -> bool:
        return len(errors_seen) > 1 and (await engine_of(gallery).stats()).last_error is None

    monkeypatch.setattr(engine_of(gallery)._table, "optimize", fail_once)
    for n in range(EAGER.optimize_every):
        await gallery.upsert([item(f"i{n}")])
    await eventually(recovered)
    assert errors_seen[:2] == [None, "commit conflict"]
    await gallery.close()


async def test_stats_are_read_while_old_versions_are_deleted(tmp_path: Path) -> None:
    upkeep = Upkeep(keep_versions_s=0.02, tick_s=3600)
    gallery = await open_lance(str(tmp_path), LanceOptions(upkeep=upkeep, sync=False))

    async def write_and_clean() -> None:
        for n in range(30):
            await gallery.upsert([item(f"i{n}")])
            await gallery.maintain()

    writing = asyncio.create_task(write_and_clean())
    while not writing.done():
        assert (await engine_of(gallery).stats()).versions >= 1
    await writing
    await gallery.close()


async def test_rounds_with_nothing_to_do_leave_the_table_as_it_is(tmp_path: Path) -> None:
    upkeep = Upkeep(index_from_rows=150, keep_versions_s=0.02, tick_s=3600)
    gallery = await open_lance(str(tmp_path), LanceOptions(upkeep=upkeep))
    await gallery.upsert(items_in_clusters(200))
    versions = []
    for _ in range(3):
        await gallery.maintain()
        versions.append(await engine_of(gallery)._table.version())
        await asyncio.sleep(0.05)
    assert versions[1] == versions[2]
    await gallery.close()


async def test_one_of_several_processes_keeps_the_table_and_the_others_follow(tmp_path: Path) -> None:
    options = LanceOptions(upkeep=EAGER)
    galleries = [await open_lance(str(tmp_path), options) for _ in range(2)]
    first, second = galleries
    rounds = {id(gallery): 0 for gallery in galleries}
    for gallery in galleries:
        optimize = engine_of(gallery)._table.optimize

        async def counting(optimize: Any = optimize, owner: int = id(gallery), **kwargs: Any) -> Any:
            rounds[owner] += 1
            return await optimize(**kwargs)

        engine_of(gallery)._table.optimize = counting

    async def both_indexed() -> bool:
        return all(engine_of(gallery)._maintenance.indexed for gallery in galleries)

    async def the_other_has_taken_over() -> bool:
        return rounds[id(idle)] > 0

    for start in range(0, 200, 20):  # by the two in turn: the one that keeps the table has to see the other's
        await galleries[start // 20 % 2].upsert([item(f"i{n}", n=n) for n in range(start, start + 20)])
    await eventually(both_indexed)
    assert sorted(count > 0 for count in rounds.values()) == [False, True]
    idle, keeper = (first, second) if rounds[id(second)] else (second, first)
    await keeper.close()
    for n in range(EAGER.optimize_every):
        await idle.upsert([item(f"later {n}")])
    await eventually(the_other_has_taken_over)
    await idle.close()


async def test_a_merge_that_lost_to_a_write_is_made_again_while_writes_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LanceOptions(upkeep=Upkeep(tick_s=3600))
    gallery = await open_lance(str(tmp_path), options)
    await gallery.upsert([item("a")])
    optimize, rounds = engine_of(gallery)._table.optimize, 0
    write: asyncio.Task[None] | None = None

    async def lose_once(**kwargs: Any) -> Any:
        nonlocal rounds, write
        rounds += 1
        write = asyncio.create_task(gallery.upsert([item(f"during {rounds}")]))
        await asyncio.sleep(0.3)
        written_meanwhile.append(write.done())
        if rounds == 1:
            raise RuntimeError("Rewrite preempted by concurrent Update")
        return await optimize(**kwargs)

    written_meanwhile: list[bool] = []
    monkeypatch.setattr(engine_of(gallery)._table, "optimize", lose_once)
    with pytest.raises(GalleryError, match="preempted"):
        await gallery.maintain()
    await gallery.maintain()
    assert write is not None
    await write
    await gallery.maintain()
    assert written_meanwhile == [True, False, True]
    assert await gallery.count() == 4
    await write
    await gallery.close()
