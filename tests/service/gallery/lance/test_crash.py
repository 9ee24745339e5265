"""A process that writes is killed, again and again: what it acknowledged is there, and nothing else is half there."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from service.gallery.checked import CheckedGallery
from tests.service.gallery.lance.ingest import stored
from tests.service.gallery.lance.opened import open_lance
from tests.service.gallery.oracle import same_item
from tests.service.gallery.places import BY_HAND

KILLS = 5


@dataclass
class Told:
    """What the killed processes said, by id."""

    begun: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    def read(self, lines: Iterable[str]) -> None:
        """Take in lines; the last may be cut off."""
        for line in lines:
            if line.endswith("\n"):
                event, item_id = line.split()
                self._note(event, item_id)

    def _note(self, event: str, item_id: str) -> None:
        if event in ("deleting", "deleted"):
            {"deleting": self.deleting, "deleted": self.deleted}[event].add(item_id)
        else:
            revisions = self.begun if event.startswith("putting") else self.acknowledged
            revisions[item_id] = int(event[-1])


def ingest_until_killed(folder: Path, round_: int, repository: Path) -> list[str]:
    """Lines of a process killed at some moment after its first acknowledgements."""
    command = [sys.executable, "-m", "tests.service.gallery.lance.ingest", str(folder), str(round_)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(islice(process.stdout, random.randint(100, 500)))
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return lines


async def check(gallery: CheckedGallery, told: Told) -> None:
    """Every acknowledged write holds, and every item there is one that somebody meant to store."""
    items = {one.id: one for one in await gallery.page(1_000_000)}
    assert len(items) == await gallery.count()
    assert not told.deleted & items.keys()
    missing = told.acknowledged.keys() - items.keys() - told.deleting
    assert not missing
    for item_id, found in items.items():
        revision = int(found.payload["revision"])
        assert same_item(found, stored(item_id, revision))
        assert told.acknowledged.get(item_id, 0) <= revision <= told.begun[item_id]
    for item_id in sorted(items)[:: 1 + len(items) // 5]:
        assert (await gallery.search(items[item_id].embedding, 1)).matches[0].id == item_id


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
