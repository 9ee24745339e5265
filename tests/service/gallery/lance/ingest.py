"""Writes to a gallery in a folder until it is killed, and says what it has begun and what was acknowledged.

Run by test_crash.py: `python -m tests.service.gallery.lance.ingest FOLDER ROUND`.
"""

import asyncio
import sys

from service.gallery.lance.engine import LanceOptions
from service.gallery.lance.maintenance import Upkeep
from tests.service.gallery.ingest import WRITERS, write
from tests.service.gallery.lance.opened import open_lance

OPTIONS = LanceOptions(
    upkeep=Upkeep(index_from_rows=200, optimize_every=12, keep_versions_s=0.2, tick_s=0.05, rest_per_work=1)
)


async def main(folder: str, round_: str) -> None:
    """Several writers beside each other, until killed."""
    gallery = await open_lance(folder, OPTIONS)
    await asyncio.gather(*(write(gallery, f"{round_}-{writer}") for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
