"""Writes to a gallery until it fails or its process is killed, and says what was begun and what was acknowledged.

Run by test_servers.py: `python -m tests.service.gallery.ingest LOCATION OPTIONS ROUND`.
"""

import asyncio
import json
import sys
from collections.abc import Callable

from service.gallery import open_gallery
from service.gallery.base import Gallery, Item
from service.gallery.options import EngineOptions
from tests.service.gallery.oracle import BUNDLE, DIMENSION, vector_of

WRITERS = 6

Say = Callable[[str, list[str]], None]


def stored(item_id: str, revision: int) -> Item:
    """The item of that id and revision: everything about it follows from the two."""
    name = f"{item_id} {revision}"
    return Item(item_id, vector_of(name), float(len(name)), {"revision": revision, "name": name})


def say(event: str, ids: list[str]) -> None:
    """Print a whole line for each id, at once."""
    sys.stdout.write("".join(f"{event} {one}\n" for one in ids))
    sys.stdout.flush()


async def write(gallery: Gallery, prefix: str, say: Say = say) -> None:
    """Store item after item; replace every third once, and delete every fifth."""
    n = 0
    while True:
        ids = [f"{prefix}-{n}-{part}" for part in range(1 + n % 4)]
        await put(gallery, ids, 0, say)
        if n % 3 == 0:
            await put(gallery, ids, 1, say)
        if n % 5 == 0:
            say("deleting", ids)
            await gallery.delete(ids)
            say("deleted", ids)
        n += 1


async def put(gallery: Gallery, ids: list[str], revision: int, say: Say) -> None:
    """Store that revision of each id in one call."""
    say(f"putting{revision}", ids)
    await gallery.upsert([stored(one, revision) for one in ids])
    say(f"put{revision}", ids)


async def main(location: str, options: str, round_: str) -> None:
    """Several writers beside each other, until killed; options are a JSON object of `EngineOptions`."""
    gallery = await open_gallery(
        location, dimension=DIMENSION, bundle_hash=BUNDLE, options=EngineOptions(**json.loads(options))
    )
    await asyncio.gather(*(write(gallery, f"{round_}-{writer}") for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
