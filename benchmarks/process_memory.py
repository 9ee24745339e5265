"""Memory of a process and its descendants, from Linux's /proc."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.cpu_time import PROC, family

KIB = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes of a process tree: `pss` counts a page that n processes share as 1/n in each, `rss` as a whole in each."""

    pss: int
    rss: int


def memory_of(pid: int) -> Memory:
    """What a process and its descendants hold now; 0 for those that have ended."""
    found = [_rollup(member) for member in family(pid)]
    return Memory(sum(each.pss for each in found), sum(each.rss for each in found))


class Peak:
    """The most that was seen, each number by itself."""

    def __init__(self) -> None:
        self.memory = Memory(0, 0)

    def see(self, memory: Memory) -> None:
        """Keep what is more."""
        self.memory = Memory(max(self.memory.pss, memory.pss), max(self.memory.rss, memory.rss))


@contextmanager
def watching(pid: int, every_s: float = 0.5) -> Iterator[Peak]:
    """Look every so often, and at both ends."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            peak.see(memory_of(pid))

    peak.see(memory_of(pid))
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.see(memory_of(pid))


def _rollup(pid: int) -> Memory:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return Memory(0, 0)
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return Memory(KIB * kib.get("Pss", 0), KIB * kib.get("Rss", 0))
