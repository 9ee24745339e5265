"""The real command, in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from models.bundle import Bundle
from service.gallery import open_gallery
from service.gallery.base import Item
from tests.service.gallery.oracle import items_in_clusters
from tests.service.process import PATIENCE_S, REPOSITORY

CANDOR = (sys.executable, "-c", "import candor; candor.main()", "gallery")


def candor(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`candor gallery ...`, run to its end."""
    return subprocess.run(
        [*CANDOR, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def killed(arguments: Sequence[object], when: Callable[[], bool]) -> None:
    """Run `candor gallery ...`, and kill it with SIGKILL in the middle, once a condition holds."""
    command = [*CANDOR, *map(str, arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE_S
        while not when():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -9, "it ended before it could be killed"


async def fill(location: object, bundle: Bundle, count: int) -> list[Item]:
    """Put items into a gallery of a bundle, and close it; they come back in order of id."""
    items = items_in_clusters(count, bundle.manifest.dimension)
    gallery = await open_gallery(str(location), dimension=bundle.manifest.dimension, bundle_hash=bundle.hash)
    await gallery.upsert(items)
    await gallery.close()
    return sorted(items, key=lambda item: item.id)


async def contents(location: object, bundle: Bundle) -> list[Item]:
    """What a gallery holds, in order of id."""
    gallery = await open_gallery(str(location), dimension=bundle.manifest.dimension, bundle_hash=bundle.hash)
    try:
        return await gallery.walk(None, 1_000_000)
    finally:
        await gallery.close()
