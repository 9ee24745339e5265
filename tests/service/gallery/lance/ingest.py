"""Writes to a gallery until it is killed, and says what it has begun and what was acknowledged, a line each.

Run by test_crash.py: `python -m tests.service.gallery.lance.ingest FOLDER ROUND`.
"""

import asyncio
import sys

from service.gallery.base import Item
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions
from service.gallery.lance.maintenance import Upkeep
from tests.service.gallery.lance.opened import open_lance
from tests.service.gallery.oracle import vector_of

OPTIONS = LanceOptions(
    upkeep=Upkeep(index_from_rows=200, optimize_every=12, keep_versions_s=0.2, tick_s=0.05, rest_per_work=1)
)
WRITERS = 6


def stored(item_id: str, revision: int) -> Item:
    """The item of that id and revision: everything about it follows from the two."""
    name = f"{item_id} {revision}"
    return Item(item_id, vector_of(name), float(len(name)), {"revision": revision, "name": name})


async def write(gallery: CheckedGallery, prefix: str) -> None:
    """Store item after item; replace every third once, and delete every fifth."""
    n = 0
    while True:
        ids = [f"{prefix}-{n}-{part}" for part in range(1 + n % 4)]
        await put(gallery, ids, revision=0)
        if n % 3 == 0:
            await put(gallery, ids, revision=1)
        if n % 5 == 0:
            say("deleting", ids)
            await gallery.delete(ids)
            say("deleted", ids)
        n += 1


async def put(gallery: CheckedGallery, ids: list[str], revision: int) -> None:
    """Store that revision of each id in one call."""
    say(f"putting{revision}", ids)
    await gallery.upsert([stored(one, revision) for one in ids])
    say(f"put{revision}", ids)


def say(event: str, ids: list[str]) -> None:
    """Print one whole line, at once."""
    sys.stdout.write("".join(f"{event} {one}\n" for one in ids))
    sys.stdout.flush()


async def main(folder: str, round_: str) -> None:
    """Several writers beside each other, until killed."""
    gallery = await open_lance(folder, OPTIONS)
    await asyncio.gather(*(write(gallery, f"{round_}-{writer}") for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
