"""A process that writes is killed, again and again: what it acknowledged is there, and nothing else is half there."""

import sys
from pathlib import Path

from tests.service.gallery.ingest import stored
from tests.service.gallery.lance.opened import open_lance
from tests.service.gallery.places import BY_HAND
from tests.service.gallery.told import Told, check, lines_until_killed

KILLS = 5


def ingest_until_killed(folder: Path, round_: int, repository: Path) -> list[str]:
    """Lines of a process killed at some moment after its first acknowledgements."""
    command = [sys.executable, "-m", "tests.service.gallery.lance.ingest", str(folder), str(round_)]
    return lines_until_killed(command, repository)


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path, repository: Path) -> None:
    told = Told()
    for round_ in range(KILLS):
        told.read(ingest_until_killed(tmp_path, round_, repository))
        gallery = await open_lance(str(tmp_path), BY_HAND)
        await check(gallery, told)
        await gallery.upsert([stored(f"survivor-{round_}", 0)])
        told.begun[f"survivor-{round_}"] = told.acknowledged[f"survivor-{round_}"] = 0
        await gallery.close()
    assert len(told.acknowledged) >= 50
    assert told.deleted
