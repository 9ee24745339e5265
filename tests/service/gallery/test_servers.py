"""Engines that are servers: killed and started again under a gallery that stays open, and shared by many writers."""

import asyncio
import dataclasses
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.gallery.base import GalleryUnavailable, Item
from service.gallery.checked import CheckedGallery
from tests.service.gallery.ingest import stored, write
from tests.service.gallery.oracle import item, same_item, vector_of
from tests.service.gallery.places import SERVERS, ServerPlace
from tests.service.gallery.told import Told, check, lines_until_killed
from tests.service.waiting import until

pytestmark = pytest.mark.parametrize("place", SERVERS, indirect=True)

KILLS = 4
WRITERS = 3
SEEDED = 1000  # enough for an index


@contextmanager
def down(place: ServerPlace) -> Iterator[None]:
    """The engine is killed, and started again at the end."""
    place.kill()
    try:
        yield
    finally:
        place.start()


@pytest.fixture
async def several(place: ServerPlace, location: str) -> AsyncIterator[list[CheckedGallery]]:
    """Galleries at one place, each with connections of its own, as those of several processes."""
    opened = [await place.open(location) for _ in range(WRITERS)]
    yield opened
    for gallery in opened:
        await gallery.close()


async def test_kill_9_of_the_engine_in_the_middle_of_writes_loses_nothing_acknowledged(
    place: ServerPlace, several: list[CheckedGallery]
) -> None:
    told, seeds = Told(), [f"seed-{n}" for n in range(SEEDED)]
    await several[0].upsert([stored(one, 0) for one in seeds])
    for event in ("putting0", "put0"):
        told.note(event, seeds)
    await several[0].maintain()
    assert several[0]._engine.approximate
    for round_ in range(KILLS):
        enough = len(told.acknowledged) + 100
        tasks = [
            asyncio.create_task(write(gallery, f"{round_}-{n}-{writer}", told.note))
            for n, gallery in enumerate(several)
            for writer in range(2)
        ]
        await until(partial(told.has_acknowledged, enough))
        await asyncio.sleep(random.uniform(0, 0.1))
        await asyncio.to_thread(place.kill)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(place.start)
        assert [type(end) for end in ends] == [GalleryUnavailable] * len(tasks), ends
        for gallery in several:
            await check(gallery, told)
    assert told.deleted


async def scanned(gallery: CheckedGallery) -> list[tuple[str, float]]:
    return [pair async for part in gallery.scan() for pair in part]


CALLS: dict[str, Callable[[CheckedGallery], Awaitable[Any]]] = {
    "upsert": lambda gallery: gallery.upsert([item("b")]),
    "get": lambda gallery: gallery.get("a"),
    "delete": lambda gallery: gallery.delete(["b"]),
    "delete_where": lambda gallery: gallery.delete_where({"colour": "red"}),
    "search": lambda gallery: gallery.search(vector_of("a"), 3, where={"n": {"gte": 0}}),
    "page": lambda gallery: gallery.page(10),
    "count": lambda gallery: gallery.count(),
    "walk": lambda gallery: gallery.walk(None, 10),
    "scan": scanned,
    "maintain": lambda gallery: gallery.maintain(),
}


async def test_without_the_engine_every_call_says_so_and_with_it_the_same_gallery_works_again(
    place: ServerPlace, location: str
) -> None:
    gallery = await place.open(location)
    await gallery.upsert([item("a", n=1)])
    for call in CALLS.values():
        await call(gallery)
    with down(place):
        for name, call in CALLS.items():
            with pytest.raises(GalleryUnavailable) as raised:
                async with asyncio.timeout(3 * place.options.timeout_s):
                    await call(gallery)
            assert "127.0.0.1" in str(raised.value), name
            assert str(place.options.password) not in str(raised.value)
        with pytest.raises(GalleryUnavailable):
            await place.open(location)
    for call in CALLS.values():
        await call(gallery)
    assert same_item(await gallery.get("a"), item("a", n=1))
    await gallery.close()


async def test_a_gallery_closes_without_the_engine(place: ServerPlace, location: str) -> None:
    gallery = await place.open(location)
    await gallery.upsert([item("a")])
    with down(place):
        await gallery.close()


def ingest_until_killed(place: ServerPlace, location: str, round_: int, repository: Path) -> list[str]:
    """Lines of a process killed at some moment after its first acknowledgements."""
    options = json.dumps(dataclasses.asdict(place.options))
    command = [sys.executable, "-m", "tests.service.gallery.ingest", location, options, str(round_)]
    return lines_until_killed(command, repository)


async def test_kill_9_of_a_writer_loses_nothing_acknowledged(
    place: ServerPlace, location: str, repository: Path
) -> None:
    told, gallery = Told(), await place.open(location)
    for round_ in range(KILLS):
        told.read(await asyncio.to_thread(ingest_until_killed, place, location, round_, repository))
        await check(gallery, told)
    assert told.deleted
    await gallery.close()


async def test_many_writers_of_the_same_ids_lose_and_double_nothing(several: list[CheckedGallery]) -> None:
    async def write_all(writer: int) -> None:
        order = np.random.default_rng(writer)
        for round_ in range(6):
            names = [f"shared-{n}" for n in order.permutation(30)]
            own = f"own-{writer}-{round_}"
            await several[writer].upsert([item(own), *(Item(one, vector_of(one), writer, {}) for one in names)])
            await asyncio.gather(
                several[writer].delete([f"shared-{n}" for n in order.permutation(30)[:10]]),
                several[writer].upsert([item(f"also-{own}")]),
                several[writer].delete_where({"nobody": "has this"}),
            )
        await several[writer].upsert([Item(f"shared-{n}", vector_of(f"shared-{n}"), writer, {}) for n in range(30)])

    await asyncio.gather(*(write_all(writer) for writer in range(WRITERS)))
    for gallery in several:
        items = await gallery.page(1000)
        assert len(items) == len({one.id for one in items}) == await gallery.count()
        own = {f"{kind}{writer}-{n}" for kind in ("own-", "also-own-") for writer in range(WRITERS) for n in range(6)}
        shared = {one.id: one for one in items if one.id.startswith("shared-")}
        assert {one.id for one in items} - shared.keys() == own
        assert shared.keys() == {f"shared-{n}" for n in range(30)}
        assert all(one.uncertainty in range(WRITERS) for one in shared.values())
