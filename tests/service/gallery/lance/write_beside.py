"""Writes to a gallery on an object store beside others, as a process of its own.

Run by test_object_store.py: `python -m tests.service.gallery.lance.write_beside LOCATION STORAGE_JSON NAME ROUNDS`.
"""

import asyncio
import json
import sys

from service.gallery import open_gallery
from service.gallery.options import EngineOptions
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item


async def main(location: str, storage: str, name: str, rounds: str) -> None:
    """An item of its own and one that others write too, every round; each third of its own is deleted again."""
    options = EngineOptions(storage=json.loads(storage))
    gallery = await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
    for number in range(int(rounds)):
        await gallery.upsert([item(f"{name}-{number}", by=name), item(f"shared-{number}", by=name)])
        if number % 3 == 0:
            assert await gallery.delete([f"{name}-{number}"]) == 1
    await gallery.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
