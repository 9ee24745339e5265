"""What every peer's process does once its index stands: the same queries under the same conditions, one at a time.

    python -m benchmarks.retrieval.peer qdrant CORPUS_FOLDER SECONDS ROUNDS OUT.json

It runs in the environment that `requirements-peers.txt` describes.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cpu_time import metered
from benchmarks.retrieval.corpus_files import Files, read_corpus
from benchmarks.retrieval.data import CONDITIONS, Condition, make_payload
from benchmarks.retrieval.measure import medians, memory_mib, search_figures

M, EF_CONSTRUCTION, EF_SEARCH = 20, 300, 64  # LanceDB's own defaults for its graph, and candor's effort
WARM_UP = 100  # queries
PEERS = ("qdrant", "pgvector")

Search = Callable[[], list[int]]


@dataclass(frozen=True)
class Built:
    """A peer that holds the corpus.

    Attributes:
        pid: the process that holds the data.
        prepare: makes the search for each of the queries, under a condition; parameters are converted here, untimed.
        figures: version, settings, how long loading and building took, size on disk.
    """

    pid: int
    prepare: Callable[[Condition], Sequence[Search]]
    figures: dict[str, Any]


Build = Callable[[Files], AbstractContextManager[Built]]


def main(argv: Sequence[str]) -> None:
    """Load, build, measure, and write what came out."""
    name, corpus_folder, seconds, rounds, out = argv
    files = read_corpus(Path(corpus_folder))
    build: Build = import_module(f"benchmarks.retrieval.peer_{name}").build
    with build(files) as built:
        conditions = {each.name: measure(built, each, files, float(seconds), int(rounds)) for each in CONDITIONS}
        result = {**built.figures, "memory_mib": memory_mib(built.pid), "conditions": conditions}
    Path(out).write_text(json.dumps(result))


def measure(built: Built, condition: Condition, files: Files, seconds: float, rounds: int) -> dict[str, Any]:
    """Medians of that many rounds of `search_figures`; the CPU of a server that is a child counts in."""
    searches = built.prepare(condition)
    for search in searches[:WARM_UP]:
        search()
    done = []
    for _ in range(rounds):
        (latencies, found), usage = metered(lambda: _search_all(searches, seconds), os.getpid())
        done.append(search_figures(latencies, usage, found, files.truth[condition.name]))
    return medians(done)


def payloads(files: Files, start: int, stop: int) -> list[dict[str, Any]]:
    """What is stored with each of these rows."""
    return [make_payload(row, int(files.parts[row])) for row in range(start, stop)]


def _search_all(searches: Sequence[Search], seconds: float) -> tuple[list[float], dict[int, list[int]]]:
    latencies: list[float] = []
    found: dict[int, list[int]] = {}
    ends = time.perf_counter() + seconds
    for position in itertools.cycle(range(len(searches))):
        started = time.perf_counter()
        found[position] = searches[position]()
        now = time.perf_counter()
        latencies.append(now - started)
        if now >= ends:
            break
    return latencies, found


if __name__ == "__main__":
    main(sys.argv[1:])
