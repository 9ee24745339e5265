"""What writers said before they died, and whether the gallery holds it."""

import random
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from service.gallery.base import Gallery
from tests.service.gallery.ingest import stored
from tests.service.gallery.oracle import same_item


@dataclass
class Told:
    """What writers of `ingest` said, by id."""

    begun: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    def has_acknowledged(self, count: int) -> bool:
        """Whether so many ids were stored at some time."""
        return len(self.acknowledged) >= count

    def read(self, lines: Iterable[str]) -> None:
        """Take in lines; the last may be cut off."""
        for line in lines:
            if line.endswith("\n"):
                event, item_id = line.split()
                self.note(event, [item_id])

    def note(self, event: str, ids: list[str]) -> None:
        """Take in one event of these ids."""
        if event in ("deleting", "deleted"):
            {"deleting": self.deleting, "deleted": self.deleted}[event].update(ids)
        else:
            revisions = self.begun if event.startswith("putting") else self.acknowledged
            revisions.update(dict.fromkeys(ids, int(event[-1])))


async def check(gallery: Gallery, told: Told) -> None:
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


def lines_until_killed(command: Sequence[str], repository: Path) -> list[str]:
    """What a process said that was killed at some moment after its first acknowledgements."""
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(islice(process.stdout, random.randint(100, 500)))
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return lines
